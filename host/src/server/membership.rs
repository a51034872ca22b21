//! Changing a group's membership, with progress.

use super::Shared;
use super::create_group::{check_connected, look_up, resolve, resolve_all};
use super::describe::catch_up;
use super::replicas::{create_on, take_back};
use super::status::{Fault, Reason};
use crate::node::handle::GroupHandle;
use crate::node::request::{Check, Order, Outcome};
use crate::transport::convert::{configuration_to_wire, members_to_wire};
use kontiki_proto::v1;
use kontiki_proto::v1::change_membership_request::Change;
use kontiki_raft::{ConfigurationChange, MemberSet, NodeId, Term};
use std::time::Duration;
use tokio::sync::mpsc;
use tonic::Status;

/// How often progress is reported.
const REPORT_INTERVAL: Duration = Duration::from_millis(200);

/// A change that the leader would take now.
pub(crate) struct Plan {
    change: ConfigurationChange,
    expected: Option<MemberSet>,
    /// Where it leads.
    target: MemberSet,
    /// The term in which that was found.
    term: Term,
    /// Nodes that need a replica first.
    newcomers: Vec<v1::Introduction>,
}

impl Plan {
    /// Where it would lead.
    pub(crate) fn preview(&self) -> v1::MembershipProgress {
        v1::MembershipProgress {
            stage: "planned".to_owned(),
            target: Some(members_to_wire(&self.target)),
            ..v1::MembershipProgress::default()
        }
    }
}

/// Names become ids, and the core is asked whether it would take the change, before anything is
/// done. Leaving nodes need not be known by name any more; joining ones must be, and be reached.
pub(crate) async fn plan(
    shared: &Shared,
    group: &GroupHandle,
    request: &v1::ChangeMembershipRequest,
) -> Result<Plan, Fault> {
    let change = request.change.as_ref();
    let change = change.ok_or_else(|| Fault::invalid("the request names no change"))?;
    for name in joining(change) {
        look_up(shared, name).await?;
    }
    let (change, named) = named_change(shared, change)?;
    let expected = request.expected.as_ref();
    let expected = expected.map(|set| named_set(shared, set)).transpose()?;
    let check = Check::Change(change.clone(), expected.clone());
    let (target, term) = group.check(check).await?;
    let members = group.status().await?.core.configuration;
    let is_new = |node: &v1::Introduction| !members.contains(NodeId(node.node));
    let newcomers: Vec<_> = named.into_iter().filter(is_new).collect();
    check_connected(shared, newcomers.iter())?;
    Ok(Plan {
        change,
        expected,
        target,
        term,
        newcomers,
    })
}

/// The nodes that a change may bring in, by name.
fn joining(change: &Change) -> Vec<&str> {
    match change {
        Change::AddVoter(name) | Change::AddLearner(name) => vec![name],
        Change::Replace(members) => {
            let all = members.voters.iter().chain(&members.learners);
            all.map(String::as_str).collect()
        }
        Change::Promote(_) | Change::Demote(_) | Change::Remove(_) => vec![],
    }
}

/// The change by id, and the nodes that it may bring in.
fn named_change(
    shared: &Shared,
    change: &Change,
) -> Result<(ConfigurationChange, Vec<v1::Introduction>), Fault> {
    Ok(match change {
        Change::AddVoter(name) => {
            let node = resolve(shared, name)?;
            (ConfigurationChange::AddVoter(NodeId(node.node)), vec![node])
        }
        Change::AddLearner(name) => {
            let node = resolve(shared, name)?;
            let id = NodeId(node.node);
            (ConfigurationChange::AddLearner(id), vec![node])
        }
        Change::Promote(name) => (
            ConfigurationChange::Promote(member(shared, name)?),
            Vec::new(),
        ),
        Change::Demote(name) => (
            ConfigurationChange::Demote(member(shared, name)?),
            Vec::new(),
        ),
        Change::Remove(name) => (
            ConfigurationChange::Remove(member(shared, name)?),
            Vec::new(),
        ),
        Change::Replace(members) => {
            let voters = resolve_all(shared, &members.voters)?;
            let learners = resolve_all(shared, &members.learners)?;
            let ids = |nodes: &[v1::Introduction]| nodes.iter().map(|n| NodeId(n.node)).collect();
            let set = MemberSet {
                voters: ids(&voters),
                learners: ids(&learners),
            };
            let named = voters.into_iter().chain(learners).collect();
            (ConfigurationChange::Replace(set), named)
        }
    })
}

