//! Making a group: the same replica on every member, or none.

use super::Shared;
use super::forward::{failed_hop, hop};
use super::plugins::blocking;
use super::status::{Fault, Reason};
use crate::node::context::random_u64;
use crate::node::request::{Order, Retirement};
use crate::transport::innermost;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_raft::GroupId;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Request;
use tracing::{info, warn};

/// Time for one member to take a replica, the fetching of its plugin included.
const REPLICA_LIMIT: Duration = Duration::from_secs(30);
/// Longest wait for the members to be reached, and how often that is looked at.
const MEETING_LIMIT: Duration = Duration::from_secs(3);
const MEETING_POLL: Duration = Duration::from_millis(20);
/// Longest wait for a node that only another one knows yet.
const SEARCH_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for other nodes to say whether they may lead.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for the first leader; the group exists whether or not one is found by then.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

/// Creates a group on its members.
pub(crate) async fn create(
    shared: &Shared,
    request: v1::CreateGroupRequest,
) -> Result<v1::GroupSpec, Fault> {
    if let Some(why) = crate::config::name_fault(&request.name) {
        return Err(Fault::invalid(format!(
            "{:?} is no group name: {why}",
            request.name
        )));
    }
    let wanted = request.plugin.clone();
    let plugin = blocking(&shared.context, move |context| {
        context.plugins.resolve(&wanted)
    })
    .await?;
    let (voters, learners) = await_members(shared, &request).await?;
    let spec = specification(&request.name, plugin, &voters, &learners);
    if let Some(existing) = shared.context.router.by_name(&request.name) {
        return same_or_exists(existing.spec(), &spec);
    }
    let nodes = spec.nodes.clone();
    let created = join_all(
        nodes
            .iter()
            .map(|node| create_on(shared, node, &spec, false)),
    )
    .await;
    if let Some(fault) = created.into_iter().find_map(Result::err) {
        take_back(shared, &nodes, GroupId(spec.id), Retirement::Uncreated).await;
        return Err(fault.of_group(&spec.name));
    }
    info!(group = spec.id, name = %spec.name, plugin = %spec.plugin, "group created");
    elect(shared, &voters, &spec.name).await;
    Ok(spec)
}

/// Voters and learners.
type Members = (Vec<v1::Introduction>, Vec<v1::Introduction>);

/// The members, once each can be reached. Nodes that were just started need a moment to meet.
async fn await_members(
    shared: &Shared,
    request: &v1::CreateGroupRequest,
) -> Result<Members, Fault> {
    let until = Instant::now() + MEETING_LIMIT;
    for name in request.voters.iter().chain(&request.learners) {
        // Whoever is not found is named below.
        let _ = look_up(shared, name).await;
    }
    loop {
        let found = members(shared, request).and_then(|(voters, learners)| {
            let there = shared.context.router.by_name(&request.name).is_some();
            let all = voters.iter().chain(&learners);
            match there {
                true => {}
                false => check_connected(shared, all)?,
            }
            Ok((voters, learners))
        });
        match found {
            Err(fault) if fault.is(Reason::PeerUnreachable) && Instant::now() < until => {
                tokio::time::sleep(MEETING_POLL).await;
            }
            found => return found,
        }
    }
}

/// Voters and learners as this node knows them.
fn members(shared: &Shared, request: &v1::CreateGroupRequest) -> Result<Members, Fault> {
    let learners = resolve_all(shared, &request.learners)?;
    let voters = match request.voters.is_empty() {
        false => resolve_all(shared, &request.voters)?,
        true => {
            let everyone = everyone(shared)?;
            everyone
                .into_iter()
                .filter(|node| !learners.contains(node))
                .collect()
        }
    };
    let mut seen = BTreeSet::new();
    for node in voters.iter().chain(&learners) {
        if !seen.insert(node.node) {
            return Err(Fault::invalid(format!(
                "node {:?} is named twice",
                node.name
            )));
        }
    }
    match voters.is_empty() {
        true => Err(Fault::invalid("a group needs at least one voter")),
        false => Ok((voters, learners)),
    }
}

/// Every node that was configured or heard of, this one included.
fn everyone(shared: &Shared) -> Result<Vec<v1::Introduction>, Fault> {
    let mut nodes = vec![shared.context.transport.me()];
    for peer in shared.context.transport.peers() {
        let node = peer.node.unwrap_or_default();
        if node.node == 0 {
            return Err(never_met(&node, &peer.error));
        }
        nodes.push(node);
    }
    Ok(nodes)
}

