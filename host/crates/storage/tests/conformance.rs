//! What every storage must do, run over each kind. A scenario closes and opens the storage between
//! its steps, so all of it must be on disk (or what stands for it).

#![allow(clippy::unwrap_used, reason = "a test program")]

mod support;

use kontiki_raft::{GroupId, HardState, IoId, LogId, LogIndex, NodeId, Persist, Term, TermStart};
use kontiki_storage::{Storage, StorageError, StorageUri, open};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{
    GROUP, append, configuration_entry, entries, entry, options, persist, record, submit, vote,
    voters,
};

/// A place for a storage, and the storage if it is open.
struct Bed {
    uri: StorageUri,
    storage: Arc<dyn Storage>,
    _directory: Option<tempfile::TempDir>,
}

impl Bed {
    fn memory(name: &str) -> Self {
        Self::at(format!("memory://{name}").parse().unwrap(), None)
    }

    fn rocksdb(_name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let uri = support::rocksdb(&directory.path().join("db"));
        Self::at(uri, Some(directory))
    }

    fn at(uri: StorageUri, directory: Option<tempfile::TempDir>) -> Self {
        let storage = open(&uri, &options()).unwrap();
        Self {
            uri,
            storage,
            _directory: directory,
        }
    }

    fn with_group(self) -> Self {
        self.storage.create_group(&record(GROUP, "first")).unwrap();
        self
    }

    fn reopen(&mut self) {
        self.storage.close();
        self.storage = open(&self.uri, &options()).unwrap();
    }

    fn persist(&self, write: Persist) -> IoId {
        persist(&*self.storage, GROUP, write).unwrap()
    }

    fn recover(&self) -> kontiki_raft::Recovered {
        self.storage.recover(GROUP, 1 << 20).unwrap()
    }

    /// Indexes of the entries a read gives.
    fn read(&self, first: u64, last: u64, size_bytes_max: usize) -> Result<Vec<u64>, StorageError> {
        let (first, last) = (LogIndex(first), LogIndex(last));
        let entries = self.storage.entries(GROUP, first, last, size_bytes_max)?;
        Ok(entries.iter().map(|entry| entry.id.index.0).collect())
    }
}

