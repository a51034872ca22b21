//! What is committed, applied and saved.

use super::{Check, Committed, Invariant, Oracle, broken};
use crate::machine::{Machine, fingerprint};
use crate::members::Members;
use crate::require;
use kontiki_raft::{Entry, LogId, LogIndex, Role, SnapshotMeta};

impl Oracle {
    /// What a replica wants written is known: now its commit index must agree with that.
    ///
    /// # Errors
    /// It commits what may not be committed.
    pub fn committing(&mut self, n: usize) -> Check {
        let replica = &self.replicas[n];
        let commit = replica.view.commit;
        require!(
            commit <= replica.written.last().index,
            IndexOrder,
            "node {}: commit {commit} is beyond the last entry {}",
            replica.node,
            replica.written.last()
        );
        if commit > self.commit_index() {
            self.take_first_commit(n)
        } else {
            self.check_known_commit(n)
        }
    }

    /// A replica's effects have been carried out: now all it shows must agree with them.
    ///
    /// # Errors
    /// Its indexes are out of order, or its role disagrees with its events or its membership.
    pub fn finish(&self, n: usize) -> Check {
        let replica = &self.replicas[n];
        let (applied, commit) = (replica.applied, replica.view.commit);
        // A core that has stopped takes no notice of what its host still does.
        let stopped = replica.view.role == Role::Stopped;
        require!(
            stopped || (replica.snapshot.index <= applied && applied <= commit),
            IndexOrder,
            "node {}: snapshot {}, applied {applied}, commit {commit}",
            replica.node,
            replica.snapshot.index
        );
        self.check_member_leads(n)?;
        self.check_roles(n)
    }

    fn check_known_commit(&self, n: usize) -> Check {
        let replica = &self.replicas[n];
        let commit = replica.view.commit;
        let Some(at) = (commit.0 as usize).checked_sub(1) else {
            return Ok(());
        };
        let committed = self.committed[at].term;
        let held = replica.written.term_at(commit);
        require!(
            commit < replica.written.start().index || held == Some(committed),
            CommittedForEver,
            "node {} takes {commit} of term {held:?} as committed, but term {committed} is",
            replica.node
        );
        Ok(())
    }

    /// Somebody shows a commit index that nobody showed before.
    fn take_first_commit(&mut self, n: usize) -> Check {
        self.checks.commits += 1;
        let replica = &self.replicas[n];
        let (node, view) = (replica.node, replica.view);
        let term = replica.written.term_at(view.commit);
        require!(
            self.leader_of(view.term) == Some(node) && term == Some(view.term),
            OwnTerm,
            "node {node} ({:?} of term {}) is the first to commit {} of term {term:?}",
            view.role,
            view.term,
            view.commit
        );
        let id = LogId::new(view.term, view.commit);
        let copies = self.mask(|other| other.covers(id));
        let at = replica.members_at(view.commit);
        let (_, latest) = replica.members_in_force();
        require!(
            at.is_quorum(copies) || latest.is_quorum(copies),
            DurableQuorum,
            "node {node} commits {id} with durable copies on {copies:b} under {at:?}, later {latest:?}"
        );
        self.extend_committed(n)
    }

    fn extend_committed(&mut self, n: usize) -> Check {
        let first = self.commit_index().next();
        let last = self.replicas[n].view.commit;
        for index in (first.0..=last.0).map(LogIndex) {
            let replica = &self.replicas[n];
            let term = replica.written.term_at(index).unwrap_or_default();
            let Some(known) = self.registry.find(LogId::new(term, index)) else {
                return broken(
                    Invariant::CommittedForEver,
                    format!(
                        "node {} commits {term}.{index}, which no log ever held",
                        replica.node
                    ),
                );
            };
            let by = replica.view.term;
            self.committed.push(Committed {
                term,
                by,
                fingerprint: known.fingerprint,
                chain: 0,
            });
            if known.token != 0 {
                self.note_committed(known.token, index)?;
            }
        }
        let replica = &self.replicas[n];
        let new = replica.configurations.iter();
        let new = new.filter(|(index, _)| *index >= first && *index <= last);
        for (index, members) in new.copied() {
            self.checks.joint += u64::from(members.old.is_some());
            self.committed_members.push((index, members));
        }
        Ok(())
    }

    /// A replica hands this entry to its state machine, which then is `after`.
    ///
    /// # Errors
    /// Another entry is committed there, or none, or the states differ.
    pub fn applied(&mut self, n: usize, entry: &Entry, after: &Machine) -> Check {
        self.checks.applied += 1;
        let replica = &mut self.replicas[n];
        let (node, index) = (replica.node, entry.id.index);
        require!(
            index == replica.applied.next(),
            Contract,
            "node {node} applies {index} after {}",
            replica.applied
        );
        replica.applied = index;
        let Some(committed) = self.committed.get_mut(index.0 as usize - 1) else {
            return broken(
                Invariant::StateMachineSafety,
                format!("node {node} applies {}, which is not committed", entry.id),
            );
        };
        require!(
            committed.term == entry.id.term && committed.fingerprint == fingerprint(entry),
            StateMachineSafety,
            "node {node} applies {}, but another entry of term {} is committed there",
            entry.id,
            committed.term
        );
        if committed.chain == 0 {
            committed.chain = after.chain;
        }
        require!(
            committed.chain == after.chain,
            StateMachineSafety,
            "node {node}: its state after {} differs from another replica's",
            entry.id
        );
        Ok(())
    }

