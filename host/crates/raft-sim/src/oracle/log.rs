//! Appends, truncations and what the disk holds of them.

use super::{Check, Invariant, Oracle, Replica, broken};
use crate::machine::{Write, fingerprint};
use crate::members::Members;
use crate::require;
use kontiki_raft::{Entry, EntryKind, LogId, LogIndex, Persist, Role, Term};

/// An entry that some log held once.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) term: Term,
    before: Term,
    pub(super) fingerprint: u64,
    /// Token of the client's write, zero for anything else.
    pub(super) token: u64,
    size_bytes: u32,
}

/// Every entry that any log ever held, by index: log matching by induction. If entries of one
/// index and term are always equal *and* have predecessors of equal term, then equal entries
/// have equal histories.
#[derive(Debug, Default)]
pub(super) struct Registry {
    slots: Vec<(Known, Vec<Known>)>,
}

impl Registry {
    pub(super) fn find(&self, id: LogId) -> Option<Known> {
        let (first, more) = self.slots.get(id.index.0 as usize)?;
        std::iter::once(first)
            .chain(more)
            .find(|known| known.term == id.term)
            .copied()
    }

    /// Forgets the entries of later terms.
    pub(super) fn forget_after(&mut self, term: Term) {
        for (first, more) in &mut self.slots {
            more.retain(|known| known.term <= term);
            if first.term > term {
                *first = more.pop().unwrap_or_default();
            }
        }
    }

    fn meet(&mut self, entry: &Entry, before: Term) -> Check {
        let index = entry.id.index.0 as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, Default::default);
        }
        let known = Known {
            term: entry.id.term,
            before,
            fingerprint: fingerprint(entry),
            token: match &entry.kind {
                EntryKind::Command(payload) => Write::decode(payload).map_or(0, |w| w.token),
                _ => 0,
            },
            size_bytes: entry.size_bytes() as u32,
        };
        let (first, more) = &mut self.slots[index];
        if first.term == Term(0) {
            *first = known;
            return Ok(());
        }
        let same = std::iter::once(&*first)
            .chain(more.iter())
            .find(|other| other.term == known.term);
        match same {
            None => more.push(known),
            Some(other) => {
                require!(
                    other.fingerprint == known.fingerprint && other.before == known.before,
                    LogMatching,
                    "two entries {}: one is {:x} after term {}, the other {:x} after term {}",
                    entry.id,
                    other.fingerprint,
                    other.before,
                    known.fingerprint,
                    known.before
                );
            }
        }
        Ok(())
    }
}

impl Oracle {
    /// The configuration in force at a replica, by its own log.
    #[must_use]
    pub fn members_in_force_at(&self, n: usize) -> Members {
        self.replicas[n].members_in_force().1
    }

    /// A replica orders a write.
    ///
    /// # Errors
    /// The write takes back what must stay, or breaks the order of things.
    pub fn persisting(&mut self, n: usize, persist: &Persist) -> Check {
        self.check_sequence(n, persist)?;
        self.check_hard_state(n, persist)?;
        self.check_removal(n, persist)?;
        self.take_removal(n, persist);
        for entry in &persist.entries {
            self.check_entry(n, entry)?;
        }
        let replica = &mut self.replicas[n];
        replica.write_log(persist)?;
        if let Some((upto, configuration)) = &persist.forced_configuration {
            let forced = (*upto, Members::of(configuration));
            replica.configurations.retain(|(index, _)| index > upto);
            replica.configurations.insert(0, forced);
            replica.forced_upto = *upto;
        }
        require!(
            persist.entries.is_empty() || replica.written.last().index == persist.io.last_index,
            Contract,
            "node {}: write {:?} says its last index is {}, but it is {}",
            replica.node,
            persist.io,
            persist.io.last_index,
            replica.written.last().index
        );
        Ok(())
    }

    fn check_sequence(&mut self, n: usize, persist: &Persist) -> Check {
        let replica = &mut self.replicas[n];
        let before = replica.io_sequence.replace(persist.io.sequence);
        require!(
            before.is_none_or(|before| persist.io.sequence == before + 1),
            Contract,
            "node {}: write {} follows write {before:?}",
            replica.node,
            persist.io.sequence
        );
        Ok(())
    }

