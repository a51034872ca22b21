//! How many appends and syncs a second this disk gives: `cargo run --release -p kontiki-storage
//! --example append -- [DIRECTORY]`. Each submitter is a group that waits for one append of 128 bytes
//! before it makes the next.

use bytes::Bytes;
use kontiki_raft::{Entry, EntryKind, GroupId, IoId, LogId, LogIndex, Persist, Term};
use kontiki_storage::{GroupRecord, Options, Storage, StorageError, StorageUri, open};
use std::error::Error;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const PAYLOAD: &[u8] = &[b'x'; 128];
const DURATION: Duration = Duration::from_secs(3);

fn main() -> Result<(), Box<dyn Error>> {
    let directory = match std::env::args_os().nth(1) {
        Some(parent) => tempfile::tempdir_in(parent)?,
        None => tempfile::tempdir()?,
    };
    println!("submitters  appends/s  syncs/s  appends/sync  mean latency");
    for submitters in [1, 16, 64, 256] {
        let path = directory.path().join(submitters.to_string());
        let storage = open(&StorageUri::rocksdb(&path)?, &Options::default())?;
        measure(&*storage, submitters)?;
        storage.close();
    }
    Ok(())
}

fn measure(storage: &dyn Storage, submitters: u64) -> Result<(), StorageError> {
    for group in 0..submitters {
        let id = GroupId(group);
        let body = Vec::new();
        storage.create_group(&GroupRecord { id, body })?;
    }
    let before = storage.metrics();
    let began = Instant::now();
    std::thread::scope(|scope| {
        for group in 0..submitters {
            scope.spawn(move || submit_until(storage, GroupId(group), began + DURATION));
        }
    });
    let seconds = began.elapsed().as_secs_f64();
    let after = storage.metrics();
    let appends = (after.entries - before.entries) as f64;
    let syncs = (after.syncs - before.syncs) as f64;
    println!(
        "{submitters:10}  {:9.0}  {:7.0}  {:12.1}  {:9.3} ms",
        appends / seconds,
        syncs / seconds,
        appends / syncs,
        seconds * 1e3 * submitters as f64 / appends,
    );
    Ok(())
}

fn submit_until(storage: &dyn Storage, group: GroupId, end: Instant) {
    let (sender, done) = channel();
    for index in (1..).map(LogIndex) {
        if Instant::now() >= end {
            return;
        }
        let entry = Entry {
            id: LogId::new(Term(1), index),
            time_ns: 0,
            kind: EntryKind::Command(Bytes::from_static(PAYLOAD)),
        };
        let write = Persist {
            entries: vec![entry],
            ..Persist::default()
        };
        let sender = sender.clone();
        let answer = move |result: Result<IoId, StorageError>| drop(sender.send(result));
        storage.persist(group, write, Box::new(answer));
        let result = done.recv().expect("every write is answered");
        result.expect("the disk takes a few megabytes");
    }
}
