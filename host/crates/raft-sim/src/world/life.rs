//! Opening, killing, pausing and destroying nodes.

use super::node::Task;
use super::{Happening, World};
use crate::clock::Clock;
use crate::machine::Machine;
use crate::members::{Members, Set};
use crate::oracle::Check;
use crate::oracle::View;
use kontiki_raft::{Core, Instant, LogId, Message, MessageBody, Settings, Term};

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
        if !is_new {
            let lease = match self.plan.settings.leader_lease {
                true => self.plan.settings.election_timeout.as_micros() as u64,
                false => 0,
            };
            let bound = node.clock.when(local.0 + lease).max(node.counted_on.1);
            self.oracle.bind(n, bound);
        }
        self.oracle.opened(n, &recovered, view)?;
        if self.nodes[n].drained {
            self.set_drained(n, true)?;
        }
        Ok(())
    }

    /// Remembers what a follower promises with an answer: whatever happens to it, its leader counts
    /// on that for the span less the drift, on the slowest clock.
    pub(super) fn note_promise(&mut self, n: usize, message: &Message) {
        let promise = match &message.body {
            MessageBody::HeartbeatReply(reply) => reply.promise,
            MessageBody::AppendEntriesReply(reply) => reply.promise,
            _ => None,
        };
        let Some(promise) = promise else {
            return;
        };
        let counted = promise.span.saturating_sub(promise.drift).as_micros() as u64;
        let until = self.now + counted * 1_000 / self.plan.clock_rates.0;
        let node = &mut self.nodes[n];
        node.counted_on = match node.counted_on {
            (term, earlier) if term == message.term => (term, earlier.max(until)),
            _ => (message.term, until),
        };
    }

    /// A leader of a later term could not have been elected while an earlier one counted on `n`.
    pub(super) fn hears_leader(&mut self, n: usize, term: Term) {
        let node = &mut self.nodes[n];
        if term > node.counted_on.0 {
            node.counted_on = (term, 0);
        }
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
        node.reads_open = 0;
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
