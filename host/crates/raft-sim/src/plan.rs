//! What one seed does: sizes, settings and the rate of every fault, drawn once. Every rate may be
//! zero, so that each seed mixes other faults (swarm testing).

use crate::random::Random;
use kontiki_raft::Settings;
use std::time::Duration;

/// What is proven by a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Faults that Raft must survive.
    #[default]
    Usual,
    /// Clocks beyond the drift bound, under leases: the judge must find a violation.
    BeyondDrift,
    /// No fault at all: the coverage gate must refuse such a run.
    Calm,
}

impl Mode {
    /// As it is called on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Usual => "usual",
            Self::BeyondDrift => "beyond-drift",
            Self::Calm => "calm",
        }
    }
}

/// How a crash treats writes that are not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// All are lost.
    All,
    /// A random suffix is lost.
    Suffix,
    /// None is lost: the process died, not the machine.
    Nothing,
}

/// Kinds of faults and orders that strike at random moments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(usize)]
pub enum Strike {
    /// A node dies; it comes back later.
    Crash,
    /// The leader dies.
    CrashLeader,
    /// All nodes lose power at once.
    PowerCut,
    /// A node stands still, its clock does not.
    Pause,
    /// The leader stands still.
    PauseLeader,
    /// Two sides that cannot talk.
    Partition,
    /// The leader alone on its side.
    IsolateLeader,
    /// Some links are cut in one direction only.
    OneWay,
    /// A link that goes up and down.
    Flap,
    /// Two halves that share one node.
    Bridge,
    /// All links are whole again.
    Heal,
    /// A disk stands still.
    DiskStall,
    /// A disk's next write fails.
    DiskFail,
    /// A clock runs at another rate.
    ClockRate,
    /// The membership changes.
    Change,
    /// Leadership is handed over.
    Transfer,
    /// An election is ordered.
    Campaign,
    /// A node enters or leaves read-only mode.
    ReadOnly,
    /// Timers are changed.
    Timeouts,
    /// Priorities are changed.
    Priority,
    /// A node is drained, or may lead again.
    Drain,
    /// A node's disk is destroyed; it never comes back under its id.
    Wipe,
    /// A node is shut down in order and comes back later.
    Shutdown,
    /// A state machine fails; the node is restarted.
    ApplyFail,
    /// A node is told that a peer is unreachable.
    Unreachable,
    /// A state machine becomes slow, or fast again.
    SlowApply,
    /// A message of long ago arrives.
    Ghost,
}

/// All strikes.
pub const STRIKES: [Strike; 27] = [
    Strike::Crash,
    Strike::CrashLeader,
    Strike::PowerCut,
    Strike::Pause,
    Strike::PauseLeader,
    Strike::Partition,
    Strike::IsolateLeader,
    Strike::OneWay,
    Strike::Flap,
    Strike::Bridge,
    Strike::Heal,
    Strike::DiskStall,
    Strike::DiskFail,
    Strike::ClockRate,
    Strike::Change,
    Strike::Transfer,
    Strike::Campaign,
    Strike::ReadOnly,
    Strike::Timeouts,
    Strike::Priority,
    Strike::Drain,
    Strike::Wipe,
    Strike::Shutdown,
    Strike::ApplyFail,
    Strike::Unreachable,
    Strike::SlowApply,
    Strike::Ghost,
];

