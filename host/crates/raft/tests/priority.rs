//! Who leads by preference: election order, takeovers, drained members.

use crate::support::{Cluster, Outcome, Setup, change, ms};
use kontiki_raft::{
    Event, Input, MessageBody, NodeId, RejectReason, Role, Settings, StopReason, TransferTarget,
};

const LONG: u64 = 20_000;

fn prefer(cluster: &mut Cluster, ranks: &[(u64, u32)]) {
    for &(node, priority) in ranks {
        cluster.set(node, |settings| settings.priority = priority);
    }
}

fn drain(cluster: &mut Cluster, node: u64) {
    cluster.give(node, Input::SetDrained(true));
}

fn takeovers(cluster: &Cluster, node: u64) -> usize {
    let events = cluster.events(node).iter();
    events
        .filter(|event| matches!(event, Event::TakeoverStarted { .. }))
        .count()
}

/// Voters `first..first + N`; other ids draw other timeouts.
fn group<const N: usize>(first: u64, change: impl FnOnce(&mut Settings)) -> Cluster {
    Setup::voters::<N>(std::array::from_fn(|n| first + n as u64))
        .with(change)
        .start()
}

/// The next in rank leads after each crash, whatever timeouts are drawn: of three, where its own
/// vote is needed, and of five, where it is not.
#[test]
fn the_next_in_rank_is_elected_when_a_leader_dies() {
    for trial in 1..=40 {
        for leases in [false, true] {
            let a = 10 * trial;
            let with = |s: &mut Settings| s.leader_lease = leases;
            let mut five = group::<5>(a, with);
            prefer(&mut five, &[(a, 300), (a + 1, 200), (a + 3, 250)]);
            five.elect(a);
            for next in [a + 3, a + 1] {
                five.crash(five.leader().unwrap());
                assert_eq!(five.await_leader(), next, "trial {trial}, leases {leases}");
                five.run(ms(500));
            }
            let mut three = group::<3>(a, with);
            prefer(&mut three, &[(a, 300), (a + 1, 200)]);
            three.elect(a);
            three.crash(a);
            assert_eq!(
                three.await_leader(),
                a + 1,
                "trial {trial}, leases {leases}"
            );
        }
    }
}

/// A preferred member that is gone as well delays one attempt by half a timeout, and no more.
#[test]
fn a_dead_preferred_member_costs_half_a_timeout() {
    for trial in 1..=40 {
        let a = 10 * trial;
        let mut cluster = group::<5>(a, |_| {});
        prefer(&mut cluster, &[(a, 300), (a + 1, 200)]);
        cluster.elect(a);
        let crashed_at = cluster.now;
        cluster.crash(a);
        cluster.crash(a + 1);
        cluster.await_leader();
        let took = cluster.now.since(crashed_at);
        assert!(took < ms(3_000), "trial {trial}: {took:?}");
    }
}

#[test]
fn leadership_comes_back_to_the_preferred_member() {
    let mut cluster = Cluster::of(3);
    prefer(&mut cluster, &[(3, 200)]);
    cluster.elect(1);
    assert_eq!(takeovers(&cluster, 1), 0, "not at once");
    cluster.run(ms(3_000));
    assert_eq!(cluster.leader(), Some(3));
    cluster.crash(3);
    let other = cluster.await_leader();
    cluster.commit_many(5);
    cluster.restart(3);
    prefer(&mut cluster, &[(3, 200)]);
    cluster.run(ms(1_500));
    assert_eq!(cluster.leader(), Some(other), "not before it is settled");
    cluster.run(ms(3_500));
    assert_eq!(cluster.leader(), Some(3));
    let stopped = cluster.leaderships(other).last().and_then(|(_, why)| *why);
    assert_eq!(stopped, Some(StopReason::Transfer));
}

#[test]
fn equal_priorities_and_a_switched_off_takeover_move_nothing() {
    let mut equal = Cluster::led_by_1_of(3);
    equal.run(ms(LONG));
    assert_eq!((equal.leader(), takeovers(&equal, 1)), (Some(1), 0));
    let mut off = group::<3>(1, |s| s.priority_takeover = false);
    prefer(&mut off, &[(3, 200)]);
    off.elect(1);
    off.run(ms(LONG));
    assert_eq!((off.leader(), takeovers(&off, 1)), (Some(1), 0));
}

