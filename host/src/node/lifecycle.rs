//! Making, confirming, taking back and deleting replicas. Every step is durable before it counts,
//! and decides by what is durable: see `docs/decisions/0009-creating-and-deleting-groups.md`.
//!
//! Each function here runs to its end once begun; callers see to that with
//! [`Context::to_the_end`].

use super::context::{Context, ReplicaError, lock};
use super::departed;
use super::ended::{self, Ended};
use super::epoch::EpochId;
use super::failpoint::failpoint;
use super::handle::GroupHandle;
use super::opening::Machinery;
use super::prepared::Prepared;
use super::registry;
use super::request::{Problem, Retirement};
use super::turn::Turn;
use kontiki_proto::v1::{GroupSpec, GroupStage, MemberSet};
use kontiki_raft::{GroupId, NodeId};
use kontiki_storage::{GroupRecord, StorageError};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use tracing::info;

/// Names of replicas that are being made or opened, and of which group.
pub(crate) type Names = Arc<Mutex<BTreeMap<String, GroupId>>>;

/// A name that nobody else may take while it is held.
pub(super) struct Reserved {
    names: Names,
    name: String,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        lock(&self.names).remove(&self.name);
    }
}

impl Context {
    /// Waits for a group's turn, once the node knows which groups it has.
    ///
    /// # Errors
    /// [`ReplicaError::Loading`]: worth trying again.
    pub(crate) async fn turn(&self, group: GroupId) -> Result<Turn, ReplicaError> {
        match self.loading.load(Ordering::Acquire) {
            true => Err(ReplicaError::Loading),
            false => Ok(self.turns.of(group).await),
        }
    }

    /// Reserves the group's name for it.
    pub(super) fn reserve(&self, spec: &GroupSpec) -> Result<Reserved, ReplicaError> {
        let (name, id) = (spec.name.clone(), GroupId(spec.id));
        if self.router.by_id(id).is_some() {
            return Err(ReplicaError::Exists(id));
        }
        let mut names = lock(&self.names);
        let other = names.get(&name).copied().or_else(|| self.holder(&name));
        if let Some(other) = other.filter(|other| *other != id || names.contains_key(&name)) {
            return Err(ReplicaError::NameTaken { name, id: other });
        }
        names.insert(name.clone(), id);
        let names = Arc::clone(&self.names);
        Ok(Reserved { names, name })
    }

    /// The group that has this name here, in whatever state.
    fn holder(&self, name: &str) -> Option<GroupId> {
        let running = self.router.by_name(name).map(|handle| handle.id());
        let prepared = || {
            let all = lock(&self.prepared);
            let found = all.values().find(|it| it.spec.name == name);
            found.map(|it| it.id())
        };
        let broken = || {
            let all = lock(&self.broken);
            let found = all.values().find(|it| it.name() == name);
            found.map(|it| it.id)
        };
        running.or_else(prepared).or_else(broken)
    }

    /// How a group stands here.
    ///
    /// # Errors
    /// If the storage cannot be read.
    pub(crate) async fn stage(&self, id: GroupId) -> Result<GroupStage, ReplicaError> {
        if self.router.by_id(id).is_some() {
            return Ok(GroupStage::Running);
        }
        if lock(&self.prepared).contains_key(&id) {
            return Ok(GroupStage::Prepared);
        }
        if lock(&self.broken).values().any(|broken| broken.id == id) {
            return Ok(GroupStage::Broken);
        }
        let ended = self.ended(id).await?;
        Ok(ended.map_or(GroupStage::Absent, Ended::stage))
    }

    /// What a group that is here in some state is called.
    pub(crate) fn name_of(&self, id: GroupId) -> Option<String> {
        let running = self.router.by_id(id).map(|it| it.name().to_owned());
        let prepared = || lock(&self.prepared).get(&id).map(|it| it.spec.name.clone());
        let broken = || {
            let all = lock(&self.broken);
            let found = all.values().find(|it| it.id == id);
            found.map(|it| it.name())
        };
        running.or_else(prepared).or_else(broken)
    }

    async fn ended(&self, id: GroupId) -> Result<Option<Ended>, ReplicaError> {
        let storage = Arc::clone(&self.storage);
        Ok(tokio::task::spawn_blocking(move || ended::ended(&*storage, id)).await??)
    }

    /// Whether something of the group is here already; refused if the group has ended.
    async fn is_here(&self, turn: &Turn) -> Result<bool, ReplicaError> {
        let id = turn.group;
        match self.stage(id).await? {
            GroupStage::Absent => Ok(false),
            GroupStage::Broken => Err(ReplicaError::Exists(id)),
            stage => match Ended::of_stage(stage) {
                Some(how) => Err(ReplicaError::Ended { id, how }),
                None => Ok(true),
            },
        }
    }

