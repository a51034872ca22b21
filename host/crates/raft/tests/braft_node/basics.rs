//! Elections, replication, following, bootstrap.

use crate::support::{Cluster, Outcome, Setup, change, configuration, ms, say, voters};
use kontiki_raft::{Event, Input, LogIndex, MessageBody, NodeId, ReadMode, RejectReason, Role};

use super::is_append;

/// A group of one elects itself at once, and applies.
#[test]
fn single_node() {
    let mut cluster = Cluster::of(1);
    let before = cluster.now;
    cluster.await_leader();
    assert!(
        cluster.now.since(before) < ms(10),
        "there is nobody to wait for"
    );
    cluster.commit_many(10);
    assert_eq!(cluster.commands(1).len(), 10);
}

/// One of three alone elects nobody and refuses commands without appending them.
#[test]
fn no_leader() {
    let mut cluster = Cluster::of(3);
    cluster.crash(2);
    cluster.crash(3);
    cluster.run(ms(20_000));
    assert_eq!(cluster.leader(), None);
    let token = cluster.propose(1, "x");
    let reason = RejectReason::NotLeader { leader: None };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    assert_eq!((cluster.last(1), cluster.term(1)), (0, 0));
}

/// Three elect a leader, and every command reaches every state machine.
#[test]
fn triple_node() {
    let mut cluster = Cluster::of(3);
    cluster.await_leader();
    cluster.commit_many(10);
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(3).len(), 10);
}

/// The leader dies; another leads, takes commands, and the old one catches up when it is back.
#[test]
fn leader_fail() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    cluster.crash(1);
    let leader = cluster.await_leader();
    assert_ne!(leader, 1);
    cluster.commit_many(10);
    cluster.restart(1);
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(1).len(), 20);
}

/// braft has witnesses; we have learners, which never lead: two voters and a learner lose one
/// voter, and nobody leads until it is back, since a learner's copy is no vote.
#[test]
fn leader_fail_with_witness() {
    let mut cluster = Setup::voters([1, 2]).learners(&[3]).start();
    cluster.elect(1);
    cluster.commit_many(10);
    cluster.crash(1);
    cluster.run(ms(20_000));
    assert_eq!(cluster.leader(), None);
    assert_eq!(cluster.role(3), Role::Follower, "a learner never campaigns");
    cluster.restart(1);
    cluster.await_leader();
    cluster.await_agreement(&[1, 2, 3]);
}

/// A node that comes back with its log but without the record of term and vote takes a term above
/// its log's, so it cannot vote twice in an old one.
#[test]
fn restart_without_stable_meta() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(10);
    cluster.crash(3);
    let mut disk = cluster.image(3).clone();
    disk.hard_state = kontiki_raft::HardState::default();
    let log_term = disk.last().term.0;
    cluster.start_node(3, voters([1, 2, 3]), disk);
    assert_eq!(cluster.term(3), log_term + 1);
    // Its higher term ends the present leadership; the next one includes it.
    cluster.wait_for("a leader above its term", |c| {
        c.leader()
            .is_some_and(|leader| c.term(leader) > log_term + 1)
    });
    cluster.commit_many(10);
    cluster.await_agreement(&[1, 2, 3]);
}

/// A node that was cut off and comes back does not depose the leader, nor raise the term.
#[test]
fn pre_vote() {
    let mut cluster = Cluster::led_by_1_of(3);
    let term = cluster.term(1);
    cluster.isolate(3);
    cluster.change_members(change::remove(3));
    cluster.commit_many(10);
    cluster.run(ms(20_000));
    cluster.heal();
    cluster.run(ms(5_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}

/// A candidate that hears no votes gives up its vote and pre-votes; once the others answer, a
/// leader is there.
#[test]
fn vote_timedout() {
    let mut cluster = Cluster::of(3);
    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::RequestVoteReply(_)));
    cluster.campaign(1);
    cluster.run(ms(20_000));
    assert_eq!(
        (cluster.leader(), cluster.term(1)),
        (None, 1),
        "one term for all attempts"
    );
    cluster.drop_nothing();
    cluster.await_leader();
}

