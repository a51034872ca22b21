//! Carrying out what a core wants done.

use super::limits::Limits;
use super::{Happening, World, digest};
use crate::oracle::{Answer, Ask, Check, Invariant, broken};
use crate::plan::Loss;
use crate::require;
use crate::trace::At;
use kontiki_raft::{
    Effect, Effects, Event, IoId, LogIndex, Message, MessageBody, NodeId, Persist, ReadError,
    ReadId,
};

impl World {
    /// Carries out the effects in order. False if the node died in between.
    pub(super) fn carry_out(
        &mut self,
        n: usize,
        effects: &mut Effects,
    ) -> Result<bool, Box<crate::oracle::Violation>> {
        let (mut writes, mut compacts) = (false, false);
        for effect in effects.iter() {
            match effect {
                // Told before anything is sent: what is sent is compared with what is ordered.
                Effect::Persist(persist) => {
                    self.oracle.persisting(n, persist)?;
                    writes = true;
                }
                Effect::CompactLog { .. } => compacts = true,
                _ => {}
            }
        }
        self.oracle.committing(n)?;
        let dies = (writes && self.random.chance(self.plan.crash_at_persist_ppm))
            || (compacts && self.random.chance(self.plan.crash_at_snapshot_ppm));
        let dies_at = dies.then(|| self.random.position(effects.len() + 1));
        let now = self.now;
        for (at, effect) in effects.drain(..).enumerate() {
            if dies_at == Some(at) {
                break;
            }
            let id = self.nodes[n].id;
            self.trace.note(at as u64, digest::of_effect(&effect));
            self.trace
                .line(|| format!("{} node {id} -> {effect:?}", At(now)));
            self.carry_out_one(n, effect)?;
        }
        if dies_at.is_some() {
            self.counters.crash_points += 1;
            self.crash(n)?;
            self.restart_later(n);
        }
        Ok(dies_at.is_none())
    }

    fn carry_out_one(&mut self, n: usize, effect: Effect) -> Check {
        match effect {
            Effect::Persist(persist) => {
                self.write(n, persist);
                Ok(())
            }
            Effect::Send { to, message } => {
                self.note_promise(n, &message);
                self.send(n, to, message)
            }
            Effect::ReadEntries {
                read,
                first,
                last,
                size_bytes_max,
            } => self.read_entries(n, read, first, last, size_bytes_max),
            Effect::Apply(batch) => self.take_batch(n, batch),
            Effect::FetchSnapshot { from, snapshot } => self.fetch(n, from, snapshot),
            Effect::CompactLog { upto } => {
                self.oracle.compacting(n, upto)?;
                self.counters.compactions += 1;
                self.nodes[n].disk.compact(upto);
                Ok(())
            }
            Effect::Done { token } => self.on_done(n, token.0),
            Effect::Rejected { token, reason } => {
                let request = self.oracle.request(token.0);
                if request.is_some_and(|request| matches!(request.ask, Ask::Read { .. })) {
                    self.close_read(n);
                }
                self.on_rejected(n, token.0, &reason)
            }
            Effect::ReadReady { token, index } => {
                self.close_read(n);
                self.oracle.read_ready(n, token.0, index)?;
                self.nodes[n].reads.push((index, token.0));
                self.serve_reads(n)
            }
            Effect::Event(event) => {
                match event {
                    Event::Failed { .. } => self.on_core_failed(n),
                    Event::StartedFollowing { term, .. } => self.hears_leader(n, term),
                    Event::TakeoverStarted { .. } => self.counters.takeovers += 1,
                    _ => {}
                }
                self.oracle.event(n, &event)
            }
        }
    }

    fn close_read(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        node.reads_open = node.reads_open.saturating_sub(1);
    }

    fn send(&mut self, n: usize, to: NodeId, message: Message) -> Check {
        self.oracle.sending(n, to, &message, self.now)?;
        match &message.body {
            MessageBody::ReadIndexReply(_) => self.close_read(n),
            MessageBody::AppendEntries(append) => {
                Limits::of(&self.plan).check_message(self.nodes[n].id, append)?;
            }
            _ => {}
        }
        self.counters.messages_sent += 1;
        let to = to.0 as usize - 1;
        if to >= self.nodes.len() {
            return broken(
                Invariant::Contract,
                format!("a message to unknown node {}", to + 1),
            );
        }
        self.maybe_keep(n, to, &message);
        let deliver = |world: &mut Self, message| {
            let at = world
                .network
                .send(&world.plan, &mut world.random, world.now, n, to);
            match at {
                Some(at) => world.queue.push(
                    at,
                    Happening::Deliver {
                        from: n,
                        to,
                        message,
                    },
                ),
                None => world.counters.messages_lost += 1,
            }
        };
        if self.random.chance(self.plan.duplicate_ppm) {
            self.counters.messages_doubled += 1;
            deliver(self, message.clone());
        }
        deliver(self, message);
        Ok(())
    }

