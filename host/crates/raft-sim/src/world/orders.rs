//! What operators ask for: membership, transfers, elections, settings.

use super::{World, numbers, slots_of};
use crate::members::{Members, Set, bit};
use crate::oracle::{Answer, Ask, Check};
use crate::require;
use kontiki_raft::{
    ConfigurationChange, Input, MemberSet, NodeId, RejectReason, Settings, Token, TransferTarget,
};
use std::time::Duration;

const OPERATOR: usize = usize::MAX;

/// An order that is not answered yet.
#[derive(Clone, Debug)]
pub(super) enum Order {
    Change {
        change: ConfigurationChange,
        /// The members afterwards.
        target: Set,
        /// It named members the group does not have, so it must be refused.
        must_fail: bool,
    },
    Cancel,
    Transfer,
    Campaign,
    Timeouts,
    Settings,
    Reset,
}

impl World {
    /// Ids of the nodes whose disks are whole.
    pub(super) fn living(&self) -> u32 {
        let nodes = self.nodes.iter().filter(|node| !node.wiped);
        nodes.fold(0, |mask, node| mask | bit(node.id))
    }

    /// Whether every configuration that is or may come into force would have a quorum of `ids`.
    pub(super) fn always_quorum(&self, ids: u32) -> bool {
        let targets = self.orders.values().filter_map(|order| match order {
            Order::Change { target, .. } => Some(Members::stable(*target)),
            _ => None,
        });
        self.oracle
            .possible_members()
            .chain(targets)
            .all(|members| members.voters() == 0 || members.is_quorum(ids))
    }

    fn order(&mut self, n: usize, order: Order, input: impl FnOnce(Token) -> Input) -> Check {
        let token = self.ask(n, Ask::Order, OPERATOR);
        self.orders.insert(token, order);
        self.input(n, input(Token(token)))
    }

    /// A leader if there is one, else any node that runs.
    pub(super) fn likely_leader(&mut self) -> Option<usize> {
        let well = self.well();
        let leaders = numbers(well).filter(|n| self.oracle.view(*n).leads());
        let leader = leaders.max_by_key(|n| self.oracle.view(*n).term);
        if leader.is_some() && !self.random.chance(50_000) {
            return leader;
        }
        (well != 0).then(|| self.random.bit(well))
    }

    /// Numbers of the nodes that run and are not paused.
    pub(super) fn well(&self) -> u32 {
        let nodes = self.nodes.iter().enumerate();
        nodes
            .filter(|(_, node)| node.is_well())
            .fold(0, |mask, (n, _)| mask | 1 << n)
    }

    pub(super) fn order_change(&mut self) -> Check {
        let Some(n) = self.likely_leader() else {
            return Ok(());
        };
        let waiting = |order: &Order| matches!(order, Order::Change { .. });
        if self.orders.values().any(waiting) && self.random.chance(300_000) {
            return self.order(n, Order::Cancel, |token| Input::CancelChange { token });
        }
        let current = self.oracle.members().current;
        let Some((change, target)) = self.draw_change(current) else {
            return Ok(());
        };
        let possible = target.voters == 0 || target.is_majority(self.living());
        if !possible || (current != target && !current.is_majority(self.living())) {
            return Ok(());
        }
        let must_fail = self.random.chance(50_000);
        let expected = if must_fail {
            Some(MemberSet::of_voters([NodeId(31)]))
        } else {
            self.random.chance(300_000).then(|| current.to_member_set())
        };
        let order = Order::Change {
            change: change.clone(),
            target,
            must_fail,
        };
        self.order(n, order, |token| Input::ChangeConfiguration {
            token,
            change,
            expected,
        })
    }

    fn draw_change(&mut self, current: Set) -> Option<(ConfigurationChange, Set)> {
        let living = self.living();
        let dead = current.all() & !living;
        let outside = living & !current.voters;
        let member = if dead != 0 && self.random.chance(700_000) {
            dead
        } else {
            current.all()
        };
        match self.random.below(10) {
            0..=2 if outside != 0 && current.voters.count_ones() < 7 => {
                let new = self.random.bit(outside);
                let mask = 1 << new;
                let target = Set {
                    voters: current.voters | mask,
                    learners: current.learners & !mask,
                };
                let node = NodeId(new as u64);
                let change = if current.learners & mask == 0 {
                    ConfigurationChange::AddVoter(node)
                } else {
                    ConfigurationChange::Promote(node)
                };
                Some((change, target))
            }
            3 if living != 0 => {
                let new = self.random.bit(living);
                let mask = 1 << new;
                let target = Set {
                    voters: current.voters & !mask,
                    learners: current.learners | mask,
                };
                let node = NodeId(new as u64);
                let change = if current.voters & mask == 0 {
                    ConfigurationChange::AddLearner(node)
                } else {
                    ConfigurationChange::Demote(node)
                };
                Some((change, target))
            }
            4..=6 if member != 0 => {
                let gone = self.random.bit(member);
                let mask = !(1 << gone);
                let target = Set {
                    voters: current.voters & mask,
                    learners: current.learners & mask,
                };
                Some((ConfigurationChange::Remove(NodeId(gone as u64)), target))
            }
            _ => {
                let target = self.draw_members(living);
                let members = target.to_member_set();
                Some((ConfigurationChange::Replace(members), target))
            }
        }
    }

