//! Messages of the past. A network may keep a message for hours; whom it was meant for may have been
//! opened anew since, or be gone and replaced, and who sent it may not be a member any more.

use super::World;
use crate::members::bit;
use crate::oracle::Check;
use crate::require;
use kontiki_raft::{Input, Instant, LogId, LogIndex, Message, MessageBody, NodeId, Status, Term};

/// Messages kept at a time.
const KEPT_MAX: usize = 64;
/// Every how many messages one is kept.
const KEPT_EVERY: u64 = 61;

/// A message that was sent some time ago.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    from: usize,
    to: usize,
    /// Which opening of the addressee it was sent to.
    incarnation: u32,
    message: Message,
}

/// What a message that speaks to nobody must leave as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    term: Term,
    voted_for: Option<NodeId>,
    last: LogId,
    commit: LogIndex,
    configuration: LogIndex,
}

impl Facts {
    fn of(status: &Status) -> Self {
        Self {
            term: status.term,
            voted_for: status.voted_for,
            last: status.last,
            commit: status.commit_index,
            configuration: status.configuration_index,
        }
    }
}

impl World {
    /// Keeps some of the messages that are sent.
    pub(super) fn maybe_keep(&mut self, from: usize, to: usize, message: &Message) {
        let sent = self.counters.messages_sent;
        if !sent.is_multiple_of(KEPT_EVERY) {
            return;
        }
        let kept = Kept {
            from,
            to,
            incarnation: self.nodes[to].incarnation,
            message: message.clone(),
        };
        let slot = (sent / KEPT_EVERY) as usize % KEPT_MAX;
        match self.kept.get_mut(slot) {
            Some(old) => *old = kept,
            None => self.kept.push(kept),
        }
    }

    /// A message of the past arrives.
    pub(super) fn strike_ghost(&mut self) -> Check {
        if self.kept.is_empty() {
            return Ok(());
        }
        let at = self.random.position(self.kept.len());
        let kept = self.kept[at].clone();
        let to = self.nodes[kept.to].replaced_by.unwrap_or(kept.to);
        let Some(before) = self.status_of(to).filter(|_| !self.nodes[to].paused) else {
            return Ok(());
        };
        let speaks_to_nobody = self.speaks_to_nobody(to, &kept, &before);
        if to != kept.to && !speaks_to_nobody {
            // Ids are never used again, so what asks for something never gets to another node.
            return Ok(());
        }
        self.counters.ghosts += 1;
        let (incarnation, from) = (self.nodes[to].incarnation, self.nodes[kept.from].id);
        let message = kept.message.clone();
        self.input(to, Input::Message { from, message })?;
        if !speaks_to_nobody || self.nodes[to].incarnation != incarnation {
            return Ok(());
        }
        self.counters.ghosts_judged += 1;
        match self.status_of(to) {
            Some(after) => check_unchanged(&Facts::of(&before), &Facts::of(&after), &kept),
            None => Ok(()),
        }
    }

    fn status_of(&self, n: usize) -> Option<Status> {
        let node = &self.nodes[n];
        let local = Instant(node.clock.local(self.now));
        node.core.as_ref().map(|core| core.status(local))
    }

    /// Whether the protocol gives the receiver no reason to heed the message: it is of an older
    /// term; or it answers what another incarnation, or another node, had asked; or it answers
    /// from a higher term, but comes from a stranger. Requests of a term that is not over are
    /// heeded whoever they come from: the receiver may not know the latest members.
    fn speaks_to_nobody(&self, to: usize, kept: &Kept, status: &Status) -> bool {
        let term = kept.message.term;
        let replaced = to != kept.to || self.nodes[to].incarnation != kept.incarnation;
        match kept.message.body {
            // Nothing is promised, whatever the term.
            MessageBody::RequestVote(ref request) if request.pre_vote => true,
            // A voter of an older term may well promise its vote.
            MessageBody::RequestVoteReply(_) if !replaced => false,
            ref body if is_reply(body) => {
                term < status.term
                    || (term == status.term && replaced)
                    || (term > status.term && self.is_stranger(to, kept.from, status))
            }
            _ => term < status.term,
        }
    }

    /// Whether the receiver has no business with the sender.
    fn is_stranger(&self, to: usize, from: usize, status: &Status) -> bool {
        let from = self.nodes[from].id;
        let members = self.oracle.members_in_force_at(to);
        members.all() & bit(from) == 0 && status.peers.iter().all(|peer| peer.node != from)
    }
}

fn is_reply(body: &MessageBody) -> bool {
    matches!(
        body,
        MessageBody::RequestVoteReply(_)
            | MessageBody::AppendEntriesReply(_)
            | MessageBody::HeartbeatReply(_)
            | MessageBody::InstallSnapshotReply(_)
            | MessageBody::ReadIndexReply(_)
    )
}

fn check_unchanged(before: &Facts, after: &Facts, kept: &Kept) -> Check {
    require!(
        before == after,
        StaleMessage,
        "{kept:?} came late and changed {before:?} into {after:?}"
    );
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::oracle::{Invariant, assert_breaks};
    use kontiki_raft::{HeartbeatReply, Standing};

    #[test]
    pub(crate) fn a_late_message_that_raises_the_term_is_found() {
        let before = Facts {
            term: Term(3),
            voted_for: None,
            last: LogId::default(),
            commit: LogIndex(0),
            configuration: LogIndex(0),
        };
        let kept = Kept {
            from: 0,
            to: 1,
            incarnation: 1,
            message: Message {
                term: Term(4),
                body: MessageBody::HeartbeatReply(HeartbeatReply {
                    round: 1,
                    read_only: false,
                    echo: None,
                    promise: None,
                    standing: Standing::default(),
                }),
            },
        };
        check_unchanged(&before, &before.clone(), &kept).unwrap();
        let after = Facts {
            term: Term(4),
            ..before.clone()
        };
        let changed = check_unchanged(&before, &after, &kept);
        assert_breaks(changed, Invariant::StaleMessage);
    }
}
