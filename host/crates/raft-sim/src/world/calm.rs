//! The liveness phase: the faults stop in a random connected core, the rest is left dead, cut off,
//! or half cut off, and everything must come right.

use super::{World, numbers, slots_of};
use crate::members::{Members, Set, bit};
use crate::oracle::{Answer, Check};
use crate::require;
use kontiki_raft::{Input, Instant, LogIndex, NodeId, Role, Status, Term};

/// Steps after which a liveness phase is given up, whatever the clock says.
const STEPS_MAX: u64 = 2_000_000;

impl World {
    pub(super) fn run_calm(&mut self) -> Check {
        self.begin_calm()?;
        self.settle()?;
        self.becomes_rightful()?;
        self.stays_settled()?;
        self.counters.liveness_phases += 1;
        if self.plan.lose_majority {
            Ok(())
        } else {
            self.judge_history()
        }
    }

    /// The faults stop, and what is under way of them ends.
    pub(super) fn begin_calm(&mut self) -> Check {
        let late = if self.plan.latency_tail_ppm > 0 {
            self.plan.latency_tail_us
        } else {
            0
        };
        let lose_majority = self.plan.lose_majority;
        self.plan.switch_off_faults();
        self.plan.lose_majority = lose_majority;
        self.network.heal();
        if self.plan.lose_majority {
            self.lose_majority()?;
        }
        self.choose_core();
        self.calm = true;
        self.cut_off_the_rest()?;
        self.mend_core()?;
        // Messages and completions that are late already are the last of the faults.
        let last_fault = self.now + late + self.plan.fault_us;
        while self.now < last_fault {
            self.step()?;
        }
        Ok(())
    }

    /// There is a leader, new writes are acknowledged, and at last all is answered and equal.
    pub(super) fn settle(&mut self) -> Check {
        let begun = self.now;
        self.takeovers_before = self.counters.takeovers;
        let written = self.oracle.requests().len();
        self.until(begun + self.leader_limit(), "there is no leader", |world| {
            world.elected().is_some()
        })?;
        // The clients must find the leader first, mostly by asking one node after the other.
        let search = 100 * (20 * self.plan.think_us + self.plan.patience_us);
        let limit = self.now + 20 * self.timeout_us() + self.work_limit() + search;
        self.until(limit, "no new write is acknowledged", |world| {
            let new = world.oracle.requests()[written..].iter();
            new.filter(|request| matches!(request.answer, Some(Answer::Applied(_))))
                .count()
                >= 3
        })?;
        self.catch_up_under_load()?;
        self.clients_on = false;
        let catch_up = self.plan.settings.catch_up_timeout.as_micros() as u64;
        let limit = self.now + 20 * self.timeout_us() + 2 * catch_up + self.work_limit();
        self.until(
            limit,
            "not everything is answered and equal",
            Self::is_settled,
        )
    }

    /// While the clients go on, every member in the core applies at least what is committed now: a
    /// lagging one must not need quiet to catch up.
    fn catch_up_under_load(&mut self) -> Check {
        let commit = self.oracle.commit_index();
        let limit = self.now + 20 * self.timeout_us() + self.work_limit();
        self.until(limit, "a member does not catch up under load", |world| {
            let members = slots_of(world.oracle.members().all()) & world.core_nodes;
            numbers(members).all(|n| world.applied(n) >= commit)
        })
    }

    fn until(&mut self, limit: u64, what: &str, is_so: impl Fn(&Self) -> bool) -> Check {
        let steps = self.counters.steps;
        while !is_so(self) {
            require!(
                self.now < limit && self.counters.steps < steps + STEPS_MAX,
                Liveness,
                "{what} by {}; core nodes {:b}, members {:?}:{}",
                crate::trace::At(limit),
                self.core_nodes << 1,
                self.oracle.members(),
                self.describe()
            );
            self.step()?;
        }
        Ok(())
    }

    /// Longest election timeout in force, in simulated time.
    fn timeout_us(&self) -> u64 {
        let nodes = self.nodes.iter().map(|node| node.timeout_us);
        nodes
            .max()
            .unwrap_or(0)
            .max(self.plan.settings.election_timeout.as_micros() as u64)
    }