/// A takeover is a transfer: not while the membership changes, and not to a member that lags or is
/// silent.
#[test]
fn no_takeover_without_the_conditions_of_a_transfer() {
    let mut cluster = Cluster::of(3);
    prefer(&mut cluster, &[(3, 200)]);
    cluster.elect(1);
    // The newcomer answers nothing, so that the change stays in its catch-up.
    cluster.start_blank(9);
    cluster.isolate(9);
    let token = cluster.change(1, change::add(9));
    cluster.run(ms(5_000));
    assert_eq!(cluster.outcome(token), Outcome::Pending);
    assert_eq!(takeovers(&cluster, 1), 0);
    let mut lags = Cluster::of(3);
    lags.elect(1);
    lags.hold_disk(3);
    lags.commit_many(3);
    prefer(&mut lags, &[(3, 200)]);
    lags.run(ms(5_000));
    assert_eq!((lags.leader(), takeovers(&lags, 1)), (Some(1), 0));
    lags.release_disk(3);
    lags.run(ms(5_000));
    assert_eq!(lags.leader(), Some(3));
}

/// Attempts that come to nothing become rare, and the leader goes on in between.
#[test]
fn a_takeover_that_fails_cannot_flap() {
    let mut cluster = Cluster::of(3);
    prefer(&mut cluster, &[(3, 200)]);
    cluster.elect(1);
    let term = cluster.term(1);
    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::TimeoutNow(_)));
    // At 2, 6, 14, 30, 62, 126, 190 election timeouts, give or take a heartbeat each.
    cluster.run(ms(200_000));
    assert_eq!(takeovers(&cluster, 1), 7);
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
    cluster.commit("still led by 1");
}

/// The preferred member always fails as soon as it leads: what the others do about it is bounded
/// all the same, since they remember across their own leaderships.
#[test]
fn a_preferred_member_that_always_fails_costs_little() {
    let mut cluster = Cluster::of(3);
    prefer(&mut cluster, &[(3, 200)]);
    cluster.elect(1);
    let mut failures = 0;
    for _ in 0..3_000 {
        cluster.run(ms(100));
        if cluster.leader() == Some(3) {
            failures += 1;
            cluster.crash(3);
            cluster.await_leader();
            cluster.restart(3);
            prefer(&mut cluster, &[(3, 200)]);
        }
    }
    // Seven for each of the two others in 300 election timeouts.
    assert!((2..=14).contains(&failures), "{failures}");
}

#[test]
fn a_drained_member_campaigns_last() {
    for trial in 1..=20 {
        let a = 10 * trial;
        let mut cluster = group::<5>(a, |_| {});
        cluster.elect(a);
        drain(&mut cluster, a + 1);
        prefer(&mut cluster, &[(a + 1, 500)]);
        cluster.run(ms(200));
        cluster.crash(a);
        let leader = cluster.await_leader();
        assert_ne!(leader, a + 1, "trial {trial}");
    }
}

/// A group is led from a drained member rather than not at all, and only for as long as it must.
#[test]
fn a_drained_member_leads_where_nobody_else_can() {
    let mut cluster = Cluster::led_by_1_of(3);
    drain(&mut cluster, 2);
    prefer(&mut cluster, &[(3, 0)]);
    cluster.crash(1);
    let crashed_at = cluster.now;
    cluster.run(ms(3_500));
    assert_eq!(cluster.leader(), None, "others have had no chance yet");
    assert_eq!(cluster.await_leader(), 2);
    let took = cluster.now.since(crashed_at);
    assert!(took < ms(9_000), "{took:?}");
    cluster.run(ms(LONG));
    assert_eq!(cluster.leader(), Some(2), "priority 0 takes nothing over");
    cluster.restart(1);
    cluster.run(ms(5_000));
    assert_eq!(cluster.leader(), Some(1));
}

#[test]
fn the_only_voter_leads_though_drained() {
    let mut cluster = Cluster::led_by_1_of(1);
    drain(&mut cluster, 1);
    cluster.crash(1);
    cluster.restart(1);
    drain(&mut cluster, 1);
    cluster.run(ms(2_000));
    assert_eq!(cluster.leader(), Some(1));
}

