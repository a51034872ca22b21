//! A plugin is a function of its log alone: however the log is cut into batches, and whenever a
//! replica is restored from a snapshot, the answers and the snapshots are the same.

#![allow(clippy::unwrap_used, reason = "helpers of tests unwrap, too")]

mod support;

use kontiki_plugin::{
    Answer, Batch, Engine, Limits, Machine, OutcomeHash, Plugin, SnapshotFile, SnapshotInfo,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use support::{components, native, open};

/// What one way through a log has given.
#[derive(Debug, PartialEq)]
struct Run {
    answers: Vec<(bool, Vec<u8>)>,
    outcome: OutcomeHash,
    queries: Vec<Result<Vec<u8>, String>>,
    snapshot: BTreeMap<String, (Vec<u8>, Vec<u8>)>,
}

fn plugin(name: &'static str) -> Plugin {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let engine = ENGINE.get_or_init(|| Engine::new(Limits::default()).unwrap());
    engine.load(&components::read(name)).unwrap()
}

fn info(index: u64) -> SnapshotInfo {
    SnapshotInfo {
        index,
        format: 1,
        ..support::info()
    }
}

/// Files of a snapshot with their notes and contents.
fn save(machine: &mut dyn Machine, index: u64) -> (tempfile::TempDir, Vec<SnapshotFile>) {
    let temporary = tempfile::tempdir().unwrap();
    let files = machine.save(open(temporary.path()), &info(index)).unwrap();
    (temporary, files)
}

fn contents(machine: &mut dyn Machine, index: u64) -> BTreeMap<String, (Vec<u8>, Vec<u8>)> {
    let (temporary, files) = save(machine, index);
    let content = |file: &SnapshotFile| std::fs::read(temporary.path().join(&file.name)).unwrap();
    files
        .iter()
        .map(|file| (file.name.clone(), (file.meta.clone(), content(file))))
        .collect()
}

/// Applies `log`, cut at `cuts`, and restored into a new instance after each cut of `restores`.
fn run(
    plugin: &Plugin,
    log: &[String],
    cuts: &[usize],
    restores: &[bool],
    queries: &[&str],
) -> Run {
    let mut machine = plugin.instantiate().unwrap();
    let mut answers = Vec::new();
    let mut outcome = OutcomeHash::default();
    let mut start = 0;
    let ends = cuts.iter().copied().chain([log.len()]);
    for (n, end) in ends.enumerate() {
        apply(
            &mut *machine,
            &log[start..end],
            start,
            &mut answers,
            &mut outcome,
        );
        if restores.get(n) == Some(&true) {
            let (temporary, files) = save(&mut *machine, end as u64);
            machine = plugin.instantiate().unwrap();
            machine
                .load(open(temporary.path()), &info(end as u64), &files)
                .unwrap();
        }
        start = end;
    }
    let queries = queries
        .iter()
        .map(|query| machine.query(query.as_bytes()).unwrap())
        .collect();
    let snapshot = contents(&mut *machine, log.len() as u64);
    Run {
        answers,
        outcome,
        queries,
        snapshot,
    }
}

fn apply(
    machine: &mut dyn Machine,
    log: &[String],
    start: usize,
    answers: &mut Vec<(bool, Vec<u8>)>,
    outcome: &mut OutcomeHash,
) {
    for (chunk_start, chunk) in (start..).step_by(256).zip(log.chunks(256)) {
        let mut batch = Batch::new();
        for (n, line) in chunk.iter().enumerate() {
            let index = (chunk_start + n) as u64 + 1;
            batch.push(index, index * 1_000, line.as_bytes());
        }
        let given = machine.apply(&batch).unwrap();
        for (index, answer) in batch.indexes().iter().zip(given.iter()) {
            outcome.add(*index, answer);
            answers.push((answer.is_reject(), answer.bytes().to_vec()));
        }
    }
}

/// Batches end at these places in a log of the given length.
fn cuts(length: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::btree_set(0..=length, 0..8).prop_map(|cuts| cuts.into_iter().collect())
}

fn counter_line() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (-100i64..100).prop_map(|n| format!("add {n}")),
        1 => Just(format!("add {}", i64::MAX)),
        1 => "[a-z ]{0,12}",
    ]
}

