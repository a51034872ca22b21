//! Settings of one replica.

use core::time::Duration;

/// Settings of one replica. braft's counterpart stands in brackets.
///
/// All of them may change while the replica runs, on one member or on all, in any order:
/// - `election_timeout`, `election_spread_max` and `heartbeat_factor` start all timers anew;
/// - `leader_lease`, `max_clock_drift` and `election_timeout` govern what is promised from the next
///   message of the leader on; what was promised before is kept (`lease.rs`);
/// - limits and windows hold for what is sent, taken or handed over next: what is under way beyond
///   a smaller one is not called back, and nothing follows until it is below;
/// - `catch_up_timeout` and `retry_interval` hold for waits that begin later;
/// - the rest is looked at when it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Silence after which a follower campaigns (`election_timeout_ms`). The actual wait is this
    /// plus a random part of up to `election_spread_max`. 20 ms to 10 min; default 1 s.
    pub election_timeout: Duration,
    /// Upper bound of the random part (`raft_max_election_delay_ms`); the part itself is below
    /// `min(election_timeout, election_spread_max)`. At least 1 ms: without a random part votes
    /// would split for ever. Default 1 s.
    pub election_spread_max: Duration,
    /// Heartbeats per election timeout (`raft_election_heartbeat_factor`). 2 to 100; default 10.
    pub heartbeat_factor: u32,
    /// Added to a follower's lease for clocks that differ in rate (`max_clock_drift_ms`): no less
    /// than any two clocks of the group may differ by within `election_timeout`. At most 10 min;
    /// default 1 s.
    pub max_clock_drift: Duration,
    /// Promise and use leader leases (`raft_enable_leader_lease`). Default off. A leader counts on
    /// what each member promised, so members may differ in this and in the timers.
    pub leader_lease: bool,
    /// Election priority: 0 never campaigns of its own accord, higher is preferred. Default 100.
    pub priority: u32,
    /// A leader hands over to a voter of higher priority that keeps up (MongoDB's priority takeover).
    /// Equal priorities never move leadership. Default on.
    pub priority_takeover: bool,
    /// Entries in one `AppendEntries` (`raft_max_entries_size`). 1 to 65,536; default 1,024.
    pub append_entries_max: usize,
    /// Payload bytes in one `AppendEntries` (`raft_max_body_size`). Default 512 KiB.
    pub append_size_bytes_max: usize,
    /// `AppendEntries` in flight to one follower. 1 to 4,096; default 256.
    pub inflight_messages_max: usize,
    /// Bytes in flight to one follower. Default 8 MiB.
    pub inflight_size_bytes_max: usize,
    /// Largest entry payload accepted. Default 4 MiB.
    pub entry_size_bytes_max: usize,
    /// Bytes appended but not committed before proposals are refused as busy. Default 64 MiB.
    pub uncommitted_size_bytes_max: usize,
    /// Entries handed to the state machine but not reported applied. Default 4,096.
    pub apply_inflight_entries_max: usize,
    /// Bytes of recent entries kept in memory for followers and apply. Entries that are not durable
    /// are kept whatever the size. Default 16 MiB.
    pub cache_size_bytes_max: usize,
    /// A new member counts as caught up within this many entries (`catchup_margin`). Default 1,000.
    pub catch_up_margin_entries: u64,
    /// Time a new member has to catch up while it answers (`catchup_timeout_ms`). Default 60 s.
    pub catch_up_timeout: Duration,
    /// A leader whose own write takes longer gives up leadership. Zero: never. Default 10 s.
    pub disk_stall_timeout: Duration,
    /// Wait before an unanswered probe or snapshot offer is repeated
    /// (`raft_retry_replicate_interval_ms`). At least 1 ms; default 1 s. Where it exceeds the
    /// election timeout, that counts.
    pub retry_interval: Duration,
    /// Give up a vote that did not finish and pre-vote again (`raft_step_down_when_vote_timedout`).
    /// Default on. Off, as in braft, a candidate that is neither elected nor out-voted begins the
    /// next vote without asking first, in a higher term each time: one that is cut off from most
    /// members raises its term for ever, and disturbs those that hear it. Bound by a lease it waits.
    pub step_down_on_vote_timeout: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            election_timeout: Duration::from_millis(1_000),
            election_spread_max: Duration::from_millis(1_000),
            heartbeat_factor: 10,
            max_clock_drift: Duration::from_millis(1_000),
            leader_lease: false,
            priority: 100,
            priority_takeover: true,
            append_entries_max: 1_024,
            append_size_bytes_max: 512 << 10,
            inflight_messages_max: 256,
            inflight_size_bytes_max: 8 << 20,
            entry_size_bytes_max: 4 << 20,
            uncommitted_size_bytes_max: 64 << 20,
            apply_inflight_entries_max: 4_096,
            cache_size_bytes_max: 16 << 20,
            catch_up_margin_entries: 1_000,
            catch_up_timeout: Duration::from_secs(60),
            disk_stall_timeout: Duration::from_secs(10),
            retry_interval: Duration::from_millis(1_000),
            step_down_on_vote_timeout: true,
        }
    }
}

