//! Replicas tell each other the outcome hashes they have come to, and show it if they differ.
//!
//! Nothing else would: each answers from its own state, and clients ask one at a time.

use crate::node::apply::{Checkpoint, Comparison};
use crate::node::context::Context;
use crate::node::handle::GroupHandle;
use kontiki_proto::v1;
use kontiki_raft::{GroupId, LogIndex, NodeId};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tracing::error;

/// How often hashes are compared.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time for another node to take them.
const LIMIT: Duration = Duration::from_secs(2);
/// Groups told of in one call.
const GROUPS_AT_ONCE: usize = 1_000;

/// Tells every connected node what this one's replicas have come to, until the node stops.
pub(crate) async fn run(context: Weak<Context>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let Some(closing) = context.upgrade().map(|context| context.closing.clone()) else {
        return;
    };
    loop {
        tokio::select! {
            () = closing.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(context) = context.upgrade() else {
            return;
        };
        tokio::select! {
            () = closing.cancelled() => return,
            () = tell_all(&context) => {}
        }
    }
}

async fn tell_all(context: &Arc<Context>) {
    let groups = context.router.all();
    let outcomes: Vec<_> = groups.iter().map(outcomes).collect();
    for peer in context.transport.peers() {
        let Some(node) = peer.node.filter(|_| peer.connected) else {
            continue;
        };
        for part in outcomes.chunks(GROUPS_AT_ONCE) {
            let request = v1::CompareOutcomesRequest {
                node: context.node().0,
                groups: part.to_vec(),
            };
            let Some(mut client) = context.transport.peer_client(&node.name) else {
                break;
            };
            // An older node does not know the call; one that is busy is told next time.
            let told = tokio::time::timeout(LIMIT, client.compare_outcomes(request)).await;
            if !matches!(told, Ok(Ok(_))) {
                break;
            }
        }
    }
}

fn outcomes(group: &GroupHandle) -> v1::GroupOutcomes {
    let told = group.checkpoints().told();
    v1::GroupOutcomes {
        group: group.id().0,
        indexes: told.iter().map(|(index, _)| index.0).collect(),
        hashes: told.iter().map(|(_, hash)| *hash).collect(),
    }
}

/// Takes in what another node's replicas have come to.
pub(crate) fn hear(context: &Context, request: &v1::CompareOutcomesRequest) {
    let from = NodeId(request.node);
    for theirs in &request.groups {
        let Some(group) = context.router.by_id(GroupId(theirs.group)) else {
            continue;
        };
        let indexes = theirs.indexes.iter().map(|index| LogIndex(*index));
        let told: Vec<Checkpoint> = indexes.zip(theirs.hashes.iter().copied()).collect();
        let compared = group.checkpoints().compare(&told);
        let news = group.note_comparison(from, compared);
        if let Comparison::Differ(index) = compared
            && news
        {
            let name = context.transport.name(from);
            error!(group = group.id().0, peer = %name, index = index.0,
                "replicas have answered the same log differently");
        }
    }
}
