//! Changing a group's membership, with progress.

use super::Shared;
use super::create_group::{create_on, resolve, resolve_all};
use super::describe::catch_up;
use super::status::Fault;
use crate::node::handle::GroupHandle;
use crate::node::request::{Failure, Order};
use crate::transport::convert::configuration_to_wire;
use kontiki_proto::v1;
use kontiki_proto::v1::change_membership_request::Change;
use kontiki_raft::{ConfigurationChange, MemberSet, NodeId};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// A checked change: what the core is told, and who needs a replica first.
pub(crate) struct Plan {
    change: ConfigurationChange,
    expected: Option<MemberSet>,
    newcomers: Vec<v1::Introduction>,
}

/// Names become ids. Leaving nodes need not be known by name any more; joining ones must be.
pub(crate) fn plan(shared: &Shared, request: &v1::ChangeMembershipRequest) -> Result<Plan, Fault> {
    let change = request.change.as_ref();
    let change = change.ok_or_else(|| Fault::invalid("the request names no change"))?;
    let (change, newcomers) = match change {
        Change::AddVoter(name) => {
            let node = resolve(shared, name)?;
            (ConfigurationChange::AddVoter(NodeId(node.node)), vec![node])
        }
        Change::AddLearner(name) => {
            let node = resolve(shared, name)?;
            (
                ConfigurationChange::AddLearner(NodeId(node.node)),
                vec![node],
            )
        }
        Change::Remove(name) => (ConfigurationChange::Remove(leaving(shared, name)?), vec![]),
        Change::Replace(members) => {
            let (voters, learners) = (
                resolve_all(shared, &members.voters)?,
                resolve_all(shared, &members.learners)?,
            );
            let set = MemberSet {
                voters: voters.iter().map(|node| NodeId(node.node)).collect(),
                learners: learners.iter().map(|node| NodeId(node.node)).collect(),
            };
            let newcomers = voters.into_iter().chain(learners).collect();
            (ConfigurationChange::Replace(set), newcomers)
        }
    };
    let expected = request
        .expected
        .as_ref()
        .map(|set| named_set(shared, set))
        .transpose()?;
    Ok(Plan {
        change,
        expected,
        newcomers,
    })
}

/// A member to be removed: known, or named by id.
fn leaving(shared: &Shared, name: &str) -> Result<NodeId, Fault> {
    match name.parse() {
        Ok(id) => Ok(NodeId(id)),
        Err(_) => resolve(shared, name).map(|node| NodeId(node.node)),
    }
}

/// Members by name or id.
pub(crate) fn named_set(shared: &Shared, set: &v1::NamedMembers) -> Result<MemberSet, Fault> {
    let ids = |names: &[String]| -> Result<_, Fault> {
        names.iter().map(|name| leaving(shared, name)).collect()
    };
    Ok(MemberSet {
        voters: ids(&set.voters)?,
        learners: ids(&set.learners)?,
    })
}

/// Makes replicas on those that lack one, then changes the membership, reporting how it goes. Ends
/// early if nobody listens; the change itself goes on.
pub(crate) async fn run(
    shared: Shared,
    group: GroupHandle,
    plan: Plan,
    reports: mpsc::Sender<Result<v1::MembershipProgress, Status>>,
) {
    let result = change(&shared, &group, plan, &reports).await;
    let last = match result {
        Ok(()) => progress(&shared, &group, true).await,
        Err(fault) => Err(fault),
    };
    let last = last.map_err(|fault| Status::from(shared.explain(&group, fault)));
    // Nobody listens: the outcome shows in the group's description.
    let _ = reports.send(last).await;
}

async fn change(
    shared: &Shared,
    group: &GroupHandle,
    plan: Plan,
    reports: &mpsc::Sender<Result<v1::MembershipProgress, Status>>,
) -> Result<(), Fault> {
    make_replicas(shared, group, &plan.newcomers).await?;
    let order = group.order(Order::ChangeConfiguration {
        change: plan.change,
        expected: plan.expected,
    });
    tokio::pin!(order);
    loop {
        tokio::select! {
            done = &mut order => return done.map_err(Fault::from),
            () = tokio::time::sleep(REPORT_INTERVAL) => {
                if let Ok(progress) = progress(shared, group, false).await {
                    let _ = reports.send(Ok(progress)).await;
                }
            }
        }
    }
}

/// A replica must be there before the leader can bring it up to date.
async fn make_replicas(
    shared: &Shared,
    group: &GroupHandle,
    newcomers: &[v1::Introduction],
) -> Result<(), Fault> {
    let status = group.status().await?;
    let configuration = status.core.configuration;
    let transport = &shared.context.transport;
    let members = configuration
        .members()
        .into_iter()
        .chain([transport.node()]);
    let spec = v1::GroupSpec {
        nodes: members
            .filter_map(|node| transport.introduction(node))
            .collect(),
        ..group.spec().clone()
    };
    for node in newcomers {
        if !configuration.contains(NodeId(node.node)) {
            create_on(shared, node, &spec, true).await?;
        }
    }
    Ok(())
}

async fn progress(
    shared: &Shared,
    group: &GroupHandle,
    done: bool,
) -> Result<v1::MembershipProgress, Fault> {
    let status = group
        .status()
        .await
        .map_err(|failure: Failure| Fault::from(failure))?;
    let transport = &shared.context.transport;
    let core = &status.core;
    Ok(v1::MembershipProgress {
        stage: if done { "done" } else { core.change_stage }.to_owned(),
        catching_up: core
            .catching_up
            .iter()
            .map(|one| catch_up(transport, one))
            .collect(),
        configuration: done.then(|| configuration_to_wire(&core.configuration)),
    })
}
