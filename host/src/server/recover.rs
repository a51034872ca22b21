//! Forcing a membership on a survivor of a lost majority.

use super::Shared;
use super::membership::named_set;
use super::status::{Fault, Reason};
use crate::node::request::{Check, GroupStatus, Order};
use crate::transport::convert::{configuration_to_wire, log_id_to_wire};
use kontiki_proto::v1;
use kontiki_raft::{Configuration, MemberSet, NodeId, Role};
use std::collections::BTreeSet;

/// Says what `reset_peers` would do, and does it unless it is a rehearsal.
pub(crate) async fn reset_peers(
    shared: &Shared,
    request: v1::ResetPeersRequest,
) -> Result<v1::ResetPeersReply, Fault> {
    let group = shared.group(&request.group)?;
    let members = request
        .members
        .as_ref()
        .ok_or_else(|| Fault::invalid("members are missing"))?;
    let members = named_set(shared, members)?;
    // Also in a rehearsal: what it shows must then be done.
    let checked = group.check(Check::Reset(members.clone())).await;
    checked.map_err(|failure| shared.explain(&group, failure))?;
    let status = group
        .status()
        .await
        .map_err(|failure| shared.explain(&group, failure))?;
    if !request.dry_run {
        if request.confirm != request.group {
            let message = "to confirm, repeat the name of the group";
            return Err(Fault::new(Reason::NotConfirmed, message).of_group(&request.group));
        }
        let reset = group.order(Order::ResetPeers(members.clone())).await;
        reset.map_err(|failure| shared.explain(&group, failure))?;
    }
    Ok(v1::ResetPeersReply {
        before: Some(configuration_to_wire(&status.core.configuration)),
        after: Some(configuration_to_wire(&Configuration::stable(
            members.clone(),
        ))),
        last: Some(log_id_to_wire(status.core.last)),
        commit_index: Some(status.core.commit_index.0),
        warnings: warnings(shared, &status, &members),
    })
}

/// Learners that the forced membership leaves out: it names voters only.
pub(crate) fn dropped_learners(
    before: &Configuration,
    after: &MemberSet,
    name: impl Fn(NodeId) -> String,
) -> Option<String> {
    let sets = [Some(&before.current), before.old.as_ref()];
    let learners = sets.into_iter().flatten().flat_map(|set| &set.learners);
    let dropped: BTreeSet<NodeId> = learners.copied().filter(|n| !after.contains(*n)).collect();
    let names: Vec<String> = dropped.into_iter().map(name).collect();
    let names = names.join(", ");
    (!names.is_empty()).then(|| {
        format!(
            "the learners {names} are dropped: add them again afterwards with `kontiki member add \
             --learner`"
        )
    })
}

/// What an operator should know before confirming.
fn warnings(shared: &Shared, status: &GroupStatus, members: &MemberSet) -> Vec<String> {
    let transport = &shared.context.transport;
    let core = &status.core;
    let mut warnings = vec![format!(
        "commands acknowledged by a majority without this node are lost if its log ends before \
         them: it ends at {} and is known to be committed up to {}",
        core.last, core.commit_index
    )];
    let others = core.configuration.members();
    let left: Vec<NodeId> = others
        .into_iter()
        .filter(|node| !members.contains(*node))
        .collect();
    if !left.is_empty() {
        let names: Vec<_> = left.iter().map(|node| transport.name(*node)).collect();
        warnings.push(format!(
            "if {} come back with their old data they are refused and stop as soon as they reach a node \
             that knows of this recovery; until then they may answer clients",
            names.join(", ")
        ));
    }
    warnings.extend(dropped_learners(&core.configuration, members, |node| {
        transport.name(node)
    }));
    let up: Vec<_> = left
        .iter()
        .filter(|node| transport.is_connected(**node))
        .collect();
    if !up.is_empty() {
        let names: Vec<_> = up.iter().map(|node| transport.name(**node)).collect();
        warnings.push(format!(
            "{} can be reached from here: is it really lost?",
            names.join(", ")
        ));
    }
    if core.role == Role::Leader || core.leader.is_some() {
        let text = "the group has a leader: change its membership instead";
        warnings.push(text.to_owned());
    }
    warnings
}
