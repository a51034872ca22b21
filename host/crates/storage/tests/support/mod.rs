//! Helpers the tests of the storage share.

#![allow(clippy::unwrap_used, reason = "a module of test programs")]
#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(unreachable_pub, reason = "a module of test programs, not a crate")]

use bytes::Bytes;
use kontiki_raft::{
    Configuration, Entry, EntryKind, GroupId, HardState, IoId, LogId, LogIndex, MemberSet, NodeId,
    Persist, Term,
};
use kontiki_storage::{GroupRecord, Options, Storage, StorageError, StorageUri, open};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

/// The group most tests use.
pub const GROUP: GroupId = GroupId(0xfeed_0001);

pub fn entry(index: u64, term: u64, payload: &str) -> Entry {
    Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        time_ns: 1_000_000 + index,
        kind: EntryKind::Command(Bytes::copy_from_slice(payload.as_bytes())),
    }
}

/// Entries `first..=last` whose payload tells their position.
pub fn entries(first: u64, last: u64, term: u64) -> Vec<Entry> {
    (first..=last)
        .map(|index| entry(index, term, &format!("{term}/{index}")))
        .collect()
}

pub fn voters(nodes: &[u64]) -> Configuration {
    Configuration::stable(MemberSet::of_voters(nodes.iter().map(|node| NodeId(*node))))
}

pub fn configuration_entry(index: u64, term: u64, nodes: &[u64]) -> Entry {
    Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        time_ns: 0,
        kind: EntryKind::Configuration(voters(nodes).into()),
    }
}

pub fn append(entries: Vec<Entry>) -> Persist {
    Persist {
        entries,
        ..Persist::default()
    }
}

pub fn vote(term: u64, node: u64) -> Persist {
    Persist {
        hard_state: Some(HardState {
            term: Term(term),
            voted_for: Some(NodeId(node)),
        }),
        ..Persist::default()
    }
}

pub fn record(group: GroupId, body: &str) -> GroupRecord {
    GroupRecord {
        id: group,
        body: body.as_bytes().to_vec(),
    }
}

pub fn rocksdb(path: &Path) -> StorageUri {
    StorageUri::rocksdb(path).unwrap()
}

/// Small limits, so that tests of few entries reach table files.
pub fn options() -> Options {
    Options {
        memtable_size_bytes: 256 << 10,
        wal_size_bytes_max: 4 << 20,
        ..Options::default()
    }
}

pub fn open_at(path: &Path) -> Result<Arc<dyn Storage>, StorageError> {
    open(&rocksdb(path), &options())
}

/// Queues a write and gives the place where its outcome will be.
pub fn submit(
    storage: &dyn Storage,
    group: GroupId,
    write: Persist,
) -> Receiver<Result<IoId, StorageError>> {
    let (sender, receiver) = channel();
    let done = Box::new(move |result| drop(sender.send(result)));
    storage.persist(group, write, done);
    receiver
}

/// Writes and waits until it is durable.
pub fn persist(
    storage: &dyn Storage,
    group: GroupId,
    write: Persist,
) -> Result<IoId, StorageError> {
    submit(storage, group, write)
        .recv()
        .expect("every write is answered")
}

/// A directory for tests that open many databases and whose subject is not durability: in memory
/// if there is a place for it.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}