    fn check_hard_state(&mut self, n: usize, persist: &Persist) -> Check {
        let Some(new) = persist.hard_state else {
            return Ok(());
        };
        let replica = &mut self.replicas[n];
        let old = std::mem::replace(&mut replica.written_state, new);
        if new != old && new.voted_for == Some(replica.node) {
            let (_, members) = replica.members_in_force();
            replica.campaign = (new.term, members.is_quorum(replica.promised.1));
        }
        require!(
            new.term >= old.term,
            Monotonic,
            "node {} writes term {} after term {}",
            replica.node,
            new.term,
            old.term
        );
        require!(
            new.term > old.term || old.voted_for.is_none() || new.voted_for == old.voted_for,
            VoteOnce,
            "node {} writes vote {:?} after {:?} in term {}",
            replica.node,
            new.voted_for,
            old.voted_for,
            new.term
        );
        Ok(())
    }

    /// Neither truncation nor reset may take away a committed entry that the log holds.
    fn check_removal(&self, n: usize, persist: &Persist) -> Check {
        let from = match (persist.reset_log, persist.truncate_from) {
            (Some(start), _) => start.index.next(),
            (None, Some(from)) => from,
            (None, None) => return Ok(()),
        };
        let replica = &self.replicas[n];
        // Everything before a log counts as held: only a snapshot can make that true.
        require!(
            persist.reset_log.is_none() || from <= replica.snapshot.index.next(),
            IndexOrder,
            "node {} lets its log begin at {from}, its snapshot ends with {}",
            replica.node,
            replica.snapshot
        );
        let committed = self.committed.get(from.0 as usize - 1);
        let held = replica.written.term_at(from);
        require!(
            committed.is_none() || committed.map(|c| c.term) != held,
            CommittedForEver,
            "node {} removes committed entries from {} on (term {:?})",
            replica.node,
            from,
            held
        );
        Ok(())
    }

    fn take_removal(&mut self, n: usize, persist: &Persist) {
        if let Some(start) = persist.reset_log {
            let members = self.members_at(start.index);
            self.replicas[n].configurations = vec![(start.index, members)];
        }
        if let Some(from) = persist.truncate_from {
            let known = &mut self.replicas[n].configurations;
            known.retain(|(index, _)| *index < from);
        }
        // The entries follow one by one, so that each finds its predecessor.
        let removal = Persist {
            reset_log: persist.reset_log,
            truncate_from: persist.truncate_from,
            ..Persist::default()
        };
        if removal.reset_log.is_some() || removal.truncate_from.is_some() {
            self.replicas[n]
                .written
                .write(&removal)
                .expect("a removal leaves no hole");
        }
    }

    fn check_entry(&mut self, n: usize, entry: &Entry) -> Check {
        self.checks.entries += 1;
        let replica = &mut self.replicas[n];
        let last = replica.written.last();
        if entry.id.index != last.index.next() || entry.id.term < last.term {
            return broken(
                Invariant::Contract,
                format!("node {} appends {} after {last}", replica.node, entry.id),
            );
        }
        self.registry.meet(entry, last.term)?;
        let own = replica.view.leads() && replica.view.term == entry.id.term;
        if own && entry.id.term > last.term {
            require!(
                matches!(entry.kind, EntryKind::Configuration(_)),
                Contract,
                "node {}: the first entry of term {} is no configuration",
                replica.node,
                entry.id.term
            );
        }
        require!(
            !own || replica.view.role == Role::Leader
                || !matches!(entry.kind, EntryKind::Command(_)),
            Transfer,
            "node {} takes command {} while it hands leadership over",
            replica.node,
            entry.id
        );
        require!(
            !own || !replica.read_only || !matches!(entry.kind, EntryKind::Command(_)),
            ReadOnly,
            "node {} takes command {} while it is read-only",
            replica.node,
            entry.id
        );
        require!(
            !own || !matches!(entry.kind, EntryKind::Command(_)) || replica.may_write(),
            ReadOnly,
            "node {} takes command {} though {:b} of {:?} said that they are read-only",
            replica.node,
            entry.id,
            replica.told_read_only,
            replica.members_in_force()
        );
        if let EntryKind::Configuration(configuration) = &entry.kind {
            self.note_configuration(n, entry.id, Members::of(configuration), own)?;
        }
        self.replicas[n].written.push(entry.id.term);
        Ok(())
    }

