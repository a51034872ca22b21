//! Data directories written by every version so far are read by this one.
//!
//! `testdata/format-N` is never written again once a version with format N was released. A new
//! format gets a directory of its own, made by `write_the_fixture`, and this test reads all.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use bytes::Bytes;
use kontiki_raft::{
    Configuration, Entry, EntryKind, GroupId, HardState, LogId, LogIndex, MemberSet, NodeId,
    Persist, Term,
};
use kontiki_storage::{DataDirectory, Identity, Storage, StorageUri, open};
use std::fs;
use std::path::{Path, PathBuf};
use support::{GROUP, append, configuration_entry, entries, options, persist, record, voters};

const BLOB: &str = "sha256-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.wasm";
const EMPTY: GroupId = GroupId(7);

fn identity() -> Identity {
    Identity {
        node: NodeId(0x1234_5678_9abc_def0),
        name: "fixture".to_owned(),
        cluster: "testdata".to_owned(),
    }
}

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/format-{format}"))
}

fn joint() -> Configuration {
    Configuration {
        current: MemberSet {
            voters: [1, 2, 4].map(NodeId).into(),
            learners: [9].map(NodeId).into(),
        },
        old: Some(MemberSet::of_voters([1, 2, 3].map(NodeId))),
    }
}

/// The log the fixture holds, from 3 on.
fn log() -> Vec<Entry> {
    let mut log = vec![configuration_entry(1, 1, &[1, 2, 3])];
    log.extend(entries(2, 9, 1));
    log.push(Entry {
        id: LogId::new(Term(4), LogIndex(10)),
        time_ns: 0,
        kind: EntryKind::Configuration(joint().into()),
    });
    log.push(Entry {
        id: LogId::new(Term(4), LogIndex(11)),
        time_ns: u64::MAX,
        kind: EntryKind::Internal {
            tag: 255,
            payload: Bytes::from_static(b"\x00upgrade\xff"),
        },
    });
    log.extend(entries(12, 20, 4));
    log
}

fn write(storage: &dyn Storage, part: Vec<Entry>) {
    persist(storage, GROUP, append(part)).unwrap();
}

/// Part of the log is written to a table file, part stays in the write-ahead log.
#[test]
#[ignore = "writes testdata; run by hand when the format changes"]
fn write_the_fixture() {
    let path = fixture(1);
    assert!(!path.exists(), "remove {} first", path.display());
    let directory = DataDirectory::open(&path, true, &identity()).unwrap();
    directory
        .blobs()
        .unwrap()
        .put(BLOB, b"\0asm, or nearly")
        .unwrap();
    let uri = directory.storage_uri().unwrap();
    let storage = open(&uri, &options()).unwrap();
    storage.create_group(&record(GROUP, "the record")).unwrap();
    storage.create_group(&record(EMPTY, "")).unwrap();
    storage.put_node_record("peers", b"a,b,c").unwrap();
    write(&*storage, log()[..12].to_vec());
    storage.compact(GROUP, LogId::new(Term(1), LogIndex(2)));
    storage.close();
    flush(&uri);
    let storage = open(&uri, &options()).unwrap();
    write(&*storage, log()[12..].to_vec());
    let last = Persist {
        hard_state: Some(HardState {
            term: Term(5),
            voted_for: Some(NodeId(2)),
        }),
        forced_configuration: Some((LogIndex(20), voters(&[1]))),
        ..Persist::default()
    };
    persist(&*storage, GROUP, last).unwrap();
    storage.close();
    drop(directory);
    remove_what_is_not_needed(&path);
}

fn flush(uri: &StorageUri) {
    let families = ["log", "state", "node"];
    let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), uri.rest(), families).unwrap();
    for family in families {
        db.flush_cf(db.cf_handle(family).unwrap()).unwrap();
    }
}

fn remove_what_is_not_needed(path: &Path) {
    fs::remove_file(path.join("LOCK")).unwrap();
    for entry in fs::read_dir(path.join("db")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("OPTIONS") || name.starts_with("LO") {
            fs::remove_file(path).unwrap();
        }
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[test]
fn format_1_is_read() {
    let copied = support::scratch();
    copy(&fixture(1), copied.path());
    let directory = DataDirectory::open(copied.path(), false, &identity()).unwrap();
    assert_eq!(*directory.identity(), identity());
    assert_eq!(
        directory.blobs().unwrap().get(BLOB).unwrap(),
        b"\0asm, or nearly"
    );
    let storage = open(&directory.storage_uri().unwrap(), &options()).unwrap();
    assert_eq!(
        storage.groups().unwrap(),
        [record(EMPTY, ""), record(GROUP, "the record")]
    );
    assert_eq!(
        storage.node_record("peers").unwrap(),
        Some(b"a,b,c".to_vec())
    );
    assert_eq!(storage.recover(EMPTY, 0).unwrap().last, LogId::default());
    let found = storage.recover(GROUP, usize::MAX).unwrap();
    assert_eq!(found.tail, log()[2..]);
    assert_eq!(found.log_start, LogId::new(Term(1), LogIndex(2)));
    assert_eq!(found.configurations, [(LogIndex(10), joint())]);
    assert_eq!(
        found.forced_configuration,
        Some((LogIndex(20), voters(&[1])))
    );
    let vote = HardState {
        term: Term(5),
        voted_for: Some(NodeId(2)),
    };
    assert_eq!(found.hard_state, vote);
    // And it can be written on.
    write(&*storage, entries(21, 22, 5));
}

#[test]
fn fixture_has_a_table_file_and_a_write_ahead_log() {
    let files = fs::read_dir(fixture(1).join("db")).unwrap();
    let sizes = files.map(|entry| {
        let entry = entry.unwrap();
        let extension = entry
            .path()
            .extension()
            .map(|e| e.to_str().unwrap().to_owned());
        (
            extension.unwrap_or_default(),
            entry.metadata().unwrap().len(),
        )
    });
    let sizes: Vec<_> = sizes.collect();
    assert!(
        sizes
            .iter()
            .any(|(extension, size)| extension == "sst" && *size > 0)
    );
    assert!(
        sizes
            .iter()
            .any(|(extension, size)| extension == "log" && *size > 0)
    );
}
