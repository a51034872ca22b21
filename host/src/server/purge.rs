//! Deleting a replica that is of no use any more (braft's `gc_raft_data`).
//!
//! Only a leader knows who belongs to its group: a replica that was away while it was removed still
//! takes itself for a member. So every other node is asked who leads.

use super::Shared;
use super::deadline::left;
use super::forward::hop;
use super::status::{Fault, Reason};
use super::{holdings, settle};
use crate::node::context::lock;
use crate::node::epoch::EpochId;
use crate::node::handle::GroupHandle;
use crate::node::request::{GroupStatus, Retirement};
use crate::transport::convert::{configuration_to_wire, log_id_to_wire};
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::{GroupId, LogId, NodeId};
use std::time::Duration;
use tokio::time::Instant;

/// Longest wait for one node to say whether it leads.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// Who said that this node is no member, and the members as far as known.
struct Authority {
    name: String,
    configuration: Option<v1::Configuration>,
}

/// Deletes this node's replica of a group, or says what would be deleted. No replica is made here
/// meanwhile, so the node cannot become a member in between.
pub(crate) async fn purge(
    shared: &Shared,
    request: v1::PurgeReplicaRequest,
    deadline: Instant,
) -> Result<v1::PurgeReplicaReply, Fault> {
    if let Some(id) = undecided(shared, &request.group) {
        return purge_undecided(shared, &request, id).await;
    }
    let group = shared.group(&request.group)?;
    let turn = shared.context.turn(group.id()).await?;
    let status = group.status().await?;
    let authority = authority(shared, &group, &status, deadline).await;
    let authority = authority.map_err(|fault| fault.of_group(&request.group))?;
    if !request.dry_run {
        check_confirmed(&request)?;
        let condition = Retirement::NoMember;
        shared.context.delete(&turn, &group, condition).await?;
    }
    Ok(v1::PurgeReplicaReply {
        last: Some(log_id_to_wire(status.core.last)),
        authority: authority.name,
        configuration: authority.configuration,
    })
}

fn check_confirmed(request: &v1::PurgeReplicaRequest) -> Result<(), Fault> {
    if request.confirm == request.group {
        return Ok(());
    }
    let message = "to confirm, repeat the name of the group";
    Err(Fault::new(Reason::NotConfirmed, message).of_group(&request.group))
}

/// A replica of that name whose group's creation is not decided.
fn undecided(shared: &Shared, name: &str) -> Option<GroupId> {
    let prepared = lock(&shared.context.prepared);
    let mut of_name = prepared.values().filter(|it| it.spec.name == name);
    of_name.next().map(|it| it.id())
}

/// One that was only prepared has never voted or held anything. It may go, unless it can be found
/// out what was decided: then that is done instead.
async fn purge_undecided(
    shared: &Shared,
    request: &v1::PurgeReplicaRequest,
    id: GroupId,
) -> Result<v1::PurgeReplicaReply, Fault> {
    let stage = settle::settle(shared, id).await?.stage;
    if stage == GroupStage::Running {
        let message = "its creation was completed: this node is a member of the group";
        return Err(Fault::new(Reason::StillMember, message).of_group(&request.group));
    }
    if !request.dry_run {
        check_confirmed(request)?;
        let turn = shared.context.turn(id).await?;
        if shared.context.stage(id).await? == GroupStage::Prepared {
            shared.context.drop_prepared(&turn).await?;
        }
    }
    Ok(v1::PurgeReplicaReply {
        last: Some(log_id_to_wire(LogId::default())),
        authority: String::new(),
        configuration: None,
    })
}

/// Whoever can say that this node is no member; else a refusal.
async fn authority(
    shared: &Shared,
    group: &GroupHandle,
    status: &GroupStatus,
    deadline: Instant,
) -> Result<Authority, Fault> {
    let node = shared.context.node();
    let answers = leaders(shared, group, deadline).await;
    let leader = answers.into_iter().max_by_key(standing);
    match leader {
        Some(leader) => judge(node, status, leader),
        None if is_left_alone(shared, group, status).await => Ok(Authority {
            name: String::new(),
            configuration: Some(configuration_to_wire(&status.core.configuration)),
        }),
        None => own_judgement(status),
    }
}

