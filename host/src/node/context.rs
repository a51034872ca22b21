//! What every part of a node shares, and how groups are opened, made and taken back.

use super::apply::{Applier, ApplierConfig};
use super::broken::Broken;
use super::budget::Budget;
use super::clock::Clock;
use super::departed;
use super::group::{Completion, Group, Mailbox, State};
use super::handle::{Brief, GroupHandle, GroupShared, HandleInner};
use super::overrides::{Overrides, Own};
use super::plugins::{PluginError, PluginStore};
use super::registry::{self, RecordError};
use super::request::{Control, Problem, Retirement};
use super::router::Router;
use crate::config::NodeConfig;
use crate::metrics::Metrics;
use crate::transport::Transport;
use crate::transport::convert::{ConvertError, members_from_wire};
use kontiki_proto::v1::GroupSpec;
use kontiki_raft::{Core, GroupId, LogIndex, MemberSet, NodeId};
use kontiki_storage::{GroupRecord, Storage, StorageError};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument as _, info, info_span};

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
    /// Groups found in storage that could not be opened, by name.
    pub(crate) broken: Mutex<BTreeMap<String, Broken>>,
    pub(crate) loading: AtomicBool,
    /// Going down.
    pub(crate) draining: AtomicBool,
    /// Leads nothing until an operator undoes it; also recorded in the storage.
    pub(crate) drained: AtomicBool,
    /// Orders to drain, and to undo it, are carried out one at a time.
    pub(crate) drain_order: tokio::sync::Mutex<()>,
    /// Cancelled when the node takes no more requests.
    pub(crate) closing: CancellationToken,
    pub(crate) http_address: String,
    /// Replicas are made, opened, taken back and tuned one at a time.
    pub(super) making: tokio::sync::Mutex<()>,
    tasks: TaskTracker,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
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

/// A replica that is ready to run.
struct Replica {
    spec: GroupSpec,
    core: Core,
    own: Own,
    applier: Applier,
    description: kontiki_plugin::Description,
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
    #[error("the system gives no thread: {0}")]
    Thread(std::io::Error),
    #[error("there is a group {0:?} on this node already")]
    NameTaken(String),
    #[error("the replica of {0:?} is of use already and is not taken back")]
    InUse(String),
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
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
            loading: AtomicBool::new(true),
            draining: AtomicBool::new(false),
            drained: AtomicBool::new(parts.drained),
            drain_order: tokio::sync::Mutex::default(),
            closing: CancellationToken::new(),
            http_address: parts.http_address,
            making: tokio::sync::Mutex::default(),
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

    /// Opens every group found in storage. One that cannot be opened does not keep the others.
    pub(crate) async fn open_groups(self: &Arc<Self>) -> Result<(), ReplicaError> {
        let storage = Arc::clone(&self.storage);
        let records = tokio::task::spawn_blocking(move || storage.groups()).await??;
        for record in records {
            self.open_record(&record).await;
        }
        self.loading.store(false, Ordering::Release);
        Ok(())
    }

    async fn open_record(self: &Arc<Self>, record: &GroupRecord) {
        let _one_at_a_time = self.making.lock().await;
        let (spec, opened) = match registry::spec(record) {
            Ok(spec) => (Some(spec.clone()), self.open(spec).await),
            Err(error) => (None, Err(error.into())),
        };
        if let Err(error) = opened {
            let broken = Broken::new(record.id, spec, &error);
            tracing::error!(group = %broken.name(), %error, next_step = broken.problem.next_step,
                "a group cannot be opened");
            lock(&self.broken).insert(broken.name(), broken);
        }
    }

