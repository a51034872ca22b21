//! The thread that owns a group's state machine: applies what is committed, in order, and answers
//! queries between batches.

use super::plugins::PluginSource;
use super::reply::{CommandReply, QueryReply};
use super::request::{Applied, Failure, Outcome, Position};
use crate::metrics::{PluginMetrics, result_of};
use bytes::Bytes;
use kontiki_plugin::{Answer, Answers, ApplyFault, Batch, Machine, OutcomeHash};
use kontiki_raft::{ApplyBatch, Entry, EntryKind, GroupId, LogId, LogIndex};
use kontiki_storage::Storage;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;
use tracing::{error, info, warn};

/// Bytes read back from the log at once while catching up.
const READ_SIZE_BYTES_MAX: usize = 1 << 20;

/// What a machine's thread is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum MachineState {
    /// Makes the instance.
    #[default]
    Starting,
    /// Waits for something to do.
    Idle,
    /// Applies entries that were in the log when the node started.
    Replaying,
    /// Applies entries.
    Applying,
    /// Answers a query.
    Querying,
    /// Makes the instance anew from the log, after one that faulted.
    Rebuilding,
    /// Stands still: the plugin or the log failed it.
    Faulted,
    /// Its thread has ended.
    Ended,
}

impl MachineState {
    const ALL: [Self; 8] = [
        Self::Starting,
        Self::Idle,
        Self::Replaying,
        Self::Applying,
        Self::Querying,
        Self::Rebuilding,
        Self::Faulted,
        Self::Ended,
    ];

    /// Its name on pages.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Replaying => "replaying",
            Self::Applying => "applying",
            Self::Querying => "querying",
            Self::Rebuilding => "rebuilding",
            Self::Faulted => "faulted",
            Self::Ended => "ended",
        }
    }
}

/// What a group's machine looks like from outside; written by its thread only.
#[derive(Debug, Default)]
pub(crate) struct ApplyView {
    /// A [`MachineState`].
    state: AtomicU8,
    applied_index: AtomicU64,
    applied_term: AtomicU64,
    outcome_hash: AtomicU64,
    memory_size_bytes: AtomicU64,
    /// Entries handed over and not applied yet.
    queued: AtomicU64,
    /// Calls of `apply`.
    calls: AtomicU64,
    /// Queries whose index is not applied yet.
    waiting: AtomicU64,
    fault: Mutex<Option<String>>,
}

/// A copy of [`ApplyView`].
#[derive(Clone, Debug, Default)]
pub(crate) struct ApplyStatus {
    pub(crate) state: MachineState,
    pub(crate) applied: LogId,
    pub(crate) outcome_hash: u64,
    pub(crate) memory_size_bytes: u64,
    pub(crate) queued: u64,
    pub(crate) calls: u64,
}

impl ApplyView {
    pub(crate) fn status(&self) -> ApplyStatus {
        let get = |value: &AtomicU64| value.load(Ordering::Acquire);
        ApplyStatus {
            state: self.state(),
            applied: LogId::new(
                kontiki_raft::Term(get(&self.applied_term)),
                LogIndex(get(&self.applied_index)),
            ),
            outcome_hash: get(&self.outcome_hash),
            memory_size_bytes: get(&self.memory_size_bytes),
            queued: get(&self.queued),
            calls: get(&self.calls),
        }
    }

    fn state(&self) -> MachineState {
        let stored = usize::from(self.state.load(Ordering::Relaxed));
        let known = MachineState::ALL.get(stored);
        *known.expect("only states are stored")
    }

    /// Enters a state and says which was left.
    fn enter(&self, state: MachineState) -> MachineState {
        let left = self.state();
        self.state.store(state as u8, Ordering::Relaxed);
        left
    }

    /// Why the machine stands still, if it does.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_fault(&self, message: &str) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(message.to_owned());
    }
}

/// Told to the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ApplyReport {
    /// Everything up to here is applied.
    Applied(LogIndex),
    /// The machine stands still after this index.
    Failed(LogIndex),
}

/// Receives reports; called on the machine's thread.
pub(crate) type Reporter = Box<dyn Fn(ApplyReport) + Send>;

enum Job {
    Apply(ApplyBatch, Vec<(LogIndex, CommandReply)>),
    Query(PendingQuery),
    Sweep,
    Stop,
}

/// A query, and the index that must be applied before it runs.
struct PendingQuery {
    after: LogIndex,
    request: Bytes,
    reply: QueryReply,
}

