//! Leases while settings differ between members, change at run time, or were changed before a
//! restart: what a leader claims is what its followers promised, and what was promised is kept.

use crate::support::{Cluster, Image, Seen, Setup, Solo, id, image, ms, say, voters};
use kontiki_raft::{
    Effect, Input, Instant, LeasePromise, LeaseStatus, MessageBody, Role, Settings, TimeoutNow,
};

fn leases(timeout_ms: u64, drift_ms: u64) -> Settings {
    Settings {
        leader_lease: true,
        election_timeout: ms(timeout_ms),
        max_clock_drift: ms(drift_ms),
        ..Settings::default()
    }
}

/// A leader that has sent a round, with the moment and the number of it.
fn leader(settings: Settings) -> (Solo, Instant, u64) {
    let interval = settings.election_timeout / settings.heartbeat_factor;
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 1, &[]);
    node.settle();
    let effects = node.wait(interval);
    let round = effects.heartbeats()[0].1.round;
    let sent_at = node.now;
    (node, sent_at, round)
}

/// How long after `sent_at` the lease is valid, to the millisecond.
fn lease_ms(node: &Solo, sent_at: Instant) -> u64 {
    let is_valid = |after: &u64| {
        let at = sent_at.plus(ms(*after));
        node.core.status(at).lease == LeaseStatus::Valid
    };
    (0..60_000).take_while(is_valid).count() as u64
}

fn set(node: &mut Solo, change: impl FnOnce(&mut Settings)) -> Vec<Effect> {
    let mut settings = node.core.settings().clone();
    change(&mut settings);
    let token = node.token();
    let settings = settings.into();
    node.give(Input::SetSettings { token, settings })
}

fn promise_in(effects: &[Effect]) -> Vec<Option<LeasePromise>> {
    let promise = |effect: &Effect| match effect {
        Effect::Send { message, .. } => match &message.body {
            MessageBody::HeartbeatReply(reply) => Some(reply.promise),
            MessageBody::AppendEntriesReply(reply) => Some(reply.promise),
            _ => None,
        },
        _ => None,
    };
    effects.iter().filter_map(promise).collect()
}

fn gives_vote(node: &mut Solo, candidate: u64, term: u64) -> bool {
    let effects = node.receive(candidate, term, say::forced_vote_request(id(term, 99)));
    effects.vote_replies()[0].1.granted
}

#[test]
fn the_lease_is_the_shorter_of_own_timeout_and_what_was_promised() {
    let cases = [
        // Own timeout and drift, the follower's timeout and drift, the lease.
        ((1_000, 200), (1_000, 200), 1_000),
        ((3_000, 200), (1_000, 200), 1_000),
        ((1_000, 200), (3_000, 200), 1_000),
        // The longer drift is taken off, whoever was told of it.
        ((1_000, 500), (1_000, 200), 700),
        ((1_500, 100), (1_000, 500), 1_000),
        ((1_000, 2_000), (1_000, 500), 0),
    ];
    for ((timeout, drift), (promised_timeout, promised_drift), expected) in cases {
        let (mut node, sent_at, round) = leader(leases(timeout, drift));
        node.receive(
            2,
            1,
            say::promising_ack(round, promised_timeout, promised_drift),
        );
        assert_eq!(
            lease_ms(&node, sent_at),
            expected,
            "{timeout} {promised_timeout}"
        );
    }
}

/// The audit's case: the leader's timeout grows while its followers promised the old one.
#[test]
fn a_leader_whose_timeout_grew_claims_no_more_than_was_promised() {
    let (mut node, sent_at, round) = leader(leases(1_000, 1_000));
    node.receive(2, 1, say::promising_ack(round, 1_000, 1_000));
    let effects = set(&mut node, |s| s.election_timeout = ms(3_000));
    assert_eq!(lease_ms(&node, sent_at), 1_000);
    // Answers of followers that were not told yet do not make it longer.
    let round = effects.heartbeats().first().map_or(round, |(_, h)| h.round);
    node.receive(3, 1, say::promising_ack(round, 1_000, 1_000));
    assert!(lease_ms(&node, sent_at) <= 1_000);
}

