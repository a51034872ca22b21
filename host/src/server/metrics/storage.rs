//! The storage's part of the page.

use super::page::{Page, family, family_in};
use kontiki_storage::{SYNC_BUCKETS_US, StorageMetrics};
use prometheus_client::registry::Unit;
use std::fmt;
use std::time::Duration;

/// Writes what the storage has counted, and its size if that is known.
pub(super) fn encode(
    page: &mut Page<'_>,
    metrics: &StorageMetrics,
    size_bytes: Option<u64>,
) -> fmt::Result {
    let help = "Time of one write and sync of the log";
    let fsync = family_in(Unit::Seconds, "wal_fsync_duration", help);
    let sum = seconds(metrics.sync_duration_us);
    page.histogram(&fsync, sum, &sync_buckets(metrics))?;
    if let Some(size_bytes) = size_bytes {
        let help = "Size of the log's database on disk";
        page.gauge(&family_in(Unit::Bytes, "wal", help), size_bytes)?;
    }
    let help = "Bytes written to the log";
    page.counter(&family_in(Unit::Bytes, "wal_written", help), metrics.bytes)?;
    page.counter(
        &family("wal_entries", "Entries written to the log"),
        metrics.entries,
    )?;
    let help = "Writes of groups; several share one sync";
    page.counter(&family("wal_batches", help), metrics.batches)?;
    let help = "Writes that wait for the log's writer";
    page.gauge(&family("wal_queue_length", help), metrics.queue_length)?;
    let help = "1 if the storage takes no writes any more";
    page.gauge(&family("storage_failed", help), u64::from(metrics.failed))
}

fn sync_buckets(metrics: &StorageMetrics) -> Vec<(f64, u64)> {
    let bounds = SYNC_BUCKETS_US.iter().map(|bound| seconds(*bound));
    let bounds = bounds.chain([f64::INFINITY]);
    bounds.zip(metrics.sync_durations).collect()
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}
