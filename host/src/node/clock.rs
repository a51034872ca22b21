//! The node's clocks.

use kontiki_raft::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Monotonic time since the clock was made. All groups of a node share one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }

    /// Now, for the core. Begins at 1 s, so that "a moment ago" exists from the start.
    pub(crate) fn now(&self) -> Instant {
        Instant(1_000_000).plus(self.start.elapsed())
    }

    /// When to wake up for `deadline`.
    pub(crate) fn to_tokio(self, deadline: Instant) -> tokio::time::Instant {
        // Rounded up: a tick a microsecond early would only cause another one.
        let since = Duration::from_micros(deadline.0.saturating_sub(1_000_000) + 1);
        tokio::time::Instant::from_std(self.start + since)
    }

    /// Time since the clock was made.
    pub(crate) fn uptime(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Wall clock in nanoseconds since the Unix epoch; zero if it stands before that.
pub(crate) fn wall_time_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// A duration in whole microseconds, as the protocol has it.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
