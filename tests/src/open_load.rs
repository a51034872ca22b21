//! An open-loop load: commands leave at a fixed rate whatever becomes of earlier ones.
//!
//! A closed loop waits when the cluster does, and so hides the time that others would have waited.
//! Here every command has a time at which it is due, fixed beforehand; what the cluster or this
//! program is late by counts as time that the command took. The load runs on a thread of its own,
//! so that nothing a test does holds it up.

use crate::acknowledged::Acknowledged;
use crate::load::{Generator, Record};
use crate::session::{self, Outcome};
use anyhow::{Context as _, Result};
use kontiki_proto::v1;
use kontiki_proto::v1::client_client::ClientClient;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// Clients that share the commands in turn; each has its own connections and its own idea of who
/// leads.
const CLIENTS: usize = 4;
/// First wait after a refusal that passes; doubled each time.
const RETRY_FIRST: Duration = Duration::from_millis(5);
/// Longest such wait.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Refusals after which a command is sent again, as `kontiki-client` does: it was certainly not
/// applied, and the reason passes. A node without a replica says that it has no such group; another
/// has.
const PASSING: [&str; 11] = [
    "NOT_LEADER",
    "NO_LEADER",
    "NO_MEMBER",
    "LEADER_UNREACHABLE",
    "TRANSFERRING",
    "SHUTTING_DOWN",
    "GROUP_LOADING",
    "REPLICA_FAILED",
    "BUSY",
    "UNREACHABLE",
    "GROUP_NOT_FOUND",
];

/// One command of an open-loop load.
#[derive(Clone, Debug)]
pub struct Paced {
    /// When it was due to be sent.
    pub scheduled: Instant,
    /// What was sent, when first, and what became of it in the end.
    pub record: Record,
    /// Refusals before that, after each of which it was sent again.
    pub refusals: Vec<Refusal>,
}

/// One attempt that certainly did nothing.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// When it was sent.
    pub begin: Instant,
    /// When it was refused.
    pub end: Instant,
    /// Why, in one word.
    pub reason: String,
}

/// A running open-loop load.
#[derive(Debug)]
pub struct OpenLoad {
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
    thread: JoinHandle<Result<Vec<Paced>>>,
}

