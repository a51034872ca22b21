//! Members that lag in applying: who leads meanwhile, and what is said of them.

use crate::support::{Cluster, Outcome, Setup, ms};
use kontiki_raft::{
    Input, MessageBody, NodeId, ReadMode, RejectReason, StopReason, TransferTarget,
};

/// Voters `first..first + 3`, led by the first. The third has just restarted and applies nothing
/// of what its log holds until it is allowed to.
fn with_replaying_third(first: u64) -> Cluster {
    let mut cluster = Setup::voters([first, first + 1, first + 2]).start();
    cluster.elect(first);
    cluster.commit_many(20);
    cluster.crash(first + 2);
    cluster.hold_apply(first + 2);
    cluster.restart(first + 2);
    cluster.run(ms(3_000));
    assert_eq!(cluster.leader(), Some(first));
    cluster
}

fn prefer(cluster: &mut Cluster, node: u64, priority: u32) {
    cluster.set(node, |settings| settings.priority = priority);
}

fn replay_left(cluster: &mut Cluster, node: u64) -> u64 {
    let core = cluster.replica(node).core.as_ref();
    core.expect("it runs").replay_left()
}

#[test]
fn a_preferred_member_leads_only_once_it_has_replayed() {
    let mut cluster = with_replaying_third(1);
    prefer(&mut cluster, 3, 200);
    cluster.run(ms(20_000));
    assert_eq!(cluster.leader(), Some(1));
    assert_eq!(replay_left(&mut cluster, 3), 21);
    cluster.release_apply(3);
    assert_eq!(replay_left(&mut cluster, 3), 0);
    cluster.wait_for("it leads", |c| c.leader() == Some(3));
}

/// Whatever timeouts are drawn, and whatever its priority.
#[test]
fn a_current_member_is_elected_while_another_replays() {
    for trial in 1..=30 {
        let a = 10 * trial;
        let mut cluster = with_replaying_third(a);
        if trial % 2 == 0 {
            prefer(&mut cluster, a + 2, 200);
            cluster.run(ms(300));
        }
        let crashed_at = cluster.now;
        cluster.crash(a);
        assert_eq!(cluster.await_leader(), a + 1, "trial {trial}");
        let took = cluster.now.since(crashed_at);
        assert!(took < ms(2_000), "trial {trial}: {took:?}");
    }
}

/// The heartbeat that tells the replaying member to wait is not needed.
#[test]
fn a_current_voter_refuses_one_that_replays_for_a_while() {
    for trial in 1..=30 {
        let a = 10 * trial;
        let mut cluster = Setup::voters([a, a + 1, a + 2]).start();
        cluster.elect(a);
        cluster.commit_many(20);
        cluster.run(ms(3_000));
        cluster.crash(a + 2);
        cluster.crash(a);
        cluster.hold_apply(a + 2);
        cluster.restart(a + 2);
        assert_eq!(cluster.await_leader(), a + 1, "trial {trial}");
    }
}

/// A group led with a pause is better than a group that nobody leads.
#[test]
fn a_member_that_replays_leads_if_nobody_else_can() {
    for trial in 1..=30 {
        let a = 10 * trial;
        let mut cluster = with_replaying_third(a);
        prefer(&mut cluster, a + 1, 0);
        cluster.run(ms(300));
        cluster.crash(a);
        let crashed_at = cluster.now;
        assert_eq!(cluster.await_leader(), a + 2, "trial {trial}");
        let took = cluster.now.since(crashed_at);
        assert!(took < ms(4_000), "trial {trial}: {took:?}");
    }
}

#[test]
fn a_current_voter_whose_log_is_shorter_gives_way_after_a_timeout() {
    for trial in 1..=30 {
        let a = 10 * trial;
        let mut cluster = with_replaying_third(a);
        cluster.drop_messages(move |e| {
            e.to == NodeId(a + 1) && matches!(e.message.body, MessageBody::AppendEntries(_))
        });
        cluster.commit_many(3);
        cluster.crash(a);
        cluster.drop_nothing();
        let crashed_at = cluster.now;
        assert_eq!(cluster.await_leader(), a + 2, "trial {trial}");
        let took = cluster.now.since(crashed_at);
        assert!(took < ms(4_000), "trial {trial}: {took:?}");
    }
}

