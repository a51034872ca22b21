//! Going over to another epoch, being left behind by one, and keeping others' messages out.
//!
//! The order is the same for all: from the decision on nothing goes in or out; the epoch is made
//! durable; then the core forgets what others said, and the replica goes on. A crash in between finds
//! the replica in the new epoch, where nobody of the old one can be counted.

use super::{Completion, Group, order_input};
use crate::node::context::random_u64;
use crate::node::epoch::{EpochId, Epochs, Position, Verdict};
use crate::node::failpoint::failpoint;
use crate::node::request::{Failure, Order, Problem};
use kontiki_proto::v1;
use kontiki_raft::{Input, MemberSet, NodeId, Token};
use kontiki_storage::StorageError;
use std::time::{Duration, Instant};
use tracing::{error, info, warn};

/// How long a node that holds an earlier epoch is shown after it was heard of last.
const SHOWN: Duration = Duration::from_secs(15);

/// A change of epoch that is being written.
#[derive(Debug)]
pub(super) struct Entering {
    epochs: Epochs,
    next: Next,
}

#[derive(Debug)]
enum Next {
    /// An operator's order: this replica begins it.
    Begin(Token, MemberSet),
    /// It goes on in it.
    GoOver,
    /// It has no part in it.
    Stop,
}

impl Group {
    /// Whether nothing of other replicas goes in and nothing goes out.
    pub(super) fn is_apart(&self) -> bool {
        self.state.entering.is_some() || self.epochs.newer().is_some()
    }

    /// Whether a message is of this replica's history. If not, both sides tell each other their
    /// epochs.
    pub(super) fn is_of_this_epoch(&mut self, from: NodeId, epoch: EpochId) -> bool {
        let own = self.epochs.id();
        if epoch == own && !self.is_apart() {
            self.state.in_other_epochs.remove(&from);
            return true;
        }
        self.transport.count_refused();
        if epoch < own {
            self.note_other(from, epoch);
        }
        self.transport.ask_epochs(from);
        false
    }

    fn note_other(&mut self, from: NodeId, epoch: EpochId) {
        let others = &mut self.state.in_other_epochs;
        if others.insert(from, (epoch, Instant::now())).is_none() {
            let (own, theirs) = (self.epochs.id(), epoch);
            warn!(peer = from.0, %own, %theirs, "a node is in an earlier epoch and is refused");
        }
    }

    /// Takes in what another node knows of the group's epochs.
    pub(super) fn on_epoch(&mut self, from: NodeId, told: v1::GroupEpoch) {
        if self.state.entering.is_some() {
            // It is told again.
            return;
        }
        let heard = told.latest.unwrap_or_default();
        let last = heard.epochs.last().and_then(|epoch| epoch.id);
        let theirs = EpochId::from_wire(told.left_behind.or(last));
        if theirs < self.epochs.id() {
            self.note_other(from, theirs);
        }
        match self.epochs.judge(&heard, self.position()) {
            Verdict::Known | Verdict::Earlier => {}
            Verdict::Adopt => self.enter(Epochs::adopted(heard), Next::GoOver),
            Verdict::LeftBehind => self.enter(self.epochs.left_behind_by(heard), Next::Stop),
        }
    }

    fn position(&self) -> Position {
        Position {
            node: self.shared.node,
            last: self.core.status(self.clock.now()).last,
            commit: self.core.commit_index(),
        }
    }

    /// Begins an epoch of the members that an operator named.
    pub(super) fn recover(&mut self, token: Token, members: MemberSet) {
        if let Err(reason) = self.core.check_reset(&members) {
            return self.rejected(token, reason);
        }
        let first_term = self.core.term().next();
        let (me, voters) = (self.position(), &members.voters);
        let epochs = self.epochs.begun_here(me, first_term, voters, random_u64());
        failpoint("recover.begun");
        self.enter(epochs, Next::Begin(token, members));
    }

    /// Carries out a recovery that a crash cut off after its epoch was durable.
    pub(super) fn finish_recovery(&mut self) {
        if self
            .epochs
            .is_unfinished(self.shared.node, self.core.term())
        {
            warn!(epoch = %self.epochs.id(), "a recovery that was cut off is carried out");
            let members = MemberSet::of_voters(self.epochs.survivors());
            let token = self.state.tokens.next();
            self.handle(order_input(Order::ResetPeers(members), token));
        }
    }

