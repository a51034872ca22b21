//! How much processor time threads used. Never seen by a simulated run.

use std::ops::{AddAssign, Sub};

/// What a thread, or several, used of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Effort {
    /// Seconds on a processor.
    pub cpu_seconds: f64,
    /// Seconds in which it could have run, but others did.
    pub waited_seconds: f64,
}

impl Effort {
    /// What this thread used so far; zero where the system does not say.
    #[must_use]
    pub fn of_this_thread() -> Self {
        // Nanoseconds on a processor, nanoseconds in the run queue, time slices (Linux).
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut seconds = text
            .split_whitespace()
            .map(|field| field.parse::<f64>().map_or(0.0, |ns| ns / 1e9));
        let mut next = || seconds.next().unwrap_or_default();
        Self {
            cpu_seconds: next(),
            waited_seconds: next(),
        }
    }

    /// Millions of steps per processor minute.
    #[must_use]
    pub fn rate(&self, steps: u64) -> f64 {
        steps as f64 / 1e6 / (self.cpu_seconds / 60.0).max(1e-6)
    }

    /// Whether it had a processor for most of the time it wanted one. Processor time counts what is
    /// used, but whoever shares a processor shares its caches too.
    #[must_use]
    pub fn was_undisturbed(&self) -> bool {
        self.waited_seconds < self.cpu_seconds
    }
}

impl AddAssign for Effort {
    fn add_assign(&mut self, other: Self) {
        self.cpu_seconds += other.cpu_seconds;
        self.waited_seconds += other.waited_seconds;
    }
}

impl Sub for Effort {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - other.cpu_seconds,
            waited_seconds: self.waited_seconds - other.waited_seconds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_steps_per_minute_of_processor_time() {
        let effort = Effort {
            cpu_seconds: 30.0,
            waited_seconds: 31.0,
        };
        assert!((effort.rate(5_000_000) - 10.0).abs() < 1e-9);
        assert!(!effort.was_undisturbed());
    }
}
