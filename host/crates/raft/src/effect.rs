//! Everything a replica wants done.

use crate::{
    Configuration, ConfigurationError, Entry, HardState, IoId, LogId, LogIndex, Message, NodeId,
    ReadId, SettingsError, SnapshotMeta, Term, Token,
};
use alloc::vec::Vec;
use core::time::Duration;

/// Effects in the order in which they are to be carried out.
pub type Effects = Vec<Effect>;

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Write this to stable storage; writes are carried out in the order given.
    Persist(Persist),
    /// Send this. It may be lost, delayed, duplicated or reordered.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Read entries back from the log: from `first`, at most up to `last`, stopping after
    /// `size_bytes_max` (but at least one). Answer with [`Input::EntriesRead`](crate::Input).
    ReadEntries {
        /// Names the request.
        read: ReadId,
        /// First index wanted.
        first: LogIndex,
        /// Last index wanted.
        last: LogIndex,
        /// Stop after this many bytes.
        size_bytes_max: usize,
    },
    /// Apply these to the state machine, in order, and report with `Input::Applied`. A batch that
    /// a snapshot loaded meanwhile already includes is to be skipped.
    Apply(ApplyBatch),
    /// Fetch this snapshot from `from`, publish it, load it, and answer `SnapshotInstalled` or
    /// `SnapshotFailed`. A later fetch replaces one under way.
    FetchSnapshot {
        /// Where it is to be had.
        from: NodeId,
        /// Which.
        snapshot: SnapshotMeta,
    },
    /// Entries up to and including this one are not needed any more. May be carried out late, or
    /// again after a restart.
    CompactLog {
        /// Becomes the new "entry before the log".
        upto: LogId,
    },
    /// A request other than a proposal has been carried out.
    Done {
        /// Which.
        token: Token,
    },
    /// A request has failed. For a proposal see [`RejectReason::is_unknown`].
    Rejected {
        /// Which.
        token: Token,
        /// Why.
        reason: RejectReason,
    },
    /// A linearizable read may be served as soon as `index` is applied.
    ReadReady {
        /// Which.
        token: Token,
        /// Read index.
        index: LogIndex,
    },
    /// Something the host, the operator or the plugin may want to hear of.
    Event(Event),
}

/// A write to stable storage. The parts are carried out in the order of the fields, atomically.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Persist {
    /// Names the write.
    pub io: IoId,
    /// New term and vote.
    pub hard_state: Option<HardState>,
    /// Forget the whole log; it now begins after this entry (a snapshot was installed).
    pub reset_log: Option<LogId>,
    /// Remove the entries from this index on.
    pub truncate_from: Option<LogIndex>,
    /// Append these: consecutive, directly after what is left.
    pub entries: Vec<Entry>,
    /// A forced membership that overrides the log's up to this index (`reset_peers`).
    pub forced_configuration: Option<(LogIndex, Configuration)>,
    /// The longest span for which a promise to a leader may still run. Written rarely: when leases
    /// are first promised, and when the timers behind the promise change.
    pub promised_span: Option<Duration>,
}

/// Committed entries to apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyBatch {
    /// First index.
    pub first: LogIndex,
    /// Last index, inclusive.
    pub last: LogIndex,
    /// The entries `first..=last`, or empty if they are no longer in memory: then they are durable
    /// and to be read from the log.
    pub entries: Vec<Entry>,
    /// Who waits for which of them, ascending by index.
    pub waiting: Vec<(LogIndex, Token)>,
}