    /// Bytes of the entries of a replica's log after `index`, as the core counts them.
    #[must_use]
    pub fn size_bytes_after(&self, n: usize, index: LogIndex) -> usize {
        let written = &self.replicas[n].written;
        let entries = (index.0 + 1..=written.last().index.0).map(LogIndex);
        let ids = entries.filter_map(|at| written.term_at(at).map(|term| LogId::new(term, at)));
        ids.filter_map(|id| self.registry.find(id))
            .map(|known| known.size_bytes as usize)
            .sum()
    }

    fn note_configuration(&mut self, n: usize, id: LogId, new: Members, own: bool) -> Check {
        self.checks.configurations += 1;
        let replica = &self.replicas[n];
        if own {
            check_change(replica, id, new)?;
        }
        let replica = &mut self.replicas[n];
        replica.configurations.push((id.index, new));
        // Who comes back later is asked anew.
        replica.told_read_only &= new.all();
        Ok(())
    }

    /// A write became durable.
    ///
    /// # Errors
    /// The disk's log would have a hole, or the node votes twice in a term.
    pub fn synced(&mut self, n: usize, persist: &Persist) -> Check {
        let replica = &mut self.replicas[n];
        if let Err(hole) = replica.durable.write(persist) {
            return broken(
                Invariant::Restart,
                format!(
                    "node {}: on disk {} would follow {}",
                    replica.node, hole.next, hole.last
                ),
            );
        }
        let Some(state) = persist.hard_state else {
            return Ok(());
        };
        replica.durable_state = state;
        let Some(candidate) = state.voted_for else {
            return Ok(());
        };
        let earlier = replica.votes.iter().find(|(term, _)| *term == state.term);
        match earlier {
            None => replica.votes.push((state.term, candidate)),
            Some((_, other)) => require!(
                *other == candidate,
                VoteOnce,
                "node {} voted for {other} and for {candidate} in term {}",
                replica.node,
                state.term
            ),
        }
        Ok(())
    }
}

/// Whether the leader may append this configuration now (Raft §6, thesis §4.1 to §4.3).
fn check_change(replica: &Replica, id: LogId, new: Members) -> Check {
    let (since, old) = replica.members_in_force();
    if new == old {
        return Ok(());
    }
    let commit = replica.view.commit;
    let node = replica.node;
    require!(
        since <= commit,
        ConfigurationSafety,
        "leader {node} changes the configuration at {id} while that of {since} is not committed"
    );
    require!(
        replica.written.term_at(commit) == Some(id.term),
        ConfigurationSafety,
        "leader {node} changes the configuration at {id} before an entry of its term is committed"
    );
    require!(
        is_legal_step(old, new),
        ConfigurationSafety,
        "leader {node} goes from {old:?} to {new:?} at {id}"
    );
    Ok(())
}

fn is_legal_step(old: Members, new: Members) -> bool {
    if new.current.voters == 0 {
        return false;
    }
    match (old.old, new.old) {
        (None, None) => (old.current.voters ^ new.current.voters).count_ones() <= 1,
        (None, Some(leaving)) => leaving == old.current,
        (Some(_), None) => new.current == old.current,
        (Some(_), Some(_)) => false,
    }
}

impl Replica {
    /// The configuration in force and where it came from.
    pub(super) fn members_in_force(&self) -> (LogIndex, Members) {
        *self
            .configurations
            .last()
            .expect("the first configuration stands for everything before")
    }

    /// Whether enough voters of every set in force take commands, as far as they said otherwise.
    /// The leader's own mode is another matter.
    pub(super) fn may_write(&self) -> bool {
        let (_, members) = self.members_in_force();
        members.is_quorum(!self.told_read_only)
    }

    /// The configuration in force at `index` in this replica's log.
    pub(super) fn members_at(&self, index: LogIndex) -> Members {
        let known = self.configurations.iter().rev();
        known
            .into_iter()
            .find(|(at, _)| *at <= index)
            .map_or(self.initial, |(_, members)| *members)
    }

    /// Whether this entry survives a crash of the replica.
    pub(super) fn covers(&self, id: LogId) -> bool {
        id.index <= self.snapshot.index || self.durable.includes(id)
    }

