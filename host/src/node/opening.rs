//! Opening replicas: from what is stored to a running task, with its machine's thread.

use super::apply::{Applier, ApplierConfig};
use super::broken::Broken;
use super::budget::Budget;
use super::context::{Context, ReplicaError, lock, random_u64};
use super::departed;
use super::ended;
use super::epoch::Epochs;
use super::group::{Completion, Group, Mailbox, State};
use super::handle::{Brief, GroupHandle, GroupShared, HandleInner};
use super::overrides::Own;
use super::plugins::PluginSource;
use super::prepared::Prepared;
use super::registry::{self, Record};
use super::request::Control;
use super::turn::Turn;
use crate::transport::convert::members_from_wire;
use futures_util::{FutureExt as _, StreamExt as _};
use kontiki_plugin::Description;
use kontiki_proto::v1::GroupSpec;
use kontiki_raft::{Core, GroupId, LogIndex, MemberSet};
use kontiki_storage::GroupRecord;
use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tokio::sync::{mpsc, watch};
use tracing::{Instrument as _, info, info_span, warn};

/// Groups opened at once when a node starts: one that compiles its plugin does not keep the others
/// waiting, and a start does not take more memory than a few of them.
const OPENED_AT_ONCE: usize = 4;

/// Bytes of log that all groups found in storage together bring into memory: each its equal part, but
/// not less than the minimum. What is missing is read when a follower or the plugin needs it.
const TAILS_SIZE_BYTES_MAX: usize = 256 << 20;
const TAIL_SIZE_BYTES_MIN: usize = 64 << 10;

/// A machine on its thread, and both ends of what it reports.
pub(super) struct Machinery {
    applier: Applier,
    description: Description,
    completed: mpsc::UnboundedSender<Completion>,
    completions: mpsc::UnboundedReceiver<Completion>,
}

impl Machinery {
    /// Ends the thread.
    pub(super) fn stop(&self) {
        self.applier.stop();
    }
}

/// A replica that is ready to run.
struct Replica {
    spec: GroupSpec,
    core: Core,
    own: Own,
    epochs: Epochs,
    machinery: Machinery,
}

impl Context {
    /// Opens every group found in storage. One that cannot be opened does not keep the others.
    pub(crate) async fn open_groups(self: &Arc<Self>) -> Result<(), ReplicaError> {
        let storage = Arc::clone(&self.storage);
        let records = tokio::task::spawn_blocking(move || storage.groups()).await??;
        let tail = (TAILS_SIZE_BYTES_MAX / records.len().max(1)).max(TAIL_SIZE_BYTES_MIN);
        self.tail_size_bytes_max.store(tail, Ordering::Release);
        futures_util::stream::iter(records)
            .for_each_concurrent(OPENED_AT_ONCE, |record| async move {
                let turn = self.turns.of(record.id).await;
                self.open_record(&turn, &record).await;
            })
            .await;
        self.loading.store(false, Ordering::Release);
        Ok(())
    }

    /// Opens what a record is of, or notes why it cannot be.
    async fn open_record(self: &Arc<Self>, turn: &Turn, record: &GroupRecord) {
        let read = registry::read(record);
        let spec = match &read {
            Ok(Record::Confirmed(spec)) => Some(spec.clone()),
            // Never taken for one that was confirmed.
            Ok(Record::Prepared { .. }) | Err(_) => None,
        };
        let opened = match read {
            Ok(found) => self.open_found(turn, found).await,
            Err(error) => Err(error.into()),
        };
        match opened {
            Ok(()) => {}
            // Two cores on one log would each vote and append by themselves.
            Err(ReplicaError::Exists(id)) => warn!(group = id.0, "it is open already"),
            Err(error) => self.note_broken(record.id, spec, &error),
        }
    }

    /// What was found may be of a group that ended while it was removed here: that is finished then.
    async fn open_found(self: &Arc<Self>, turn: &Turn, found: Record) -> Result<(), ReplicaError> {
        let (storage, id) = (Arc::clone(&self.storage), turn.group);
        let ended = tokio::task::spawn_blocking(move || ended::ended(&*storage, id)).await??;
        if ended.is_some() {
            info!(group = id.0, "what was left of an ended group is removed");
            return self.remove_data(turn).await;
        }
        match found {
            Record::Confirmed(spec) => self.open(turn, spec, None).await,
            Record::Prepared { spec, coordinator } => {
                let _reserved = self.reserve(&spec)?;
                let prepared = Prepared::new(spec, coordinator, None);
                lock(&self.prepared).insert(id, Arc::new(prepared));
                Ok(())
            }
        }
    }

    /// Keeps a replica that is in storage and cannot be opened, with the reason.
    pub(super) fn note_broken(&self, id: GroupId, spec: Option<GroupSpec>, error: &ReplicaError) {
        let broken = Broken::new(id, spec, error);
        tracing::error!(group = %broken.name(), %error, next_step = broken.problem.next_step,
            "a group cannot be opened");
        let is_named = self.router.by_name(&broken.name()).is_none();
        let mut all = lock(&self.broken);
        let named = broken.name();
        let name = match is_named && all.get(&named).is_none_or(|other| other.id == id) {
            true => named,
            false => id.to_string(),
        };
        all.insert(name, broken);
    }