macro_rules! conformance {
    ($($scenario:ident),* $(,)?) => {
        mod on_memory {
            $(#[test] fn $scenario() { super::$scenario(super::Bed::memory(stringify!($scenario))); })*
        }
        mod on_rocksdb {
            $(#[test] fn $scenario() { super::$scenario(super::Bed::rocksdb(stringify!($scenario))); })*
        }
    };
}

conformance! {
    registry_lists_what_was_created,
    registry_refuses_twice_and_unknown,
    new_group_recovers_empty,
    hard_state_survives,
    entries_survive_with_terms_and_configurations,
    suffix_is_replaced_in_one_write,
    long_suffix_is_truncated,
    truncation_drops_what_was_indexed_behind_it,
    reset_begins_a_new_log,
    forced_configuration_survives,
    promised_span_survives_and_may_shrink,
    own_record_survives_apart_from_the_group_record,
    tail_is_a_suffix_within_the_limit,
    reads_stop_at_size_and_end_but_give_one,
    compaction_moves_the_beginning,
    compaction_to_the_end_leaves_an_empty_log_that_goes_on,
    compaction_of_what_is_not_there_changes_nothing,
    compacted_log_is_truncated_to_its_beginning,
    completions_come_in_order_from_another_thread,
    groups_do_not_mix,
    removed_group_leaves_nothing_behind,
    contradicting_writes_are_refused_and_stop_the_group,
    node_records_survive,
    closed_storage_says_so,
    closing_finishes_the_queue,
    second_handle_is_refused,
    panicking_completion_does_not_stop_the_writer,
    metrics_count,
    size_grows_with_what_is_written,
}

fn registry_lists_what_was_created(mut bed: Bed) {
    for (group, body) in [(9, "nine"), (2, "two"), (u64::MAX, "max"), (0, "")] {
        bed.storage
            .create_group(&record(GroupId(group), body))
            .unwrap();
    }
    bed.storage
        .update_group(&record(GroupId(2), "two, changed"))
        .unwrap();
    bed.reopen();
    let expected = [(0, ""), (2, "two, changed"), (9, "nine"), (u64::MAX, "max")];
    let expected = expected.map(|(group, body)| record(GroupId(group), body));
    assert_eq!(bed.storage.groups().unwrap(), expected);
}

fn registry_refuses_twice_and_unknown(bed: Bed) {
    let bed = bed.with_group();
    let other = GroupId(7);
    let twice = bed.storage.create_group(&record(GROUP, "second"));
    assert!(matches!(
        twice,
        Err(StorageError::AlreadyExists { group: GROUP })
    ));
    let unknown = bed.storage.update_group(&record(other, ""));
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    let unknown = bed.storage.remove_group(other);
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    let unknown = bed.storage.recover(other, 0);
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    let unknown = persist(&*bed.storage, other, vote(1, 1));
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    assert_eq!(bed.storage.groups().unwrap(), [record(GROUP, "first")]);
}

fn new_group_recovers_empty(bed: Bed) {
    let mut bed = bed.with_group();
    bed.reopen();
    let found = bed.recover();
    assert_eq!(found.hard_state, HardState::default());
    assert_eq!(
        (found.log_start, found.last),
        (LogId::default(), LogId::default())
    );
    assert!(found.terms.is_empty() && found.tail.is_empty() && found.configurations.is_empty());
}

fn hard_state_survives(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(vote(3, 12));
    bed.reopen();
    let expected = HardState {
        term: Term(3),
        voted_for: Some(NodeId(12)),
    };
    assert_eq!(bed.recover().hard_state, expected);
}

fn promised_span_survives_and_may_shrink(bed: Bed) {
    let mut bed = bed.with_group();
    assert_eq!(bed.recover().promised_span, None);
    for seconds in [5, 2] {
        let promised_span = Some(Duration::from_secs(seconds));
        bed.persist(Persist {
            promised_span,
            ..Persist::default()
        });
        bed.reopen();
        assert_eq!(bed.recover().promised_span, promised_span);
    }
}

fn own_record_survives_apart_from_the_group_record(bed: Bed) {
    let mut bed = bed.with_group();
    assert_eq!(bed.storage.own_record(GROUP).unwrap(), None);
    let unknown = bed.storage.put_own_record(GroupId(7), b"x");
    assert!(matches!(unknown, Err(StorageError::UnknownGroup { .. })));
    bed.storage.put_own_record(GROUP, b"mine").unwrap();
    bed.storage.update_group(&record(GROUP, "changed")).unwrap();
    bed.reopen();
    let found = bed.storage.own_record(GROUP).unwrap();
    assert_eq!(found.as_deref(), Some(&b"mine"[..]));
    assert_eq!(bed.storage.groups().unwrap(), [record(GROUP, "changed")]);
    assert_eq!(bed.recover().last, LogId::default());
    bed.storage.remove_group(GROUP).unwrap();
    bed.storage.create_group(&record(GROUP, "again")).unwrap();
    assert_eq!(bed.storage.own_record(GROUP).unwrap(), None);
}

fn entries_survive_with_terms_and_configurations(bed: Bed) {
    let mut bed = bed.with_group();
    let mut log = vec![configuration_entry(1, 1, &[1, 2, 3])];
    log.extend(entries(2, 5, 1));
    log.push(configuration_entry(6, 4, &[1, 2]));
    log.extend(entries(7, 9, 4));
    bed.persist(append(log[..4].to_vec()));
    bed.reopen();
    bed.persist(append(log[4..].to_vec()));
    bed.reopen();
    let found = bed.recover();
    assert_eq!(found.tail, log);
    assert_eq!(found.last, LogId::new(Term(4), LogIndex(9)));
    let runs: Vec<_> = found
        .terms
        .iter()
        .map(|run| (run.index.0, run.term.0))
        .collect();
    assert_eq!(runs, [(1, 1), (6, 4)]);
    let configurations = [
        (LogIndex(1), voters(&[1, 2, 3])),
        (LogIndex(6), voters(&[1, 2])),
    ];
    assert_eq!(found.configurations, configurations);
    assert_eq!(
        bed.storage
            .entries(GROUP, LogIndex(1), LogIndex(9), usize::MAX)
            .unwrap(),
        log
    );
}

fn suffix_is_replaced_in_one_write(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(entries(1, 10, 1)));
    bed.persist(Persist {
        truncate_from: Some(LogIndex(4)),
        entries: entries(4, 6, 2),
        ..Persist::default()
    });
    bed.reopen();
    let found = bed.recover();
    let expected: Vec<_> = entries(1, 3, 1)
        .into_iter()
        .chain(entries(4, 6, 2))
        .collect();
    assert_eq!(found.tail, expected);
    assert_eq!(found.last, LogId::new(Term(2), LogIndex(6)));
    assert!(matches!(
        bed.read(7, 7, 0),
        Err(StorageError::BeyondEnd {
            last: LogIndex(6),
            ..
        })
    ));
}

fn long_suffix_is_truncated(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(entries(1, 9_000, 1)));
    bed.persist(Persist {
        truncate_from: Some(LogIndex(3)),
        entries: entries(3, 4, 2),
        ..Persist::default()
    });
    bed.persist(append(entries(5, 5, 2)));
    bed.reopen();
    assert_eq!(bed.recover().last, LogId::new(Term(2), LogIndex(5)));
    assert_eq!(bed.read(1, 9_000, usize::MAX).unwrap(), [1, 2, 3, 4, 5]);
}

