//! What a load saw over time: the rate that was really offered, pauses, and which refusals when.

use crate::cluster::workspace;
use crate::open_load::Paced;
use crate::session::Outcome;
use anyhow::{Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Longest time without an acknowledgement that touches `[from, to]`: the last one before `from`
/// and the first after `to` count, so that no pause hides behind an edge.
#[must_use]
pub fn longest_pause(all: &[Paced], from: Instant, to: Instant) -> Duration {
    let acknowledged = all
        .iter()
        .filter(|paced| matches!(paced.record.outcome, Outcome::Applied { .. }));
    let mut ends: Vec<Instant> = acknowledged.map(|paced| paced.record.end).collect();
    ends.sort();
    let first = ends.partition_point(|end| *end < from).saturating_sub(1);
    let last = ends.partition_point(|end| *end <= to);
    let ends = &ends[first..(last + 1).min(ends.len())];
    let between = ends.windows(2).map(|pair| pair[1] - pair[0]).max();
    // Where nothing follows, the pause lasts at least to the end of the window.
    let after = ends.last().map(|end| to.saturating_duration_since(*end));
    let before = ends.first().map(|end| end.saturating_duration_since(from));
    between
        .into_iter()
        .chain(after)
        .chain(before)
        .max()
        .unwrap_or(to - from)
}

/// The value below which a `part` of the values lie.
#[must_use]
pub fn percentile(mut values: Vec<Duration>, part: f64) -> Duration {
    values.sort();
    let at = (values.len() as f64 * part) as usize;
    values
        .get(at.min(values.len().saturating_sub(1)))
        .copied()
        .unwrap_or_default()
}

/// What a load offered between two moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Offered {
    /// Commands due in that time, a second.
    pub scheduled_per_second: f64,
    /// Commands sent in that time, a second.
    pub sent_per_second: f64,
    /// Commands acknowledged in that time, a second.
    pub acknowledged_per_second: f64,
    /// How late the commands due in that time were sent: 99 of 100 were sent earlier.
    pub late_p99: Duration,
    /// From when a command was due to its acknowledgement: half, 99 of 100, and all took less.
    pub latency: [Duration; 3],
}

impl Offered {
    /// Counts what was offered in `[from, to]`.
    #[must_use]
    pub fn within(all: &[Paced], from: Instant, to: Instant) -> Self {
        let seconds = (to - from).as_secs_f64();
        let rate = |time: fn(&Paced) -> Option<Instant>| {
            let hits = all.iter().filter_map(time);
            hits.filter(|at| (from..=to).contains(at)).count() as f64 / seconds
        };
        let due = || {
            all.iter()
                .filter(|paced| (from..=to).contains(&paced.scheduled))
        };
        let late = due().map(|paced| paced.record.begin - paced.scheduled);
        let latency: Vec<Duration> = due()
            .filter(|paced| matches!(paced.record.outcome, Outcome::Applied { .. }))
            .map(|paced| paced.record.end - paced.scheduled)
            .collect();
        Self {
            scheduled_per_second: rate(|paced| Some(paced.scheduled)),
            sent_per_second: rate(|paced| Some(paced.record.begin)),
            acknowledged_per_second: rate(|paced| match paced.record.outcome {
                Outcome::Applied { .. } => Some(paced.record.end),
                _ => None,
            }),
            late_p99: percentile(late.collect(), 0.99),
            latency: [0.5, 0.99, 1.0].map(|part| percentile(latency.clone(), part)),
        }
    }

    /// Fails unless at least `per_second` commands a second were due and were sent.
    ///
    /// # Errors
    /// Says that this program, not the cluster, was too slow.
    pub fn ensure_rate(&self, per_second: f64) -> Result<()> {
        ensure!(
            self.scheduled_per_second >= per_second && self.sent_per_second >= per_second,
            "the load generator was too slow for {per_second}/s, so nothing was shown: {self:?}"
        );
        Ok(())
    }
}

/// What an operator did, when, and what clients may be told meanwhile.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What was done.
    pub name: String,
    /// When it began.
    pub from: Instant,
    /// When its effects had passed.
    pub to: Instant,
    /// Reasons that are documented for it.
    pub documented: &'static [&'static str],
}

/// Refusals and unknown outcomes of a load, by phase and reason.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// In a phase that documents them.
    pub documented: BTreeMap<String, BTreeMap<String, usize>>,
    /// All others, each with the phases it met.
    pub others: BTreeMap<String, usize>,
}

