//! A process without file descriptors: what is to be written waits, and the store is none the worse.
//! The only test of its program: the limit is the whole process's.
#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs::File;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
use support::{GROUP, append, entry, open_at, record, submit, vote};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn writes_wait_for_descriptors_and_the_store_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let storage = open_at(directory.path()).unwrap();
    storage.create_group(&record(GROUP, "")).unwrap();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 200.min(hard), hard).unwrap();
    let taken: Vec<_> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    let first = submit(&*storage, GROUP, vote(1, 1));
    let waits = first.recv_timeout(Duration::from_millis(200)).unwrap_err();
    assert_eq!(waits, RecvTimeoutError::Timeout);
    drop(taken);
    first.recv_timeout(PATIENCE).unwrap().unwrap();
    // Far more than a log file and a memtable hold: new files are made.
    let payload = "x".repeat(256 << 10);
    for index in 1..=40 {
        let write = submit(&*storage, GROUP, append(vec![entry(index, 1, &payload)]));
        write.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    assert!(!storage.metrics().failed);
    storage.close();
}