fn truncation_drops_what_was_indexed_behind_it(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(vec![
        configuration_entry(1, 1, &[1]),
        entry(2, 1, "a"),
        configuration_entry(3, 2, &[1, 2]),
        configuration_entry(4, 3, &[1, 2, 3]),
    ]));
    bed.persist(Persist {
        truncate_from: Some(LogIndex(3)),
        ..Persist::default()
    });
    bed.reopen();
    let found = bed.recover();
    let first = TermStart {
        index: LogIndex(1),
        term: Term(1),
    };
    assert_eq!(found.terms, [first]);
    assert_eq!(found.configurations, [(LogIndex(1), voters(&[1]))]);
    assert_eq!(found.last, LogId::new(Term(1), LogIndex(2)));
}

fn reset_begins_a_new_log(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(entries(1, 8, 1)));
    bed.persist(Persist {
        reset_log: Some(LogId::new(Term(5), LogIndex(3))),
        ..Persist::default()
    });
    bed.reopen();
    let found = bed.recover();
    assert_eq!(
        (found.log_start, found.last.index),
        (LogId::new(Term(5), LogIndex(3)), LogIndex(3))
    );
    assert!(found.terms.is_empty() && found.tail.is_empty());
    assert!(matches!(
        bed.read(3, 3, 0),
        Err(StorageError::Compacted { .. })
    ));
    assert!(matches!(
        bed.read(4, 4, 0),
        Err(StorageError::BeyondEnd { .. })
    ));
    // In one write with what follows it, and with old entries under the same keys.
    bed.persist(Persist {
        reset_log: Some(LogId::new(Term(6), LogIndex(100))),
        entries: entries(101, 103, 6),
        ..Persist::default()
    });
    bed.reopen();
    assert_eq!(bed.recover().tail, entries(101, 103, 6));
}

fn forced_configuration_survives(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(entries(1, 3, 1)));
    let forced = Some((LogIndex(3), voters(&[4])));
    bed.persist(Persist {
        forced_configuration: forced.clone(),
        ..Persist::default()
    });
    bed.reopen();
    assert_eq!(bed.recover().forced_configuration, forced);
}

