use crate::{Answers, Batch, Description, Fault};
use cap_std::fs::Dir;

/// A replicated state machine: a plugin's instance, or one written natively.
///
/// Calls are synchronous and may take long; make them on threads of their own that have at least
/// [`THREAD_STACK_SIZE_BYTES_MIN`](crate::THREAD_STACK_SIZE_BYTES_MIN) of stack, not on those of
/// an async runtime. After a [fault](Fault) that [poisons](Self::is_poisoned) the machine is of no
/// more use: make a new one and restore its state.
pub trait Machine: Send {
    /// What the machine is.
    fn description(&self) -> &Description;

    /// Carries out the entries of `batch` in order, and answers each.
    ///
    /// # Errors
    ///
    /// An [`ApplyFault`]; the entries before `entry` were carried out, but their answers are lost
    /// with it: restore the state and apply them again.
    fn apply(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault>;

    /// Reads the state. The inner error is the machine's own no, and its reason.
    ///
    /// # Errors
    ///
    /// A [`Fault`], which usually poisons the machine.
    fn query(&mut self, request: &[u8]) -> Result<Result<Vec<u8>, String>, Fault>;

    /// Writes the whole state as files into the empty `directory`, and names those that are part
    /// of the snapshot. Other files that it left there are none. Nothing is durable yet.
    ///
    /// # Errors
    ///
    /// A [`Fault`]; if it does not poison the machine, only the snapshot has failed.
    fn save(&mut self, directory: Dir, info: &SnapshotInfo) -> Result<Vec<SnapshotFile>, Fault>;

    /// Replaces the state of a new machine by what `files` in `directory` say.
    ///
    /// # Errors
    ///
    /// A [`Fault`], which always poisons the machine: nothing is known about its state.
    fn load(
        &mut self,
        directory: Dir,
        info: &SnapshotInfo,
        files: &[SnapshotFile],
    ) -> Result<(), Fault>;

    /// While `true`, log lines of the machine are dropped: it has written them before.
    fn set_replaying(&mut self, replaying: bool);

    /// Whether a fault has made the machine useless.
    fn is_poisoned(&self) -> bool {
        false
    }

    /// Linear memory that the machine holds; 0 if it is native.
    fn memory_size_bytes(&self) -> u64 {
        0
    }

    /// Fuel used so far, about one unit an instruction; 0 if it is native.
    fn fuel_used(&self) -> u64 {
        0
    }
}

/// Where in the log a snapshot stands, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SnapshotInfo {
    /// Last log index it includes.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Ids of the voters at that index, ascending.
    pub voters: Vec<u64>,
    /// Ids of the learners at that index, ascending.
    pub learners: Vec<u64>,
    /// State format in which it is (to be) written.
    pub format: u32,
    /// Digest of the plugin that wrote it, as text.
    pub plugin: String,
}

/// A file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Path relative to the snapshot's directory, `/` between its parts; never leads out of it.
    pub name: String,
    /// The plugin's own note about it.
    pub meta: Vec<u8>,
    /// Its size.
    pub size_bytes: u64,
}

/// `apply` failed.
#[derive(Debug, thiserror::Error)]
#[error("{fault}")]
pub struct ApplyFault {
    /// Which entry of the batch is to blame, from 0. Always below the batch's length.
    pub entry: usize,
    /// What happened.
    #[source]
    pub fault: Fault,
}
