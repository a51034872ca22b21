//! Settings, limits and requests: what each refuses, and that every request is answered once.

use crate::support::{Cluster, Outcome, Seen, Setup, Solo, change, id, image, ms, say, voters};
use bytes::Bytes;
use kontiki_raft::{
    AppendEntriesReply, ConfigurationError, EntryKind, Event, Input, LogIndex, MessageBody, NodeId,
    PeerState, Proposal, ReadMode, RejectReason, Role, StopReason, Term,
};

fn command(bytes: usize) -> EntryKind {
    EntryKind::Command(Bytes::from(vec![7; bytes]))
}

fn propose(node: &mut Solo, kind: EntryKind) -> Result<Vec<kontiki_raft::Effect>, RejectReason> {
    let token = node.token();
    let proposal = Proposal {
        token,
        expected_term: None,
        time_ns: 0,
        kind,
    };
    let effects = node.give(Input::Propose(vec![proposal]));
    match effects.rejection(token) {
        Some(reason) => Err(reason.clone()),
        None => Ok(effects),
    }
}

#[test]
fn an_expected_term_that_is_over_refuses_the_command() {
    let mut cluster = Cluster::led_by_1_of(3);
    let token = cluster.propose_expecting(1, "x", Some(Term(9)));
    let reason = RejectReason::TermMismatch { term: Term(1) };
    assert_eq!(cluster.outcome(token), Outcome::Rejected(reason));
    let token = cluster.propose_expecting(1, "y", Some(Term(1)));
    assert!(matches!(cluster.await_outcome(token), Outcome::Applied(_)));
    assert_eq!(cluster.commands(1), ["y"]);
}

#[test]
fn a_command_above_the_limit_is_refused_and_one_at_it_is_taken() {
    let mut node = Solo::settled(|settings| settings.entry_size_bytes_max = 100);
    assert!(propose(&mut node, command(100)).is_ok());
    let expected = RejectReason::TooLarge {
        size_bytes: 101,
        size_bytes_max: 100,
    };
    assert_eq!(propose(&mut node, command(101)), Err(expected));
}

#[test]
fn a_configuration_is_no_command() {
    let mut node = Solo::settled(|_| {});
    let kind = EntryKind::Configuration(crate::support::configuration([1]).into());
    assert!(matches!(
        propose(&mut node, kind),
        Err(RejectReason::Invalid(_))
    ));
}

/// The backlog is bounded in bytes, and room is made by commits.
#[test]
fn a_backlog_above_the_limit_is_busy() {
    let mut node = Solo::settled(|settings| {
        settings.entry_size_bytes_max = 400;
        settings.uncommitted_size_bytes_max = 1_000;
    });
    assert!(propose(&mut node, command(400)).is_ok());
    assert!(propose(&mut node, command(400)).is_ok());
    assert_eq!(propose(&mut node, command(400)), Err(RejectReason::Busy));
    assert_eq!(
        node.status().uncommitted_size_bytes,
        864,
        "32 bytes of overhead each"
    );
    node.ack(2, 3);
    assert!(propose(&mut node, command(400)).is_ok());
}

/// The window in messages: a peer that does not answer gets no more than it, and costs nobody else.
#[test]
fn the_window_in_messages_holds_a_silent_peer_back() {
    let mut node = Solo::settled(|settings| settings.inflight_messages_max = 4);
    let mut sent = [0, 0];
    for _ in 0..20 {
        let effects = propose(&mut node, command(10)).expect("taken");
        for (to, append) in effects.appends() {
            sent[usize::try_from(to - 2).expect("2 or 3")] += append.entries.len();
        }
        // Only 2 answers.
        node.receive(2, 1, say::append_ack(u64::MAX, node.last()));
    }
    // News of commits counts as well, so it may be fewer entries than messages.
    assert!(sent[0] == 20 && sent[1] <= 4, "{sent:?}");
    let status = node.status();
    assert_eq!(status.peers[1].inflight_messages, 4);
    assert_eq!(status.commit_index, LogIndex(21));
    // One answer for all frees the window; what waited goes out in one message.
    let held = 1 + sent[1] as u64;
    let effects = node.receive(3, 1, say::append_ack(u64::MAX, held));
    let (to, append) = effects.appends()[0];
    assert_eq!((to, append.entries.len()), (3, 20 - sent[1]));
}

#[test]
fn the_window_in_bytes_holds_a_silent_peer_back() {
    let mut node = Solo::settled(|settings| settings.inflight_size_bytes_max = 2_048);
    for _ in 0..20 {
        propose(&mut node, command(500)).expect("taken");
    }
    let peer = node.status().peers[0].clone();
    // The first message that reaches the limit is the last.
    assert_eq!(peer.inflight_size_bytes, 4 * 532);
}

