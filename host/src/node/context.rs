//! What every part of a node shares, and how it ends.

use super::broken::Broken;
use super::budget::Budget;
use super::clock::Clock;
use super::ended::{Ended, EndedError};
use super::epoch::{EpochError, EpochId};
use super::handle::GroupHandle;
use super::lifecycle::Names;
use super::overrides::Overrides;
use super::plugins::{PluginError, PluginStore};
use super::prepared::Prepared;
use super::registry::RecordError;
use super::request::{Control, Problem};
use super::router::Router;
use super::turn::Turns;
use crate::config::NodeConfig;
use crate::metrics::Metrics;
use crate::transport::Transport;
use crate::transport::convert::ConvertError;
use kontiki_raft::{GroupId, NodeId};
use kontiki_storage::{Storage, StorageError};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Bytes of the commands of all groups that are not answered; more are refused as busy.
const NODE_COMMANDS_SIZE_BYTES_MAX: usize = 256 << 20;

/// Shared by everything on a node.
pub(crate) struct Context {
    pub(crate) config: NodeConfig,
    pub(crate) clock: Clock,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) plugins: PluginStore,
    pub(crate) transport: Transport,
    pub(crate) router: Router,
    pub(crate) metrics: Arc<Metrics>,
    /// The node's settings changed at run time, laid over the configuration.
    pub(super) overrides: Mutex<Overrides>,
    /// Groups found in storage that could not be opened, by name; by id where another has the name.
    pub(crate) broken: Mutex<BTreeMap<String, Broken>>,
    /// Replicas of groups whose creation is not decided: they take part in nothing.
    pub(crate) prepared: Mutex<BTreeMap<GroupId, Arc<Prepared>>>,
    /// Groups that this node is creating now, for clients.
    pub(crate) creating: Mutex<BTreeSet<GroupId>>,
    pub(crate) loading: AtomicBool,
    /// Going down.
    pub(crate) draining: AtomicBool,
    /// Leads nothing until an operator undoes it; also recorded in the storage.
    pub(crate) drained: AtomicBool,
    /// Orders to drain, and to undo it, are carried out one at a time.
    pub(crate) drain_order: tokio::sync::Mutex<()>,
    /// Cancelled when the node takes no more requests.
    pub(crate) closing: CancellationToken,
    /// Cancelled when it listens to its peers no more, which is later: requests under way may need
    /// them.
    pub(crate) peers_closing: CancellationToken,
    pub(crate) http_address: String,
    /// Read by whatever makes, opens or removes a replica; written by what must miss none of them:
    /// settings of the node, removing a plugin. Taken after a group's turn.
    pub(super) making: tokio::sync::RwLock<()>,
    pub(super) turns: Turns,
    /// Names of replicas that are being made or opened.
    pub(super) names: Names,
    /// Bytes of log that a group has in memory when it is opened.
    pub(super) tail_size_bytes_max: AtomicUsize,
    /// Commands of all groups that are not answered.
    pub(super) commands: Budget,
    pub(super) tasks: TaskTracker,
    pub(super) threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// What a context is made of.
pub(crate) struct Parts {
    pub(crate) config: NodeConfig,
    pub(crate) clock: Clock,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) plugins: PluginStore,
    pub(crate) transport: Transport,
    pub(crate) router: Router,
    pub(crate) http_address: String,
    pub(crate) overrides: Overrides,
    pub(crate) drained: bool,
}

/// Why a replica cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplicaError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Plugin(#[from] PluginError),
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error("the members are not valid: {0}")]
    Members(#[from] ConvertError),
    #[error(transparent)]
    Epoch(#[from] EpochError),
    #[error(
        "this node holds data of {group:?} of epoch {own}, the group is in epoch {wanted}: delete it \
         with `kontiki member purge {node} --group {group}` first"
    )]
    OtherEpoch {
        group: String,
        node: String,
        own: EpochId,
        wanted: EpochId,
    },
    #[error("the system gives no thread: {0}")]
    Thread(std::io::Error),
    #[error("there is a group {name:?} on this node already, with id {id}")]
    NameTaken { name: String, id: GroupId },
    #[error("this node has a replica of group {0} already")]
    Exists(GroupId),
    #[error("the replica of {0:?} may be of use and is not taken back")]
    InUse(String),
    #[error("the creation of group {0:?} is not decided yet")]
    Undecided(String),
    #[error("group {id} {}", end(.how))]
    Ended { id: GroupId, how: Ended },
    #[error("the plugin's machine cannot be made: {0}")]
    Machine(String),
    #[error("the node is still opening its groups")]
    Loading,
    #[error("a task failed: {0}")]
    Task(#[from] JoinError),
}

impl From<EndedError> for ReplicaError {
    fn from(error: EndedError) -> Self {
        match error {
            EndedError::Storage(error) => error.into(),
            EndedError::Record(error) => error.into(),
        }
    }
}

fn end(how: &Ended) -> &'static str {
    match how {
        Ended::Aborted => "was never created: its creation was given up",
        Ended::Deleted => "was deleted",
    }
}

