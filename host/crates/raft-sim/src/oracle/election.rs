//! Terms, roles and who may lead.

use super::{Check, Oracle, View};
use crate::members::{Members, bit};
use crate::require;
use kontiki_raft::{LeaseStatus, LogIndex, NodeId, Role};

impl Oracle {
    /// A replica has taken an input and now shows `view`. What it wants written comes next, then
    /// [`Oracle::committing`], the other effects, and [`Oracle::finish`].
    ///
    /// # Errors
    /// The term went back, or there is a leader where none may be.
    pub fn begin(&mut self, n: usize, view: View) -> Check {
        let replica = &mut self.replicas[n];
        let old = replica.view;
        if old.leader.is_some() {
            replica.leader_known_at = self.now_us;
        }
        if old.term == view.term && old.role == view.role && old.commit == view.commit {
            replica.view.leader = view.leader;
            return Ok(());
        }
        replica.view = view;
        let node = replica.node;
        require!(
            view.term >= old.term,
            Monotonic,
            "node {node} goes from term {} to term {}",
            old.term,
            view.term
        );
        require!(
            view.commit >= old.commit,
            Monotonic,
            "node {node} takes its commit index back from {} to {}",
            old.commit,
            view.commit
        );
        if view.leads() && !(old.leads() && old.term == view.term) {
            self.check_new_leader(n)?;
        }
        Ok(())
    }

    fn check_new_leader(&mut self, n: usize) -> Check {
        self.checks.elections += 1;
        let replica = &mut self.replicas[n];
        replica.bound_until = 0;
        replica.told_read_only = 0;
        let (node, term) = (replica.node, replica.view.term);
        let slot = term.0 as usize;
        if self.leaders.len() <= slot {
            self.leaders.resize(slot + 1, None);
        }
        let earlier = self.leaders[slot].replace(node);
        require!(
            earlier.is_none(),
            ElectionSafety,
            "node {node} leads in term {term}, which node {earlier:?} led already"
        );
        let replica = &self.replicas[n];
        let votes = self.mask(|voter| voter.votes.contains(&(term, node)));
        let (since, members) = replica.members_in_force();
        require!(
            members.is_quorum(votes),
            VoteQuorum,
            "node {node} leads in term {term} with durable votes of {votes:b} under {members:?} of {since}"
        );
        // An election may be won long after a later one: only what was committed in earlier terms
        // must be there.
        let before = self.committed.partition_point(|c| c.by < term);
        let last = LogIndex(before as u64);
        let term_there = before.checked_sub(1).map(|at| self.committed[at].term);
        let held = replica.written.term_at(last);
        require!(
            last < replica.written.start().index || term_there.is_none() || term_there == held,
            LeaderCompleteness,
            "node {node} leads in term {term} but holds term {held:?} at committed index {last} (term {term_there:?})"
        );
        Ok(())
    }

    /// What a leader says of its lease while `newest` leads in a later term: whoever voted for that
    /// one had promised not to while another lease was valid. Without leases nothing is judged, nor
    /// counted.
    ///
    /// # Errors
    /// The lease is valid.
    pub fn older_lease(&mut self, n: usize, newest: usize, lease: LeaseStatus) -> Check {
        if lease == LeaseStatus::Disabled {
            return Ok(());
        }
        self.checks.leases += 1;
        require!(
            lease != LeaseStatus::Valid,
            LeaseExclusive,
            "node {} holds a valid lease of term {}, but node {} leads in term {}",
            self.replicas[n].node,
            self.replicas[n].view.term,
            self.replicas[newest].node,
            self.replicas[newest].view.term
        );
        Ok(())
    }

    /// Who led in this term, if anybody.
    #[must_use]
    pub fn leader_of(&self, term: kontiki_raft::Term) -> Option<NodeId> {
        self.leaders.get(term.0 as usize).copied().flatten()
    }

    /// A node that knows itself removed must not lead, but to hand over: neither the stable configuration committed by
    /// its own log nor a later one in it names it as a voter. (While joint it may: whoever was a
    /// voter must be able to finish a change that a dead leader left behind.)
    pub(super) fn check_member_leads(&self, n: usize) -> Check {
        let replica = &self.replicas[n];
        let (view, node) = (replica.view, replica.node);
        let later = replica.configurations.iter().rev();
        let mut later = later.take_while(|(index, _)| *index > view.commit);
        let is_voter = |members: Members| members.voters() & bit(node) != 0;
        require!(
            view.role != Role::Leader
                || replica.members_at(view.commit).is_joint()
                || is_voter(replica.members_at(view.commit))
                || later.any(|(_, members)| is_voter(*members)),
            ConfigurationSafety,
            "node {node} leads in term {} though it knows that it is no voter, at {}",
            view.term,
            view.commit
        );
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::*;
    use super::super::{Invariant, View};
    use super::*;
    use kontiki_raft::Term;

    #[test]
    pub(in crate::oracle) fn two_leaders_of_one_term_are_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        let second = oracle.begin(1, view(Role::Leader, 1, 0));
        assert_breaks(second, Invariant::ElectionSafety);
    }

    #[test]
    pub(in crate::oracle) fn a_leader_without_durable_votes_is_found() {
        let mut oracle = three();
        vote(&mut oracle, 0, 1, 1);
        let leader = oracle.begin(0, view(Role::Leader, 1, 0));
        assert_breaks(leader, Invariant::VoteQuorum);
    }

    #[test]
    pub(in crate::oracle) fn a_leader_that_lacks_a_committed_entry_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        vote(&mut oracle, 1, 2, 3);
        vote(&mut oracle, 2, 2, 3);
        let leader = oracle.begin(2, view(Role::Leader, 2, 0));
        assert_breaks(leader, Invariant::LeaderCompleteness);
    }

    #[test]
    pub(in crate::oracle) fn a_term_or_commit_index_that_goes_back_is_found() {
        let mut oracle = three();
        oracle.begin(0, view(Role::Follower, 5, 0)).unwrap();
        let back = oracle.begin(0, view(Role::Follower, 4, 0));
        assert_breaks(back, Invariant::Monotonic);
        let later = View {
            commit: LogIndex(3),
            ..view(Role::Follower, 5, 0)
        };
        oracle.begin(1, later).unwrap();
        let back = oracle.begin(1, view(Role::Follower, 5, 2));
        assert_breaks(back, Invariant::Monotonic);
    }

    #[test]
    pub(in crate::oracle) fn a_lease_that_outlives_the_next_election_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        lead(&mut oracle, 1, 2);
        oracle.older_lease(0, 1, LeaseStatus::Disabled).unwrap();
        assert_eq!(oracle.checks.leases, 0, "without leases nothing is proven");
        oracle.older_lease(0, 1, LeaseStatus::Expired).unwrap();
        assert_breaks(
            oracle.older_lease(0, 1, LeaseStatus::Valid),
            Invariant::LeaseExclusive,
        );
        assert_eq!(oracle.checks.leases, 2);
    }

    #[test]
    fn a_removed_leader_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let entry = configuration(1, 2, &[2, 3]);
        let first = configuration(1, 1, &[1, 2, 3]);
        write_everywhere(&mut oracle, &[2], &append(1, vec![first]));
        write_everywhere(&mut oracle, &[0, 1, 2], &append(2, vec![entry]));
        oracle.begin(0, view(Role::Leader, 1, 2)).unwrap();
        oracle.committing(0).unwrap();
        let still = oracle.finish(0);
        assert_breaks(still, Invariant::ConfigurationSafety);
        assert_eq!(oracle.leader_of(Term(1)), Some(NodeId(1)));
    }
}
