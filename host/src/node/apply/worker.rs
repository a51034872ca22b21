//! The thread: what it owns, one job after another, and what it does when it can do no more.

use super::view::{ApplyView, MachineState};
use super::{ApplierConfig, ApplyReport, Job, PendingQuery, Reporter};
use crate::metrics::{PluginMetrics, result_of};
use crate::node::plugins::PluginSource;
use crate::node::request::{Failure, Outcome};
use kontiki_plugin::{Machine, OutcomeHash};
use kontiki_raft::{GroupId, LogId, LogIndex};
use kontiki_storage::Storage;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::Instant;
use tracing::error;

pub(super) struct Worker {
    pub(super) group: GroupId,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) plugin: PluginSource,
    pub(super) digest: Arc<str>,
    pub(super) machine: Option<Box<dyn Machine>>,
    pub(super) state: Progress,
    /// Queries whose index is not applied yet.
    pub(super) waiting: Vec<PendingQuery>,
    pub(super) replay_until: LogIndex,
    pub(super) replaying: bool,
    pub(super) fault: Option<String>,
    pub(super) view: Arc<ApplyView>,
    pub(super) metrics: PluginMetrics,
    /// Fuel of the present machine that was measured already.
    pub(super) fuel_measured: u64,
    pub(super) report: Reporter,
}

/// How far a machine is; a function of the entries applied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) applied: LogId,
    /// Time of the last entry: an entry's time is never before it.
    pub(super) time_ns: u64,
    pub(super) hash: OutcomeHash,
}

/// Apply stopped in the middle.
pub(super) struct Stopped {
    pub(super) message: String,
}

impl Worker {
    pub(super) fn new(config: ApplierConfig, view: Arc<ApplyView>) -> Self {
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

    /// Works until told to stop. `making` is dropped once the machine is made, or cannot be.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>, making: mpsc::Sender<()>) {
        self.guarded(|worker| {
            if let Err(stopped) = worker.make_machine() {
                worker.stop(stopped);
            }
        });
        self.rest();
        drop(making);
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

    pub(super) fn note_waiting(&self) {
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

    pub(super) fn make_machine(&mut self) -> Result<(), Stopped> {
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

    pub(super) fn stop(&mut self, stopped: Stopped) {
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

    pub(super) fn failure(&self) -> Failure {
        Failure::PluginFault {
            message: self.fault.clone().unwrap_or_default(),
            outcome: Outcome::Unknown,
        }
    }
}

/// However the thread ends, a panic included.
impl Drop for Worker {
    fn drop(&mut self) {
        self.view.enter(MachineState::Ended);
    }
}