#[test]
fn a_message_is_cut_by_entries_and_by_bytes() {
    for (entries_max, size_bytes_max, expected) in [(3, 1 << 20, 3), (1_000, 1_024, 7)] {
        let mut node = Solo::settled(|settings| {
            settings.append_entries_max = entries_max;
            settings.append_size_bytes_max = size_bytes_max;
            settings.inflight_messages_max = 1;
        });
        for _ in 0..40 {
            propose(&mut node, command(100)).expect("taken");
        }
        let effects = node.receive(2, 1, say::append_ack(u64::MAX, 2));
        assert_eq!(effects.appends()[0].1.entries.len(), expected);
    }
}

/// A refused append that was in flight is sent again even if what it was refused for has arrived
/// since (found by the simulator: the answers of two appends overtook one another).
#[test]
fn a_refused_append_is_sent_again() {
    let mut node = Solo::settled(|_| {});
    let sequence = |effects: &[kontiki_raft::Effect]| effects.appends()[0].1.sequence;
    let first = sequence(&propose(&mut node, command(1)).expect("taken"));
    let second = sequence(&propose(&mut node, command(1)).expect("taken"));
    // The second overtook the first and was refused; its refusal comes after the first's success.
    node.receive(2, 1, say::append_ack(first, 2));
    let refusal = MessageBody::AppendEntriesReply(AppendEntriesReply {
        sequence: second,
        index: LogIndex(2),
        conflict: Some(id(1, 1)),
        read_only: false,
        promise: None,
    });
    let effects = node.receive(2, 1, refusal);
    let again = effects.appends();
    assert_eq!((again[0].0, again[0].1.entries[0].id), (2, id(1, 3)));
}

/// A peer whose messages were lost is found out anew, after a pause.
#[test]
fn an_unreachable_peer_is_probed() {
    let mut node = Solo::settled(|_| {});
    propose(&mut node, command(1)).expect("taken");
    node.give(Input::PeerUnreachable { peer: NodeId(2) });
    let peer = node.status().peers[0].clone();
    assert_eq!(
        (peer.state, peer.next_index),
        (PeerState::Probe, LogIndex(2))
    );
    let effects = propose(&mut node, command(1)).expect("taken");
    assert!(
        effects.appends().iter().all(|(to, _)| *to != 2),
        "not before the pause is over"
    );
    node.ack(3, 3);
    let effects = node.wait(ms(900));
    assert!(effects.appends().is_empty());
    let round = effects
        .heartbeats()
        .iter()
        .map(|(_, h)| h.round)
        .max()
        .expect("heartbeats");
    node.receive(3, 1, say::heartbeat_ack(round));
    let effects = node.receive(2, 1, say::heartbeat_ack(round));
    assert_eq!(
        effects.appends()[0].1.prev,
        id(1, 1),
        "it answers, so it is tried at once"
    );
}

/// braft's one-argument form keeps the sum of timeout and drift, the other sets both; what is out
/// of range is refused and changes nothing.
#[test]
fn timers_change_while_running() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let mut set = |timeout, drift: Option<u64>| {
        let token = node.token();
        let input = Input::SetTimeouts {
            token,
            election_timeout: ms(timeout),
            max_clock_drift: drift.map(ms),
        };
        let effects = node.give(input);
        let status = node.status();
        (
            effects.is_done(token),
            status.election_timeout,
            status.max_clock_drift,
        )
    };
    assert_eq!(set(1_500, None), (true, ms(1_500), ms(500)));
    assert_eq!(
        set(2_500, None),
        (false, ms(1_500), ms(500)),
        "more than the sum"
    );
    assert_eq!(set(3_000, Some(100)), (true, ms(3_000), ms(100)));
    assert_eq!(set(5, Some(0)), (false, ms(3_000), ms(100)));
    assert_eq!(set(600_001, Some(0)), (false, ms(3_000), ms(100)));
    let before = node.now;
    node.wait_for_election();
    assert!(
        node.now.since(before) >= ms(3_000),
        "the new timeout holds at once"
    );
}

