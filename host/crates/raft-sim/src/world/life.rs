//! Opening, killing, pausing and destroying nodes.

use super::node::Task;
use super::{Happening, World};
use crate::clock::Clock;
use crate::machine::Machine;
use crate::members::{Members, Set};
use crate::oracle::Check;
use crate::oracle::View;
use kontiki_raft::{Core, Instant, LogId, Settings, Term};

impl World {
    pub(super) fn draw_clock(&mut self) -> Clock {
        let (slow, fast) = self.plan.clock_rates;
        let local = self.random.below(1 << 40);
        Clock::new(self.now, local, self.random.between(slow, fast))
    }

    /// Starts the process of a node on what its disk holds.
    pub(super) fn open(&mut self, n: usize) -> Check {
        if self.plan.clock_resets {
            self.nodes[n].clock = self.draw_clock();
        }
        let seed = self.random.word();
        let node = &mut self.nodes[n];
        node.incarnation += 1;
        node.timeout_us = self.plan.settings.election_timeout.as_micros() as u64;
        let recovered = node.disk.recover(self.plan.tail_max);
        let initial = Members::stable(Set::of(&node.initial));
        let newest = node.disk.newest();
        node.machine = newest.map_or_else(|| Machine::new(initial), |snapshot| snapshot.machine);
        node.snapshot_index = node.machine.index();
        let local = Instant(node.clock.local(self.now));
        let settings = Settings {
            priority: node.priority,
            ..self.plan.settings.clone()
        };
        #[allow(unused_mut, reason = "changed only where a fault is planted")]
        let mut core = Core::new(
            node.id,
            settings,
            node.initial.clone(),
            recovered.clone(),
            local,
            seed,
        );
        if let Some(bug) = self.setup.bug {
            core.plant(bug);
        }
        let view = View::of(&core);
        self.wakes[n] = core
            .next_deadline()
            .map_or(u64::MAX, |at| node.clock.when(at.0).max(self.now));
        node.core = Some(core);
        let is_new = recovered.hard_state.term == Term(0)
            && recovered.last == LogId::default()
            && recovered.snapshot.is_none();
        if self.plan.settings.leader_lease && !is_new {
            let lease = self.plan.settings.election_timeout.as_micros() as u64;
            self.oracle.bind(n, node.clock.when(local.0 + lease));
        }
        self.oracle.opened(n, &recovered, view)?;
        if self.nodes[n].drained {
            self.set_drained(n, true)?;
        }
        Ok(())
    }

    /// The process dies at once, and what was not synced may be lost.
    pub(super) fn crash(&mut self, n: usize) -> Check {
        if !self.nodes[n].is_up() {
            return Ok(());
        }
        self.keep_prefix(n)?;
        let node = &mut self.nodes[n];
        node.disk.lose_pending();
        node.core = None;
        node.incarnation += 1;
        node.paused = false;
        node.stopped = false;
        node.held.clear();
        node.tasks.clear();
        node.working = false;
        node.apply_fails = false;
        node.fail_next_write = false;
        node.stalled_until = 0;
        node.reads.clear();
        node.saving = None;
        node.fetch = None;
        self.wakes[n] = u64::MAX;
        self.oracle.closed(n);
        let oracle = &self.oracle;
        self.orders.retain(|token, _| oracle.is_pending(*token));
        Ok(())
    }

    pub(super) fn restart_later(&mut self, n: usize) {
        let at = self.now + 1 + self.random.below(self.plan.fault_us);
        self.queue.push(at, Happening::Restart { node: n });
    }

    /// A node that is down comes up; one that has stopped is opened anew.
    pub(super) fn on_restart(&mut self, n: usize) -> Check {
        let node = &self.nodes[n];
        let dead = self.calm && self.core_nodes & (1 << n) == 0;
        if node.wiped || dead || (node.is_up() && !node.stopped) {
            return Ok(());
        }
        self.crash(n)?;
        self.open(n)
    }

    /// The core says that it takes part in nothing any more.
    pub(super) fn on_core_failed(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.stopped = true;
        node.tasks.retain(|task| matches!(task, Task::Apply(_)));
        self.restart_later(n);
    }

    pub(super) fn pause(&mut self, n: usize) {
        if !self.nodes[n].is_up() || self.nodes[n].paused {
            return;
        }
        self.counters.pauses += 1;
        self.nodes[n].paused = true;
        self.wakes[n] = u64::MAX;
        let at = self.now + 1 + self.random.below(self.plan.fault_us);
        self.queue.push(at, Happening::Resume { node: n });
    }

    pub(super) fn resume(&mut self, n: usize) -> Check {
        let node = &mut self.nodes[n];
        if !std::mem::take(&mut node.paused) {
            return Ok(());
        }
        for happening in node.held.drain(..) {
            self.queue.push(self.now, happening);
        }
        let deadline = node.core.as_ref().and_then(Core::next_deadline);
        // A process that stood still takes what has arrived before it looks at its timers, or the
        // other way round.
        self.wakes[n] = deadline.map_or(u64::MAX, |at| node.clock.when(at.0).max(self.now));
        Ok(())
    }
}
