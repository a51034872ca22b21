//! Deleting a group everywhere. The first record of it, on the node that is asked, is the deletion;
//! the others ask for it, at once or when they come back.

use super::Shared;
use super::holdings::{Survey, survey};
use super::replicas::ask_to_settle;
use super::settle;
use super::status::{Fault, Reason};
use crate::node::failpoint::failpoint;
use crate::node::request::Outcome;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::GroupId;
use tracing::warn;

const DELETED: &str = "deleted";
const WOULD_DELETE: &str = "would-delete";
const UNREACHABLE: &str = "unreachable";
const FAILED: &str = "failed";

/// Deletes a group, or says what would be deleted. Repeating it finishes what was left.
pub(crate) async fn delete(
    shared: &Shared,
    request: v1::DeleteGroupRequest,
) -> Result<v1::DeleteGroupReply, Fault> {
    let wanted = &request.group;
    let there = survey(shared, &question(wanted)).await;
    let id = find(wanted, &there)?;
    let mut reply = v1::DeleteGroupReply {
        id: id.0,
        name: name(&there, id).unwrap_or_else(|| wanted.clone()),
        replicas: Vec::new(),
    };
    if request.dry_run {
        reply.replicas = rehearsal(&there, id);
        return Ok(reply);
    }
    if request.confirm != *wanted {
        let message = "to confirm, repeat the name of the group";
        return Err(Fault::new(Reason::NotConfirmed, message).of_group(wanted));
    }
    if let Some(reply) = by_member(shared, &there, id).await? {
        return Ok(reply);
    }
    warn!(
        group = id.0,
        name = reply.name,
        "an operator deletes the group"
    );
    settle::end_deleted_as(shared, id, &reply.name).await?;
    failpoint("delete.after_first");
    reply.replicas = spread(shared, &there, id).await;
    Ok(reply)
}

/// Has a member delete the group if this node is none: members believe only each other that it was
/// deleted. None if no member is there.
async fn by_member(
    shared: &Shared,
    there: &Survey,
    id: GroupId,
) -> Result<Option<v1::DeleteGroupReply>, Fault> {
    let me = shared.context.node();
    let group = shared.context.router.by_id(id);
    if group.is_some_and(|group| group.has_member(me)) {
        return Ok(None);
    }
    let mut members: Vec<_> = there.of(id).filter(|it| is_member(it)).collect();
    members.retain(|(node, _)| node.node != me.0);
    let Some((member, _)) = members
        .iter()
        .find(|(_, held)| held.leads)
        .or(members.first())
    else {
        return Ok(None);
    };
    let request = v1::DeleteGroupRequest {
        group: id.to_string(),
        confirm: id.to_string(),
        dry_run: false,
    };
    let mut admin = shared.forwarder.admin(member)?;
    let deleted = admin.delete_group(request).await;
    deleted
        .map(|reply| Some(reply.into_inner()))
        .map_err(|status| {
            let message = format!(
                "member {:?} was to delete it: {}",
                member.name,
                status.message()
            );
            Fault::new(Reason::PeerUnreachable, message).with_outcome(Outcome::Unknown)
        })
}

/// Whether a node holds a replica and is a member by its own word.
fn is_member((node, held): &(v1::Introduction, v1::HeldGroup)) -> bool {
    let configuration = held.configuration.as_ref();
    let sets = configuration
        .into_iter()
        .flat_map(|it| it.current.iter().chain(&it.old));
    let mut ids = sets.flat_map(|set| set.voters.iter().chain(&set.learners));
    held.stage() == GroupStage::Running && ids.any(|id| *id == node.node)
}

/// A number may be an id, and may be a name.
fn question(wanted: &str) -> v1::LookUpGroupsRequest {
    v1::LookUpGroupsRequest {
        ids: wanted.parse().into_iter().collect(),
        name: wanted.to_owned(),
    }
}

/// The one group that is meant. One that is deleted already is found by its id, so that a deletion
/// can be repeated.
fn find(wanted: &str, there: &Survey) -> Result<GroupId, Fault> {
    let by_id = wanted.parse().map(GroupId).ok();
    let is_known = |id: &GroupId| {
        let mut held = there.of(*id);
        held.any(|(_, held)| held.stage() != GroupStage::Absent)
    };
    if let Some(id) = by_id.filter(is_known) {
        return Ok(id);
    }
    let ids = there.ids();
    let Some(first) = ids.first() else {
        let message = match there.silent.is_empty() {
            true => format!("there is no group {wanted:?} on any node"),
            false => format!(
                "there is no group {wanted:?} on any node that answers; {} do not",
                there.silent.len()
            ),
        };
        return Err(Fault::new(Reason::GroupNotFound, message).of_group(wanted));
    };
    if ids.len() > 1 {
        let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
        let message = format!(
            "there are {} groups called {wanted:?}: name one by its id, of {}",
            ids.len(),
            ids.join(", ")
        );
        return Err(Fault::new(Reason::GroupExists, message).of_group(wanted));
    }
    Ok(*first)
}

fn name(there: &Survey, id: GroupId) -> Option<String> {
    let mut specs = there.of(id).filter_map(|(_, held)| held.spec.as_ref());
    specs.next().map(|spec| spec.name.clone())
}

/// What is there, and who may have something and does not answer.
fn rehearsal(there: &Survey, id: GroupId) -> Vec<v1::DeletedReplica> {
    let here = there
        .of(id)
        .filter(|(_, held)| super::holdings::is_there(held.stage()));
    let here = here.map(|(node, held)| v1::DeletedReplica {
        node: node.name.clone(),
        state: WOULD_DELETE.to_owned(),
        problem: String::new(),
        last: held.last,
    });
    here.chain(silent(there)).collect()
}

fn silent(there: &Survey) -> impl Iterator<Item = v1::DeletedReplica> {
    there.silent.iter().map(|(node, why)| v1::DeletedReplica {
        node: node.name.clone(),
        state: UNREACHABLE.to_owned(),
        problem: why.clone(),
        last: None,
    })
}

/// Has every node that answers end its replica; also those without one note the deletion, so that
/// more can tell it to whoever was away.
async fn spread(shared: &Shared, there: &Survey, id: GroupId) -> Vec<v1::DeletedReplica> {
    let me = shared.context.node().0;
    let told = there.of_everyone(id).map(|(node, held)| async move {
        let had = held.is_some_and(|held| super::holdings::is_there(held.stage()));
        let problem = match node.node == me {
            true => Ok(()),
            false => match ask_to_settle(shared, node, id).await {
                Ok(settled) if settled.stage() == GroupStage::Deleted => Ok(()),
                // It need not know, and has nothing.
                Ok(settled) if settled.stage() == GroupStage::Absent && !had => Ok(()),
                Ok(settled) => Err(format!(
                    "it has not learned of the deletion: {}",
                    settled.problem
                )),
                Err(why) => Err(why),
            },
        };
        let (state, problem) = match problem {
            Ok(()) => (DELETED, String::new()),
            Err(why) => (FAILED, why),
        };
        let replica = v1::DeletedReplica {
            node: node.name.clone(),
            state: state.to_owned(),
            problem,
            last: held.and_then(|held| held.last),
        };
        (had || state == FAILED).then_some(replica)
    });
    let told = join_all(told).await.into_iter().flatten();
    told.chain(silent(there)).collect()
}