/// Why a request was refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RejectReason {
    /// This replica does not lead. Nothing was appended.
    #[error("not the leader")]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// The term is not the expected one. Nothing was appended.
    #[error("the term is {term}, not the expected one")]
    TermMismatch {
        /// The present term.
        term: Term,
    },
    /// Too much is waiting already. Nothing was appended; try again.
    #[error("too many proposals are waiting")]
    Busy,
    /// Leadership is being handed over. Nothing was appended; try again.
    #[error("leadership is being transferred")]
    Transferring,
    /// The replica, or too many of its peers, are read-only. Nothing was appended.
    #[error("the group is read-only")]
    ReadOnly,
    /// The payload exceeds the entry limit. Nothing was appended.
    #[error("entry of {size_bytes} bytes exceeds the limit of {size_bytes_max}")]
    TooLarge {
        /// Its size.
        size_bytes: usize,
        /// The limit.
        size_bytes_max: usize,
    },
    /// Leadership was lost after the entry was appended: it may still be committed by the next
    /// leader, or be overwritten.
    #[error("leadership was lost before the entry was committed")]
    LeadershipLost,
    /// The membership change is impossible.
    #[error(transparent)]
    Configuration(ConfigurationError),
    /// A new member did not catch up in time.
    #[error("node {node} did not catch up in time")]
    CatchUpFailed {
        /// Which.
        node: NodeId,
    },
    /// An operator cancelled the membership change. Nothing was logged.
    #[error("the membership change was cancelled before anything was logged")]
    ChangeCancelled,
    /// The transfer target is no voter.
    #[error("node {node} is not a voter of the group")]
    NotVoter {
        /// Which.
        node: NodeId,
    },
    /// The transfer target did not take over in time; leadership resumed in the same term.
    #[error("node {node} did not take over in time: {lag}")]
    TransferTimedOut {
        /// Which.
        node: NodeId,
        /// How far it was behind in the end.
        lag: Lag,
    },
    /// The transfer target is further behind than an election timeout. Leadership stays.
    #[error("node {node} is too far behind to lead: {lag}")]
    TargetLags {
        /// Which.
        node: NodeId,
        /// How far.
        lag: Lag,
    },
    /// The target does not answer.
    #[error("node {node} is unreachable")]
    PeerUnreachable {
        /// Which.
        node: NodeId,
    },
    /// The leader did not answer a follower's question for a read index in time.
    #[error("the leader, node {leader}, did not confirm the read in time")]
    LeaderSilent {
        /// Who was asked.
        leader: NodeId,
    },
    /// A value is outside its range.
    #[error("{0}")]
    Invalid(&'static str),
    /// A setting is outside its range. Nothing was changed.
    #[error(transparent)]
    Settings(SettingsError),
    /// The replica is going down or has stopped after a failure. Nothing was appended.
    #[error("the replica is stopping")]
    Stopping,
}

/// How far a member is behind its leader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Entries of the leader's log that it is not known to hold.
    pub entries: u64,
    /// Their bytes, estimated.
    pub size_bytes: u64,
    /// Committed entries that it has still to apply; none if it does not say.
    pub unapplied: Option<u64>,
}

impl core::fmt::Display for Lag {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (entries, size_bytes) = (self.entries, self.size_bytes);
        write!(f, "it lacks {entries} entries ({size_bytes} bytes)")?;
        match self.unapplied {
            Some(unapplied) => write!(f, " and has {unapplied} to apply"),
            None => Ok(()),
        }
    }
}

impl RejectReason {
    /// Whether the request may still take effect.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::LeadershipLost)
    }
}

/// Something that happened, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// This replica leads, and an entry of its term is committed (braft's `on_leader_start`).
    LeaderStarted {
        /// Its term.
        term: Term,
        /// Counts how often leadership (re)started in this process; a resumed leadership after a
        /// failed transfer has the same term and a higher epoch.
        lease_epoch: u64,
    },
    /// This replica no longer leads, or stops for a transfer. Pairs with `LeaderStarted`.
    LeaderStopped {
        /// Its term.
        term: Term,
        /// Why.
        reason: StopReason,
    },
    /// A leader is known.
    StartedFollowing {
        /// Who.
        leader: NodeId,
        /// Its term.
        term: Term,
    },
    /// That leader is no longer followed. Pairs with `StartedFollowing`.
    StoppedFollowing {
        /// Who.
        leader: NodeId,
        /// Its term.
        term: Term,
        /// Why.
        reason: StopReason,
    },
    /// A configuration entry was committed. Joint stages are not reported (braft).
    ConfigurationCommitted {
        /// Index of the entry.
        index: LogIndex,
        /// The membership.
        configuration: Configuration,
    },
    /// Two leaders in one term: somebody's stable storage lied. Both step down.
    SecondLeader {
        /// The other one.
        other: NodeId,
        /// The term.
        term: Term,
    },
    /// A peer sent entries or a snapshot that contradict what is committed here: somebody's
    /// stable storage lied. The message was refused and nothing was changed.
    Conflict {
        /// Who sent it.
        from: NodeId,
        /// Where it contradicts.
        index: LogIndex,
    },
    /// This leader hands over by itself, to a voter that should rather lead. What comes of it shows
    /// as of any transfer.
    TakeoverStarted {
        /// To whom.
        target: NodeId,
        /// The leader's term.
        term: Term,
    },
    /// This replica is not in the committed configuration any more.
    Removed,
    /// The replica has stopped after a failure and takes part in nothing.
    Failed {
        /// Why.
        why: &'static str,
    },
}

/// Why a leadership, or the following of one, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A message with a higher term.
    HigherTerm,
    /// A quorum was silent for an election timeout.
    QuorumLost,
    /// The leader was silent for an election timeout.
    LeaderSilent,
    /// Leadership is being transferred.
    Transfer,
    /// The replica was removed from the group.
    Removed,
    /// The leader's own disk does not answer.
    DiskStalled,
    /// The state machine or the disk failed.
    Failed,
    /// An operator ordered an election.
    Ordered,
    /// The membership was reset.
    Reset,
    /// A new leader was found.
    NewLeader,
    /// The node is going down.
    Shutdown,
}
