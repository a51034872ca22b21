//! How many commands of a load are acknowledged.

use anyhow::{Result, ensure};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts for every client of a load.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acknowledged(Arc<AtomicU64>);

impl Acknowledged {
    /// One more.
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// So far.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until there are `count` more, and says how long that took.
    ///
    /// # Errors
    /// If it takes longer than `limit`.
    pub(crate) async fn wait_for(&self, count: u64, limit: Duration) -> Result<Duration> {
        let (begin, goal) = (Instant::now(), self.count() + count);
        while self.count() < goal {
            let done = self.count();
            ensure!(
                begin.elapsed() < limit,
                "{done} of {goal} commands in {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(begin.elapsed())
    }
}
