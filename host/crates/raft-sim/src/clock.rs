//! A node's monotonic clock: its own zero, its own rate.

/// Maps simulated time to the node's own. Never goes back, also when its rate changes.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    since_us: u64,
    local_us: u64,
    /// Local microseconds per 1,000 of simulated time.
    rate_per_mille: u64,
}

impl Clock {
    /// A clock that shows `local_us` at `now_us`.
    #[must_use]
    pub fn new(now_us: u64, local_us: u64, rate_per_mille: u64) -> Self {
        assert!(
            rate_per_mille > 0,
            "a clock that stands still has no inverse"
        );
        Self {
            since_us: now_us,
            local_us,
            rate_per_mille,
        }
    }

    /// What the clock shows at `now_us`.
    #[must_use]
    pub fn local(&self, now_us: u64) -> u64 {
        self.local_us + (now_us - self.since_us) * self.rate_per_mille / 1_000
    }

    /// The first simulated microsecond at which the clock shows `local_us` or more.
    #[must_use]
    pub fn when(&self, local_us: u64) -> u64 {
        let ahead = local_us.saturating_sub(self.local_us);
        if ahead > u64::MAX / 2_000 {
            return u64::MAX;
        }
        self.since_us + (ahead * 1_000).div_ceil(self.rate_per_mille)
    }

    /// Goes on at another rate from `now_us` on.
    pub fn set_rate(&mut self, now_us: u64, rate_per_mille: u64) {
        *self = Self::new(now_us, self.local(now_us), rate_per_mille);
    }

    /// Local microseconds per 1,000 of simulated time.
    #[must_use]
    pub fn rate_per_mille(&self) -> u64 {
        self.rate_per_mille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_moment_that_shows_the_time() {
        for rate in [500, 999, 1_000, 1_001, 1_333, 2_000] {
            let clock = Clock::new(1_000, 77, rate);
            for local in [0, 77, 78, 100, 12_345, 1_000_003] {
                let at = clock.when(local);
                assert!(clock.local(at) >= local, "rate {rate}, local {local}");
                assert!(
                    at == 1_000 || clock.local(at - 1) < local,
                    "rate {rate}, local {local}"
                );
            }
        }
    }

    #[test]
    fn a_change_of_rate_does_not_jump() {
        let mut clock = Clock::new(0, 0, 1_500);
        let before = clock.local(1_000_000);
        clock.set_rate(1_000_000, 500);
        assert_eq!(clock.local(1_000_000), before);
        assert_eq!(clock.local(1_000_010), before + 5);
    }
}
