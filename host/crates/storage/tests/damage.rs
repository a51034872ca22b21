//! Damage is found and named; nothing is shortened to fit.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use kontiki_raft::{GroupId, LogId, LogIndex, Term};
use kontiki_storage::StorageError;
use rocksdb::{DB, WriteBatch};
use std::fs;
use std::path::{Path, PathBuf};
use support::{
    GROUP, append, configuration_entry, entries, open_at, persist, record, scratch, vote,
};

/// A database with entries 1 to 20 of the group, the first and the eighth a configuration, 3 of
/// them compacted.
fn database() -> (tempfile::TempDir, PathBuf) {
    let directory = scratch();
    let path = directory.path().join("db");
    let storage = open_at(&path).unwrap();
    storage.create_group(&record(GROUP, "body")).unwrap();
    persist(&*storage, GROUP, vote(2, 1)).unwrap();
    persist(
        &*storage,
        GROUP,
        append(vec![configuration_entry(1, 1, &[1])]),
    )
    .unwrap();
    persist(&*storage, GROUP, append(entries(2, 7, 1))).unwrap();
    persist(
        &*storage,
        GROUP,
        append(vec![configuration_entry(8, 2, &[1, 2])]),
    )
    .unwrap();
    persist(&*storage, GROUP, append(entries(9, 20, 2))).unwrap();
    storage.compact(GROUP, LogId::new(Term(1), LogIndex(3)));
    storage.close();
    (directory, path)
}

fn key(group: GroupId, index: u64) -> Vec<u8> {
    [group.0.to_be_bytes(), index.to_be_bytes()].concat()
}

fn state_key(kind: u8) -> Vec<u8> {
    [&GROUP.0.to_be_bytes()[..], &[kind]].concat()
}

/// Changes a database behind the storage's back.
fn tamper(path: &Path, change: impl FnOnce(&DB, &mut WriteBatch)) {
    let options = rocksdb::Options::default();
    let db = DB::open_cf(&options, path, ["log", "state", "node"]).unwrap();
    let mut batch = WriteBatch::default();
    change(&db, &mut batch);
    db.write(batch).unwrap();
}

fn flip_byte(path: &Path, family: &str, key: &[u8], at: usize) {
    flip_bytes(path, family, key, [at]);
}

fn flip_bytes(path: &Path, family: &str, key: &[u8], places: impl IntoIterator<Item = usize>) {
    tamper(path, |db, batch| {
        let family = db.cf_handle(family).unwrap();
        let mut value = db.get_cf(family, key).unwrap().unwrap();
        places.into_iter().for_each(|at| value[at] ^= 0x10);
        batch.put_cf(family, key, value);
    });
}

fn recover(path: &Path, tail_size_bytes_max: usize) -> Result<u64, StorageError> {
    let storage = open_at(path).unwrap();
    let found = storage.recover(GROUP, tail_size_bytes_max);
    storage.close();
    found.map(|found| found.last.index.0)
}

