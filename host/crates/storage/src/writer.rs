//! The one thread that writes: gather, one batch, one sync, completions.

use crate::engine::{Batch, Engine, Family};
use crate::error::StorageError;
use crate::layout::{GROUP_RECORD, OWN_RECORD, log_key, state_key};
use crate::log_state::LogState;
use crate::metrics::Counters;
use crate::reclaim::Compacted;
use crate::storage::{Completion, GroupRecord};
use kontiki_raft::{GroupId, IoId, LogId, LogIndex, Persist};
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Where the answer to a request goes that somebody waits for.
pub(crate) type Reply = SyncSender<Result<(), StorageError>>;

/// One request to the writer.
pub(crate) enum Job {
    Persist {
        group: GroupId,
        write: Box<Persist>,
        done: Completion,
    },
    Compact {
        group: GroupId,
        upto: LogId,
    },
    Create(GroupRecord, Reply),
    Update(GroupRecord, Reply),
    PutOwnRecord(GroupId, Vec<u8>, Reply),
    Remove(GroupId, Reply),
    PutNodeRecord {
        key: String,
        value: Vec<u8>,
        reply: Reply,
    },
    /// Forget what is known of the group, so that the next write reads it from disk; by its place
    /// in the queue also: wait for everything before it.
    Reopen(GroupId, Reply),
}

/// What the writer shares with the handle.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) counters: Counters,
    /// The storage is being closed: work that can wait for another day does.
    pub(crate) closing: AtomicBool,
    /// The first failed write. Set once, never cleared.
    poison: OnceLock<Arc<StorageError>>,
}

impl Shared {
    /// `Poisoned` if a write has failed.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        match self.poison.get() {
            None => Ok(()),
            Some(first) => Err(StorageError::Poisoned {
                first: Arc::clone(first),
            }),
        }
    }

    fn poison(&self, error: &StorageError) {
        tracing::error!(
            error = error as &dyn std::error::Error,
            "a write failed; the storage takes no more until the node is restarted"
        );
        let _first_wins = self.poison.set(Arc::new(error.clone()));
        self.counters.failed.store(true, Ordering::Relaxed);
    }
}

/// What the writer knows of a group.
enum Slot {
    Open(LogState),
    /// Removed in the batch being gathered.
    Removed,
    /// A write was refused. What follows it in the group's order must not be written either, or a
    /// later completion would vouch for it.
    Failed(StorageError),
}

/// Who hears of the outcome.
enum Waiter {
    Completion(Completion, IoId),
    Reply(Reply),
    Nobody,
}

impl Waiter {
    /// Answers. A completion that panics must not take the writer of all groups with it.
    fn answer(self, result: Result<(), StorageError>) {
        match self {
            Self::Completion(done, io) => {
                let call = AssertUnwindSafe(|| done(result.map(|()| io)));
                if catch_unwind(call).is_err() {
                    tracing::error!("a completion panicked");
                }
            }
            // A caller that no longer waits needs no answer.
            Self::Reply(reply) => drop(reply.send(result)),
            Self::Nobody => {}
        }
    }
}

pub(crate) struct Writer {
    engine: Arc<dyn Engine>,
    shared: Arc<Shared>,
    batch_size_bytes_max: usize,
    slots: HashMap<GroupId, Slot>,
    batch: Batch,
    entries: u64,
    waiting: Vec<(Waiter, Result<(), StorageError>)>,
    /// Compacted by the batch being gathered.
    compacted: Vec<Compacted>,
    reclaim: Sender<Compacted>,
}

impl Writer {
    pub(crate) fn new(
        engine: Arc<dyn Engine>,
        shared: Arc<Shared>,
        batch_size_bytes_max: usize,
        reclaim: Sender<Compacted>,
    ) -> Self {
        Self {
            engine,
            shared,
            batch_size_bytes_max,
            slots: HashMap::new(),
            batch: Batch::default(),
            entries: 0,
            waiting: Vec::new(),
            compacted: Vec::new(),
            reclaim,
        }
    }

