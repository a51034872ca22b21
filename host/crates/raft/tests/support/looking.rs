//! Looking at a cluster from outside.

use super::cluster::{Cluster, Outcome};
use super::disk::Image;
use super::network::Envelope;
use kontiki_raft::{Event, NodeId, PeerStatus, Role, Status, StopReason, Token};

impl Cluster {
    pub(crate) fn status(&self, node: u64) -> Status {
        let replica = &self.replicas[&NodeId(node)];
        let core = replica.core.as_ref().expect("a running node");
        core.status(replica.local(self.now))
    }

    pub(crate) fn role(&self, node: u64) -> Role {
        self.status(node).role
    }

    pub(crate) fn term(&self, node: u64) -> u64 {
        self.status(node).term.0
    }

    pub(crate) fn last(&self, node: u64) -> u64 {
        self.status(node).last.index.0
    }

    pub(crate) fn commit_index(&self, node: u64) -> u64 {
        self.status(node).commit_index.0
    }

    pub(crate) fn outcome(&self, token: Token) -> Outcome {
        self.outcomes[&token].clone()
    }

    pub(crate) fn events(&self, node: u64) -> &[Event] {
        &self.replicas[&NodeId(node)].events
    }

    pub(crate) fn commands(&self, node: u64) -> &[String] {
        &self.replicas[&NodeId(node)].commands
    }

    pub(crate) fn image(&self, node: u64) -> &Image {
        &self.replicas[&NodeId(node)].disk.durable
    }

    /// Whether the node leads and has announced it.
    pub(crate) fn leads(&self, node: u64) -> bool {
        let started = |event: &&Event| {
            matches!(
                event,
                Event::LeaderStarted { .. } | Event::LeaderStopped { .. }
            )
        };
        let last = self.events(node).iter().rev().find(started);
        self.is_up(node)
            && self.role(node) == Role::Leader
            && matches!(last, Some(Event::LeaderStarted { .. }))
    }

    /// The announced leader with the highest term of all running nodes.
    pub(crate) fn leader(&self) -> Option<u64> {
        let up = || self.nodes().into_iter().filter(|&node| self.is_up(node));
        let leader = up()
            .filter(|&node| self.leads(node))
            .max_by_key(|&node| self.term(node))?;
        Some(leader)
    }

    pub(crate) fn peer(&self, leader: u64, node: u64) -> PeerStatus {
        let peers = self.status(leader).peers;
        peers
            .into_iter()
            .find(|peer| peer.node == NodeId(node))
            .expect("a peer")
    }

    pub(crate) fn is_member(&self, at: u64, node: u64) -> bool {
        self.status(at).configuration.current.contains(NodeId(node))
    }

    /// Starts and stops of leadership at a node, oldest first.
    pub(crate) fn leaderships(&self, node: u64) -> Vec<(u64, Option<StopReason>)> {
        let one = |event: &Event| match *event {
            Event::LeaderStarted { term, .. } => Some((term.0, None)),
            Event::LeaderStopped { term, reason } => Some((term.0, Some(reason))),
            _ => None,
        };
        self.events(node).iter().filter_map(one).collect()
    }

    /// Waits until these nodes have applied the same, and everything the leader committed.
    pub(crate) fn await_agreement(&mut self, nodes: &[u64]) {
        let leader = self.await_leader();
        let nodes = nodes.to_vec();
        self.wait_for("all hold the same", |c| {
            let target = c.commit_index(leader);
            nodes
                .iter()
                .all(|&n| c.is_up(n) && c.replicas[&NodeId(n)].applied.0 == target)
        });
        for &node in &nodes {
            assert_eq!(self.commands(node), self.commands(leader), "node {node}");
        }
    }

    /// Counts messages sent so far that fit.
    pub(crate) fn sent(&self, fits: impl Fn(&Envelope) -> bool) -> usize {
        self.network
            .sent
            .iter()
            .filter(|envelope| fits(envelope))
            .count()
    }

    pub(crate) fn describe(&self) -> String {
        let up = self.nodes().into_iter().filter(|&node| self.is_up(node));
        let lines = up.map(|node| {
            let s = self.status(node);
            format!(
                "node {node}: {:?} term {} leader {:?} last {} commit {} {}\n",
                s.role, s.term, s.leader, s.last, s.commit_index, s.change_stage
            )
        });
        format!("at {} us\n{}", self.now.0, lines.collect::<String>())
    }
}
