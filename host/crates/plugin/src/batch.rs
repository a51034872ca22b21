use std::borrow::Cow;

/// Most entries in a batch: beyond 256 a call gets no cheaper per entry.
pub const BATCH_ENTRIES_MAX: usize = 256;

/// Size of the payloads at which a batch is cut: larger ones fall out of the processor's cache and
/// cost up to three times as much per entry.
pub const BATCH_SIZE_BYTES_MAX: usize = 256 << 10;

/// Log entries for one call of `apply`, packed as the WIT record `kontiki:plugin/types.batch`.
///
/// Nothing a plugin answers may depend on how entries were cut into batches.
///
/// ```
/// use kontiki_plugin::Batch;
///
/// let mut batch = Batch::new();
/// batch.push(7, 1_000, b"add 1");
/// batch.push(9, 1_500, b"add 2");
/// assert_eq!(batch.data(), b"add 1add 2");
/// assert_eq!(batch.ends(), [5, 10]);
/// assert_eq!(batch.payload(1), b"add 2");
/// ```
#[derive(Debug, Clone, Default)]
pub struct Batch<'a> {
    /// Borrowed while there is one entry only: a large payload is then copied once, into the guest.
    data: Cow<'a, [u8]>,
    ends: Vec<u32>,
    indexes: Vec<u64>,
    times: Vec<u64>,
}

impl<'a> Batch<'a> {
    /// A batch without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an entry: its log index, its time in nanoseconds since the Unix epoch as the leader
    /// stamped it, and its payload.
    ///
    /// Indexes ascend and times never go back; the caller has both from the log.
    ///
    /// # Panics
    ///
    /// If the batch [is full](Self::is_full), or if a single payload has 4 GiB or more.
    pub fn push(&mut self, index: u64, time_ns: u64, payload: &'a [u8]) {
        assert!(!self.is_full(), "pushed to a full batch");
        debug_assert!(self.indexes.last().is_none_or(|&last| last < index));
        if self.data.is_empty() {
            self.data = Cow::Borrowed(payload);
        } else {
            self.data.to_mut().extend_from_slice(payload);
        }
        let end = u32::try_from(self.data.len()).expect("a log entry is far below 4 GiB");
        self.ends.push(end);
        self.indexes.push(index);
        self.times.push(time_ns);
    }

    /// Whether the batch is to be applied before anything more is pushed: at
    /// [`BATCH_ENTRIES_MAX`] entries or [`BATCH_SIZE_BYTES_MAX`] bytes.
    pub fn is_full(&self) -> bool {
        self.len() >= BATCH_ENTRIES_MAX || self.data.len() >= BATCH_SIZE_BYTES_MAX
    }

    /// Whether a payload of this size still fits: the batch does not get longer than
    /// [`BATCH_SIZE_BYTES_MAX`] by it. A larger payload fits into an empty batch, alone.
    pub fn fits(&self, payload_size_bytes: usize) -> bool {
        self.is_empty()
            || (!self.is_full() && self.data.len() + payload_size_bytes <= BATCH_SIZE_BYTES_MAX)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.indexes.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.indexes.is_empty()
    }

    /// All payloads, one after another.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Where each payload ends in [`data`](Self::data).
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Log index of each entry.
    pub fn indexes(&self) -> &[u64] {
        &self.indexes
    }

    /// Time of each entry, in nanoseconds since the Unix epoch.
    pub fn times(&self) -> &[u64] {
        &self.times
    }

    /// Payload of entry `n`, counted from 0.
    ///
    /// # Panics
    ///
    /// If there is no such entry.
    pub fn payload(&self, n: usize) -> &[u8] {
        let start = if n == 0 { 0 } else { self.ends[n - 1] as usize };
        &self.data[start..self.ends[n] as usize]
    }

    /// Log index, time and payload of each entry.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, &[u8])> {
        (0..self.len()).map(|n| (self.indexes[n], self.times[n], self.payload(n)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_full_at_256_entries() {
        let mut batch = Batch::new();
        for index in 0..256 {
            assert!(!batch.is_full());
            batch.push(index, 0, b"x");
        }
        assert!(batch.is_full());
        assert_eq!(batch.len(), 256);
        assert!(!batch.fits(1));
    }

    #[test]
    fn is_full_at_256_kib_and_takes_a_larger_entry_alone() {
        let large = vec![1; BATCH_SIZE_BYTES_MAX + 1];
        let mut batch = Batch::new();
        assert!(batch.fits(large.len()));
        batch.push(1, 0, &large);
        assert!(batch.is_full());
        assert_eq!(batch.payload(0), large);

        let mut batch = Batch::new();
        batch.push(1, 0, b"small");
        assert!(!batch.fits(large.len()));
        assert!(batch.fits(BATCH_SIZE_BYTES_MAX - 5));
        assert!(!batch.fits(BATCH_SIZE_BYTES_MAX - 4));
    }

    #[test]
    fn empty_payloads_keep_their_place() {
        let mut batch = Batch::new();
        for (index, payload) in [b"".as_slice(), b"a", b"", b"bc", b""].iter().enumerate() {
            batch.push(index as u64, 10 + index as u64, payload);
        }
        let seen: Vec<_> = batch
            .iter()
            .map(|(index, _, payload)| (index, payload))
            .collect();
        assert_eq!(
            seen,
            [
                (0, b"".as_slice()),
                (1, b"a"),
                (2, b""),
                (3, b"bc"),
                (4, b"")
            ]
        );
    }
}
