//! Configurations as bit masks: node `n` is bit `n`, so a quorum is a count of bits.

use kontiki_raft::{Configuration, MemberSet, NodeId};

/// Node ids in a run are `1..=NODES_MAX`.
pub const NODES_MAX: usize = 31;

/// The bit of a node.
#[must_use]
pub fn bit(node: NodeId) -> u32 {
    debug_assert!((1..=NODES_MAX as u64).contains(&node.0));
    1 << node.0
}

/// Voters and learners of one set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Set {
    /// Bits of the voters.
    pub voters: u32,
    /// Bits of the learners.
    pub learners: u32,
}

impl Set {
    /// From the core's form.
    #[must_use]
    pub fn of(set: &MemberSet) -> Self {
        let mask =
            |ids: &std::collections::BTreeSet<NodeId>| ids.iter().fold(0, |m, n| m | bit(*n));
        Self {
            voters: mask(&set.voters),
            learners: mask(&set.learners),
        }
    }

    /// To the core's form.
    #[must_use]
    pub fn to_member_set(self) -> MemberSet {
        MemberSet {
            voters: nodes(self.voters).collect(),
            learners: nodes(self.learners).collect(),
        }
    }

    /// Voters and learners.
    #[must_use]
    pub fn all(self) -> u32 {
        self.voters | self.learners
    }

    /// Whether `nodes` hold a majority of the voters.
    #[must_use]
    pub fn is_majority(self, nodes: u32) -> bool {
        2 * (self.voters & nodes).count_ones() > self.voters.count_ones()
    }
}

/// A configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members {
    /// The set, or the new set while joint.
    pub current: Set,
    /// The set being left, while joint.
    pub old: Option<Set>,
}

impl Members {
    /// From the core's form.
    #[must_use]
    pub fn of(configuration: &Configuration) -> Self {
        Self {
            current: Set::of(&configuration.current),
            old: configuration.old.as_ref().map(Set::of),
        }
    }

    /// A configuration that is not changing.
    #[must_use]
    pub fn stable(current: Set) -> Self {
        Self { current, old: None }
    }

    /// To the core's form.
    #[must_use]
    pub fn to_configuration(self) -> Configuration {
        Configuration {
            current: self.current.to_member_set(),
            old: self.old.map(Set::to_member_set),
        }
    }

    /// Whether `nodes` decide: a majority of the voters of every set in force.
    #[must_use]
    pub fn is_quorum(self, nodes: u32) -> bool {
        self.current.is_majority(nodes) && self.old.is_none_or(|old| old.is_majority(nodes))
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_joint(self) -> bool {
        self.old.is_some()
    }

    /// Every member of either set.
    #[must_use]
    pub fn all(self) -> u32 {
        self.current.all() | self.old.map_or(0, Set::all)
    }

    /// Voters of either set.
    #[must_use]
    pub fn voters(self) -> u32 {
        self.current.voters | self.old.map_or(0, |old| old.voters)
    }

    /// A word that names this configuration.
    #[must_use]
    pub fn fingerprint(self) -> u64 {
        let word = |set: Set| u64::from(set.voters) << 32 | u64::from(set.learners);
        let old = self.old.map_or(0, |old| crate::random::mix(word(old) | 1));
        crate::random::mix(word(self.current)) ^ old
    }
}

/// The nodes of a mask, ascending.
pub fn nodes(mask: u32) -> impl Iterator<Item = NodeId> {
    (1..=NODES_MAX as u64)
        .filter(move |n| mask & (1 << n) != 0)
        .map(NodeId)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(voters: &[u64], learners: &[u64]) -> Set {
        let mask = |ids: &[u64]| ids.iter().fold(0, |m, n| m | bit(NodeId(*n)));
        Set {
            voters: mask(voters),
            learners: mask(learners),
        }
    }

    #[test]
    fn a_joint_quorum_needs_both_majorities_and_no_learner() {
        let members = Members {
            current: set(&[3, 4, 5], &[6]),
            old: Some(set(&[1, 2, 3], &[])),
        };
        let quorum = |ids: &[u64]| members.is_quorum(set(ids, &[]).voters);
        assert!(quorum(&[1, 3, 4]));
        assert!(!quorum(&[3, 4, 5]), "only the new majority");
        assert!(!quorum(&[1, 2, 3]), "only the old majority");
        assert!(!quorum(&[1, 3, 6]), "a learner is not counted");
        assert!(
            !Members::default().is_quorum(u32::MAX),
            "nobody decides for nobody"
        );
    }

    #[test]
    fn both_forms_agree() {
        let members = Members {
            current: set(&[1, 7], &[2]),
            old: Some(set(&[1], &[])),
        };
        assert_eq!(Members::of(&members.to_configuration()), members);
    }
}