impl Refusals {
    /// Sorts every refusal and every unknown outcome by the phases that overlap its attempt.
    ///
    /// # Errors
    /// If a phase allows a reason that the page on failures does not explain.
    pub fn sort(all: &[Paced], phases: &[Phase]) -> Result<Self> {
        let page = workspace().join("host/docs/operations/failures.md");
        let page = std::fs::read_to_string(page)?;
        for reason in phases.iter().flat_map(|phase| phase.documented) {
            let row = format!("`{reason}`");
            ensure!(page.contains(&row), "{reason} is documented nowhere");
        }
        let mut sorted = Self::default();
        for paced in all {
            for refusal in &paced.refusals {
                sorted.add(refusal.begin, refusal.end, &refusal.reason, phases);
            }
            let last = paced.refusals.last().map(|refusal| refusal.end);
            if let Some(reason) = paced.record.outcome.reason() {
                let begin = last.unwrap_or(paced.record.begin);
                sorted.add(begin, paced.record.end, reason, phases);
            }
        }
        Ok(sorted)
    }

    fn add(&mut self, begin: Instant, end: Instant, reason: &str, phases: &[Phase]) {
        let met: Vec<&Phase> = phases
            .iter()
            .filter(|phase| phase.from <= end && begin <= phase.to)
            .collect();
        let documents = |phase: &&&Phase| phase.documented.contains(&reason);
        let count = match met.iter().find(documents) {
            Some(phase) => {
                let of_phase = self.documented.entry(phase.name.clone()).or_default();
                of_phase.entry(reason.to_owned())
            }
            None => {
                let names: BTreeSet<&str> = met.iter().map(|phase| phase.name.as_str()).collect();
                self.others.entry(format!("{reason} in {names:?}"))
            }
        };
        *count.or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Record;
    use crate::open_load::Refusal;

    const MS: Duration = Duration::from_millis(1);

    fn paced(start: Instant, due: u32, begin: u32, end: u32, outcome: Outcome) -> Paced {
        Paced {
            scheduled: start + MS * due,
            record: Record {
                client: 0,
                command: String::new(),
                begin: start + MS * begin,
                end: start + MS * end,
                outcome,
            },
            refusals: Vec::new(),
        }
    }

    fn acknowledged(start: Instant, end: u32) -> Paced {
        let answer = Ok(String::new());
        paced(start, end, end, end, Outcome::Applied { index: 1, answer })
    }

    #[test]
    fn a_pause_is_counted_over_both_edges() {
        let start = Instant::now();
        let all = [0, 10, 300, 310].map(|end| acknowledged(start, end));
        let pause = |from, to| longest_pause(&all, start + MS * from, start + MS * to);
        assert_eq!(pause(100, 305), MS * 290);
        assert_eq!(pause(5, 100), MS * 290);
        assert_eq!(pause(100, 200), MS * 290);
        assert_eq!(pause(0, 10), MS * 290);
        assert_eq!(pause(302, 310), MS * 10);
        assert_eq!(pause(305, 500), MS * 190);
        assert_eq!(longest_pause(&[], start, start + MS), MS);
    }

    #[test]
    fn a_late_generator_is_found() {
        let start = Instant::now();
        let none = Outcome::NotApplied {
            reason: "BUSY".to_owned(),
        };
        let on_time: Vec<_> = (0..1_000)
            .map(|due| paced(start, due, due, due, none.clone()))
            .collect();
        let second = |all: &[Paced]| Offered::within(all, start, start + MS * 1_000);
        second(&on_time).ensure_rate(950.0).unwrap();
        let late: Vec<_> = (0..1_000)
            .map(|due| paced(start, due, due * 2, due * 2, none.clone()))
            .collect();
        assert!(second(&late).ensure_rate(950.0).is_err());
        assert!(second(&on_time[..900]).ensure_rate(950.0).is_err());
    }

    #[test]
    fn a_refusal_belongs_to_a_phase_that_documents_it() {
        let start = Instant::now();
        let phase = Phase {
            name: "transfer".to_owned(),
            from: start + MS * 100,
            to: start + MS * 200,
            documented: &["TRANSFERRING"],
        };
        let refused = |reason: &str, at: u32| {
            let mut paced = acknowledged(start, 400);
            paced.refusals.push(Refusal {
                begin: start + MS * at,
                end: start + MS * at,
                reason: reason.to_owned(),
            });
            paced
        };
        let all = [
            refused("TRANSFERRING", 150),
            refused("TRANSFERRING", 300),
            refused("BUSY", 150),
        ];
        let sorted = Refusals::sort(&all, &[phase]).unwrap();
        assert_eq!(sorted.documented["transfer"]["TRANSFERRING"], 1);
        assert_eq!(sorted.others["TRANSFERRING in {}"], 1);
        assert_eq!(sorted.others["BUSY in {\"transfer\"}"], 1);
    }
}
