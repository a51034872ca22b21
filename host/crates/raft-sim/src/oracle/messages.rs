//! What may leave a replica.

use super::{Check, Oracle, Replica};
use crate::members::bit;
use crate::require;
use kontiki_raft::{
    AppendEntries, AppendEntriesReply, LogId, LogIndex, Message, MessageBody, NodeId, Term,
};

impl Oracle {
    /// A replica sends a message.
    ///
    /// # Errors
    /// It shows what is not durable, or is not true.
    pub fn sending(&mut self, n: usize, to: NodeId, message: &Message, now_us: u64) -> Check {
        self.checks.messages += 1;
        self.note_promise(n, to, message, now_us);
        let replica = &self.replicas[n];
        let term = message.term;
        require!(
            to != replica.node,
            Contract,
            "node {to} sends {message:?} to itself"
        );
        if let MessageBody::RequestVote(request) = &message.body {
            check_drained(replica, request.forced, now_us)?;
        }
        match &message.body {
            MessageBody::RequestVote(request) if request.pre_vote => return Ok(()),
            MessageBody::RequestVoteReply(reply) if reply.pre_vote => return Ok(()),
            MessageBody::RequestVote(request) => {
                check_durable_vote(replica, term, replica.node, "asks for votes")?;
                check_last(replica, request.last)?;
                self.check_promised(n, term, request.forced)?;
            }
            MessageBody::RequestVoteReply(reply) if reply.granted => {
                check_durable_vote(replica, term, to, "votes")?;
                require!(
                    now_us >= replica.bound_until || replica.opened_state.term == term,
                    LeasePromise,
                    "node {} votes for {to} before {}, though restarted under leases",
                    replica.node,
                    crate::trace::At(replica.bound_until)
                );
            }
            MessageBody::AppendEntries(append) => self.check_append(n, term, append)?,
            MessageBody::AppendEntriesReply(reply) => self.check_append_reply(n, term, reply)?,
            MessageBody::InstallSnapshotReply(reply) if reply.installed => require!(
                replica.covers(reply.last_included),
                AppendAcknowledged,
                "node {} says it holds {}, which is not durable",
                replica.node,
                reply.last_included
            ),
            MessageBody::TimeoutNow(order) if !order.leader_stepped_down => {
                let target = self.replica_of(to);
                let last = replica.written.last();
                require!(
                    target.is_some_and(|target| target.covers(last)),
                    Transfer,
                    "node {} hands over to {to}, which lacks {last}",
                    replica.node
                );
            }
            MessageBody::ReadIndexReply(reply) if reply.index.is_some() => {
                self.check_may_serve_reads(n)?;
            }
            _ => {}
        }
        let replica = &self.replicas[n];
        require!(
            term <= replica.durable_state.term,
            DurableBeforeReply,
            "node {} shows term {term}, but only term {} is durable: {message:?}",
            replica.node,
            replica.durable_state.term
        );
        Ok(())
    }

    /// A message reaches a replica.
    pub fn delivered(&mut self, n: usize, from: NodeId, message: &Message) {
        let read_only = match &message.body {
            MessageBody::AppendEntriesReply(reply) => reply.read_only,
            MessageBody::HeartbeatReply(reply) => reply.read_only,
            _ => return,
        };
        let replica = &mut self.replicas[n];
        let heard = replica.view.leads() && replica.view.term == message.term;
        // Of nodes that join or leave the leader may or may not keep what they said.
        let (_, members) = replica.members_in_force();
        if !heard || members.all() & bit(from) == 0 {
            return;
        }
        let before = replica.may_write();
        replica.told_read_only &= !bit(from);
        replica.told_read_only |= u32::from(read_only) << from.0;
        self.checks.read_only += u64::from(before && !replica.may_write());
    }

