//! Making, deciding and taking back replicas on other nodes, or on this one.

use super::Shared;
use super::fetch::fetch_plugin;
use super::settle;
use super::status::{Fault, Reason};
use crate::node::request::{Outcome, Retirement};
use crate::transport::innermost;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::{GroupId, NodeId, Term};
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use tracing::warn;

/// Time for one member to take a replica, the fetching of its plugin included.
const REPLICA_LIMIT: Duration = Duration::from_secs(30);
/// Time for one member to decide, or to find out what was decided.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
/// Pause before a node that is still opening its groups is asked again.
const LOADING_POLL: Duration = Duration::from_millis(100);

/// Makes or prepares a replica here, for another node or this one.
pub(crate) async fn create_here(
    shared: &Shared,
    request: v1::CreateReplicaRequest,
) -> Result<bool, Fault> {
    let context = &shared.context;
    let spec = request
        .group
        .ok_or_else(|| Fault::invalid("field group is missing"))?;
    if let Some(why) = crate::config::name_fault(&spec.name) {
        return Err(Fault::invalid(format!(
            "{:?} is no group name: {why}",
            spec.name
        )));
    }
    for node in &spec.nodes {
        if node.node != context.node().0 {
            context.transport.check_known(node)?;
            context.transport.hear_of(node.clone());
        }
    }
    // Held from here on, so that what takes the replica back comes after it was made.
    let turn = context.turn(GroupId(spec.id)).await?;
    let from = request.from.unwrap_or_default();
    if from.node != context.node().0 && from.node != 0 {
        fetch_plugin(context, &from, &spec.plugin).await?;
    }
    Ok(match request.joining {
        true => context.join_replica(&turn, spec).await?,
        false => {
            let coordinator = NodeId(from.node);
            context.prepare_replica(&turn, spec, coordinator).await?
        }
    })
}

/// Makes the replica on one node, or prepares it unless `joining`; repeating it is harmless. Says
/// whether it was made now. Waits for a node that is still opening its groups.
pub(crate) async fn create_on(
    shared: &Shared,
    node: &v1::Introduction,
    spec: &v1::GroupSpec,
    joining: bool,
) -> Result<bool, Fault> {
    let until = Instant::now() + REPLICA_LIMIT;
    let request = v1::CreateReplicaRequest {
        group: Some(spec.clone()),
        from: Some(shared.context.transport.me()),
        joining,
    };
    loop {
        let created = match node.node == shared.context.node().0 {
            true => create_here(shared, request.clone()).await,
            false => create_there(shared, node, request.clone(), until).await,
        };
        match created {
            Err(fault) if is_loading(&fault) && Instant::now() + LOADING_POLL < until => {
                tokio::time::sleep(LOADING_POLL).await;
            }
            created => return created,
        }
    }
}

fn is_loading(fault: &Fault) -> bool {
    fault.reason_name() == Reason::GroupLoading.as_str()
}

async fn create_there(
    shared: &Shared,
    node: &v1::Introduction,
    request: v1::CreateReplicaRequest,
    until: Instant,
) -> Result<bool, Fault> {
    let client = shared.context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| unknown(node))?;
    let mut request = Request::new(request);
    let left = until.saturating_duration_since(Instant::now());
    request.set_timeout(left);
    let asked = tokio::time::timeout(left, client.create_replica(request)).await;
    let reply = asked.map_err(|_| {
        let message = format!("node {:?} did not make its replica in time", node.name);
        Fault::new(Reason::PeerUnreachable, message).with_outcome(Outcome::Unknown)
    })?;
    let reply = reply.map_err(|status| there(node, status))?;
    Ok(reply.into_inner().created)
}

fn unknown(node: &v1::Introduction) -> Fault {
    let message = format!("node {:?} is not known", node.name);
    Fault::new(Reason::PeerUnreachable, message)
}

/// A call to a member failed: by its own word, or without any, and then nobody knows what it did.
fn there(node: &v1::Introduction, status: Status) -> Fault {
    match status.get_error_details().error_info().is_some() {
        true => Fault::pass_on(status),
        false => {
            let message = format!("node {:?}: {}", node.name, innermost(&status));
            Fault::new(Reason::PeerUnreachable, message).with_outcome(Outcome::Unknown)
        }
    }
}