/// Losing and regaining a follower, in whatever order, changes neither leader nor term.
#[test]
fn leader_should_not_change() {
    let mut cluster = Cluster::led_by_1_of(3);
    let term = cluster.term(1);
    for node in [2, 3] {
        cluster.crash(node);
        cluster.run(ms(10_000));
        cluster.restart(node);
        cluster.run(ms(10_000));
    }
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
}

/// A follower that missed much is brought up to date while it takes part in commits again.
#[test]
fn recover_follower() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|s| s.append_entries_max = 8)
        .start();
    cluster.elect(1);
    cluster.crash(3);
    cluster.commit_many(500);
    cluster.restart(3);
    cluster.commit_many(10);
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(3).len(), 510);
}

/// A replica whose storage cannot be true is stopped from the start; everything it is asked is
/// refused, and it can be shut down.
#[test]
fn shutdown_and_join_work_after_init_fails() {
    let mut cluster = Cluster::empty(Setup::voters([1]));
    let mut disk = crate::support::image(1, &[1, 1]);
    disk.log_start = say::id(1, 5);
    disk.entries = crate::support::entries_after(say::id(1, 5), &[1]);
    cluster.start_node(1, voters([1]), disk);
    cluster.give(1, Input::Tick);
    assert!(matches!(cluster.events(1), [Event::Failed { .. }]));
    let token = cluster.propose(1, "x");
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::Stopping)
    );
    cluster.shut_down(1);
}

/// A follower whose state machine failed acknowledges nothing more; the others go on, and after a
/// restart it is brought up to date.
#[test]
fn append_entries_when_follower_is_in_error_state() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(5);
    cluster.await_agreement(&[1, 2, 3]);
    let index = LogIndex(cluster.commit_index(3));
    cluster.give(3, Input::ApplyFailed { index });
    assert_eq!(cluster.role(3), Role::Stopped);
    let matched = cluster.peer(1, 3).match_index;
    cluster.commit_many(5);
    assert_eq!(cluster.peer(1, 3).match_index, matched);
    cluster.crash(3);
    cluster.restart(3);
    cluster.await_agreement(&[1, 2, 3]);
}

/// Starts and stops of following pair at every node, through a lost leader, a transfer and a
/// return.
#[test]
fn on_start_following_and_on_stop_following() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.crash(1);
    let leader = cluster.await_leader();
    cluster.restart(1);
    cluster.run(ms(500));
    let other = 5 - leader;
    cluster.transfer(leader, other);
    cluster.wait_for("the other leads", |c| c.leads(other));
    cluster.run(ms(500));
    for node in 1..=3 {
        let mut following = None;
        for event in cluster.events(node) {
            match *event {
                Event::StartedFollowing { leader, term } => {
                    assert_eq!(following.replace((leader, term)), None, "node {node}");
                }
                // A crash ends a following without an event; only node 1 crashed, as leader.
                Event::StoppedFollowing { leader, term, .. } => {
                    assert_eq!(following.take(), Some((leader, term)), "node {node}");
                }
                _ => {}
            }
        }
        assert_eq!(following.is_some(), node != other, "node {node}");
    }
    let first = cluster.events(other).iter().find_map(|event| match event {
        Event::StoppedFollowing { leader, reason, .. } => Some((*leader, *reason)),
        _ => None,
    });
    assert_eq!(first.map(|(leader, _)| leader), Some(NodeId(1)));
}

