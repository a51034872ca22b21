//! Commit, and handing committed entries to the state machine (Raft §5.3, §5.4.2).

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{ApplyBatch, Configuration, Effect, Effects, Event, LogIndex, RejectReason, Token};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Proposals that wait until their entry is committed and handed to the state machine, ascending.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waiting {
    queue: VecDeque<Waiter>,
    /// Bytes ever appended for proposals, and how many of them are committed or given up.
    appended_size_bytes: u64,
    settled_size_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    index: LogIndex,
    token: Token,
    /// Bytes appended up to and including this one.
    upto_size_bytes: u64,
}

impl Waiting {
    pub(crate) fn push(&mut self, index: LogIndex, token: Token, size_bytes: usize) {
        self.appended_size_bytes += size_bytes as u64;
        self.queue.push_back(Waiter {
            index,
            token,
            upto_size_bytes: self.appended_size_bytes,
        });
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn uncommitted_size_bytes(&self) -> usize {
        let bytes = self.appended_size_bytes - self.settled_size_bytes;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Everything up to `index` is committed, and durable here.
    fn settle(&mut self, index: LogIndex) {
        let below = self.queue.partition_point(|waiter| waiter.index <= index);
        if let Some(last) = below.checked_sub(1).map(|at| self.queue[at]) {
            self.settled_size_bytes = self.settled_size_bytes.max(last.upto_size_bytes);
        }
    }

    /// Those that wait for entries up to `index`.
    pub(crate) fn take_upto(&mut self, index: LogIndex) -> Vec<(LogIndex, Token)> {
        let count = self.queue.partition_point(|waiter| waiter.index <= index);
        let taken = self.queue.drain(..count);
        taken.map(|waiter| (waiter.index, waiter.token)).collect()
    }

    /// Those whose entry is above `commit`; nothing is counted as uncommitted any more.
    fn take_after(&mut self, commit: LogIndex) -> Vec<(LogIndex, Token)> {
        let keep = self.queue.partition_point(|waiter| waiter.index <= commit);
        let taken = self.queue.drain(keep..);
        taken.map(|waiter| (waiter.index, waiter.token)).collect()
    }

    pub(crate) fn take_all(&mut self) -> Vec<(LogIndex, Token)> {
        self.take_after(LogIndex(0))
    }

    /// What was appended by an earlier leadership weighs on nobody (trap 36).
    fn forget_quota(&mut self) {
        self.settled_size_bytes = self.appended_size_bytes;
    }
}

/// Entries in memory that were handed to the state machine and not reported applied.
#[derive(Clone, Debug, Default)]
pub(crate) struct ApplyWindow {
    /// Last index and size of each batch, ascending.
    batches: VecDeque<(LogIndex, usize)>,
    size_bytes: usize,
}

impl ApplyWindow {
    fn push(&mut self, last: LogIndex, size_bytes: usize) {
        self.batches.push_back((last, size_bytes));
        self.size_bytes += size_bytes;
    }

    pub(crate) fn applied(&mut self, index: LogIndex) {
        while let Some((_, size_bytes)) = self.batches.pop_front_if(|(last, _)| *last <= index) {
            self.size_bytes -= size_bytes;
        }
    }
}

impl Core {
    /// Counts who holds what, and commits what a quorum of each set in force holds durably.
    ///
    /// The configuration of the leader's latest append decides for every entry, as in the paper;
    /// braft's quorum per entry would commit older entries under older rules, and gains only that
    /// a shrinking group frees them a little earlier.
    pub(crate) fn advance_leader_commit(&mut self, out: &mut Effects) {
        let Some(agreed) = self.agreed_index() else {
            return;
        };
        // An entry of an older term is never committed by counting (trap 1).
        let own_term = self.log.term(agreed) == Some(self.hard.term);
        if agreed > self.commit && (own_term || self.bug(PlantedBug::CountOldTermEntries)) {
            self.commit_to(agreed, out);
            self.replicate(out);
        }
    }

    fn agreed_index(&self) -> Option<LogIndex> {
        let leading = self.leading.as_deref()?;
        // The leader's own copy counts only when it is durable (trap 23).
        let own = if self.bug(PlantedBug::CountOwnBeforeFlush) {
            self.log.last().index
        } else {
            self.log.durable()
        };
        if self.bug(PlantedBug::CommitByOneHalf) {
            return leading.agreed_by_current(own, |peer| peer.in_current, |peer| peer.match_index);
        }
        if self.bug(PlantedBug::LearnerCounted) {
            return leading.agreed_by_current(own, |peer| peer.member, |peer| peer.match_index);
        }
        leading.agreed(own, |peer| peer.match_index)
    }

    /// Takes everything up to `index` as committed; never goes back.
    pub(crate) fn commit_to(&mut self, index: LogIndex, out: &mut Effects) {
        if index <= self.commit {
            return;
        }
        debug_assert!(index <= self.log.last().index, "only what is in the log");
        let before = core::mem::replace(&mut self.commit, index);
        self.settle_proposals();
        self.report_configurations(before, out);
        self.on_leader_commit(out);
    }

    /// What is committed and durable here no longer counts against the backlog. Both are needed: a
    /// leader whose disk lags behind its followers must not gather entries without bound.
    pub(crate) fn settle_proposals(&mut self) {
        self.waiting.settle(self.commit.min(self.log.durable()));
    }

    /// Reports the configurations committed after `before`, but not joint stages (braft).
    fn report_configurations(&mut self, before: LogIndex, out: &mut Effects) {
        if self.history.latest().0 <= before {
            return;
        }
        let between = self.history.between(before, self.commit);
        let committed: Vec<_> = between.filter(|(_, c)| !c.is_joint()).cloned().collect();
        for (index, configuration) in committed {
            self.note_membership(&configuration, out);
            out.push(Effect::Event(Event::ConfigurationCommitted {
                index,
                configuration,
            }));
        }
    }

    /// Reports it if this node is no member any more by a committed configuration.
    pub(crate) fn note_membership(&mut self, configuration: &Configuration, out: &mut Effects) {
        if configuration.is_joint() {
            return;
        }
        let remains = configuration.contains(self.node);
        if core::mem::replace(&mut self.is_member, remains) && !remains {
            out.push(Effect::Event(Event::Removed));
        }
    }

    /// Hands committed entries to the state machine, as far as the window allows.
    ///
    /// Only what is durable *here* is handed over: a state machine ahead of its own log after a
    /// crash would need its own rules (trap 39), and a disk that lags is rare enough. While a
    /// snapshot is being fetched nothing is: it will replace the state.
    pub(crate) fn apply_committed(&mut self, out: &mut Effects) {
        let ready = if self.bug(PlantedBug::ApplyBeforeCommit) {
            self.log.durable()
        } else {
            self.commit.min(self.log.durable())
        };
        while self.applying < ready && !self.snapshots.is_fetching() {
            let window = self.settings.apply_inflight_entries_max as u64;
            let free = window.saturating_sub(self.applying.0 - self.applied.0);
            let size_bytes_free = self.apply_window_bytes();
            if free == 0 || size_bytes_free == 0 {
                return;
            }
            let first = self.applying.next();
            let last = ready.min(LogIndex(self.applying.0 + free));
            self.apply(first, last, size_bytes_free, out);
        }
    }

    /// Bytes that may still be handed over: as many as the cache may hold, so that a state machine
    /// that lags does not keep in memory what the cache has let go.
    fn apply_window_bytes(&self) -> usize {
        let max = self.settings.cache_size_bytes_max.max(1);
        max.saturating_sub(self.apply_window.size_bytes)
    }

    fn apply(&mut self, first: LogIndex, last: LogIndex, size_bytes_max: usize, out: &mut Effects) {
        let in_memory = self.log.cache_first();
        let (last, entries) = if first < in_memory {
            (last.min(in_memory.prev()), Vec::new())
        } else {
            let (entries, size_bytes) = self.log.slice(first, last, size_bytes_max);
            let last = entries.last().map_or(last, |entry| entry.id.index);
            self.apply_window.push(last, size_bytes);
            (last, entries)
        };
        self.applying = last;
        out.push(Effect::Apply(ApplyBatch {
            first,
            last,
            entries,
            waiting: self.waiting.take_upto(last),
        }));
    }

    pub(crate) fn on_applied(&mut self, index: LogIndex) {
        self.applied = self.applied.max(index.min(self.applying));
        self.apply_window.applied(self.applied);
        self.settle_replay();
    }

    /// The leadership is over. What is committed will still be answered by its application; the
    /// rest may or may not be committed by another leader.
    pub(crate) fn lose_proposals(&mut self, out: &mut Effects) {
        for (_, token) in self.waiting.take_after(self.commit) {
            Self::reject(token, RejectReason::LeadershipLost, out);
        }
        if !self.bug(PlantedBug::QuotaKept) {
            self.waiting.forget_quota();
        }
    }
}