#[test]
fn leadership_is_handed_to_nobody_that_replays() {
    let mut cluster = with_replaying_third(1);
    prefer(&mut cluster, 3, 200);
    cluster.run(ms(300));
    let token = cluster.transfer(1, 3);
    let Outcome::Rejected(RejectReason::TargetLags { node, lag }) = cluster.outcome(token) else {
        panic!("{:?}", cluster.outcome(token));
    };
    assert_eq!((node, lag.entries, lag.unapplied), (NodeId(3), 0, Some(21)));
    let text = RejectReason::TargetLags { node, lag }.to_string();
    assert_eq!(
        text,
        "node 3 is too far behind to lead: it lacks 0 entries (0 bytes) and has 21 to apply"
    );
    let token = cluster.transfer_to(1, TransferTarget::Best);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 2);
}

#[test]
fn a_leader_that_goes_wakes_nobody_that_replays() {
    let mut cluster = with_replaying_third(1);
    prefer(&mut cluster, 3, 200);
    cluster.run(ms(300));
    cluster.shut_down(1);
    let before = cluster.now;
    assert_eq!(cluster.await_leader(), 2);
    assert!(cluster.now.since(before) < ms(500));
}

#[test]
fn a_leader_that_still_replays_hands_over_to_a_current_member() {
    let mut cluster = with_replaying_third(1);
    cluster.campaign(3);
    cluster.run(ms(200));
    assert_eq!(cluster.leader(), Some(3));
    cluster.wait_for("another leads", |c| {
        c.leader().is_some_and(|leader| leader != 3)
    });
    let (_, reason) = *cluster.leaderships(3).last().expect("it led");
    assert_eq!(reason, Some(StopReason::Transfer));
}

/// The log that is replayed may grow meanwhile, and what was committed while the node was down
/// counts as well.
#[test]
fn a_replay_ends_with_what_was_committed_meanwhile() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.commit_many(5);
    cluster.crash(3);
    cluster.commit_many(30);
    cluster.hold_apply(3);
    cluster.restart(3);
    assert_eq!(replay_left(&mut cluster, 3), 6, "what it finds");
    cluster.run(ms(2_000));
    assert_eq!(replay_left(&mut cluster, 3), 36);
    cluster.release_apply(3);
    assert_eq!(replay_left(&mut cluster, 3), 0);
    cluster.hold_apply(3);
    cluster.commit_many(5);
    cluster.run(ms(5_000));
    assert_eq!(replay_left(&mut cluster, 3), 0, "it is no replay any more");
}

/// Reads begin rounds of heartbeats of their own; however many, what is lost is sent again.
#[test]
fn reads_do_not_put_off_what_is_due_by_the_clock() {
    let mut cluster = Cluster::led_by_1_of(3);
    prefer(&mut cluster, 3, 200);
    cluster.drop_messages(|e| {
        e.to == NodeId(2) && matches!(e.message.body, MessageBody::AppendEntries(_))
    });
    cluster.commit("lost on the way to 2");
    cluster.drop_nothing();
    let commit = cluster.commit_index(1);
    for _ in 0..100 {
        let leader = cluster.await_leader();
        cluster.read(leader, ReadMode::Quorum);
        cluster.run(ms(50));
    }
    assert!(cluster.commit_index(2) >= commit, "2 has it");
    assert_eq!(cluster.leader(), Some(3), "and 3 took over");
}

/// A node that stops when its transfer is reported done takes nothing with it that the others wait
/// for.
#[test]
fn a_transfer_is_done_when_the_new_leader_is_known() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|settings| settings.leader_lease = true)
        .start();
    cluster.elect(1);
    cluster.run(ms(2_000));
    let term = cluster.term(1);
    cluster.hold_disk(1);
    let token = cluster.transfer(1, 2);
    cluster.run(ms(300));
    assert!(cluster.term(1) > term, "it has voted, and is writing that");
    assert_eq!(cluster.outcome(token), Outcome::Pending);
    cluster.release_disk(1);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 2);
}

#[test]
fn a_transfer_that_elects_nobody_is_not_reported_done() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::RequestVoteReply(_)));
    let token = cluster.transfer(1, 2);
    cluster.run(ms(500));
    assert_eq!(cluster.outcome(token), Outcome::Pending);
    cluster.run(ms(1_000));
    let reason = RejectReason::NotLeader { leader: None };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
}

/// Voters that are bound by a lease of the leader that stops are released by its vote.
#[test]
fn a_replica_that_stops_lets_its_vote_out_when_it_is_durable() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|settings| settings.leader_lease = true)
        .start();
    cluster.elect(1);
    cluster.run(ms(2_000));
    cluster.hold_disk(1);
    cluster.transfer(1, 2);
    cluster.run(ms(300));
    cluster.give(1, Input::Shutdown);
    let before = cluster.now;
    cluster.release_disk(1);
    assert_eq!(cluster.await_leader(), 2);
    assert!(cluster.now.since(before) < ms(200));
}