    /// Prepares a replica of a group that is being created: durable under its id and name, its
    /// machine made, and nothing more. Repeating it is harmless; says whether it was made now.
    pub(crate) async fn prepare_replica(
        self: &Arc<Self>,
        turn: &Turn,
        spec: GroupSpec,
        coordinator: NodeId,
    ) -> Result<bool, ReplicaError> {
        if self.is_here(turn).await? {
            return Ok(false);
        }
        let _making = self.making.read().await;
        let _reserved = self.reserve(&spec)?;
        let record = registry::prepared(&spec, coordinator);
        let machinery = self.make(record, &spec.plugin).await?;
        failpoint("create.prepared");
        let prepared = Prepared::new(spec, coordinator, Some(machinery));
        lock(&self.prepared).insert(turn.group, Arc::new(prepared));
        Ok(true)
    }

    /// Makes the machine, then the record: what cannot run is not there after a restart either.
    async fn make(
        self: &Arc<Self>,
        record: GroupRecord,
        plugin: &str,
    ) -> Result<Machinery, ReplicaError> {
        let (context, plugin) = (Arc::clone(self), plugin.to_owned());
        let making = move || {
            let machinery = context.make_machine(record.id, &plugin)?;
            match context.storage.create_group(&record) {
                Ok(()) => Ok(machinery),
                Err(error) => {
                    machinery.stop();
                    Err(error.into())
                }
            }
        };
        tokio::task::spawn_blocking(making).await?
    }

    /// Lets a prepared replica take part in its group. Durable on return. Only for what was decided:
    /// it cannot be undone by anybody's message.
    pub(crate) async fn confirm_replica(self: &Arc<Self>, turn: &Turn) -> Result<(), ReplicaError> {
        let prepared = lock(&self.prepared).get(&turn.group).cloned();
        let Some(prepared) = prepared else {
            return Ok(());
        };
        failpoint("create.before_confirm");
        let (storage, record) = (Arc::clone(&self.storage), registry::record(&prepared.spec));
        tokio::task::spawn_blocking(move || storage.update_group(&record)).await??;
        failpoint("create.confirmed");
        let spec = prepared.spec.clone();
        let opened = self.open(turn, spec.clone(), prepared.take_machinery());
        if let Err(error) = opened.await {
            self.note_broken(turn.group, Some(spec), &error);
        }
        lock(&self.prepared).remove(&turn.group);
        Ok(())
    }

    /// Undoes a prepared replica of a group that is not to be created. Durable on return.
    pub(crate) async fn abort_replica(&self, turn: &Turn) -> Result<(), ReplicaError> {
        let prepared = lock(&self.prepared).get(&turn.group).cloned();
        match prepared {
            Some(it) => self.end(turn, &it.spec.name, Ended::Aborted).await,
            None => Ok(()),
        }
    }

    /// Makes a replica for a group that exists, and opens it: its leader will tell it the members.
    /// Repeating it is harmless; says whether it was made now.
    pub(crate) async fn join_replica(
        self: &Arc<Self>,
        turn: &Turn,
        mut spec: GroupSpec,
    ) -> Result<bool, ReplicaError> {
        // The original members may be gone.
        spec.initial_members = Some(MemberSet::default());
        if lock(&self.prepared).contains_key(&turn.group) {
            return Err(ReplicaError::Undecided(spec.name));
        }
        if let Some(there) = self.router.by_id(turn.group) {
            return self.check_epoch(&there, &spec).map(|()| false);
        }
        if self.is_here(turn).await? {
            return Ok(false);
        }
        let machinery = {
            let _making = self.making.read().await;
            let _reserved = self.reserve(&spec)?;
            self.make(registry::record(&spec), &spec.plugin).await?
        };
        if let Err(error) = self.open(turn, spec, Some(machinery)).await {
            self.remove_data(turn).await?;
            return Err(error);
        }
        Ok(true)
    }

    /// A replica of another epoch cannot be brought up to date: its data contradicts the group's.
    fn check_epoch(&self, there: &GroupHandle, spec: &GroupSpec) -> Result<(), ReplicaError> {
        let (epochs, wanted) = (there.epochs(), EpochId::of(spec.lineage.as_ref()));
        if epochs.newer().is_none() && epochs.id() == wanted {
            return Ok(());
        }
        Err(ReplicaError::OtherEpoch {
            group: spec.name.clone(),
            node: self.config.name.clone(),
            own: epochs.id(),
            wanted,
        })
    }

    /// Takes a replica back that was made for a change of membership, if its own log shows that it
    /// is of no use. One that is not here is taken back already.
    pub(crate) async fn take_back_replica(
        &self,
        turn: &Turn,
        condition: Retirement,
    ) -> Result<(), ReplicaError> {
        match self.stage(turn.group).await? {
            GroupStage::Running => {}
            GroupStage::Prepared | GroupStage::Broken => {
                return Err(ReplicaError::InUse(turn.group.to_string()));
            }
            _ => return Ok(()),
        }
        let handle = self.router.by_id(turn.group);
        let Some(handle) = handle else { return Ok(()) };
        let members = handle.spec().initial_members.clone().unwrap_or_default();
        if members != MemberSet::default() {
            // It was not made for a change: the group began with it.
            return Err(ReplicaError::InUse(handle.name().to_owned()));
        }
        self.delete(turn, &handle, condition).await
    }

