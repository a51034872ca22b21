//! braft's leader lease tests (test/test_leader_lease.cpp) by name.

use crate::support::{Cluster, Outcome, Setup, change, ms};
use kontiki_raft::{LeaseStatus, MessageBody, ReadMode, RejectReason, Role, StopReason};

fn with_leases(n: u64) -> Cluster {
    let mut setup = Setup::voters([]).leases(200);
    setup.members = kontiki_raft::MemberSet::of_voters((1..=n).map(kontiki_raft::NodeId));
    let mut cluster = setup.start();
    cluster.elect(1);
    cluster
}

fn lease(cluster: &Cluster, node: u64) -> (LeaseStatus, u64, u64) {
    let status = cluster.status(node);
    (status.lease, status.term.0, status.lease_epoch)
}

/// The lease is valid on the leader, expired on followers, lost with the followers and gained
/// again; asking has no side effect.
#[test]
fn triple_node() {
    let mut cluster = with_leases(3);
    assert_eq!(lease(&cluster, 1), (LeaseStatus::Valid, 1, 1));
    assert_eq!(cluster.status(2).lease, LeaseStatus::Expired);
    cluster.run(ms(10_000));
    assert_eq!(
        lease(&cluster, 1),
        (LeaseStatus::Valid, 1, 1),
        "renewed by heartbeats"
    );
    cluster.isolate(1);
    cluster.run(ms(1_000));
    for _ in 0..10 {
        assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    }
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    let leader = cluster.await_leader();
    cluster.heal();
    cluster.run(ms(500));
    assert_eq!(cluster.status(leader).lease, LeaseStatus::Valid);
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
}

/// Without the setting there is no lease to ask for.
#[test]
fn disabled() {
    let cluster = Cluster::led_by_1_of(3);
    assert_eq!(cluster.status(1).lease, LeaseStatus::Disabled);
}

/// The lease stays valid through changes of membership and counts the quorum of the time.
#[test]
fn change_peers() {
    let mut cluster = with_leases(1);
    for node in 2..=5 {
        cluster.start_blank(node);
        cluster.change_members(change::add(node));
        assert_eq!(cluster.status(1).lease, LeaseStatus::Valid, "with {node}");
    }
    // Two of five left: no quorum, no lease.
    for node in 3..=5 {
        cluster.crash(node);
    }
    cluster.run(ms(1_000));
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
}

/// A leader that removes itself has no lease afterwards, and the next leader gets one without
/// waiting for the old one to run out.
#[test]
fn leader_remove_itself() {
    let mut cluster = with_leases(3);
    cluster.change_members(change::remove(1));
    let before = cluster.now;
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    assert!(cluster.now.since(before) < ms(100));
    let leader = cluster.await_leader();
    cluster.run(ms(200));
    assert_eq!(cluster.status(leader).lease, LeaseStatus::Valid);
}

/// At the start of a transfer the lease is void; the target gets its own.
#[test]
fn transfer_leadership_success() {
    let mut cluster = with_leases(3);
    let token = cluster.transfer(1, 2);
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 2);
    cluster.run(ms(200));
    assert_eq!(lease(&cluster, 2), (LeaseStatus::Valid, 2, 1));
}

/// After a transfer that timed out the leader resumes in its term under a new epoch, and gets its
/// lease again.
#[test]
fn transfer_leadership_timeout() {
    let mut cluster = with_leases(3);
    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::TimeoutNow(_)));
    let token = cluster.transfer(1, 2);
    cluster.run(ms(500));
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    assert!(matches!(
        cluster.await_outcome(token),
        Outcome::Rejected(RejectReason::TransferTimedOut { .. })
    ));
    cluster.run(ms(200));
    assert_eq!(lease(&cluster, 1), (LeaseStatus::Valid, 1, 2));
}