/// A leader takes new timers too: heartbeats come at the new rate.
#[test]
fn a_leaders_timers_change_while_running() {
    let mut cluster = Cluster::led_by_1_of(3);
    for node in 1..=3 {
        let token = cluster.token();
        let election_timeout = ms(200);
        let max_clock_drift = None;
        cluster.give(
            node,
            Input::SetTimeouts {
                token,
                election_timeout,
                max_clock_drift,
            },
        );
        assert_eq!(cluster.outcome(token), Outcome::Done);
    }
    let is_heartbeat = |e: &crate::support::Envelope| {
        e.goes(1, 2) && matches!(e.message.body, MessageBody::Heartbeat(_))
    };
    let before = cluster.sent(is_heartbeat);
    cluster.run(ms(1_000));
    assert!((49..=52).contains(&(cluster.sent(is_heartbeat) - before)));
    assert_eq!(cluster.leader(), Some(1));
    cluster.crash(1);
    let crashed_at = cluster.now;
    cluster.await_leader();
    assert!(cluster.now.since(crashed_at) < ms(1_000));
}

/// Priority 0 never campaigns by itself, but obeys an order.
#[test]
fn a_node_without_priority_does_not_campaign() {
    let mut cluster = Cluster::of(3);
    for node in [2, 3] {
        cluster.set(node, |settings| settings.priority = 0);
    }
    assert_eq!(cluster.await_leader(), 1);
    cluster.crash(1);
    cluster.run(ms(20_000));
    assert_eq!(cluster.leader(), None);
    cluster.elect(2);
    cluster.commit("led by 2");
}

/// A voter refuses a pre-vote in favour of its own higher priority, but only where it could win
/// itself, and not for ever.
#[test]
fn a_preferred_voter_leads_if_it_can() {
    for other in 1..=10_u64 {
        // One of three is down, so that the two need each other's vote.
        let mut cluster = Setup::voters([other, 20, 30]).start();
        cluster.crash(30);
        cluster.set(20, |settings| settings.priority = 200);
        assert_eq!(cluster.await_leader(), 20, "not {other}");
    }
    let mut cluster = Cluster::of(3);
    cluster.crash(2);
    cluster.set(3, |settings| settings.priority = 200);
    cluster.drop_messages(|e| {
        e.from == NodeId(3) && matches!(e.message.body, MessageBody::RequestVote(_))
    });
    assert_eq!(cluster.await_leader(), 1, "the preferred one cannot win");
}

/// Everything pending at a shutdown is answered, and nothing is taken afterwards.
#[test]
fn a_shutdown_answers_everything() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.isolate(1);
    let mut tokens = vec![
        cluster.propose(1, "x"),
        cluster.read(1, ReadMode::Quorum),
        cluster.change(1, change::add(9)),
    ];
    cluster.give(1, Input::Shutdown);
    assert_eq!(
        cluster.outcome(tokens[0]),
        Outcome::Rejected(RejectReason::LeadershipLost)
    );
    tokens.push(cluster.propose(1, "y"));
    tokens.push(cluster.read(1, ReadMode::Lease));
    tokens.push(cluster.campaign(1));
    tokens.push(cluster.transfer(1, 2));
    for token in tokens {
        assert!(
            matches!(cluster.outcome(token), Outcome::Rejected(_)),
            "{token:?}"
        );
    }
    assert_eq!(
        cluster.leaderships(1).last(),
        Some(&(1, Some(StopReason::Shutdown)))
    );
}

/// What was appended by a leader that is deposed is unknown; what was refused is not.
#[test]
fn an_outcome_is_unknown_only_if_the_entry_was_appended() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.isolate(1);
    let appended = cluster.propose(1, "x");
    cluster.run(ms(3_000));
    let refused = cluster.propose(1, "y");
    let unknown = |cluster: &Cluster, token| match cluster.outcome(token) {
        Outcome::Rejected(reason) => reason.is_unknown(),
        other => panic!("{other:?}"),
    };
    assert!(unknown(&cluster, appended));
    assert!(!unknown(&cluster, refused));
    cluster.heal();
    cluster.await_leader();
    cluster.commit("z");
    cluster.await_agreement(&[1, 2, 3]);
    assert!(!cluster.commands(1).contains(&"y".to_owned()));
}

/// A follower's question that gets no answer is given up after an election timeout.
#[test]
fn a_follower_read_without_an_answer_is_given_up() {
    let mut cluster = Cluster::led_by_1_of(3);
    cluster.cut_one_way(2, 1);
    let before = cluster.now;
    let token = cluster.read(2, ReadMode::Quorum);
    let outcome = cluster.await_outcome(token);
    let silent = RejectReason::LeaderSilent { leader: NodeId(1) };
    assert_eq!(outcome, Outcome::Rejected(silent));
    assert_eq!(cluster.now.since(before), ms(1_000));
}