fn tail_is_a_suffix_within_the_limit(bed: Bed) {
    let bed = bed.with_group();
    bed.persist(append(entries(1, 50, 1)));
    let size_bytes = entry(50, 1, "1/50").size_bytes();
    let tail = bed.storage.recover(GROUP, 3 * size_bytes).unwrap().tail;
    assert_eq!(tail, entries(48, 50, 1));
    assert_eq!(bed.storage.recover(GROUP, 0).unwrap().tail, []);
}

fn reads_stop_at_size_and_end_but_give_one(bed: Bed) {
    let bed = bed.with_group();
    bed.persist(append(entries(1, 20, 1)));
    let size_bytes = entry(10, 1, "1/10").size_bytes();
    assert_eq!(bed.read(10, 20, 0).unwrap(), [10]);
    assert_eq!(bed.read(10, 20, 3 * size_bytes).unwrap(), [10, 11, 12]);
    assert_eq!(bed.read(10, 11, usize::MAX).unwrap(), [10, 11]);
    assert_eq!(bed.read(19, 4_000, usize::MAX).unwrap(), [19, 20]);
    assert!(matches!(
        bed.read(0, 5, 0),
        Err(StorageError::Compacted { .. })
    ));
}

fn compaction_moves_the_beginning(bed: Bed) {
    let mut bed = bed.with_group();
    let mut log = vec![configuration_entry(1, 1, &[1]), entry(2, 1, "a")];
    log.push(configuration_entry(3, 2, &[1, 2]));
    log.extend(entries(4, 8, 2));
    log.extend(entries(9, 12, 3));
    bed.persist(append(log.clone()));
    for (upto, term) in [(1, 1), (5, 2)] {
        bed.storage
            .compact(GROUP, LogId::new(Term(term), LogIndex(upto)));
        let found = bed.recover();
        assert_eq!(found.log_start, LogId::new(Term(term), LogIndex(upto)));
        assert_eq!(found.tail, log[upto as usize..]);
        assert_eq!(found.terms[0].index, LogIndex(upto + 1));
    }
    bed.reopen();
    let found = bed.recover();
    assert!(found.configurations.is_empty());
    let runs: Vec<_> = found
        .terms
        .iter()
        .map(|run| (run.index.0, run.term.0))
        .collect();
    assert_eq!(runs, [(6, 2), (9, 3)]);
    assert!(matches!(
        bed.read(5, 6, 0),
        Err(StorageError::Compacted {
            log_start: LogIndex(5),
            ..
        })
    ));
    assert_eq!(bed.read(6, 6, 0).unwrap(), [6]);
}

fn compaction_to_the_end_leaves_an_empty_log_that_goes_on(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(entries(1, 4, 1)));
    bed.storage.compact(GROUP, LogId::new(Term(1), LogIndex(4)));
    bed.reopen();
    assert_eq!(bed.recover().last, LogId::new(Term(1), LogIndex(4)));
    bed.persist(append(entries(5, 6, 1)));
    bed.reopen();
    let found = bed.recover();
    assert_eq!(found.tail, entries(5, 6, 1));
    assert_eq!(found.terms.len(), 1);
}

fn compaction_of_what_is_not_there_changes_nothing(bed: Bed) {
    let bed = bed.with_group();
    bed.persist(append(entries(1, 4, 2)));
    for (term, index) in [(2, 5), (1, 3), (0, 0)] {
        bed.storage
            .compact(GROUP, LogId::new(Term(term), LogIndex(index)));
    }
    assert_eq!(bed.recover().log_start, LogId::default());
    // Unlike a refused write it does not stop the group.
    bed.persist(append(entries(5, 5, 2)));
    assert_eq!(bed.read(1, 9, usize::MAX).unwrap(), [1, 2, 3, 4, 5]);
}

fn compacted_log_is_truncated_to_its_beginning(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(append(entries(1, 9, 1)));
    bed.storage.compact(GROUP, LogId::new(Term(1), LogIndex(5)));
    bed.persist(Persist {
        truncate_from: Some(LogIndex(6)),
        ..Persist::default()
    });
    bed.reopen();
    let found = bed.recover();
    assert_eq!((found.last.index, found.terms), (LogIndex(5), vec![]));
    bed.persist(append(entries(6, 7, 3)));
    bed.reopen();
    assert_eq!(bed.recover().tail, entries(6, 7, 3));
}