    /// Remembers what other messages will be judged by.
    fn note_promise(&mut self, n: usize, to: NodeId, message: &Message, now_us: u64) {
        let node = self.replicas[n].node;
        match &message.body {
            MessageBody::RequestVote(request) if request.pre_vote => {
                let promised = &mut self.replicas[n].promised;
                if promised.0 != request.round {
                    *promised = (request.round, bit(node));
                }
            }
            MessageBody::RequestVoteReply(reply) if reply.pre_vote && reply.granted => {
                let candidate = self.replicas.iter_mut().find(|other| other.node == to);
                if let Some(candidate) = candidate.filter(|c| c.promised.0 == reply.round) {
                    candidate.promised.1 |= bit(node);
                }
            }
            MessageBody::AppendEntriesReply(reply) if reply.conflict.is_none() => {
                self.replicas[n].acknowledge(message.term, reply.index);
            }
            MessageBody::InstallSnapshotReply(reply) if reply.installed => {
                self.replicas[n].acknowledge(message.term, reply.last_included.index);
            }
            MessageBody::HeartbeatReply(_) => {
                self.replicas[n].answered_heartbeat[to.0 as usize] = (message.term, now_us);
            }
            _ => {}
        }
    }

    fn check_promised(&self, n: usize, term: Term, forced: bool) -> Check {
        let replica = &self.replicas[n];
        let (of, promised) = replica.campaign;
        require!(
            forced || !self.gives_up || of != term || promised,
            PreVote,
            "node {} asks for votes of term {term} without the promise of a quorum",
            replica.node
        );
        Ok(())
    }

    /// Who answered a heartbeat of this leader in its term, at `since_us` or later.
    pub(super) fn heard_since(&self, n: usize, since_us: u64) -> u32 {
        let leader = &self.replicas[n];
        let (node, term) = (leader.node, leader.view.term);
        let answers = |other: &Replica| {
            let (of, at) = other.answered_heartbeat[node.0 as usize];
            at >= since_us && of == term
        };
        self.mask(answers) | bit(node)
    }

    fn check_append_reply(&self, n: usize, term: Term, reply: &AppendEntriesReply) -> Check {
        if reply.conflict.is_some() {
            return Ok(());
        }
        let replica = &self.replicas[n];
        let index = reply.index;
        require!(
            index <= replica.durable.last().index.max(replica.snapshot.index),
            AppendAcknowledged,
            "node {} acknowledges {index}, its last durable entry is {}",
            replica.node,
            replica.durable.last()
        );
        let Some(leader) = self
            .leader_of(term)
            .and_then(|leader| self.replica_of(leader))
        else {
            return Ok(());
        };
        if !leader.view.leads() || leader.view.term != term || index <= replica.snapshot.index {
            return Ok(());
        }
        let (here, there) = (
            replica.durable.term_at(index),
            leader.written.term_at(index),
        );
        require!(
            here == there || index < leader.written.start().index,
            AppendAcknowledged,
            "node {} acknowledges {index} of term {here:?} to leader {} of term {term}, which has term {there:?}",
            replica.node,
            leader.node
        );
        Ok(())
    }

    fn check_append(&self, n: usize, term: Term, append: &AppendEntries) -> Check {
        let replica = &self.replicas[n];
        // It may have stepped down by the same input, with a last word to its followers.
        require!(
            self.leader_of(term) == Some(replica.node),
            Contract,
            "node {} sends entries of term {term} as {:?} of term {}",
            replica.node,
            replica.view.role,
            replica.view.term
        );
        let last = append.entries.last().map_or(append.prev, |entry| entry.id);
        let consecutive = last.index.0 == append.prev.index.0 + append.entries.len() as u64;
        let ours = |id: LogId| id.index == LogIndex(0) || replica.written.includes(id);
        require!(
            consecutive && ours(append.prev) && ours(last),
            LogMatching,
            "leader {} sends entries {} to {last}, which are not those of its log",
            replica.node,
            append.prev
        );
        Ok(())
    }

    /// Whether the replica, if it leads, may confirm a read index.
    pub(super) fn check_may_serve_reads(&self, n: usize) -> Check {
        let replica = &self.replicas[n];
        let view = replica.view;
        require!(
            !view.leads() || replica.written.term_at(view.commit) == Some(view.term),
            ReadBeforeCommit,
            "leader {} confirms a read, but its commit {} is not of its term {}",
            replica.node,
            view.commit,
            view.term
        );
        Ok(())
    }
}

impl Replica {
    fn is_only_voter(&self) -> bool {
        let latest = self.configurations.last().expect("never empty").1;
        latest.old.is_none() && latest.current.voters == bit(self.node)
    }