/// A node that is a member already: known, or named by id.
fn member(shared: &Shared, name: &str) -> Result<NodeId, Fault> {
    match name.parse() {
        Ok(id) => Ok(NodeId(id)),
        Err(_) => resolve(shared, name).map(|node| NodeId(node.node)),
    }
}

/// Members by name or id.
pub(crate) fn named_set(shared: &Shared, set: &v1::NamedMembers) -> Result<MemberSet, Fault> {
    let ids = |names: &[String]| -> Result<_, Fault> {
        names.iter().map(|name| member(shared, name)).collect()
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
    // At once, so that whoever watches can go on watching another leader if this one is lost.
    let begun = v1::MembershipProgress {
        stage: "starting".to_owned(),
        target: Some(members_to_wire(&plan.target)),
        ..v1::MembershipProgress::default()
    };
    let _ = reports.send(Ok(begun)).await;
    let result = change(&shared, &group, &plan, &reports).await;
    let last = match result {
        Ok(()) => progress(&shared, &group, &plan, true).await,
        Err(fault) => Err(fault),
    };
    let last = last.map_err(|fault| Status::from(shared.explain(&group, fault)));
    // Nobody listens: the outcome shows in the group's description.
    let _ = reports.send(last).await;
}

async fn change(
    shared: &Shared,
    group: &GroupHandle,
    plan: &Plan,
    reports: &mpsc::Sender<Result<v1::MembershipProgress, Status>>,
) -> Result<(), Fault> {
    // A replica that is about to be taken back must not be counted on by the next change.
    let Ok(_one_at_a_time) = group.inner.changing.try_lock() else {
        let message = "another membership change of this group begins or ends just now: try again";
        return Err(Fault::new(Reason::MembershipBusy, message));
    };
    let mut made = Vec::new();
    let changed = match make_replicas(shared, group, plan, &mut made).await {
        Ok(()) => carry_out(shared, group, plan, reports).await,
        // The order was not given, whatever became of the replicas.
        Err(fault) => Err(fault.with_outcome(Outcome::NotApplied)),
    };
    if let Err(fault) = &changed
        && fault.outcome() == Outcome::NotApplied
    {
        // Nothing was logged, so whoever was made for it would wait for ever.
        take_back(shared, &made, group.id(), plan.term).await;
    }
    changed
}

async fn carry_out(
    shared: &Shared,
    group: &GroupHandle,
    plan: &Plan,
    reports: &mpsc::Sender<Result<v1::MembershipProgress, Status>>,
) -> Result<(), Fault> {
    let order = group.order(Order::ChangeConfiguration {
        change: plan.change.clone(),
        expected: plan.expected.clone(),
    });
    tokio::pin!(order);
    loop {
        tokio::select! {
            done = &mut order => return done.map_err(Fault::from),
            () = tokio::time::sleep(REPORT_INTERVAL) => {
                if let Ok(progress) = progress(shared, group, plan, false).await {
                    let _ = reports.send(Ok(progress)).await;
                }
            }
        }
    }
}

/// A replica must be there before the leader can bring it up to date. `made` gets those that were
/// made now, or may have been.
async fn make_replicas(
    shared: &Shared,
    group: &GroupHandle,
    plan: &Plan,
    made: &mut Vec<v1::Introduction>,
) -> Result<(), Fault> {
    let configuration = group.status().await?.core.configuration;
    let transport = &shared.context.transport;
    let members = configuration.members().into_iter();
    let members = members.chain([transport.node()]);
    let spec = v1::GroupSpec {
        nodes: members
            .filter_map(|node| transport.introduction(node))
            .collect(),
        lineage: group.epochs().lineage(),
        ..group.spec().clone()
    };
    for node in &plan.newcomers {
        let created = create_on(shared, node, &spec, true).await;
        let may_be_there = match &created {
            Ok(created) => *created,
            Err(fault) => fault.outcome() == Outcome::Unknown,
        };
        if may_be_there {
            made.push(node.clone());
        }
        created?;
    }
    Ok(())
}

async fn progress(
    shared: &Shared,
    group: &GroupHandle,
    plan: &Plan,
    done: bool,
) -> Result<v1::MembershipProgress, Fault> {
    let status = group.status().await?;
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
        target: Some(members_to_wire(&plan.target)),
    })
}