    fn enter(&mut self, epochs: Epochs, next: Next) {
        let (storage, id, completed) = (self.storage.clone(), self.id, self.completed.clone());
        let keeping = epochs.clone();
        self.state.entering = Some(Entering { epochs, next });
        tokio::task::spawn_blocking(move || {
            let kept = keeping.keep(&*storage, id);
            // The group is gone: it reads the record when it is opened again.
            let _ = completed.send(Completion::EpochKept(kept));
        });
    }

    /// The epoch is durable, or could not be written.
    pub(super) fn on_epoch_kept(&mut self, kept: Result<(), StorageError>) {
        let Some(Entering { epochs, next }) = self.state.entering.take() else {
            return;
        };
        if let Err(error) = kept {
            error!(%error, "the epoch cannot be kept");
            match next {
                Next::Begin(token, _) => return self.refuse_order(token, &error),
                Next::GoOver => return,
                // It stops all the same, as long as it runs.
                Next::Stop => {}
            }
        }
        info!(own = %epochs.id(), latest = %epochs.latest(), "the group was recovered");
        self.epochs = epochs;
        self.state.in_other_epochs.clear();
        self.shared.set_epochs(self.epochs.clone());
        failpoint(match next {
            Next::Begin(..) => "recover.epoch_kept",
            Next::GoOver => "recover.gone_over",
            Next::Stop => "recover.left_behind",
        });
        let input = match next {
            Next::Begin(token, members) => order_input(Order::ResetPeers(members), token),
            Next::GoOver | Next::Stop => Input::ForgetPeers {
                token: self.state.tokens.next(),
            },
        };
        self.handle(input);
        self.tell_survivors();
    }

    fn refuse_order(&mut self, token: Token, error: &StorageError) {
        if let Some(waiter) = self.state.waiting.remove(&token) {
            let what = format!("the new epoch cannot be kept, nothing was changed: {error}");
            waiter.fail(&Failure::ReplicaFailed(what));
        }
    }

    fn tell_survivors(&self) {
        for node in self.epochs.survivors() {
            if node != self.shared.node {
                self.transport.ask_epochs(node);
            }
        }
    }

    /// Reminds those who went on that this replica is here, and forgets whoever is heard of no more.
    pub(super) fn sweep_epochs(&mut self) {
        if self.epochs.newer().is_some() {
            self.tell_survivors();
        }
        let others = &mut self.state.in_other_epochs;
        others.retain(|_, (_, heard)| heard.elapsed() < SHOWN);
    }

    /// Why this replica serves nobody, if a recovery left it behind.
    pub(super) fn left_behind(&self) -> Option<Failure> {
        self.shared.left_behind()
    }

    pub(super) fn epoch_problems(&self) -> Vec<Problem> {
        let group = &self.name;
        let begun = |epochs: &Epochs| match epochs.begun_on() {
            Some(node) => format!("on node {:?}", self.transport.name(node)),
            None => "elsewhere".to_owned(),
        };
        let own = self.epochs.id();
        let mut problems = Vec::new();
        if let Some(newer) = self.epochs.newer() {
            let at = begun(&self.epochs);
            let me = self.transport.name(self.shared.node);
            let what = match self.epochs.is_succeeded() {
                true => format!(
                    "the group was recovered {at} as epoch {newer}; this replica was left behind in \
                     epoch {own} and neither votes nor serves"
                ),
                false => format!(
                    "the group was recovered {at} as epoch {newer}, without knowing of epoch {own}, \
                     the recovery that this replica is of: the two histories contradict each other, \
                     and this one neither votes nor serves"
                ),
            };
            problems.push(Problem {
                what,
                next_step: format!(
                    "delete its data with `kontiki member purge {me} --group {group}`, then \
                     `kontiki member add {me} --group {group}`; if its data is what is wanted, \
                     `kontiki recover {group} --survivors {me}` instead"
                ),
            });
        }
        for (node, (theirs, _)) in &self.state.in_other_epochs {
            let name = self.transport.name(*node);
            let what = match self.epochs.went_on_from(*theirs) {
                true => format!(
                    "node {name:?} holds data of epoch {theirs}, from before the recovery that began \
                     epoch {own}: it is refused"
                ),
                false => format!(
                    "node {name:?} holds another history, epoch {theirs}, of another recovery than \
                     the one that began epoch {own}: it is refused"
                ),
            };
            problems.push(Problem {
                what,
                next_step: format!(
                    "delete that data with `kontiki member purge {name} --group {group}`, then \
                     `kontiki member add {name} --group {group}`"
                ),
            });
        }
        problems
    }
}
