//! The clients of a measurement.

use crate::cli::failure::{Failure, Result};
use hdrhistogram::Histogram;
use kontiki_client::{Address, Client, Error, Options, Verdict};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Barrier;

/// What to run.
pub(super) struct Load {
    pub(super) endpoints: Vec<Address>,
    pub(super) timeout: Duration,
    pub(super) group: String,
    /// One for each client.
    pub(super) commands: Vec<String>,
    pub(super) warmup: Duration,
    pub(super) duration: Duration,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Measured {
    /// Microseconds from sending to answer, of commands acknowledged while it was measured.
    pub(super) latency: Histogram<u64>,
    /// Commands acknowledged from the first to the last, warm-up included.
    pub(super) acknowledged: u64,
    /// Commands whose outcome is unknown, warm-up included.
    pub(super) unknown: u64,
    /// Failures while it was measured, by reason and outcome.
    pub(super) errors: BTreeMap<(String, &'static str), u64>,
}

/// Highest latency told apart, in microseconds; anything above counts as this.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

impl Measured {
    fn new() -> Result<Self> {
        let latency = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3)
            .map_err(|error| Failure::local("HISTOGRAM", error.to_string()))?;
        Ok(Self {
            latency,
            acknowledged: 0,
            unknown: 0,
            errors: BTreeMap::new(),
        })
    }

    fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        self.latency.add(&other.latency).ok();
        self.acknowledged += other.acknowledged;
        self.unknown += other.unknown;
        for (key, count) in &other.errors {
            *self.errors.entry(key.clone()).or_default() += count;
        }
    }

    fn fail(&mut self, error: &Error, measuring: bool) {
        let outcome = error.outcome();
        self.unknown += u64::from(outcome == kontiki_client::Outcome::Unknown);
        if measuring {
            let key = (error.reason().as_str().to_owned(), outcome.as_str());
            *self.errors.entry(key).or_default() += 1;
        }
    }
}

impl Load {
    /// Connects every client, lets all begin at once, and gathers.
    pub(super) async fn run(self) -> Result<Measured> {
        let all = self.commands.len();
        let start = Arc::new(Barrier::new(all));
        let workers: Vec<_> = self
            .commands
            .iter()
            .map(|command| {
                let options = Options {
                    timeout: self.timeout,
                    ..Options::default()
                };
                Worker {
                    client: Client::connect(self.endpoints.clone(), options),
                    group: self.group.clone(),
                    command: bytes::Bytes::from(command.clone()),
                    start: start.clone(),
                    warmup: self.warmup,
                    duration: self.duration,
                }
            })
            .map(|worker| tokio::spawn(worker.run()))
            .collect();
        let mut total = Measured::new()?;
        for worker in workers {
            let measured = worker
                .await
                .map_err(|error| Failure::local("WORKER", error.to_string()))??;
            total.add(&measured);
        }
        Ok(total)
    }
}

struct Worker {
    client: Client,
    group: String,
    command: bytes::Bytes,
    start: Arc<Barrier>,
    warmup: Duration,
    duration: Duration,
}

impl Worker {
    async fn run(self) -> Result<Measured> {
        let mut measured = Measured::new()?;
        // Connects before the clock runs; a failure shows again below.
        self.client.members().await.ok();
        self.start.wait().await;
        let begin = Instant::now() + self.warmup;
        let end = begin + self.duration;
        loop {
            let sent = Instant::now();
            if sent >= end {
                return Ok(measured);
            }
            let reply = self.client.apply(&self.group, self.command.clone()).await;
            let answered = Instant::now();
            let measuring = sent >= begin && answered <= end;
            match reply {
                Ok(reply) => {
                    if let Verdict::Rejected(why) = &reply.verdict {
                        let message = format!("{}: {why}", self.group);
                        let exit = crate::cli::exit::Exit::Refused;
                        return Err(Failure::new(exit, "REJECTED", message));
                    }
                    measured.acknowledged += 1;
                    if measuring {
                        let micros = (answered - sent).as_micros();
                        let micros = u64::try_from(micros).unwrap_or(LATENCY_MICROS_MAX);
                        measured.latency.saturating_record(micros.max(1));
                    }
                }
                Err(error) => measured.fail(&error, measuring),
            }
        }
    }
}