#[test]
fn a_leader_whose_timeout_shrank_claims_less_at_once() {
    let (mut node, sent_at, round) = leader(leases(1_000, 1_000));
    node.receive(2, 1, say::promising_ack(round, 1_000, 1_000));
    set(&mut node, |s| s.election_timeout = ms(300));
    assert_eq!(lease_ms(&node, sent_at), 300);
}

/// A peer of an earlier version, or one with leases off, promises nothing.
#[test]
fn an_answer_without_a_promise_counts_for_no_lease() {
    let (mut node, _, round) = leader(leases(1_000, 200));
    node.receive(2, 1, say::heartbeat_ack(round));
    assert_eq!(node.status().lease, LeaseStatus::Expired);
    node.receive(3, 1, say::promising_ack(round, 1_000, 200));
    assert_eq!(node.status().lease, LeaseStatus::Valid);
}

/// In a set of five two promises and the leader make a quorum, whatever the others have set.
#[test]
fn the_quorum_counts_the_members_that_promise_most() {
    let mut node = Solo::leader_with(leases(1_000, 200), voters([1, 2, 3, 4, 5]), 1, &[]);
    node.settle();
    let round = node.wait(ms(100)).heartbeats()[0].1.round;
    let sent_at = node.now;
    node.receive(2, 1, say::promising_ack(round, 900, 200));
    node.receive(3, 1, say::heartbeat_ack(round));
    assert_eq!(lease_ms(&node, sent_at), 0);
    node.receive(4, 1, say::promising_ack(round, 400, 200));
    assert_eq!(lease_ms(&node, sent_at), 400);
    node.receive(5, 1, say::promising_ack(round, 600, 200));
    assert_eq!(lease_ms(&node, sent_at), 600);
}

#[test]
fn a_follower_says_what_it_promises() {
    let mut node = Solo::with(leases(1_000, 200), voters([1, 2, 3]), image(1, &[1]));
    let effects = node.receive(2, 1, say::heartbeat(0));
    let promise = LeasePromise {
        span: ms(1_200),
        drift: ms(200),
    };
    assert_eq!(promise_in(&effects), [Some(promise)]);
    set(&mut node, |s| s.leader_lease = false);
    let effects = node.receive(2, 1, say::heartbeat(0));
    assert_eq!(promise_in(&effects), [None]);
}

/// Switching leases off at a follower, or shortening its timers, takes no promise back.
#[test]
fn a_promise_outlives_the_settings_it_was_made_under() {
    let changes: [fn(&mut Settings); 2] = [
        |s| s.leader_lease = false,
        |s| (s.election_timeout, s.max_clock_drift) = (ms(20), ms(0)),
    ];
    for change in changes {
        let mut node = Solo::with(leases(1_000, 200), voters([1, 2, 3]), image(1, &[1]));
        let heard_at = node.now.plus(ms(100));
        node.now = heard_at;
        node.receive(2, 1, say::heartbeat(0));
        set(&mut node, change);
        node.now = heard_at.plus(ms(1_199));
        assert!(!gives_vote(&mut node, 3, 2));
        node.now = heard_at.plus(ms(1_200));
        assert!(gives_vote(&mut node, 3, 2));
    }
}

/// The longest promise is durable before the answer that makes it leaves.
#[test]
fn a_longer_promise_is_on_record_before_it_is_made() {
    let mut cluster = Setup::voters([1, 2, 3]).leases(200).start();
    cluster.elect(1);
    assert_eq!(cluster.image(2).promised_span, Some(ms(1_200)));
    cluster.hold_disk(2);
    cluster.set(2, |s| s.election_timeout = ms(3_000));
    let replies = |c: &Cluster| c.sent(|e| e.from.0 == 2);
    cluster.run(ms(100));
    let before = replies(&cluster);
    cluster.run(ms(500));
    assert_eq!(replies(&cluster), before, "nothing leaves");
    assert_eq!(cluster.image(2).promised_span, Some(ms(1_200)));
    cluster.release_disk(2);
    cluster.run(ms(500));
    assert!(replies(&cluster) > before);
    assert_eq!(cluster.image(2).promised_span, Some(ms(3_200)));
}