fn never_met(node: &v1::Introduction, error: &str) -> Fault {
    let message = format!(
        "node {:?} at {} was never reached: {error}; start it, or name the members",
        node.name, node.peer_address
    );
    Fault::new(Reason::PeerUnreachable, message)
}

/// The nodes of those names or ids.
pub(crate) fn resolve_all(
    shared: &Shared,
    names: &[String],
) -> Result<Vec<v1::Introduction>, Fault> {
    names.iter().map(|name| resolve(shared, name)).collect()
}

/// The node of that name or id.
pub(crate) fn resolve(shared: &Shared, name: &str) -> Result<v1::Introduction, Fault> {
    let transport = &shared.context.transport;
    if let Some(node) = transport.find(name) {
        return Ok(node);
    }
    let peers = transport.peers().into_iter();
    let mut configured = peers.filter(|peer| peer.node.as_ref().is_some_and(|n| n.name == name));
    match configured.next() {
        Some(peer) => Err(never_met(&peer.node.unwrap_or_default(), &peer.error)),
        None => {
            let message = format!("node {name:?} is not known here; see `kontiki node list`");
            Err(Fault::new(Reason::NodeNotFound, message))
        }
    }
}

/// The node of that name or id, also if only another node knows it yet.
pub(crate) async fn look_up(shared: &Shared, name: &str) -> Result<v1::Introduction, Fault> {
    let transport = &shared.context.transport;
    let configured = transport.links().iter().any(|link| link.name == name);
    if !configured {
        transport.search(name, SEARCH_LIMIT).await;
    }
    resolve(shared, name)
}

fn specification(
    name: &str,
    plugin: String,
    voters: &[v1::Introduction],
    learners: &[v1::Introduction],
) -> v1::GroupSpec {
    let ids = |nodes: &[v1::Introduction]| {
        let ids: BTreeSet<_> = nodes.iter().map(|node| node.node).collect();
        ids.into_iter().collect()
    };
    v1::GroupSpec {
        id: random_u64().max(1),
        name: name.to_owned(),
        plugin,
        initial_members: Some(v1::MemberSet {
            voters: ids(voters),
            learners: ids(learners),
        }),
        nodes: voters.iter().chain(learners).cloned().collect(),
    }
}

/// Asking for what is there already is fine; asking for something else under its name is not.
fn same_or_exists(
    existing: &v1::GroupSpec,
    wanted: &v1::GroupSpec,
) -> Result<v1::GroupSpec, Fault> {
    let same =
        existing.plugin == wanted.plugin && existing.initial_members == wanted.initial_members;
    if same {
        return Ok(existing.clone());
    }
    let message = format!(
        "there is a group {:?} already, with plugin {} or members other than asked for",
        existing.name, existing.plugin
    );
    Err(Fault::new(Reason::GroupExists, message).of_group(&existing.name))
}

/// Refuses before anything is made if one of these nodes cannot be reached.
pub(crate) fn check_connected<'a>(
    shared: &Shared,
    nodes: impl Iterator<Item = &'a v1::Introduction> + Clone,
) -> Result<(), Fault> {
    let peers = shared.context.transport.peers();
    for peer in peers.into_iter().filter(|peer| !peer.connected) {
        let node = peer.node.unwrap_or_default();
        if nodes.clone().any(|wanted| wanted.node == node.node) {
            let message = format!("node {:?} cannot be reached: {}", node.name, peer.error);
            return Err(Fault::new(Reason::PeerUnreachable, message));
        }
    }
    Ok(())
}

/// Makes the replica on one node; repeating it is harmless. Says whether it was made now.
pub(crate) async fn create_on(
    shared: &Shared,
    node: &v1::Introduction,
    spec: &v1::GroupSpec,
    joining: bool,
) -> Result<bool, Fault> {
    let context = &shared.context;
    if node.node == context.node().0 {
        return Ok(context.create_replica(spec.clone()).await?);
    }
    let client = context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| never_met(node, "it is not known"))?;
    let mut request = Request::new(v1::CreateReplicaRequest {
        group: Some(spec.clone()),
        from: Some(context.transport.me()),
        joining,
    });
    request.set_timeout(REPLICA_LIMIT);
    let reply = client.create_replica(request).await.map_err(|status| {
        let answered = tonic_types::StatusExt::get_error_details(&status)
            .error_info()
            .is_some();
        match answered {
            true => Fault::pass_on(status),
            false => {
                let message = format!("node {:?}: {}", node.name, innermost(&status));
                Fault::new(Reason::PeerUnreachable, message)
            }
        }
    })?;
    Ok(reply.into_inner().created)
}