impl Context {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            overrides: Mutex::new(parts.overrides),
            config: parts.config,
            clock: parts.clock,
            storage: parts.storage,
            plugins: parts.plugins,
            transport: parts.transport,
            router: parts.router,
            metrics: Arc::new(Metrics::new()),
            broken: Mutex::default(),
            prepared: Mutex::default(),
            creating: Mutex::default(),
            loading: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            drained: AtomicBool::new(parts.drained),
            drain_order: tokio::sync::Mutex::default(),
            closing: CancellationToken::new(),
            peers_closing: CancellationToken::new(),
            http_address: parts.http_address,
            making: tokio::sync::RwLock::default(),
            turns: Turns::default(),
            names: Names::default(),
            tail_size_bytes_max: AtomicUsize::new(0),
            commands: Budget::new(usize::MAX, NODE_COMMANDS_SIZE_BYTES_MAX),
            tasks: TaskTracker::new(),
            threads: Mutex::default(),
        }
    }

    pub(crate) fn node(&self) -> NodeId {
        self.transport.node()
    }

    /// Whether an operator wants this node to lead nothing.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    /// Whether this node gives leadership away: it is drained, or going down.
    pub(crate) fn gives_away(&self) -> bool {
        self.is_drained() || self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// The largest command that any group here takes, or would take by this node's settings.
    pub(crate) fn entry_size_bytes_max(&self) -> usize {
        let groups = self.router.all();
        let limits = groups.iter().map(GroupHandle::entry_size_bytes_max);
        // Before its first round a group does not know.
        let known = limits.filter(|limit| *limit != usize::MAX);
        known.fold(self.config.raft.entry_size_bytes_max, usize::max)
    }

    /// Carries something out to its end, whatever becomes of whoever waits for it: a caller that
    /// goes away, or whose deadline passes, stops only the waiting. The node waits for it when it
    /// stops.
    ///
    /// # Errors
    /// If it panicked.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, JoinError> {
        self.tasks.spawn(work).await
    }

    /// As [`Self::to_the_end`] for what nobody waits for.
    pub(crate) fn in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    /// What is wrong with the node itself, and what to do.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if self.storage.metrics().failed {
            problems.push(Problem {
                what: "the storage takes no writes since one failed".to_owned(),
                next_step: "see to the disk, then restart this node".to_owned(),
            });
        }
        problems.extend(self.identity_problems());
        problems.extend(self.clock_problems());
        for (name, broken) in lock(&self.broken).iter() {
            problems.push(Problem {
                what: format!("group {name:?}: {}", broken.problem.what),
                next_step: broken.problem.next_step.clone(),
            });
        }
        problems.extend(self.undecided_problems());
        for peer in self
            .transport
            .peers()
            .into_iter()
            .filter(|peer| !peer.connected)
        {
            let node = peer.node.unwrap_or_default();
            problems.push(Problem {
                what: format!("no connection to node {:?}: {}", node.name, peer.error),
                next_step: format!(
                    "see that node {:?} runs and its address is right",
                    node.name
                ),
            });
        }
        problems
    }

    /// Nodes whose wall clock is far from this one's.
    fn clock_problems(&self) -> Vec<Problem> {
        let astray = self.transport.clocks().astray(std::time::Instant::now());
        let problem = |(node, ahead): (NodeId, f64)| {
            let name = self.transport.name(node);
            let side = if ahead < 0.0 { "behind" } else { "ahead of" };
            Problem {
                what: format!(
                    "the clock of node {name:?} is {:.0} s {side} this node's",
                    ahead.abs()
                ),
                next_step:
                    "see which of the two is wrong, and to its time service; a leader takes \
                            the time that a majority of the voters has reached"
                        .to_owned(),
            }
        };
        astray.into_iter().map(problem).collect()
    }

    /// Two processes with one node's id.
    fn identity_problems(&self) -> Vec<Problem> {
        let own = self.transport.set_aside().map(|aside| Problem {
            what: format!("node {:?} refuses this process: {}", aside.by, aside.why),
            next_step: "stop this process and wipe its data directory; if it is the one to keep, \
                        stop the other, then restart this one"
                .to_owned(),
        });
        let found = self.transport.duplicates_lately().into_iter();
        let others = found.map(|found| found.problem);
        own.into_iter().chain(others).collect()
    }

    /// Ends every group: each hands over, answers what waits, and stops.
    pub(crate) async fn stop_groups(&self) {
        let handles = self.router.all();
        for handle in &handles {
            // A failure means that the group has ended already.
            let _ = handle.control(Control::Stop).await;
            self.router.remove(handle.id());
        }
        self.tasks.close();
        self.tasks.wait().await;
        for handle in &handles {
            handle.inner.applier.stop();
        }
        self.stop_prepared();
    }

    /// Waits for the machines' threads, whose queues nobody feeds any more.
    pub(crate) fn join_threads(&self) {
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("an apply thread had panicked");
            }
        }
    }
}

/// A node that was dropped without shutting down: whoever drops the last of it closes the data, so
/// that no thread is in the database when the process ends.
impl Drop for Context {
    fn drop(&mut self) {
        for handle in self.router.all() {
            handle.inner.applier.stop();
        }
        self.stop_prepared();
        self.storage.close();
        self.join_threads();
    }
}

/// Locks a mutex whose content is valid whatever its holders did.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Eight random bytes; the time if the system has none.
pub(crate) fn random_u64() -> u64 {
    getrandom::u64().unwrap_or_else(|_| super::clock::wall_time_ns())
}