impl OpenLoad {
    /// Starts sending `per_second` commands a second to `group`, each with `patience` from the time
    /// it is due until its outcome must be known.
    ///
    /// # Errors
    /// If an address is none, or no thread can be had.
    pub fn start(
        group: &str,
        addresses: &[String],
        per_second: u32,
        patience: Duration,
        next: Generator,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Acknowledged::default();
        let pacer = Pacer {
            group: group.to_owned(),
            addresses: addresses.to_vec(),
            interval: Duration::from_secs(1) / per_second,
            patience,
            next,
            stop: Arc::clone(&stop),
            acknowledged: acknowledged.clone(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new()
            .name(format!("load of {group}"))
            .spawn(move || runtime.block_on(pacer.run()))?;
        Ok(Self {
            stop,
            acknowledged,
            thread,
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

    /// Sends nothing more, waits until every outcome is known, and gives all commands in the order
    /// in which they were due.
    ///
    /// # Errors
    /// If the load itself failed.
    pub fn stop(self) -> Result<Vec<Paced>> {
        self.stop.store(true, Ordering::Relaxed);
        let joined = self.thread.join();
        let mut all = joined.map_err(|_| anyhow::anyhow!("the load panicked"))??;
        all.sort_by_key(|paced| paced.scheduled);
        Ok(all)
    }
}

struct Pacer {
    group: String,
    addresses: Vec<String>,
    interval: Duration,
    patience: Duration,
    next: Generator,
    stop: Arc<AtomicBool>,
    acknowledged: Acknowledged,
}

impl Pacer {
    async fn run(self) -> Result<Vec<Paced>> {
        let clients = (0..CLIENTS).map(|client| self.client(client));
        let clients = clients.collect::<Result<Vec<_>>>()?;
        let (mut all, mut under_way) = (Vec::new(), JoinSet::new());
        let mut scheduled = Instant::now();
        let mut sequence: u64 = 0;
        while !self.stop.load(Ordering::Relaxed) {
            sleep_until(scheduled.into()).await;
            let client = &clients[(sequence % CLIENTS as u64) as usize];
            let command = (self.next)(client.number, sequence);
            let due = scheduled + self.patience;
            under_way.spawn(Arc::clone(client).send(command, scheduled, due));
            while let Some(done) = under_way.try_join_next() {
                all.push(done.context("a command's task")?);
            }
            scheduled += self.interval;
            sequence += 1;
        }
        while let Some(done) = under_way.join_next().await {
            all.push(done.context("a command's task")?);
        }
        Ok(all)
    }

    fn client(&self, number: usize) -> Result<Arc<Client>> {
        let channels = self.addresses.iter().map(|at| session::channel(at));
        Ok(Arc::new(Client {
            number,
            group: self.group.clone(),
            addresses: self.addresses.clone(),
            channels: channels.collect::<Result<_>>()?,
            // They do not all begin at one node: some commands are passed on by followers.
            current: AtomicUsize::new(number % self.addresses.len()),
            acknowledged: self.acknowledged.clone(),
        }))
    }
}

/// One client: it stays with a node while that answers, and follows hints to the leader.
struct Client {
    number: usize,
    group: String,
    addresses: Vec<String>,
    channels: Vec<Channel>,
    current: AtomicUsize,
    acknowledged: Acknowledged,
}

impl Client {
    async fn send(self: Arc<Self>, command: String, scheduled: Instant, due: Instant) -> Paced {
        let mut refusals = Vec::new();
        let first = Instant::now();
        let (mut begin, mut wait) = (first, RETRY_FIRST);
        loop {
            let node = self.current.load(Ordering::Relaxed);
            let answer = self.attempt(node, &command, due).await;
            let (outcome, hint) = match answer {
                Ok(outcome) => (outcome, None),
                Err(status) => (session::failed(&status), self.leader_hint(&status)),
            };
            let end = Instant::now();
            if outcome.reason().is_some() {
                self.turn(node, hint, &outcome);
            }
            let reason = outcome.reason().unwrap_or_default().to_owned();
            let passes =
                matches!(outcome, Outcome::NotApplied { .. }) && PASSING.contains(&reason.as_str());
            if !passes || end + wait >= due {
                if matches!(outcome, Outcome::Applied { .. }) {
                    self.acknowledged.add();
                }
                return Paced {
                    scheduled,
                    record: Record {
                        client: self.number,
                        command,
                        begin: first,
                        end,
                        outcome,
                    },
                    refusals,
                };
            }
            refusals.push(Refusal { begin, end, reason });
            sleep(wait).await;
            wait = (wait * 2).min(RETRY_MAX);
            begin = Instant::now();
        }
    }

    async fn attempt(&self, node: usize, command: &str, due: Instant) -> Result<Outcome, Status> {
        let request = v1::ApplyRequest {
            group: self.group.clone(),
            command: command.as_bytes().to_vec().into(),
            ..Default::default()
        };
        let left = due.saturating_duration_since(Instant::now());
        let mut request = Request::new(request);
        request.set_timeout(left);
        let mut client = ClientClient::new(self.channels[node].clone());
        // The node answers before the deadline; a margin, lest a lost node's silence be endless.
        let limit = left + Duration::from_millis(500);
        match tokio::time::timeout(limit, client.apply(request)).await {
            Ok(reply) => Ok(session::applied(reply?.into_inner())),
            Err(_) => Err(Status::deadline_exceeded("no answer")),
        }
    }

    fn leader_hint(&self, status: &Status) -> Option<usize> {
        let details = status.get_error_details();
        let leader = details.error_info()?.metadata.get("leader_address")?;
        self.addresses.iter().position(|address| address == leader)
    }

    /// Turns from `node` to where it points, or to the next if it cannot be spoken to. Of many
    /// commands that fail at once only the first turns.
    fn turn(&self, node: usize, hint: Option<usize>, outcome: &Outcome) {
        let gone = [
            "UNREACHABLE",
            "CONNECTION_LOST",
            "DEADLINE_EXCEEDED",
            "SHUTTING_DOWN",
            "LEADER_UNREACHABLE",
            "NO_LEADER",
            "NO_MEMBER",
            "REPLICA_FAILED",
            "GROUP_NOT_FOUND",
        ];
        let next = (node + 1) % self.channels.len();
        let is_gone = outcome.reason().is_some_and(|why| gone.contains(&why));
        let to = match hint {
            Some(leader) if leader != node && !is_gone => leader,
            _ if is_gone => next,
            _ => return,
        };
        let order = Ordering::Relaxed;
        // Another command has turned already: stay with its choice.
        let _ = self.current.compare_exchange(node, to, order, order);
    }
}
