//! Traps of leases and clocks.

use crate::support::{Image, Outcome, Seen, Setup, Solo, id, image, ms, say, voters};
use kontiki_raft::{Input, Instant, LeaseStatus, MessageBody, ReadMode, Role, Settings};

fn leases() -> Settings {
    Settings {
        leader_lease: true,
        max_clock_drift: ms(200),
        ..Settings::default()
    }
}

/// A leader with a lease: its latest round was sent at the returned moment and answered at once.
fn leader_with_lease() -> (Solo, Instant) {
    let mut node = Solo::leader_with(leases(), voters([1, 2, 3]), 1, &[]);
    node.settle();
    let effects = node.wait(ms(100));
    let round = effects.heartbeats()[0].1.round;
    node.receive(2, 1, say::promising_ack(round, 1_000, 200));
    let now = node.now;
    assert_eq!(node.status().lease, LeaseStatus::Valid);
    (node, now)
}

/// The lease counts from when the question was sent: an answer that took long extends it by
/// little.
#[test]
fn trap_11_the_lease_counts_from_the_send_time() {
    let (mut node, first_sent) = leader_with_lease();
    let effects = node.wait(ms(100));
    let round = effects.heartbeats()[0].1.round;
    // The answer comes when the earlier lease is almost over.
    node.now = first_sent.plus(ms(950));
    node.receive(2, 1, say::promising_ack(round, 1_000, 200));
    assert_eq!(
        node.core.status(first_sent.plus(ms(1_099))).lease,
        LeaseStatus::Valid
    );
    assert_eq!(
        node.core.status(first_sent.plus(ms(1_100))).lease,
        LeaseStatus::Expired
    );
}

/// A voter that restarts has forgotten what it promised, so it honours a full lease.
#[test]
fn trap_11_a_restarted_voter_honours_the_lease_it_may_owe() {
    let mut node = Solo::with(leases(), voters([1, 2, 3]), image(1, &[1]));
    let started_at = node.now;
    let asks = |node: &mut Solo| {
        let effects = node.receive(3, 2, say::forced_vote_request(id(1, 1)));
        effects.vote_replies()[0].1.granted
    };
    node.now = started_at.plus(ms(1_199));
    assert!(!asks(&mut node));
    node.now = started_at.plus(ms(1_200));
    assert!(asks(&mut node));
}

/// As a scenario: every voter restarts while the leader's lease is valid; until it is over nobody
/// else may be elected.
#[test]
fn trap_11_no_second_leader_while_a_lease_is_valid() {
    let mut cluster = Setup::voters([1, 2, 3]).leases(200).start();
    cluster.elect(1);
    cluster.isolate(1);
    for node in [2, 3] {
        cluster.crash(node);
        cluster.restart(node);
        cluster.campaign(node);
    }
    for _ in 0..100 {
        cluster.run(ms(20));
        let other = [2, 3]
            .into_iter()
            .any(|node| cluster.role(node) == Role::Leader);
        let is_valid = cluster.status(1).lease == LeaseStatus::Valid;
        assert!(!(other && is_valid), "a second leader during a lease");
    }
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
}

/// A replica that never took part in anything owes no lease: a new group elects at once (braft's
/// "only if term 1").
#[test]
fn trap_38_a_fresh_replica_owes_no_lease() {
    let mut node = Solo::with(leases(), voters([1, 2, 3]), Image::default());
    let effects = node.receive(2, 1, say::forced_vote_request(id(0, 0)));
    assert!(effects.vote_replies()[0].1.granted);
    for disk in [image(1, &[]), image(0, &[1])] {
        let mut node = Solo::with(leases(), voters([1, 2, 3]), disk);
        let effects = node.receive(2, 9, say::forced_vote_request(id(9, 9)));
        assert!(!effects.vote_replies()[0].1.granted);
    }
}

/// Clocks that differ in rate by less than the drift allows keep the promise: the fast voter's
/// lease outlasts the slow leader's.
#[test]
fn trap_12_the_drift_covers_clocks_of_different_speed() {
    let mut cluster = Setup::voters([1, 2, 3]).leases(300).start();
    for voter in [2, 3] {
        cluster.clock_percent(voter, 120);
    }
    // Clocks are set before anything happens.
    for node in 1..=3 {
        cluster.crash(node);
        cluster.restart(node);
    }
    cluster.elect_again(1);
    cluster.run(ms(500));
    cluster.isolate(1);
    for _ in 0..400 {
        cluster.run(ms(5));
        let other = [2, 3]
            .into_iter()
            .any(|node| cluster.role(node) == Role::Leader);
        assert!(!(other && cluster.status(1).lease == LeaseStatus::Valid));
    }
    assert!(
        [2, 3]
            .into_iter()
            .any(|node| cluster.role(node) == Role::Leader)
    );
}

