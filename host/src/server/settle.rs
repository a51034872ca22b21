//! Finding out what was decided about a group, and acting on it. A node acts on answers to its own
//! questions only: no message of anybody's makes it delete or confirm anything.

use super::Shared;
use super::holdings::{ask_of, connected, node};
use super::status::Fault;
use crate::node::context::{Context, lock};
use crate::node::ended::Ended;
use crate::node::failpoint::failpoint;
use crate::node::handle::is_named;
use crate::node::prepared::Prepared;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::{GroupId, NodeId};
use std::sync::Arc;
use std::time::Duration;

/// How long a coordinator that cannot be asked is taken to be at work.
const COORDINATOR_PATIENCE: Duration = Duration::from_secs(10);

/// Decides a creation, as the node whose record decides: what was decided first stays. How the group
/// stands then.
pub(crate) async fn decide(
    shared: &Shared,
    id: GroupId,
    complete: bool,
) -> Result<GroupStage, Fault> {
    let context = &shared.context;
    let turn = context.turn(id).await?;
    let prepared = lock(&context.prepared).get(&id).cloned();
    if let Some(prepared) = prepared {
        if prepared.decider() != context.node() {
            return Err(Fault::invalid("another node decides this creation"));
        }
        match complete {
            true => context.confirm_replica(&turn).await?,
            false => context.abort_replica(&turn).await?,
        }
    }
    Ok(context.stage(id).await?)
}

/// Where the group stands after asking, and why it is not settled if it is not.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) stage: GroupStage,
    pub(crate) problem: String,
}

/// Brings this node's replica to what was decided.
pub(crate) async fn settle(shared: &Shared, id: GroupId) -> Result<Settled, Fault> {
    let context = &shared.context;
    // Whatever is being made or removed is done first.
    drop(context.turn(id).await?);
    let prepared = lock(&context.prepared).get(&id).cloned();
    let problem = match prepared {
        Some(prepared) if prepared.decider() == context.node() => {
            decide_orphan(shared, &prepared).await?
        }
        Some(prepared) => follow(shared, &prepared).await?,
        None => {
            follow_deletion(shared, id).await?;
            String::new()
        }
    };
    let stage = context.stage(id).await?;
    let settled = stage != GroupStage::Prepared;
    Ok(Settled {
        stage,
        problem: if settled { String::new() } else { problem },
    })
}

/// What others know, the weightiest first: a deletion ends what ran, and what runs was created.
fn verdict(answers: &[v1::HeldGroup]) -> Option<GroupStage> {
    let order = [
        GroupStage::Deleted,
        GroupStage::Running,
        GroupStage::Broken,
        GroupStage::Aborted,
    ];
    let said = |stage: &GroupStage| {
        answers
            .iter()
            .any(|held| held.stage() == *stage && is_proof(held))
    };
    order.into_iter().find(said)
}

/// One whose record cannot be read may have been prepared only.
fn is_proof(held: &v1::HeldGroup) -> bool {
    held.stage() != GroupStage::Broken || held.spec.is_some()
}

/// Does what was decided elsewhere; why it cannot be told, if it cannot.
async fn follow(shared: &Shared, prepared: &Arc<Prepared>) -> Result<String, Fault> {
    let context = &shared.context;
    let id = prepared.id();
    let members = prepared.spec.initial_members.clone().unwrap_or_default();
    let others = members.voters.into_iter().chain(members.learners);
    let others = others
        .filter(|other| *other != context.node().0)
        .map(NodeId);
    let asked = others.map(|other| async move {
        let answer = match node(context, other) {
            Some(node) => ask_of(shared, &node, id).await,
            None => Err("it is not known".to_owned()),
        };
        (other, answer)
    });
    let answers = join_all(asked).await;
    let decider = prepared.decider();
    let name = context.transport.name(decider);
    let mut problem = format!("node {name:?}, which decides, has not decided yet");
    let mut known = Vec::new();
    for (other, answer) in answers {
        match answer {
            Ok(held) => known.push(held),
            Err(why) if other == decider => {
                problem = format!("node {name:?}, which decides, cannot be asked: {why}");
            }
            Err(_) => {}
        }
    }
    let Some(verdict) = verdict(&known) else {
        return Ok(problem);
    };
    let turn = context.turn(id).await?;
    // Somebody may have settled it meanwhile.
    if lock(&context.prepared).contains_key(&id) {
        match Ended::of_stage(verdict) {
            Some(how) => context.end(&turn, &prepared.spec.name, how).await?,
            None => context.confirm_replica(&turn).await?,
        }
    }
    Ok(String::new())
}

