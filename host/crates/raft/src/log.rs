//! The log as the core sees it: bounds, runs of equal terms, recent entries, and how much of it is
//! durable. Older entries are on disk only.

use crate::{Entry, LogId, LogIndex, Term, TermStart};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// In-memory view of the log. Covers `(start, last]`.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    /// The entry before the first.
    start: LogId,
    last: LogId,
    /// Runs of equal terms over `(start, last]`, ascending; the first begins at `start + 1`.
    terms: VecDeque<TermStart>,
    /// A suffix of the log, ending at `last`.
    cache: VecDeque<Entry>,
    cache_size_bytes: usize,
    /// Entries that ever went through `cache`, and their bytes.
    seen: u64,
    seen_size_bytes: u64,
    /// Every entry up to here, as it stands in memory, is on disk.
    durable: LogIndex,
}

impl Log {
    /// The log as found on disk. `tail` is kept as far as it is a proper suffix.
    pub(crate) fn new(start: LogId, last: LogId, terms: Vec<TermStart>, tail: Vec<Entry>) -> Self {
        let mut log = Self {
            start,
            last,
            terms: terms.into(),
            cache: VecDeque::new(),
            cache_size_bytes: 0,
            seen: 0,
            seen_size_bytes: 0,
            durable: last.index,
        };
        log.adopt_tail(tail);
        log
    }

    /// An empty log that begins after `start`.
    pub(crate) fn starting_after(start: LogId) -> Self {
        Self::new(start, start, Vec::new(), Vec::new())
    }

    fn adopt_tail(&mut self, tail: Vec<Entry>) {
        let mut expected = self.last.index;
        for entry in tail.into_iter().rev() {
            if entry.id.index != expected || self.term(expected) != Some(entry.id.term) {
                break;
            }
            if expected <= self.start.index {
                break;
            }
            self.count(&entry);
            self.cache.push_front(entry);
            expected = expected.prev();
        }
    }

    pub(crate) fn start(&self) -> LogId {
        self.start
    }

    pub(crate) fn last(&self) -> LogId {
        self.last
    }

    pub(crate) fn durable(&self) -> LogIndex {
        self.durable
    }

    /// Last entry that is durable, with its term.
    pub(crate) fn durable_last(&self) -> LogId {
        let term = self.term(self.durable).unwrap_or(self.start.term);
        LogId::new(term, self.durable)
    }

    pub(crate) fn cache_size_bytes(&self) -> usize {
        self.cache_size_bytes
    }

    /// Takes note of an entry that goes into memory.
    fn count(&mut self, entry: &Entry) {
        self.cache_size_bytes += entry.size_bytes();
        self.seen += 1;
        self.seen_size_bytes += entry.size_bytes() as u64;
    }

    /// Bytes of the entries from `first` on. Those in memory are counted; those before are taken to
    /// be as large as the average of all that went through memory. What is compacted counts nothing.
    pub(crate) fn size_bytes_from(&self, first: LogIndex) -> u64 {
        let first = first.max(self.start.index.next());
        let on_disk = self.cache_first().0.saturating_sub(first.0);
        let average = self.seen_size_bytes / self.seen.max(1);
        self.cached_size_bytes_from(first) as u64 + on_disk.saturating_mul(average)
    }

    fn cached_size_bytes_from(&self, first: LogIndex) -> usize {
        let skip = first.0.saturating_sub(self.cache_first().0);
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(self.cache.len());
        self.cache.range(skip..).map(Entry::size_bytes).sum()
    }

    /// First index in memory; one past the last if nothing is.
    pub(crate) fn cache_first(&self) -> LogIndex {
        LogIndex(self.last.index.0 + 1 - self.cache.len() as u64)
    }

    /// Term of the entry at `index`; nothing outside `[start, last]`. An index before the log is
    /// never given a term (trap 40).
    pub(crate) fn term(&self, index: LogIndex) -> Option<Term> {
        if index == self.last.index {
            return Some(self.last.term);
        }
        if index > self.last.index || index < self.start.index {
            return None;
        }
        if index == self.start.index {
            return Some(self.start.term);
        }
        Some(self.terms[self.run_of(index)?].term)
    }

    pub(crate) fn contains(&self, id: LogId) -> bool {
        self.term(id.index) == Some(id.term)
    }

    /// Position in `terms` of the run that holds `index`, which lies in `(start, last]`.
    fn run_of(&self, index: LogIndex) -> Option<usize> {
        match self.terms.back() {
            Some(run) if run.index <= index => Some(self.terms.len() - 1),
            _ => self
                .terms
                .partition_point(|run| run.index <= index)
                .checked_sub(1),
        }
    }