    /// Works until every sender is gone and the queue is empty.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
        while let Ok(job) = jobs.recv() {
            self.add(job);
            while self.batch.size_bytes() < self.batch_size_bytes_max
                && let Ok(job) = jobs.try_recv()
            {
                self.add(job);
            }
            self.commit();
        }
    }

    /// Adds a request to the batch being gathered.
    fn add(&mut self, job: Job) {
        self.shared
            .counters
            .queue_length
            .fetch_sub(1, Ordering::Relaxed);
        let failed = self.shared.check();
        let (waiter, result) = match job {
            Job::Persist { group, write, done } => {
                let result = failed.and_then(|()| self.persist(group, &write));
                (Waiter::Completion(done, write.io), result)
            }
            Job::Compact { group, upto } => {
                let result = failed.and_then(|()| self.compact(group, upto));
                (Waiter::Nobody, result)
            }
            Job::Create(record, reply) => {
                let result = failed.and_then(|()| self.create(&record));
                (Waiter::Reply(reply), result)
            }
            Job::Update(record, reply) => {
                let result = failed.and_then(|()| self.update(&record));
                (Waiter::Reply(reply), result)
            }
            Job::PutOwnRecord(group, body, reply) => {
                let result = failed.and_then(|()| self.put_own_record(group, &body));
                (Waiter::Reply(reply), result)
            }
            Job::Remove(group, reply) => {
                let result = failed.and_then(|()| self.remove(group));
                (Waiter::Reply(reply), result)
            }
            Job::PutNodeRecord { key, value, reply } => {
                let put = || {
                    self.batch
                        .put(Family::Node, key.as_bytes(), |out| out.extend(value))
                };
                (Waiter::Reply(reply), failed.map(|()| put()))
            }
            Job::Reopen(group, reply) => {
                self.commit();
                self.slots.remove(&group);
                (Waiter::Reply(reply), Ok(()))
            }
        };
        self.waiting.push((waiter, result));
    }

    /// Writes and syncs what was gathered, then answers everybody, in order.
    fn commit(&mut self) {
        let written = self.write();
        for (waiter, result) in self.waiting.drain(..) {
            waiter.answer(result.and(written.clone()));
        }
        for compacted in self.compacted.drain(..) {
            if written.is_ok() {
                let _gone_with_the_storage = self.reclaim.send(compacted);
            }
        }
        self.slots.retain(|_, slot| !matches!(slot, Slot::Removed));
        self.batch.clear();
        self.entries = 0;
    }

    fn write(&self) -> Result<(), StorageError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let written = self.engine.write(&self.batch);
        match &written {
            Ok(()) => self.shared.counters.synced(
                self.waiting.len() as u64,
                self.entries,
                self.batch.size_bytes(),
                began.elapsed(),
            ),
            Err(error) => self.shared.poison(error),
        }
        written
    }

    fn persist(&mut self, group: GroupId, write: &Persist) -> Result<(), StorageError> {
        let (state, batch) = self.open(group)?;
        match state.persist(group, write, batch) {
            Ok(()) => {
                self.entries += write.entries.len() as u64;
                Ok(())
            }
            Err(error) => {
                tracing::error!(group = group.0, %error, "a write was refused");
                self.slots.insert(group, Slot::Failed(error.clone()));
                Err(error)
            }
        }
    }

    fn compact(&mut self, group: GroupId, upto: LogId) -> Result<(), StorageError> {
        let (state, batch) = self.open(group)?;
        let result = state.compact(group, upto, batch);
        self.compacted.extend(result.is_ok().then_some(Compacted {
            group,
            upto: upto.index,
        }));
        if let Err(error) = &result {
            tracing::error!(group = group.0, index = upto.index.0, %error, "log not compacted");
        }
        result
    }

    /// The state of a registered group, read from disk the first time.
    fn open(&mut self, group: GroupId) -> Result<(&mut LogState, &mut Batch), StorageError> {
        if !self.slots.contains_key(&group) {
            let state = LogState::load(&*self.engine, group)?;
            let state = state.ok_or(StorageError::UnknownGroup { group })?;
            self.slots.insert(group, Slot::Open(state));
        }
        match self.slots.get_mut(&group) {
            Some(Slot::Open(state)) => Ok((state, &mut self.batch)),
            Some(Slot::Failed(error)) => Err(error.clone()),
            Some(Slot::Removed) | None => Err(StorageError::UnknownGroup { group }),
        }
    }

    /// Whether the group is registered, counting what is being gathered. Damage elsewhere in the
    /// group does not matter: a damaged group must be removable.
    fn is_registered(&self, group: GroupId) -> Result<bool, StorageError> {
        match self.slots.get(&group) {
            Some(Slot::Removed) => Ok(false),
            Some(Slot::Open(_)) => Ok(true),
            Some(Slot::Failed(_)) | None => {
                let key = state_key(group, GROUP_RECORD);
                Ok(self.engine.read(Family::State, &key)?.is_some())
            }
        }
    }

    fn create(&mut self, record: &GroupRecord) -> Result<(), StorageError> {
        let group = record.id;
        if self.is_registered(group)? {
            return Err(StorageError::AlreadyExists { group });
        }
        self.put_group_record(record);
        self.slots.insert(group, Slot::Open(LogState::default()));
        Ok(())
    }

    fn update(&mut self, record: &GroupRecord) -> Result<(), StorageError> {
        let group = record.id;
        match self.is_registered(group)? {
            true => {
                self.put_group_record(record);
                Ok(())
            }
            false => Err(StorageError::UnknownGroup { group }),
        }
    }

    fn put_own_record(&mut self, group: GroupId, body: &[u8]) -> Result<(), StorageError> {
        if !self.is_registered(group)? {
            return Err(StorageError::UnknownGroup { group });
        }
        let key = state_key(group, OWN_RECORD);
        self.batch
            .put(Family::State, &key, |out| out.extend_from_slice(body));
        Ok(())
    }

    fn put_group_record(&mut self, record: &GroupRecord) {
        let key = state_key(record.id, GROUP_RECORD);
        let body = &record.body;
        self.batch
            .put(Family::State, &key, |out| out.extend_from_slice(body));
    }

    fn remove(&mut self, group: GroupId) -> Result<(), StorageError> {
        if !self.is_registered(group)? {
            return Err(StorageError::UnknownGroup { group });
        }
        let (from, to) = (state_key(group, 0), state_key(group, u8::MAX));
        self.batch.delete_range(Family::State, &from, &to);
        let (from, to) = (
            log_key(group, LogIndex(0)),
            log_key(group, LogIndex(u64::MAX)),
        );
        self.batch.delete_range(Family::Log, &from, &to);
        self.slots.insert(group, Slot::Removed);
        Ok(())
    }
}