    /// Ten election timeouts, after the time for which voters still honour the last leader and the
    /// last fault (a stalled disk, a late message) may last. Where candidates do not give up, one
    /// beyond a one-way cut may take everybody's vote once in each of its terms: then a voter that
    /// can win must time out before its next, an even chance if there is only one such.
    fn leader_limit(&self) -> u64 {
        let drift = self.plan.settings.max_clock_drift.as_micros() as u64;
        let promised = self.nodes.iter().map(|node| node.promised_us).max();
        let honoured = (self.timeout_us() + drift).max(promised.unwrap_or(0));
        let timeout = self.timeout_us() + self.plan.latency_us.1 + 2 * self.plan.disk_us.1;
        // Where only drained nodes can win, they wait for the others first.
        let patience = if numbers(self.core_nodes).any(|n| self.nodes[n].drained) {
            10 * timeout
        } else {
            0
        };
        let gives_up = self.plan.settings.step_down_on_vote_timeout;
        let timeouts = if gives_up { 10 } else { 60 };
        timeouts * timeout + patience + honoured + self.plan.completion_delay_us * 10
    }

    /// Time to bring the last node up to date with the narrowest windows.
    fn work_limit(&self) -> u64 {
        let behind = self.oracle.commit_index().0 + 100;
        let round = 2 * self.plan.latency_us.1
            + 2 * self.plan.disk_us.1
            + self.plan.completion_delay_us
            + self.plan.apply_us.1;
        4 * behind * round + 4 * self.plan.fetch_us
    }

    /// A random set of nodes that is a quorum of all that may be in force.
    fn choose_core(&mut self) {
        let living = slots_of(self.living());
        self.core_nodes = living;
        for _ in 0..8 {
            let some = self.random.word() as u32 & living;
            if self.random.chance(300_000) || some == 0 {
                return;
            }
            if self.always_quorum(some << 1) {
                self.core_nodes = some;
                return;
            }
        }
    }

    fn cut_off_the_rest(&mut self) -> Check {
        for n in 0..self.nodes.len() {
            if self.core_nodes & (1 << n) != 0 {
                continue;
            }
            let gives_up = self.plan.settings.step_down_on_vote_timeout;
            let kinds = match (gives_up, self.all_wait_alike()) {
                (true, _) => 4,
                // Who does not give up is most trouble as a candidate that hears nobody.
                (false, true) => 8,
                // If its waits are shorter than everybody's, it takes all votes again before
                // anybody's timer fires, for ever: that setting cannot survive it.
                (false, false) => 3,
            };
            let (to_core, from_core) = match self.random.below(kinds) {
                0 => {
                    self.crash(n)?;
                    (true, true)
                }
                1 => (true, true),
                2 => (true, false),
                _ => {
                    // At its worst it is a candidate that everybody hears and that hears nobody. With
                    // timers far shorter than the others' it would raise the term before any of them
                    // could be elected, if it does not give up votes: braft's livelock.
                    let usual = self.plan.settings.clone();
                    self.set(n, |settings| *settings = usual)?;
                    if !gives_up || self.random.chance(500_000) {
                        self.campaign_at(n)?;
                    }
                    (false, true)
                }
            };
            for other in numbers(self.core_nodes) {
                self.network.set_cut(n, other, to_core);
                self.network.set_cut(other, n, from_core);
            }
        }
        Ok(())
    }

    /// Everything in the core works again.
    fn mend_core(&mut self) -> Check {
        for n in numbers(self.core_nodes) {
            self.resume(n)?;
            let node = &mut self.nodes[n];
            node.stalled_until = 0;
            node.fail_next_write = false;
            node.apply_slow = false;
            node.apply_fails = false;
            if !node.is_up() || node.stopped || node.disk.is_failed() {
                self.crash(n)?;
                self.open(n)?;
            }
            self.oracle.set_read_only(n, false);
            self.input(n, Input::SetReadOnly(false))?;
            let priority = self.random.pick(&super::PRIORITIES);
            let mut usual = self.plan.settings.clone();
            usual.priority = priority;
            self.nodes[n].priority = priority;
            self.nodes[n].timeout_us = usual.election_timeout.as_micros() as u64;
            self.set(n, |settings| *settings = usual)?;
            let drained = self.random.chance(200_000);
            self.set_drained(n, drained)?;
        }
        Ok(())
    }

