//! Leadership transfer, and leaders that leave.

use crate::support::{Cluster, Outcome, Setup, change, ms, say};
use kontiki_raft::{Event, NodeId, RejectReason, Role, StopReason};

use super::{is_append, is_timeout_now};

/// Leadership moves to the named node; events pair.
#[test]
fn leader_transfer() {
    let mut cluster = Cluster::led_by_1_of(3);
    let token = cluster.transfer(1, 3);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 3);
    assert_eq!(
        cluster.leaderships(1),
        [(1, None), (1, Some(StopReason::Transfer))]
    );
    assert_eq!(cluster.leaderships(3), [(2, None)]);
    // To oneself is nothing to do.
    let token = cluster.transfer(3, 3);
    assert_eq!(cluster.outcome(token), Outcome::Done);
    // A follower cannot hand over.
    let token = cluster.transfer(1, 2);
    let reason = RejectReason::NotLeader {
        leader: Some(NodeId(3)),
    };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
}

/// braft lets a witness lead for a moment; our learner never does, it is refused as a target and
/// does not obey an order either.
#[test]
fn leader_witness_temporary_be_leader() {
    let mut cluster = Setup::voters([1, 2]).learners(&[3]).start();
    cluster.elect(1);
    let token = cluster.transfer(1, 3);
    let reason = RejectReason::NotVoter { node: NodeId(3) };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    cluster.receive(3, 1, 1, say::timeout_now());
    assert_eq!((cluster.role(3), cluster.term(3)), (Role::Follower, 1));
}

/// braft's name, its spelling included: the target has not all of the log yet. It is not told to
/// campaign, the attempt times out, the leader resumes; once the target has caught up it works.
#[test]
fn leader_transfer_before_log_is_compleleted() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.drop_messages(|e| e.to == NodeId(2) && is_append(e));
    cluster.commit("not at 2");
    let token = cluster.transfer(1, 2);
    cluster.run(ms(500));
    let refused = cluster.propose(1, "meanwhile");
    assert_eq!(
        cluster.outcome(refused),
        Outcome::Rejected(RejectReason::Transferring)
    );
    let Outcome::Rejected(RejectReason::TransferTimedOut { node, lag }) =
        cluster.await_outcome(token)
    else {
        panic!("{:?}", cluster.outcome(token));
    };
    assert_eq!((node, lag.entries), (NodeId(2), 1));
    cluster.drop_nothing();
    cluster.commit("again");
    cluster.await_agreement(&[1, 2, 3]);
    let token = cluster.transfer(1, 2);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
}

/// The target dies in the attempt: the leader resumes in the same term, says so to its state
/// machine, and takes commands.
#[test]
fn leader_transfer_resume_on_failure() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.drop_messages(is_timeout_now);
    let token = cluster.transfer(1, 2);
    cluster.crash(2);
    cluster.await_outcome(token);
    let expected = [(1, None), (1, Some(StopReason::Transfer)), (1, None)];
    assert_eq!(cluster.leaderships(1), expected);
    let epochs: Vec<u64> = cluster
        .events(1)
        .iter()
        .filter_map(|event| match event {
            Event::LeaderStarted { lease_epoch, .. } => Some(*lease_epoch),
            _ => None,
        })
        .collect();
    assert_eq!(epochs, [1, 2], "the same term, another epoch");
    cluster.commit("resumed");
}

/// A leader that goes down in order wakes the best follower: no election timeout passes.
#[test]
fn shutting_leader_triggers_timeout_now() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(5);
    let before = cluster.now;
    cluster.shut_down(1);
    assert_eq!(cluster.sent(is_timeout_now), 1);
    cluster.await_leader();
    assert!(cluster.now.since(before) < ms(100));
}

/// So does a leader that is removed.
#[test]
fn removing_leader_triggers_timeout_now() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.change_members(change::remove(1));
    let before = cluster.now;
    assert_eq!(cluster.sent(is_timeout_now), 1);
    cluster.await_leader();
    assert!(cluster.now.since(before) < ms(100));
}

/// A follower that has just installed a snapshot can be handed leadership.
#[test]
fn transfer_should_work_after_install_snapshot() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.crash(3);
    cluster.commit_many(10);
    cluster.compact(1);
    cluster.restart(3);
    cluster.await_agreement(&[1, 2, 3]);
    let token = cluster.transfer(1, 3);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 3);
}
