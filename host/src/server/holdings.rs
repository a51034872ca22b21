//! What nodes hold of groups: this one's answer, and asking others.

use super::Shared;
use super::status::{Fault, Reason};
use crate::node::context::{Context, ReplicaError, lock};
use crate::transport::convert::{configuration_to_wire, log_id_to_wire};
use crate::transport::innermost;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::{GroupId, NodeId, Role};
use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::Request;

/// Longest wait for another node's answer, and for a replica's word here.
const ASK_LIMIT: Duration = Duration::from_secs(2);
const STATUS_LIMIT: Duration = Duration::from_secs(1);
/// Groups that one call may ask about.
pub(crate) const IDS_MAX: usize = 4_096;

/// What this node holds of the groups asked about.
pub(crate) async fn here(
    context: &Context,
    request: &v1::LookUpGroupsRequest,
) -> Result<v1::LookUpGroupsReply, Fault> {
    if context.loading.load(Ordering::Acquire) {
        return Err(ReplicaError::Loading.into());
    }
    if request.ids.len() > IDS_MAX {
        let message = format!("{} groups are asked about at once", request.ids.len());
        return Err(Fault::new(Reason::TooLarge, message));
    }
    let asked: BTreeSet<u64> = request.ids.iter().copied().collect();
    let named = of_name(context, &request.name).into_iter();
    let named = named.filter(|id| !asked.contains(&id.0));
    let all = request.ids.iter().copied().map(GroupId).chain(named);
    let mut groups = Vec::new();
    for id in all {
        groups.push(held(context, id).await?);
    }
    Ok(v1::LookUpGroupsReply { groups })
}

/// Groups of that name that are here in any state.
fn of_name(context: &Context, name: &str) -> BTreeSet<GroupId> {
    let mut found = BTreeSet::new();
    if name.is_empty() {
        return found;
    }
    found.extend(context.router.by_name(name).map(|handle| handle.id()));
    let prepared = lock(&context.prepared);
    let prepared = prepared.values().filter(|it| it.spec.name == name);
    found.extend(prepared.map(|it| it.id()));
    let broken = lock(&context.broken);
    let broken = broken.values().filter(|it| it.name() == name);
    found.extend(broken.map(|it| it.id));
    found
}

async fn held(context: &Context, id: GroupId) -> Result<v1::HeldGroup, Fault> {
    let mut held = v1::HeldGroup {
        id: id.0,
        stage: context.stage(id).await?.into(),
        creating: lock(&context.creating).contains(&id),
        ..v1::HeldGroup::default()
    };
    if let Some(handle) = context.router.by_id(id) {
        held.spec = Some(handle.spec().clone());
        if let Ok(Ok(status)) = tokio::time::timeout(STATUS_LIMIT, handle.status()).await {
            let core = status.core;
            held.configuration = Some(configuration_to_wire(&core.configuration));
            held.last = Some(log_id_to_wire(core.last));
            held.leads = matches!(core.role, Role::Leader | Role::Transferring);
        }
    } else if let Some(prepared) = lock(&context.prepared).get(&id) {
        held.spec = Some(prepared.spec.clone());
        held.coordinator = prepared.coordinator.0;
    } else if let Some(broken) = lock(&context.broken).values().find(|it| it.id == id) {
        held.spec.clone_from(&broken.spec);
    }
    Ok(held)
}

/// Asks a node, which may be this one. In words why it does not answer.
pub(crate) async fn ask(
    shared: &Shared,
    node: &v1::Introduction,
    request: v1::LookUpGroupsRequest,
) -> Result<Vec<v1::HeldGroup>, String> {
    let context = &shared.context;
    if node.node == context.node().0 {
        let here = here(context, &request).await;
        return here
            .map(|reply| reply.groups)
            .map_err(|fault| fault.message().to_owned());
    }
    let client = context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| "it is not known".to_owned())?;
    let mut request = Request::new(request);
    request.set_timeout(ASK_LIMIT);
    let asked = tokio::time::timeout(ASK_LIMIT, client.look_up_groups(request)).await;
    match asked {
        Ok(Ok(reply)) => Ok(reply.into_inner().groups),
        Ok(Err(status)) => Err(innermost(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

/// How one group stands on one node.
pub(crate) async fn ask_of(
    shared: &Shared,
    node: &v1::Introduction,
    id: GroupId,
) -> Result<v1::HeldGroup, String> {
    let request = v1::LookUpGroupsRequest {
        ids: vec![id.0],
        name: String::new(),
    };
    let answered = ask(shared, node, request).await?;
    let found = answered.into_iter().find(|held| held.id == id.0);
    found.ok_or_else(|| "its answer is of other groups".to_owned())
}

/// What all nodes that can be reached hold, and those that do not answer, with the reason.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Nodes that answered.
    pub(crate) nodes: Vec<v1::Introduction>,
    pub(crate) held: Vec<(v1::Introduction, v1::HeldGroup)>,
    pub(crate) silent: Vec<(v1::Introduction, String)>,
}

impl Survey {
    /// Groups that are there in some state, by id.
    pub(crate) fn ids(&self) -> BTreeSet<GroupId> {
        let there = self.held.iter().filter(|(_, held)| is_there(held.stage()));
        there.map(|(_, held)| GroupId(held.id)).collect()
    }

    /// What is there of one group, and where.
    pub(crate) fn of(
        &self,
        id: GroupId,
    ) -> impl Iterator<Item = &(v1::Introduction, v1::HeldGroup)> {
        self.held.iter().filter(move |(_, held)| held.id == id.0)
    }

    /// Every node that answered, with what it has of one group.
    pub(crate) fn of_everyone(
        &self,
        id: GroupId,
    ) -> impl Iterator<Item = (&v1::Introduction, Option<&v1::HeldGroup>)> {
        self.nodes.iter().map(move |node| {
            let mut all = self.of(id);
            let found = all.find(|(holder, _)| holder.node == node.node);
            (node, found.map(|(_, held)| held))
        })
    }
}

/// Whether a node at this stage has something of the group.
pub(crate) fn is_there(stage: GroupStage) -> bool {
    matches!(
        stage,
        GroupStage::Prepared | GroupStage::Running | GroupStage::Broken
    )
}

/// Asks this node and every other that is known.
pub(crate) async fn survey(shared: &Shared, request: &v1::LookUpGroupsRequest) -> Survey {
    let transport = &shared.context.transport;
    let me = v1::PeerInfo {
        node: Some(transport.me()),
        connected: true,
        error: String::new(),
    };
    let known = transport.peers().into_iter().chain([me]);
    let asked = known.map(|peer| async move {
        let node = peer.node.unwrap_or_default();
        let answer = match peer.connected {
            true => ask(shared, &node, request.clone()).await,
            false => Err(peer.error),
        };
        (node, answer)
    });
    let mut survey = Survey::default();
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(all) => {
                let held = all.into_iter().map(|held| (node.clone(), held));
                survey.held.extend(held);
                survey.nodes.push(node);
            }
            Err(why) => survey.silent.push((node, why)),
        }
    }
    survey
}

/// Other nodes that are connected, by id.
pub(crate) fn connected(context: &Context) -> Vec<v1::Introduction> {
    let peers = context.transport.peers().into_iter();
    let nodes = peers.filter(|peer| peer.connected);
    let nodes = nodes.filter_map(|peer| peer.node);
    nodes.filter(|node| node.node != 0).collect()
}

/// A node by id: this one, or one that is known.
pub(crate) fn node(context: &Context, id: NodeId) -> Option<v1::Introduction> {
    context.transport.introduction(id)
}
