//! Long random histories, compared with a model after each step.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;
#[path = "support/workload.rs"]
mod workload;

use kontiki_raft::GroupId;
use support::{open_at, options, scratch};
use workload::walk;

#[test]
fn random_histories_in_memory() {
    let uri = "memory://".parse().unwrap();
    let storage = kontiki_storage::open(&uri, &options()).unwrap();
    for group in 0..200 {
        walk(&*storage, GroupId(group), 150);
        // What is left of one group must not matter to the next.
        if group % 3 == 0 {
            storage.remove_group(GroupId(group)).unwrap();
        }
    }
}

#[test]
fn random_histories_on_rocksdb() {
    let directory = scratch();
    let storage = open_at(&directory.path().join("db")).unwrap();
    for group in 1_000..1_040 {
        walk(&*storage, GroupId(group), 150);
        if group % 3 == 0 {
            storage.remove_group(GroupId(group)).unwrap();
        }
    }
}