    /// The last entry at or before `index` whose term is at most `term`: where a log that has
    /// `term` at `index` may still agree with this one. Skips whole terms.
    pub(crate) fn last_agreeing(&self, index: LogIndex, term: Term) -> LogId {
        let index = index.min(self.last.index);
        if index <= self.start.index {
            return self.start;
        }
        let runs = self.terms.partition_point(|run| run.term <= term);
        let Some(run) = runs.checked_sub(1).map(|at| self.terms[at]) else {
            return self.start;
        };
        if run.index > index {
            // The fitting run begins later; the one that holds `index` has a lower term still.
            return LogId::new(self.term(index).unwrap_or(self.start.term), index);
        }
        let end = self
            .terms
            .get(runs)
            .map_or(self.last.index, |next| next.index.prev());
        LogId::new(run.term, end.min(index))
    }

    /// Appends one entry directly after the last.
    pub(crate) fn append(&mut self, entry: Entry) {
        debug_assert_eq!(entry.id.index, self.last.index.next(), "no hole in the log");
        debug_assert!(entry.id.term >= self.last.term, "terms never fall");
        if entry.id.term != self.last.term || self.terms.is_empty() {
            self.terms.push_back(TermStart {
                index: entry.id.index,
                term: entry.id.term,
            });
        }
        self.last = entry.id;
        self.count(&entry);
        self.cache.push_back(entry);
    }

