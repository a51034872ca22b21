//! Batches as they cross the boundary: flat bytes with ends beside them.

use crate::{Entry, Machine};

/// Commands of one batch; see `batch` in the WIT package.
pub(crate) struct PackedBatch<'a> {
    pub(crate) data: &'a [u8],
    pub(crate) ends: &'a [u32],
    pub(crate) indexes: &'a [u64],
    pub(crate) times: &'a [u64],
}

/// Answers of one batch; see `answers` in the WIT package.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct PackedAnswers {
    pub(crate) data: Vec<u8>,
    pub(crate) ends: Vec<u32>,
    pub(crate) codes: Vec<u8>,
}

/// The code of a command that was carried out.
pub(crate) const CODE_OK: u8 = 0;
/// The code of a reject.
pub(crate) const CODE_REJECT: u8 = 1;

impl PackedAnswers {
    fn with_capacity(entries: usize) -> Self {
        PackedAnswers {
            data: Vec::with_capacity(entries * 16),
            ends: Vec::with_capacity(entries),
            codes: Vec::with_capacity(entries),
        }
    }

    fn push(&mut self, code: u8, answer: &[u8]) {
        self.data.extend_from_slice(answer);
        let end = u32::try_from(self.data.len()).expect("a 32-bit memory holds less than 4 GiB");
        self.ends.push(end);
        self.codes.push(code);
    }
}

/// Carries out a batch; `announce(n)` is called before each entry.
///
/// # Panics
/// If the lists of the batch contradict one another, which the host never does.
pub(crate) fn apply<M: Machine>(
    machine: &mut M,
    batch: &PackedBatch<'_>,
    mut announce: impl FnMut(u32),
) -> PackedAnswers {
    let mut answers = PackedAnswers::with_capacity(batch.ends.len());
    let mut start = 0;
    for (i, &end) in batch.ends.iter().enumerate() {
        announce(i as u32);
        let payload = &batch.data[start..end as usize];
        start = end as usize;
        match machine.apply(Entry::new(payload, batch.indexes[i], batch.times[i])) {
            Ok(answer) => answers.push(CODE_OK, answer.as_bytes()),
            Err(reject) => answers.push(CODE_REJECT, reject.reason().as_bytes()),
        }
    }
    answers
}
