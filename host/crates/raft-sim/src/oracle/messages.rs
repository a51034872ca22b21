//! What may leave a replica.

use super::{Check, Oracle, Replica};
use crate::require;
use kontiki_raft::{
    AppendEntries, AppendEntriesReply, LogId, LogIndex, Message, MessageBody, NodeId, Term,
};

impl Oracle {
    /// A replica sends a message.
    ///
    /// # Errors
    /// It shows what is not durable, or is not true.
    pub fn sending(&mut self, n: usize, to: NodeId, message: &Message) -> Check {
        self.checks.messages += 1;
        let replica = &self.replicas[n];
        let term = message.term;
        require!(
            to != replica.node,
            Contract,
            "node {to} sends {message:?} to itself"
        );
        match &message.body {
            MessageBody::RequestVote(request) if request.pre_vote => return Ok(()),
            MessageBody::RequestVoteReply(reply) if reply.pre_vote => return Ok(()),
            MessageBody::RequestVote(request) => {
                check_durable_vote(replica, term, replica.node, "asks for votes")?;
                check_last(replica, request.last)?;
            }
            MessageBody::RequestVoteReply(reply) if reply.granted => {
                check_durable_vote(replica, term, to, "votes")?;
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
            MessageBody::ReadIndexReply(reply) => {
                if reply.index.is_some() {
                    self.check_may_serve_reads(n)?;
                }
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
mod tests {
    use super::super::Invariant;
    use super::super::testing::*;
    use super::*;
    use kontiki_raft::{ReadIndexReply, RequestVoteReply, Role, Token};

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
        };
        message(term, MessageBody::AppendEntriesReply(reply))
    }

    #[test]
    fn a_vote_that_is_not_durable_is_found() {
        let mut oracle = three();
        vote(&mut oracle, 0, 2, 3);
        oracle.sending(0, NodeId(2), &granted(3)).unwrap_err();
        oracle.sending(0, NodeId(3), &granted(2)).unwrap();
        assert_breaks(
            oracle.sending(1, NodeId(1), &granted(1)),
            Invariant::DurableBeforeReply,
        );
    }

    #[test]
    fn an_acknowledgement_before_sync_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        oracle
            .persisting(1, &append(1, vec![command(1, 1, 7)]))
            .unwrap();
        let early = oracle.sending(1, NodeId(1), &acknowledged(1, 1));
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
        let wrong = oracle.sending(1, NodeId(1), &acknowledged(2, 1));
        assert_breaks(wrong, Invariant::AppendAcknowledged);
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
        );
        assert_breaks(sent, Invariant::LogMatching);
    }

    #[test]
    fn a_read_index_before_the_first_own_commit_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        oracle.begin(0, view(Role::Leader, 1, 0)).unwrap();
        let reply = ReadIndexReply {
            token: Token(1),
            index: Some(LogIndex(0)),
        };
        let sent = oracle.sending(
            0,
            NodeId(2),
            &message(1, MessageBody::ReadIndexReply(reply)),
        );
        assert_breaks(sent, Invariant::ReadBeforeCommit);
    }
}