    /// Opens a registered group and starts its task.
    async fn open(self: &Arc<Self>, spec: GroupSpec) -> Result<(), ReplicaError> {
        let context = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            let _in_runtime = runtime.enter();
            context.open_blocking(spec)
        })
        .await?
    }

    fn open_blocking(self: &Arc<Self>, spec: GroupSpec) -> Result<(), ReplicaError> {
        let id = GroupId(spec.id);
        let own = self.own(id)?;
        let settings = self.layers_with(own.overrides.clone(), &spec.name).settings;
        let plugin = self.plugins.source(&spec.plugin)?;
        let mut recovered = self.storage.recover(id, settings.cache_size_bytes_max)?;
        departed::restore(&*self.storage, id, &mut recovered.hard_state)?;
        let replay_until = recovered.last.index;
        let initial = match spec.initial_members.clone() {
            Some(members) => members_from_wire(members)?,
            None => MemberSet::default(),
        };
        let (seed, now) = (random_u64(), self.clock.now());
        let core = Core::new(self.node(), settings, initial, recovered, now, seed);
        let (completed, completions) = mpsc::unbounded_channel();
        let description = plugin.description();
        let applier = self.start_applier(id, plugin, replay_until, completed.clone())?;
        let replica = Replica {
            spec,
            core,
            own,
            applier,
            description,
        };
        let handle = self.spawn_group(replica, (completed, completions));
        info!(
            group = id.0,
            name = handle.name(),
            last = replay_until.0,
            "group opened"
        );
        self.router.insert(handle.clone());
        self.tell_new_group(&handle);
        Ok(())
    }

    /// Whoever drains the node, or undoes it, from now on finds the group; what was ordered before,
    /// or meanwhile, is told here.
    fn tell_new_group(&self, group: &GroupHandle) {
        let mut told = false;
        while self.gives_away() != told {
            told = !told;
            group.control_now(Control::SetDrained(told));
        }
    }

    fn start_applier(
        &self,
        group: GroupId,
        plugin: super::plugins::PluginSource,
        replay_until: LogIndex,
        completed: mpsc::UnboundedSender<Completion>,
    ) -> Result<Applier, ReplicaError> {
        let report = move |report| {
            // The group is gone: nobody counts what is applied.
            let _ = completed.send(Completion::Applied(report));
        };
        let (applier, thread) = Applier::start(ApplierConfig {
            group,
            storage: Arc::clone(&self.storage),
            metrics: self.metrics.plugin(&plugin.description().name),
            plugin,
            replay_until,
            report: Box::new(report),
        })
        .map_err(ReplicaError::Thread)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(applier)
    }

    fn spawn_group(
        self: &Arc<Self>,
        replica: Replica,
        completion: (
            mpsc::UnboundedSender<Completion>,
            mpsc::UnboundedReceiver<Completion>,
        ),
    ) -> GroupHandle {
        let Replica {
            spec,
            core,
            own,
            applier,
            description,
        } = replica;
        let limits = &self.config.limits;
        let (proposals, proposed) = mpsc::channel(limits.proposals_max);
        let (queries, queried) = mpsc::channel(limits.proposals_max);
        let (messages, received) = mpsc::channel(limits.peer_messages_max);
        let (control, controlled) = mpsc::channel(64);
        let (brief, watched) = watch::channel(Brief::default());
        // Twice, since as many may be queued as are under way.
        let commands = Budget::new(2 * limits.proposals_max, limits.proposals_size_bytes_max);
        let questions = Budget::new(limits.queries_max, limits.queries_size_bytes_max);
        let shared = Arc::new(GroupShared::new(self.node()));
        let id = GroupId(spec.id);
        let span = info_span!("group", group = id.0, name = %spec.name, node = self.node().0);
        let group = Group {
            id,
            core,
            clock: self.clock,
            storage: Arc::clone(&self.storage),
            transport: self.transport.clone(),
            applier: applier.clone(),
            mailbox: Mailbox {
                proposals: proposed,
                queries: queried,
                messages: received,
                control: controlled,
                completions: completion.1,
            },
            completed: completion.0,
            shared: Arc::clone(&shared),
            metrics: Arc::clone(&self.metrics),
            brief,
            proposals_max: limits.proposals_max,
            state: State::starting(own.read_only),
        };
        self.tasks.spawn(group.run().instrument(span));
        GroupHandle {
            inner: Arc::new(HandleInner {
                id,
                spec,
                description,
                clock: self.clock,
                proposals,
                queries,
                messages,
                control,
                applier,
                shared,
                metrics: Arc::clone(&self.metrics),
                brief: watched,
                commands_budget: commands,
                queries_budget: questions,
                own: Mutex::new(own),
                changing: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Keeps replicas from being made and taken back while it is held.
    pub(crate) async fn making(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.making.lock().await
    }

    /// Makes a replica of a group, durably, and opens it. Repeating it is harmless; says whether it
    /// was made now.
    pub(crate) async fn create_replica(
        self: &Arc<Self>,
        spec: GroupSpec,
    ) -> Result<bool, ReplicaError> {
        let _one_at_a_time = self.making().await;
        if self.router.by_id(GroupId(spec.id)).is_some() {
            return Ok(false);
        }
        if self.router.by_name(&spec.name).is_some() || lock(&self.broken).contains_key(&spec.name)
        {
            return Err(ReplicaError::NameTaken(spec.name));
        }
        let storage = Arc::clone(&self.storage);
        let record = registry::record(&spec);
        tokio::task::spawn_blocking(move || storage.create_group(&record)).await??;
        if let Err(error) = self.open(spec.clone()).await {
            let storage = Arc::clone(&self.storage);
            let id = GroupId(spec.id);
            tokio::task::spawn_blocking(move || storage.remove_group(id)).await??;
            return Err(error);
        }
        Ok(true)
    }

    /// Takes a replica back if the condition holds. Unknown is done already.
    pub(crate) async fn remove_replica(
        &self,
        id: GroupId,
        condition: Retirement,
    ) -> Result<(), ReplicaError> {
        let one_at_a_time = self.making().await;
        match self.router.by_id(id) {
            Some(handle) => self.delete(&one_at_a_time, &handle, condition).await,
            None => Ok(()),
        }
    }

    /// Ends a replica and deletes its data if the condition holds; its term and vote are kept, in
    /// case it is made anew. `_making` is the guard of [`Self::making`].
    pub(crate) async fn delete(
        &self,
        _making: &tokio::sync::MutexGuard<'_, ()>,
        handle: &GroupHandle,
        condition: Retirement,
    ) -> Result<(), ReplicaError> {
        let in_use = || ReplicaError::InUse(handle.name().to_owned());
        let last = handle.retire(condition).await.map_err(|_| in_use())?;
        let last = last.ok_or_else(in_use)?;
        let id = handle.id();
        self.router.remove(id);
        handle.inner.applier.stop();
        let storage = Arc::clone(&self.storage);
        tokio::task::spawn_blocking(move || departed::remove(&*storage, id, last)).await??;
        info!(group = id.0, name = handle.name(), "replica deleted");
        Ok(())
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
        for (name, broken) in lock(&self.broken).iter() {
            problems.push(Problem {
                what: format!("group {name:?}: {}", broken.problem.what),
                next_step: broken.problem.next_step.clone(),
            });
        }
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
