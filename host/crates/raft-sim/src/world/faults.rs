//! Strikes: faults and orders at random moments.

use super::{Happening, SLOTS, World, numbers};
use crate::members::Set;
use crate::oracle::Check;
use crate::plan::{STRIKES, Strike};
use kontiki_raft::Input;

/// Disks that may be destroyed in one run.
const WIPES_MAX: usize = 4;

impl World {
    pub(super) fn strike(&mut self) -> Check {
        if self.calm {
            return Ok(());
        }
        let at = self.now + 1 + self.random.below(self.plan.strike_every_us * 2);
        self.queue.push(at, Happening::Strike);
        let strike = self.draw_strike();
        self.trace.note(self.now, strike as u64 + 100);
        let now = self.now;
        self.trace
            .line(|| format!("{} strike: {strike:?}", crate::trace::At(now)));
        self.carry_out_strike(strike)
    }

    fn draw_strike(&mut self) -> Strike {
        let total: u32 = self.plan.weights.iter().sum();
        let mut left = self.random.below(u64::from(total)) as u32;
        for (strike, weight) in STRIKES.iter().zip(self.plan.weights) {
            if left < weight {
                return *strike;
            }
            left -= weight;
        }
        Strike::Heal
    }

    fn carry_out_strike(&mut self, strike: Strike) -> Check {
        match strike {
            Strike::Crash => self.kill(|world| world.any_up()),
            Strike::CrashLeader => self.kill(|world| world.leader()),
            Strike::PowerCut => self.cut_power(),
            Strike::Pause => {
                if let Some(n) = self.any_up() {
                    self.pause(n);
                }
                Ok(())
            }
            Strike::PauseLeader => {
                if let Some(n) = self.leader() {
                    self.pause(n);
                }
                Ok(())
            }
            Strike::Partition
            | Strike::IsolateLeader
            | Strike::OneWay
            | Strike::Flap
            | Strike::Bridge
            | Strike::Heal => {
                self.strike_network(strike);
                Ok(())
            }
            Strike::DiskStall | Strike::DiskFail | Strike::ClockRate | Strike::SlowApply => {
                self.strike_machine(strike);
                Ok(())
            }
            Strike::Change => self.order_change(),
            Strike::Transfer => self.order_transfer(),
            Strike::Campaign => self.order_campaign(),
            Strike::Timeouts => self.order_timeouts(),
            Strike::Wipe => self.wipe(),
            Strike::Ghost => self.strike_ghost(),
            Strike::ReadOnly
            | Strike::Priority
            | Strike::Drain
            | Strike::Shutdown
            | Strike::ApplyFail
            | Strike::Unreachable => self.strike_replica(strike),
        }
    }

    fn any_up(&mut self) -> Option<usize> {
        let up = (0..self.nodes.len()).filter(|n| self.nodes[*n].is_up());
        let up = up.fold(0u32, |mask, n| mask | 1 << n);
        (up != 0).then(|| self.random.bit(up))
    }

    /// The node that leads in the highest term.
    pub(super) fn leader(&self) -> Option<usize> {
        let leaders = (0..self.nodes.len()).filter(|n| self.oracle.view(*n).leads());
        leaders.max_by_key(|n| self.oracle.view(*n).term)
    }

    fn kill(&mut self, choose: impl FnOnce(&mut Self) -> Option<usize>) -> Check {
        let Some(n) = choose(self) else {
            return Ok(());
        };
        self.counters.crashes += 1;
        self.crash(n)?;
        self.restart_later(n);
        Ok(())
    }

    fn cut_power(&mut self) -> Check {
        self.counters.power_cuts += 1;
        for n in 0..self.nodes.len() {
            self.crash(n)?;
            self.restart_later(n);
        }
        Ok(())
    }

