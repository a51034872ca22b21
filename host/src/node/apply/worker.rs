//! The thread: what it owns, one job after another, and what it does when it can do no more.

use super::reader::ReaderHandle;
use super::runner::Runner;
use super::view::{ApplyView, MachineState, Standstill, StandstillCause};
use super::{ApplierConfig, ApplyReport, Job, PendingQuery, Reporter};
use crate::node::request::{Failure, Outcome};
use kontiki_plugin::Fault;
use kontiki_raft::{GroupId, LogIndex};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use tracing::error;

pub(super) struct Worker {
    pub(super) group: GroupId,
    pub(super) digest: Arc<str>,
    /// The replicated instance.
    pub(super) runner: Runner,
    /// Answers queries; made at the first.
    pub(super) reader: Option<ReaderHandle>,
    /// Queries whose index is not applied yet.
    pub(super) waiting: Vec<PendingQuery>,
    pub(super) replay_until: LogIndex,
    pub(super) replaying: bool,
    pub(super) stopped: Option<Stopped>,
    pub(super) view: Arc<ApplyView>,
    pub(super) report: Reporter,
}

/// Why a machine can do no more.
#[derive(Clone, Debug)]
pub(super) struct Stopped {
    /// In one line.
    pub(super) headline: String,
    /// With what the guest wrote, and its stack.
    pub(super) whole: String,
    cause: StandstillCause,
}

impl Stopped {
    /// A call failed.
    pub(super) fn by(fault: &Fault) -> Self {
        Self {
            headline: fault.headline(),
            whole: fault.to_string(),
            cause: match fault {
                Fault::Guest(_) => StandstillCause::Plugin,
                Fault::Environment(_) => StandstillCause::Node,
            },
        }
    }

    /// This node failed.
    pub(super) fn here(message: String) -> Self {
        Self {
            headline: message.clone(),
            whole: message,
            cause: StandstillCause::Node,
        }
    }

    /// A replay gave other answers.
    pub(super) fn not_deterministic(index: LogIndex) -> Self {
        let message = format!(
            "the plugin is not deterministic: replaying the log up to index {index} gave other \
             answers than before"
        );
        Self {
            headline: message.clone(),
            whole: message,
            cause: StandstillCause::NotDeterministic,
        }
    }

    pub(super) fn is_not_deterministic(&self) -> bool {
        self.cause == StandstillCause::NotDeterministic
    }

    /// What a client is told.
    pub(super) fn failure(&self, outcome: Outcome) -> Failure {
        Failure::PluginFault {
            message: self.headline.clone(),
            outcome,
        }
    }
}

impl Worker {
    pub(super) fn new(config: ApplierConfig, view: Arc<ApplyView>) -> Self {
        let digest = config.plugin.id();
        let of = (config.group, config.storage);
        Self {
            group: config.group,
            digest,
            runner: Runner::new(of, config.plugin, config.metrics),
            reader: None,
            waiting: Vec::new(),
            replay_until: config.replay_until,
            replaying: true,
            stopped: None,
            view,
            report: config.report,
        }
    }

    /// Works until told to stop. `making` is dropped once the machine is made, or cannot be.
    pub(super) fn run(mut self, queue: &mpsc::Receiver<Job>, making: mpsc::Sender<()>) {
        self.guarded(|worker| {
            if let Err(stopped) = worker.runner.make() {
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
        if caught.is_err() && self.stopped.is_none() {
            self.runner.machine = None;
            let message = "the thread of the state machine panicked; see this node's log";
            self.stop(Stopped::here(message.into()));
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
        self.view.enter(match self.stopped {
            Some(_) => MachineState::Faulted,
            None => MachineState::Idle,
        });
    }

    pub(super) fn stop(&mut self, stopped: Stopped) {
        let index = self.runner.state.applied.index;
        error!(group = self.group.0, index = index.0, plugin = %self.digest,
            error = %stopped.whole, "the state machine stands still");
        self.view.set_standstill(Standstill {
            headline: stopped.headline.clone(),
            cause: stopped.cause,
        });
        self.stopped = Some(stopped);
        for query in std::mem::take(&mut self.waiting) {
            query.reply.answer(Err(self.failure()));
        }
        (self.report)(ApplyReport::Failed(index));
    }

    pub(super) fn failure(&self) -> Failure {
        match &self.stopped {
            Some(stopped) => stopped.failure(Outcome::Unknown),
            None => Failure::ShuttingDown,
        }
    }
}

/// However the thread ends, a panic included.
impl Drop for Worker {
    fn drop(&mut self) {
        self.view.enter(MachineState::Ended);
    }
}