    /// Removes the entries from `from` on; `from` lies in `(start, last]`.
    pub(crate) fn truncate(&mut self, from: LogIndex) {
        let keep = from.prev();
        let last = LogId::new(self.term(keep).unwrap_or(self.start.term), keep);
        while self
            .cache
            .back()
            .is_some_and(|entry| entry.id.index >= from)
        {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_size_bytes -= entry.size_bytes();
            }
        }
        while self.terms.back().is_some_and(|run| run.index >= from) {
            self.terms.pop_back();
        }
        self.last = last;
        self.durable = self.durable.min(keep);
    }

    /// Forgets the entries up to and including `upto`, which lies in `[start, last]`.
    pub(crate) fn compact(&mut self, upto: LogId) {
        while self
            .cache
            .front()
            .is_some_and(|entry| entry.id.index <= upto.index)
        {
            self.drop_front();
        }
        while self
            .terms
            .get(1)
            .is_some_and(|next| next.index <= upto.index.next())
        {
            self.terms.pop_front();
        }
        if upto.index >= self.last.index {
            self.terms.clear();
        } else if let Some(front) = self.terms.front_mut() {
            front.index = front.index.max(upto.index.next());
        }
        self.start = upto;
    }

    /// Records that everything up to `index`, as it stands now, is on disk.
    pub(crate) fn mark_durable(&mut self, index: LogIndex) {
        self.durable = self.durable.max(index.min(self.last.index));
    }

    /// Drops the oldest entries from memory while more than `size_bytes_max` is held. Entries that
    /// are not durable stay, they could not be read back.
    pub(crate) fn evict(&mut self, size_bytes_max: usize) {
        while self.cache_size_bytes > size_bytes_max
            && self
                .cache
                .front()
                .is_some_and(|entry| entry.id.index <= self.durable)
        {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_size_bytes -= entry.size_bytes();
        }
    }

    /// Entries in memory from `first` on, at most up to `last`, stopping after `size_bytes_max`
    /// but with at least one; none if `first` is not in memory. Also says their size.
    pub(crate) fn slice(
        &self,
        first: LogIndex,
        last: LogIndex,
        size_bytes_max: usize,
    ) -> (Vec<Entry>, usize) {
        let Some(skip) = first.0.checked_sub(self.cache_first().0) else {
            return (Vec::new(), 0);
        };
        let skip = usize::try_from(skip)
            .unwrap_or(usize::MAX)
            .min(self.cache.len());
        let wanted = usize::try_from((last.0 + 1).saturating_sub(first.0)).unwrap_or(usize::MAX);
        let available = self.cache.range(skip..).take(wanted);
        let (mut count, mut size_bytes) = (0, 0);
        for entry in available.clone() {
            let next = size_bytes + entry.size_bytes();
            if count > 0 && next > size_bytes_max {
                break;
            }
            (count, size_bytes) = (count + 1, next);
        }
        (available.take(count).cloned().collect(), size_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntryKind;
    use alloc::vec;
    use bytes::Bytes;

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: LogId::new(Term(term), LogIndex(index)),
            time_ns: 0,
            kind: EntryKind::Command(Bytes::from_static(b"12345678")),
        }
    }

    fn log_of(terms: &[u64]) -> Log {
        let mut log = Log::starting_after(LogId::default());
        for (at, &term) in terms.iter().enumerate() {
            log.append(entry(term, at as u64 + 1));
        }
        log
    }

    #[test]
    fn terms_are_known_inside_and_unknown_outside() {
        let mut log = log_of(&[1, 1, 2, 2, 5]);
        assert_eq!(log.term(LogIndex(0)), Some(Term(0)));
        assert_eq!(log.term(LogIndex(2)), Some(Term(1)));
        assert_eq!(log.term(LogIndex(4)), Some(Term(2)));
        assert_eq!(log.term(LogIndex(6)), None);
        log.compact(LogId::new(Term(2), LogIndex(3)));
        assert_eq!(log.term(LogIndex(2)), None);
        assert_eq!(log.term(LogIndex(3)), Some(Term(2)));
        assert_eq!(log.term(LogIndex(4)), Some(Term(2)));
        assert_eq!(log.term(LogIndex(5)), Some(Term(5)));
    }

    #[test]
    fn last_agreeing_equals_a_walk() {
        let terms = [1, 1, 1, 3, 3, 4, 7, 7];
        let log = log_of(&terms);
        for index in 0..=9u64 {
            for term in 0..=8u64 {
                let walk = (1..=index.min(8))
                    .rev()
                    .find(|&i| terms[i as usize - 1] <= term)
                    .unwrap_or(0);
                let found = log.last_agreeing(LogIndex(index), Term(term));
                assert_eq!(found.index.0, walk, "index {index} term {term}");
                assert_eq!(log.term(found.index), Some(found.term));
            }
        }
    }

    #[test]
    fn truncation_takes_back_durability_and_terms() {
        let mut log = log_of(&[1, 1, 2, 2]);
        log.mark_durable(LogIndex(4));
        log.truncate(LogIndex(3));
        assert_eq!(log.last(), LogId::new(Term(1), LogIndex(2)));
        assert_eq!(log.durable(), LogIndex(2));
        log.append(entry(3, 3));
        assert_eq!(log.term(LogIndex(3)), Some(Term(3)));
        assert_eq!(log.durable(), LogIndex(2));
    }

    #[test]
    fn eviction_keeps_what_is_not_durable() {
        let mut log = log_of(&[1, 1, 1, 1]);
        log.mark_durable(LogIndex(2));
        log.evict(0);
        assert_eq!(log.cache_first(), LogIndex(3));
        assert!(log.slice(LogIndex(2), LogIndex(4), 1 << 20).0.is_empty());
        assert_eq!(log.slice(LogIndex(3), LogIndex(4), 1).0.len(), 1);
        assert_eq!(log.slice(LogIndex(3), LogIndex(9), 1 << 20).0.len(), 2);
    }

    #[test]
    fn what_is_on_disk_only_is_taken_to_be_of_average_size() {
        let mut log = log_of(&[1, 1, 1, 1]);
        let all = log.size_bytes_from(LogIndex(1));
        assert_eq!(all, log.cache_size_bytes() as u64);
        log.mark_durable(LogIndex(4));
        log.evict(log.cache_size_bytes() / 2);
        assert_eq!(log.size_bytes_from(LogIndex(1)), all);
        assert_eq!(log.size_bytes_from(LogIndex(2)), all / 4 * 3);
        log.compact(LogId::new(Term(1), LogIndex(1)));
        assert_eq!(log.size_bytes_from(LogIndex(1)), all / 4 * 3);
        assert_eq!(log.size_bytes_from(LogIndex(5)), 0);
    }

    #[test]
    fn compaction_of_everything_leaves_an_empty_log() {
        let mut log = log_of(&[1, 2]);
        log.compact(LogId::new(Term(2), LogIndex(2)));
        assert_eq!(log.last(), log.start());
        assert_eq!(log.term(LogIndex(2)), Some(Term(2)));
        log.append(entry(2, 3));
        assert_eq!(log.term(LogIndex(3)), Some(Term(2)));
        assert_eq!(log.cache_size_bytes(), 40);
    }

    #[test]
    fn a_tail_that_does_not_fit_is_not_adopted() {
        let terms = vec![TermStart {
            index: LogIndex(1),
            term: Term(1),
        }];
        let last = LogId::new(Term(1), LogIndex(2));
        let log = Log::new(
            LogId::default(),
            last,
            terms,
            vec![entry(9, 1), entry(1, 2)],
        );
        assert_eq!(log.cache_first(), LogIndex(2));
    }

    #[test]
    fn what_is_cut_no_longer_counts_as_held_in_memory() {
        let mut log = log_of(&[1, 1, 1, 1]);
        let size_bytes = log.cache_size_bytes();
        log.truncate(LogIndex(3));
        assert_eq!(log.cache_size_bytes(), size_bytes / 2);
        log.mark_durable(LogIndex(2));
        log.evict(0);
        assert_eq!(log.cache_size_bytes(), 0);
    }

    #[test]
    fn a_limit_that_is_just_met_is_not_exceeded() {
        let mut log = log_of(&[1, 1, 1]);
        let (first, last) = (LogIndex(1), LogIndex(3));
        let one = entry(1, 1).size_bytes();
        assert_eq!(log.slice(first, last, 2 * one).0.len(), 2);
        assert_eq!(log.slice(first, last, 2 * one - 1).0.len(), 1);
        log.mark_durable(last);
        log.evict(3 * one);
        assert_eq!(log.cache_first(), first);
        log.evict(3 * one - 1);
        assert_eq!(log.cache_first(), LogIndex(2));
    }
}