/// Removes what was made of a group that could not be completed, or for a change of membership that
/// was given up.
pub(crate) async fn take_back(
    shared: &Shared,
    nodes: &[v1::Introduction],
    id: GroupId,
    condition: Retirement,
) {
    let one = |node: v1::Introduction| async move {
        let removed = remove_from(shared, &node, id, condition).await;
        if let Err(why) = removed {
            warn!(group = id.0, peer = %node.name, error = why, "a replica is left behind");
        }
    };
    join_all(nodes.iter().cloned().map(one)).await;
}

async fn remove_from(
    shared: &Shared,
    node: &v1::Introduction,
    id: GroupId,
    condition: Retirement,
) -> Result<(), String> {
    let context = &shared.context;
    if node.node == context.node().0 {
        return context
            .remove_replica(id, condition)
            .await
            .map_err(|error| error.to_string());
    }
    let client = context.transport.peer_client(&node.name);
    let mut client = client.ok_or_else(|| "it is not known".to_owned())?;
    let joining_term = match condition {
        Retirement::NotJoined(term) => Some(term.0),
        Retirement::Uncreated | Retirement::NoMember => None,
    };
    let mut request = Request::new(v1::RemoveReplicaRequest {
        group: id.0,
        joining_term,
    });
    request.set_timeout(REPLICA_LIMIT);
    client
        .remove_replica(request)
        .await
        .map_err(|status| innermost(&status))?;
    Ok(())
}

/// Starts the first election at once, and waits a little for its end: a new group is of use when
/// its creation returns. Whatever fails here is made good by the group's own timers.
async fn elect(shared: &Shared, voters: &[v1::Introduction], name: &str) {
    let deadline = Instant::now() + LEADER_LIMIT;
    let me = shared.context.node().0;
    let Some(candidate) = first_candidate(shared, voters).await else {
        return;
    };
    let group = shared.context.router.by_name(name);
    if candidate.node != me {
        if let Err(fault) = campaign_on(shared, candidate, name, deadline).await {
            warn!(
                name,
                error = fault.message(),
                "the first election was not started"
            );
        }
    } else if let Some(group) = &group
        && let Err(failure) = group.order(Order::Campaign).await
    {
        warn!(name, error = %failure, "the first election was not started");
    }
    if let Some(group) = group {
        let mut brief = group.watch();
        let led = brief.wait_for(|brief| brief.leader.is_some());
        let _ = tokio::time::timeout_at(deadline, led).await;
    }
}

/// This node if it may lead, else another voter that may; any if none may.
async fn first_candidate<'a>(
    shared: &Shared,
    voters: &'a [v1::Introduction],
) -> Option<&'a v1::Introduction> {
    let me = shared.context.node().0;
    let own = voters.iter().find(|node| node.node == me);
    if own.is_some() && !shared.context.gives_away() {
        return own;
    }
    let deadline = Instant::now() + LOOK_LIMIT;
    let others = voters.iter().filter(|node| node.node != me);
    let looks = others.map(|node| async move {
        let leads = may_lead(shared, node, deadline).await;
        leads.then_some(node)
    });
    let willing = join_all(looks).await.into_iter().flatten().next();
    willing.or(own).or_else(|| voters.first())
}

async fn may_lead(shared: &Shared, node: &v1::Introduction, deadline: Instant) -> bool {
    let Ok(mut client) = shared.forwarder.admin(node) else {
        return false;
    };
    let report = client.get_node(hop(v1::GetNodeRequest {}, deadline)).await;
    report.is_ok_and(|report| !report.into_inner().draining)
}

async fn campaign_on(
    shared: &Shared,
    node: &v1::Introduction,
    group: &str,
    deadline: Instant,
) -> Result<(), Fault> {
    let mut client = shared.forwarder.admin(node)?;
    let request = v1::CampaignRequest {
        group: group.to_owned(),
    };
    let answer = client.campaign(hop(request, deadline)).await;
    answer.map_err(|status| failed_hop(node, status))?;
    Ok(())
}