    fn draw_members(&mut self, living: u32) -> Set {
        let size = self.random.between(1, 5);
        let mut set = Set::default();
        for _ in 0..size {
            set.voters |= 1 << self.random.bit(living);
        }
        let rest = living & !set.voters;
        if rest != 0 && self.random.chance(300_000) {
            set.learners |= 1 << self.random.bit(rest);
        }
        set
    }

    pub(super) fn order_transfer(&mut self) -> Check {
        let Some(n) = self.likely_leader() else {
            return Ok(());
        };
        let members = self.oracle.members().all();
        let target = if members == 0 || self.random.chance(300_000) {
            TransferTarget::Best
        } else {
            TransferTarget::Node(NodeId(self.random.bit(members) as u64))
        };
        self.order(n, Order::Transfer, |token| Input::TransferLeadership {
            token,
            target,
        })
    }

    pub(super) fn order_campaign(&mut self) -> Check {
        let well = self.well();
        if well == 0 {
            return Ok(());
        }
        let n = self.random.bit(well);
        self.campaign_at(n)
    }

    pub(super) fn campaign_at(&mut self, n: usize) -> Check {
        if !self.nodes[n].is_well() {
            return Ok(());
        }
        self.counters.campaigns += 1;
        self.order(n, Order::Campaign, |token| Input::Campaign { token })
    }

    /// Changes timers on some nodes or on all, to the same or to each its own, up or down by as much
    /// as ten times, and leases on some. What an operator must keep to is kept: each node's drift
    /// covers what clocks may differ by within that node's own timeout. Nothing relates two nodes.
    pub(super) fn order_timeouts(&mut self) -> Check {
        let all = self.random.chance(500_000);
        let each_its_own = self.random.chance(500_000);
        let mut timers = self.draw_timers();
        for n in numbers(self.well()) {
            if (!all && self.random.chance(500_000)) || !self.nodes[n].is_well() {
                continue;
            }
            if each_its_own {
                timers = self.draw_timers();
            }
            self.counters.timeouts_changed += 1;
            if self.random.chance(400_000) {
                self.order_settings(n, timers)?;
            } else {
                self.order_timers(n, timers)?;
            }
        }
        Ok(())
    }

    /// An election timeout, and a drift that is enough for it.
    fn draw_timers(&mut self) -> (u64, u64) {
        let base_us = self.plan.settings.election_timeout.as_micros() as u64;
        let factor = self.random.between(1, 10);
        let timeout_us = match self.random.below(2) {
            0 => base_us * factor,
            _ => (base_us / factor).max(20_000),
        };
        let spare_us = self.random.below(base_us);
        (timeout_us, self.least_drift_us(timeout_us) + spare_us)
    }

    /// What the slowest and the fastest clock may differ by within `timeout_us`, and a little.
    fn least_drift_us(&self, timeout_us: u64) -> u64 {
        let (slow, fast) = self.plan.clock_rates;
        (timeout_us * (fast - slow)).div_ceil(slow) + 1_000
    }

    /// Both of braft's forms; with one argument the sum stays, where that leaves enough drift.
    fn order_timers(&mut self, n: usize, (timeout_us, drift_us): (u64, u64)) -> Check {
        let Some(core) = &self.nodes[n].core else {
            return Ok(());
        };
        let settings = core.settings();
        let sum_us = (settings.election_timeout + settings.max_clock_drift).as_micros() as u64;
        let keeps_sum =
            sum_us >= timeout_us + self.least_drift_us(timeout_us) && self.random.chance(500_000);
        let drift_us = (!keeps_sum).then_some(drift_us);
        self.note_timers(
            n,
            timeout_us,
            drift_us.map_or(sum_us, |drift| timeout_us + drift),
        );
        self.order(n, Order::Timeouts, |token| Input::SetTimeouts {
            token,
            election_timeout: Duration::from_micros(timeout_us),
            max_clock_drift: drift_us.map(Duration::from_micros),
        })
    }