    fn strike_network(&mut self, strike: Strike) {
        let all = (1u32 << self.nodes.len()) - 1;
        let (a, b) = (
            self.random.position(self.nodes.len()),
            self.random.position(self.nodes.len()),
        );
        match strike {
            Strike::Partition => {
                self.counters.partitions += 1;
                let side = self.random.word() as u32 & all;
                self.network.split(side, all & !side);
            }
            Strike::Bridge => {
                self.counters.partitions += 1;
                let side = self.random.word() as u32 & all;
                self.network.split(side | 1 << a, (all & !side) | 1 << a);
            }
            Strike::IsolateLeader => {
                let Some(leader) = self.leader() else { return };
                self.counters.partitions += 1;
                self.network.split(1 << leader, all & !(1 << leader));
            }
            Strike::OneWay => {
                self.counters.one_way_cuts += 1;
                self.network.set_cut(a, b, true);
                if self.random.chance(300_000) {
                    // Everything towards one node, or everything from it.
                    let inward = self.random.chance(500_000);
                    for other in numbers(all & !(1 << a)) {
                        let (from, to) = if inward { (other, a) } else { (a, other) };
                        self.network.set_cut(from, to, true);
                    }
                }
            }
            Strike::Flap => {
                self.counters.flaps += 1;
                self.flap(a, b, 8);
            }
            _ => self.network.heal(),
        }
        if strike != Strike::Heal && self.random.chance(300_000) {
            let at = self.now + 1 + self.random.below(self.plan.fault_us);
            self.queue.push(at, Happening::Mend);
        }
    }

    pub(super) fn flap(&mut self, a: usize, b: usize, left: u32) {
        if self.calm {
            return;
        }
        let cut = left.is_multiple_of(2) && left > 0;
        self.network.set_cut(a, b, cut);
        self.network.set_cut(b, a, cut);
        if left > 0 {
            let at = self.now + 1 + self.random.below(self.plan.fault_us / 4);
            self.queue.push(
                at,
                Happening::Flap {
                    a,
                    b,
                    left: left - 1,
                },
            );
        }
    }

    fn strike_machine(&mut self, strike: Strike) {
        let n = self.random.position(self.nodes.len());
        let until = self.now + self.random.below(self.plan.fault_us);
        let (slow, fast) = self.plan.clock_rates;
        let rate = self.random.between(slow, fast);
        let node = &mut self.nodes[n];
        match strike {
            Strike::DiskStall => {
                self.counters.disk_stalls += 1;
                node.stalled_until = until;
            }
            Strike::DiskFail => node.fail_next_write = node.is_up(),
            Strike::SlowApply => node.apply_slow = !node.apply_slow,
            _ => {
                self.counters.clock_changes += 1;
                node.clock.set_rate(self.now, rate);
                let deadline = node
                    .core
                    .as_ref()
                    .and_then(kontiki_raft::Core::next_deadline);
                if !node.paused {
                    self.wakes[n] =
                        deadline.map_or(u64::MAX, |at| node.clock.when(at.0).max(self.now));
                }
            }
        }
    }

    fn strike_replica(&mut self, strike: Strike) -> Check {
        let well = self.well();
        if well == 0 {
            return Ok(());
        }
        let n = self.random.bit(well);
        match strike {
            Strike::ReadOnly => {
                self.counters.read_only_switches += 1;
                let read_only = self.random.chance(self.plan.read_only_ppm);
                self.oracle.set_read_only(n, read_only);
                self.input(n, Input::SetReadOnly(read_only))
            }
            Strike::Priority => {
                self.counters.priorities_changed += 1;
                let priority = self.random.pick(&[0, 50, 100, 100, 200]);
                self.set_priority(n, priority)
            }
            Strike::Drain => {
                self.counters.drains += 1;
                let drained = self.random.chance(400_000);
                self.set_drained(n, drained)
            }
            Strike::Shutdown => {
                self.counters.shutdowns += 1;
                self.nodes[n].stopped = true;
                self.restart_later(n);
                self.input(n, Input::Shutdown)
            }
            Strike::ApplyFail => {
                self.nodes[n].apply_fails = true;
                Ok(())
            }
            _ => {
                self.counters.unreachable_hints += 1;
                let peer = self.random.position(self.nodes.len());
                let peer = self.nodes[peer].id;
                self.input(n, Input::PeerUnreachable { peer })
            }
        }
    }

    /// Destroys a disk, if every quorum can do without it. A new node takes its place in the
    /// rack, under a new id and as a member of nothing.
    fn wipe(&mut self) -> Check {
        let wiped = self.nodes.iter().filter(|node| node.wiped).count();
        let Some(n) = self.any_up() else {
            return Ok(());
        };
        if wiped >= WIPES_MAX || self.nodes.len() >= SLOTS || !self.may_wipe(n) {
            return Ok(());
        }
        self.destroy(n)?;
        self.nodes[n].replaced_by = Some(self.nodes.len());
        self.add_node(Set::default())
    }

    pub(super) fn destroy(&mut self, n: usize) -> Check {
        self.counters.wipes += 1;
        self.crash(n)?;
        self.nodes[n].wiped = true;
        Ok(())
    }
}