    /// More than a minority dies for good; a survivor is told to go on without.
    fn lose_majority(&mut self) -> Check {
        let voters = self.voters() & slots_of(self.living());
        if voters.count_ones() < 2 {
            self.plan.lose_majority = false;
            return Ok(());
        }
        self.fenced = true;
        let mut survivors = 1 << self.random.bit(voters);
        let second = 1 << self.random.bit(voters);
        if voters.count_ones() > 4 {
            survivors |= second;
        }
        for n in numbers(slots_of(self.living()) & !survivors) {
            self.destroy(n)?;
        }
        for n in numbers(survivors) {
            self.crash(n)?;
            self.open(n)?;
        }
        let best = numbers(survivors).max_by_key(|n| self.oracle.last_written(*n));
        let Some(best) = best else {
            return Ok(());
        };
        self.oracle.forgive(best);
        let voters = numbers(survivors).fold(0, |mask, n| mask | bit(self.nodes[n].id));
        let members = Members::stable(Set {
            voters,
            learners: 0,
        });
        self.oracle.force_members(members);
        self.core_nodes = survivors;
        self.order_reset(best, survivors)
    }

    /// The member in the core that leads in the highest term of them. Nodes that were removed may
    /// be ahead of all terms and know nothing of it.
    fn elected(&self) -> Option<usize> {
        let members = slots_of(self.oracle.members().all()) & self.core_nodes;
        let term = numbers(members).map(|n| self.oracle.view(n).term).max();
        numbers(members).find(|n| {
            let view = self.oracle.view(*n);
            view.role == Role::Leader && Some(view.term) == term
        })
    }

    /// The elected one, once it has committed in its term.
    pub(super) fn settled_leader(&self) -> Option<usize> {
        self.elected().filter(|n| self.oracle.has_started(*n))
    }

    fn is_settled(&self) -> bool {
        let Some(leader) = self.settled_leader() else {
            return false;
        };
        let members = slots_of(self.oracle.members().all());
        let pending = self.oracle.requests().iter().zip(1u64..);
        let pending = pending
            .filter(|(request, _)| self.core_nodes & (1 << request.node) != 0)
            .filter(|(_, token)| self.oracle.is_pending(*token))
            // A confirmed read is the host's to serve; on a removed node nothing is applied.
            .any(|(request, _)| !request.is_confirmed() || members & (1 << request.node) != 0);
        !pending && self.members_equal(leader)
    }

    /// All members in the core follow and have applied everything committed.
    fn members_equal(&self, leader: usize) -> bool {
        let view = self.oracle.view(leader);
        let commit = self.oracle.commit_index();
        let members = slots_of(self.oracle.members().all()) & self.core_nodes;
        let chain = self.oracle.chain_at(commit);
        self.oracle.members().old.is_none()
            && numbers(members).all(|n| {
                let other = self.oracle.view(n);
                let following = n == leader || other.leader == Some(self.nodes[leader].id);
                other.term == view.term
                    && following
                    && self.applied(n) == commit
                    && (commit == LogIndex(0) || chain == Some(self.nodes[n].machine.chain))
            })
    }

    /// The leader is, or becomes, one of the highest rank in the core. Attempts of the time of faults
    /// are remembered, so it may take the longest wait between two.
    pub(super) fn becomes_rightful(&mut self) -> Check {
        let limit = self.now + 100 * self.timeout_us() + self.work_limit();
        self.until(limit, "a lesser member leads", |world| {
            world.is_settled() && world.is_led_rightfully()
        })?;
        let takeovers = self.counters.takeovers - self.takeovers_before;
        let most = 2 * u64::from(self.core_nodes.count_ones());
        require!(
            takeovers <= most,
            Rightful,
            "there were {takeovers} takeovers without a fault:{}",
            self.describe()
        );
        Ok(())
    }

