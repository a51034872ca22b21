//! A [`Storage`] over any engine.

use crate::engine::{Engine, Family};
use crate::error::StorageError;
use crate::layout::{GROUP_RECORD, OWN_RECORD, StateKey, log_key, open_record, state_key};
use crate::metrics::StorageMetrics;
use crate::reclaim;
use crate::recovery::{read_entries, recover};
use crate::storage::{Completion, GroupRecord, Storage};
use crate::uri::Options;
use crate::writer::{Job, Reply, Shared, Writer};
use kontiki_raft::{Entry, GroupId, LogId, LogIndex, Persist, Recovered};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;

pub(crate) struct Store {
    /// `None` once closed.
    open: RwLock<Option<Open>>,
    shared: Arc<Shared>,
    /// The writer, and who reclaims space after it.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

struct Open {
    engine: Arc<dyn Engine>,
    jobs: Sender<Job>,
}

impl Store {
    /// Starts the writer.
    pub(crate) fn start(engine: Arc<dyn Engine>, options: &Options) -> Result<Self, StorageError> {
        let shared = Arc::new(Shared::default());
        let (jobs, queue) = channel();
        let (reclaim, compacted) = channel();
        let writer = Writer::new(
            Arc::clone(&engine),
            Arc::clone(&shared),
            options.batch_size_bytes_max,
            reclaim,
        );
        let writer = spawn("kontiki-log", &*engine, move || writer.run(&queue))?;
        let reclaimer = {
            let (engine, shared) = (Arc::clone(&engine), Arc::clone(&shared));
            let path = Arc::clone(&engine);
            spawn("kontiki-reclaim", &*path, move || {
                reclaim::run(&*engine, &shared, &compacted);
            })?
        };
        Ok(Self {
            open: RwLock::new(Some(Open { engine, jobs })),
            shared,
            threads: Mutex::new(vec![writer, reclaimer]),
        })
    }

    fn engine(&self) -> Result<Arc<dyn Engine>, StorageError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let open = open.as_ref().ok_or(StorageError::Closed)?;
        Ok(Arc::clone(&open.engine))
    }

    /// Queues a request; gives it back if the storage is closed.
    fn send(&self, job: Job) -> Result<(), Job> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_ref() else {
            return Err(job);
        };
        self.shared
            .counters
            .queue_length
            .fetch_add(1, Ordering::Relaxed);
        open.jobs.send(job).map_err(|refused| refused.0)
    }

    /// Queues a request and waits for its outcome.
    fn request(&self, job: impl FnOnce(Reply) -> Job) -> Result<(), StorageError> {
        let (reply, answer) = sync_channel(1);
        self.send(job(reply)).map_err(|_| StorageError::Closed)?;
        answer.recv().map_err(|_| StorageError::Closed)?
    }
}

impl Storage for Store {
    fn groups(&self) -> Result<Vec<GroupRecord>, StorageError> {
        let mut groups = Vec::new();
        let visit = &mut |key: &[u8], record: &[u8]| {
            if let Some(StateKey {
                group,
                kind: GROUP_RECORD,
                ..
            }) = StateKey::parse(key)
            {
                let body = open_record(Family::State, key, record)
                    .map_err(|error| StorageError::damaged(group, None, error))?;
                let body = body.to_vec();
                groups.push(GroupRecord { id: group, body });
            }
            Ok(ControlFlow::Continue(()))
        };
        self.engine()?
            .scan(Family::State, &[]..&[0xff; 18], visit)?;
        Ok(groups)
    }

    fn create_group(&self, record: &GroupRecord) -> Result<(), StorageError> {
        self.request(|reply| Job::Create(record.clone(), reply))
    }

    fn update_group(&self, record: &GroupRecord) -> Result<(), StorageError> {
        self.request(|reply| Job::Update(record.clone(), reply))
    }

    fn own_record(&self, id: GroupId) -> Result<Option<Vec<u8>>, StorageError> {
        let key = state_key(id, OWN_RECORD);
        let Some(record) = self.engine()?.read(Family::State, &key)? else {
            return Ok(None);
        };
        let body = open_record(Family::State, &key, &record);
        let body = body.map_err(|error| StorageError::damaged(id, None, error))?;
        Ok(Some(body.to_vec()))
    }

    fn put_own_record(&self, id: GroupId, body: &[u8]) -> Result<(), StorageError> {
        let body = body.to_vec();
        self.request(|reply| Job::PutOwnRecord(id, body, reply))
    }

    fn remove_group(&self, id: GroupId) -> Result<(), StorageError> {
        self.request(|reply| Job::Remove(id, reply))
    }

    fn recover(&self, id: GroupId, tail_size_bytes_max: usize) -> Result<Recovered, StorageError> {
        let engine = self.engine()?;
        self.request(|reply| Job::Reopen(id, reply))?;
        recover(&*engine, id, tail_size_bytes_max)
    }

    fn persist(&self, id: GroupId, write: Persist, done: Completion) {
        let (group, write) = (id, Box::new(write));
        let refused = self.send(Job::Persist { group, write, done });
        if let Err(Job::Persist { done, .. }) = refused {
            done(Err(StorageError::Closed));
        }
    }

    fn entries(
        &self,
        id: GroupId,
        first: LogIndex,
        last: LogIndex,
        size_bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        read_entries(&*self.engine()?, id, first, last, size_bytes_max)
    }

    fn compact(&self, id: GroupId, upto: LogId) {
        // On a closed storage nothing is lost: the core asks again after the next snapshot.
        drop(self.send(Job::Compact { group: id, upto }));
    }

    fn node_record(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        let engine = self.engine()?;
        let Some(record) = engine.read(Family::Node, key.as_bytes())? else {
            return Ok(None);
        };
        match open_record(Family::Node, key.as_bytes(), &record) {
            Ok(body) => Ok(Some(body.to_vec())),
            Err(error) => Err(StorageError::NodeRecordDamaged {
                path: engine.path().to_owned(),
                key: key.to_owned(),
                why: error.to_string(),
            }),
        }
    }

    fn put_node_record(&self, key: &str, value: &[u8]) -> Result<(), StorageError> {
        let (key, value) = (key.to_owned(), value.to_vec());
        self.request(|reply| Job::PutNodeRecord { key, value, reply })
    }

    fn log_size_bytes(&self, id: GroupId) -> Result<u64, StorageError> {
        let (from, to) = (log_key(id, LogIndex(0)), log_key(id, LogIndex(u64::MAX)));
        Ok(self.engine()?.range_size_bytes(Family::Log, &from..&to))
    }

    fn metrics(&self) -> StorageMetrics {
        self.shared.counters.snapshot()
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        self.engine()?.size_bytes()
    }

    fn close(&self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // Without senders the writer finishes its queue and ends, and the reclaimer after it.
        let open = self
            .open
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        drop(open);
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        // A completion may hold the last handle; the writer cannot wait for itself.
        let current = std::thread::current().id();
        if threads.iter().any(|thread| thread.thread().id() == current) {
            return;
        }
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the storage panicked");
            }
        }
    }
}

fn spawn(
    name: &str,
    engine: &dyn Engine,
    work: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, StorageError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(|error| StorageError::io("starting a thread for", engine.path(), error))
}

impl Drop for Store {
    fn drop(&mut self) {
        self.close();
    }
}
