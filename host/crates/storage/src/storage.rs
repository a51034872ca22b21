//! The interface of a storage.

use crate::error::StorageError;
use crate::metrics::StorageMetrics;
use kontiki_raft::{Entry, GroupId, IoId, LogId, LogIndex, Persist, Recovered};

/// Told once how a write ended. Runs on the writer thread, which serves all groups: it must be
/// quick and must not call a blocking method of the storage. If the storage is closed already, it
/// runs on the thread that asked.
pub type Completion = Box<dyn FnOnce(Result<IoId, StorageError>) + Send>;

/// A replica registered on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupRecord {
    /// Which group.
    pub id: GroupId,
    /// What the host wants to know of it, in the host's own versioned encoding.
    pub body: Vec<u8>,
}

/// Log and state of all Raft groups of one node.
///
/// # Order
/// Requests are carried out in the order in which they were made (of one thread, or of threads
/// that order themselves): a `persist` after a `create_group` finds the group, a `recover` after a
/// `persist` sees it.
///
/// # Durability
/// When a write is reported done it has survived an `fdatasync`; nothing is reported earlier. One
/// sync serves everything that had gathered while the one before it ran.
///
/// # Failure
/// After a failed write or sync nobody knows what is on disk, and asking again may lie (the kernel
/// reports a lost page once). So the storage takes no more writes, each later one failing with
/// `Poisoned`, until the node is restarted and has recovered what is there. Reads go on.
///
/// # Memory
/// `persist` never blocks and queues without bound of its own. What bounds the queue is the caller:
/// a core has a limited number of bytes that are not yet durable, and stops proposing and accepting
/// beyond it. One batch takes at most [`Options::batch_size_bytes_max`](crate::Options) plus one
/// request.
pub trait Storage: Send + Sync {
    /// All replicas registered on this node, ascending by id.
    ///
    /// # Errors
    /// `Closed`, `Damaged`, `Io`.
    fn groups(&self) -> Result<Vec<GroupRecord>, StorageError>;

    /// Registers a replica with an empty log. Durable on return.
    ///
    /// # Errors
    /// `AlreadyExists`, or a failed write.
    fn create_group(&self, record: &GroupRecord) -> Result<(), StorageError>;

    /// Replaces a replica's record. Durable on return.
    ///
    /// # Errors
    /// `UnknownGroup`, or a failed write.
    fn update_group(&self, record: &GroupRecord) -> Result<(), StorageError>;

    /// What the host keeps of this replica alone, apart from what all replicas of the group have in
    /// common; nothing if it never wrote any.
    ///
    /// # Errors
    /// `Closed`, `Damaged`, `Io`.
    fn own_record(&self, id: GroupId) -> Result<Option<Vec<u8>>, StorageError>;

    /// Replaces the replica's own record. Durable on return.
    ///
    /// # Errors
    /// `UnknownGroup`, or a failed write.
    fn put_own_record(&self, id: GroupId, body: &[u8]) -> Result<(), StorageError>;

    /// Forgets a replica: its records, log and state, at once and together. Durable on return.
    ///
    /// # Errors
    /// `UnknownGroup`, or a failed write.
    fn remove_group(&self, id: GroupId) -> Result<(), StorageError>;

    /// What is stored of a replica, checked, with a tail of the newest entries of at most
    /// `tail_size_bytes_max` (by [`Entry::size_bytes`]). Snapshots are not this storage's: the
    /// fields `snapshot`, `previous_snapshot` and `applied` are left at their defaults.
    ///
    /// Waits for the writes before it. Also takes a group out of the state after a refused write.
    ///
    /// # Errors
    /// `UnknownGroup`; `Damaged` if anything contradicts: a log with a hole or a damaged tail is
    /// never shortened to fit.
    fn recover(&self, id: GroupId, tail_size_bytes_max: usize) -> Result<Recovered, StorageError>;

    /// Writes. `done` is called once, after the sync that covers the write and after the
    /// completions of all earlier writes.
    ///
    /// A write that contradicts what is stored is `Refused` whole, and so is every later one of
    /// this group until it is recovered: a completion stands for all writes before it.
    fn persist(&self, id: GroupId, write: Persist, done: Completion);

    /// Entries `first..=last`, or fewer: up to the end of the log, and at most `size_bytes_max`
    /// (by [`Entry::size_bytes`]), but at least one. Each is verified. Sees what is durable; writes
    /// under way may or may not be seen.
    ///
    /// # Errors
    /// `Compacted` if `first` is gone, `BeyondEnd` if it is not there yet, `Damaged` if an entry
    /// of the range is missing or does not verify.
    fn entries(
        &self,
        id: GroupId,
        first: LogIndex,
        last: LogIndex,
        size_bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError>;

    /// Removes the entries up to and including `upto`. Returns at once. The log's new beginning
    /// and the removal are one write, in order with the others; the space is given back in the
    /// background, a file at a time. Doing it again does nothing.
    fn compact(&self, id: GroupId, upto: LogId);

    /// Reads a record of the node itself.
    ///
    /// # Errors
    /// `Closed`, `NodeRecordDamaged`, `Io`.
    fn node_record(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError>;

    /// Writes a record of the node itself. Durable on return.
    ///
    /// # Errors
    /// A failed write.
    fn put_node_record(&self, key: &str, value: &[u8]) -> Result<(), StorageError>;

    /// About how many bytes the group's log takes in table files. What is still in the memory
    /// tables and the write-ahead log, which all groups share, is not counted, so a short log has
    /// none; what is compacted is, until its files are gone. Reads no entries, but may read the
    /// index of a file: not for a thread of a runtime.
    ///
    /// # Errors
    /// `Closed`.
    fn log_size_bytes(&self, id: GroupId) -> Result<u64, StorageError>;

    /// Counters so far.
    fn metrics(&self) -> StorageMetrics;

    /// Bytes that the storage takes on disk: log, state, and what is not given back yet. In memory,
    /// bytes of keys and values. Looks at every file, so it may take as long as a read.
    ///
    /// # Errors
    /// `Closed`, `Io`.
    fn size_bytes(&self) -> Result<u64, StorageError>;

    /// Finishes what is queued, and releases files and locks. Later calls give `Closed`.
    fn close(&self);
}
