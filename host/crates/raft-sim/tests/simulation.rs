//! Thousands of simulated clusters, and proofs that the simulation would find what it looks for.
//!
//! `KONTIKI_SIM_SEEDS` and `KONTIKI_SIM_STEPS` set the size of the main batch.

use kontiki_raft::PlantedBug;
use kontiki_raft_sim::oracle::Invariant;
use kontiki_raft_sim::plan::Mode;
use kontiki_raft_sim::run::{Batch, Outcome, Report, hunt, run_seed, seeds_allowed};
use kontiki_raft_sim::trace::Words;
use kontiki_raft_sim::witness;
use kontiki_raft_sim::world::Setup;
use std::io::Write;
use std::path::Path;

/// Million steps per processor minute below which a machine of today is not to be blamed. Measured:
/// 70 to 90.
const RATE_MIN: f64 = 10.0;

fn from_environment(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

fn batch(seeds: u64, mode: Mode) -> Batch {
    Batch {
        first: 1,
        seeds,
        steps: from_environment("KONTIKI_SIM_STEPS", 20_000),
        mode,
        bug: None,
        jobs: std::thread::available_parallelism().map_or(1, usize::from),
        repeat_every: 100,
        keep_going: false,
    }
}

#[track_caller]
fn assert_no_violation(report: &Report, steps: u64) {
    if let Some(Outcome {
        seed,
        violation: Some(violation),
        lines,
        ..
    }) = &report.failure
    {
        panic!(
            "{}\nseed {seed} failed: {violation}\nreplay it with: cargo run -p kontiki-raft-sim -- replay {seed} --steps {steps}",
            lines.join("\n")
        );
    }
}

#[test]
fn two_thousand_seeds_break_no_invariant_and_enough_happens() {
    let batch = batch(from_environment("KONTIKI_SIM_SEEDS", 2_000), Mode::Usual);
    let report = batch.run();
    tell_rate(&report);
    assert_no_violation(&report, batch.steps);
    assert_eq!(report.seeds, batch.seeds);
    assert_eq!(
        report.counters.too_few(),
        [],
        "too little happened to prove anything"
    );
    assert_witnessed(&report, batch.steps);
    let rate = report.effort.rate(report.counters.steps);
    assert!(
        rate >= RATE_MIN || !report.effort.was_undisturbed(),
        "only {rate:.1} million steps per processor minute"
    );
}

/// In both a member stood still for ever: steady reads put off what a leader does by the clock.
#[test]
fn seeds_in_which_a_member_stood_still_end_well() {
    for seed in [4_299, 35_286] {
        let setup = Setup {
            seed,
            steps: 20_000,
            mode: Mode::Usual,
            bug: None,
        };
        let outcome = run_seed(setup, Words::None);
        assert!(outcome.violation.is_none(), "{:?}", outcome.violation);
    }
}

/// Says how fast it went, past the capture of the test harness: a log should show it even if all
/// is well.
fn tell_rate(report: &Report) {
    let (steps, effort) = (report.counters.steps, report.effort);
    let told = writeln!(
        std::io::stderr(),
        "simulation: {} seeds, {steps} steps, {:.1} million steps per processor minute ({:.1} s of processor time, {:.1} s waited for one)",
        report.seeds,
        effort.rate(steps),
        effort.cpu_seconds,
        effort.waited_seconds
    );
    told.expect("standard error takes a line");
}

/// Another process makes the same of the seeds that were run twice.
fn assert_witnessed(report: &Report, steps: u64) {
    // Asked for at run time: a shell between cargo and the compiler drops names with hyphens.
    let program = std::env::var("CARGO_BIN_EXE_kontiki-raft-sim").expect("cargo says where it is");
    let setup = Setup {
        seed: 0,
        steps,
        mode: Mode::Usual,
        bug: None,
    };
    assert!(!report.repeated.is_empty());
    if let Err(violation) = witness::run_again(Path::new(&program), setup, &report.repeated) {
        panic!("{violation}");
    }
}

#[test]
fn a_batch_without_faults_fails_the_gate() {
    let report = batch(20, Mode::Calm).run();
    assert_no_violation(&report, 0);
    let missing: Vec<&str> = report
        .counters
        .too_few()
        .iter()
        .map(|(name, ..)| *name)
        .collect();
    for name in [
        "crashes",
        "messages_lost",
        "partitions",
        "changes_done",
        "liveness_phases",
    ] {
        assert!(
            missing.contains(&name),
            "{name} must be missed: {missing:?}"
        );
    }
}

#[test]
fn one_seed_gives_one_trace() {
    let run = |seed| {
        let setup = Setup {
            seed,
            steps: 5_000,
            mode: Mode::Usual,
            bug: None,
        };
        let outcome = run_seed(setup, Words::None);
        (outcome.hash, outcome.counters)
    };
    for seed in 1..=20 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
    assert_ne!(run(1).0, run(2).0);
}

#[test]
fn words_do_not_change_the_run() {
    let setup = Setup {
        seed: 7,
        steps: 3_000,
        mode: Mode::Usual,
        bug: None,
    };
    let silent = run_seed(setup, Words::None);
    let told = run_seed(setup, Words::Last(50));
    assert_eq!(silent.hash, told.hash);
    assert_eq!(told.lines.len(), 50);
}

#[test]
fn clocks_beyond_the_drift_bound_break_leases() {
    let report = batch(200, Mode::BeyondDrift).run();
    let violation = report.failure.and_then(|failure| failure.violation);
    let broken = violation
        .expect("leases cannot hold with such clocks")
        .invariant;
    assert!(
        [
            Invariant::LeaseExclusive,
            Invariant::ReadIndex,
            Invariant::RealTimeOrder
        ]
        .contains(&broken),
        "{broken:?}"
    );
}

#[test]
fn every_planted_fault_is_caught_within_its_limit() {
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let steps = from_environment("KONTIKI_SIM_STEPS", 20_000);
    let missed: Vec<PlantedBug> = PlantedBug::ALL
        .iter()
        .copied()
        .filter(|bug| {
            hunt(*bug, 1, seeds_allowed(*bug), steps, jobs)
                .seeds
                .is_none()
        })
        .collect();
    assert_eq!(missed, []);
}
