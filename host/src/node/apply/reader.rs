//! Queries run on an instance of their own, behind the replicated one: whatever a query does to it,
//! loop, trap, grow or change its state, costs neither a command nor the replica anything.
//!
//! The reader is made at the first query and fed from the log up to what is applied; after a while
//! without a query it is let go.

use super::runner::{Progress, Runner};
use super::view::ApplyView;
use super::worker::Stopped;
use crate::metrics::result_of;
use crate::node::reply::QueryReply;
use crate::node::request::{Applied, Failure, Outcome, Position};
use bytes::Bytes;
use kontiki_raft::LogIndex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tracing::{error, warn};

/// How long a reader is kept without a query.
const IDLE_MAX: Duration = Duration::from_secs(300);
/// Memory that queries may add before the reader is let go, beyond as much again as the
/// replicated instance has.
const GROWTH_SIZE_BYTES_MAX: u64 = 256 << 20;
/// How often the log tells of a query that failed.
const FAULT_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// A query whose index is applied.
pub(super) struct Ready {
    /// How far the replicated instance was when the query was handed over, which is what the query
    /// sees.
    pub(super) applied: Progress,
    pub(super) request: Bytes,
    pub(super) reply: QueryReply,
}

/// Handle of the reader's thread; dropping it ends the thread and waits for that.
pub(super) struct ReaderHandle {
    /// None once the thread is to end.
    queries: Option<mpsc::Sender<Ready>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ReaderHandle {
    pub(super) fn start(
        runner: Runner,
        digest: Arc<str>,
        view: Arc<ApplyView>,
    ) -> std::io::Result<Self> {
        let (queries, queue) = mpsc::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let reader = Reader {
            runner,
            digest,
            view,
            ended: Arc::clone(&ended),
            fresh: true,
            fault_logged: None,
        };
        let thread = std::thread::Builder::new()
            .name(format!("read-{}", reader.runner.group.0 & 0xffff))
            .stack_size(super::THREAD_STACK_SIZE_BYTES)
            .spawn(move || reader.run(&queue))?;
        Ok(Self {
            queries: Some(queries),
            ended,
            thread: Some(thread),
        })
    }

    /// Queues a query. If the thread has ended, whoever asks gets no answer.
    pub(super) fn ask(&self, query: Ready) {
        if let Some(queries) = &self.queries {
            let _ = queries.send(query);
        }
    }
}

impl Drop for ReaderHandle {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        self.queries = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was caught and told before.
            let _ = thread.join();
        }
    }
}

struct Reader {
    runner: Runner,
    digest: Arc<str>,
    view: Arc<ApplyView>,
    ended: Arc<AtomicBool>,
    /// No query has run on the present machine yet.
    fresh: bool,
    fault_logged: Option<Instant>,
}

