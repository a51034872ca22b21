//! What a machine's thread shows of itself.

use kontiki_raft::{LogId, LogIndex};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

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
    /// Answers a query.
    Querying,
    /// Makes the instance anew from the log, after one that faulted.
    Rebuilding,
    /// Stands still: the plugin or the log failed it.
    Faulted,
    /// Its thread has ended.
    Ended,
}

impl MachineState {
    const ALL: [Self; 8] = [
        Self::Starting,
        Self::Idle,
        Self::Replaying,
        Self::Applying,
        Self::Querying,
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
            Self::Querying => "querying",
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
    /// Entries handed over and not applied yet.
    pub(super) queued: AtomicU64,
    /// Queries whose index is not applied yet.
    pub(super) waiting: AtomicU64,
    fault: Mutex<Option<String>>,
}

/// A copy of [`ApplyView`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ApplyStatus {
    pub(crate) state: MachineState,
    pub(crate) applied: LogId,
    pub(crate) outcome_hash: u64,
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
            memory_size_bytes: get(&self.memory_size_bytes),
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

    /// Why the machine stands still, if it does.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn set_fault(&self, message: &str) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
    }
}
