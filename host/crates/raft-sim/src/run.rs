//! Runs of seeds: one, many at once, again with words, and with planted faults.

use crate::counters::Counters;
use crate::effort::Effort;
use crate::oracle::{Check, Invariant, Violation, broken};
use crate::plan::Mode;
use crate::random::mix;
use crate::require;
use crate::trace::Words;
use crate::world::{Setup, World};
use kontiki_raft::PlantedBug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Lines of trace shown with a violation.
pub const LINES_SHOWN: usize = 50;

/// What became of one seed.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What happened in it.
    pub counters: Counters,
    /// Hash of its trace.
    pub hash: u64,
    /// The first violation, if there was one.
    pub violation: Option<Violation>,
    /// The last lines of the trace, if they were asked for.
    pub lines: Vec<String>,
}

/// Runs one seed. A panic of the core is a violation.
#[must_use]
pub fn run_seed(setup: Setup, words: Words) -> Outcome {
    let mut world = match World::new(setup, words) {
        Ok(world) => world,
        Err(violation) => return Outcome::stillborn(setup.seed, *violation),
    };
    let check = without_panic(|| world.run());
    Outcome {
        seed: setup.seed,
        counters: world.counters(),
        hash: world.trace.hash(),
        violation: check.err().map(|violation| *violation),
        lines: world.trace.into_lines(),
    }
}

fn without_panic(run: impl FnOnce() -> Check) -> Check {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        broken(Invariant::Panic, text.unwrap_or_default())
    })
}

impl Outcome {
    fn stillborn(seed: u64, violation: Violation) -> Self {
        Self {
            seed,
            counters: Counters::default(),
            hash: 0,
            violation: Some(violation),
            lines: Vec::new(),
        }
    }
}

/// Many seeds.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// First seed.
    pub first: u64,
    /// How many.
    pub seeds: u64,
    /// Steps of each before its liveness phase.
    pub steps: u64,
    /// What is to be proven.
    pub mode: Mode,
    /// A fault planted in every core.
    pub bug: Option<PlantedBug>,
    /// Threads.
    pub jobs: usize,
    /// Every how many seeds one is run twice, to compare the traces. Zero: never.
    pub repeat_every: u64,
    /// Run the other seeds too after one has failed.
    pub keep_going: bool,
}

/// What became of many seeds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that were run.
    pub seeds: u64,
    /// Seeds run twice, with the hashes of their traces.
    pub repeated: Vec<(u64, u64)>,
    /// What the threads used.
    pub effort: Effort,
    /// Everything that happened.
    pub counters: Counters,
    /// Hash over the traces of all seeds, whatever their order.
    pub hash: u64,
    /// The failure with the lowest seed.
    pub failure: Option<Outcome>,
    /// All failures: seed and what was broken.
    pub failures: Vec<(u64, Violation)>,
}

impl Batch {
    fn setup(&self, seed: u64) -> Setup {
        Setup {
            seed,
            steps: self.steps,
            mode: self.mode,
            bug: self.bug,
        }
    }

    /// Runs the seeds on all threads; stops at the first failure. The failing seed is run again
    /// with words.
    #[must_use]
    pub fn run(&self) -> Report {
        self.run_until(&AtomicBool::new(false), |_| {})
    }

    /// As [`Self::run`], but begins no further seed once `stop` is set, and shows `progress` what
    /// was found after each seed.
    #[must_use]
    pub fn run_until(&self, stop: &AtomicBool, progress: impl Fn(&Report) + Sync) -> Report {
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let report = Mutex::new(Report::default());
        std::thread::scope(|scope| {
            for _ in 0..self.jobs.max(1) {
                scope.spawn(|| {
                    let before = Effort::of_this_thread();
                    while !failed.load(Ordering::Relaxed) && !stop.load(Ordering::Relaxed) {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        if n >= self.seeds {
                            break;
                        }
                        let outcome = self.run_one(n);
                        if outcome.violation.is_some() && !self.keep_going {
                            failed.store(true, Ordering::Relaxed);
                        }
                        let mut report = report.lock().unwrap_or_else(|e| e.into_inner());
                        report.take(outcome, self.repeats(n));
                        progress(&report);
                    }
                    let used = Effort::of_this_thread() - before;
                    report.lock().unwrap_or_else(|e| e.into_inner()).effort += used;
                });
            }
        });
        let mut report = report.into_inner().unwrap_or_else(|e| e.into_inner());
        if let Some(failure) = &mut report.failure {
            let again = run_seed(self.setup(failure.seed), Words::Last(LINES_SHOWN));
            failure.lines = again.lines;
        }
        report
    }

    fn repeats(&self, n: u64) -> bool {
        self.repeat_every > 0 && n.is_multiple_of(self.repeat_every)
    }

