//! A node's disk: an ordered stream of writes, of which a crash keeps a prefix.

use crate::machine::Machine;
use kontiki_raft::{
    Configuration, Entry, EntryKind, HardState, IoId, LogId, LogIndex, Persist, Recovered,
    SnapshotMeta, Term, TermStart,
};
use std::collections::VecDeque;
use std::time::Duration;

/// A published snapshot: what Raft must know and the state itself.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Its metadata, as the host hands it to the core.
    pub meta: SnapshotMeta,
    /// The state.
    pub machine: Machine,
}

/// What one node has written. Fields are what survives a crash; `pending` is what may not.
#[derive(Debug, Default)]
pub struct Disk {
    hard_state: HardState,
    /// The entry before the log.
    start: LogId,
    /// Index of the entry before `entries[0]`; the prefix up to `start` is only hidden.
    base: u64,
    entries: Vec<Entry>,
    forced: Option<(LogIndex, Configuration)>,
    promised_span: Option<Duration>,
    newest: Option<Snapshot>,
    previous: Option<Snapshot>,
    /// Compaction ordered but not possible yet, since the entry is not durable here.
    compact_upto: LogId,
    pending: VecDeque<Persist>,
    /// How many of `pending` the sync under way covers.
    syncing: usize,
    /// After a failed write nothing can be written until the node is opened again.
    failed: bool,
}

impl Disk {
    /// Queues a write. True if a sync must be started.
    pub fn write(&mut self, persist: Persist) -> bool {
        self.pending.push_back(persist);
        self.syncing == 0
    }

    /// Starts a sync of the first `writes` queued writes (at least one).
    pub fn begin_sync(&mut self, writes: usize) {
        self.syncing = writes.clamp(1, self.pending.len());
    }

    /// Writes that wait, synced or not.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// How many writes the sync under way covers.
    #[must_use]
    pub fn syncing(&self) -> usize {
        self.syncing
    }