fn completions_come_in_order_from_another_thread(bed: Bed) {
    let bed = bed.with_group();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let caller = std::thread::current().id();
    for sequence in 1..=200 {
        let seen = Arc::clone(&seen);
        let io = IoId {
            sequence,
            leader_term: Term(1),
            last_index: LogIndex(sequence),
        };
        let write = Persist {
            io,
            entries: entries(sequence, sequence, 1),
            ..Persist::default()
        };
        let done = move |result: Result<IoId, StorageError>| {
            assert_ne!(std::thread::current().id(), caller);
            seen.lock().unwrap().push(result.unwrap());
        };
        bed.storage.persist(GROUP, write, Box::new(done));
    }
    bed.storage.close();
    let sequences: Vec<_> = seen.lock().unwrap().iter().map(|io| io.sequence).collect();
    assert_eq!(sequences, (1..=200).collect::<Vec<_>>());
}

fn groups_do_not_mix(mut bed: Bed) {
    let groups = [GroupId(1), GroupId(2), GroupId(u64::MAX)];
    for group in groups {
        bed.storage.create_group(&record(group, "")).unwrap();
        persist(
            &*bed.storage,
            group,
            append(entries(1, 6, group.0 % 97 + 1)),
        )
        .unwrap();
    }
    let write = Persist {
        reset_log: Some(LogId::new(Term(9), LogIndex(90))),
        ..Persist::default()
    };
    persist(&*bed.storage, GroupId(2), write).unwrap();
    bed.reopen();
    for group in [GroupId(1), GroupId(u64::MAX)] {
        let found = bed.storage.recover(group, usize::MAX).unwrap();
        assert_eq!(found.tail, entries(1, 6, group.0 % 97 + 1));
    }
    assert_eq!(
        bed.storage.recover(GroupId(2), 0).unwrap().last.index,
        LogIndex(90)
    );
}

fn removed_group_leaves_nothing_behind(bed: Bed) {
    let mut bed = bed.with_group();
    bed.persist(vote(7, 1));
    bed.persist(append(entries(1, 30, 7)));
    bed.storage.remove_group(GROUP).unwrap();
    assert!(matches!(
        bed.storage.recover(GROUP, 0),
        Err(StorageError::UnknownGroup { .. })
    ));
    bed.reopen();
    assert!(bed.storage.groups().unwrap().is_empty());
    bed.storage.create_group(&record(GROUP, "again")).unwrap();
    let found = bed.recover();
    assert_eq!(
        (found.hard_state, found.last),
        (HardState::default(), LogId::default())
    );
    bed.persist(append(entries(1, 2, 1)));
    bed.reopen();
    assert_eq!(bed.recover().tail, entries(1, 2, 1));
}

fn contradicting_writes_are_refused_and_stop_the_group(bed: Bed) {
    let bed = bed.with_group();
    bed.persist(vote(5, 1));
    bed.persist(append(entries(1, 5, 5)));
    bed.storage.compact(GROUP, LogId::new(Term(5), LogIndex(2)));
    let truncate = |from| Persist {
        truncate_from: Some(LogIndex(from)),
        ..Persist::default()
    };
    let contradictions = [
        append(entries(7, 8, 5)),
        append(entries(5, 6, 5)),
        append(entries(6, 6, 4)),
        append(vec![entry(6, 5, ""), entry(8, 5, "")]),
        append(vec![entry(6, 6, ""), entry(7, 5, "")]),
        vote(4, 1),
        vote(5, 2),
        truncate(2),
        truncate(7),
    ];
    for (number, write) in contradictions.into_iter().enumerate() {
        let refused = persist(&*bed.storage, GROUP, write);
        assert!(
            matches!(refused, Err(StorageError::Refused { .. })),
            "{number}: {refused:?}"
        );
        let later = persist(&*bed.storage, GROUP, append(entries(6, 6, 5)));
        assert!(
            matches!(later, Err(StorageError::Refused { .. })),
            "{number}: {later:?}"
        );
        let found = bed.recover();
        assert_eq!(found.tail, entries(3, 5, 5), "{number}");
        assert_eq!(found.hard_state.term, Term(5), "{number}");
    }
    bed.persist(append(entries(6, 6, 5)));
    assert!(!bed.storage.metrics().failed);
}

