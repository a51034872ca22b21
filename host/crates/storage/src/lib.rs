//! Durable log and state of all Raft groups of a node, over one RocksDB.
//!
//! [`Storage`] is the interface; [`open`] gives one by URI. [`DataDirectory`] is the node's
//! directory around it: who the node is, a lock, and [`BlobStore`] for plugins.
//!
//! # One writer
//!
//! A storage has one thread that writes. It takes everything that is queued, of all groups, makes
//! one batch of it, writes and syncs it once, and calls the completions in order. While it syncs,
//! the next batch gathers: the more groups and clients, the more share a sync.
//!
//! # What is promised
//!
//! - What is acknowledged has been synced, together with everything acknowledged or asked for
//!   before it: after any crash the state of a group is that after some write, none earlier than
//!   the last one acknowledged.
//! - Every record carries a checksum that also covers its key, verified on each read. Damage is
//!   reported, naming group and index; a log is never shortened to hide it.
//! - After a failed write the storage refuses further ones until it is opened anew.

#![forbid(unsafe_code)]

mod blob;
pub mod codec;
mod directory;
mod engine;
mod error;
mod layout;
mod log_state;
mod memory;
mod metrics;
mod open_databases;
mod reclaim;
mod recovery;
mod rocks;
mod rocks_options;
mod spare;
mod storage;
mod store;
mod uri;
mod wal;
mod writer;

pub use blob::BlobStore;
pub use directory::{DataDirectory, Identity};
pub use error::{StorageError, UriError};
pub use metrics::{SYNC_BUCKETS_US, StorageMetrics};
pub use open_databases::wait_until_closed;
pub use storage::{Completion, GroupRecord, Storage};
pub use uri::{Opener, Options, Registry, StorageUri, open};
