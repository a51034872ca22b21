//! Outcome hashes at certain indexes, by which replicas find out that they answered differently.

use kontiki_raft::LogIndex;
use std::collections::VecDeque;

/// Every so manieth index is kept for long.
const COARSE: u64 = 1_024;
/// Every so manieth index is kept for a while.
const FINE: u64 = 64;
/// How many of either are kept.
const KEPT: usize = 64;
/// How many of either another replica is told.
const TOLD: usize = 2;

/// A hash, and the index up to which it covers the log.
pub(crate) type Checkpoint = (LogIndex, u64);

/// The hashes that a replica remembers. The same indexes on every replica, so that two that are not
/// at the same place find a place where both have been.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checkpoints {
    fine: VecDeque<Checkpoint>,
    coarse: VecDeque<Checkpoint>,
    latest: Option<Checkpoint>,
}

/// What comes of comparing two replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    /// They have no place in common that is remembered.
    Nothing,
    /// They had given the same answers up to here.
    Same(LogIndex),
    /// They had not, up to here: it happened at this index or before.
    Differ(LogIndex),
}

impl Checkpoints {
    /// Notes the hash at an index, if it is one to be kept.
    pub(super) fn pass(&mut self, (index, hash): Checkpoint) {
        for (every, kept) in [(FINE, &mut self.fine), (COARSE, &mut self.coarse)] {
            if index.0.is_multiple_of(every) {
                if kept.len() == KEPT {
                    kept.pop_front();
                }
                kept.push_back((index, hash));
            }
        }
    }

    /// Whether an index is one to be kept.
    pub(super) fn keeps(index: LogIndex) -> bool {
        index.0.is_multiple_of(FINE)
    }

    /// Notes where the machine stands.
    pub(super) fn stand(&mut self, at: Checkpoint) {
        self.latest = Some(at);
    }

    /// What another replica is told: enough to find a place in common with one that is not far off.
    pub(crate) fn told(&self) -> Vec<Checkpoint> {
        let last = |kept: &VecDeque<Checkpoint>| {
            let skipped = kept.len().saturating_sub(TOLD);
            kept.iter().skip(skipped).copied().collect::<Vec<_>>()
        };
        let mut told = last(&self.coarse);
        told.extend(last(&self.fine));
        told.extend(self.latest);
        told
    }

    /// Compares with what another replica tells.
    pub(crate) fn compare(&self, told: &[Checkpoint]) -> Comparison {
        let mut result = Comparison::Nothing;
        let mut told = told.to_vec();
        told.sort_unstable();
        for (index, theirs) in told {
            let Some(ours) = self.at(index) else { continue };
            if ours != theirs {
                return Comparison::Differ(index);
            }
            result = Comparison::Same(index);
        }
        result
    }

    fn at(&self, index: LogIndex) -> Option<u64> {
        let all = self.latest.iter().chain(&self.fine).chain(&self.coarse);
        let mut all = all.filter(|(at, _)| *at == index);
        all.next().map(|(_, hash)| *hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replica at `upto` whose answers are its own from `odd` on.
    fn replica(upto: u64, odd: u64) -> Checkpoints {
        let hash = |index: u64| index * 10 + u64::from(index >= odd);
        let mut checkpoints = Checkpoints::default();
        for index in 1..=upto {
            checkpoints.pass((LogIndex(index), hash(index)));
        }
        checkpoints.stand((LogIndex(upto), hash(upto)));
        checkpoints
    }

    #[test]
    fn replicas_are_compared_where_both_have_been() {
        let compare = |one: &Checkpoints, other: &Checkpoints| one.compare(&other.told());
        let same = |index| Comparison::Same(LogIndex(index));
        let never = u64::MAX;
        assert_eq!(compare(&replica(7, never), &replica(7, never)), same(7));
        assert_eq!(
            compare(&replica(7, never), &replica(8, never)),
            Comparison::Nothing
        );
        assert_eq!(
            compare(&replica(200, never), &replica(130, never)),
            same(128)
        );
        // Far behind, as while the log is replayed.
        assert_eq!(
            compare(&replica(60_000, never), &replica(2_100, never)),
            same(2_048)
        );
        assert_eq!(
            compare(&replica(7, 5), &replica(7, never)),
            Comparison::Differ(LogIndex(7))
        );
        let differ = Comparison::Differ(LogIndex(1_024));
        assert_eq!(
            compare(&replica(1_500, 1_000), &replica(1_030, never)),
            differ
        );
    }
}