    /// Opens a replica anew that could not be opened before.
    pub(crate) async fn reopen(self: &Arc<Self>, turn: &Turn) -> Result<(), ReplicaError> {
        let found = {
            let all = lock(&self.broken);
            let broken = all.values().find(|broken| broken.id == turn.group);
            broken.and_then(|broken| broken.spec.clone())
        };
        let Some(spec) = found else { return Ok(()) };
        let opened = self.open(turn, spec.clone(), None).await;
        lock(&self.broken).retain(|_, broken| broken.id != turn.group);
        if let Err(error) = &opened {
            self.note_broken(turn.group, Some(spec), error);
        }
        opened
    }

    /// Opens a replica that is in storage and starts its task; with the machine, if it is made.
    pub(super) async fn open(
        self: &Arc<Self>,
        turn: &Turn,
        spec: GroupSpec,
        machinery: Option<Machinery>,
    ) -> Result<(), ReplicaError> {
        let _making = self.making.read().await;
        let _reserved = self.reserve(&spec)?;
        let id = turn.group;
        let context = Arc::clone(self);
        let runtime = tokio::runtime::Handle::current();
        let opening = tokio::task::spawn_blocking(move || {
            let _in_runtime = runtime.enter();
            context.open_blocking(id, spec, machinery)
        });
        opening.await?
    }

    fn open_blocking(
        self: &Arc<Self>,
        id: GroupId,
        spec: GroupSpec,
        machinery: Option<Machinery>,
    ) -> Result<(), ReplicaError> {
        let own = self.own(id)?;
        let epochs = Epochs::load(&*self.storage, &spec)?;
        let settings = self.layers_with(own.overrides.clone(), &spec.name).settings;
        // Before the log is read: most that cannot be opened fail here.
        let plugin = match &machinery {
            Some(_) => None,
            None => Some(self.plugins.source(&spec.plugin)?),
        };
        let tail = self.tail_size_bytes_max.load(Ordering::Acquire);
        let mut recovered = self
            .storage
            .recover(id, settings.cache_size_bytes_max.min(tail))?;
        departed::restore(&*self.storage, id, &mut recovered.hard_state)?;
        let replay_until = recovered.last.index;
        let initial = match spec.initial_members.clone() {
            Some(members) => members_from_wire(members)?,
            None => MemberSet::default(),
        };
        let (seed, now) = (random_u64(), self.clock.now());
        let core = Core::new(self.node(), settings, initial, recovered, now, seed);
        let machinery = match (machinery, plugin) {
            (None, Some(plugin)) => self.start_machine(id, plugin, replay_until)?,
            (machinery, _) => machinery.expect("where there is none, there is a plugin"),
        };
        let replica = Replica {
            spec,
            core,
            own,
            epochs,
            machinery,
        };
        let handle = self.spawn_group(replica);
        let is_in = self.router.insert(handle.clone());
        assert!(is_in, "id and name are reserved above");
        info!(
            group = id.0,
            name = handle.name(),
            last = replay_until.0,
            "group opened"
        );
        self.tell_new_group(&handle);
        if handle.inner.control.is_closed() {
            // It has panicked before it was in the router.
            self.router.remove(id);
        }
        Ok(())
    }