fn assert_damaged_at(result: Result<u64, StorageError>, expected: u64) {
    let error = result.expect_err("damage was not noticed");
    let StorageError::Damaged { group, index, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(
        (*group, *index),
        (GROUP, Some(LogIndex(expected))),
        "{error}"
    );
    assert!(
        error.to_string().contains(&format!("at entry {expected}")),
        "{error}"
    );
}

#[test]
fn undamaged_database_recovers() {
    let (_directory, path) = database();
    assert_eq!(recover(&path, usize::MAX).unwrap(), 20);
}

#[test]
fn missing_entries_are_noticed_wherever_they_are() {
    for missing in 4..=20 {
        let (_directory, path) = database();
        tamper(&path, |db, batch| {
            batch.delete_cf(db.cf_handle("log").unwrap(), key(GROUP, missing));
        });
        assert_damaged_at(recover(&path, usize::MAX), missing);
        // First and last are noticed without reading the log.
        if missing == 4 || missing == 20 {
            assert_damaged_at(recover(&path, 0), missing);
        }
    }
}

#[test]
fn missing_suffix_is_not_a_shorter_log() {
    let (_directory, path) = database();
    tamper(&path, |db, batch| {
        batch.delete_range_cf(db.cf_handle("log").unwrap(), key(GROUP, 15), key(GROUP, 99));
    });
    assert_damaged_at(recover(&path, 0), 20);
}

#[test]
fn missing_log_is_not_an_empty_log() {
    let (_directory, path) = database();
    tamper(&path, |db, batch| {
        batch.delete_range_cf(db.cf_handle("log").unwrap(), key(GROUP, 0), key(GROUP, 99));
    });
    assert_damaged_at(recover(&path, 0), 4);
}

#[test]
fn entries_beyond_the_end_are_noticed() {
    let (_directory, path) = database();
    tamper(&path, |db, batch| {
        let log = db.cf_handle("log").unwrap();
        let value = db.get_cf(log, key(GROUP, 20)).unwrap().unwrap();
        batch.put_cf(log, key(GROUP, 22), value);
    });
    assert_damaged_at(recover(&path, 0), 22);
}

#[test]
fn damaged_entries_are_noticed_in_the_tail_and_when_read() {
    let (_directory, path) = database();
    flip_byte(&path, "log", &key(GROUP, 12), 35);
    assert_damaged_at(recover(&path, usize::MAX), 12);
    assert_eq!(
        recover(&path, 100).unwrap(),
        20,
        "the tail does not reach it"
    );
    let storage = open_at(&path).unwrap();
    let read = |first, last| {
        let found = storage.entries(GROUP, LogIndex(first), LogIndex(last), usize::MAX);
        found.map(|found| found.len() as u64)
    };
    assert_eq!(read(4, 11).unwrap(), 8);
    assert_eq!(read(13, 20).unwrap(), 8);
    assert_damaged_at(read(10, 20), 12);
}

#[test]
fn an_entry_under_another_key_is_damage() {
    let (_directory, path) = database();
    tamper(&path, |db, batch| {
        let log = db.cf_handle("log").unwrap();
        let value = db.get_cf(log, key(GROUP, 11)).unwrap().unwrap();
        batch.put_cf(log, key(GROUP, 12), value);
    });
    assert_damaged_at(recover(&path, usize::MAX), 12);
}

#[test]
fn every_damaged_byte_of_the_state_is_noticed() {
    let (_directory, path) = database();
    let sizes = sizes_of_state(&path);
    assert_eq!(
        sizes.len(),
        6,
        "record, hard state, bounds, two terms, one configuration"
    );
    for (key, size) in sizes {
        let mut damaged = None;
        for at in 0..size {
            // The byte before is put right again in the same opening.
            flip_bytes(&path, "state", &key, damaged.into_iter().chain([at]));
            damaged = Some(at);
            let error = recover(&path, 0).expect_err("damage was not noticed");
            assert!(
                matches!(error, StorageError::Damaged { group: GROUP, .. }),
                "{error}"
            );
        }
        flip_bytes(&path, "state", &key, damaged);
    }
    assert_eq!(recover(&path, usize::MAX).unwrap(), 20);
}

fn sizes_of_state(path: &Path) -> Vec<(Vec<u8>, usize)> {
    let options = rocksdb::Options::default();
    let db = DB::open_cf(&options, path, ["log", "state", "node"]).unwrap();
    let state = db.cf_handle("state").unwrap();
    db.iterator_cf(state, rocksdb::IteratorMode::Start)
        .map(|item| item.unwrap())
        .map(|(key, value)| (key.to_vec(), value.len()))
        .collect()
}

#[test]
fn lost_state_records_are_noticed() {
    let index = |kind, index: u64| [state_key(kind), index.to_be_bytes().to_vec()].concat();
    // Bounds; the term that begins at 8; the configuration at 8.
    for lost in [state_key(2), index(4, 8), index(5, 8)] {
        let (_directory, path) = database();
        tamper(&path, |db, batch| {
            batch.delete_cf(db.cf_handle("state").unwrap(), &lost)
        });
        let error = recover(&path, usize::MAX).expect_err("loss was not noticed");
        assert!(
            matches!(error, StorageError::Damaged { group: GROUP, .. }),
            "{error}"
        );
    }
}

#[test]
fn damaged_group_neither_takes_writes_nor_stands_in_the_way() {
    let (_directory, path) = database();
    flip_byte(&path, "state", &state_key(1), 6);
    let storage = open_at(&path).unwrap();
    let other = GroupId(5);
    let refused = persist(&*storage, GROUP, vote(9, 1));
    assert!(matches!(refused, Err(StorageError::Damaged { .. })));
    storage.create_group(&record(other, "")).unwrap();
    persist(&*storage, other, vote(9, 1)).unwrap();
    storage.remove_group(GROUP).unwrap();
    storage.create_group(&record(GROUP, "anew")).unwrap();
    assert_eq!(storage.recover(GROUP, 0).unwrap().last, LogId::default());
}

#[test]
fn damaged_node_record_names_itself() {
    let (_directory, path) = database();
    let storage = open_at(&path).unwrap();
    storage.put_node_record("peers", b"a,b").unwrap();
    storage.close();
    flip_byte(&path, "node", b"peers", 7);
    let error = open_at(&path).unwrap().node_record("peers").unwrap_err();
    assert!(matches!(error, StorageError::NodeRecordDamaged { .. }));
    assert!(error.to_string().contains("peers"), "{error}");
}

#[test]
fn newer_database_is_refused_as_such() {
    let (_directory, path) = database();
    tamper(&path, |db, batch| {
        let mut value = Vec::new();
        let place = kontiki_storage::codec::Place {
            family: b'n',
            key: b"\0format",
        };
        let body = |out: &mut Vec<u8>| out.extend(2_u32.to_le_bytes());
        kontiki_storage::codec::encode_record(place, &mut value, body);
        batch.put_cf(db.cf_handle("node").unwrap(), b"\0format", value);
    });
    let error = open_at(&path).err().unwrap();
    let newer = matches!(
        error,
        StorageError::NewerFormat {
            found: 2,
            supported: 1,
            ..
        }
    );
    assert!(newer, "{error}");
}

#[test]
fn foreign_database_is_refused() {
    let directory = scratch();
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    drop(DB::open_cf(&options, directory.path(), ["theirs"]).unwrap());
    let error = open_at(directory.path()).err().unwrap();
    assert!(matches!(error, StorageError::Foreign { .. }), "{error}");
}

/// The newest write-ahead log.
fn write_ahead_log(path: &Path) -> PathBuf {
    let files = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let logs = files.filter(|file| file.extension().is_some_and(|extension| extension == "log"));
    logs.max().unwrap()
}

fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Opens a copy of the database whose write-ahead log was changed.
fn with_log(path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> Result<u64, StorageError> {
    let directory = scratch();
    copy_directory(path, directory.path());
    let log = write_ahead_log(directory.path());
    let mut bytes = fs::read(&log).unwrap();
    change(&mut bytes);
    fs::write(&log, bytes).unwrap();
    let storage = open_at(directory.path())?;
    let found = storage.recover(GROUP, usize::MAX);
    storage.close();
    found.map(|found| found.last.index.0)
}

/// One write per entry, all in the write-ahead log.
fn database_of_single_writes() -> (tempfile::TempDir, PathBuf) {
    let directory = scratch();
    let path = directory.path().join("db");
    let storage = open_at(&path).unwrap();
    storage.create_group(&record(GROUP, "")).unwrap();
    for index in 1..=6 {
        persist(&*storage, GROUP, append(entries(index, index, 1))).unwrap();
    }
    storage.close();
    (directory, path)
}

#[test]
fn torn_end_of_the_write_ahead_log_is_no_damage() {
    let (_directory, path) = database_of_single_writes();
    let full = fs::read(write_ahead_log(&path)).unwrap().len();
    let mut seen = Vec::new();
    for length in (0..=full).rev().step_by(3) {
        match with_log(&path, |bytes| bytes.truncate(length)) {
            Ok(last) => seen.push(last),
            // Cut before the registration of the group.
            Err(StorageError::UnknownGroup { .. }) => seen.push(0),
            Err(error) => panic!("cut at {length} of {full}: {error}"),
        }
    }
    assert!(seen.is_sorted_by(|longer, shorter| longer >= shorter));
    seen.dedup();
    assert_eq!(seen, [6, 5, 4, 3, 2, 1, 0], "each cut gives a prefix");
}

#[test]
fn zeros_after_the_end_of_the_write_ahead_log_are_no_damage() {
    let (_directory, path) = database_of_single_writes();
    for zeros in [1, 511, 4096, 70_000] {
        let last = with_log(&path, |bytes| bytes.resize(bytes.len() + zeros, 0));
        assert_eq!(last.unwrap(), 6, "{zeros} zeros");
    }
}

/// Offsets of the records of a write-ahead log of one block.
fn record_offsets(log: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut at = 0;
    while at + 7 <= log.len() {
        offsets.push(at);
        at += 7 + usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
    }
    offsets
}

#[test]
fn damage_inside_the_write_ahead_log_is_refused_and_not_an_end() {
    let (_directory, path) = database_of_single_writes();
    let log = fs::read(write_ahead_log(&path)).unwrap();
    let offsets = record_offsets(&log);
    assert_eq!(offsets.len(), 8, "format, group, six entries");
    let last_record = offsets[7];
    for at in 0..last_record {
        let in_header = offsets
            .iter()
            .any(|offset| (*offset..offset + 7).contains(&at));
        // Every bit of the headers, where damage misleads; elsewhere one of each third byte.
        for bit in 0..8 {
            if in_header || (bit == 2 && at % 3 == 0) {
                let result = with_log(&path, |bytes| bytes[at] ^= 1 << bit);
                let refused = matches!(result, Err(StorageError::DirectoryDamaged { .. }));
                assert!(refused, "bit {bit} of byte {at}: {result:?}");
            }
        }
    }
}

#[test]
fn zeroed_part_inside_the_write_ahead_log_is_refused() {
    let (_directory, path) = database_of_single_writes();
    let log = fs::read(write_ahead_log(&path)).unwrap();
    let offsets = record_offsets(&log);
    for pair in offsets.windows(2) {
        let result = with_log(&path, |bytes| bytes[pair[0]..pair[1]].fill(0));
        assert!(
            matches!(result, Err(StorageError::DirectoryDamaged { .. })),
            "{pair:?}"
        );
    }
}

/// Whether the last write was torn or damaged later cannot be told; it must be one or the other:
/// never anything but the state before it, or a refusal.
#[test]
fn damage_in_the_last_record_never_gives_anything_else() {
    let (_directory, path) = database_of_single_writes();
    let log = fs::read(write_ahead_log(&path)).unwrap();
    let last_record = record_offsets(&log)[7];
    for at in last_record..log.len() {
        for bit in [0, 2, 7] {
            match with_log(&path, |bytes| bytes[at] ^= 1 << bit) {
                Ok(5) | Err(StorageError::DirectoryDamaged { .. }) => {}
                result => panic!("bit {bit} of byte {at}: {result:?}"),
            }
        }
    }
}

/// A batch of several blocks, torn by a crash so that a later block reached the disk and an
/// earlier one did not, must not be taken for a hole between acknowledged writes: it may be refused
/// by RocksDB, which cannot read on, but never read as data.
#[test]
fn large_torn_batch_is_never_read() {
    let (_directory, path) = database_of_single_writes();
    let storage = open_at(&path).unwrap();
    assert_eq!(storage.recover(GROUP, 0).unwrap().last.index, LogIndex(6));
    let large = "x".repeat(200_000);
    persist(&*storage, GROUP, append(vec![support::entry(7, 1, &large)])).unwrap();
    storage.close();
    drop(storage);
    let blocks = fs::read(write_ahead_log(&path)).unwrap().len() >> 15;
    assert!(blocks >= 6);
    for cut in 1..=blocks {
        let last = with_log(&path, |bytes| bytes.truncate(cut << 15));
        assert_eq!(last.unwrap(), 6, "cut after {cut} blocks");
    }
    for zeroed in 1..blocks {
        let result = with_log(&path, |bytes| bytes[zeroed << 15..][..1 << 15].fill(0));
        let refused = matches!(result, Err(StorageError::DirectoryDamaged { .. }));
        assert!(
            refused || matches!(result, Ok(6)),
            "block {zeroed}: {result:?}"
        );
    }
}
