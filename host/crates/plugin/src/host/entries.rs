use super::{HostState, grant};
use crate::Batch;
use crate::fault::{Export, ProtocolViolation, Stop};
use wasmtime::StoreContextMut;

/// The batch that a guest works on, and how far it is.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    indexes: Vec<u64>,
    times: Vec<u64>,
    /// How many were announced: the guest's or, in a simple machine, the host's own count.
    announced: u32,
    /// Whether the guest itself is to announce entries.
    announced_by_guest: bool,
    /// Time of the entry announced last, kept for queries.
    time_ns: u64,
}

impl Entries {
    /// Takes the batch that is about to be applied.
    pub(crate) fn begin(&mut self, batch: &Batch<'_>, announced_by_guest: bool) {
        self.clear();
        self.indexes.extend_from_slice(batch.indexes());
        self.times.extend_from_slice(batch.times());
        self.announced_by_guest = announced_by_guest;
    }

    /// There is no batch.
    pub(crate) fn clear(&mut self) {
        self.indexes.clear();
        self.times.clear();
        self.announced = 0;
        self.announced_by_guest = false;
    }

    /// The entry that is running, from 0; the first one if none was announced yet.
    pub(crate) fn current(&self) -> usize {
        self.announced.saturating_sub(1) as usize
    }

    /// Log index of entry `n` of the batch.
    pub(crate) fn index(&self, n: usize) -> Option<u64> {
        self.indexes.get(n).copied()
    }

    /// Time of the entry announced last, also after its batch.
    pub(crate) fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// Goes on to entry `n`; returns its log index.
    pub(crate) fn announce(&mut self, n: u32) -> Result<u64, ProtocolViolation> {
        if n != self.announced {
            let expected = self.announced;
            return Err(ProtocolViolation::OutOfOrder {
                announced: n,
                expected,
            });
        }
        let at = n as usize;
        let Some(&index) = self.indexes.get(at) else {
            let entries = self.indexes.len() as u32;
            return Err(ProtocolViolation::TooMany {
                announced: n,
                entries,
            });
        };
        self.time_ns = self.times[at];
        self.announced += 1;
        Ok(index)
    }

    /// Checks, after the call, that all entries were announced.
    pub(crate) fn check_complete(&self) -> Result<(), ProtocolViolation> {
        let (announced, entries) = (self.announced, self.indexes.len() as u32);
        if announced == entries {
            return Ok(());
        }
        Err(ProtocolViolation::TooFew { announced, entries })
    }
}

/// The import `next-entry`.
pub(super) fn announce(mut store: StoreContextMut<'_, HostState>, n: u32) -> wasmtime::Result<()> {
    let state = store.data();
    if state.export != Export::Apply || !state.entries.announced_by_guest {
        return Err(Stop::from(ProtocolViolation::NotApplying).into());
    }
    start_entry(&mut store, n)
}

/// Gives entry `n` its fuel, time, random seed and host calls, and notes that it is running.
pub(crate) fn start_entry(
    store: &mut StoreContextMut<'_, HostState>,
    n: u32,
) -> wasmtime::Result<()> {
    let state = store.data_mut();
    let index = state.entries.announce(n).map_err(Stop::from)?;
    state.end_handles();
    state.random.restart(Export::Apply, index);
    state.calls.refill_again();
    let fuel_per_entry = state.limits.fuel_per_entry;
    grant(store, fuel_per_entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(indexes: &[u64]) -> Entries {
        let mut batch = Batch::new();
        for &index in indexes {
            batch.push(index, index * 100, b"");
        }
        let mut entries = Entries::default();
        entries.begin(&batch, true);
        entries
    }

    #[test]
    fn entries_are_announced_in_order_and_completely() {
        let mut entries = entries(&[4, 7]);
        assert_eq!(entries.index(entries.current()), Some(4));
        assert_eq!(entries.announce(0), Ok(4));
        let too_few = ProtocolViolation::TooFew {
            announced: 1,
            entries: 2,
        };
        assert_eq!(entries.check_complete(), Err(too_few));
        assert_eq!(entries.announce(1), Ok(7));
        assert_eq!(
            (entries.index(entries.current()), entries.time_ns()),
            (Some(7), 700)
        );
        assert_eq!(entries.check_complete(), Ok(()));
        let too_many = ProtocolViolation::TooMany {
            announced: 2,
            entries: 2,
        };
        assert_eq!(entries.announce(2), Err(too_many));
    }

    #[test]
    fn jumps_and_repetitions_are_refused() {
        let mut entries = entries(&[1, 2, 3]);
        let jump = ProtocolViolation::OutOfOrder {
            announced: 1,
            expected: 0,
        };
        assert_eq!(entries.announce(1), Err(jump));
        assert_eq!(entries.announce(0), Ok(1));
        let repetition = ProtocolViolation::OutOfOrder {
            announced: 0,
            expected: 1,
        };
        assert_eq!(entries.announce(0), Err(repetition));
    }
}