/// A newcomer that answers but is slow has more time than the limit; one that falls silent has not.
#[test]
fn a_slow_newcomer_has_time_while_it_answers() {
    let mut cluster = Setup::voters([1])
        .with(|settings| {
            settings.catch_up_timeout = ms(1_000);
            settings.catch_up_margin_entries = 1;
            settings.append_entries_max = 1;
            settings.inflight_messages_max = 1;
        })
        .start();
    cluster.await_leader();
    cluster.commit_many(200);
    cluster.start_blank(2);
    cluster.network.latency = ms(10);
    let token = cluster.change(1, change::add(2));
    cluster.run(ms(2_500));
    assert_eq!(
        cluster.outcome(token),
        Outcome::Pending,
        "twice the limit, and getting on"
    );
    let progress = cluster.status(1).catching_up[0].clone();
    assert!(
        progress.entries_done > 50 && progress.entries_left > 10,
        "{progress:?}"
    );
    assert_eq!(cluster.await_outcome(token), Outcome::Done);

    cluster.start_blank(3);
    let token = cluster.change(1, change::add(3));
    cluster.run(ms(500));
    cluster.crash(3);
    let reason = RejectReason::CatchUpFailed { node: NodeId(3) };
    assert_eq!(cluster.await_outcome(token), Outcome::Rejected(reason));
}

/// Impossible changes are refused at once, with the reason.
#[test]
fn impossible_changes_are_refused_with_the_reason() {
    let mut cluster = Cluster::led_by_1_of(3);
    let both = crate::support::learner_set(&[1, 2], &[2]);
    let cases = [
        (change::remove(9), ConfigurationError::NotMember(NodeId(9))),
        (change::add(2), ConfigurationError::NoChange),
        (change::replace_by([]), ConfigurationError::NoVoters),
        (
            kontiki_raft::ConfigurationChange::Replace(both),
            ConfigurationError::VoterAndLearner(NodeId(2)),
        ),
    ];
    for (change, error) in cases {
        let token = cluster.change(1, change);
        let expected = Outcome::Rejected(RejectReason::Configuration(error));
        assert_eq!(cluster.outcome(token), expected);
    }
    let mut cluster = Cluster::led_by_1_of(1);
    let token = cluster.change(1, change::remove(1));
    let error = ConfigurationError::NoVoters;
    assert_eq!(
        cluster.outcome(token),
        Outcome::Rejected(RejectReason::Configuration(error))
    );
}

/// Looking changes nothing: the same inputs with and without status in between give the same.
#[test]
fn looking_has_no_effect() {
    let mut seen = Vec::new();
    for looks in [false, true] {
        let mut cluster = Setup::voters([1, 2, 3]).leases(100).start();
        for round in 0..20 {
            cluster.run(ms(333));
            if looks {
                for node in 1..=3 {
                    cluster.status(node);
                }
            }
            if round == 10 {
                cluster.isolate(1);
            }
        }
        let sent: Vec<_> = cluster
            .network
            .sent
            .iter()
            .map(|e| format!("{e:?}"))
            .collect();
        seen.push(sent);
    }
    assert_eq!(seen[0], seen[1]);
}

/// One slow member costs the others nothing: commits go on at the speed of the majority, and the
/// leader keeps no more in memory than it may.
#[test]
fn a_dead_follower_costs_a_bounded_amount_of_memory() {
    let mut cluster = Setup::voters([1, 2, 3])
        .with(|settings| settings.cache_size_bytes_max = 10_000)
        .start();
    cluster.elect(1);
    cluster.crash(3);
    for number in 0..500 {
        cluster.commit(&format!("a command with a body of some length {number}"));
    }
    assert!(cluster.status(1).cache_size_bytes <= 10_000);
    cluster.restart(3);
    cluster.await_agreement(&[1, 2, 3]);
}

/// Started and stopped leaderships pair strictly over a long and eventful life.
#[test]
fn leaderships_pair() {
    let mut cluster = Cluster::of(3);
    for round in 0..12 {
        let leader = cluster.await_leader();
        match round % 4 {
            0 => {
                cluster.transfer(leader, leader % 3 + 1);
            }
            1 => cluster.isolate(leader),
            2 => cluster.heal(),
            _ => {
                cluster.campaign(leader % 3 + 1);
            }
        }
        cluster.run(ms(3_000));
    }
    for node in 1..=3 {
        let mut leads = false;
        for event in cluster.events(node) {
            match event {
                Event::LeaderStarted { .. } => assert!(!std::mem::replace(&mut leads, true)),
                Event::LeaderStopped { .. } => assert!(std::mem::replace(&mut leads, false)),
                _ => {}
            }
        }
        assert_eq!(leads, cluster.role(node) == Role::Leader);
    }
}