/// Has the node whose record decides decide; how the group stands there then. In words why that is
/// not known.
pub(crate) async fn decide_on(
    shared: &Shared,
    node: &v1::Introduction,
    id: GroupId,
    complete: bool,
) -> Result<GroupStage, String> {
    if node.node == shared.context.node().0 {
        let decided = settle::decide(shared, id, complete).await;
        return decided.map_err(|fault| fault.message().to_owned());
    }
    let client = shared.context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| "it is not known".to_owned())?;
    let mut request = Request::new(v1::DecideCreationRequest {
        group: id.0,
        complete,
    });
    request.set_timeout(SETTLE_LIMIT);
    let asked = tokio::time::timeout(SETTLE_LIMIT, client.decide_creation(request)).await;
    let reply = asked.map_err(|_| "no answer in time".to_owned())?;
    let reply = reply.map_err(|status| innermost(&status))?;
    Ok(reply.into_inner().stage())
}

/// Has a node find out what was decided about a group, and act on it. In words why it cannot be
/// asked.
pub(crate) async fn ask_to_settle(
    shared: &Shared,
    node: &v1::Introduction,
    id: GroupId,
) -> Result<v1::SettleReply, String> {
    if node.node == shared.context.node().0 {
        let settled = settle::settle(shared, id).await;
        let settled = settled.map_err(|fault| fault.message().to_owned())?;
        return Ok(settled.into());
    }
    let client = shared.context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| "it is not known".to_owned())?;
    let mut request = Request::new(v1::SettleRequest { group: id.0 });
    request.set_timeout(SETTLE_LIMIT);
    let asked = tokio::time::timeout(SETTLE_LIMIT, client.settle(request)).await;
    let reply = asked.map_err(|_| "no answer in time".to_owned())?;
    let reply = reply.map_err(|status| innermost(&status))?;
    Ok(reply.into_inner())
}

impl From<settle::Settled> for v1::SettleReply {
    fn from(settled: settle::Settled) -> Self {
        Self {
            stage: settled.stage.into(),
            problem: settled.problem,
        }
    }
}

/// Takes this node's replica back that was made for a change of membership.
pub(crate) async fn take_back_here(
    shared: &Shared,
    id: GroupId,
    given_up_in: Term,
) -> Result<(), Fault> {
    let turn = shared.context.turn(id).await?;
    let condition = Retirement::NotJoined(given_up_in);
    Ok(shared.context.take_back_replica(&turn, condition).await?)
}

/// Takes back what was made for a change of membership that this term's leader gave up.
pub(crate) async fn take_back(
    shared: &Shared,
    nodes: &[v1::Introduction],
    id: GroupId,
    given_up_in: Term,
) {
    let one = |node: v1::Introduction| async move {
        let until = Instant::now() + REPLICA_LIMIT;
        loop {
            match take_back_on(shared, &node, id, given_up_in).await {
                Ok(()) => return,
                Err(fault) if is_loading(&fault) && Instant::now() < until => {
                    tokio::time::sleep(LOADING_POLL).await;
                }
                Err(fault) => {
                    warn!(group = id.0, peer = %node.name, error = fault.message(),
                        "a replica is left behind; `kontiki member purge` deletes it");
                    return;
                }
            }
        }
    };
    join_all(nodes.iter().cloned().map(one)).await;
}

async fn take_back_on(
    shared: &Shared,
    node: &v1::Introduction,
    id: GroupId,
    given_up_in: Term,
) -> Result<(), Fault> {
    if node.node == shared.context.node().0 {
        return take_back_here(shared, id, given_up_in).await;
    }
    let client = shared.context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| unknown(node))?;
    let mut request = Request::new(v1::RemoveReplicaRequest {
        group: id.0,
        joining_term: given_up_in.0,
    });
    request.set_timeout(REPLICA_LIMIT);
    let removed = client.remove_replica(request).await;
    removed.map(drop).map_err(|status| there(node, status))
}
