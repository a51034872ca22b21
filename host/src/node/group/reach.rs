//! Terms that are too far ahead to be believed.
//!
//! A term is adopted, durably, from any message that carries a higher one, and never falls again: one
//! lying message near the end of the range would leave a group without a leader for ever. Terms rise
//! by one with each election, and an election takes at least the shortest election timeout, 20 ms.
//! So a member that is [`AHEAD_MAX`] terms behind has missed four days and nights of nothing but
//! elections; one that missed only honest ones is never locked out. From there to the end of the
//! range it takes 2^38 lies, each of them written to disk.
//!
//! A replica that waits to be told its group's membership has nothing of its own to compare with, and
//! may join a group that was lied to: it believes [`AHEAD_MAX_JOINING`], which leaves far more room
//! than elections can use up.

use super::Group;
use crate::node::request::Problem;
use kontiki_raft::{Message, NodeId, Term};
use tracing::warn;

/// Terms that a member may be behind whoever speaks to it.
pub(super) const AHEAD_MAX: u64 = 1 << 24;
/// Terms that a replica may be behind which is in no membership yet.
pub(super) const AHEAD_MAX_JOINING: u64 = 1 << 48;

/// A node whose term was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OutOfReach {
    from: NodeId,
    term: Term,
    own: Term,
}

impl Group {
    /// Whether the message's term can be what honest elections have led to. If not, it is counted and
    /// shown, and must not reach the core.
    pub(super) fn is_in_reach(&mut self, from: NodeId, message: &Message) -> bool {
        let own = self.core.term();
        let limit = match self.core.is_in_configuration() {
            true => AHEAD_MAX,
            false => AHEAD_MAX_JOINING,
        };
        let last = self.state.out_of_reach;
        if message.term.0.saturating_sub(own.0) <= limit {
            self.state.out_of_reach = last.filter(|last| last.from != from);
            return true;
        }
        self.transport.count_refused();
        if last.is_none_or(|last| last.from != from) {
            let (peer, term, own) = (from.0, message.term.0, own.0);
            warn!(
                peer,
                term, own, "a term that is out of reach is not believed"
            );
        }
        let term = message.term;
        self.state.out_of_reach = Some(OutOfReach { from, term, own });
        false
    }

    /// Says so while it lasts.
    pub(super) fn out_of_reach_problem(&self) -> Option<Problem> {
        let it = self.state.out_of_reach?;
        let (name, term, own) = (self.transport.name(it.from), it.term.0, it.own.0);
        Some(Problem {
            what: format!(
                "node {name:?} speaks in term {term}, this replica is in term {own}: so far ahead \
                 no elections lead, and it is not listened to"
            ),
            next_step: format!(
                "see what node {name:?} is; if the group really is in that term, remove this node \
                 from the group, purge its replica and add it again"
            ),
        })
    }
}
