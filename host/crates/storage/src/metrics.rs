//! What the writer has done so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets of the sync histogram, in microseconds; one more bucket takes the
/// rest.
pub const SYNC_BUCKETS_US: [u64; 14] = [
    50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000,
];

/// Counters since the storage was opened, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageMetrics {
    /// Synced writes to the database.
    pub syncs: u64,
    /// Requests those carried; `batches / syncs` says how well syncs are shared.
    pub batches: u64,
    /// Log entries written.
    pub entries: u64,
    /// Bytes written, keys and checksums included.
    pub bytes: u64,
    /// Syncs by duration: bucket `i` counts those of at most `SYNC_BUCKETS_US[i]` and more than the
    /// bound before; the last bucket those above all bounds.
    pub sync_durations: [u64; SYNC_BUCKETS_US.len() + 1],
    /// Sum of all sync durations, in microseconds.
    pub sync_duration_us: u64,
    /// A write has failed, and further ones are refused.
    pub failed: bool,
    /// Requests waiting for the writer.
    pub queue_length: u64,
}

/// The live counters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    syncs: AtomicU64,
    batches: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    sync_durations: [AtomicU64; SYNC_BUCKETS_US.len() + 1],
    sync_duration_us: AtomicU64,
    pub(crate) failed: AtomicBool,
    pub(crate) queue_length: AtomicU64,
}

impl Counters {
    /// One synced write was made.
    pub(crate) fn synced(&self, batches: u64, entries: u64, bytes: usize, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = SYNC_BUCKETS_US.partition_point(|bound| *bound < took_us);
        add(&self.syncs, 1);
        add(&self.batches, batches);
        add(&self.entries, entries);
        add(&self.bytes, bytes as u64);
        add(&self.sync_durations[bucket], 1);
        add(&self.sync_duration_us, took_us);
    }

    pub(crate) fn snapshot(&self) -> StorageMetrics {
        StorageMetrics {
            syncs: get(&self.syncs),
            batches: get(&self.batches),
            entries: get(&self.entries),
            bytes: get(&self.bytes),
            sync_durations: self.sync_durations.each_ref().map(get),
            sync_duration_us: get(&self.sync_duration_us),
            failed: self.failed.load(Ordering::Relaxed),
            queue_length: get(&self.queue_length),
        }
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}
