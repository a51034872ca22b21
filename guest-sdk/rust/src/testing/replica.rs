//! One replica of a machine in this process.

use super::Snapshot;
use crate::packed::{self, CODE_OK, PackedBatch};
use crate::{Answer, Error, Machine, Reject, SnapshotInfo, SnapshotReader, SnapshotWriter};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

/// Nanoseconds between two entries of a test.
const TICK: u64 = 1_000_000;

/// One replica of a machine: what the host does, without Wasm and without a cluster.
#[derive(Debug, Default)]
pub struct Replica<M> {
    machine: M,
    /// Index of the last entry it carried out.
    index: u64,
    /// Time of that entry.
    time: u64,
}

impl<M: Machine> Replica<M> {
    /// A replica of a new group.
    pub fn new() -> Self {
        Replica {
            machine: M::default(),
            index: 0,
            time: 0,
        }
    }

    /// The machine, to look into its own parts.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// Index of the last entry.
    pub fn index(&self) -> u64 {
        self.index
    }

    /// Lets this many nanoseconds pass before the next entry.
    pub fn advance(&mut self, nanoseconds: u64) {
        self.time += nanoseconds;
    }

    /// Carries out one command.
    ///
    /// # Errors
    /// The machine's own [`Reject`].
    pub fn apply(&mut self, command: impl AsRef<[u8]>) -> Result<Answer, Reject> {
        self.apply_batch(&[command])
            .pop()
            .expect("one answer for one entry")
    }

    /// Carries out commands in one batch.
    pub fn apply_batch<C: AsRef<[u8]>>(&mut self, commands: &[C]) -> Vec<Result<Answer, Reject>> {
        let (mut data, mut ends) = (Vec::new(), Vec::new());
        let (mut indexes, mut times) = (Vec::new(), Vec::new());
        for command in commands {
            data.extend_from_slice(command.as_ref());
            ends.push(u32::try_from(data.len()).expect("batches of a test are small"));
            self.index += 1;
            self.time += TICK;
            indexes.push(self.index);
            times.push(self.time);
        }
        let batch = PackedBatch {
            data: &data,
            ends: &ends,
            indexes: &indexes,
            times: &times,
        };
        let mut announced = 0;
        let answers = packed::apply(&mut self.machine, &batch, |n| {
            assert_eq!(n, announced, "entries are announced in order");
            announced += 1;
        });
        unpack(&answers)
    }

    /// Asks a question.
    ///
    /// # Errors
    /// The machine's own [`Reject`].
    pub fn query(&self, request: impl AsRef<[u8]>) -> Result<Answer, Reject> {
        self.machine.query(request.as_ref())
    }

    /// Saves a snapshot into a new temporary directory, which goes with the returned value.
    ///
    /// # Errors
    /// What [`Machine::save`] returns.
    pub fn save(&self) -> Result<Snapshot, Error> {
        self.save_into(Snapshot::temporary()?)
    }

    /// Saves a snapshot into an empty directory, which stays.
    ///
    /// # Errors
    /// What [`Machine::save`] returns.
    pub fn save_in(&self, directory: &Path) -> Result<Snapshot, Error> {
        self.save_into(Snapshot::in_directory(directory))
    }

    fn save_into(&self, mut snapshot: Snapshot) -> Result<Snapshot, Error> {
        snapshot.set_info(SnapshotInfo {
            index: self.index,
            term: 1,
            voters: vec![1, 2, 3],
            learners: Vec::new(),
            format: M::STATE_FORMAT,
            plugin: format!("native:{}", M::NAME),
        });
        let files = RefCell::new(BTreeMap::new());
        let directory = snapshot.directory().to_owned();
        let writer = SnapshotWriter::new((directory, snapshot.info().clone(), &files));
        self.machine.save(&writer)?;
        drop(writer);
        snapshot.set_files(files.into_inner());
        Ok(snapshot)
    }

    /// A new replica that continues from a snapshot.
    ///
    /// # Errors
    /// What [`Machine::load`] returns.
    pub fn load(snapshot: &Snapshot) -> Result<Self, Error> {
        let machine = M::load(&SnapshotReader::new(snapshot))?;
        let index = snapshot.info().index;
        Ok(Replica {
            machine,
            index,
            time: index * TICK,
        })
    }
}

fn unpack(answers: &packed::PackedAnswers) -> Vec<Result<Answer, Reject>> {
    let mut start = 0;
    let mut unpacked = Vec::with_capacity(answers.ends.len());
    for (&end, &code) in answers.ends.iter().zip(&answers.codes) {
        let bytes = &answers.data[start..end as usize];
        start = end as usize;
        unpacked.push(match code {
            CODE_OK => Ok(Answer::from(bytes)),
            _ => Err(Reject::new(String::from_utf8_lossy(bytes))),
        });
    }
    unpacked
}
