//! The thread that owns a group's state machine and applies what is committed, in order; and beside
//! it the one that answers queries, on an instance of its own.

mod checkpoints;
mod commands;
mod cut;
mod queries;
mod reader;
mod runner;
mod second_try;
#[cfg(test)]
mod tests;
mod view;
mod worker;

use super::plugins::PluginSource;
use super::reply::{CommandReply, QueryReply};
use super::request::{Failure, Outcome};
use crate::metrics::PluginMetrics;
use bytes::Bytes;
pub(crate) use checkpoints::{Checkpoint, Checkpoints, Comparison};
use kontiki_raft::{ApplyBatch, GroupId, LogIndex};
use kontiki_storage::Storage;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
pub(crate) use view::ApplyStatus;
use view::ApplyView;
use worker::Worker;

/// Stack of the threads that call machines.
const THREAD_STACK_SIZE_BYTES: usize = {
    let least = kontiki_plugin::THREAD_STACK_SIZE_BYTES_MIN;
    if least > 2 << 20 { least } else { 2 << 20 }
};

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
    /// Closed when the thread has made its machine, or failed to.
    made: Arc<Mutex<mpsc::Receiver<()>>>,
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
        let (making, made) = mpsc::channel();
        let worker = Worker::new(config, Arc::clone(&view));
        let thread = std::thread::Builder::new()
            .name(format!("apply-{}", worker.group.0 & 0xffff))
            .stack_size(THREAD_STACK_SIZE_BYTES)
            .spawn(move || worker.run(&queue, making))?;
        let made = Arc::new(Mutex::new(made));
        Ok((Self { jobs, view, made }, thread))
    }

    /// Waits until the machine is made; says why it is not if it could not be. Blocks.
    pub(crate) fn wait_until_made(&self) -> Result<(), String> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: it ends when the other side is dropped.
        let _ = made.recv();
        self.view.fault().map_or(Ok(()), Err)
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