/// Everything drawn for one seed. Durations are in microseconds, rates in parts per million.
#[derive(Clone, Debug)]
#[allow(
    missing_docs,
    reason = "the names are the drawn quantities; their units are stated above"
)]
pub struct Plan {
    pub mode: Mode,
    pub voters: usize,
    pub spares: usize,
    pub settings: Settings,
    /// Slowest and fastest clock, per mille.
    pub clock_rates: (u64, u64),
    pub clock_resets: bool,
    pub latency_us: (u64, u64),
    pub latency_tail_ppm: u32,
    pub latency_tail_us: u64,
    pub loss_ppm: u32,
    pub duplicate_ppm: u32,
    pub in_order: bool,
    pub disk_us: (u64, u64),
    pub disk_tail_ppm: u32,
    pub completion_lost_ppm: u32,
    pub completion_delay_us: u64,
    /// Every write is acknowledged, not only the last of a sync.
    pub completion_each: bool,
    pub disk_fail_ppm: u32,
    pub read_fail_ppm: u32,
    pub loss: Loss,
    pub crash_at_persist_ppm: u32,
    /// Of the moments before and after a snapshot is published, and of compactions.
    pub crash_at_snapshot_ppm: u32,
    pub strike_every_us: u64,
    pub weights: [u32; STRIKES.len()],
    pub fault_us: u64,
    pub apply_us: (u64, u64),
    pub snapshot_every: u64,
    pub snapshot_us: u64,
    pub fetch_us: u64,
    pub fetch_fail_ppm: u32,
    pub tail_max: usize,
    pub clients: usize,
    pub batch_max: u64,
    pub think_us: u64,
    pub patience_us: u64,
    pub read_ppm: u32,
    pub lease_read_ppm: u32,
    pub stray_ppm: u32,
    pub expected_term_ppm: u32,
    pub payload_max: u64,
    /// Of the switches of read-only mode, how many switch it on.
    pub read_only_ppm: u32,
    /// At the end of the faults the majority dies for good and a survivor's membership is forced.
    pub lose_majority: bool,
    /// Nodes have priorities of their own from the start.
    pub ranked: bool,
}

impl Plan {
    /// Draws a plan.
    #[must_use]
    pub fn draw(random: &mut Random, mode: Mode) -> Self {
        let timeout_us = random.pick(&[50_000, 150_000, 300_000, 1_000_000]);
        let (drift_us, clock_rates) = draw_clocks(random, mode, timeout_us);
        let settings = draw_settings(random, timeout_us, drift_us);
        let fast = timeout_us / 500;
        let mut plan = Self {
            mode,
            voters: random.pick(&[1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 5, 6, 7]),
            spares: random.pick(&[0, 1, 1, 2, 3]),
            clock_rates,
            clock_resets: random.chance(500_000),
            latency_us: (
                1 + random.below(fast / 2 + 1),
                fast + random.below(fast * 6),
            ),
            latency_tail_ppm: random.swarm(60_000),
            latency_tail_us: timeout_us * random.between(1, 3) / 2,
            loss_ppm: random.swarm(150_000),
            duplicate_ppm: random.swarm(150_000),
            in_order: random.chance(400_000),
            disk_us: (1 + random.below(fast), fast + random.below(fast * 8)),
            disk_tail_ppm: random.swarm(20_000),
            completion_lost_ppm: random.swarm(60_000),
            completion_delay_us: random.pick(&[0, 0, fast, fast * 20]),
            completion_each: random.chance(300_000),
            disk_fail_ppm: random.swarm(1_000),
            read_fail_ppm: random.swarm(10_000),
            loss: random.pick(&[Loss::All, Loss::Suffix, Loss::Suffix, Loss::Nothing]),
            crash_at_persist_ppm: random.swarm(4_000),
            crash_at_snapshot_ppm: random.swarm(100_000),
            strike_every_us: timeout_us * random.between(2, 20) / 8,
            weights: core::array::from_fn(|_| random.pick(&[0, 0, 1, 2, 4])),
            fault_us: timeout_us * random.between(1, 6),
            apply_us: (0, random.pick(&[0, fast, fast * 10])),
            snapshot_every: random.pick(&[7, 20, 60, 250, 1_000_000]),
            snapshot_us: random.below(timeout_us / 2) + 1,
            fetch_us: random.below(timeout_us * 2) + 1,
            fetch_fail_ppm: random.swarm(500_000),
            tail_max: random.pick(&[0, 3, 50, 100_000]),
            clients: random.pick(&[1, 2, 4, 8]),
            batch_max: random.pick(&[1, 1, 4, 16]),
            think_us: timeout_us / random.pick(&[2, 8, 30]),
            patience_us: timeout_us * random.between(1, 4),
            read_ppm: random.pick(&[0, 100_000, 300_000, 700_000]),
            lease_read_ppm: random.pick(&[0, 300_000, 1_000_000]),
            stray_ppm: random.pick(&[20_000, 150_000, 500_000]),
            expected_term_ppm: random.pick(&[0, 100_000]),
            payload_max: random.pick(&[16, 64, 700]),
            read_only_ppm: random.pick(&[200_000, 400_000, 700_000]),
            lose_majority: random.chance(60_000),
            ranked: random.chance(400_000),
            settings,
        };
        plan.weights[Strike::Heal as usize] = random.pick(&[1, 3, 8]);
        match random.below(8) {
            0 | 1 => plan.make_stormy(random),
            2 => plan.make_sluggish(random),
            _ => {}
        }
        plan.apply_mode();
        plan
    }