/// Handle of a machine's thread. The thread ends when it is told to, or when the last handle is
/// dropped.
#[derive(Clone)]
pub(crate) struct Applier {
    jobs: mpsc::Sender<Job>,
    view: Arc<ApplyView>,
}

/// What a machine's thread is started with.
pub(crate) struct ApplierConfig {
    pub(crate) group: GroupId,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) plugin: PluginSource,
    /// Entries up to here were in the log when the node started: guests' logs stay silent.
    pub(crate) replay_until: LogIndex,
    pub(crate) metrics: PluginMetrics,
    pub(crate) report: Reporter,
}

impl Applier {
    /// Starts the thread; the machine is made on it.
    pub(crate) fn start(config: ApplierConfig) -> std::io::Result<(Self, JoinHandle<()>)> {
        let view = Arc::new(ApplyView::default());
        let (jobs, queue) = mpsc::channel();
        let worker = Worker::new(config, Arc::clone(&view));
        let thread = std::thread::Builder::new()
            .name(format!("apply-{}", worker.group.0 & 0xffff))
            .stack_size(kontiki_plugin::THREAD_STACK_SIZE_BYTES_MIN.max(2 << 20))
            .spawn(move || worker.run(&queue))?;
        Ok((Self { jobs, view }, thread))
    }

    pub(crate) fn view(&self) -> &ApplyView {
        &self.view
    }

    /// Applies a batch; each reply is answered when its entry is applied. False if the thread is
    /// no more: then the entries, which are committed, are not applied here.
    #[must_use]
    pub(crate) fn apply(&self, batch: ApplyBatch, replies: Vec<(LogIndex, CommandReply)>) -> bool {
        let entries = (batch.last.0 + 1).saturating_sub(batch.first.0);
        self.view.queued.fetch_add(entries, Ordering::Relaxed);
        let Err(mpsc::SendError(unsent)) = self.jobs.send(Job::Apply(batch, replies)) else {
            return true;
        };
        if let Job::Apply(_, replies) = unsent {
            // They are committed: every other replica applies them.
            let failure = Failure::PluginFault {
                message: "the thread of the state machine has ended".into(),
                outcome: Outcome::Unknown,
            };
            fail_all(replies, &failure);
        }
        false
    }

    /// Runs a query as soon as `after` is applied.
    pub(crate) fn query(&self, after: LogIndex, request: Bytes, reply: QueryReply) {
        let query = PendingQuery {
            after,
            request,
            reply,
        };
        // If the thread died, dropping the reply tells the client.
        let _ = self.jobs.send(Job::Query(query));
    }
}

impl Applier {
    /// Lets go of queries that wait for an index and that nobody asks any more.
    pub(crate) fn sweep(&self) {
        if self.view.waiting.load(Ordering::Relaxed) > 0 {
            // A failure means that the thread has ended, and its queue with it.
            let _ = self.jobs.send(Job::Sweep);
        }
    }

    /// Ends the thread once it has done what is queued. Whoever asks later gets no answer.
    pub(crate) fn stop(&self) {
        // A failure means that it has ended already.
        let _ = self.jobs.send(Job::Stop);
    }
}

fn fail_all(replies: Vec<(LogIndex, CommandReply)>, failure: &Failure) {
    for (_, reply) in replies {
        reply.answer(Err(failure.clone()));
    }
}

struct Worker {
    group: GroupId,
    storage: Arc<dyn Storage>,
    plugin: PluginSource,
    digest: Arc<str>,
    machine: Option<Box<dyn Machine>>,
    state: Progress,
    /// Queries whose index is not applied yet.
    waiting: Vec<PendingQuery>,
    replay_until: LogIndex,
    replaying: bool,
    fault: Option<String>,
    view: Arc<ApplyView>,
    metrics: PluginMetrics,
    /// Fuel of the present machine that was measured already.
    fuel_measured: u64,
    report: Reporter,
}

/// How far a machine is; a function of the entries applied.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    applied: LogId,
    /// Time of the last entry: an entry's time is never before it.
    time_ns: u64,
    hash: OutcomeHash,
}

/// Apply stopped in the middle.
struct Stopped {
    message: String,
}

