//! What a leader sends.

use crate::support::{Saved, Seen, Solo, change, configuration, id, image, say, voters};
use bytes::Bytes;
use kontiki_raft::{
    Blocked, Effect, EntryKind, Input, LogIndex, PeerStatus, Proposal, ReadId, Settings, Token,
};

fn propose(node: &mut Solo, count: u64, size_bytes: usize) -> Vec<Effect> {
    let proposal = |_| Proposal {
        token: Token(0),
        expected_term: None,
        time_ns: 0,
        kind: EntryKind::Command(Bytes::from(vec![7; size_bytes])),
    };
    node.give(Input::Propose((0..count).map(proposal).collect()))
}

fn peer(node: &Solo, of: u64) -> Option<PeerStatus> {
    let peers = node.status().peers;
    peers.into_iter().find(|peer| peer.node.0 == of)
}

/// How many entries each append to `to` carries.
fn batches(effects: &[Effect], to: u64) -> Vec<usize> {
    let appends = effects.appends();
    let to_it = appends.iter().filter(|(node, _)| *node == to);
    to_it.map(|(_, append)| append.entries.len()).collect()
}

#[test]
fn a_stream_sends_all_there_is_in_messages_of_limited_size() {
    let mut node = Solo::settled(|settings| settings.append_entries_max = 2);
    let effects = propose(&mut node, 5, 1);
    assert_eq!(batches(&effects, 2), [2, 2, 1]);
}

/// Settings that nobody checked must not divide by zero, nor keep entries back for ever.
#[test]
fn limits_of_zero_count_as_one() {
    let mut node = Solo::settled(|settings| {
        settings.append_entries_max = 0;
        settings.heartbeat_factor = 0;
    });
    assert_eq!(batches(&propose(&mut node, 2, 1), 2), [1, 1]);
    let heartbeat = node.status().timers.heartbeat;
    assert_eq!(heartbeat.span, Settings::default().election_timeout);
}

#[test]
fn a_window_of_bytes_that_is_just_full_is_closed() {
    // Entries count 32 bytes more than their command.
    for (window, sent) in [(2 * 42, 2), (2 * 42 + 1, 3)] {
        let mut node = Solo::settled(|settings| {
            settings.append_entries_max = 1;
            settings.inflight_size_bytes_max = window;
        });
        let effects = propose(&mut node, 4, 10);
        assert_eq!(batches(&effects, 2).len(), sent);
        let blocked = peer(&node, 2).and_then(|peer| peer.blocked);
        assert_eq!(blocked, Some(Blocked::Window));
    }
}

fn reads(effects: &[Effect]) -> Vec<(ReadId, u64, u64)> {
    let read = |effect: &Effect| match effect {
        Effect::ReadEntries {
            read, first, last, ..
        } => Some((*read, first.0, last.0)),
        _ => None,
    };
    effects.iter().filter_map(read).collect()
}

/// Answers the probe that is out to `from`: it holds `upto` and nothing more.
fn answer_probe(node: &mut Solo, probes: &[Effect], from: u64, upto: u64) -> Vec<Effect> {
    let appends = probes.appends();
    let probe = appends.iter().find(|(to, _)| *to == from);
    let sequence = probe.expect("it is probed").1.sequence;
    let term = node.term();
    node.receive(from, term, say::append_ack(sequence, upto))
}

#[test]
fn what_is_read_back_is_limited_and_every_read_has_a_number_of_its_own() {
    // Appends draw from the same numbers.
    for proposals_between in 0..=2 {
        let settings = Settings {
            cache_size_bytes_max: 1,
            append_entries_max: 3,
            ..Settings::default()
        };
        let mut node = Solo::with(settings, voters([1, 2, 3, 4]), image(1, &[1; 20]));
        let probes = node.win();
        // Node 4 holds everything: from now on it is streamed to.
        let last = node.last();
        answer_probe(&mut node, &probes, 4, last);
        let first = reads(&answer_probe(&mut node, &probes, 2, 5));
        assert_eq!((first[0].1, first[0].2), (6, 8));
        let blocked = peer(&node, 2).and_then(|peer| peer.blocked);
        assert_eq!(blocked, Some(Blocked::Disk));
        propose(&mut node, proposals_between, 1);
        let second = reads(&answer_probe(&mut node, &probes, 3, 9));
        assert_eq!((second[0].1, second[0].2), (10, 12));
        assert!(second[0].0 > first[0].0, "{first:?} {second:?}");
    }
}

#[test]
fn a_snapshot_that_is_offered_is_counted() {
    let last_included = id(1, 30);
    let meta = say::snapshot(last_included, configuration([1, 2, 3]));
    let saved = Saved {
        meta,
        ..Saved::default()
    };
    let image = crate::support::Image {
        log_start: last_included,
        ..image(1, &[])
    };
    let mut node = Solo::restored(Settings::default(), voters([1, 2, 3]), image, &[saved]);
    let probes = node.win();
    assert!(node.is_leader());
    assert_eq!(peer(&node, 2).unwrap().traffic.installs_sent, 0);
    let appends = probes.appends();
    let sequence = appends.iter().find(|(to, _)| *to == 2).unwrap().1.sequence;
    let lacks = kontiki_raft::AppendEntriesReply {
        sequence,
        index: LogIndex(30),
        conflict: Some(id(0, 0)),
        read_only: false,
        promise: None,
    };
    let term = node.term();
    node.receive(
        2,
        term,
        kontiki_raft::MessageBody::AppendEntriesReply(lacks),
    );
    let status = peer(&node, 2).unwrap();
    assert_eq!(status.traffic.installs_sent, 1);
    assert_eq!(status.blocked, Some(Blocked::Snapshot));
}

#[test]
fn a_removed_member_that_knows_it_is_let_go_at_once() {
    let mut node = Solo::settled(|_| {});
    node.change(change::remove(3));
    node.ack(2, node.last());
    assert!(peer(&node, 3).is_some(), "it is still to be told");
    node.ack(3, node.last());
    assert!(peer(&node, 3).is_none());
}