    /// Leaders change all the time, and messages arrive long after their term is over.
    fn make_stormy(&mut self, random: &mut Random) {
        let timeout_us = self.settings.election_timeout.as_micros() as u64;
        self.voters = self.voters.clamp(3, 5);
        self.strike_every_us = timeout_us / random.between(2, 6);
        self.fault_us = timeout_us * 2;
        self.latency_tail_ppm = random.pick(&[50_000, 200_000]);
        self.latency_tail_us = timeout_us * random.between(2, 8);
        self.in_order = false;
        self.think_us = timeout_us / 30;
        self.stray_ppm = 300_000;
        self.read_ppm = self.read_ppm.max(200_000);
        for (strike, weight) in [
            (Strike::Campaign, 4),
            (Strike::Transfer, 4),
            (Strike::IsolateLeader, 4),
            (Strike::PauseLeader, 2),
            (Strike::OneWay, 2),
            (Strike::Crash, 4),
            (Strike::Heal, 8),
        ] {
            self.weights[strike as usize] = weight;
        }
    }

    /// Disks take as long as elections, and say so late: many writes are under way at once.
    fn make_sluggish(&mut self, random: &mut Random) {
        let timeout_us = self.settings.election_timeout.as_micros() as u64;
        self.make_stormy(random);
        self.disk_us = (1, timeout_us * random.between(1, 4) / 4);
        self.completion_each = true;
        self.completion_delay_us = timeout_us;
        self.settings.disk_stall_timeout = Duration::ZERO;
    }

    fn apply_mode(&mut self) {
        match self.mode {
            Mode::Usual => {}
            Mode::BeyondDrift => {
                self.settings.leader_lease = true;
                self.voters = self.voters.max(3);
                self.read_ppm = 500_000;
                self.lease_read_ppm = 1_000_000;
                self.weights = [0; STRIKES.len()];
                self.weights[Strike::IsolateLeader as usize] = 3;
                self.weights[Strike::ClockRate as usize] = 2;
                self.weights[Strike::Heal as usize] = 3;
                self.lose_majority = false;
            }
            Mode::Calm => self.switch_off_faults(),
        }
    }

    /// Every rate to zero; what is a little slow stays so.
    pub fn switch_off_faults(&mut self) {
        let rates = [
            &mut self.latency_tail_ppm,
            &mut self.loss_ppm,
            &mut self.duplicate_ppm,
            &mut self.disk_tail_ppm,
            &mut self.completion_lost_ppm,
            &mut self.disk_fail_ppm,
            &mut self.read_fail_ppm,
            &mut self.crash_at_persist_ppm,
            &mut self.crash_at_snapshot_ppm,
            &mut self.fetch_fail_ppm,
        ];
        for rate in rates {
            *rate = 0;
        }
        self.weights = [0; STRIKES.len()];
        self.lose_majority = false;
        // A disk that takes longer than an election is a fault too: nobody could be elected.
        let quick = self.settings.election_timeout.as_micros() as u64 / 20;
        self.disk_us = (self.disk_us.0.min(quick), self.disk_us.1.min(quick));
        self.completion_delay_us = self.completion_delay_us.min(quick);
    }
}

