//! Read-only mode: of one replica, or of a group by way of its members.

use super::Shared;
use super::describe::role_name;
use super::forward::hop;
use super::status::{Fault, Reason};
use crate::node::handle::GroupHandle;
use crate::node::request::Control;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_raft::{Configuration, NodeId, Role};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// Time a member has to answer, so that one that hangs does not keep the operator waiting.
const MEMBER_LIMIT: Duration = Duration::from_secs(3);
/// Between two looks at what the leader knows.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Roles of a leader.
const LEADING: [Role; 2] = [Role::Leader, Role::Transferring];

/// Sets the mode of this node's replica, and if `everywhere` of every other member's.
pub(super) async fn set(
    shared: &Shared,
    request: &v1::SetReadOnlyRequest,
    everywhere: bool,
    deadline: Instant,
) -> Result<v1::SetReadOnlyReply, Fault> {
    let group = shared.group(&request.group)?;
    let set_here = group.control(Control::SetReadOnly(request.on)).await;
    // In force first: a disk that fills up may refuse to keep it.
    set_here.map_err(|failure| shared.explain(&group, failure))?;
    shared.context.keep_read_only(&group, request.on).await?;
    if !everywhere {
        return Ok(v1::SetReadOnlyReply::default());
    }
    let status = group.status().await;
    let status = status.map_err(|failure| shared.explain(&group, failure))?;
    let configuration = status.core.configuration;
    let (reached, unreached) = tell_members(shared, request, &configuration, deadline).await;
    if holds(request.on, &configuration, leader(&group), &reached) {
        if !request.on {
            await_writable(shared, &group, &configuration, deadline).await;
        }
        return Ok(v1::SetReadOnlyReply { unreached });
    }
    let message = format!(
        "some that it depends on could not be told: {}",
        unreached.join("; ")
    );
    Err(Fault::new(Reason::PeerUnreachable, message).of_group(&request.group))
}

