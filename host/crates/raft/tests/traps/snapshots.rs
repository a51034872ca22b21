//! Traps of snapshots and compaction.

use crate::support::{
    Cluster, Saved, Seen, Solo, change, configuration, entries_after, id, image, ms, say, voters,
};
use kontiki_raft::{
    Configuration, Effect, Event, Input, LogId, LogIndex, MessageBody, NodeId, PeerState, Role,
    Settings, SnapshotMeta,
};

fn of_three(last_included: LogId) -> SnapshotMeta {
    say::snapshot(last_included, configuration([1, 2, 3]))
}

fn fetch(effects: &[Effect]) -> Option<SnapshotMeta> {
    effects.iter().find_map(|effect| match effect {
        Effect::FetchSnapshot { snapshot, .. } => Some(snapshot.clone()),
        _ => None,
    })
}

fn install_reply(effects: &[Effect]) -> Option<bool> {
    effects
        .to(2)
        .into_iter()
        .find_map(|message| match &message.body {
            MessageBody::InstallSnapshotReply(reply) => Some(reply.installed),
            _ => None,
        })
}

/// Node 1 with this log follows 2, is offered a snapshot and installs it.
fn installed(terms: &[u64], snapshot: &SnapshotMeta) -> Solo {
    let term = snapshot
        .last_included
        .term
        .0
        .max(*terms.iter().max().unwrap_or(&1));
    let mut node = Solo::open(voters([1, 2, 3]), image(term, terms));
    let effects = node.receive(2, term, say::install(snapshot.clone()));
    assert_eq!(fetch(&effects).as_ref(), Some(snapshot));
    let snapshot = snapshot.clone();
    node.give(Input::SnapshotInstalled { snapshot });
    node
}

/// The membership of the discarded log goes with it.
#[test]
fn trap_26_the_membership_of_a_discarded_log_is_forgotten() {
    let mut disk = image(3, &[1]);
    disk.entries
        .push(say::membership(id(2, 2), configuration([1, 2])));
    let mut node = Solo::open(voters([1, 2, 3]), disk);
    assert_eq!(node.status().configuration, configuration([1, 2]));
    let snapshot = say::snapshot(id(3, 9), configuration([1, 2, 3, 4]));
    node.receive(2, 3, say::install(snapshot.clone()));
    node.give(Input::SnapshotInstalled { snapshot });
    assert_eq!(node.status().configuration, configuration([1, 2, 3, 4]));
    assert_eq!(node.status().configuration_index, LogIndex(9));
}

/// The membership of a snapshot holds from the moment it is installed, whatever is applied.
#[test]
fn trap_26_the_membership_of_a_snapshot_holds_at_once() {
    let snapshot = say::snapshot(id(2, 7), configuration([2, 3]));
    let node = installed(&[1, 1], &snapshot);
    let status = node.status();
    assert_eq!(status.configuration, configuration([2, 3]));
    assert_eq!(
        (status.commit_index, status.applied_index),
        (LogIndex(7), LogIndex(7))
    );
}

/// The membership for a snapshot's metadata is the one in force at its index, not a later one that
/// is not even committed.
#[test]
fn trap_26_a_snapshot_carries_the_membership_of_its_index() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(3);
    cluster.hold_messages(|e| matches!(e.message.body, MessageBody::AppendEntriesReply(_)));
    cluster.change(1, change::remove(3));
    assert_eq!(cluster.status(1).configuration, configuration([1, 2]));
    let snapshot = cluster.snapshot(1);
    assert_eq!(snapshot.configuration, configuration([1, 2, 3]));
}

/// A snapshot ahead of the log purges it; what is written says so in one step.
#[test]
fn trap_27_a_snapshot_ahead_of_the_log_replaces_it() {
    let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 2]));
    let snapshot = of_three(id(2, 9));
    node.receive(2, 2, say::install(snapshot.clone()));
    let effects = node.give(Input::SnapshotInstalled { snapshot });
    assert_eq!(effects.writes()[0].reset_log, Some(id(2, 9)));
    assert_eq!(install_reply(&effects), Some(true));
    assert_eq!(node.durable().log_start, id(2, 9));
    node.receive(2, 2, say::append(id(2, 9), &[2], 0));
    assert_eq!(node.last_id(), id(2, 10));
}