/// This node decides, and its coordinator may be gone: then the creation is given up.
async fn decide_orphan(shared: &Shared, prepared: &Arc<Prepared>) -> Result<String, Fault> {
    let context = &shared.context;
    let id = prepared.id();
    let coordinator = context.transport.name(prepared.coordinator);
    let answer = match node(context, prepared.coordinator) {
        Some(node) => ask_of(shared, &node, id).await,
        None => Err("it is not known".to_owned()),
    };
    match answer {
        Ok(held) if held.creating => {
            return Ok(format!("node {coordinator:?} is still creating it"));
        }
        Err(why) if prepared.since.elapsed() < COORDINATOR_PATIENCE => {
            return Ok(format!(
                "node {coordinator:?}, which creates it, cannot be asked: {why}"
            ));
        }
        _ => {}
    }
    failpoint("create.orphan");
    tracing::warn!(group = id.0, name = %prepared.spec.name, coordinator,
        "a creation that nobody carries on is given up");
    decide(shared, id, false).await?;
    Ok(String::new())
}

/// Ends this node's replica if the group was deleted while the node was away.
async fn follow_deletion(shared: &Shared, id: GroupId) -> Result<(), Fault> {
    let context = &shared.context;
    let mut nodes = connected(context);
    nodes.retain(|node| may_end(context, id, NodeId(node.node)));
    let asked = nodes.iter().map(|node| ask_of(shared, node, id));
    let answers = join_all(asked).await.into_iter().flatten();
    let is_deleted = answers
        .into_iter()
        .any(|held| held.stage() == GroupStage::Deleted);
    if is_deleted {
        end_deleted(shared, id).await?;
    }
    Ok(())
}

/// Whether a node is believed that this group was deleted: a member, as far as the replica here
/// knows, or where there is no replica, a node that the operator configured. Others may be anybody.
pub(crate) fn may_end(context: &Context, id: GroupId, node: NodeId) -> bool {
    if let Some(group) = context.router.by_id(id) {
        return group.has_member(node);
    }
    let broken = lock(&context.broken);
    let broken = broken.values().find(|it| it.id == id);
    match broken.and_then(|it| it.spec.as_ref()) {
        Some(spec) => is_named(spec, node),
        None => context.transport.is_configured(node),
    }
}

/// Ends the replica of a group that is known to be deleted.
pub(crate) async fn end_deleted(shared: &Shared, id: GroupId) -> Result<(), Fault> {
    let name = shared.context.name_of(id).unwrap_or_default();
    end_deleted_as(shared, id, &name).await
}

/// Notes that a group of this name is deleted, and ends the replica here if there is one.
pub(crate) async fn end_deleted_as(shared: &Shared, id: GroupId, name: &str) -> Result<(), Fault> {
    let turn = shared.context.turn(id).await?;
    Ok(shared.context.end(&turn, name, Ended::Deleted).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(stage: GroupStage) -> v1::HeldGroup {
        v1::HeldGroup {
            stage: stage.into(),
            ..v1::HeldGroup::default()
        }
    }

    #[test]
    fn only_what_was_decided_is_a_verdict() {
        use GroupStage::{Aborted, Absent, Broken, Deleted, Prepared, Running};
        let of = |stages: &[GroupStage]| {
            let answers: Vec<_> = stages.iter().copied().map(held).collect();
            verdict(&answers)
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[Absent, Prepared, Prepared]), None);
        assert_eq!(of(&[Prepared, Running]), Some(Running));
        assert_eq!(of(&[Aborted, Prepared]), Some(Aborted));
        assert_eq!(of(&[Aborted, Running]), Some(Running));
        assert_eq!(of(&[Running, Deleted]), Some(Deleted));
        // It cannot be read, so nobody knows whether it was confirmed.
        assert_eq!(of(&[Broken]), None);
    }
}