    /// A replica publishes a snapshot, its own or one it fetched.
    ///
    /// # Errors
    /// It goes back, or does not hold what is committed.
    pub fn published(&mut self, n: usize, meta: &SnapshotMeta, machine: &Machine) -> Check {
        let last = meta.last_included;
        let saved = self.committed.get((last.index.0 as usize).wrapping_sub(1));
        let members = self.members_at(last.index);
        // A forced membership overrides the log's on one survivor only: the others rightly go on
        // with their own up to there.
        let forced = self.replicas.iter().map(|replica| replica.forced_upto);
        let forced_upto = forced.max().unwrap_or_default();
        let replica = &mut self.replicas[n];
        require!(
            last.index > replica.snapshot.index,
            SnapshotOrder,
            "node {} publishes snapshot {last} after {}",
            replica.node,
            replica.snapshot
        );
        require!(
            saved.is_some_and(|c| c.term == last.term && c.chain == machine.chain),
            StateMachineSafety,
            "node {}: snapshot {last} does not hold what is committed",
            replica.node
        );
        require!(
            last.index <= forced_upto || members == Members::of(&meta.configuration),
            AppliedConfiguration,
            "node {}: snapshot {last} says {:?}, the log {members:?}",
            replica.node,
            meta.configuration
        );
        replica.snapshot = last;
        Ok(())
    }

    /// A fetched snapshot was loaded: everything up to its end counts as applied.
    ///
    /// # Errors
    /// More than that was applied before.
    pub fn loaded(&mut self, n: usize, last_included: LogId) -> Check {
        let replica = &mut self.replicas[n];
        require!(
            last_included.index > replica.applied,
            SnapshotOrder,
            "node {} loads snapshot {last_included} over applied {}",
            replica.node,
            replica.applied
        );
        replica.applied = last_included.index;
        Ok(())
    }

    /// A replica wants a snapshot, or wants its log compacted up to one.
    ///
    /// # Errors
    /// It would go back, or lose what no snapshot holds.
    pub fn fetching(&self, n: usize, meta: &SnapshotMeta) -> Check {
        let replica = &self.replicas[n];
        require!(
            meta.last_included.index > replica.applied,
            SnapshotOrder,
            "node {} fetches snapshot {} but has applied {}",
            replica.node,
            meta.last_included,
            replica.applied
        );
        Ok(())
    }

    /// A replica wants its log compacted.
    ///
    /// # Errors
    /// No snapshot holds what would go.
    pub fn compacting(&self, n: usize, upto: LogId) -> Check {
        let replica = &self.replicas[n];
        require!(
            upto.index <= replica.snapshot.index,
            IndexOrder,
            "node {} compacts its log up to {upto}, its snapshot ends with {}",
            replica.node,
            replica.snapshot
        );
        let committed = self.committed.get((upto.index.0 as usize).wrapping_sub(1));
        require!(
            upto.index == LogIndex(0) || committed.is_some_and(|c| c.term == upto.term),
            Contract,
            "node {} compacts its log up to {upto}, which is not committed",
            replica.node
        );
        Ok(())
    }

    /// A membership was forced on a survivor of a lost majority: what only the dead held is
    /// forgotten, and the survivor's log is the truth.
    pub fn forgive(&mut self, survivor: usize) {
        let written = &self.replicas[survivor].written;
        let kept = self.committed.iter().enumerate();
        let kept = kept
            .take_while(|(at, c)| {
                let index = LogIndex(*at as u64 + 1);
                index <= written.start().index || written.term_at(index) == Some(c.term)
            })
            .count();
        // The dead may have led, and written, in terms that no survivor ever heard of.
        let term = self.replicas[survivor].view.term;
        self.leaders.truncate(term.0 as usize + 1);
        self.registry.forget_after(term);
        self.committed.truncate(kept);
        let last = LogIndex(kept as u64);
        self.committed_members.retain(|(index, _)| *index <= last);
        self.completed = self.completed.min(last);
        self.forgive_requests(last);
    }

    /// From now on these members are in force, by order of an operator.
    pub fn force_members(&mut self, members: Members) {
        let last = self.commit_index();
        self.committed_members.push((last, members));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    pub(in crate::oracle) fn a_commit_without_durable_copies_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        let write = append(1, vec![configuration(1, 1, &[1, 2, 3])]);
        oracle.persisting(0, &write).unwrap();
        oracle.persisting(1, &write).unwrap();
        oracle.synced(0, &write).unwrap();
        oracle.begin(0, view(Role::Leader, 1, 1)).unwrap();
        let commit = oracle.committing(0);
        assert_breaks(commit, Invariant::DurableQuorum);
    }

