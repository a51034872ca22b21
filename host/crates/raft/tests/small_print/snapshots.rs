//! Snapshots.

use crate::support::{Image, Saved, Seen, Solo, configuration, id, image, say, voters};
use kontiki_raft::{
    Effect, Event, Input, LogId, LogIndex, Message, MessageBody, ReadError, ReadId, Role, Settings,
    SnapshotMeta,
};

fn snapshot(last_included: LogId) -> SnapshotMeta {
    say::snapshot(last_included, configuration([1, 2, 3]))
}

fn fetched(effects: &[Effect]) -> Vec<(u64, LogId)> {
    let fetch = |effect: &Effect| match effect {
        Effect::FetchSnapshot { from, snapshot } => Some((from.0, snapshot.last_included)),
        _ => None,
    };
    effects.iter().filter_map(fetch).collect()
}

fn compacted(effects: &[Effect]) -> Vec<LogId> {
    let compact = |effect: &Effect| match effect {
        Effect::CompactLog { upto } => Some(*upto),
        _ => None,
    };
    effects.iter().filter_map(compact).collect()
}

/// A new leader's offer replaces a fetch from the old one, unless it is of less.
#[test]
fn a_fetch_gives_way_to_one_that_brings_as_much_or_more() {
    for (offered, expected) in [(40, None), (50, Some(50)), (60, Some(60))] {
        let mut node = Solo::open(voters([1, 2, 3]), Image::default());
        let first = node.receive(2, 1, say::install(snapshot(id(1, 50))));
        assert_eq!(fetched(&first), [(2, id(1, 50))]);
        let again = node.receive(2, 1, say::install(snapshot(id(1, 70))));
        assert!(
            fetched(&again).is_empty(),
            "one from the same leader goes on"
        );
        let next = node.receive(3, 2, say::install(snapshot(id(1, offered))));
        let expected: Vec<_> = expected
            .map(|index| (3, id(1, index)))
            .into_iter()
            .collect();
        assert_eq!(fetched(&next), expected);
    }
}

/// A replica whose log of five is committed and applied.
fn applied_five() -> Solo {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1; 5]));
    node.receive(2, 1, say::append(id(1, 5), &[], 5));
    node.give(Input::Applied { index: LogIndex(5) });
    assert_eq!(node.status().applied_index, LogIndex(5));
    node
}

#[test]
fn a_snapshot_that_is_installed_late_takes_nothing_back() {
    let mut node = applied_five();
    let effects = node.give(Input::SnapshotInstalled {
        snapshot: snapshot(id(1, 3)),
    });
    assert!(effects.is_empty(), "{effects:?}");
    let status = node.status();
    assert_eq!((status.applied_index, status.snapshot), (LogIndex(5), None));
}

#[test]
fn an_installed_snapshot_that_contradicts_what_is_committed_stops_the_replica() {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    // Committed, but neither durable nor handed over yet.
    node.hold_disk();
    node.receive(2, 2, say::append(id(0, 0), &[1, 1, 1, 2, 2], 5));
    assert_eq!(
        (node.commit(), node.status().applying_index),
        (5, LogIndex(0))
    );
    let effects = node.give(Input::SnapshotInstalled {
        snapshot: snapshot(id(2, 3)),
    });
    let why = "the installed snapshot contradicts the committed log";
    assert!(effects.events().contains(&&Event::Failed { why }));
    assert_eq!(node.role(), Role::Stopped);
}

#[test]
fn the_log_goes_up_to_the_last_but_one_snapshot_and_never_for_the_same_twice() {
    let mut node = applied_five();
    let mut save = |index: u64| {
        let effects = node.give(Input::SnapshotSaved {
            snapshot: snapshot(id(1, index)),
        });
        (compacted(&effects), node.status().snapshot)
    };
    assert_eq!(save(3), (vec![], Some(id(1, 3))));
    assert_eq!(save(3), (vec![], Some(id(1, 3))));
    assert_eq!(save(2), (vec![], Some(id(1, 3))), "older than the newest");
    assert_eq!(save(6), (vec![], Some(id(1, 3))), "of what is not applied");
    assert_eq!(save(5), (vec![id(1, 3)], Some(id(1, 5))));
    assert_eq!(save(5), (vec![], Some(id(1, 5))));
    assert_eq!(save(4), (vec![], Some(id(1, 5))));
}

#[test]
fn a_log_that_begins_at_the_last_but_one_snapshot_is_not_cut_again() {
    let meta = snapshot(id(1, 3));
    let image = Image {
        log_start: id(1, 3),
        entries: crate::support::entries_after(id(1, 3), &[1, 1]),
        ..image(1, &[])
    };
    let saved = Saved {
        meta,
        ..Saved::default()
    };
    let mut node = Solo::restored(Settings::default(), voters([1, 2, 3]), image, &[saved]);
    node.receive(2, 1, say::append(id(1, 5), &[], 5));
    node.give(Input::Applied { index: LogIndex(5) });
    let effects = node.give(Input::SnapshotSaved {
        snapshot: snapshot(id(1, 5)),
    });
    assert_eq!(node.status().snapshot, Some(id(1, 5)));
    assert!(compacted(&effects).is_empty(), "{effects:?}");
}

/// A leader that keeps nothing in memory, all of whose log node 2 holds; it reads entries back for
/// node 3, which holds five.
fn reading_back() -> (Solo, ReadId) {
    let settings = Settings {
        cache_size_bytes_max: 1,
        ..Settings::default()
    };
    let mut node = Solo::with(settings, voters([1, 2, 3]), image(1, &[1; 20]));
    let probes = node.win();
    node.ack(2, node.last());
    let index = LogIndex(node.commit());
    node.give(Input::Applied { index });
    let appends = probes.appends();
    let probe = appends.iter().find(|(to, _)| *to == 3);
    let sequence = probe.expect("it is probed").1.sequence;
    let asked = node.receive(3, 2, say::append_ack(sequence, 5));
    let read = |effect: &Effect| match effect {
        Effect::ReadEntries { read, .. } => Some(*read),
        _ => None,
    };
    let read = asked.iter().find_map(read);
    (node, read.expect("it is read back"))
}

#[test]
fn entries_that_are_gone_though_the_log_should_hold_them_stop_the_leader() {
    let (mut node, read) = reading_back();
    let result = Err(ReadError::Compacted);
    node.give(Input::EntriesRead { read, result });
    let why = "entries of the log cannot be read";
    assert_eq!(node.core.failure(), Some(why));
}

#[test]
fn entries_that_were_compacted_meanwhile_are_replaced_by_a_snapshot() {
    let (mut node, read) = reading_back();
    for index in [6, 20] {
        node.give(Input::SnapshotSaved {
            snapshot: snapshot(id(1, index)),
        });
    }
    assert_eq!(node.status().log_start, id(1, 6));
    let result = Err(ReadError::Compacted);
    let effects = node.give(Input::EntriesRead { read, result });
    let offers = |message: &&Message| matches!(message.body, MessageBody::InstallSnapshot(_));
    assert_eq!(effects.to(3).into_iter().filter(offers).count(), 1);
    assert_eq!(node.core.failure(), None);
}