/// Within the bound a leader's lease of one election timeout on the slowest clock is over before a
/// follower's of timeout plus drift on the fastest.
fn draw_clocks(random: &mut Random, mode: Mode, timeout_us: u64) -> (u64, (u64, u64)) {
    if mode == Mode::BeyondDrift {
        return (timeout_us / 20, (500, 2_000));
    }
    let drift_us = timeout_us * random.pick(&[1, 3, 10, 20]) / 10;
    // Slowest 1,000 per mille against fastest below 1,000 * (1 + drift / timeout).
    let spread = 1_000 * drift_us / timeout_us;
    let used = random.pick(&[0, spread / 4, spread * 9 / 10]);
    (drift_us, (1_000, 1_000 + used))
}

fn draw_settings(random: &mut Random, timeout_us: u64, drift_us: u64) -> Settings {
    // The backlog must hold the largest entry; a small one is full after a few.
    let (entry_size_bytes_max, backlog) = random.pick(&[
        (512, 1 << 10),
        (512, 4 << 20),
        (4 << 20, 4 << 20),
        (4 << 20, 64 << 20),
    ]);
    Settings {
        election_timeout: Duration::from_micros(timeout_us),
        election_spread_max: Duration::from_micros(timeout_us),
        heartbeat_factor: random.pick(&[3, 5, 10]),
        max_clock_drift: Duration::from_micros(drift_us),
        leader_lease: random.chance(500_000),
        append_entries_max: random.pick(&[1, 3, 64, 1_024]),
        append_size_bytes_max: random.pick(&[1 << 10, 8 << 10, 512 << 10]),
        inflight_messages_max: random.pick(&[1, 2, 16, 256]),
        inflight_size_bytes_max: random.pick(&[1 << 10, 16 << 10, 8 << 20]),
        entry_size_bytes_max,
        uncommitted_size_bytes_max: backlog,
        apply_inflight_entries_max: random.pick(&[1, 8, 4_096]),
        cache_size_bytes_max: random.pick(&[0, 2 << 10, 64 << 10, 16 << 20]),
        catch_up_margin_entries: random.pick(&[0, 5, 100]),
        catch_up_timeout: Duration::from_micros(timeout_us * random.between(2, 10)),
        disk_stall_timeout: Duration::from_micros(timeout_us * random.pick(&[0, 1, 3, 10])),
        retry_interval: Duration::from_micros(timeout_us / random.between(1, 5)),
        step_down_on_vote_timeout: random.chance(800_000),
        priority_takeover: random.chance(800_000),
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_has_settings_in_range_and_clocks_within_the_bound() {
        for seed in 0..500 {
            let plan = Plan::draw(&mut Random::new(seed), Mode::Usual);
            plan.settings.check().unwrap();
            let (slow, fast) = plan.clock_rates;
            let timeout = plan.settings.election_timeout.as_micros() as u64;
            let refusal = timeout + plan.settings.max_clock_drift.as_micros() as u64;
            assert!(timeout * fast <= refusal * slow, "seed {seed}");
        }
    }

    #[test]
    fn every_fault_is_off_in_some_plan_and_on_in_another() {
        let plans: Vec<Plan> = (0..200)
            .map(|seed| Plan::draw(&mut Random::new(seed), Mode::Usual))
            .collect();
        for strike in STRIKES {
            if strike != Strike::Heal {
                assert!(plans.iter().any(|p| p.weights[strike as usize] == 0));
            }
            assert!(plans.iter().any(|p| p.weights[strike as usize] > 0));
        }
        assert!(plans.iter().any(|p| p.loss_ppm == 0) && plans.iter().any(|p| p.loss_ppm > 0));
    }

    #[test]
    fn strikes_are_numbered_in_order() {
        assert!(
            STRIKES
                .iter()
                .enumerate()
                .all(|(n, strike)| *strike as usize == n)
        );
    }
}