    #[test]
    fn a_commit_by_one_half_of_a_joint_configuration_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let joint = joint(1, 2, &[1, 4, 5], &[1, 2, 3]);
        let write = append(2, vec![joint]);
        oracle.persisting(0, &write).unwrap();
        oracle.synced(0, &write).unwrap();
        let mut catch_up = append(1, vec![configuration(1, 1, &[1, 2, 3])]);
        catch_up.entries.extend(write.entries);
        for n in [3, 4] {
            oracle.persisting(n, &catch_up).unwrap_or_default();
            oracle.synced(n, &catch_up).unwrap();
        }
        oracle.begin(0, view(Role::Leader, 1, 2)).unwrap();
        let commit = oracle.committing(0);
        assert_breaks(commit, Invariant::DurableQuorum);
    }

    #[test]
    pub(in crate::oracle) fn a_commit_by_counting_an_older_term_is_found() {
        let mut oracle = three();
        let write = append(1, vec![configuration(1, 1, &[1, 2, 3])]);
        write_everywhere(&mut oracle, &[0, 1], &write);
        lead(&mut oracle, 0, 2);
        oracle.begin(0, view(Role::Leader, 2, 1)).unwrap();
        let commit = oracle.committing(0);
        assert_breaks(commit, Invariant::OwnTerm);
    }

    #[test]
    fn a_follower_may_not_be_the_first_to_commit() {
        let mut oracle = three();
        let write = append(1, vec![configuration(1, 1, &[1, 2, 3])]);
        write_everywhere(&mut oracle, &[0, 1, 2], &write);
        oracle.begin(1, view(Role::Follower, 1, 1)).unwrap();
        let commit = oracle.committing(1);
        assert_breaks(commit, Invariant::OwnTerm);
    }

    #[test]
    fn another_entry_taken_as_committed_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 2);
        let write = append(1, vec![configuration(2, 1, &[1, 2, 3])]);
        write_everywhere(&mut oracle, &[0, 1], &write);
        oracle.begin(0, view(Role::Leader, 2, 1)).unwrap();
        start_leading(&mut oracle, 0, 2);
        oracle.committing(0).unwrap();
        oracle.finish(0).unwrap();
        let stale = append(1, vec![configuration(1, 1, &[1, 2, 3])]);
        oracle.persisting(2, &stale).unwrap();
        oracle.begin(2, view(Role::Follower, 2, 1)).unwrap();
        let commit = oracle.committing(2);
        assert_breaks(commit, Invariant::CommittedForEver);
    }

    #[test]
    fn a_commit_beyond_the_log_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        oracle.begin(2, view(Role::Follower, 1, 1)).unwrap();
        let commit = oracle.committing(2);
        assert_breaks(commit, Invariant::IndexOrder);
    }

    #[test]
    fn applying_before_commit_or_something_else_is_found() {
        let mut oracle = three();
        let entry = command(1, 1, 7);
        let mut machine = Machine::default();
        machine.apply(&entry);
        let early = oracle.applied(0, &entry, &machine);
        assert_breaks(early, Invariant::StateMachineSafety);
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let other = oracle.applied(0, &entry, &machine);
        assert_breaks(other, Invariant::StateMachineSafety);
    }

    #[test]
    pub(in crate::oracle) fn replicas_whose_states_differ_are_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        let entry = commit_one(&mut oracle);
        let mut machine = Machine::default();
        machine.apply(&entry);
        oracle.applied(0, &entry, &machine).unwrap();
        machine.chain ^= 1;
        let differs = oracle.applied(1, &entry, &machine);
        assert_breaks(differs, Invariant::StateMachineSafety);
    }

    #[test]
    pub(in crate::oracle) fn a_snapshot_that_goes_back_or_lies_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        let entry = commit_one(&mut oracle);
        let mut machine = Machine::default();
        machine.apply(&entry);
        oracle.applied(0, &entry, &machine).unwrap();
        let meta = SnapshotMeta {
            last_included: entry.id,
            configuration: machine.members.to_configuration(),
        };
        let lie = SnapshotMeta {
            configuration: Members::default().to_configuration(),
            ..meta.clone()
        };
        let wrong = oracle.published(0, &lie, &machine);
        assert_breaks(wrong, Invariant::AppliedConfiguration);
        assert_breaks(oracle.fetching(0, &meta), Invariant::SnapshotOrder);
        assert_breaks(oracle.loaded(0, entry.id), Invariant::SnapshotOrder);
        assert_breaks(oracle.compacting(0, entry.id), Invariant::IndexOrder);
        oracle.published(0, &meta, &machine).unwrap();
        let again = oracle.published(0, &meta, &machine);
        assert_breaks(again, Invariant::SnapshotOrder);
    }
}