fn node_records_survive(mut bed: Bed) {
    assert_eq!(bed.storage.node_record("peers").unwrap(), None);
    bed.storage.put_node_record("peers", b"a,b").unwrap();
    bed.storage.put_node_record("peers", b"a,b,c").unwrap();
    bed.storage.put_node_record("", b"").unwrap();
    bed.reopen();
    assert_eq!(
        bed.storage.node_record("peers").unwrap(),
        Some(b"a,b,c".to_vec())
    );
    assert_eq!(bed.storage.node_record("").unwrap(), Some(Vec::new()));
}

fn closed_storage_says_so(bed: Bed) {
    let bed = bed.with_group();
    bed.storage.close();
    bed.storage.close();
    bed.storage.compact(GROUP, LogId::default());
    assert!(matches!(bed.storage.groups(), Err(StorageError::Closed)));
    assert!(matches!(
        bed.storage.recover(GROUP, 0),
        Err(StorageError::Closed)
    ));
    assert!(matches!(bed.read(1, 1, 0), Err(StorageError::Closed)));
    assert!(matches!(
        bed.storage.node_record("x"),
        Err(StorageError::Closed)
    ));
    assert!(matches!(
        bed.storage.create_group(&record(GROUP, "")),
        Err(StorageError::Closed)
    ));
    assert!(matches!(
        persist(&*bed.storage, GROUP, vote(1, 1)),
        Err(StorageError::Closed)
    ));
}

fn closing_finishes_the_queue(bed: Bed) {
    let mut bed = bed.with_group();
    let answers: Vec<_> = (1..=100)
        .map(|index| submit(&*bed.storage, GROUP, append(entries(index, index, 1))))
        .collect();
    bed.reopen();
    for answer in answers {
        answer
            .try_recv()
            .expect("answered before close returned")
            .unwrap();
    }
    assert_eq!(bed.recover().last.index, LogIndex(100));
}

fn second_handle_is_refused(bed: Bed) {
    let second = open(&bed.uri, &options());
    assert!(
        matches!(second, Err(StorageError::InUse { .. })),
        "{:?}",
        second.err()
    );
}

fn panicking_completion_does_not_stop_the_writer(bed: Bed) {
    let bed = bed.with_group();
    let done = Box::new(|_| panic!("a test's own panic, as intended"));
    bed.storage.persist(GROUP, append(entries(1, 1, 1)), done);
    bed.persist(append(entries(2, 2, 1)));
}

fn metrics_count(bed: Bed) {
    let bed = bed.with_group();
    for index in 1..=5 {
        bed.persist(append(entries(2 * index - 1, 2 * index, 1)));
    }
    let metrics = bed.storage.metrics();
    assert_eq!(
        (metrics.entries, metrics.queue_length, metrics.failed),
        (10, 0, false)
    );
    assert_eq!(
        (metrics.syncs, metrics.batches),
        (6, 6),
        "one for the group, five writes"
    );
    assert!(metrics.bytes > 10 * 40);
    assert_eq!(metrics.sync_durations.iter().sum::<u64>(), metrics.syncs);
}

fn size_grows_with_what_is_written(bed: Bed) {
    let bed = bed.with_group();
    let before = bed.storage.size_bytes().unwrap();
    for index in 1..=100 {
        bed.persist(append(entries(index, index, 1)));
    }
    let after = bed.storage.size_bytes().unwrap();
    assert!(after > before + 100 * 40, "from {before} to {after}");
    bed.storage.close();
    let closed = bed.storage.size_bytes();
    assert!(matches!(closed, Err(StorageError::Closed)));
}