fn atomic_line() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => ("[a-f]{1,2}", 0i64..4).prop_map(|(id, v)| format!("exchange {id} {v}")),
        4 => ("[a-f]{1,2}", 0i64..4, 0i64..4).prop_map(|(id, old, new)| format!("cas {id} {old} {new}")),
        1 => "[a-z ]{0,12}",
    ]
}

/// A log, cuts in it, and whether to restore at each.
fn runs(
    line: impl Strategy<Value = String>,
) -> impl Strategy<Value = (Vec<String>, Vec<usize>, Vec<bool>)> {
    prop::collection::vec(line, 0..600).prop_flat_map(|log| {
        let cuts = cuts(log.len());
        (Just(log), cuts, prop::collection::vec(any::<bool>(), 9))
    })
}

/// The native machine agrees on each answer; of a reject, only that it is one.
fn check_native(machine: &mut dyn Machine, log: &[String], queries: &[&str], run: &Run) {
    let (mut answers, mut outcome) = (Vec::new(), OutcomeHash::default());
    apply(machine, log, 0, &mut answers, &mut outcome);
    for ((line, native), wasm) in log.iter().zip(&answers).zip(&run.answers) {
        let same = native.0 == wasm.0 && (native.0 || native.1 == wasm.1);
        assert!(same, "{line:?}: {native:?} natively, {wasm:?} in wasm");
    }
    for (query, wasm) in queries.iter().zip(&run.queries) {
        assert_eq!(&machine.query(query.as_bytes()).unwrap(), wasm, "{query}");
    }
}

fn check(
    name: &'static str,
    native: &mut dyn Machine,
    (log, cuts, restores): (Vec<String>, Vec<usize>, Vec<bool>),
    queries: &[&str],
) {
    let plugin = plugin(name);
    let in_one_go = run(&plugin, &log, &[], &[], queries);
    let in_batches = run(&plugin, &log, &cuts, &[], queries);
    assert_eq!(in_one_go, in_batches, "batches");
    let restored = run(&plugin, &log, &cuts, &restores, queries);
    assert_eq!(in_one_go, restored, "snapshots");
    check_native(native, &log, queries, &in_one_go);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn counter_depends_on_its_log_alone(runs in runs(counter_line())) {
        check("counter", &mut native::counter(), runs, &["get"]);
    }

    #[test]
    fn atomic_depends_on_its_log_alone(runs in runs(atomic_line())) {
        check("atomic", &mut native::atomic(), runs, &["get a", "get bb", "get f"]);
    }
}

#[test]
fn rejects_name_what_was_wrong() {
    let mut machine = plugin("counter").instantiate().unwrap();
    let mut batch = Batch::new();
    batch.push(1, 0, b"add x");
    let answers = machine.apply(&batch).unwrap();
    let Some(Answer::Reject(reason)) = answers.get(0) else {
        panic!("{answers:?}")
    };
    assert!(String::from_utf8_lossy(reason).contains("\"x\""));
    assert!(
        machine
            .query(b"nonsense")
            .unwrap()
            .unwrap_err()
            .contains("nonsense")
    );
}

#[test]
fn a_damaged_snapshot_is_refused_and_nothing_more_is_answered() {
    let plugin = plugin("counter");
    let mut machine = plugin.instantiate().unwrap();
    let (temporary, files) = save(&mut *machine, 1);
    let path = temporary.path().join(&files[0].name);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let mut restored = plugin.instantiate().unwrap();
    let fault = restored
        .load(open(temporary.path()), &info(1), &files)
        .unwrap_err();
    assert!(
        fault.to_string().contains("failed in load: it refused"),
        "{fault}"
    );
    assert!(restored.is_poisoned());
    let fault = restored.query(b"get").unwrap_err();
    assert!(fault.to_string().contains("it failed before"), "{fault}");
}
