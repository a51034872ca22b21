//! What can go wrong, by who must act.

use kontiki_raft::{GroupId, LogIndex};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why a storage operation failed. Cheap to clone, because one failed write is reported to every
/// group that had a part in it.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    // The caller asked for something that cannot be.
    /// A replica of this group is registered already.
    #[error("group {group} exists already on this node")]
    AlreadyExists {
        /// Which.
        group: GroupId,
    },
    /// No replica of this group is registered.
    #[error("group {group} does not exist on this node")]
    UnknownGroup {
        /// Which.
        group: GroupId,
    },
    /// The entry was compacted away; a snapshot holds its effect.
    #[error("entry {index} of group {group} was compacted away; the log begins after {log_start}")]
    Compacted {
        /// Whose.
        group: GroupId,
        /// First index asked for.
        index: LogIndex,
        /// The entry before the log.
        log_start: LogIndex,
    },
    /// The entry was never written, or was truncated.
    #[error("entry {index} of group {group} is beyond the end of the log at {last}")]
    BeyondEnd {
        /// Whose.
        group: GroupId,
        /// First index asked for.
        index: LogIndex,
        /// Last entry.
        last: LogIndex,
    },
    /// The write contradicts what is stored (a gap, a term or vote that goes back). Nothing of it
    /// was written, and the group takes no further writes until it is recovered.
    #[error("write to group {group} refused: {why}")]
    Refused {
        /// Whose.
        group: GroupId,
        /// What contradicts.
        why: &'static str,
    },
    /// The storage was closed.
    #[error("the storage is closed")]
    Closed,
    /// The text is no storage URI.
    #[error(transparent)]
    Uri(#[from] UriError),
    /// The name of a node or cluster has line breaks or the like, or is too long.
    #[error("{what} name {name:?} has control characters or more than 255 bytes")]
    InvalidName {
        /// "node" or "cluster".
        what: &'static str,
        /// As given.
        name: String,
    },
    /// The name is no digest.
    #[error("blob name {name:?} is not of the form sha256-<64 lower-case hex digits>.wasm")]
    BlobName {
        /// As given.
        name: String,
    },
    /// There is no such blob.
    #[error("blob {name} is not on this node")]
    BlobNotFound {
        /// Which.
        name: String,
    },

    // The operator must act.
    /// The disk or quota is full. The storage refuses writes until it is restarted; nothing that
    /// was acknowledged is lost.
    #[error("no space left under {path}: free some, then restart the node")]
    NoSpace {
        /// Where.
        path: PathBuf,
    },
    /// The operating system or RocksDB reported a failure.
    #[error("{doing} {path}")]
    Io {
        /// What was being done, such as "reading".
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Its words.
        #[source]
        source: Arc<io::Error>,
    },
    /// An earlier write failed, so what is on disk is no longer known. Restart the node.
    #[error("writes are refused since an earlier one failed; restart the node")]
    Poisoned {
        /// The failure.
        #[source]
        first: Arc<StorageError>,
    },
    /// Another process, or another handle of this one, has it open.
    #[error("{path} is in use by {}; stop it or choose another directory", Holder(*.pid))]
    InUse {
        /// Where.
        path: PathBuf,
        /// Who, if it said so.
        pid: Option<u32>,
    },
    /// The directory has content that is not ours.
    #[error(
        "{path} is not empty and not a Kontiki data directory (it holds {found:?}); choose an empty one"
    )]
    Foreign {
        /// Where.
        path: PathBuf,
        /// A name found in it.
        found: String,
    },
    /// The directory belongs to another node.
    #[error("{path} belongs to node {found:?}, not {wanted:?}; give the right name or directory")]
    OtherNode {
        /// Where.
        path: PathBuf,
        /// Recorded name.
        found: String,
        /// Configured name.
        wanted: String,
    },
    /// The directory belongs to another cluster.
    #[error(
        "{path} belongs to cluster {found:?}, not {wanted:?}; give the right cluster or directory"
    )]
    OtherCluster {
        /// Where.
        path: PathBuf,
        /// Recorded cluster.
        found: String,
        /// Configured cluster.
        wanted: String,
    },
    /// Nothing is there and nothing was to be created.
    #[error("{path} is not a Kontiki data directory; create it first or check the path")]
    NotInitialised {
        /// Where.
        path: PathBuf,
    },
    /// A newer version wrote it.
    #[error("{path} has format {found}; this version reads up to {supported}: upgrade Kontiki")]
    NewerFormat {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },

    // Data is damaged.
    /// A group's log or state is damaged. The replica must not vote or lead: remove it and let it
    /// be rebuilt from the others.
    #[error("group {group} is damaged{}: {why}; rebuild this replica from the others", At(*.index))]
    Damaged {
        /// Whose.
        group: GroupId,
        /// Which entry, where one can be named.
        index: Option<LogIndex>,
        /// What is wrong.
        why: String,
    },
    /// A record of the node itself has the right checksum, but not the form that this version reads.
    #[error(
        "node record {key:?} has no form that this version reads: {why}; was it written by another \
         version? Start that one, or restore the data"
    )]
    NodeRecordUnreadable {
        /// Which.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// A record of the node itself is damaged.
    #[error("node record {key:?} in {path} is damaged: {why}")]
    NodeRecordDamaged {
        /// Where.
        path: PathBuf,
        /// Which.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// The identity file or the database as a whole is damaged.
    #[error("{path} is damaged: {why}; restore it or start the node with an empty directory")]
    DirectoryDamaged {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A blob is damaged; fetch it again.
    #[error("blob {name} is damaged: {why}; publish it again")]
    BlobDamaged {
        /// Which.
        name: String,
        /// What is wrong.
        why: String,
    },
}

/// Why a text is no storage URI, or none that can be opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    /// There is no `://`.
    #[error("storage URI {0:?} lacks \"://\"; write for example rocksdb:///var/lib/kontiki/db")]
    NoScheme(String),
    /// The scheme has other characters than `a-z`, `0-9`, `+`, `-`, `.`, or begins with no letter.
    #[error("storage URI {0:?} has an invalid scheme; write for example rocksdb://<path>")]
    InvalidScheme(String),
    /// The scheme needs a path.
    #[error("storage URI {0:?} lacks a path; write {0}<path>")]
    NoPath(String),
    /// Nobody registered this scheme.
    #[error("storage URI scheme {scheme:?} is unknown; known: {known}")]
    UnknownScheme {
        /// As given.
        scheme: String,
        /// Known ones, separated by commas.
        known: String,
    },
}

impl StorageError {
    /// Wraps an error of the operating system, telling a full disk from the rest.
    pub(crate) fn io(doing: &'static str, path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::NoSpace { path },
            _ => Self::Io {
                doing,
                path,
                source: Arc::new(error),
            },
        }
    }

    /// Damage of a group's data.
    pub(crate) fn damaged(
        group: GroupId,
        index: Option<LogIndex>,
        why: impl std::fmt::Display,
    ) -> Self {
        let why = why.to_string();
        Self::Damaged { group, index, why }
    }
}

/// Words for who holds a lock.
struct Holder(Option<u32>);

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(pid) => write!(f, "process {pid}"),
            None => f.write_str("another process"),
        }
    }
}

/// Words for where the damage is.
struct At(Option<LogIndex>);

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(index) => write!(f, " at entry {index}"),
            None => Ok(()),
        }
    }
}
