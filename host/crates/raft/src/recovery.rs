//! What survives a restart.

use crate::{Configuration, Entry, LogId, LogIndex, NodeId, Term};
use alloc::vec::Vec;
use core::time::Duration;

/// Term and vote: one atomic durable record (Raft §5.1, Figure 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// Latest term seen.
    pub term: Term,
    /// Candidate voted for in that term.
    pub voted_for: Option<NodeId>,
}

/// What a snapshot holds, as far as Raft is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// Last entry it includes.
    pub last_included: LogId,
    /// Configuration in force at that entry.
    pub configuration: Configuration,
}

/// From `index` on the log holds entries of `term`, up to the next `TermStart`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermStart {
    /// First index of the run.
    pub index: LogIndex,
    /// Its term.
    pub term: Term,
}

/// What storage found when a group was opened. Empty (`default`) for a new group.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Term and vote.
    pub hard_state: HardState,
    /// The entry before the first in the log; zero if nothing was ever compacted.
    pub log_start: LogId,
    /// Last entry; equal to `log_start` if the log is empty.
    pub last: LogId,
    /// Runs of equal terms in the log, ascending; covers `(log_start, last]`.
    pub terms: Vec<TermStart>,
    /// Configuration entries in the log, ascending by index.
    pub configurations: Vec<(LogIndex, Configuration)>,
    /// Newest valid snapshot.
    pub snapshot: Option<SnapshotMeta>,
    /// The one before it, if kept.
    pub previous_snapshot: Option<LogId>,
    /// A membership forced by `reset_peers`, and the last index it overrides.
    pub forced_configuration: Option<(LogIndex, Configuration)>,
    /// The longest span ever promised to a leader that may still run; none if none was recorded.
    pub promised_span: Option<Duration>,
    /// Newest entries, as many as storage likes to hand over; a suffix of the log.
    pub tail: Vec<Entry>,
    /// Index up to which the state machine is known to be (snapshot loaded before the core began).
    pub applied: LogIndex,
}