/// A log that contradicts the snapshot goes, also behind it.
#[test]
fn trap_27_a_conflicting_log_is_purged() {
    let node = installed(&[1, 1, 1, 1], &of_three(id(2, 3)));
    assert_eq!((node.log(), node.last_id()), (vec![], id(2, 3)));
}

/// A log that holds the snapshot's last entry is kept, and no snapshot is fetched for it.
#[test]
fn trap_27_a_consistent_suffix_is_kept() {
    let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 1, 2, 2]));
    let effects = node.receive(2, 2, say::install(of_three(id(2, 3))));
    assert_eq!(fetch(&effects), None);
    assert_eq!(install_reply(&effects), Some(true));
    assert_eq!((node.log(), node.commit()), (vec![1, 1, 2, 2], 3));
}

/// A snapshot older than what is applied is not loaded: it would take the state back.
#[test]
fn trap_27_an_older_snapshot_is_not_installed() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1, 1, 1]));
    node.receive(2, 1, say::append(id(1, 3), &[], 3));
    let effects = node.receive(2, 1, say::install(of_three(id(1, 2))));
    assert_eq!(fetch(&effects), None);
    assert_eq!(install_reply(&effects), Some(true));
    // Nor if it arrives by a fetch that was overtaken.
    let snapshot = of_three(id(1, 2));
    node.give(Input::SnapshotInstalled { snapshot });
    assert_eq!((node.commit(), node.last()), (3, 3));
}

/// The crash between publishing a snapshot and cutting the log is made good at the next start,
/// whether the log is short of the snapshot or contradicts it.
#[test]
fn trap_27_a_crash_between_publishing_and_cutting_is_repaired() {
    for terms in [&[1][..], &[1, 1, 1, 1]] {
        let saved = Saved {
            meta: of_three(id(2, 3)),
            commands: Vec::new(),
        };
        let settings = Settings::default();
        let mut node = Solo::restored(settings, voters([1, 2, 3]), image(2, terms), &[saved]);
        let effects = node.give(Input::Tick);
        assert_eq!(effects.writes()[0].reset_log, Some(id(2, 3)), "{terms:?}");
        let status = node.status();
        assert_eq!((status.last, status.applied_index), (id(2, 3), LogIndex(3)));
        node.receive(2, 2, say::append(id(2, 3), &[2], 4));
        assert_eq!(node.commit(), 4);
    }
}

/// A log that goes on from the snapshot is kept at the next start.
#[test]
fn trap_27_a_log_that_continues_the_snapshot_survives_a_restart() {
    let saved = Saved {
        meta: of_three(id(1, 2)),
        commands: Vec::new(),
    };
    let members = voters([1, 2, 3]);
    let node = Solo::restored(Settings::default(), members, image(2, &[1, 1, 2]), &[saved]);
    assert_eq!(node.last_id(), id(2, 3));
    assert_eq!(node.status().commit_index, LogIndex(2));
}

/// The log is cut only when a snapshot is reported as published; a failed save reports nothing,
/// and the log stays. Even then it is kept from the last-but-one snapshot on.
#[test]
fn trap_28_the_log_goes_only_behind_published_snapshots() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1; 8]));
    node.receive(2, 1, say::append(id(1, 8), &[], 8));
    node.give(Input::Applied { index: LogIndex(8) });
    node.wait(ms(500));
    assert_eq!(node.status().log_start, LogId::default());
    let cut = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::CompactLog { upto } => Some(upto.index.0),
            _ => None,
        })
    };
    let snapshot = of_three(id(1, 3));
    assert_eq!(cut(&node.give(Input::SnapshotSaved { snapshot })), None);
    let snapshot = of_three(id(1, 6));
    assert_eq!(cut(&node.give(Input::SnapshotSaved { snapshot })), Some(3));
    // One that says more than is applied is not believed.
    let snapshot = of_three(id(1, 9));
    assert_eq!(cut(&node.give(Input::SnapshotSaved { snapshot })), None);
}

/// An install that fails leaves everything as it was, the leader offers again, and the group goes
/// on meanwhile.
#[test]
fn trap_28_a_failed_install_is_tried_again() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.crash(3);
    cluster.commit_many(10);
    cluster.compact(1);
    cluster.replica(3).fetch_is_held = true;
    cluster.restart(3);
    cluster.wait_for("3 fetches", |c| c.status(3).fetching.is_some());
    assert_eq!(cluster.peer(1, 3).state, PeerState::Snapshot);
    cluster.fail_fetch(3);
    cluster.commit("meanwhile");
    assert_eq!(cluster.role(3), Role::Follower);
    assert!(
        cluster
            .events(3)
            .iter()
            .all(|event| !matches!(event, Event::Failed { .. }))
    );
    cluster.wait_for("3 fetches again", |c| c.status(3).fetching.is_some());
    cluster.replica(3).fetch_is_held = false;
    cluster.finish_fetch(3);
    cluster.await_agreement(&[1, 2, 3]);
}

