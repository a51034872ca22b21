//! What is asked of a group, and what it answers.

use super::epoch::{EpochId, Epochs};
use super::reply::{CommandReply, QueryReply};
use bytes::Bytes;
use kontiki_raft::{
    ConfigurationChange, HardState, LogId, MemberSet, NodeId, ReadMode, RejectReason, Settings,
    Status, Term, Token, TransferTarget,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;
use tokio::sync::oneshot;

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It certainly has not been and will not be applied.
    NotApplied,
    /// It may have been applied, or may be yet.
    Unknown,
}

impl Outcome {
    /// Its name in error details.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a request to a group failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The replica refused or gave up.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: RejectReason,
        /// The leader it knows.
        leader: Option<NodeId>,
        /// Its term.
        term: Term,
    },
    /// No leader is known.
    #[error("the group has no leader")]
    NoLeader {
        /// The replica's term.
        term: Term,
    },
    /// The replica is no member of its group, and knows nobody who leads it.
    #[error("this node is no member of the group")]
    NoMember,
    /// The queue is full.
    #[error("the group's queue is full; try again")]
    Busy,
    /// The replica has stopped, or the node is going down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The plugin failed. The state machine stands before the entry that it failed at.
    #[error("the plugin failed: {message}")]
    PluginFault {
        /// What happened.
        message: String,
        /// What became of this command.
        outcome: Outcome,
    },
    /// The replica itself failed and takes part in nothing.
    #[error("the replica has failed: {0}")]
    ReplicaFailed(String),
    /// The group was recovered without this replica.
    #[error(
        "the group was recovered as epoch {newer}; the replica here was left behind in epoch {own} and \
         serves no more: ask a member of the recovered group, see `kontiki status`"
    )]
    LeftBehind {
        /// The epoch of the recovered group.
        newer: EpochId,
        /// The epoch of this replica.
        own: EpochId,
        /// The node that was recovered.
        begun_on: Option<NodeId>,
    },
    /// The deadline passed.
    #[error("no answer within the deadline")]
    Deadline(Outcome),
}

impl Failure {
    /// What it means for a command.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Refused { reason, .. } if reason.is_unknown() => Outcome::Unknown,
            Self::PluginFault { outcome, .. } | Self::Deadline(outcome) => *outcome,
            _ => Outcome::NotApplied,
        }
    }
}

/// A command that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// Where.
    pub position: Position,
    /// The plugin's answer, or its own "no".
    pub result: Result<Bytes, String>,
}

/// Where and by what something was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Of the entry, or of the last one that a query saw.
    pub id: LogId,
    /// `sha256:…` of the plugin.
    pub plugin: Arc<str>,
}

const QUEUED: u8 = 0;
const TAKEN: u8 = 1;
const WITHDRAWN: u8 = 2;

/// Shared by a command's two ends: whether the group has taken it out of its queue. Decides what a
/// deadline means.
#[derive(Clone, Debug, Default)]
pub(crate) struct Claim(Arc<AtomicU8>);

impl Claim {
    /// The group takes the command. False if the client has withdrawn it.
    pub(crate) fn take(&self) -> bool {
        self.swap(TAKEN)
    }

    /// Either end gives up. True if the group never had the command.
    pub(crate) fn withdraw(&self) -> bool {
        self.swap(WITHDRAWN) || self.0.load(Ordering::Acquire) == WITHDRAWN
    }

    fn swap(&self, to: u8) -> bool {
        let order = Ordering::AcqRel;
        self.0
            .compare_exchange(QUEUED, to, order, Ordering::Acquire)
            .is_ok()
    }
}

/// A command on its way to the core.
#[derive(Debug)]
pub(crate) struct Proposed {
    pub(crate) command: Bytes,
    pub(crate) expected_term: Option<Term>,
    pub(crate) reply: CommandReply,
}

/// A linearizable query on its way to the core.
#[derive(Debug)]
pub(crate) struct Query {
    pub(crate) request: Bytes,
    pub(crate) mode: ReadMode,
    pub(crate) arrived: Instant,
    pub(crate) reply: QueryReply,
}

/// What an operator asks of a replica.
#[derive(Debug)]
pub(crate) enum Order {
    /// Change the membership.
    ChangeConfiguration {
        change: ConfigurationChange,
        expected: Option<MemberSet>,
    },
    /// Give up a change that is still catching up.
    CancelChange,
    /// Force a membership.
    ResetPeers(MemberSet),
    /// Hand leadership over.
    Transfer(TransferTarget),
    /// Start an election.
    Campaign,
    /// Put these settings in force.
    SetSettings(Box<Settings>),
}

/// What is to be looked at without doing it.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    /// A change of membership: where it would lead.
    Change(ConfigurationChange, Option<MemberSet>),
    /// A forced membership.
    Reset(MemberSet),
}

/// Under which condition a replica ends for good.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Retirement {
    /// An operator deletes its group.
    Deleted,
    /// The leader of this term had it made for a change and has given that up. Holds only where the
    /// replica's log shows that it is no member, whoever says so.
    NotJoined(Term),
    /// It is known to be no member.
    NoMember,
}

/// What goes to a group besides commands, queries and messages of peers.
#[derive(Debug)]
pub(crate) enum Control {
    /// Carry this out and answer when it is done.
    Order(Order, oneshot::Sender<Result<(), Failure>>),
    /// Look at an order without carrying it out: the membership it would lead to, and the term.
    Check(Check, oneshot::Sender<Result<(MemberSet, Term), Failure>>),
    /// End for good if the condition holds; term and vote are what is left then.
    Retire(Retirement, oneshot::Sender<Option<HardState>>),
    /// Keep leadership off this replica, or no longer.
    SetDrained(bool),
    /// Enter or leave read-only mode.
    SetReadOnly(bool),
    /// What a node knows of the group's epochs.
    Epoch(NodeId, kontiki_proto::v1::GroupEpoch),
    /// Say everything.
    Status(oneshot::Sender<Box<GroupStatus>>),
    /// A node cannot be reached.
    Unreachable(NodeId),
    /// Hand over, answer everything, end.
    Stop,
    /// End by a fault of the program.
    #[cfg(test)]
    Panic,
}

/// What a replica says about itself.
#[derive(Clone, Debug)]
pub struct GroupStatus {
    /// The core's part.
    pub core: Status,
    /// Commands, queries and orders that wait for an answer.
    pub waiting: usize,
    /// What is wrong, in words, and what to do about it.
    pub problems: Vec<Problem>,
    /// The replica's epoch, and one that left it behind.
    pub(crate) epochs: Epochs,
    /// The snapshot that the leader offers and this version cannot install.
    pub snapshot_refused: Option<LogId>,
}

/// Something that is wrong with a group or a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What.
    pub what: String,
    /// What to do.
    pub next_step: String,
}

/// Names requests of one replica.
#[derive(Debug, Default)]
pub(crate) struct Tokens(u64);

impl Tokens {
    pub(crate) fn next(&mut self) -> Token {
        self.0 += 1;
        Token(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_either_taken_or_withdrawn() {
        let claim = Claim::default();
        assert!(claim.take());
        assert!(!claim.clone().withdraw());
        let claim = Claim::default();
        assert!(claim.withdraw() && claim.withdraw());
        assert!(!claim.take());
    }
}
