//! The terms of a log, without its entries: all that most invariants look at.

use kontiki_raft::{LogId, LogIndex, Persist, Term};

/// Terms by index, after an entry that stands for everything before.
#[derive(Clone, Debug, Default)]
pub struct TermLog {
    start: LogId,
    base: u64,
    terms: Vec<Term>,
}

/// A write that would leave a hole, or whose entries are not consecutive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Last entry before the write.
    pub last: LogId,
    /// First entry that does not fit.
    pub next: LogId,
}

impl TermLog {
    /// An empty log after `start`.
    #[must_use]
    pub fn after(start: LogId) -> Self {
        Self {
            start,
            base: start.index.0,
            terms: Vec::new(),
        }
    }

    /// The entry before the log.
    #[must_use]
    pub fn start(&self) -> LogId {
        self.start
    }

    /// Last entry.
    #[must_use]
    pub fn last(&self) -> LogId {
        let index = self.base + self.terms.len() as u64;
        match self.terms.last() {
            Some(term) if index > self.start.index.0 => LogId::new(*term, LogIndex(index)),
            _ => self.start,
        }
    }

    /// Term of the entry at `index`, also of the one before the log; none if it is not known.
    #[must_use]
    pub fn term_at(&self, index: LogIndex) -> Option<Term> {
        if index < self.start.index {
            return None;
        }
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.terms.get((index.0 - self.base - 1) as usize).copied()
    }

    /// Whether the log, or what stands before it, includes this entry. What lies before the log
    /// was committed once, so it is taken as included.
    #[must_use]
    pub fn includes(&self, id: LogId) -> bool {
        id.index < self.start.index || self.term_at(id.index) == Some(id.term)
    }

    /// Appends an entry of this term; its place has been checked.
    pub fn push(&mut self, term: Term) {
        self.terms.push(term);
    }

    /// Carries out a write.
    ///
    /// # Errors
    /// The write does not fit the log.
    pub fn write(&mut self, persist: &Persist) -> Result<(), Hole> {
        if let Some(start) = persist.reset_log {
            *self = Self::after(start);
        }
        if let Some(from) = persist.truncate_from {
            let keep = from.0.saturating_sub(self.base + 1) as usize;
            self.terms.truncate(keep);
        }
        for entry in &persist.entries {
            let last = self.base + self.terms.len() as u64;
            if entry.id.index.0 != last + 1 {
                return Err(Hole {
                    last: self.last(),
                    next: entry.id,
                });
            }
            self.terms.push(entry.id.term);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_raft::{Entry, EntryKind};

    fn entry(term: u64, index: u64) -> Entry {
        Entry {
            id: LogId::new(Term(term), LogIndex(index)),
            time_ns: 0,
            kind: EntryKind::Command(bytes::Bytes::new()),
        }
    }

    #[test]
    fn follows_appends_truncations_and_resets() {
        let mut log = TermLog::default();
        let entries = vec![entry(1, 1), entry(1, 2), entry(2, 3)];
        log.write(&Persist {
            entries,
            ..Persist::default()
        })
        .unwrap();
        assert_eq!(log.last(), LogId::new(Term(2), LogIndex(3)));
        let persist = Persist {
            truncate_from: Some(LogIndex(2)),
            entries: vec![entry(3, 2)],
            ..Persist::default()
        };
        log.write(&persist).unwrap();
        assert_eq!(log.term_at(LogIndex(2)), Some(Term(3)));
        assert_eq!(log.term_at(LogIndex(3)), None);
        let reset_log = Some(LogId::new(Term(3), LogIndex(9)));
        log.write(&Persist {
            reset_log,
            ..Persist::default()
        })
        .unwrap();
        assert_eq!(log.last().index, LogIndex(9));
        assert!(log.includes(LogId::new(Term(1), LogIndex(4))));
    }

    #[test]
    fn a_hole_is_refused() {
        let mut log = TermLog::default();
        let persist = Persist {
            entries: vec![entry(1, 2)],
            ..Persist::default()
        };
        assert!(log.write(&persist).is_err());
    }
}
