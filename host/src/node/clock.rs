//! The node's clocks.

use kontiki_raft::Instant;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Monotonic time since the clock was made. All groups of a node share one.
///
/// It goes on while the machine is suspended. A leader that slept must not believe in a lease, nor a
/// follower in a state, of before; the clock of [`std::time::Instant`] stands still meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    /// When it was made, on the machine's clock.
    start: Duration,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: machine_time(),
        }
    }

    /// Now, for the core. Begins at 1 s, so that "a moment ago" exists from the start.
    pub(crate) fn now(&self) -> Instant {
        Instant(1_000_000).plus(self.uptime())
    }

    /// When to wake up for `deadline`. Timers do not count what the machine slept: after a sleep
    /// they are late by what was left, and nothing relies on their being in time.
    pub(crate) fn to_tokio(self, deadline: Instant) -> tokio::time::Instant {
        // Rounded up: a tick a microsecond early would only cause another one.
        let left = deadline.since(self.now()) + Duration::from_micros(1);
        tokio::time::Instant::now() + left
    }

    /// Time since the clock was made.
    pub(crate) fn uptime(&self) -> Duration {
        machine_time().saturating_sub(self.start)
    }
}

/// Time since the machine was started, sleep included.
fn machine_time() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    // Elsewhere this clock counts sleep, or there is no better one.
    #[cfg(not(target_os = "linux"))]
    let clock = nix::time::ClockId::CLOCK_MONOTONIC;
    clock.now().expect("every kernel we run on has it").into()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_goes_on_and_wakes_at_its_deadlines() {
        let clock = Clock::new();
        let start = clock.now();
        assert!(start >= Instant(1_000_000));
        let deadline = start.plus(Duration::from_secs(60));
        let wake = clock.to_tokio(deadline) - tokio::time::Instant::now();
        assert!((30..=60).contains(&wake.as_secs()), "{wake:?}");
        assert!(clock.now() >= start);
        let passed = start.plus(Duration::ZERO);
        assert!(clock.to_tokio(passed) <= tokio::time::Instant::now() + Duration::from_millis(1));
    }
}
