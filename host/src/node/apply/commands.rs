//! Committed entries: read back if need be, cut into batches, applied, answered.

use super::cut::{cut, is_command};
use super::view::MachineState;
use super::worker::{Stopped, Worker};
use super::{ApplyReport, fail_all};
use crate::metrics::result_of;
use crate::node::reply::CommandReply;
use crate::node::request::{Applied, Position};
use bytes::Bytes;
use kontiki_plugin::{Answer, Answers, ApplyFault, Batch};
use kontiki_raft::{ApplyBatch, Entry, LogId, LogIndex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Bytes read back from the log at once while catching up.
const READ_SIZE_BYTES_MAX: usize = 1 << 20;

impl Worker {
    pub(super) fn apply(&mut self, batch: ApplyBatch, replies: Vec<(LogIndex, CommandReply)>) {
        let entries = (batch.last.0 + 1).saturating_sub(batch.first.0);
        let mut replies = VecDeque::from(replies);
        if self.fault.is_none() {
            self.view.enter(match self.replaying {
                true => MachineState::Replaying,
                false => MachineState::Applying,
            });
        }
        if self.fault.is_none()
            && let Err(stopped) = self.apply_batch(batch, &mut replies)
        {
            self.stop(stopped);
        }
        self.view.queued.fetch_sub(entries, Ordering::Relaxed);
        fail_all(replies.into(), &self.failure());
        self.run_waiting();
    }

    fn apply_batch(
        &mut self,
        batch: ApplyBatch,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), Stopped> {
        if !batch.entries.is_empty() {
            return self.apply_entries(&batch.entries, replies);
        }
        let mut next = batch.first;
        while next <= batch.last {
            let entries = self.read(next, batch.last)?;
            self.apply_entries(&entries, replies)?;
            next = self.state.applied.index.next();
        }
        Ok(())
    }

    pub(super) fn read(&self, first: LogIndex, last: LogIndex) -> Result<Vec<Entry>, Stopped> {
        let read = self
            .storage
            .entries(self.group, first, last, READ_SIZE_BYTES_MAX);
        match read {
            Ok(entries) if entries.first().is_some_and(|entry| entry.id.index == first) => {
                Ok(entries)
            }
            Ok(_) => Err(Stopped {
                message: format!("the log has no entry {first}"),
            }),
            Err(error) => Err(Stopped {
                message: format!("the log cannot be read back: {error}"),
            }),
        }
    }

    /// Applies consecutive entries, in calls of at most one batch each.
    fn apply_entries(
        &mut self,
        entries: &[Entry],
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), Stopped> {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            debug_assert_eq!(first.id.index, self.state.applied.index.next());
            let (batch, taken, time_ns) = cut(rest, self.state.time_ns);
            let (now, later) = rest.split_at(taken);
            if let Err(fault) = self.call(&batch, now, time_ns, replies) {
                return Err(self.after_fault(now, fault, replies));
            }
            rest = later;
            self.publish();
        }
        Ok(())
    }

    /// One call of the machine for `entries`, whose commands are `batch`.
    pub(super) fn call(
        &mut self,
        batch: &Batch<'_>,
        entries: &[Entry],
        time_ns: u64,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), ApplyFault> {
        let answers = match batch.is_empty() {
            true => Answers::default(),
            false => self.call_machine(batch)?,
        };
        self.state.time_ns = time_ns;
        let commands = entries.iter().filter(|entry| is_command(entry));
        for (entry, answer) in commands.zip(answers.iter()) {
            self.state.hash.add(entry.id.index.0, answer);
            if replies
                .front()
                .is_some_and(|(index, _)| *index == entry.id.index)
            {
                let (_, reply) = replies.pop_front().expect("there is a front");
                reply.answer(Ok(self.applied(entry.id, answer)));
            }
        }
        if let Some(last) = entries.last() {
            self.state.applied = last.id;
        }
        Ok(())
    }

    fn call_machine(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        let machine = self
            .machine
            .as_mut()
            .expect("made before the first batch, else stopped");
        let start = Instant::now();
        let answers = machine.apply(batch);
        let fault = answers.as_ref().err().map(|fault| &fault.fault);
        self.metrics.applied(start.elapsed(), result_of(fault));
        self.measure_fuel();
        answers
    }

    /// Adds what the machine has used since it was last measured.
    pub(super) fn measure_fuel(&mut self) {
        let used = self
            .machine
            .as_ref()
            .map_or(0, |machine| machine.fuel_used());
        self.metrics
            .fuel_used(used.saturating_sub(self.fuel_measured));
        self.fuel_measured = used;
    }

    fn applied(&self, id: LogId, answer: Answer<'_>) -> Applied {
        Applied {
            position: Position {
                id,
                plugin: Arc::clone(&self.digest),
            },
            result: match answer {
                Answer::Ok(bytes) => Ok(Bytes::copy_from_slice(bytes)),
                Answer::Reject(bytes) => Err(String::from_utf8_lossy(bytes).into_owned()),
            },
        }
    }

    /// Says how far the machine is, to the group and to whoever looks.
    pub(super) fn publish(&mut self) {
        let machine = self.machine.as_mut().expect("a batch was just applied");
        if self.replaying && self.state.applied.index >= self.replay_until {
            machine.set_replaying(false);
            self.replaying = false;
        }
        let set = |value: &AtomicU64, to| value.store(to, Ordering::Release);
        set(&self.view.memory_size_bytes, machine.memory_size_bytes());
        set(&self.view.outcome_hash, self.state.hash.value());
        set(&self.view.applied_term, self.state.applied.term.0);
        set(&self.view.applied_index, self.state.applied.index.0);
        (self.report)(ApplyReport::Applied(self.state.applied.index));
    }
}