/// A setting outside its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is outside its range: {range}")]
pub struct SettingsError {
    /// Which.
    pub name: &'static str,
    /// Its range, in words.
    pub range: &'static str,
}

/// The sum is kept, and the timeout alone would exceed it.
const BEYOND_SUM: SettingsError = SettingsError {
    name: "election_timeout",
    range: "at most the sum of election_timeout and max_clock_drift, which stays as it is \
            unless max_clock_drift is given too",
};

impl Settings {
    /// The retry interval in force: never longer than the election timeout.
    pub(crate) fn retry(&self) -> Duration {
        self.retry_interval.min(self.election_timeout)
    }

    /// These settings with other timers (braft's `reset_election_timeout_ms`). With only the
    /// election timeout given, the sum of election timeout and clock drift stays as it is.
    ///
    /// # Errors
    /// Names the timer that would be outside its range.
    pub fn with_timeouts(
        &self,
        election_timeout: Duration,
        max_clock_drift: Option<Duration>,
    ) -> Result<Self, SettingsError> {
        let sum = self.election_timeout + self.max_clock_drift;
        let drift = max_clock_drift.or_else(|| sum.checked_sub(election_timeout));
        let changed = Self {
            election_timeout,
            max_clock_drift: drift.ok_or(BEYOND_SUM)?,
            ..self.clone()
        };
        changed.check().map(|()| changed)
    }

    /// Checks every range.
    ///
    /// # Errors
    /// Names the first setting that is outside its range.
    pub fn check(&self) -> Result<(), SettingsError> {
        let timeout_ms = self.election_timeout.as_millis();
        let checks = [
            (
                "election_timeout",
                "20 ms to 10 min",
                (20..=600_000).contains(&timeout_ms),
            ),
            (
                "election_spread_max",
                "at least 1 ms",
                self.election_spread_max >= Duration::from_millis(1),
            ),
            (
                "max_clock_drift",
                "at most 10 min",
                self.max_clock_drift <= Duration::from_secs(600),
            ),
            (
                "retry_interval",
                "at least 1 ms",
                self.retry_interval >= Duration::from_millis(1),
            ),
            (
                "heartbeat_factor",
                "2 to 100",
                (2..=100).contains(&self.heartbeat_factor),
            ),
            (
                "append_entries_max",
                "1 to 65536",
                (1..=65_536).contains(&self.append_entries_max),
            ),
            (
                "append_size_bytes_max",
                "at least 1 KiB",
                self.append_size_bytes_max >= 1 << 10,
            ),
            (
                "inflight_messages_max",
                "1 to 4096",
                (1..=4_096).contains(&self.inflight_messages_max),
            ),
            (
                "inflight_size_bytes_max",
                "at least 1 KiB",
                self.inflight_size_bytes_max >= 1 << 10,
            ),
            (
                "entry_size_bytes_max",
                "1 B to 64 MiB",
                (1..=64 << 20).contains(&self.entry_size_bytes_max),
            ),
            (
                "uncommitted_size_bytes_max",
                "at least entry_size_bytes_max",
                self.uncommitted_size_bytes_max >= self.entry_size_bytes_max,
            ),
            (
                "apply_inflight_entries_max",
                "at least 1",
                self.apply_inflight_entries_max >= 1,
            ),
        ];
        match checks.into_iter().find(|(_, _, ok)| !ok) {
            Some((name, range, _)) => Err(SettingsError { name, range }),
            None => Ok(()),
        }
    }
}
