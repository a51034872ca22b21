//! Membership of a group.

use crate::NodeId;
use alloc::collections::BTreeSet;

/// Voters and learners of a group. A node is one or the other, never both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberSet {
    /// Members that vote and are counted for commit.
    pub voters: BTreeSet<NodeId>,
    /// Members that receive the log but neither vote nor count.
    pub learners: BTreeSet<NodeId>,
}

impl MemberSet {
    /// A set of voters without learners.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = NodeId>) -> Self {
        Self {
            voters: voters.into_iter().collect(),
            learners: BTreeSet::new(),
        }
    }

    /// Whether `node` is a voter or a learner.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// Membership in force from some index on: one set, or two while it is changing (joint consensus,
/// Raft §6): then elections and commits need a majority of the voters of both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// The set, or the new set while joint.
    pub current: MemberSet,
    /// The set being left, while joint.
    pub old: Option<MemberSet>,
}

impl Configuration {
    /// A configuration that is not changing.
    #[must_use]
    pub fn stable(current: MemberSet) -> Self {
        Self { current, old: None }
    }

    /// Whether a change is under way.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        self.old.is_some()
    }

    /// Whether `node` votes in either set.
    #[must_use]
    pub fn is_voter(&self, node: NodeId) -> bool {
        self.current.voters.contains(&node)
            || self
                .old
                .as_ref()
                .is_some_and(|old| old.voters.contains(&node))
    }

    /// Whether `node` is in either set, in whatever part.
    #[must_use]
    pub fn contains(&self, node: NodeId) -> bool {
        self.current.contains(node) || self.old.as_ref().is_some_and(|old| old.contains(node))
    }

    /// Every member of either set, in order of id.
    #[must_use]
    pub fn members(&self) -> BTreeSet<NodeId> {
        let sets = core::iter::once(&self.current).chain(self.old.as_ref());
        sets.flat_map(|set| set.voters.iter().chain(&set.learners))
            .copied()
            .collect()
    }

    /// Bytes the configuration counts against size limits.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let sets = core::iter::once(&self.current).chain(self.old.as_ref());
        sets.map(|set| 8 * (set.voters.len() + set.learners.len()))
            .sum()
    }
}

/// A wanted change of membership.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigurationChange {
    /// Make this node a voter, whether it is a learner, or no member yet. It is caught up first.
    AddVoter(NodeId),
    /// Make this node a learner. Refused for a voter: see [`Demote`](Self::Demote).
    AddLearner(NodeId),
    /// Make this learner a voter; it is caught up first. Refused for a node that is no member.
    Promote(NodeId),
    /// Make this voter a learner. Refused for a node that is no member.
    Demote(NodeId),
    /// Take this node out.
    Remove(NodeId),
    /// Go to exactly this set, by joint consensus if more than one voter differs.
    Replace(MemberSet),
}

/// Why a change of membership is refused before anything is logged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigurationError {
    /// Another change is logged and not finished.
    #[error("another membership change is under way")]
    InProgress,
    /// Another change waits for its new voters to catch up. It can be cancelled.
    #[error("a membership change is still catching up: wait for it or cancel it")]
    CatchingUp,
    /// There is no change to cancel.
    #[error("no membership change is under way")]
    NoneUnderWay,
    /// The change to cancel is logged already: whoever leads carries it on.
    #[error("the change is logged already and cannot be cancelled")]
    Logged,
    /// The change would leave no voter.
    #[error("the change would leave the group without a voter")]
    NoVoters,
    /// A node is named as voter and as learner.
    #[error("node {0} is named both voter and learner")]
    VoterAndLearner(NodeId),
    /// The node to add as a learner votes.
    #[error("node {0} is a voter already: demote it to make it a learner")]
    IsVoter(NodeId),
    /// The node to remove, promote or demote is no member.
    #[error("node {0} is not a member")]
    NotMember(NodeId),
    /// A forced membership in which the replica that it is forced on does not vote.
    #[error("the new membership must contain this node as a voter")]
    WithoutSelf,
    /// Nothing would change.
    #[error("the group already has exactly this membership")]
    NoChange,
    /// The caller expected another membership (compare-and-set).
    #[error("the group's membership is not the expected one")]
    Unexpected,
    /// The leader has not yet committed an entry of its own term (raft-dev, "bug in single-server
    /// membership changes").
    #[error("the leader has not committed an entry of its own term yet")]
    LeaderNotReady,
}
