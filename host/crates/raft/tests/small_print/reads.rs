//! Reads.

use crate::support::{Image, Seen, Solo, ms, say, voters};
use kontiki_raft::{
    Effect, Input, LogIndex, MessageBody, ReadIndexReply, ReadMode, RejectReason, Token,
};

/// The number of the round that the effects begin.
fn round(effects: &[Effect]) -> u64 {
    effects.heartbeats()[0].1.round
}

#[test]
fn one_read_costs_one_round() {
    let mut node = Solo::settled(|_| {});
    let (token, asked) = node.read(ReadMode::Quorum);
    let confirmed = node.receive(2, 1, say::heartbeat_ack(round(&asked)));
    assert_eq!(confirmed.read_index(token), Some(node.commit()));
    assert!(confirmed.heartbeats().is_empty());
}

#[test]
fn a_read_that_a_round_under_way_will_confirm_begins_none() {
    let mut node = Solo::settled(|_| {});
    let (_, first) = node.read(ReadMode::Quorum);
    let (second, asked) = node.read(ReadMode::Quorum);
    assert!(asked.heartbeats().is_empty(), "it waits for the next round");
    let next = node.wait(ms(100));
    let confirmed = node.receive(2, 1, say::heartbeat_ack(round(&first)));
    assert!(confirmed.heartbeats().is_empty(), "the next is under way");
    let confirmed = node.receive(2, 1, say::heartbeat_ack(round(&next)));
    assert!(confirmed.read_index(second).is_some());
}

/// An answer to a round that began before the question proves nothing.
#[test]
fn a_read_that_waited_for_the_leader_to_be_ready_needs_a_round_of_its_own() {
    let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1]);
    let before = node.wait(ms(100));
    let (token, _) = node.read(ReadMode::Quorum);
    node.receive(2, 2, say::heartbeat_ack(round(&before)));
    let ready = node.ack(2, node.last());
    assert_eq!(node.commit(), node.last());
    assert_eq!(ready.read_index(token), None);
    let late = node.receive(3, 2, say::heartbeat_ack(round(&before)));
    assert_eq!(late.read_index(token), None);
    let confirmed = node.receive(2, 2, say::heartbeat_ack(round(&ready)));
    assert_eq!(confirmed.read_index(token), Some(node.last()));
}

#[test]
fn reads_of_a_follower_count_as_pending_with_and_without_a_leader() {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    node.follow(2, 1);
    for expected in 1..=3 {
        node.read(ReadMode::Quorum);
        assert_eq!(node.status().reads_pending, expected);
    }
    node.receive(3, 2, say::vote_request(node.last_id()));
    node.wait(ms(1));
    node.receive(3, 2, say::vote_request(node.last_id()));
    assert_eq!(node.status().reads_pending, 3);
}

/// Each has its own time, whatever order they lost their leader in.
#[test]
fn a_read_that_finds_no_leader_is_given_up_in_its_own_time() {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    node.follow(2, 1);
    let begin = node.now;
    let (first, _) = node.read(ReadMode::Quorum);
    node.wait(ms(300));
    let (second, _) = node.read(ReadMode::Quorum);
    // A vote for another ends what the leader was asked.
    node.receive(3, 2, say::forced_vote_request(node.last_id()));
    let mut given_up = Vec::new();
    while let Some(effects) = node.tick_within(ms(5_000)) {
        let rejected = |token: &Token| effects.rejection(*token).is_some();
        let tokens = [first, second];
        let after = node.now.since(begin).as_millis();
        given_up.extend(tokens.iter().filter(|t| rejected(t)).map(|t| (*t, after)));
        if given_up.len() == 2 {
            break;
        }
    }
    assert_eq!(given_up, [(first, 1_000), (second, 1_300)]);
}

#[test]
fn a_read_without_a_leader_is_refused() {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    let (token, effects) = node.read(ReadMode::Quorum);
    let reason = RejectReason::NotLeader { leader: None };
    assert_eq!(effects.rejection(token), Some(&reason));
}

/// A follower whose read lost its leader: it voted for another.
fn homeless() -> (Solo, Token) {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    node.follow(2, 1);
    let (token, _) = node.read(ReadMode::Quorum);
    node.receive(3, 2, say::forced_vote_request(node.last_id()));
    (node, token)
}

#[test]
fn a_read_that_lost_its_leader_is_confirmed_by_the_node_itself_if_it_wins() {
    let (mut node, token) = homeless();
    node.win();
    assert!(node.is_leader());
    let ready = node.ack(2, node.last());
    let term = node.term();
    let confirmed = node.receive(2, term, say::heartbeat_ack(round(&ready)));
    assert_eq!(confirmed.read_index(token), Some(node.last()));
}

#[test]
fn a_read_that_lost_two_leaders_is_given_up() {
    let (mut node, token) = homeless();
    let asked = node.follow(3, 2);
    assert_eq!(asked.rejection(token), None);
    assert_eq!(node.status().reads_pending, 1);
    let lost = node.receive(2, 3, say::forced_vote_request(node.last_id()));
    let reason = RejectReason::NotLeader { leader: None };
    assert_eq!(lost.rejection(token), Some(&reason));
    assert_eq!(node.status().reads_pending, 0);
}

#[test]
fn a_read_without_a_leader_is_answered_when_the_replica_stops() {
    let (mut node, token) = homeless();
    let stopped = node.give(Input::Shutdown);
    let reason = RejectReason::NotLeader { leader: None };
    assert_eq!(stopped.rejection(token), Some(&reason));
}

/// The leader's answer to the question in `asked`.
fn answer(asked: &[Effect], index: Option<u64>, busy: bool) -> MessageBody {
    let number = |effect: &Effect| match effect {
        Effect::Send { message, .. } => match &message.body {
            MessageBody::ReadIndexRequest(request) => Some(request.token),
            _ => None,
        },
        _ => None,
    };
    let number = asked.iter().find_map(number);
    MessageBody::ReadIndexReply(ReadIndexReply {
        token: number.expect("the leader is asked"),
        index: index.map(LogIndex),
        busy,
    })
}

#[test]
fn a_leader_that_leads_no_more_is_not_a_busy_one() {
    for busy in [true, false] {
        let mut node = Solo::open(voters([1, 2, 3]), Image::default());
        node.follow(2, 1);
        let (token, asked) = node.read(ReadMode::Quorum);
        let refused = node.receive(2, 1, answer(&asked, None, busy));
        let reason = busy.then_some(&RejectReason::Busy);
        assert_eq!(refused.rejection(token), reason, "the next leader is asked");
    }
}

#[test]
fn answers_of_the_leader_may_come_in_any_order() {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    node.follow(2, 1);
    let mut asked: Vec<_> = (0..5).map(|_| node.read(ReadMode::Quorum)).collect();
    asked.swap(0, 3);
    for (token, question) in asked {
        let confirmed = node.receive(2, 1, answer(&question, Some(7), false));
        assert_eq!(confirmed.read_index(token), Some(7));
    }
    assert_eq!(node.status().reads_pending, 0);
}
