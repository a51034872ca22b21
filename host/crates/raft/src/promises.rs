//! What every message that leaves a replica promises, checked against its disk.

use crate::testing::Cluster;
use crate::{Configuration, HardState, LogId, Message, MessageBody, NodeId, RequestVote};

impl Cluster {
    /// Nothing leaves that is not durable, and nobody votes twice in a term.
    pub(crate) fn check_promises(&mut self, id: u64, to: u64, message: &Message) {
        let disk = &self.nodes[&id].disk;
        let held = disk.hard_state;
        let MessageBody::RequestVote(RequestVote { pre_vote: true, .. }) = message.body else {
            assert!(
                held.term >= message.term,
                "node {id}: the term is not durable"
            );
            return self.check_promises_in_term(id, to, message);
        };
    }

    fn check_promises_in_term(&mut self, id: u64, to: u64, message: &Message) {
        let disk = &self.nodes[&id].disk;
        let term = message.term;
        let voted_for = |node: u64| HardState {
            term,
            voted_for: Some(NodeId(node)),
        };
        match &message.body {
            MessageBody::RequestVote(_) => {
                assert_eq!(
                    disk.hard_state,
                    voted_for(id),
                    "node {id}: own vote not durable"
                );
            }
            MessageBody::RequestVoteReply(reply) if reply.granted && !reply.pre_vote => {
                assert_eq!(
                    disk.hard_state,
                    voted_for(to),
                    "node {id}: vote not durable"
                );
                let first = *self.votes.entry((id, term.0)).or_insert(to);
                assert_eq!(first, to, "node {id} voted twice in term {term}");
            }
            MessageBody::AppendEntriesReply(reply) if reply.conflict.is_none() => {
                // A published snapshot stands for the log up to it, even while the log is not
                // yet cut.
                let last = disk.entries.last().map_or(disk.start, |entry| entry.id);
                let snapshot = disk.snapshot.as_ref().map(|s| s.last_included.index);
                let durable = last.index.max(snapshot.unwrap_or_default());
                assert!(
                    durable >= reply.index,
                    "node {id}: {reply:?} with {durable} durable"
                );
            }
            _ => {}
        }
    }

    /// Whether every majority that `configuration` asks for holds `id` durably.
    pub(crate) fn is_held_by_quorum(&self, id: LogId, configuration: &Configuration) -> bool {
        let holds = |node: &NodeId| {
            let disk = self.nodes.get(&node.0).map(|node| &node.disk);
            disk.is_some_and(|disk| {
                let snapshot = disk.snapshot.as_ref().map(|s| s.last_included.index);
                disk.start.index.max(snapshot.unwrap_or_default()) >= id.index
                    || disk.entries.iter().any(|e| e.id == id)
            })
        };
        let mut sets = [Some(&configuration.current), configuration.old.as_ref()].into_iter();
        sets.all(|set| {
            set.is_none_or(|set| {
                let holders = set.voters.iter().filter(|node| holds(node)).count();
                holders > set.voters.len() / 2
            })
        })
    }
}