impl Reader {
    fn run(mut self, queue: &mpsc::Receiver<Ready>) {
        loop {
            match queue.recv_timeout(IDLE_MAX) {
                Ok(query) if self.ended.load(Ordering::Acquire) => drop(query),
                Ok(query) => self.guarded(query),
                Err(mpsc::RecvTimeoutError::Timeout) => self.let_go(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A panic is a bug of the host's; the machine it left is not trusted. Whoever asked learns by
    /// the dropped reply.
    fn guarded(&mut self, query: Ready) {
        if catch_unwind(AssertUnwindSafe(|| self.answer(query))).is_err() {
            error!(group = self.runner.group.0, "a query made the host panic");
            self.let_go();
        }
    }

    fn let_go(&mut self) {
        self.runner.forget();
        self.fresh = true;
        self.view.reader_size_bytes.store(0, Ordering::Relaxed);
    }

    fn answer(&mut self, query: Ready) {
        if query.reply.is_closed() {
            return;
        }
        let answer = match self.follow(query.applied) {
            Ok(()) => self.ask(&query.request, &query),
            Err(stopped) => {
                self.let_go();
                Err(stopped.failure(Outcome::NotApplied))
            }
        };
        self.weigh();
        query.reply.answer(answer);
    }

    /// Brings the reader to where the replicated instance was.
    fn follow(&mut self, applied: Progress) -> Result<(), Stopped> {
        if self.runner.machine.is_none() {
            self.runner.make()?;
            self.fresh = true;
        }
        let upto = applied.applied.index;
        let caught_up = self.catch_up(upto);
        if caught_up.is_ok() && self.agrees(&applied) {
            return Ok(());
        }
        if self.fresh {
            caught_up?;
            return Err(self.not_deterministic(upto));
        }
        // A query before changed what the machine remembers, or used it up.
        if caught_up.is_ok() {
            self.blame_queries(upto);
        }
        self.let_go();
        self.runner.make()?;
        self.catch_up(upto)?;
        match self.agrees(&applied) {
            true => Ok(()),
            false => Err(self.not_deterministic(upto)),
        }
    }

    fn catch_up(&mut self, upto: LogIndex) -> Result<(), Stopped> {
        let ended = Arc::clone(&self.ended);
        self.runner
            .catch_up(upto, &move || ended.load(Ordering::Acquire))
    }

    /// Whether the reader has given the same answers to the same entries.
    fn agrees(&self, applied: &Progress) -> bool {
        let state = &self.runner.state;
        state.applied.index != applied.applied.index || state.hash == applied.hash
    }

    fn not_deterministic(&self, index: LogIndex) -> Stopped {
        let stopped = Stopped::not_deterministic(index);
        error!(group = self.runner.group.0, index = index.0, plugin = %self.digest,
            "the plugin gave other answers when the log was replayed: it is not deterministic");
        self.view.set_read_problem(&stopped.headline);
        stopped
    }

    fn blame_queries(&self, index: LogIndex) {
        warn!(group = self.runner.group.0, index = index.0, plugin = %self.digest,
            "queries change the plugin's state; their instance is made anew");
        self.view.set_read_problem(
            "queries change the plugin's state: what they change is lost, and each time the \
             instance that answers them is made anew from the log",
        );
    }

    fn ask(&mut self, request: &[u8], query: &Ready) -> Result<Applied, Failure> {
        let mut result = self.run_query(request);
        let used_up = |result: &Result<_, kontiki_plugin::Fault>| {
            result.as_ref().is_err_and(kontiki_plugin::Fault::is_limit)
        };
        if used_up(&result) && !self.fresh {
            // Perhaps the queries before did it.
            self.let_go();
            let followed = self.follow(query.applied);
            followed.map_err(|stopped| stopped.failure(Outcome::NotApplied))?;
            result = self.run_query(request);
        }
        self.fresh = false;
        match result {
            Ok(result) => Ok(Applied {
                position: Position {
                    id: self.runner.state.applied,
                    plugin: Arc::clone(&self.digest),
                },
                result: result.map(Bytes::from),
            }),
            Err(fault) => {
                self.log_fault(&fault);
                Err(Failure::PluginFault {
                    message: fault.to_string(),
                    outcome: Outcome::NotApplied,
                })
            }
        }
    }

    fn run_query(
        &mut self,
        request: &[u8],
    ) -> Result<Result<Vec<u8>, String>, kontiki_plugin::Fault> {
        let machine = self.runner.machine.as_mut();
        let machine = machine.expect("made before the reader followed");
        machine.set_replaying(false);
        let start = Instant::now();
        let result = machine.query(request);
        machine.set_replaying(true);
        let poisoned = machine.is_poisoned();
        let blame = result_of(result.as_ref().err());
        self.runner.metrics.queried(start.elapsed(), blame);
        self.runner.measure_fuel();
        if poisoned {
            let fresh = self.fresh;
            self.let_go();
            // What just failed in a fresh machine is not tried in another.
            self.fresh = fresh;
        }
        result
    }

    /// Lets go of a machine that queries have made grow.
    fn weigh(&mut self) {
        let machine = self.runner.machine.as_ref();
        let size_bytes = machine.map_or(0, |machine| machine.memory_size_bytes());
        let replicated = self.view.memory_size_bytes.load(Ordering::Relaxed);
        if size_bytes > replicated.saturating_mul(2) + GROWTH_SIZE_BYTES_MAX {
            return self.let_go();
        }
        self.view
            .reader_size_bytes
            .store(size_bytes, Ordering::Relaxed);
    }

    fn log_fault(&mut self, fault: &kontiki_plugin::Fault) {
        let recent = |at: Instant| at.elapsed() < FAULT_LOG_INTERVAL;
        if self.fault_logged.is_some_and(recent) {
            return;
        }
        self.fault_logged = Some(Instant::now());
        warn!(group = self.runner.group.0, plugin = %self.digest, error = %fault,
            "a query failed");
    }
}
