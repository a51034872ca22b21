//! Snapshots and their installation.

use crate::support::{Cluster, ms};
use kontiki_raft::{PeerState, Role};

/// A cluster whose node 3 is fetching a snapshot that does not end.
fn installing_at_3(n: u64) -> Cluster {
    let mut cluster = Cluster::led_by_1_of(n);
    cluster.crash(3);
    cluster.commit_many(20);
    cluster.compact(1);
    cluster.replica(3).fetch_is_held = true;
    cluster.restart(3);
    cluster.wait_for("3 fetches", |c| c.status(3).fetching.is_some());
    cluster
}

/// The leader steps down while a follower installs; a new leader completes it.
#[test]
fn leader_step_down_during_install_snapshot() {
    let mut cluster = installing_at_3(3);
    cluster.elect_again(2);
    assert_eq!(cluster.role(1), Role::Follower);
    cluster.replica(3).fetch_is_held = false;
    cluster.finish_fetch(3);
    cluster.commit("under the new leader");
    cluster.await_agreement(&[1, 2, 3]);
}

/// A failed install changes nothing; it is tried again.
#[test]
fn report_error_during_install_snapshot() {
    let mut cluster = installing_at_3(3);
    for _ in 0..3 {
        cluster.fail_fetch(3);
        cluster.wait_for("3 fetches again", |c| c.status(3).fetching.is_some());
    }
    cluster.replica(3).fetch_is_held = false;
    cluster.finish_fetch(3);
    cluster.await_agreement(&[1, 2, 3]);
}

/// A node restarts from its snapshot and the log behind it.
#[test]
fn restore_snapshot() {
    let mut cluster = Cluster::led_by_1_of(1);
    cluster.commit_many(10);
    cluster.compact(1);
    cluster.commit_many(5);
    cluster.crash(1);
    cluster.restart(1);
    cluster.await_leader();
    cluster.commit("after");
    assert_eq!(cluster.commands(1).len(), 17);
}

/// A follower whose entries are compacted away installs a snapshot and then follows the log.
#[test]
fn install_snapshot() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    cluster.crash(3);
    cluster.commit_many(10);
    cluster.compact(1);
    cluster.commit_many(10);
    cluster.restart(3);
    cluster.wait_for("a snapshot is offered", |c| {
        c.peer(1, 3).state == PeerState::Snapshot
    });
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(3).len(), 31);
    cluster.run(ms(100));
    assert_eq!(cluster.peer(1, 3).state, PeerState::Replicate);
}

/// Several followers install at once; one whose host refuses for now (braft's task limit; the limit
/// itself is the host's) is offered the snapshot again until it succeeds.
#[test]
fn install_snapshot_exceed_max_task_num() {
    let mut cluster = Cluster::led_by_1_of(5);
    for node in [4, 5] {
        cluster.crash(node);
        cluster.replica(node).fetch_is_held = true;
    }
    cluster.commit_many(20);
    cluster.compact(1);
    for node in [4, 5] {
        cluster.restart(node);
    }
    cluster.wait_for("both fetch", |c| {
        [4, 5].iter().all(|&n| c.status(n).fetching.is_some())
    });
    cluster.fail_fetch(5);
    cluster.finish_fetch(4);
    cluster.await_agreement(&[1, 2, 3, 4]);
    cluster.wait_for("5 is offered it again", |c| c.status(5).fetching.is_some());
    cluster.finish_fetch(5);
    cluster.await_agreement(&[1, 2, 3, 4, 5]);
}

/// Snapshots in the running (the timer is the host's): each lets the log go up to the one before,
/// and commands flow meanwhile.
#[test]
fn auto_snapshot() {
    let mut cluster = Cluster::led_by_1_of(1);
    let mut starts = Vec::new();
    for _ in 0..4 {
        cluster.commit_many(10);
        cluster.snapshot(1);
        starts.push(cluster.status(1).log_start.index.0);
    }
    assert_eq!(starts, [0, 11, 21, 31]);
}
