//! Changes of membership.

use crate::support::{Image, Seen, Solo, change, entries_after, id, image, joint, ms, say, voters};
use kontiki_raft::{ConfigurationError, Event, Input, LogIndex, RejectReason};
use std::time::Duration;

/// The milliseconds after now at which node 3 is sent a heartbeat, while node 2 answers all.
fn heartbeats_to_3(node: &mut Solo, span: Duration) -> Vec<u64> {
    let begin = node.now;
    let mut sent = Vec::new();
    while let Some(effects) = node.tick_within(span.saturating_sub(node.now.since(begin))) {
        for (to, heartbeat) in effects.heartbeats() {
            if to == 3 {
                sent.push(node.now.since(begin).as_millis() as u64);
            } else {
                let round = heartbeat.round;
                node.receive(2, 1, say::heartbeat_ack(round));
            }
        }
    }
    sent
}

#[test]
fn a_member_that_remains_is_not_told_that_it_was_removed() {
    let mut node = Solo::settled(|_| {});
    let (token, mut effects) = node.change(change::remove(3));
    effects.extend(node.ack_all());
    assert!(effects.is_done(token));
    assert!(!effects.events().contains(&&Event::Removed));
}

/// It learns of its removal if it can; a dead one is not written to for ever.
#[test]
fn a_removed_member_that_is_silent_is_told_for_two_election_timeouts() {
    let mut node = Solo::settled(|_| {});
    // The change comes with a heartbeat, so that its limit falls on one.
    let before = node.wait(ms(100));
    assert_eq!(before.heartbeats().len(), 2);
    node.change(change::remove(3));
    node.ack(2, node.last());
    assert!(node.commit() == node.last());
    let told = heartbeats_to_3(&mut node, ms(5_000));
    assert_eq!(told, (1..=20).map(|at| at * 100).collect::<Vec<_>>());
}

#[test]
fn another_change_does_not_forget_who_is_still_to_be_told() {
    let mut node = Solo::settled(|_| {});
    node.change(change::remove(3));
    node.ack(2, node.last());
    node.change(change::add_learner(4));
    assert!(!heartbeats_to_3(&mut node, ms(500)).is_empty());
}

/// Trap 38: it may have been deleted and made anew in between.
#[test]
fn what_a_member_held_before_it_was_removed_says_nothing_when_it_comes_back() {
    let mut node = Solo::settled(|_| {});
    node.change(change::remove(3));
    node.ack(2, node.last());
    let (token, _) = node.change(change::add_learner(3));
    node.ack(2, node.last());
    assert!(node.commit() == node.last());
    let peers = node.status().peers;
    let returned = peers.iter().find(|peer| peer.node.0 == 3);
    assert_eq!(returned.map(|peer| peer.match_index), Some(LogIndex(0)));
    assert!(node.give(Input::Tick).rejection(token).is_none());
}

/// The answer to what it was sent before it was removed may come late.
#[test]
fn a_late_answer_of_a_member_that_was_removed_and_added_says_nothing() {
    let mut node = Solo::settled(|_| {});
    let mut sequence = 0;
    for text in ["a", "b", "c"] {
        let (_, effects) = node.propose(text);
        let appends = effects.appends();
        let to_3 = appends.iter().find(|(to, _)| *to == 3);
        sequence = to_3.expect("it is streamed to").1.sequence;
        node.ack(2, node.last());
    }
    node.change(change::remove(3));
    node.ack(2, node.last());
    node.change(change::add_learner(3));
    node.receive(3, 1, say::append_ack(sequence, node.last()));
    let peers = node.status().peers;
    let returned = peers.iter().find(|peer| peer.node.0 == 3);
    assert_eq!(returned.map(|peer| peer.match_index), Some(LogIndex(0)));
}

#[test]
fn a_change_is_done_when_it_is_committed_and_not_with_what_lies_before_it() {
    let mut node = Solo::settled(|_| {});
    node.propose("x");
    let before = node.last();
    let (token, _) = node.change(change::replace_by([1, 2]));
    let effects = node.ack(2, before);
    assert_eq!(node.commit(), before);
    assert!(!effects.is_done(token));
    assert_eq!(node.status().change_stage, "stable");
    assert!(node.ack(2, node.last()).is_done(token));
    assert_eq!(node.status().change_stage, "none");
}

#[test]
fn a_new_leader_shows_the_change_it_carries_on() {
    let mut log = entries_after(id(0, 0), &[1]);
    log.push(say::membership(id(1, 2), joint([1, 2, 3], [1, 2, 4])));
    let image = Image {
        entries: log,
        ..image(1, &[])
    };
    let mut node = Solo::open(voters([1, 2, 3]), image);
    node.win();
    assert!(node.is_leader());
    let status = node.status();
    assert_eq!(status.change_stage, "joint");
    assert_eq!(status.change_target, Some(voters([1, 2, 4])));
}

/// Its own first entry is a configuration that is not committed: nothing to be called off.
#[test]
fn a_leader_that_is_not_ready_cancels_nothing() {
    let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1]);
    let token = node.token();
    let effects = node.give(Input::CancelChange { token });
    let logged = RejectReason::Configuration(ConfigurationError::Logged);
    assert_eq!(effects.rejection(token), Some(&logged));
    node.settle();
    let token = node.token();
    let effects = node.give(Input::CancelChange { token });
    let none = RejectReason::Configuration(ConfigurationError::NoneUnderWay);
    assert_eq!(effects.rejection(token), Some(&none));
}