    fn acknowledge(&mut self, term: Term, index: LogIndex) {
        let (of, before) = self.acknowledged;
        if term > of {
            self.acknowledged = (term, index);
        } else if term == of {
            self.acknowledged.1 = before.max(index);
        }
    }
}

fn check_durable_vote(replica: &Replica, term: Term, candidate: NodeId, does: &str) -> Check {
    require!(
        replica.votes.contains(&(term, candidate)),
        DurableBeforeReply,
        "node {} {does} in term {term} for {candidate}, but no such vote is durable ({:?} is)",
        replica.node,
        replica.durable_state
    );
    Ok(())
}

/// Whoever should lead nothing leaves elections to others while there may be others.
fn check_drained(replica: &Replica, forced: bool, now_us: u64) -> Check {
    let Some((patience_us, since)) = replica.drained.filter(|_| !forced) else {
        return Ok(());
    };
    let since = since.max(replica.leader_known_at);
    require!(
        now_us >= since + patience_us || replica.is_only_voter(),
        Drained,
        "node {} is drained, but asks for votes {} us after it last knew a leader",
        replica.node,
        now_us - since
    );
    Ok(())
}

/// A vote request compares durable logs: what is not durable may be gone when it wins.
fn check_last(replica: &Replica, last: LogId) -> Check {
    require!(
        replica.covers(last)
            && last.index <= replica.durable.last().index.max(replica.snapshot.index),
        DurableBeforeReply,
        "node {} asks for votes with last entry {last}, its last durable one is {}",
        replica.node,
        replica.durable.last()
    );
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Invariant;
    use super::super::testing::*;
    use super::*;
    use kontiki_raft::{
        HardState, Persist, ReadIndexReply, RequestVote, RequestVoteReply, Role, TimeoutNow, Token,
    };

    fn message(term: u64, body: MessageBody) -> Message {
        Message {
            term: Term(term),
            body,
        }
    }

    fn granted(term: u64) -> Message {
        let reply = RequestVoteReply {
            pre_vote: false,
            round: 1,
            granted: true,
            rejected_by_lease: false,
            disrupted: None,
        };
        message(term, MessageBody::RequestVoteReply(reply))
    }

    fn acknowledged(term: u64, index: u64) -> Message {
        let reply = AppendEntriesReply {
            sequence: 1,
            index: LogIndex(index),
            conflict: None,
            read_only: false,
            promise: None,
        };
        message(term, MessageBody::AppendEntriesReply(reply))
    }

    #[test]
    fn a_vote_that_is_not_durable_is_found() {
        let mut oracle = three();
        vote(&mut oracle, 0, 2, 3);
        oracle.sending(0, NodeId(2), &granted(3), 1).unwrap_err();
        oracle.sending(0, NodeId(3), &granted(2), 1).unwrap();
        assert_breaks(
            oracle.sending(1, NodeId(1), &granted(1), 1),
            Invariant::DurableBeforeReply,
        );
    }

    #[test]
    pub(in crate::oracle) fn a_term_that_is_not_durable_is_found() {
        let mut oracle = three();
        vote(&mut oracle, 0, 2, 3);
        let shown = |term| heartbeat_reply(term, false);
        oracle.sending(0, NodeId(2), &shown(2), 1).unwrap();
        let early = oracle.sending(0, NodeId(2), &shown(3), 1);
        assert_breaks(early, Invariant::DurableBeforeReply);
    }

    #[test]
    pub(in crate::oracle) fn a_vote_soon_after_a_restart_under_leases_is_found() {
        let mut oracle = three();
        vote(&mut oracle, 0, 2, 3);
        oracle.bind(0, 10);
        let soon = oracle.sending(0, NodeId(3), &granted(2), 9);
        assert_breaks(soon, Invariant::LeasePromise);
        oracle.sending(0, NodeId(3), &granted(2), 10).unwrap();
    }

    #[test]
    pub(in crate::oracle) fn an_acknowledgement_before_sync_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        oracle
            .persisting(1, &append(1, vec![command(1, 1, 7)]))
            .unwrap();
        let early = oracle.sending(1, NodeId(1), &acknowledged(1, 1), 1);
        assert_breaks(early, Invariant::AppendAcknowledged);
    }

    #[test]
    fn an_acknowledgement_of_other_entries_is_found() {
        let mut oracle = three();
        write_everywhere(&mut oracle, &[1], &append(1, vec![command(1, 1, 7)]));
        lead(&mut oracle, 0, 2);
        oracle
            .persisting(0, &append(1, vec![configuration(2, 1, &[1, 2, 3])]))
            .unwrap();
        vote(&mut oracle, 1, 2, 1);
        let wrong = oracle.sending(1, NodeId(1), &acknowledged(2, 1), 1);
        assert_breaks(wrong, Invariant::AppendAcknowledged);
    }

    fn requests(round: u64, pre_vote: bool) -> Message {
        let request = RequestVote {
            pre_vote,
            last: LogId::default(),
            round,
            forced: false,
            disrupted_leader: None,
            priority: 100,
            applied: None,
        };
        message(2, MessageBody::RequestVote(request))
    }

    fn promise(round: u64) -> Message {
        let reply = RequestVoteReply {
            pre_vote: true,
            round,
            granted: true,
            rejected_by_lease: false,
            disrupted: None,
        };
        message(1, MessageBody::RequestVoteReply(reply))
    }

    #[test]
    pub(in crate::oracle) fn a_promise_of_an_older_round_does_not_count() {
        let mut oracle = three();
        oracle.sending(0, NodeId(2), &requests(7, true), 1).unwrap();
        oracle.sending(0, NodeId(2), &requests(8, true), 2).unwrap();
        oracle.sending(1, NodeId(1), &promise(7), 3).unwrap();
        let hard_state = Some(HardState {
            term: Term(2),
            voted_for: Some(NodeId(1)),
        });
        let vote = Persist {
            hard_state,
            ..append(1, vec![])
        };
        write_everywhere(&mut oracle, &[0], &vote);
        let early = oracle.sending(0, NodeId(2), &requests(9, false), 4);
        assert_breaks(early, Invariant::PreVote);
    }

    #[test]
    pub(in crate::oracle) fn a_drained_node_that_campaigns_while_others_may_is_found() {
        let mut oracle = three();
        oracle.sending(0, NodeId(2), &requests(7, true), 1).unwrap();
        oracle.set_now(10);
        oracle.set_drained(0, true, 100);
        let early = oracle.sending(0, NodeId(2), &requests(8, true), 109);
        assert_breaks(early, Invariant::Drained);
        let late = requests(9, true);
        oracle.sending(0, NodeId(2), &late, 110).unwrap();
        oracle.set_drained(0, false, 100);
        oracle.sending(0, NodeId(2), &late, 11).unwrap();
    }

    #[test]
    pub(in crate::oracle) fn a_transfer_to_a_node_that_lags_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let order = TimeoutNow {
            leader_stepped_down: false,
        };
        let order = message(1, MessageBody::TimeoutNow(order));
        oracle.sending(0, NodeId(2), &order, 1).unwrap();
        let lags = oracle.sending(0, NodeId(3), &order, 1);
        assert_breaks(lags, Invariant::Transfer);
    }

    #[test]
    fn a_made_up_predecessor_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let append = AppendEntries {
            prev: LogId::new(Term(0), LogIndex(1)),
            entries: vec![],
            commit: LogIndex(0),
            sequence: 1,
        };
        let sent = oracle.sending(
            0,
            NodeId(2),
            &message(1, MessageBody::AppendEntries(append)),
            1,
        );
        assert_breaks(sent, Invariant::LogMatching);
    }

    #[test]
    pub(in crate::oracle) fn a_read_index_before_the_first_own_commit_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        oracle.begin(0, view(Role::Leader, 1, 0)).unwrap();
        let reply = ReadIndexReply {
            token: Token(1),
            index: Some(LogIndex(0)),
            busy: false,
        };
        let sent = oracle.sending(
            0,
            NodeId(2),
            &message(1, MessageBody::ReadIndexReply(reply)),
            1,
        );
        assert_breaks(sent, Invariant::ReadBeforeCommit);
    }
}