    /// Ends a replica and deletes its data if the condition holds; its term and vote are kept, in
    /// case it is made anew.
    pub(crate) async fn delete(
        &self,
        turn: &Turn,
        handle: &GroupHandle,
        condition: Retirement,
    ) -> Result<(), ReplicaError> {
        let in_use = || ReplicaError::InUse(handle.name().to_owned());
        let last = handle.retire(condition).await.map_err(|_| in_use())?;
        let last = last.ok_or_else(in_use)?;
        let _making = self.making.read().await;
        let id = turn.group;
        self.router.remove(id);
        handle.inner.applier.stop();
        let storage = Arc::clone(&self.storage);
        tokio::task::spawn_blocking(move || departed::remove(&*storage, id, last)).await??;
        info!(group = id.0, name = handle.name(), "replica deleted");
        Ok(())
    }

    /// Ends a group on this node for good, whatever its state here. Durable on return; the node
    /// never takes a replica of it again. After a crash in between it is finished at the next start.
    pub(crate) async fn end(
        &self,
        turn: &Turn,
        name: &str,
        how: Ended,
    ) -> Result<(), ReplicaError> {
        let (storage, id, named) = (Arc::clone(&self.storage), turn.group, name.to_owned());
        let noting = move || ended::note(&*storage, id, &named, how);
        tokio::task::spawn_blocking(noting).await??;
        failpoint("end.noted");
        let _making = self.making.read().await;
        if let Some(handle) = self.router.by_id(id) {
            // One whose task has ended by itself is as good as retired.
            let _ = handle.retire(Retirement::Deleted).await;
            self.router.remove(id);
            handle.inner.applier.stop();
        }
        self.remove_data(turn).await?;
        let prepared = lock(&self.prepared).remove(&id);
        if let Some(machinery) = prepared.and_then(|it| it.take_machinery()) {
            machinery.stop();
        }
        lock(&self.broken).retain(|_, broken| broken.id != id);
        info!(group = id.0, name, ?how, "group ended here");
        Ok(())
    }

    /// Deletes what the storage holds of a replica that does not run, if it holds anything.
    pub(super) async fn remove_data(&self, turn: &Turn) -> Result<(), ReplicaError> {
        let (storage, id) = (Arc::clone(&self.storage), turn.group);
        let removed = tokio::task::spawn_blocking(move || storage.remove_group(id)).await?;
        match removed {
            Ok(()) | Err(StorageError::UnknownGroup { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a prepared replica without deciding anything: it has never voted or held anything.
    pub(crate) async fn drop_prepared(&self, turn: &Turn) -> Result<(), ReplicaError> {
        self.remove_data(turn).await?;
        let prepared = lock(&self.prepared).remove(&turn.group);
        if let Some(machinery) = prepared.and_then(|it| it.take_machinery()) {
            machinery.stop();
        }
        Ok(())
    }

    /// Keeps every replica from being made, opened or removed while it is held.
    pub(crate) async fn nothing_is_made(&self) -> tokio::sync::RwLockWriteGuard<'_, ()> {
        self.making.write().await
    }

    /// Names of the groups here, in whatever state, that need a plugin; also those whose record
    /// cannot be read, for they may.
    pub(crate) fn users_of(&self, plugin: &str) -> Vec<String> {
        let running = self.router.all().into_iter();
        let running = running.filter(|it| it.spec().plugin == plugin);
        let prepared = lock(&self.prepared);
        let prepared = prepared.values().filter(|it| it.spec.plugin == plugin);
        let broken = lock(&self.broken);
        let broken = broken.values().filter(|it| {
            let spec = it.spec.as_ref();
            spec.is_none_or(|spec| spec.plugin == plugin)
        });
        let running = running.map(|it| it.name().to_owned());
        let prepared = prepared.map(|it| it.spec.name.clone());
        running
            .chain(prepared)
            .chain(broken.map(|it| it.name()))
            .collect()
    }

    /// Ends the threads of machines whose replicas were never confirmed.
    pub(super) fn stop_prepared(&self) {
        for prepared in lock(&self.prepared).values() {
            if let Some(machinery) = prepared.take_machinery() {
                machinery.stop();
            }
        }
    }

    /// Creations that nobody has decided for a while.
    pub(super) fn undecided_problems(&self) -> Vec<Problem> {
        let all = lock(&self.prepared);
        let late = all.values().filter(|prepared| prepared.is_late());
        let problem = |it: &Arc<Prepared>| {
            let name = &it.spec.name;
            Problem {
                what: format!(
                    "group {name:?}: its creation is not decided; node {:?} decides it",
                    self.transport.name(it.decider())
                ),
                next_step: format!(
                    "see that that node runs and can be reached; or `kontiki group delete {name}`"
                ),
            }
        };
        late.map(problem).collect()
    }
}
