//! Committed entries: read back if need be, cut into batches, applied, answered.

use super::cut::cut;
use super::view::MachineState;
use super::worker::{Stopped, Worker};
use super::{ApplyReport, fail_all};
use crate::node::reply::CommandReply;
use crate::node::request::{Applied, Position};
use bytes::Bytes;
use kontiki_plugin::Answer;
use kontiki_raft::{ApplyBatch, Entry, LogId, LogIndex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

impl Worker {
    pub(super) fn apply(&mut self, batch: ApplyBatch, replies: Vec<(LogIndex, CommandReply)>) {
        let entries = (batch.last.0 + 1).saturating_sub(batch.first.0);
        let mut replies = VecDeque::from(replies);
        if self.stopped.is_none() {
            self.view.enter(match self.replaying {
                true => MachineState::Replaying,
                false => MachineState::Applying,
            });
        }
        if self.stopped.is_none()
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
            let entries = self.runner.read(next, batch.last)?;
            self.apply_entries(&entries, replies)?;
            next = self.runner.state.applied.index.next();
        }
        Ok(())
    }

    /// Applies consecutive entries, in calls of at most one batch each.
    fn apply_entries(
        &mut self,
        entries: &[Entry],
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), Stopped> {
        let mut rest = entries;
        while let Some(first) = rest.first() {
            debug_assert_eq!(first.id.index, self.runner.state.applied.index.next());
            let digest = Arc::clone(&self.digest);
            let stepped = self.runner.step(rest, &mut |id, answer| {
                reply(&digest, replies, id, answer);
            });
            let taken = match stepped {
                Ok(taken) => taken,
                Err(fault) => {
                    let (_, taken, _) = cut(rest, self.runner.state.time_ns);
                    self.second_try(&rest[..taken], &fault, replies)?;
                    taken
                }
            };
            rest = &rest[taken..];
            self.publish();
        }
        Ok(())
    }

    /// Says how far the machine is, to the group and to whoever looks.
    pub(super) fn publish(&mut self) {
        let state = self.runner.state;
        if self.replaying && state.applied.index >= self.replay_until {
            self.runner.machine_replays(false);
            self.replaying = false;
        }
        let machine = self.runner.machine.as_ref();
        let size_bytes = machine.map_or(0, |machine| machine.memory_size_bytes());
        let set = |value: &AtomicU64, to| value.store(to, Ordering::Release);
        let passed = std::mem::take(&mut self.runner.passed);
        let at = (state.applied.index, state.hash.value());
        self.view.pass(passed, at);
        set(&self.view.memory_size_bytes, size_bytes);
        set(&self.view.outcome_hash, state.hash.value());
        set(&self.view.applied_term, state.applied.term.0);
        set(&self.view.applied_index, state.applied.index.0);
        (self.report)(ApplyReport::Applied(state.applied.index));
    }
}

/// Answers whoever waits for the entry.
pub(super) fn reply(
    digest: &Arc<str>,
    replies: &mut VecDeque<(LogIndex, CommandReply)>,
    id: LogId,
    answer: Answer<'_>,
) {
    if replies.front().is_some_and(|(index, _)| *index == id.index) {
        let (_, reply) = replies.pop_front().expect("there is a front");
        reply.answer(Ok(applied(digest, id, answer)));
    }
}

fn applied(digest: &Arc<str>, id: LogId, answer: Answer<'_>) -> Applied {
    Applied {
        position: Position {
            id,
            plugin: Arc::clone(digest),
        },
        result: match answer.reject_reason() {
            Some(reason) => Err(reason),
            None => Ok(Bytes::copy_from_slice(answer.bytes())),
        },
    }
}
