//! Which configuration is in force from which index on. A configuration governs from the moment
//! its entry is appended, so a truncation must be able to go back.

use crate::{Configuration, LogIndex};
use alloc::collections::VecDeque;

/// Every configuration the log may still fall back to.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// In force before the first of `entries`: from a snapshot, or the initial one at index 0.
    base: (LogIndex, Configuration),
    /// Configuration entries in the log, ascending.
    entries: VecDeque<(LogIndex, Configuration)>,
    /// Overrides everything up to this index (`reset_peers`).
    forced: Option<(LogIndex, Configuration)>,
}

impl History {
    pub(crate) fn new(
        base: (LogIndex, Configuration),
        entries: impl IntoIterator<Item = (LogIndex, Configuration)>,
        forced: Option<(LogIndex, Configuration)>,
    ) -> Self {
        let after_base = |(index, _): &(LogIndex, Configuration)| *index > base.0;
        let entries = entries.into_iter().filter(after_base).collect();
        Self {
            base,
            entries,
            forced,
        }
    }

    /// Index and content of the configuration in force now.
    pub(crate) fn latest(&self) -> (LogIndex, &Configuration) {
        let (index, configuration) = self.entries.back().unwrap_or(&self.base);
        self.unless_forced(*index, configuration)
    }

    /// Configuration in force at `index`, or nothing if that is before what is remembered.
    pub(crate) fn at(&self, index: LogIndex) -> Option<&Configuration> {
        if index < self.base.0 {
            return None;
        }
        let found = self.entries.partition_point(|(at, _)| *at <= index);
        let (at, configuration) = match found.checked_sub(1) {
            Some(position) => &self.entries[position],
            None => &self.base,
        };
        Some(self.unless_forced(*at, configuration).1)
    }

    fn unless_forced<'a>(
        &'a self,
        index: LogIndex,
        configuration: &'a Configuration,
    ) -> (LogIndex, &'a Configuration) {
        match &self.forced {
            Some((upto, forced)) if index <= *upto => (*upto, forced),
            _ => (index, configuration),
        }
    }

    /// Configurations from the one in force at `index` up to the latest: those that may turn out to
    /// be in force once it is known what is committed.
    pub(crate) fn since(&self, index: LogIndex) -> impl Iterator<Item = &Configuration> {
        let later = self.entries.iter().filter(move |(at, _)| *at > index);
        let later = later.map(|(at, configuration)| self.unless_forced(*at, configuration).1);
        self.at(index).into_iter().chain(later)
    }

    /// Configuration entries in `(after, upto]`, but none that is overridden.
    pub(crate) fn between(
        &self,
        after: LogIndex,
        upto: LogIndex,
    ) -> impl Iterator<Item = &(LogIndex, Configuration)> {
        let overridden = self.forced.as_ref().map_or(LogIndex(0), |(upto, _)| *upto);
        let after = after.max(overridden);
        let from = self.entries.partition_point(|(at, _)| *at <= after);
        self.entries
            .range(from..)
            .take_while(move |(at, _)| *at <= upto)
    }

    pub(crate) fn append(&mut self, index: LogIndex, configuration: Configuration) {
        self.entries.push_back((index, configuration));
    }

    /// Forgets configurations from `from` on. A forced one keeps overriding what is left, but not
    /// what a new leader writes in place of what was removed; says whether it was narrowed so.
    pub(crate) fn truncate(&mut self, from: LogIndex) -> bool {
        while self.entries.back().is_some_and(|(at, _)| *at >= from) {
            self.entries.pop_back();
        }
        match &mut self.forced {
            Some((upto, _)) if *upto >= from => {
                *upto = from.prev();
                true
            }
            _ => false,
        }
    }

    /// Forgets what is not needed to know the configuration from `upto` on.
    pub(crate) fn compact(&mut self, upto: LogIndex) {
        while self.entries.front().is_some_and(|(at, _)| *at <= upto) {
            if let Some(entry) = self.entries.pop_front() {
                self.base = entry;
            }
        }
    }

    /// Starts anew from a snapshot.
    pub(crate) fn reset(&mut self, index: LogIndex, configuration: Configuration) {
        self.base = (index, configuration);
        self.entries.clear();
    }

    pub(crate) fn force(&mut self, upto: LogIndex, configuration: Configuration) {
        self.forced = Some((upto, configuration));
    }

    pub(crate) fn forced(&self) -> Option<&(LogIndex, Configuration)> {
        self.forced.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemberSet, NodeId};

    fn of(voters: &[u64]) -> Configuration {
        Configuration::stable(MemberSet::of_voters(voters.iter().map(|&id| NodeId(id))))
    }

    fn history() -> History {
        let entries = [(LogIndex(3), of(&[1, 2])), (LogIndex(7), of(&[1, 2, 3]))];
        History::new((LogIndex(0), of(&[1])), entries, None)
    }

    #[test]
    fn truncation_falls_back_to_the_configuration_before() {
        let mut history = history();
        assert_eq!(history.latest(), (LogIndex(7), &of(&[1, 2, 3])));
        history.truncate(LogIndex(7));
        assert_eq!(history.latest(), (LogIndex(3), &of(&[1, 2])));
        history.truncate(LogIndex(1));
        assert_eq!(history.latest(), (LogIndex(0), &of(&[1])));
    }

    #[test]
    fn at_and_compact_agree() {
        let mut history = history();
        assert_eq!(history.at(LogIndex(2)), Some(&of(&[1])));
        assert_eq!(history.at(LogIndex(6)), Some(&of(&[1, 2])));
        history.compact(LogIndex(5));
        assert_eq!(history.at(LogIndex(6)), Some(&of(&[1, 2])));
        assert_eq!(history.at(LogIndex(2)), None);
        assert_eq!(history.since(LogIndex(6)).count(), 2);
    }

    #[test]
    fn a_forced_configuration_overrides_up_to_its_index_only() {
        let mut history = history();
        history.force(LogIndex(9), of(&[1]));
        assert_eq!(history.latest(), (LogIndex(9), &of(&[1])));
        history.append(LogIndex(10), of(&[1, 4]));
        assert_eq!(history.latest(), (LogIndex(10), &of(&[1, 4])));
        assert!(history.truncate(LogIndex(8)));
        history.append(LogIndex(8), of(&[5]));
        assert_eq!(history.latest(), (LogIndex(8), &of(&[5])));
    }

    #[test]
    fn the_first_index_that_is_remembered_has_its_configuration() {
        let mut history = history();
        history.compact(LogIndex(3));
        assert_eq!(history.at(LogIndex(3)), Some(&of(&[1, 2])));
        assert_eq!(history.at(LogIndex(2)), None);
        // The one in force counts once, though its entry lies at that very index.
        assert_eq!(history.since(LogIndex(7)).count(), 1);
    }

    #[test]
    fn a_cut_above_a_forced_configuration_leaves_it_as_it_is() {
        let mut history = history();
        history.force(LogIndex(4), of(&[1]));
        assert!(!history.truncate(LogIndex(7)));
        assert_eq!(history.forced(), Some(&(LogIndex(4), of(&[1]))));
        history.append(LogIndex(5), of(&[1, 9]));
        assert_eq!(history.latest(), (LogIndex(5), &of(&[1, 9])));
        assert!(history.truncate(LogIndex(4)));
        assert_eq!(history.forced(), Some(&(LogIndex(3), of(&[1]))));
    }
}