/// What the core's side of read_committed_user_log is: user entries and internal ones are told
/// apart by their kind, everything up to the applied index is on disk or in a snapshot, and what is
/// compacted is reported as such.
#[test]
fn read_committed_user_log() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(5);
    cluster.change_members(change::remove(3));
    cluster.commit_many(5);
    let applied = cluster.status(1).applied_index;
    let is_user = |entry: &&kontiki_raft::Entry| {
        matches!(entry.kind, kontiki_raft::EntryKind::Command(_)) && entry.id.index <= applied
    };
    let log = &cluster.image(1).entries;
    let indexes: Vec<u64> = log
        .iter()
        .filter(is_user)
        .map(|entry| entry.id.index.0)
        .collect();
    assert_eq!(
        indexes,
        [2, 3, 4, 5, 6, 8, 9, 10, 11, 12],
        "1 and 7 are configurations"
    );
    cluster.compact(1);
    let read = cluster.image(1).read(LogIndex(2), LogIndex(2), 1 << 20);
    assert_eq!(read, Err(kontiki_raft::ReadError::Compacted));
}

/// A group that begins from a snapshot (braft's bootstrap with one; its spelling).
#[test]
fn boostrap_with_snapshot() {
    let mut cluster = Cluster::empty(Setup::voters([1]));
    cluster.start_blank(1);
    let meta = say::snapshot(say::id(1, 100), configuration([1]));
    let commands = vec!["bootstrapped".to_string()];
    cluster
        .replica(1)
        .disk
        .publish(crate::support::Saved { meta, commands });
    cluster.crash(1);
    cluster.restart(1);
    let index = cluster.commit("on top");
    assert!(index > LogIndex(100));
    assert_eq!(cluster.commands(1), ["bootstrapped", "on top"]);
    assert!(cluster.term(1) > 1, "above the snapshot's term");
}

/// A group that begins from an initial membership only.
#[test]
fn boostrap_without_snapshot() {
    let mut cluster = Cluster::of(1);
    cluster.commit("first");
    cluster.crash(1);
    // The initial membership counts only while nothing is on disk.
    let disk = cluster.image(1).clone();
    cluster.start_node(1, voters([7, 8, 9]), disk);
    cluster.commit("second");
    assert_eq!(cluster.commands(1), ["first", "second"]);
}

/// Appends that overtake one another are put right without a snapshot and without a lost entry.
#[test]
fn follower_handle_out_of_order_append_entries() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|s| s.append_entries_max = 1)
        .start();
    cluster.elect(1);
    let mut number = 0;
    cluster.hold_messages(move |envelope| {
        number += 1;
        envelope.to == NodeId(2) && is_append(envelope) && number % 3 == 0
    });
    for number in 0..50 {
        cluster.propose(1, &format!("{number}"));
    }
    cluster.run(ms(5));
    assert!(!cluster.network.held().is_empty());
    cluster.release_messages();
    cluster.await_agreement(&[1, 2, 3]);
    assert_eq!(cluster.commands(2).len(), 50);
}

/// Read-only: of the leader itself, of a majority, and back; reads and membership changes go on.
#[test]
fn readonly() {
    let mut cluster = Cluster::led_by_1_of(3);
    let refused = Outcome::Rejected(RejectReason::ReadOnly);
    cluster.give(1, Input::SetReadOnly(true));
    let token = cluster.propose(1, "x");
    assert_eq!(cluster.outcome(token), refused);
    let read = cluster.read(1, ReadMode::Quorum);
    assert!(matches!(cluster.await_outcome(read), Outcome::ReadAt(_)));
    cluster.give(1, Input::SetReadOnly(false));
    cluster.commit("writable");

    cluster.give(2, Input::SetReadOnly(true));
    cluster.run(ms(200));
    cluster.commit("one read-only follower");
    assert!(cluster.peer(1, 2).read_only);
    cluster.give(3, Input::SetReadOnly(true));
    cluster.run(ms(200));
    let token = cluster.propose(1, "x");
    assert_eq!(cluster.outcome(token), refused);
    assert!(cluster.status(1).group_read_only);
    // A writable newcomer gives the group back a writable majority.
    for node in [4, 5] {
        cluster.start_blank(node);
    }
    cluster.change_members(change::replace_by([1, 2, 3, 4, 5]));
    cluster.run(ms(200));
    cluster.commit("three of five are writable");
    // A follower goes on applying, read-only or not.
    cluster.await_agreement(&[1, 2, 3, 4, 5]);
}