    fn read_entries(
        &mut self,
        n: usize,
        read: ReadId,
        first: LogIndex,
        last: LogIndex,
        size_bytes_max: usize,
    ) -> Check {
        let result = if self.random.chance(self.plan.read_fail_ppm) {
            Err(ReadError::Damaged)
        } else {
            let node = &self.nodes[n];
            let Some(entries) = node.disk.read(first, last, size_bytes_max) else {
                return broken(
                    Invariant::Contract,
                    format!(
                        "node {} reads {first} to {last} back, but its disk ends with {}",
                        node.id,
                        node.disk.last()
                    ),
                );
            };
            self.counters.read_back += entries.len() as u64;
            Ok(entries)
        };
        let at = self.now + self.disk_time(n);
        let incarnation = self.nodes[n].incarnation;
        self.queue.push(
            at,
            Happening::EntriesRead {
                node: n,
                incarnation,
                read,
                result,
            },
        );
        Ok(())
    }

    /// How long the disk takes for one thing begun now.
    fn disk_time(&mut self, n: usize) -> u64 {
        let mut time = self
            .random
            .between(self.plan.disk_us.0, self.plan.disk_us.1);
        if self.random.chance(self.plan.disk_tail_ppm) {
            time += self.random.below(self.plan.fault_us);
        }
        time + self.nodes[n].stalled_until.saturating_sub(self.now)
    }

    fn write(&mut self, n: usize, persist: Persist) {
        let io = persist.io;
        let node = &mut self.nodes[n];
        if node.disk.is_failed() {
            let incarnation = node.incarnation;
            let at = self.now + 1;
            self.queue.push(
                at,
                Happening::PersistFailed {
                    node: n,
                    incarnation,
                    io,
                },
            );
            return;
        }
        if node.disk.write(persist) {
            self.begin_sync(n);
        }
    }

    fn begin_sync(&mut self, n: usize) {
        let pending = self.nodes[n].disk.pending();
        let writes = 1 + self.random.position(pending);
        // Mostly everything that waits goes in one sync, as a real log writer does it.
        let writes = if self.random.chance(700_000) {
            pending
        } else {
            writes
        };
        self.nodes[n].disk.begin_sync(writes);
        let at = self.now + self.disk_time(n);
        let incarnation = self.nodes[n].incarnation;
        self.queue.push(
            at,
            Happening::Synced {
                node: n,
                incarnation,
            },
        );
    }

    pub(super) fn on_synced(&mut self, n: usize, incarnation: u32) -> Check {
        let node = &mut self.nodes[n];
        if node.incarnation != incarnation || node.disk.syncing() == 0 {
            return Ok(());
        }
        if node.stalled_until > self.now {
            let at = node.stalled_until;
            self.queue.push(
                at,
                Happening::Synced {
                    node: n,
                    incarnation,
                },
            );
            return Ok(());
        }
        if std::mem::take(&mut node.fail_next_write) || self.random.chance(self.plan.disk_fail_ppm)
        {
            return self.fail_sync(n);
        }
        let mut last = None;
        while self.nodes[n].disk.syncing() > 0 {
            let Some(io) = self.sync_one(n)? else { break };
            if let Some(before) = last.replace(io)
                && self.plan.completion_each
            {
                self.complete_write(n, before);
            }
        }
        if let Some(io) = last {
            self.complete_write(n, io);
        }
        if self.nodes[n].disk.pending() > 0 {
            self.begin_sync(n);
        }
        Ok(())
    }

    fn sync_one(&mut self, n: usize) -> Result<Option<IoId>, Box<crate::oracle::Violation>> {
        let Some(persist) = self.nodes[n].disk.sync_one() else {
            return Ok(None);
        };
        self.oracle.synced(n, &persist)?;
        Ok(Some(persist.io))
    }

    fn complete_write(&mut self, n: usize, io: IoId) {
        let mut at = self.now + self.random.below(self.plan.completion_delay_us + 1);
        if self.random.chance(self.plan.completion_lost_ppm) {
            // Lost: a later write makes it good, or the host asks again after a long while.
            self.counters.completions_lost += 1;
            at += self.plan.fault_us;
        }
        let incarnation = self.nodes[n].incarnation;
        self.queue.push(
            at,
            Happening::Persisted {
                node: n,
                incarnation,
                io,
            },
        );
    }

    /// A failed write: some of it may be on disk all the same.
    fn fail_sync(&mut self, n: usize) -> Check {
        self.counters.writes_failed += 1;
        let Some(io) = self.nodes[n].disk.first_pending_io() else {
            return Ok(());
        };
        self.keep_prefix(n)?;
        let node = &mut self.nodes[n];
        node.disk.lose_pending();
        node.disk.fail();
        let incarnation = node.incarnation;
        self.queue.push(
            self.now,
            Happening::PersistFailed {
                node: n,
                incarnation,
                io,
            },
        );
        Ok(())
    }

    /// Of the writes that were not synced a random prefix is on disk, as the plan has it.
    pub(super) fn keep_prefix(&mut self, n: usize) -> Check {
        let pending = self.nodes[n].disk.pending();
        let kept = match self.plan.loss {
            Loss::All => 0,
            Loss::Suffix => self.random.position(pending + 1),
            Loss::Nothing => pending,
        };
        for _ in 0..kept {
            self.sync_one(n)?;
        }
        self.counters.writes_lost += (pending - kept) as u64;
        Ok(())
    }

    pub(super) fn answer(&mut self, n: usize, token: u64, answer: Answer) -> Check {
        self.trace.note(token, 5);
        self.oracle.answered(n, token, answer, self.now)?;
        self.note_answer(token);
        require!(
            !matches!(answer, Answer::Refused) || !self.orders.contains_key(&token),
            Contract,
            "order {token} was not taken back"
        );
        Ok(())
    }
}