/// Time that goes back is not believed: leases and timers use the latest moment seen.
#[test]
fn trap_12_time_never_goes_back() {
    let (mut node, sent_at) = leader_with_lease();
    node.now = sent_at.plus(ms(1_000));
    node.give(Input::Applied {
        index: kontiki_raft::LogIndex(1),
    });
    node.now = sent_at.plus(ms(10));
    let (token, effects) = node.read(ReadMode::Lease);
    assert_eq!(effects.read_index(token), None, "the lease is over");
}

/// A transfer voids the lease before anybody is told to campaign, and reads go by a round.
#[test]
fn trap_13_a_transfer_voids_the_lease_first() {
    let (mut node, _) = leader_with_lease();
    node.ack(2, 1);
    let token = node.token();
    let target = kontiki_raft::TransferTarget::Node(kontiki_raft::NodeId(2));
    let effects = node.give(Input::TransferLeadership { token, target });
    assert!(matches!(effects.to(2)[0].body, MessageBody::TimeoutNow(_)));
    assert_ne!(node.status().lease, LeaseStatus::Valid);
    let (token, effects) = node.read(ReadMode::Lease);
    assert_eq!(effects.read_index(token), None);
}

/// Answers to questions from before a failed transfer do not bring the lease back.
#[test]
fn trap_13_a_lease_after_a_failed_transfer_begins_anew() {
    let (mut node, _) = leader_with_lease();
    node.ack(2, 1);
    let token = node.token();
    let target = kontiki_raft::TransferTarget::Node(kontiki_raft::NodeId(2));
    node.give(Input::TransferLeadership { token, target });
    let mut round = 0;
    for _ in 0..9 {
        round = node.wait(ms(100)).heartbeats()[0].1.round;
        node.receive(3, 1, say::promising_ack(round - 1, 1_000, 200));
    }
    let effects = node.wait(ms(110));
    assert!(effects.rejection(token).is_some(), "given up");
    assert_eq!(node.role(), Role::Leader, "resumed");
    node.receive(2, 1, say::promising_ack(round, 1_000, 200));
    assert_ne!(node.status().lease, LeaseStatus::Valid);
    let round = node.wait(ms(100)).heartbeats()[0].1.round;
    node.receive(2, 1, say::promising_ack(round, 1_000, 200));
    assert_eq!(node.status().lease, LeaseStatus::Valid);
}

/// With leases on, a transfer succeeds within milliseconds although the third node still honours
/// the old leader's lease: the old leader's stepping down releases it.
#[test]
fn trap_14_a_transfer_succeeds_under_leases() {
    let mut cluster = Setup::voters([1, 2, 3, 4, 5]).leases(1_000).start();
    cluster.elect(1);
    let before = cluster.now;
    let token = cluster.transfer(1, 2);
    cluster.wait_for("2 leads", |c| c.leads(2));
    assert!(
        cluster.now.since(before) < ms(100),
        "{:?}",
        cluster.now.since(before)
    );
    assert_eq!(cluster.outcome(token), Outcome::Done);
}

/// So does a forced vote.
#[test]
fn trap_14_a_forced_vote_succeeds_under_leases() {
    let mut cluster = Setup::voters([1, 2, 3, 4, 5]).leases(1_000).start();
    cluster.elect(1);
    let before = cluster.now;
    let token = cluster.campaign(3);
    assert_eq!(cluster.outcome(token), Outcome::Done);
    cluster.wait_for("3 leads", |c| c.leads(3));
    assert!(
        cluster.now.since(before) < ms(100),
        "{:?}",
        cluster.now.since(before)
    );
}

/// But a forced vote that the old leader has not heard of must wait for its lease.
#[test]
fn trap_14_a_forced_vote_without_the_old_leader_waits_for_the_lease() {
    let mut cluster = Setup::voters([1, 2, 3]).leases(500).start();
    cluster.elect(1);
    cluster.isolate(1);
    cluster.campaign(2);
    for _ in 0..60 {
        cluster.run(ms(20));
        let is_second = cluster.role(2) == Role::Leader;
        assert!(!(is_second && cluster.status(1).lease == LeaseStatus::Valid));
    }
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 1)
    });
}