    fn write_log(&self, persist: &Persist) -> Check {
        let last = persist.entries.last().map(|entry| entry.id);
        require!(
            last.is_none_or(|last| last == self.written.last()),
            Contract,
            "node {}: entries of a write are not consecutive",
            self.node
        );
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::*;
    use super::*;
    use kontiki_raft::{HardState, NodeId};

    #[test]
    pub(in crate::oracle) fn log_matching_finds_two_entries_of_one_position() {
        let mut oracle = three();
        oracle
            .persisting(0, &append(1, vec![command(1, 1, 7)]))
            .unwrap();
        oracle
            .persisting(1, &append(1, vec![command(1, 1, 7)]))
            .unwrap();
        let other = oracle.persisting(2, &append(1, vec![command(1, 1, 8)]));
        assert_breaks(other, Invariant::LogMatching);
    }

    #[test]
    fn log_matching_finds_different_predecessors() {
        let mut oracle = three();
        let mut log = |n: usize, first: u64| {
            oracle.persisting(n, &append(1, vec![command(first, 1, 7), command(3, 2, 9)]))
        };
        log(0, 1).unwrap();
        assert_breaks(log(1, 2), Invariant::LogMatching);
    }

    #[test]
    pub(in crate::oracle) fn a_committed_entry_may_not_be_truncated() {
        let mut oracle = three();
        commit_one(&mut oracle);
        let persist = Persist {
            truncate_from: Some(LogIndex(1)),
            ..append(2, vec![])
        };
        assert_breaks(oracle.persisting(1, &persist), Invariant::CommittedForEver);
    }

    #[test]
    fn a_reset_may_not_drop_what_is_committed_beyond_it() {
        let mut oracle = three();
        commit_one(&mut oracle);
        let persist = Persist {
            reset_log: Some(LogId::default()),
            ..append(2, vec![])
        };
        assert_breaks(oracle.persisting(1, &persist), Invariant::CommittedForEver);
    }

    #[test]
    pub(in crate::oracle) fn a_reset_before_the_snapshot_is_there_is_found() {
        let mut oracle = three();
        commit_one(&mut oracle);
        let persist = Persist {
            reset_log: Some(LogId::new(Term(1), LogIndex(1))),
            ..append(1, vec![])
        };
        assert_breaks(oracle.persisting(2, &persist), Invariant::IndexOrder);
        oracle.replicas[2].snapshot = LogId::new(Term(1), LogIndex(1));
        let persist = Persist {
            io: kontiki_raft::IoId {
                sequence: 2,
                ..persist.io
            },
            ..persist
        };
        oracle.persisting(2, &persist).unwrap();
    }

    #[test]
    fn term_and_vote_only_go_forward() {
        let mut oracle = three();
        let state = |sequence, term, vote: Option<u64>| Persist {
            hard_state: Some(HardState {
                term: Term(term),
                voted_for: vote.map(NodeId),
            }),
            ..append(sequence, vec![])
        };
        oracle.persisting(0, &state(1, 4, Some(1))).unwrap();
        assert_breaks(
            oracle.persisting(0, &state(2, 3, None)),
            Invariant::Monotonic,
        );
        oracle.persisting(1, &state(1, 4, Some(1))).unwrap();
        assert_breaks(
            oracle.persisting(1, &state(2, 4, Some(2))),
            Invariant::VoteOnce,
        );
    }

    #[test]
    pub(in crate::oracle) fn a_second_vote_is_found_on_disk_after_a_crash() {
        let mut oracle = three();
        let vote = |candidate| Persist {
            hard_state: Some(HardState {
                term: Term(2),
                voted_for: Some(NodeId(candidate)),
            }),
            ..Persist::default()
        };
        oracle.synced(0, &vote(1)).unwrap();
        oracle.closed(0);
        assert_breaks(oracle.synced(0, &vote(3)), Invariant::VoteOnce);
    }

    #[test]
    pub(in crate::oracle) fn a_hole_on_disk_is_found() {
        let mut oracle = three();
        let persist = append(1, vec![command(1, 2, 7)]);
        assert_breaks(oracle.synced(0, &persist), Invariant::Restart);
    }

    #[test]
    pub(in crate::oracle) fn writes_are_numbered_and_entries_consecutive() {
        let mut oracle = three();
        oracle
            .persisting(0, &append(1, vec![command(1, 1, 7)]))
            .unwrap();
        let gap = oracle.persisting(0, &append(2, vec![command(1, 3, 8)]));
        assert_breaks(gap, Invariant::Contract);
        let skipped = oracle.persisting(0, &append(9, vec![command(1, 2, 8)]));
        assert_breaks(skipped, Invariant::Contract);
    }

    #[test]
    fn a_second_change_before_the_first_is_committed_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let change = |index, voters: &[u64]| configuration(1, index, voters);
        oracle
            .persisting(0, &append(2, vec![change(2, &[1, 2, 3, 4])]))
            .unwrap();
        let second = oracle.persisting(0, &append(3, vec![change(3, &[1, 2, 3, 4, 5])]));
        assert_breaks(second, Invariant::ConfigurationSafety);
    }