/// A drain or a priority of 0 ends an election that nobody ordered, in either stage.
#[test]
fn a_candidate_that_is_drained_gives_up() {
    let stops: [fn(&mut Cluster, u64); 2] = [drain, |cluster, node| prefer(cluster, &[(node, 0)])];
    for stop in stops {
        for in_vote in [false, true] {
            let mut cluster = Cluster::led_by_1_of(3);
            cluster.drop_messages(move |e| match &e.message.body {
                MessageBody::RequestVote(request) => request.pre_vote != in_vote,
                _ => false,
            });
            cluster.crash(1);
            let wanted = if in_vote {
                Role::Candidate
            } else {
                Role::PreCandidate
            };
            cluster.wait_for("somebody campaigns", |c| {
                [2, 3].iter().any(|&n| c.status(n).role == wanted)
            });
            let candidate = if cluster.status(2).role == wanted {
                2
            } else {
                3
            };
            stop(&mut cluster, candidate);
            assert_eq!(cluster.status(candidate).role, Role::Follower);
            cluster.drop_nothing();
            assert_eq!(cluster.await_leader(), 5 - candidate);
        }
    }
}

#[test]
fn the_best_successor_is_preferred_and_not_drained() {
    let mut cluster = group::<5>(1, |s| s.priority_takeover = false);
    prefer(&mut cluster, &[(2, 150), (3, 200), (4, 0)]);
    cluster.elect(1);
    let best = cluster.transfer_to(1, TransferTarget::Best);
    assert_eq!(cluster.await_outcome(best), Outcome::Done);
    assert_eq!(cluster.await_leader(), 3);
    drain(&mut cluster, 2);
    drain(&mut cluster, 1);
    cluster.run(ms(300));
    let best = cluster.transfer_to(3, TransferTarget::Best);
    assert_eq!(cluster.await_outcome(best), Outcome::Done);
    assert_eq!(
        cluster.await_leader(),
        5,
        "the rest is drained or of priority 0"
    );
}

/// With nobody else left a drained member does after all; a stopping leader wakes the same.
#[test]
fn a_drained_successor_is_better_than_none() {
    let mut cluster = Cluster::led_by_1_of(3);
    drain(&mut cluster, 2);
    cluster.run(ms(200));
    cluster.shut_down(1);
    assert_eq!(cluster.await_leader(), 3);
    cluster.restart(1);
    cluster.run(ms(1_500));
    drain(&mut cluster, 1);
    cluster.run(ms(300));
    cluster.shut_down(3);
    assert!([1, 2].contains(&cluster.await_leader()));
}

/// Who names a drained member gets it, until another can lead: a drain holds until it is undone.
#[test]
fn an_operator_may_name_a_drained_member() {
    let mut cluster = Cluster::led_by_1_of(3);
    drain(&mut cluster, 2);
    let token = cluster.transfer(1, 2);
    assert_eq!(cluster.await_outcome(token), Outcome::Done);
    assert_eq!(cluster.await_leader(), 2);
    cluster.run(ms(4_000));
    assert_ne!(cluster.leader(), Some(2));
    let back = cluster.leader().unwrap();
    cluster.give(2, Input::SetDrained(false));
    cluster.run(ms(LONG));
    assert_eq!(cluster.leader(), Some(back));
}

/// A drained leader hands over even where priorities are told to move nothing.
#[test]
fn a_drained_leader_hands_over_by_itself() {
    let mut cluster = group::<3>(1, |s| s.priority_takeover = false);
    cluster.elect(1);
    drain(&mut cluster, 1);
    cluster.run(ms(4_000));
    assert!(cluster.leader().is_some_and(|leader| leader != 1));
}

/// An operator's transfer is refused while a takeover is under way, as during any other.
#[test]
fn a_takeover_under_way_is_told_like_any_transfer() {
    let mut cluster = Cluster::of(3);
    prefer(&mut cluster, &[(3, 200)]);
    cluster.elect(1);
    cluster.drop_messages(|e| matches!(e.message.body, MessageBody::TimeoutNow(_)));
    cluster.wait_for("a takeover begins", |c| c.status(1).transfer.is_some());
    let status = cluster.status(1);
    assert_eq!(status.transfer.map(|t| t.target), Some(NodeId(3)));
    let token = cluster.transfer(1, 2);
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::Transferring)
    );
    let refused = cluster.propose(1, "x");
    assert_eq!(
        cluster.outcome(refused),
        Outcome::Rejected(RejectReason::Transferring)
    );
}

#[test]
fn the_leader_knows_what_its_members_say_of_themselves() {
    let mut cluster = Cluster::led_by_1_of(3);
    prefer(&mut cluster, &[(2, 7)]);
    drain(&mut cluster, 3);
    cluster.run(ms(200));
    let peers = cluster.status(1).peers;
    let said: Vec<_> = peers
        .iter()
        .map(|p| (p.standing.priority, p.standing.drained))
        .collect();
    assert_eq!(said, [(7, false), (100, true)]);
    assert!(cluster.status(3).drained);
}