/// Waits until the leader knows that the members take commands again: it hears of that with their
/// next answers. In vain after a while: the mode is off all the same.
async fn await_writable(
    shared: &Shared,
    group: &GroupHandle,
    configuration: &Configuration,
    deadline: Instant,
) {
    let limit = deadline.min(Instant::now() + MEMBER_LIMIT);
    while Instant::now() < limit && leader_refuses(shared, group, configuration, limit).await {
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Whether the leader takes the group for read-only; no, if there is none: the next begins with
/// nothing against its members.
///
/// A replica that was removed hears of no leader any more, and one that was cut off may know an old
/// one, so every member is asked unless this node's idea of the leader proves right.
async fn leader_refuses(
    shared: &Shared,
    group: &GroupHandle,
    configuration: &Configuration,
    limit: Instant,
) -> bool {
    if let Some(leader) = leader(group)
        && let Some((_, refuses)) = as_leader(shared, group, leader, limit).await
    {
        return refuses;
    }
    let members = configuration.members();
    let asked = members
        .into_iter()
        .map(|node| as_leader(shared, group, node, limit));
    let leaders = join_all(asked).await.into_iter().flatten();
    leaders.max().is_some_and(|(_, refuses)| refuses)
}

/// If `node` leads: its term, and whether it takes the group for read-only.
async fn as_leader(
    shared: &Shared,
    group: &GroupHandle,
    node: NodeId,
    limit: Instant,
) -> Option<(u64, bool)> {
    if node == shared.context.node() {
        let core = group.status().await.ok()?.core;
        let leads = LEADING.contains(&core.role);
        return leads.then_some((core.term.0, core.group_read_only));
    }
    let node = shared.context.transport.introduction(node)?;
    let mut admin = shared.forwarder.admin(&node).ok()?;
    let request = v1::DescribeGroupRequest {
        group: group.name().to_owned(),
        local: true,
    };
    let answer = tokio::time::timeout_at(limit, admin.describe_group(hop(request, limit))).await;
    let description = answer.ok()?.ok()?.into_inner();
    let summary = description.summary?;
    let leads = LEADING.map(role_name).contains(&summary.role.as_str());
    leads.then_some((summary.term, description.group_read_only))
}

fn leader(group: &GroupHandle) -> Option<NodeId> {
    group.brief().leader
}

/// Who has the mode now, this node included, and who has not, with the reason.
async fn tell_members(
    shared: &Shared,
    request: &v1::SetReadOnlyRequest,
    configuration: &Configuration,
    deadline: Instant,
) -> (BTreeSet<NodeId>, Vec<String>) {
    let me = shared.context.node();
    let limit = deadline.min(Instant::now() + MEMBER_LIMIT);
    let members = configuration.members();
    let others = members.into_iter().filter(|node| *node != me);
    let tell = |node| async move { (node, tell(shared, request, node, limit).await) };
    let mut reached = BTreeSet::from([me]);
    let mut unreached = Vec::new();
    for (node, told) in join_all(others.map(tell)).await {
        match told {
            Ok(()) => drop(reached.insert(node)),
            Err(why) => unreached.push(why),
        }
    }
    (reached, unreached)
}

async fn tell(
    shared: &Shared,
    request: &v1::SetReadOnlyRequest,
    node: NodeId,
    limit: Instant,
) -> Result<(), String> {
    let introduction = shared.context.transport.introduction(node);
    let node = introduction.ok_or_else(|| format!("node {node} is not known"))?;
    let admin = shared.forwarder.admin(&node);
    let mut admin = admin.map_err(|fault| fault.message().to_owned())?;
    let mut request = request.clone();
    request.local = true;
    let answer = tokio::time::timeout_at(limit, admin.set_read_only(hop(request, limit))).await;
    match answer {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(format!("{}: {}", node.name, status.message())),
        Err(_) => Err(format!("{}: no answer", node.name)),
    }
}

/// Whether the group has the mode for certain, whatever those do who were not reached.
///
/// It refuses commands while its leader, or so many voters of a set in force that no majority is
/// left, are read-only; a majority of each set is enough for that under any leader. It takes them
/// only if its leader does and a majority of each set does. Learners count for neither.
fn holds(
    on: bool,
    configuration: &Configuration,
    leader: Option<NodeId>,
    reached: &BTreeSet<NodeId>,
) -> bool {
    let sets = || std::iter::once(&configuration.current).chain(&configuration.old);
    let majorities =
        sets().all(|set| 2 * set.voters.intersection(reached).count() > set.voters.len());
    let may_lead = || match leader {
        Some(leader) => reached.contains(&leader),
        None => sets().all(|set| set.voters.is_subset(reached)),
    };
    majorities && (on || may_lead())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_raft::MemberSet;

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().copied().map(NodeId).collect()
    }

    fn voters(ids: &[u64]) -> MemberSet {
        MemberSet::of_voters(nodes(ids))
    }

    #[test]
    fn learners_do_not_make_a_majority() {
        let mut members = voters(&[1, 2, 3]);
        members.learners = nodes(&[4, 5]);
        let configuration = Configuration::stable(members);
        let leader = Some(NodeId(1));
        assert!(!holds(true, &configuration, leader, &nodes(&[1, 4, 5])));
        assert!(holds(true, &configuration, leader, &nodes(&[2, 3])));
    }

    #[test]
    fn commands_are_taken_only_if_the_leader_was_reached() {
        let configuration = Configuration::stable(voters(&[1, 2, 3]));
        let off = |leader: Option<u64>, reached: &[u64]| {
            let leader = leader.map(NodeId);
            holds(false, &configuration, leader, &nodes(reached))
        };
        assert!(off(Some(1), &[1, 2]));
        assert!(!off(Some(3), &[1, 2]));
        assert!(!off(None, &[1, 2]), "the third may come to lead");
        assert!(off(None, &[1, 2, 3]));
        assert!(!off(Some(1), &[1]));
    }

    #[test]
    fn both_sets_of_a_joint_configuration_count() {
        let configuration = Configuration {
            current: voters(&[1, 2, 3]),
            old: Some(voters(&[3, 4, 5])),
        };
        assert!(!holds(true, &configuration, None, &nodes(&[1, 2, 3])));
        assert!(holds(true, &configuration, None, &nodes(&[1, 3, 4])));
    }
}
