//! Telling other nodes of the epochs of recovered groups, before and beside the messages of Raft.
//!
//! What a node says is believed when it answers, at the address where it is known to be, not when it
//! calls: a caller only causes the question. A node that comes back asks every node that it reaches
//! before it sends it anything.

use super::Transport;
use super::link::exchange_epochs;
use crate::node::handle::GroupHandle;
use crate::node::router::Router;
use kontiki_proto::v1;
use kontiki_raft::{GroupId, NodeId};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A node is asked at most so often.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// When each node was asked last.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<HashMap<NodeId, Instant>>);

impl Asked {
    /// Whether it is time to ask this node; it counts as asked then.
    fn is_due(&self, node: NodeId) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| at.elapsed() < ASK_INTERVAL);
        let due = !asked.contains_key(&node);
        if due {
            asked.insert(node, Instant::now());
        }
        due
    }
}

impl Transport {
    /// What this node knows of the epochs of its groups that were recovered.
    pub(crate) fn epochs(&self) -> v1::Epochs {
        let groups = self.inner.router.all().into_iter();
        let known = groups.filter_map(|group| group.epochs().to_wire(group.id()));
        v1::Epochs {
            node: self.inner.node.0,
            groups: known.collect(),
        }
    }

    /// Asks a connected node what it knows, soon, and tells it what this one knows.
    pub(crate) fn ask_epochs(&self, node: NodeId) {
        let links = self.inner.links.read();
        let links = links.unwrap_or_else(PoisonError::into_inner);
        let channel = links.by_id.get(&node).and_then(|link| link.channel());
        let Some(channel) = channel.filter(|_| self.inner.asked.is_due(node)) else {
            return;
        };
        let transport = self.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = exchange_epochs(&transport, node, channel) => {}
                () = transport.finishing() => {}
            }
        });
    }

    /// A node has told of epochs: if it is behind, or ahead, it is asked.
    pub(crate) fn hear_epochs(&self, told: &v1::Epochs) {
        let is_news = |told: &v1::GroupEpoch| {
            let group = self.inner.router.by_id(GroupId(told.group));
            group.is_some_and(|group| group.epochs().to_wire(group.id()).as_ref() != Some(told))
        };
        if told.groups.iter().any(is_news) {
            self.ask_epochs(NodeId(told.node));
        }
    }

    /// Passes what `node` answered on to the groups that have it for a member, or to all if the operator
    /// configured it: an epoch ends the part of whoever is not in it, so strangers are not believed.
    pub(super) async fn take_in_epochs(&self, node: NodeId, heard: v1::Epochs) {
        let router: &Router = &self.inner.router;
        for told in heard.groups {
            let group = router.by_id(GroupId(told.group));
            let believed = |it: &GroupHandle| it.has_member(node) || self.is_configured(node);
            if let Some(group) = group.filter(believed) {
                group.hear_epoch(node, told).await;
            }
        }
    }
}