/// A forced vote wins at once although leases are on, the old leader's is gone before the new one
/// leads.
#[test]
fn vote() {
    let mut cluster = with_leases(3);
    let before = cluster.now;
    cluster.campaign(3);
    cluster.wait_for("3 leads", |c| c.role(3) == Role::Leader);
    assert!(cluster.now.since(before) < ms(100));
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    cluster.run(ms(200));
    assert_eq!(cluster.status(3).lease, LeaseStatus::Valid);
    let (_, reason) = *cluster.leaderships(1).last().expect("it led");
    assert_eq!(reason, Some(StopReason::HigherTerm));
}

/// When the leader steps down for want of a quorum its lease has run out before, and nobody else
/// leads until the followers' leases have.
#[test]
fn leader_step_down() {
    let mut cluster = with_leases(3);
    cluster.run(ms(1_000));
    cluster.isolate(1);
    let cut_at = cluster.now;
    while cluster.role(1) == Role::Leader {
        let others = [2, 3]
            .into_iter()
            .any(|node| cluster.role(node) == Role::Leader);
        assert!(!others || cluster.status(1).lease == LeaseStatus::Expired);
        cluster.run(ms(10));
    }
    assert_eq!(
        cluster.leaderships(1).last(),
        Some(&(1, Some(StopReason::QuorumLost)))
    );
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
    assert!(
        cluster.now.since(cut_at) >= ms(1_000),
        "the lease was waited for"
    );
}

/// A state machine that hangs delays neither the lease nor the answers to lease reads; only the
/// read itself waits until its index is applied.
#[test]
fn apply_thread_hung() {
    let mut cluster = with_leases(3);
    cluster.hold_apply(1);
    let token = cluster.propose(1, "x");
    cluster.run(ms(10_000));
    assert_eq!(lease(&cluster, 1), (LeaseStatus::Valid, 1, 1));
    let read = cluster.read(1, ReadMode::Lease);
    let index = kontiki_raft::LogIndex(cluster.commit_index(1));
    assert_eq!(cluster.outcome(read), Outcome::ReadAt(index));
    assert!(cluster.status(1).applied_index < index, "not applied yet");
    assert_eq!(cluster.outcome(token), Outcome::Pending);
    cluster.release_apply(1);
    assert_eq!(cluster.outcome(token), Outcome::Applied(index));
}

/// A new leader has not committed anything of its term yet: the lease is not ready.
#[test]
fn not_ready() {
    let mut cluster = with_leases(3);
    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::AppendEntries(_)));
    cluster.campaign(2);
    cluster.run(ms(300));
    assert_eq!(cluster.role(2), Role::Leader);
    assert_eq!(cluster.status(2).lease, LeaseStatus::NotReady);
    cluster.drop_nothing();
    cluster.run(ms(2_000));
    assert_eq!(cluster.status(2).lease, LeaseStatus::Valid);
}

/// Chaos: crashes, cuts, transfers and forced votes in a row; at no moment do two nodes believe in
/// a valid lease.
#[test]
fn chaos() {
    let mut cluster = with_leases(5);
    for round in 0..60_u64 {
        let node = round * 7 % 5 + 1;
        match round % 5 {
            0 => cluster.isolate(node),
            1 => cluster.heal(),
            2 if cluster.is_up(node) => {
                cluster.campaign(node);
            }
            3 if cluster.is_up(node) => cluster.crash(node),
            _ => (1..=5)
                .filter(|&n| !cluster.is_up(n))
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|down| cluster.restart(down)),
        }
        for _ in 0..40 {
            cluster.run(ms(13));
            let holders = (1..=5).filter(|&n| cluster.is_up(n));
            let holders = holders.filter(|&n| cluster.status(n).lease == LeaseStatus::Valid);
            assert!(holders.count() <= 1, "two leases\n{}", cluster.describe());
        }
    }
    cluster.heal();
    for node in 1..=5 {
        if !cluster.is_up(node) {
            cluster.restart(node);
        }
    }
    cluster.commit("after all that");
}