/// The configuration says one second, but more was promised at run time.
#[test]
fn a_restarted_voter_honours_what_was_promised_at_run_time() {
    let disk = Image {
        promised_span: Some(ms(5_000)),
        ..image(1, &[1])
    };
    for settings in [leases(1_000, 200), Settings::default()] {
        let mut node = Solo::with(settings, voters([1, 2, 3]), disk.clone());
        let started_at = node.now;
        // Hearing a leader does not shorten it: it may be the one that was promised more.
        node.now = started_at.plus(ms(100));
        node.receive(2, 1, say::heartbeat(0));
        node.now = started_at.plus(ms(4_999));
        assert!(!gives_vote(&mut node, 3, 2));
        node.now = started_at.plus(ms(5_000));
        assert!(gives_vote(&mut node, 3, 2));
    }
}

/// One rise of the timers does not make every later restart wait that long.
#[test]
fn the_record_shrinks_when_the_longer_promise_is_over() {
    let mut cluster = Setup::voters([1, 2, 3]).leases(200).start();
    cluster.elect(1);
    cluster.set(2, |s| s.election_timeout = ms(5_000));
    cluster.run(ms(200));
    assert_eq!(cluster.image(2).promised_span, Some(ms(5_200)));
    cluster.set(2, |s| s.election_timeout = ms(1_000));
    cluster.run(ms(3_500));
    assert_eq!(cluster.image(2).promised_span, Some(ms(5_200)));
    cluster.run(ms(1_000));
    assert_eq!(cluster.image(2).promised_span, Some(ms(1_200)));
}

/// Leases are switched on member by member; the lease is there once a majority has them.
#[test]
fn leases_are_switched_on_and_off_while_running() {
    let mut cluster = Setup::voters([1, 2, 3]).start();
    cluster.elect(1);
    cluster.set(1, |s| s.leader_lease = true);
    cluster.run(ms(500));
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    cluster.set(3, |s| s.leader_lease = true);
    cluster.run(ms(500));
    assert_eq!(cluster.status(1).lease, LeaseStatus::Valid);
    cluster.set(3, |s| s.leader_lease = false);
    cluster.run(ms(1_500));
    assert_eq!(cluster.status(1).lease, LeaseStatus::Expired);
    assert_eq!(cluster.role(1), Role::Leader);
}

/// Whatever order the members are told in, forth and back: no two leases, and none under a newer
/// leader.
#[test]
fn no_order_of_a_rollout_gives_two_leases() {
    for order in [
        [1, 2, 3],
        [1, 3, 2],
        [2, 1, 3],
        [2, 3, 1],
        [3, 1, 2],
        [3, 2, 1],
    ] {
        for (timeout, drift) in [(3_000, 0), (300, 2_000), (1_900, 100)] {
            let mut cluster = Setup::voters([1, 2, 3]).leases(1_000).start();
            cluster.elect(1);
            for node in order {
                cluster.set(node, |s| {
                    (s.election_timeout, s.max_clock_drift) = (ms(timeout), ms(drift));
                });
                cluster.run(ms(50));
                cluster.isolate(1);
                for _ in 0..100 {
                    cluster.run(ms(40));
                    let leads = |n: &u64| cluster.role(*n) == Role::Leader;
                    let is_valid = cluster.status(1).lease == LeaseStatus::Valid;
                    assert!(
                        !([2, 3].iter().any(leads) && is_valid),
                        "{order:?} {timeout}"
                    );
                }
                cluster.heal();
                cluster.run(ms(4_000));
                cluster.elect_again(1);
            }
        }
    }
}