    /// Timers and leases at once.
    fn order_settings(&mut self, n: usize, (timeout_us, drift_us): (u64, u64)) -> Check {
        let leader_lease = self.random.chance(700_000);
        self.note_timers(n, timeout_us, timeout_us + drift_us);
        self.set(n, |settings| {
            settings.election_timeout = Duration::from_micros(timeout_us);
            settings.max_clock_drift = Duration::from_micros(drift_us);
            settings.leader_lease = leader_lease;
        })
    }

    fn note_timers(&mut self, n: usize, timeout_us: u64, sum_us: u64) {
        let node = &mut self.nodes[n];
        node.timeout_us = timeout_us;
        node.promised_us = node.promised_us.max(sum_us);
    }

    /// Changes settings of a node that runs; it cannot be refused.
    pub(super) fn set(&mut self, n: usize, change: impl FnOnce(&mut Settings)) -> Check {
        let Some(core) = &self.nodes[n].core else {
            return Ok(());
        };
        let mut settings = core.settings().clone();
        change(&mut settings);
        let settings = settings.into();
        self.order(n, Order::Settings, |token| Input::SetSettings {
            token,
            settings,
        })
    }

    pub(super) fn set_priority(&mut self, n: usize, priority: u32) -> Check {
        self.nodes[n].priority = priority;
        self.set(n, |settings| settings.priority = priority)
    }

    /// Drains a node, or lets it lead again.
    pub(super) fn set_drained(&mut self, n: usize, drained: bool) -> Check {
        // Three of its shortest election timeouts, on its fastest clock.
        let timeout_us = self.plan.settings.election_timeout.as_micros() as u64;
        let shortest_us = (timeout_us / 10).max(20_000).min(timeout_us);
        let patience_us = 3 * shortest_us * 1_000 / self.plan.clock_rates.1;
        self.nodes[n].drained = drained;
        self.oracle.set_now(self.now);
        self.oracle.set_drained(n, drained, patience_us);
        self.input(n, Input::SetDrained(drained))
    }

    /// Forces the survivors' membership on one of them.
    pub(super) fn order_reset(&mut self, n: usize, survivors: u32) -> Check {
        self.counters.resets += 1;
        let members = MemberSet::of_voters(numbers(survivors).map(|s| self.nodes[s].id));
        self.order(n, Order::Reset, |token| Input::ResetPeers {
            token,
            members,
        })
    }

    pub(super) fn on_done(&mut self, n: usize, token: u64) -> Check {
        let order = self.orders.remove(&token);
        match &order {
            Some(Order::Change {
                change, must_fail, ..
            }) => {
                self.counters.changes_done += 1;
                let members = self.oracle.committed_members_of(n);
                require!(
                    !must_fail && members.old.is_none() && has_happened(change, members.current),
                    ConfigurationSafety,
                    "change {token} ({change:?}) is done, but the members are {members:?}"
                );
            }
            Some(Order::Transfer) => self.counters.transfers_done += 1,
            _ => {}
        }
        self.answer(n, token, Answer::Done)
    }

    pub(super) fn on_order_refused(
        &mut self,
        n: usize,
        token: u64,
        reason: &RejectReason,
    ) -> Check {
        let order = self.orders.remove(&token);
        match order {
            Some(Order::Change { .. }) => self.counters.changes_refused += 1,
            Some(Order::Transfer) => self.counters.transfers_refused += 1,
            Some(Order::Reset) => {
                require!(false, Liveness, "a forced membership was refused: {reason}");
            }
            Some(Order::Timeouts | Order::Settings) => require!(
                *reason == RejectReason::Stopping,
                Contract,
                "settings in range were refused: {reason}"
            ),
            _ => {}
        }
        let unknown = reason.is_unknown();
        let answer = if unknown {
            Answer::Unknown
        } else {
            Answer::Refused
        };
        self.answer(n, token, answer)
    }

    /// Whether the wiped node may be lost without losing a quorum anywhere.
    pub(super) fn may_wipe(&self, n: usize) -> bool {
        let id = bit(self.nodes[n].id);
        self.always_quorum(self.living() & !id)
    }

    /// Numbers of the voters of the committed configuration.
    pub(super) fn voters(&self) -> u32 {
        slots_of(self.oracle.members().voters())
    }
}

fn has_happened(change: &ConfigurationChange, now: Set) -> bool {
    match change {
        ConfigurationChange::AddVoter(node) | ConfigurationChange::Promote(node) => {
            now.voters & bit(*node) != 0
        }
        ConfigurationChange::AddLearner(node) | ConfigurationChange::Demote(node) => {
            now.learners & bit(*node) != 0 && now.voters & bit(*node) == 0
        }
        ConfigurationChange::Remove(node) => now.all() & bit(*node) == 0,
        ConfigurationChange::Replace(members) => now == Set::of(members),
    }
}