impl Worker {
    fn new(config: ApplierConfig, view: Arc<ApplyView>) -> Self {
        Self {
            group: config.group,
            storage: config.storage,
            digest: config.plugin.id(),
            plugin: config.plugin,
            machine: None,
            state: Progress::default(),
            waiting: Vec::new(),
            replay_until: config.replay_until,
            replaying: true,
            fault: None,
            view,
            metrics: config.metrics,
            fuel_measured: 0,
            report: config.report,
        }
    }

    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        self.guarded(|worker| {
            if let Err(stopped) = worker.make_machine() {
                worker.stop(stopped);
            }
        });
        self.rest();
        while let Ok(job) = queue.recv() {
            match job {
                Job::Apply(batch, replies) => self.guarded(|worker| worker.apply(batch, replies)),
                Job::Query(query) => self.guarded(|worker| worker.query(query)),
                Job::Sweep => self.sweep(),
                Job::Stop => return,
            }
            self.rest();
        }
    }

    /// A panic is a bug of the host's. The machine it left is not trusted, but the thread goes on:
    /// everyone who waits gets an answer, and the group learns that it must not lead.
    fn guarded(&mut self, work: impl FnOnce(&mut Self)) {
        let caught = catch_unwind(AssertUnwindSafe(|| work(self)));
        if caught.is_err() && self.fault.is_none() {
            self.machine = None;
            self.stop(Stopped {
                message: "the thread of the state machine panicked; see this node's log".into(),
            });
        }
    }

    /// Lets go of queries that nobody asks any more.
    fn sweep(&mut self) {
        self.waiting.retain(|query| !query.reply.is_closed());
        self.note_waiting();
    }

    fn note_waiting(&self) {
        let waiting = self.waiting.len() as u64;
        self.view.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Nothing is under way any more.
    fn rest(&self) {
        self.view.enter(match self.fault {
            Some(_) => MachineState::Faulted,
            None => MachineState::Idle,
        });
    }

    fn make_machine(&mut self) -> Result<(), Stopped> {
        let start = Instant::now();
        let made = self.plugin.instantiate(self.group);
        let result = result_of(made.as_ref().err());
        self.metrics.started(start.elapsed(), result);
        let mut machine = made.map_err(|fault| Stopped {
            message: fault.to_string(),
        })?;
        machine.set_replaying(true);
        self.replaying = true;
        self.machine = Some(machine);
        self.fuel_measured = 0;
        Ok(())
    }

    fn stop(&mut self, stopped: Stopped) {
        let index = self.state.applied.index;
        error!(group = self.group.0, index = index.0, plugin = %self.digest,
            error = %stopped.message, "the state machine stands still");
        self.view.set_fault(&stopped.message);
        self.fault = Some(stopped.message);
        for query in std::mem::take(&mut self.waiting) {
            query.reply.answer(Err(self.failure()));
        }
        (self.report)(ApplyReport::Failed(index));
    }

    fn failure(&self) -> Failure {
        Failure::PluginFault {
            message: self.fault.clone().unwrap_or_default(),
            outcome: Outcome::Unknown,
        }
    }

    fn apply(&mut self, batch: ApplyBatch, replies: Vec<(LogIndex, CommandReply)>) {
        let entries = (batch.last.0 + 1).saturating_sub(batch.first.0);
        let mut replies = VecDeque::from(replies);
        if self.fault.is_none() {
            self.view.enter(match self.replaying {
                true => MachineState::Replaying,
                false => MachineState::Applying,
            });
        }
        if self.fault.is_none()
            && let Err(stopped) = self.apply_batch(batch, &mut replies)
        {
            self.stop(stopped);
        }
        self.view.queued.fetch_sub(entries, Ordering::Relaxed);
        fail_all(replies.into(), &self.failure());
        self.run_waiting();
    }

    fn apply_batch(
        &mut self,
        batch: ApplyBatch,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), Stopped> {
        if !batch.entries.is_empty() {
            return self.apply_entries(&batch.entries, replies);
        }
        let mut next = batch.first;
        while next <= batch.last {
            let entries = self.read(next, batch.last)?;
            self.apply_entries(&entries, replies)?;
            next = self.state.applied.index.next();
        }
        Ok(())
    }

    fn read(&self, first: LogIndex, last: LogIndex) -> Result<Vec<Entry>, Stopped> {
        let read = self
            .storage
            .entries(self.group, first, last, READ_SIZE_BYTES_MAX);
        match read {
            Ok(entries) if entries.first().is_some_and(|entry| entry.id.index == first) => {
                Ok(entries)
            }
            Ok(_) => Err(Stopped {
                message: format!("the log has no entry {first}"),
            }),
            Err(error) => Err(Stopped {
                message: format!("the log cannot be read back: {error}"),
            }),
        }
    }

    /// Applies consecutive entries, in calls of at most one batch each.
    fn apply_entries(
        &mut self,
        entries: &[Entry],
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), Stopped> {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            debug_assert_eq!(first.id.index, self.state.applied.index.next());
            let (batch, taken, time_ns) = cut(rest, self.state.time_ns);
            let (now, later) = rest.split_at(taken);
            if let Err(fault) = self.call(&batch, now, time_ns, replies) {
                return Err(self.after_fault(now, fault, replies));
            }
            rest = later;
            self.publish();
        }
        Ok(())
    }

    /// One call of the machine for `entries`, whose commands are `batch`.
    fn call(
        &mut self,
        batch: &Batch<'_>,
        entries: &[Entry],
        time_ns: u64,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), ApplyFault> {
        let answers = match batch.is_empty() {
            true => Answers::default(),
            false => self.call_machine(batch)?,
        };
        self.state.time_ns = time_ns;
        let commands = entries.iter().filter(|entry| is_command(entry));
        for (entry, answer) in commands.zip(answers.iter()) {
            self.state.hash.add(entry.id.index.0, answer);
            if replies
                .front()
                .is_some_and(|(index, _)| *index == entry.id.index)
            {
                let (_, reply) = replies.pop_front().expect("there is a front");
                reply.answer(Ok(self.applied(entry.id, answer)));
            }
        }
        if let Some(last) = entries.last() {
            self.state.applied = last.id;
        }
        Ok(())
    }

    fn call_machine(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        let machine = self
            .machine
            .as_mut()
            .expect("made before the first batch, else stopped");
        let start = Instant::now();
        let answers = machine.apply(batch);
        let fault = answers.as_ref().err().map(|fault| &fault.fault);
        self.metrics.applied(start.elapsed(), result_of(fault));
        self.measure_fuel();
        if answers.is_ok() {
            self.view.calls.fetch_add(1, Ordering::Relaxed);
        }
        answers
    }

    /// Adds what the machine has used since it was last measured.
    fn measure_fuel(&mut self) {
        let used = self
            .machine
            .as_ref()
            .map_or(0, |machine| machine.fuel_used());
        self.metrics
            .fuel_used(used.saturating_sub(self.fuel_measured));
        self.fuel_measured = used;
    }

    fn applied(&self, id: LogId, answer: Answer<'_>) -> Applied {
        Applied {
            position: Position {
                id,
                plugin: Arc::clone(&self.digest),
            },
            result: match answer {
                Answer::Ok(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                Answer::Reject(bytes) => Err(String::from_utf8_lossy(bytes).into_owned()),
            },
        }
    }

    /// Says how far the machine is, to the group and to whoever looks.
    fn publish(&mut self) {
        let machine = self.machine.as_mut().expect("a batch was just applied");
        if self.replaying && self.state.applied.index >= self.replay_until {
            machine.set_replaying(false);
            self.replaying = false;
        }
        let set = |value: &AtomicU64, to| value.store(to, Ordering::Release);
        set(&self.view.memory_size_bytes, machine.memory_size_bytes());
        set(&self.view.outcome_hash, self.state.hash.value());
        set(&self.view.applied_term, self.state.applied.term.0);
        set(&self.view.applied_index, self.state.applied.index.0);
        (self.report)(ApplyReport::Applied(self.state.applied.index));
    }

    /// The machine failed in a call for `entries`. Its state is lost with it, so it is made anew
    /// from the log up to just before the entry that failed; what comes before gets its answers.
    fn after_fault(
        &mut self,
        entries: &[Entry],
        fault: ApplyFault,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Stopped {
        let mut commands = entries.iter().filter(|entry| is_command(entry));
        let stopped = Stopped {
            message: fault.to_string(),
        };
        let Some(failed) = commands.nth(fault.entry) else {
            return stopped;
        };
        let before = entries
            .iter()
            .take_while(|entry| entry.id.index < failed.id.index)
            .count();
        if let Err(again) = self.rebuild() {
            warn!(group = self.group.0, error = %again.message, "the machine cannot be rebuilt");
            return stopped;
        }
        let (batch, taken, time_ns) = cut(&entries[..before], self.state.time_ns);
        if taken == before
            && self
                .call(&batch, &entries[..before], time_ns, replies)
                .is_ok()
        {
            self.publish();
        }
        stopped
    }

    /// Makes the machine anew and brings it to where it was, from the log.
    fn rebuild(&mut self) -> Result<(), Stopped> {
        let wanted = self.state;
        let doing = self.view.enter(MachineState::Rebuilding);
        info!(
            group = self.group.0,
            index = wanted.applied.index.0,
            "rebuilding the machine"
        );
        self.state = Progress::default();
        let rebuilt = self.replay(wanted.applied.index);
        if rebuilt.is_ok() && self.state.hash != wanted.hash {
            error!(
                group = self.group.0,
                index = wanted.applied.index.0,
                "the plugin gave other answers when the log was replayed: it is not deterministic"
            );
        }
        self.state = wanted;
        self.view.enter(doing);
        rebuilt
    }

    fn replay(&mut self, upto: LogIndex) -> Result<(), Stopped> {
        self.machine = None;
        self.make_machine()?;
        while self.state.applied.index < upto {
            let entries = self.read(self.state.applied.index.next(), upto)?;
            let mut rest = entries.as_slice();
            while !rest.is_empty() {
                let (batch, taken, time_ns) = cut(rest, self.state.time_ns);
                let (now, later) = rest.split_at(taken);
                let nobody = &mut VecDeque::new();
                self.call(&batch, now, time_ns, nobody)
                    .map_err(|fault| Stopped {
                        message: fault.to_string(),
                    })?;
                rest = later;
            }
        }
        Ok(())
    }

    fn query(&mut self, query: PendingQuery) {
        if query.after > self.state.applied.index {
            match self.fault {
                Some(_) => query.reply.answer(Err(self.failure())),
                None => self.waiting.push(query),
            }
            self.note_waiting();
            return;
        }
        self.run_query(query);
    }

    fn run_query(&mut self, query: PendingQuery) {
        if query.reply.is_closed() {
            return;
        }
        let Some(machine) = self.machine.as_mut() else {
            query.reply.answer(Err(self.failure()));
            return;
        };
        self.view.enter(MachineState::Querying);
        let start = Instant::now();
        let result = machine.query(&query.request);
        let blame = result_of(result.as_ref().err());
        self.metrics.queried(start.elapsed(), blame);
        self.measure_fuel();
        let answer = match result {
            Ok(result) => Ok(Applied {
                position: Position {
                    id: self.state.applied,
                    plugin: Arc::clone(&self.digest),
                },
                result: result.map(Bytes::from),
            }),
            Err(fault) => Err(Failure::PluginFault {
                message: fault.to_string(),
                outcome: Outcome::NotApplied,
            }),
        };
        query.reply.answer(answer);
        self.replace_if_poisoned();
    }

    /// A query that faults takes the instance with it, not the state: that comes from the log.
    fn replace_if_poisoned(&mut self) {
        if !self
            .machine
            .as_ref()
            .is_some_and(|machine| machine.is_poisoned())
        {
            return;
        }
        match self.rebuild() {
            Ok(()) => self.publish(),
            Err(stopped) if self.fault.is_none() => self.stop(stopped),
            Err(_) => {}
        }
    }

    fn run_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let applied = self.state.applied.index;
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].after <= applied {
                let query = self.waiting.swap_remove(at);
                self.run_query(query);
            } else {
                at += 1;
            }
        }
        self.note_waiting();
    }
}

/// However the thread ends, a panic included.
impl Drop for Worker {
    fn drop(&mut self) {
        self.view.enter(MachineState::Ended);
    }
}

fn is_command(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::Command(_))
}

/// Cuts one batch off the front of `entries`: its commands, how many entries it covers, and the
/// time of the last. Entries that are no commands are covered and not passed on.
fn cut(entries: &[Entry], mut time_ns: u64) -> (Batch<'_>, usize, u64) {
    let mut batch = Batch::new();
    for (taken, entry) in entries.iter().enumerate() {
        let EntryKind::Command(command) = &entry.kind else {
            continue;
        };
        if batch.is_full() || !batch.fits(command.len()) {
            return (batch, taken, time_ns);
        }
        time_ns = time_ns.max(entry.time_ns);
        batch.push(entry.id.index.0, time_ns, command);
    }
    (batch, entries.len(), time_ns)
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
