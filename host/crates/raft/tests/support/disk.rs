//! The disk of a replica: what was written, what is durable, what a crash leaves.

use kontiki_raft::{
    Configuration, Entry, EntryKind, HardState, IoId, LogId, LogIndex, Persist, ReadError,
    Recovered, SnapshotMeta, Term, TermStart,
};
use std::collections::VecDeque;
use std::time::Duration;

/// The replica's files at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) hard_state: HardState,
    pub(crate) log_start: LogId,
    pub(crate) entries: Vec<Entry>,
    pub(crate) forced: Option<(LogIndex, Configuration)>,
    pub(crate) promised_span: Option<Duration>,
}

/// A published snapshot: what Raft knows of it, and the state machine's part.
#[derive(Clone, Debug, Default)]
pub(crate) struct Saved {
    pub(crate) meta: SnapshotMeta,
    pub(crate) commands: Vec<String>,
}

impl Image {
    pub(crate) fn last(&self) -> LogId {
        self.entries.last().map_or(self.log_start, |entry| entry.id)
    }

    /// Terms of the entries, first to last.
    pub(crate) fn terms(&self) -> Vec<u64> {
        self.entries.iter().map(|entry| entry.id.term.0).collect()
    }

    /// Carries a write out; a write that leaves a hole or takes a vote back fails the test.
    pub(crate) fn carry_out(&mut self, write: &Persist) {
        if let Some(hard_state) = write.hard_state {
            self.adopt(hard_state);
        }
        if let Some(span) = write.promised_span {
            self.promised_span = Some(span);
        }
        if let Some(start) = write.reset_log {
            self.log_start = start;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            assert!(from > self.log_start.index, "truncates before the log");
            self.entries.retain(|entry| entry.id.index < from);
        }
        for entry in &write.entries {
            assert_eq!(entry.id.index, self.last().index.next(), "hole in the log");
            self.entries.push(entry.clone());
        }
        if let Some(forced) = &write.forced_configuration {
            self.forced = Some(forced.clone());
        }
    }

    fn adopt(&mut self, new: HardState) {
        let old = self.hard_state;
        assert!(new.term >= old.term, "term falls from {old:?} to {new:?}");
        let changes_vote = old.voted_for.is_some() && new.voted_for != old.voted_for;
        assert!(
            new.term > old.term || !changes_vote,
            "vote changes within a term: {new:?}"
        );
        self.hard_state = new;
    }

    pub(crate) fn compact(&mut self, upto: LogId) {
        if upto.index > self.log_start.index {
            self.entries.retain(|entry| entry.id.index > upto.index);
            self.log_start = upto;
        }
    }

    pub(crate) fn read(
        &self,
        first: LogIndex,
        last: LogIndex,
        size_bytes_max: usize,
    ) -> Result<Vec<Entry>, ReadError> {
        if first <= self.log_start.index {
            return Err(ReadError::Compacted);
        }
        let mut size_bytes = 0;
        let wanted = self
            .entries
            .iter()
            .filter(|e| (first..=last).contains(&e.id.index));
        let fits = |entry: &&Entry| {
            size_bytes += entry.size_bytes();
            size_bytes <= size_bytes_max || entry.id.index == first
        };
        Ok(wanted.take_while(fits).cloned().collect())
    }

    /// What storage would find at the next start.
    pub(crate) fn recovered(&self, snapshots: &[Saved]) -> Recovered {
        let newest = snapshots.last().map(|saved| saved.meta.clone());
        let previous = snapshots
            .iter()
            .rev()
            .nth(1)
            .map(|saved| saved.meta.last_included);
        Recovered {
            hard_state: self.hard_state,
            log_start: self.log_start,
            last: self.last(),
            terms: self.term_starts(),
            configurations: self.configurations(),
            applied: newest
                .as_ref()
                .map_or(LogIndex(0), |meta| meta.last_included.index),
            snapshot: newest,
            previous_snapshot: previous,
            forced_configuration: self.forced.clone(),
            promised_span: self.promised_span,
            tail: self.entries.clone(),
        }
    }

    fn term_starts(&self) -> Vec<TermStart> {
        let mut starts: Vec<TermStart> = Vec::new();
        for entry in &self.entries {
            if starts.last().map(|start| start.term) != Some(entry.id.term) {
                let LogId { term, index } = entry.id;
                starts.push(TermStart { index, term });
            }
        }
        starts
    }

    fn configurations(&self) -> Vec<(LogIndex, Configuration)> {
        let configuration = |entry: &Entry| match &entry.kind {
            EntryKind::Configuration(configuration) => {
                Some((entry.id.index, configuration.as_ref().clone()))
            }
            _ => None,
        };
        self.entries.iter().filter_map(configuration).collect()
    }

    pub(crate) fn term(&self) -> Term {
        self.hard_state.term
    }
}

/// A disk: writes are in the page cache at once, durable when persisted, lost by a crash before.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    /// As the running program sees it.
    pub(crate) written: Image,
    /// As a crash leaves it.
    pub(crate) durable: Image,
    pending: VecDeque<Persist>,
    pub(crate) snapshots: Vec<Saved>,
    /// Writes wait for an order instead of being durable at once.
    pub(crate) is_held: bool,
}

impl Disk {
    pub(crate) fn holding(image: Image) -> Self {
        Self {
            written: image.clone(),
            durable: image,
            ..Self::default()
        }
    }

    pub(crate) fn write(&mut self, write: Persist) {
        self.written.carry_out(&write);
        self.pending.push_back(write);
    }

    /// Makes the oldest write durable and names it.
    pub(crate) fn persist_one(&mut self) -> Option<IoId> {
        let write = self.pending.pop_front()?;
        self.durable.carry_out(&write);
        Some(write.io)
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Power is lost: what was not durable is gone.
    pub(crate) fn crash(&mut self) {
        self.pending.clear();
        self.written = self.durable.clone();
    }

    pub(crate) fn compact(&mut self, upto: LogId) {
        self.written.compact(upto);
        self.durable.compact(upto);
    }

    /// Publishes a snapshot; two are kept.
    pub(crate) fn publish(&mut self, saved: Saved) {
        self.snapshots.push(saved);
        if self.snapshots.len() > 2 {
            self.snapshots.remove(0);
        }
    }
}