    #[test]
    fn a_change_before_the_first_own_commit_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        let entries = vec![configuration(1, 1, &[1, 2, 3, 4])];
        let early = oracle.persisting(0, &append(1, entries));
        assert_breaks(early, Invariant::ConfigurationSafety);
    }

    #[test]
    fn a_command_taken_during_a_transfer_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        oracle.begin(0, view(Role::Transferring, 1, 1)).unwrap();
        let taken = oracle.persisting(0, &append(2, vec![command(1, 2, 7)]));
        assert_breaks(taken, Invariant::Transfer);
    }

    #[test]
    fn a_command_taken_while_read_only_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        oracle.set_read_only(0, true);
        let taken = oracle.persisting(0, &append(2, vec![command(1, 2, 7)]));
        assert_breaks(taken, Invariant::ReadOnly);
    }

    #[test]
    pub(in crate::oracle) fn a_command_taken_while_too_few_voters_are_writable_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        oracle.delivered(0, NodeId(2), &heartbeat_reply(1, true));
        let first = append(2, vec![command(1, 2, 7)]);
        oracle.persisting(0, &first).unwrap();
        assert_eq!(oracle.checks.read_only, 0, "one of three is no majority");
        oracle.delivered(0, NodeId(4), &heartbeat_reply(1, true));
        oracle.delivered(0, NodeId(3), &heartbeat_reply(0, true));
        let second = append(3, vec![command(1, 3, 8)]);
        oracle.persisting(0, &second).unwrap();
        oracle.delivered(0, NodeId(3), &heartbeat_reply(1, true));
        assert_eq!(oracle.checks.read_only, 1);
        let third = append(4, vec![command(1, 4, 9)]);
        let taken = oracle.persisting(0, &third);
        assert_breaks(taken, Invariant::ReadOnly);
        oracle.delivered(0, NodeId(2), &heartbeat_reply(1, false));
        assert!(oracle.replicas[0].may_write());
    }

    #[test]
    pub(in crate::oracle) fn a_copy_that_is_counted_but_not_there_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let peer = |node, index| kontiki_raft::PeerStatus {
            node: NodeId(node),
            voter: true,
            part: kontiki_raft::PeerPart::Voter,
            state: kontiki_raft::PeerState::Replicate,
            match_index: LogIndex(index),
            next_index: LogIndex(index + 1),
            inflight_messages: 0,
            inflight_size_bytes: 0,
            last_contact: None,
            read_only: false,
            blocked: None,
            traffic: kontiki_raft::Traffic::default(),
            standing: kontiki_raft::Standing::default(),
        };
        assert_breaks(oracle.matching(0, &[peer(2, 1)]), Invariant::MatchIndex);
        oracle.replicas[1].acknowledged = (Term(1), LogIndex(1));
        oracle.replicas[2].acknowledged = (Term(1), LogIndex(1));
        oracle.matching(0, &[peer(2, 1), peer(3, 0)]).unwrap();
        assert_breaks(oracle.matching(0, &[peer(3, 1)]), Invariant::MatchIndex);
    }

    #[test]
    pub(in crate::oracle) fn two_voters_at_once_need_a_joint_stage() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let entries = vec![configuration(1, 2, &[1, 2, 3, 4, 5])];
        let jump = oracle.persisting(0, &append(2, entries));
        assert_breaks(jump, Invariant::ConfigurationSafety);
    }
}