    fn run_one(&self, n: u64) -> Outcome {
        let setup = self.setup(self.first + n);
        let mut outcome = run_seed(setup, Words::None);
        if self.repeats(n) {
            let again = run_seed(setup, Words::None);
            if let Err(differs) = compare(&outcome, &again) {
                outcome.violation = Some(*differs);
            }
        }
        outcome
    }
}

/// Whether two runs of a seed did the same.
fn compare(outcome: &Outcome, again: &Outcome) -> Check {
    require!(
        again.hash == outcome.hash && again.counters == outcome.counters,
        Determinism,
        "trace hashes {:x} and {:x}",
        outcome.hash,
        again.hash
    );
    Ok(())
}

impl Report {
    fn take(&mut self, outcome: Outcome, repeated: bool) {
        self.seeds += 1;
        if repeated {
            self.repeated.push((outcome.seed, outcome.hash));
        }
        self.counters.add(&outcome.counters);
        self.hash ^= mix(outcome.hash ^ outcome.seed);
        if let Some(violation) = &outcome.violation {
            self.failures.push((outcome.seed, violation.clone()));
        }
        let lowest = self.failure.as_ref().is_none_or(|f| outcome.seed < f.seed);
        if outcome.violation.is_some() && lowest {
            self.failure = Some(outcome);
        }
    }
}

/// How a planted fault was caught.
#[derive(Clone, Debug)]
pub struct Caught {
    /// The fault.
    pub bug: PlantedBug,
    /// Seeds it took; none if they were not enough.
    pub seeds: Option<u64>,
    /// Seeds it may take.
    pub limit: u64,
    /// Steps it took.
    pub steps: u64,
    /// What gave it away.
    pub violation: Option<Violation>,
}

/// Runs seeds with a planted fault until one fails.
#[must_use]
pub fn hunt(bug: PlantedBug, first: u64, limit: u64, steps: u64, jobs: usize) -> Caught {
    let batch = Batch {
        first,
        seeds: limit,
        steps,
        mode: Mode::Usual,
        bug: Some(bug),
        jobs,
        repeat_every: 0,
        keep_going: false,
    };
    let report = batch.run();
    let failure = report.failure;
    Caught {
        bug,
        seeds: failure.as_ref().map(|outcome| outcome.seed + 1 - first),
        limit,
        steps: report.counters.steps,
        violation: failure.and_then(|outcome| outcome.violation),
    }
}

/// Seeds within which a planted fault must be caught: several times what it took when this was
/// written, since every change of the core changes what a seed does.
#[must_use]
pub fn seeds_allowed(bug: PlantedBug) -> u64 {
    match bug {
        PlantedBug::RepeatedVoteEarnsTime => 8_000,
        PlantedBug::AckByIndexOnly => 2_000,
        PlantedBug::LeaseForgottenOnRestart
        | PlantedBug::LeaseKeptAcrossTransfer
        | PlantedBug::LeaseWithoutDrift
        | PlantedBug::LeaseFromAckTime
        | PlantedBug::LeaseFromOwnTimeout
        | PlantedBug::MembershipKeptAfterSnapshot
        | PlantedBug::QuotaKept
        | PlantedBug::BacklogUnlimited
        | PlantedBug::StrangerHeeded
        | PlantedBug::CommitByOneHalf => 500,
        _ => 150,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::oracle::assert_breaks;

    #[test]
    pub(crate) fn a_run_that_differs_from_the_first_is_found() {
        let setup = Setup {
            seed: 3,
            steps: 500,
            mode: Mode::Usual,
            bug: None,
        };
        let first = run_seed(setup, Words::None);
        compare(&first, &run_seed(setup, Words::None)).unwrap();
        let mut other = first.clone();
        other.hash ^= 1;
        assert_breaks(compare(&first, &other), Invariant::Determinism);
        other = first.clone();
        other.counters.crashes += 1;
        assert_breaks(compare(&first, &other), Invariant::Determinism);
    }

    #[test]
    fn a_run_that_is_stopped_reports_what_it_did() {
        let batch = Batch {
            first: 1,
            seeds: u64::MAX,
            steps: 100,
            mode: Mode::Usual,
            bug: None,
            jobs: 2,
            repeat_every: 0,
            keep_going: false,
        };
        let stop = AtomicBool::new(false);
        let shown = AtomicU64::new(0);
        let report = batch.run_until(&stop, |report| {
            shown.fetch_add(1, Ordering::Relaxed);
            stop.store(report.seeds >= 3, Ordering::Relaxed);
        });
        assert!((3..=4).contains(&report.seeds), "{}", report.seeds);
        assert_eq!(shown.into_inner(), report.seeds);
        assert!(report.counters.steps >= 100 * report.seeds);
    }

    #[test]
    pub(crate) fn a_panic_is_found() {
        let check = without_panic(|| panic!("index out of range"));
        assert_breaks(check, Invariant::Panic);
        without_panic(|| Ok(())).unwrap();
    }
}