/// B6: the leader has heard nobody within a timeout that it was given just now.
#[test]
fn a_leader_given_a_much_shorter_timeout_stays() {
    let mut cluster = Cluster::led_by_1_of(3);
    for node in 2..=3 {
        cluster.set(node, |s| s.election_timeout = ms(100));
    }
    cluster.run(ms(350));
    let term = cluster.status(cluster.leader().expect("one leads")).term;
    let mut node = Solo::leader_with(Settings::default(), voters([1, 2, 3]), 1, &[]);
    node.settle();
    node.wait(ms(350));
    node.receive(2, 1, say::heartbeat_ack(0));
    set(&mut node, |s| s.election_timeout = ms(50));
    node.give(Input::Tick);
    assert_eq!(node.role(), Role::Leader);
    node.now = node.now.plus(ms(49));
    node.give(Input::Tick);
    assert_eq!(node.role(), Role::Leader, "a full new timeout is given");
    node.now = node.now.plus(ms(1));
    node.give(Input::Tick);
    assert_eq!(node.role(), Role::Follower, "and no more");
    assert!(term.0 >= 1);
}

/// A candidate that is bound by a lease does not go on voting, though it may not give up.
#[test]
fn a_candidate_that_may_not_give_up_waits_for_the_lease() {
    let mut settings = leases(300, 3_000);
    settings.step_down_on_vote_timeout = false;
    let mut node = Solo::with(settings, voters([1, 2, 3]), image(1, &[1]));
    node.receive(2, 1, say::heartbeat(0));
    let token = node.token();
    node.give(Input::Campaign { token });
    assert_eq!((node.role(), node.term()), (Role::Candidate, 2));
    for _ in 0..25 {
        node.wait(ms(100));
    }
    assert_eq!(node.term(), 2, "bound for 3.3 s");
    for _ in 0..40 {
        node.wait(ms(100));
    }
    assert_eq!((node.role(), node.term()), (Role::PreCandidate, 2));
}

/// It goes on with what it was told: the leader that stood down for it is named in every vote.
#[test]
fn a_candidate_that_may_not_give_up_keeps_the_word_of_the_leader() {
    let mut settings = leases(300, 3_000);
    settings.step_down_on_vote_timeout = false;
    let mut node = Solo::with(settings, voters([1, 2, 3]), image(1, &[1]));
    node.receive(2, 1, say::heartbeat(1));
    let leader_stepped_down = true;
    let order = TimeoutNow {
        leader_stepped_down,
    };
    node.receive(2, 1, MessageBody::TimeoutNow(order));
    assert_eq!((node.role(), node.term()), (Role::Candidate, 2));
    let effects = node.wait(ms(900));
    assert!(node.term() > 2, "braft's meaning: the next vote follows");
    let requests = effects.vote_requests();
    let (_, last) = requests.last().expect("it asks");
    assert_eq!(
        last.disrupted_leader.map(|(node, term)| (node.0, term.0)),
        Some((2, 1))
    );
}

/// Setting the timers is refused whole, and says what is wrong.
#[test]
fn settings_are_changed_whole_or_not_at_all() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let before = node.core.settings().clone();
    type Change = fn(&mut Settings);
    let bad: [(&str, Change); 4] = [
        ("election_timeout", |s| s.election_timeout = ms(19)),
        ("election_spread_max", |s| s.election_spread_max = ms(0)),
        ("heartbeat_factor", |s| s.heartbeat_factor = 1),
        ("max_clock_drift", |s| s.max_clock_drift = ms(600_001)),
    ];
    for (name, change) in bad {
        let effects = set(&mut node, |s| {
            s.priority = 7;
            change(s);
        });
        let refusal = effects.iter().find_map(|effect| match effect {
            Effect::Rejected { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        assert!(refusal.is_some_and(|text| text.contains(name)), "{name}");
        assert_eq!(*node.core.settings(), before);
    }
    set(&mut node, |s| {
        (s.priority, s.inflight_messages_max) = (7, 3)
    });
    assert_eq!(node.core.settings().inflight_messages_max, 3);
    assert_eq!(node.status().priority, 7);
}

/// A stopped replica answers too.
#[test]
fn a_stopped_replica_refuses_settings() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.give(Input::Shutdown);
    let effects = set(&mut node, |s| s.priority = 1);
    assert!(matches!(effects[..], [Effect::Rejected { .. }]));
}