    fn is_led_rightfully(&self) -> bool {
        let Some(leader) = self.settled_leader().map(|n| &self.nodes[n]) else {
            return false;
        };
        let voters = numbers(self.voters() & self.core_nodes);
        let highest = voters.map(|n| self.nodes[n].rank()).max().unwrap_or(0);
        let moves = self.plan.settings.priority_takeover || leader.drained;
        leader.rank() >= highest || !moves
    }

    /// For ten more timeouts nobody in the core changes term, whatever the rest does, and although
    /// one voter suddenly hears nobody (trap 15: it must not disturb those who hear the leader).
    fn stays_settled(&mut self) -> Check {
        let Some(leader) = self.settled_leader() else {
            return Ok(());
        };
        let deaf = self.choose_deaf(leader);
        let all = (1u32 << self.nodes.len()) - 1;
        for other in numbers(all) {
            if let Some(deaf) = deaf {
                self.network.set_cut(other, deaf, true);
            }
        }
        self.keeps_leader(leader)?;
        if let Some(deaf) = deaf {
            for other in numbers(self.core_nodes) {
                self.network.set_cut(other, deaf, false);
            }
            self.keeps_leader(leader)?;
        }
        require!(
            self.settled_leader() == Some(leader) && self.members_equal(leader),
            Stability,
            "the members fell apart again:{}",
            self.describe()
        );
        self.nothing_is_left()
    }

    /// Whether all nodes draw their waits from one range, on clocks of one rate.
    fn all_wait_alike(&self) -> bool {
        let (slow, fast) = self.plan.clock_rates;
        let usual = self.plan.settings.election_timeout.as_micros() as u64;
        slow == fast && self.nodes.iter().all(|node| node.timeout_us == usual)
    }

    /// A follower of the core without which there is a quorum all the same.
    fn choose_deaf(&mut self, leader: usize) -> Option<usize> {
        let followers = self.voters() & self.core_nodes & !(1 << leader);
        if followers == 0 {
            return None;
        }
        let deaf = self.random.bit(followers);
        let rest = self.core_nodes & !(1 << deaf);
        self.oracle.members().is_quorum(rest << 1).then_some(deaf)
    }

    pub(super) fn keeps_leader(&mut self, leader: usize) -> Check {
        let term: Term = self.oracle.view(leader).term;
        let until = self.now + 10 * self.timeout_us();
        while self.now < until {
            self.step()?;
            let view = self.oracle.view(leader);
            require!(
                view.term == term && view.role == Role::Leader,
                Stability,
                "node {} led in term {term}, but now:{}",
                self.nodes[leader].id,
                self.describe()
            );
        }
        Ok(())
    }

    /// With everything committed and answered, nothing counts against any limit.
    pub(super) fn nothing_is_left(&self) -> Check {
        for n in numbers(self.core_nodes) {
            let node = &self.nodes[n];
            let Some(core) = &node.core else { continue };
            let status = core.status(Instant(node.clock.local(self.now)));
            check_nothing_left(&status, node.id)?;
        }
        Ok(())
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        for n in 0..self.nodes.len() {
            let node = &self.nodes[n];
            if node.wiped || (self.core_nodes & (1 << n) == 0 && !node.is_up()) {
                continue;
            }
            text += &format!(
                "\n  node {}{}: {:?}, applied {}, last {}",
                node.id,
                if node.is_up() { "" } else { " (down)" },
                self.oracle.view(n),
                self.applied(n),
                self.oracle.last_written(n)
            );
        }
        for (request, token) in self.oracle.requests().iter().zip(1u64..) {
            if self.core_nodes & (1 << request.node) != 0 && self.oracle.is_pending(token) {
                text += &format!(
                    "\n  request {token} waits: {request:?} {:?}",
                    self.orders.get(&token)
                );
            }
        }
        text
    }
}

/// With its whole log committed a replica waits for nothing.
pub(super) fn check_nothing_left(status: &Status, node: NodeId) -> Check {
    let waits = status.uncommitted_size_bytes > 0
        || status.proposals_pending > 0
        || status.reads_pending > 0;
    require!(
        status.last.index > status.commit_index || !waits,
        Bounded,
        "node {node}: everything is committed, but {} bytes count as uncommitted, {} proposals and {} reads wait",
        status.uncommitted_size_bytes,
        status.proposals_pending,
        status.reads_pending
    );
    Ok(())
}
