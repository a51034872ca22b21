//! What cannot be true of a log is told at the start, before anything is written over it.

use crate::support::{Image, id, image, say, voters};
use kontiki_raft::{
    Core, Instant, LogIndex, NodeId, Recovered, Role, Settings, SnapshotMeta, Term, TermStart,
};

/// Terms 2, 2, 3, 5 after a start at 1.3, with the snapshot that stands for what came before.
fn sound() -> Recovered {
    let log_start = id(1, 3);
    let log = Image {
        log_start,
        entries: crate::support::entries_after(log_start, &[2, 2, 3, 5]),
        ..image(5, &[])
    };
    let mut recovered = log.recovered(&[]);
    recovered.snapshot = Some(say::snapshot(log_start, say::configuration([1, 2, 3])));
    recovered.applied = log_start.index;
    recovered
}

/// Why a replica does not open on this, if it does not.
fn failure(change: impl FnOnce(&mut Recovered)) -> Option<&'static str> {
    let mut recovered = sound();
    change(&mut recovered);
    let settings = Settings::default();
    let core = Core::new(
        NodeId(1),
        settings,
        voters([1, 2, 3]),
        recovered,
        Instant(1),
        1,
    );
    assert_eq!(core.role() == Role::Stopped, core.failure().is_some());
    core.failure()
}

#[test]
fn a_sound_log_is_opened() {
    assert_eq!(failure(|_| {}), None);
    let empty = |r: &mut Recovered| {
        r.last = r.log_start;
        r.terms.clear();
        r.tail.clear();
    };
    assert_eq!(failure(empty), None);
    // The first run may go on with the term before the log.
    let same_term = |r: &mut Recovered| r.log_start.term = Term(2);
    assert_eq!(failure(same_term), None);
}

#[test]
fn a_log_that_ends_before_it_begins_is_refused() {
    let why = Some("the log ends before it begins");
    assert_eq!(failure(|r| r.last.index = LogIndex(2)), why);
    assert_eq!(failure(|r| r.last.term = Term(0)), why);
}

#[test]
fn a_log_without_the_snapshot_before_it_is_refused() {
    let why = Some("the log begins after the newest snapshot");
    assert_eq!(failure(|r| r.snapshot = None), why);
    let earlier = |r: &mut Recovered| {
        let snapshot = r.snapshot.take();
        r.snapshot = snapshot.map(|s| SnapshotMeta {
            last_included: id(1, 2),
            ..s
        });
    };
    assert_eq!(failure(earlier), why);
}

#[test]
fn a_state_machine_beside_the_log_is_refused() {
    let ahead = Some("the state machine is ahead of the log");
    assert_eq!(failure(|r| r.applied = LogIndex(7)), None);
    assert_eq!(failure(|r| r.applied = LogIndex(8)), ahead);
    let behind = Some("the state machine is behind the first log entry");
    assert_eq!(failure(|r| r.applied = LogIndex(2)), behind);
}

#[test]
fn terms_that_do_not_cover_the_log_are_refused() {
    let why = Some("the terms of the log have a hole");
    let run = |term, index| TermStart {
        index: LogIndex(index),
        term: Term(term),
    };
    assert_eq!(sound().terms, [run(2, 4), run(3, 6), run(5, 7)]);
    let wrong: [(&str, Vec<TermStart>); 9] = [
        ("none", vec![]),
        ("begins late", vec![run(2, 5), run(5, 7)]),
        ("begins early", vec![run(2, 3), run(5, 7)]),
        ("term before the start's", vec![run(0, 4), run(5, 7)]),
        ("same index", vec![run(2, 4), run(3, 4), run(5, 7)]),
        ("falling index", vec![run(2, 4), run(3, 7), run(5, 6)]),
        ("same term", vec![run(2, 4), run(2, 6), run(5, 7)]),
        ("other last term", vec![run(2, 4), run(3, 6)]),
        ("beyond the end", vec![run(2, 4), run(5, 8)]),
    ];
    for (what, terms) in wrong {
        assert_eq!(failure(|r| r.terms = terms), why, "{what}");
    }
    let runs_of_an_empty_log = |r: &mut Recovered| r.last = r.log_start;
    assert_eq!(failure(runs_of_an_empty_log), why);
}
