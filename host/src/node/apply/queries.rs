//! Queries, each answered once what it must see is applied.

use super::PendingQuery;
use super::view::MachineState;
use super::worker::Worker;
use crate::metrics::result_of;
use crate::node::request::{Applied, Failure, Outcome, Position};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Instant;

impl Worker {
    pub(super) fn query(&mut self, query: PendingQuery) {
        if query.after > self.state.applied.index {
            match self.fault {
                Some(_) => query.reply.answer(Err(self.failure())),
                None => self.waiting.push(query),
            }
            self.note_waiting();
            return;
        }
        self.run_query(query);
    }

    fn run_query(&mut self, query: PendingQuery) {
        if query.reply.is_closed() {
            return;
        }
        let Some(machine) = self.machine.as_mut() else {
            query.reply.answer(Err(self.failure()));
            return;
        };
        self.view.enter(MachineState::Querying);
        let start = Instant::now();
        let result = machine.query(&query.request);
        let blame = result_of(result.as_ref().err());
        self.metrics.queried(start.elapsed(), blame);
        self.measure_fuel();
        let answer = match result {
            Ok(result) => Ok(Applied {
                position: Position {
                    id: self.state.applied,
                    plugin: Arc::clone(&self.digest),
                },
                result: result.map(Bytes::from),
            }),
            Err(fault) => Err(Failure::PluginFault {
                message: fault.to_string(),
                outcome: Outcome::NotApplied,
            }),
        };
        query.reply.answer(answer);
        self.replace_if_poisoned();
    }

    /// A query that faults takes the instance with it, not the state: that comes from the log.
    pub(super) fn replace_if_poisoned(&mut self) {
        if !self
            .machine
            .as_ref()
            .is_some_and(|machine| machine.is_poisoned())
        {
            return;
        }
        match self.rebuild() {
            Ok(()) => self.publish(),
            Err(stopped) if self.fault.is_none() => self.stop(stopped),
            Err(_) => {}
        }
    }

    pub(super) fn run_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let applied = self.state.applied.index;
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].after <= applied {
                let query = self.waiting.swap_remove(at);
                self.run_query(query);
            } else {
                at += 1;
            }
        }
        self.note_waiting();
    }
}