/// Whether the replica holds nothing, and every other member answers that it has nothing of this
/// group: its creation was left half-way by a version that could do so.
async fn is_left_alone(shared: &Shared, group: &GroupHandle, own: &GroupStatus) -> bool {
    if own.core.last.index.0 != 0 {
        return false;
    }
    let members = own.core.configuration.members().into_iter();
    let others: Vec<NodeId> = members.filter(|node| *node != own.core.node).collect();
    let asked = others.iter().map(|other| async move {
        let node = shared.context.transport.introduction(*other)?;
        let held = holdings::ask_of(shared, &node, group.id()).await.ok()?;
        Some(held.stage())
    });
    let answers = join_all(asked).await;
    let lacks = |stage: &Option<GroupStage>| stage.is_some_and(|it| !holdings::is_there(it));
    !others.is_empty() && answers.iter().all(lacks)
}

/// Of two that take themselves for the leader the later epoch counts, then the later term.
fn standing(description: &v1::GroupDescription) -> (EpochId, u64) {
    let summary = description.summary.as_ref();
    let epoch = EpochId::from_wire(summary.and_then(|it| it.epoch));
    (epoch, term(description))
}

fn term(description: &v1::GroupDescription) -> u64 {
    description.summary.as_ref().map_or(0, |it| it.term)
}

/// What those say that take themselves for the group's leader.
async fn leaders(
    shared: &Shared,
    group: &GroupHandle,
    deadline: Instant,
) -> Vec<v1::GroupDescription> {
    let until = Instant::now() + ASK_LIMIT.min(left(deadline));
    let peers = shared.context.transport.peers().into_iter();
    let nodes = peers.filter_map(|peer| peer.node).filter(|n| n.node != 0);
    let answers = nodes.map(|node| async move {
        let request = v1::DescribeGroupRequest {
            group: group.name().to_owned(),
            local: true,
        };
        let mut admin = shared.forwarder.admin(&node).ok()?;
        let asked = admin.describe_group(hop(request, until));
        let answer = tokio::time::timeout_at(until, asked).await.ok()?;
        Some(answer.ok()?.into_inner())
    });
    let leads = |description: &v1::GroupDescription| {
        let summary = description.summary.clone().unwrap_or_default();
        // The name may have been given to another group.
        summary.id == group.id().0 && matches!(summary.role.as_str(), "leader" | "transferring")
    };
    let answers = join_all(answers).await.into_iter().flatten();
    answers.filter(leads).collect()
}

fn judge(
    node: NodeId,
    own: &GroupStatus,
    leader: v1::GroupDescription,
) -> Result<Authority, Fault> {
    let configuration = leader.configuration.clone().unwrap_or_default();
    let name = leader.node_name.clone();
    if contains(configuration.current.as_ref(), node) || contains(configuration.old.as_ref(), node)
    {
        let message = format!("this node is a member of the group, says its leader {name}");
        return Err(Fault::new(Reason::StillMember, message));
    }
    let joins = leader.catching_up.iter().any(|one| one.node == node.0);
    if joins || contains(leader.change_target.as_ref(), node) {
        let message = format!("this node is being added to the group, says its leader {name}");
        return Err(Fault::new(Reason::MembershipBusy, message));
    }
    let commit = leader.summary.as_ref().map_or(0, |it| it.commit_index);
    if leader.configuration_index > commit {
        let message = "the membership without this node is not committed yet: try again";
        return Err(Fault::new(Reason::MembershipBusy, message));
    }
    let left_behind = own.epochs.newer().is_some();
    if !left_behind && own.core.configuration.contains(node) && own.core.term.0 > term(&leader) {
        let message = format!("this replica knows of a later term than {name}, which leads");
        return Err(Fault::new(Reason::MembershipUnsure, message));
    }
    Ok(Authority {
        name,
        configuration: Some(configuration),
    })
}

/// No leader answers. The replica's own word counts only where it holds nothing: what it holds, a
/// leader that is adding it may rely on.
fn own_judgement(own: &GroupStatus) -> Result<Authority, Fault> {
    let core = &own.core;
    if core.last.index.0 == 0 && !core.configuration.contains(core.node) {
        return Ok(Authority {
            name: String::new(),
            configuration: Some(configuration_to_wire(&core.configuration)),
        });
    }
    let message = "no leader answers that could say whether this node is still a member";
    Err(Fault::new(Reason::MembershipUnsure, message))
}

fn contains(set: Option<&v1::MemberSet>, node: NodeId) -> bool {
    set.is_some_and(|set| set.voters.contains(&node.0) || set.learners.contains(&node.0))
}
