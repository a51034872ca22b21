//! What a machine's thread shows of itself.

use super::checkpoints::{Checkpoint, Checkpoints, Comparison};
use kontiki_raft::{LogId, LogIndex, NodeId};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a machine's thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum MachineState {
    /// Makes the instance.
    #[default]
    Starting,
    /// Waits for something to do.
    Idle,
    /// Applies entries that were in the log when the node started.
    Replaying,
    /// Applies entries.
    Applying,
    /// Makes the instance anew from the log, after one that faulted.
    Rebuilding,
    /// Stands still: the plugin or the log failed it.
    Faulted,
    /// Its thread has ended.
    Ended,
}

impl MachineState {
    const ALL: [Self; 7] = [
        Self::Starting,
        Self::Idle,
        Self::Replaying,
        Self::Applying,
        Self::Rebuilding,
        Self::Faulted,
        Self::Ended,
    ];

    /// Its name on pages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Replaying => "replaying",
            Self::Applying => "applying",
            Self::Rebuilding => "rebuilding",
            Self::Faulted => "faulted",
            Self::Ended => "ended",
        }
    }
}

/// What a group's machine looks like from outside; written by its thread only.
#[derive(Debug, Default)]
pub(crate) struct ApplyView {
    /// A [`MachineState`].
    state: AtomicU8,
    pub(super) applied_index: AtomicU64,
    pub(super) applied_term: AtomicU64,
    pub(super) outcome_hash: AtomicU64,
    pub(super) memory_size_bytes: AtomicU64,
    /// Memory of the instance that answers queries; 0 while there is none.
    pub(super) reader_size_bytes: AtomicU64,
    /// Entries handed over and not applied yet.
    pub(super) queued: AtomicU64,
    /// Queries whose index is not applied yet.
    pub(super) waiting: AtomicU64,
    standstill: Mutex<Option<Standstill>>,
    read_problem: Mutex<Option<String>>,
    checkpoints: Mutex<Checkpoints>,
    /// Nodes whose replicas have answered otherwise, and where that was seen first.
    differing: Mutex<BTreeMap<NodeId, LogIndex>>,
}

/// That a machine stands still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standstill {
    /// Why, in one line.
    pub(crate) headline: String,
    pub(crate) cause: StandstillCause,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StandstillCause {
    /// The plugin's: it would fail on every replica.
    Plugin,
    /// The plugin's: it is no function of its log.
    NotDeterministic,
    /// This node's.
    Node,
}

impl StandstillCause {
    /// What to do about it.
    pub(crate) fn next_step(self) -> &'static str {
        match self {
            Self::Plugin => "correct the plugin; until upgrades exist, create a new group with it",
            Self::NotDeterministic => {
                "correct the plugin: its answers may depend on the log alone. Until upgrades \
                 exist, create a new group with it"
            }
            Self::Node => {
                "see this node's log, and to its memory and disk; then restart it: the machine is \
                 made anew from the log"
            }
        }
    }
}

/// A copy of [`ApplyView`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ApplyStatus {
    pub(crate) state: MachineState,
    pub(crate) applied: LogId,
    pub(crate) outcome_hash: u64,
    /// Of both instances.
    pub(crate) memory_size_bytes: u64,
    pub(crate) queued: u64,
}

impl ApplyView {
    pub(crate) fn status(&self) -> ApplyStatus {
        let get = |value: &AtomicU64| value.load(Ordering::Acquire);
        ApplyStatus {
            state: self.state(),
            applied: LogId::new(
                kontiki_raft::Term(get(&self.applied_term)),
                LogIndex(get(&self.applied_index)),
            ),
            outcome_hash: get(&self.outcome_hash),
            memory_size_bytes: get(&self.memory_size_bytes) + get(&self.reader_size_bytes),
            queued: get(&self.queued),
        }
    }

    fn state(&self) -> MachineState {
        let stored = usize::from(self.state.load(Ordering::Relaxed));
        let known = MachineState::ALL.get(stored);
        *known.expect("only states are stored")
    }

    /// Enters a state and says which was left.
    pub(super) fn enter(&self, state: MachineState) -> MachineState {
        let left = self.state();
        self.state.store(state as u8, Ordering::Relaxed);
        left
    }

    /// Why the machine stands still, in one line, if it does.
    pub(crate) fn fault(&self) -> Option<String> {
        self.standstill().map(|standstill| standstill.headline)
    }

    /// Why the machine stands still, if it does.
    pub(crate) fn standstill(&self) -> Option<Standstill> {
        lock(&self.standstill).clone()
    }

    pub(super) fn set_standstill(&self, standstill: Standstill) {
        *lock(&self.standstill) = Some(standstill);
    }

    /// Notes hashes that were passed, and where the machine stands.
    pub(super) fn pass(&self, passed: Vec<Checkpoint>, at: Checkpoint) {
        let mut checkpoints = lock(&self.checkpoints);
        for checkpoint in passed {
            checkpoints.pass(checkpoint);
        }
        checkpoints.stand(at);
    }

    /// The hashes that are remembered.
    pub(crate) fn checkpoints(&self) -> Checkpoints {
        lock(&self.checkpoints).clone()
    }

    /// Notes what came of comparing hashes with another node's replica. True if that is news.
    pub(crate) fn note_comparison(&self, node: NodeId, result: Comparison) -> bool {
        let mut differing = lock(&self.differing);
        match result {
            Comparison::Nothing => false,
            Comparison::Same(_) => differing.remove(&node).is_some(),
            Comparison::Differ(index) => {
                let known = differing.get(&node).copied();
                let first = known.map_or(index, |known| known.min(index));
                differing.insert(node, first);
                known.is_none()
            }
        }
    }

    /// Nodes whose replicas have answered the same log differently, and up to which index that was
    /// seen first.
    pub(crate) fn differing(&self) -> BTreeMap<NodeId, LogIndex> {
        lock(&self.differing).clone()
    }

    /// What is wrong with how queries are answered, if anything.
    pub(crate) fn read_problem(&self) -> Option<String> {
        lock(&self.read_problem).clone()
    }

    pub(super) fn set_read_problem(&self, problem: &str) {
        *lock(&self.read_problem) = Some(problem.to_owned());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
