//! Clients that send commands until told to stop, and what each of them saw.

use crate::acknowledged::Acknowledged;
use crate::session::{Outcome, Session};
use anyhow::Result;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// One command of one client. No two commands of a load are equal, so each can be found in the log.
#[derive(Clone, Debug)]
pub struct Record {
    /// Which client.
    pub client: usize,
    /// What it sent.
    pub command: String,
    /// When it sent it.
    pub begin: Instant,
    /// When it knew the outcome.
    pub end: Instant,
    /// What it knew then.
    pub outcome: Outcome,
}

/// Makes command number `sequence` of a client.
pub type Generator = fn(client: usize, sequence: u64) -> String;

/// A running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
    clients: Vec<JoinHandle<Vec<Record>>>,
}

impl Load {
    /// Starts `clients` clients of `group`, each with one command under way at a time.
    ///
    /// # Errors
    /// If an address is none.
    pub fn start(
        group: &str,
        addresses: &[String],
        clients: usize,
        next: Generator,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Acknowledged::default();
        let mut handles = Vec::new();
        for client in 0..clients {
            let session = Session::new(group, addresses, Duration::from_secs(5))?;
            let (stop, acknowledged) = (Arc::clone(&stop), acknowledged.clone());
            handles.push(tokio::spawn(run(client, session, next, stop, acknowledged)));
        }
        Ok(Self {
            stop,
            acknowledged,
            clients: handles,
        })
    }

    /// Commands acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.count()
    }

    /// Waits until `count` more commands are acknowledged.
    ///
    /// # Errors
    /// If that takes longer than `limit`.
    pub async fn wait_for(&self, count: u64, limit: Duration) -> Result<Duration> {
        self.acknowledged.wait_for(count, limit).await
    }

    /// Stops every client after its present command and gives everything they saw.
    ///
    /// # Errors
    /// If a client panicked.
    pub async fn stop(self) -> Result<Vec<Record>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut records = Vec::new();
        for client in self.clients {
            records.extend(client.await?);
        }
        Ok(records)
    }
}

async fn run(
    client: usize,
    mut session: Session,
    next: Generator,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
) -> Vec<Record> {
    let mut records = Vec::new();
    let mut sequence = 0;
    while !stop.load(Ordering::Relaxed) {
        let command = next(client, sequence);
        sequence += 1;
        let begin = Instant::now();
        let outcome = session.apply(&command).await;
        let end = Instant::now();
        if matches!(outcome, Outcome::Applied { .. }) {
            acknowledged.add();
        } else {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        records.push(Record {
            client,
            command,
            begin,
            end,
            outcome,
        });
    }
    records
}

/// `add` with a number no other command of the load has.
#[must_use]
pub fn counter_commands(client: usize, sequence: u64) -> String {
    format!("add {}", (client as u64 + 1) * 10_000_000 + sequence)
}

/// `exchange` and `cas` in turn, each with a value no other command of the load has.
#[must_use]
pub fn atomic_commands(client: usize, sequence: u64) -> String {
    let value = (client as u64 + 1) * 10_000_000 + sequence;
    let id = sequence % 3;
    if sequence.is_multiple_of(4) {
        format!("cas {id} {} {value}", value.saturating_sub(3))
    } else {
        format!("exchange {id} {value}")
    }
}