    /// Whether a write failed since the node was opened.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.failed
    }

    /// The sync under way fails; nothing more can be written.
    pub fn fail(&mut self) {
        self.failed = true;
        self.syncing = 0;
    }

    /// Makes the first queued write durable and returns it.
    pub fn sync_one(&mut self) -> Option<Persist> {
        let persist = self.pending.pop_front()?;
        self.syncing = self.syncing.saturating_sub(1);
        self.carry_out(&persist);
        Some(persist)
    }

    /// Forgets what is not durable.
    pub fn lose_pending(&mut self) {
        self.pending.clear();
        self.syncing = 0;
        self.failed = false;
    }

    fn carry_out(&mut self, persist: &Persist) {
        if let Some(hard_state) = persist.hard_state {
            self.hard_state = hard_state;
        }
        if let Some(start) = persist.reset_log {
            self.start = start;
            self.base = start.index.0;
            self.entries.clear();
        }
        if let Some(from) = persist.truncate_from {
            let keep = from.0.saturating_sub(self.base + 1) as usize;
            self.entries.truncate(keep);
        }
        self.entries.extend_from_slice(&persist.entries);
        if let Some(forced) = &persist.forced_configuration {
            self.forced = Some(forced.clone());
        }
        if let Some(span) = persist.promised_span {
            self.promised_span = Some(span);
        }
        self.compact(self.compact_upto);
    }

    /// Hides the log up to `upto`, now or as soon as it is durable here.
    pub fn compact(&mut self, upto: LogId) {
        if upto.index > self.compact_upto.index {
            self.compact_upto = upto;
        }
        let upto = self.compact_upto;
        if upto.index > self.start.index && self.term_at(upto.index) == Some(upto.term) {
            self.start = upto;
        }
    }

    /// Publishes a snapshot; the one before it is kept.
    pub fn publish(&mut self, snapshot: Snapshot) {
        self.previous = self.newest.replace(snapshot);
    }

    /// The snapshot that ends with this entry, if it is still here.
    #[must_use]
    pub fn snapshot(&self, last_included: LogId) -> Option<&Snapshot> {
        let both = self.newest.iter().chain(&self.previous);
        both.into_iter()
            .find(|s| s.meta.last_included == last_included)
    }

    /// The newest snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<&Snapshot> {
        self.newest.as_ref()
    }

    /// Last durable entry.
    #[must_use]
    pub fn last(&self) -> LogId {
        self.entries.last().map_or(self.start, |entry| entry.id)
    }

    /// Durable term and vote.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.entry(index).map(|entry| entry.id.term)
    }

    /// A durable entry that is not compacted.
    #[must_use]
    pub fn entry(&self, index: LogIndex) -> Option<&Entry> {
        if index <= self.start.index {
            return None;
        }
        self.entries.get((index.0 - self.base - 1) as usize)
    }

    /// Durable entries `first..=last`, stopping after `size_bytes_max` but at least one; none if
    /// the first is not there.
    #[must_use]
    pub fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        size_bytes_max: usize,
    ) -> Option<Vec<Entry>> {
        let mut size_bytes = 0;
        let mut read = Vec::new();
        for index in first.0..=last.0 {
            let Some(entry) = self.entry(LogIndex(index)) else {
                break;
            };
            size_bytes += entry.size_bytes();
            if !read.is_empty() && size_bytes > size_bytes_max {
                break;
            }
            read.push(entry.clone());
        }
        (!read.is_empty()).then_some(read)
    }

    /// Last write queued, for a completion that stands for all before it.
    #[must_use]
    pub fn first_pending_io(&self) -> Option<IoId> {
        self.pending.front().map(|persist| persist.io)
    }

    /// What storage would find now. `tail_max` bounds the entries handed over in memory.
    #[must_use]
    pub fn recover(&self, tail_max: usize) -> Recovered {
        let hidden = (self.start.index.0 - self.base) as usize;
        let log = &self.entries[hidden.min(self.entries.len())..];
        let mut terms: Vec<TermStart> = Vec::new();
        let mut configurations = Vec::new();
        for entry in log {
            if terms.last().is_none_or(|run| run.term != entry.id.term) {
                terms.push(TermStart {
                    index: entry.id.index,
                    term: entry.id.term,
                });
            }
            if let EntryKind::Configuration(configuration) = &entry.kind {
                configurations.push((entry.id.index, (**configuration).clone()));
            }
        }
        Recovered {
            hard_state: self.hard_state,
            log_start: self.start,
            last: self.last(),
            terms,
            configurations,
            snapshot: self.newest.as_ref().map(|s| s.meta.clone()),
            previous_snapshot: self.previous.as_ref().map(|s| s.meta.last_included),
            forced_configuration: self.forced.clone(),
            promised_span: self.promised_span,
            tail: log[log.len() - tail_max.min(log.len())..].to_vec(),
            applied: self
                .newest
                .as_ref()
                .map_or(LogIndex(0), |s| s.machine.index()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: LogId::new(Term(term), LogIndex(index)),
            time_ns: 0,
            kind: EntryKind::Command(Bytes::from_static(b"x")),
        }
    }

    fn append(entries: Vec<Entry>) -> Persist {
        Persist {
            entries,
            ..Persist::default()
        }
    }

    #[test]
    fn a_crash_keeps_a_prefix_of_the_writes() {
        let mut disk = Disk::default();
        assert!(disk.write(append(vec![entry(1, 1)])));
        disk.begin_sync(1);
        assert!(
            !disk.write(append(vec![entry(1, 2)])),
            "a sync is under way"
        );
        disk.write(append(vec![entry(1, 3)]));
        disk.sync_one();
        disk.sync_one();
        disk.lose_pending();
        assert_eq!(disk.last(), LogId::new(Term(1), LogIndex(2)));
    }

    #[test]
    fn truncation_and_append_are_one_write() {
        let mut disk = Disk::default();
        disk.write(append(vec![entry(1, 1), entry(1, 2), entry(1, 3)]));
        disk.write(Persist {
            truncate_from: Some(LogIndex(2)),
            entries: vec![entry(2, 2)],
            ..Persist::default()
        });
        while disk.sync_one().is_some() {}
        let recovered = disk.recover(10);
        assert_eq!(recovered.last, LogId::new(Term(2), LogIndex(2)));
        let runs: Vec<_> = recovered
            .terms
            .iter()
            .map(|r| (r.index.0, r.term.0))
            .collect();
        assert_eq!(runs, [(1, 1), (2, 2)]);
    }

    #[test]
    fn compaction_waits_until_the_entry_is_durable() {
        let mut disk = Disk::default();
        disk.write(append(vec![entry(1, 1), entry(1, 2)]));
        disk.compact(LogId::new(Term(1), LogIndex(2)));
        assert_eq!(disk.recover(0).log_start, LogId::default());
        disk.sync_one();
        assert_eq!(disk.recover(0).log_start.index, LogIndex(2));
        assert_eq!(disk.read(LogIndex(2), LogIndex(2), 100), None);
    }

    #[test]
    fn a_read_stops_at_the_size_but_gives_at_least_one() {
        let mut disk = Disk::default();
        disk.write(append((1..=5).map(|i| entry(1, i)).collect()));
        disk.sync_one();
        let read = |max| disk.read(LogIndex(2), LogIndex(5), max).unwrap().len();
        assert_eq!(read(0), 1);
        assert_eq!(read(70), 2);
        assert_eq!(read(10_000), 4);
    }
}