    /// A group's task ended by a fault of the program: the node goes on without the replica, and says
    /// so. What it wrote is as durable as after a crash.
    fn group_panicked(&self, spec: GroupSpec, panic: &(dyn Any + Send)) {
        let (id, name) = (GroupId(spec.id), spec.name.clone());
        let why = panic.downcast_ref::<String>().map(String::as_str);
        let why = why.or_else(|| panic.downcast_ref::<&str>().copied());
        let broken = Broken::panicked(id, spec, why.unwrap_or("no word was left"));
        tracing::error!(error = broken.problem.what, "a group's task panicked");
        lock(&self.broken).insert(name, broken);
        if let Some(handle) = self.router.remove(id) {
            handle.inner.applier.stop();
        }
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

    /// Makes the machine of a group that holds nothing yet, and waits until it is made: whoever
    /// creates the group learns what would have kept it from running. Blocks.
    pub(super) fn make_machine(
        &self,
        id: GroupId,
        plugin: &str,
    ) -> Result<Machinery, ReplicaError> {
        let plugin = self.plugins.source(plugin)?;
        let machinery = self.start_machine(id, plugin, LogIndex(0))?;
        match machinery.applier.wait_until_made() {
            Ok(()) => Ok(machinery),
            Err(why) => {
                machinery.stop();
                Err(ReplicaError::Machine(why))
            }
        }
    }

    fn start_machine(
        &self,
        group: GroupId,
        plugin: PluginSource,
        replay_until: LogIndex,
    ) -> Result<Machinery, ReplicaError> {
        let (completed, completions) = mpsc::unbounded_channel();
        let reported = completed.clone();
        let report = move |report| {
            // The group is gone: nobody counts what is applied.
            let _ = reported.send(Completion::Applied(report));
        };
        let description = plugin.description();
        let (applier, thread) = Applier::start(ApplierConfig {
            group,
            storage: Arc::clone(&self.storage),
            metrics: self.metrics.plugin(&description.name),
            plugin,
            replay_until,
            report: Box::new(report),
        })
        .map_err(ReplicaError::Thread)?;
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
        Ok(Machinery {
            applier,
            description,
            completed,
            completions,
        })
    }

    fn spawn_group(self: &Arc<Self>, replica: Replica) -> GroupHandle {
        let Replica {
            spec,
            core,
            own,
            epochs,
            machinery,
        } = replica;
        let Machinery {
            applier,
            description,
            completed,
            completions,
        } = machinery;
        let limits = &self.config.limits;
        let (proposals, proposed) = mpsc::channel(limits.proposals_max);
        let (queries, queried) = mpsc::channel(limits.proposals_max);
        let (messages, received) = mpsc::channel(limits.peer_messages_max);
        let (control, controlled) = mpsc::channel(64);
        let (brief, watched) = watch::channel(Brief::default());
        // Twice, since as many may be queued as are under way.
        let commands = Budget::new(2 * limits.proposals_max, limits.proposals_size_bytes_max)
            .within(&self.commands);
        let questions = Budget::new(limits.queries_max, limits.queries_size_bytes_max);
        let shared = Arc::new(GroupShared::new(
            self.node(),
            epochs.clone(),
            core.configuration().clone(),
        ));
        let id = GroupId(spec.id);
        let span = info_span!("group", group = id.0, name = %spec.name, node = self.node().0);
        let group = Group {
            id,
            name: spec.name.clone(),
            epochs,
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
                completions,
            },
            completed,
            shared: Arc::clone(&shared),
            metrics: Arc::clone(&self.metrics),
            brief,
            proposals_max: limits.proposals_max,
            state: State::starting(own.read_only),
        };
        let (context, whose) = (Arc::downgrade(self), spec.clone());
        let run = AssertUnwindSafe(group.run()).catch_unwind();
        let run = run.map(move |ended| {
            if let (Err(panic), Some(context)) = (ended, context.upgrade()) {
                context.group_panicked(whose, &*panic);
            }
        });
        self.tasks.spawn(run.instrument(span));
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NodeOptions;
    use crate::node::native_machine::COUNTER;
    use crate::node::{Node, RunningNode};
    use kontiki_proto::v1;

    async fn node() -> RunningNode {
        let options = NodeOptions {
            name: Some("n1".into()),
            data_dir: Some("memory://".into()),
            listen: Some("127.0.0.1:0".into()),
            http: Some("off".into()),
            allow_native_machines: Some(true),
            ..NodeOptions::default()
        };
        Node::start(options.check().unwrap()).await.unwrap()
    }

    fn spec(node: &Context, plugin: &str) -> GroupSpec {
        GroupSpec {
            id: 7,
            name: "orders".into(),
            plugin: plugin.into(),
            initial_members: Some(v1::MemberSet {
                voters: vec![node.node().0],
                learners: vec![],
            }),
            ..GroupSpec::default()
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_replica_is_never_opened_twice() {
        let running = node().await;
        let context = &running.context;
        let turn = context.turn(GroupId(7)).await.unwrap();
        let prepared = context.prepare_replica(&turn, spec(context, COUNTER), context.node());
        assert!(prepared.await.unwrap());
        assert!(context.router.by_id(GroupId(7)).is_none());
        context.confirm_replica(&turn).await.unwrap();
        let first = context.router.by_id(GroupId(7)).unwrap();
        drop(turn);

        // As if it had been created between the listing of what is stored and its opening.
        context.open_groups().await.unwrap();
        let now = context.router.by_id(GroupId(7)).unwrap();
        assert!(Arc::ptr_eq(&first.inner, &now.inner));
        assert!(first.status().await.is_ok(), "its task still runs");
        assert!(lock(&context.broken).is_empty());
        running.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn while_groups_are_opened_none_is_made_or_removed() {
        let running = node().await;
        let context = &running.context;
        context.loading.store(true, Ordering::Release);
        let turn = context.turn(GroupId(7)).await;
        assert!(matches!(turn, Err(ReplicaError::Loading)));
        context.loading.store(false, Ordering::Release);
        running.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_cannot_be_made_leaves_nothing() {
        let running = node().await;
        let context = &running.context;
        let turn = context.turn(GroupId(7)).await.unwrap();
        let missing = format!("sha256:{}", "0".repeat(64));
        let prepared = context.prepare_replica(&turn, spec(context, &missing), context.node());
        assert!(matches!(prepared.await, Err(ReplicaError::Plugin(_))));
        assert!(context.storage.groups().unwrap().is_empty());
        let again = context.prepare_replica(&turn, spec(context, COUNTER), context.node());
        assert!(again.await.unwrap(), "its name is free");
        drop(turn);
        running.shutdown().await;
    }
}