/// A follower that keeps being offered the same snapshot fetches it once, and one that leaves the
/// snapshot state by an append acknowledgement is streamed to again.
#[test]
fn trap_29_one_fetch_at_a_time() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[]));
    let offer = of_three(id(1, 5));
    let effects = node.receive(2, 1, say::install(offer.clone()));
    assert!(fetch(&effects).is_some());
    let newer = of_three(id(1, 8));
    for again in [offer, newer] {
        let effects = node.receive(2, 1, say::install(again));
        assert_eq!(
            fetch(&effects),
            None,
            "one is under way from the same leader"
        );
    }
}

/// While it fetches, a replica neither campaigns (its log is about to be replaced) nor applies.
#[test]
fn trap_29_no_election_during_an_install() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[]));
    node.receive(2, 1, say::install(of_three(id(1, 5))));
    let effects = node.wait(ms(10_000));
    assert!(effects.vote_requests().is_empty());
    let effects = node.receive(2, 1, say::timeout_now());
    assert!(effects.vote_requests().is_empty());
}

/// Compaction is an order to the host, which may carry it out late and in steps; the core never
/// waits for it, and a follower that needs what is about to go gets a snapshot.
#[test]
fn trap_42_compaction_is_never_waited_for() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.crash(3);
    cluster.commit_many(20);
    cluster.compact(1);
    let before = cluster.now;
    cluster.commit("at once");
    assert!(cluster.now.since(before) < ms(10));
    cluster.restart(3);
    cluster.await_agreement(&[1, 2, 3]);
}

/// A stale state machine behind the first log entry cannot be repaired from the log: refused.
#[test]
fn trap_31_a_log_that_begins_after_the_state_machine_is_refused() {
    let mut disk = image(1, &[1, 1]);
    disk.log_start = id(1, 4);
    disk.entries = entries_after(id(1, 4), &[1]);
    let saved = Saved {
        meta: of_three(id(1, 2)),
        commands: Vec::new(),
    };
    let mut node = Solo::restored(Settings::default(), voters([1, 2, 3]), disk, &[saved]);
    let effects = node.give(Input::Tick);
    assert!(matches!(effects.events()[..], [Event::Failed { .. }]));
}

/// A snapshot that contradicts what is committed here is refused and reported.
#[test]
fn trap_27_a_snapshot_that_contradicts_committed_entries_is_refused() {
    let mut node = Solo::open(voters([1, 2, 3]), image(3, &[1, 1, 1]));
    node.receive(2, 3, say::append(id(1, 3), &[], 3));
    let effects = node.receive(2, 3, say::install(of_three(id(2, 2))));
    assert_eq!(fetch(&effects), None);
    let expected = Event::Conflict {
        from: NodeId(2),
        index: LogIndex(2),
    };
    assert!(effects.events().contains(&&expected));
    let stable: Configuration = configuration([1, 2, 3]);
    assert_eq!(node.status().configuration, stable);
}

/// Entries that arrive while a snapshot is fetched, and agree with it, are kept; the log goes up to
/// the snapshot before.
#[test]
fn trap_27_entries_that_arrive_during_a_fetch_are_kept() {
    let saved = Saved {
        meta: of_three(id(1, 3)),
        commands: Vec::new(),
    };
    let members = voters([1, 2, 3]);
    let mut node = Solo::restored(Settings::default(), members, image(1, &[1; 3]), &[saved]);
    let snapshot = of_three(id(1, 6));
    let effects = node.receive(2, 1, say::install(snapshot.clone()));
    assert!(fetch(&effects).is_some());
    node.receive(2, 1, say::append(id(1, 3), &[1; 5], 0));
    let effects = node.give(Input::SnapshotInstalled { snapshot });
    assert!(effects.contains(&Effect::CompactLog { upto: id(1, 3) }));
    assert_eq!(node.status().applied_index, LogIndex(6));
    assert_eq!((node.last(), node.log()), (8, vec![1; 5]));
}
