//! Creating a group: prepared on every member, then decided by one, then opened by all. See
//! `docs/decisions/0009-creating-and-deleting-groups.md`.

use super::Shared;
use super::forward::{failed_hop, hop};
use super::holdings::{Survey, ask_of, is_there, survey};
use super::plugins::blocking;
use super::replicas::{ask_to_settle, create_on, decide_on};
use super::status::{Fault, Reason};
use crate::node::context::{Context, lock, random_u64};
use crate::node::failpoint::failpoint;
use crate::node::prepared::decider;
use crate::node::request::{Order, Outcome};
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::GroupId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Longest wait for the members to be reached, and how often that is looked at.
const MEETING_LIMIT: Duration = Duration::from_secs(3);
const MEETING_POLL: Duration = Duration::from_millis(20);
/// Longest wait for a node that only another one knows yet.
const SEARCH_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for another creation of the same name to be decided. Longer than the patience with a
/// coordinator that is gone.
const OTHERS_LIMIT: Duration = Duration::from_secs(14);
/// Pause before looking again, at least; at most twice that, so that two do not go in step.
const OTHERS_POLL: Duration = Duration::from_millis(50);
/// Longest wait for the members to open what was decided.
const OPEN_LIMIT: Duration = Duration::from_secs(5);
const OPEN_POLL: Duration = Duration::from_millis(100);
/// Longest wait for other nodes to say whether they may lead.
const LOOK_LIMIT: Duration = Duration::from_secs(1);
/// Longest wait for the first leader; the group exists whether or not one is found by then.
const LEADER_LIMIT: Duration = Duration::from_secs(5);

/// Creates a group on its members. Success means that every member runs it. Repeating it, on any
/// node, completes what is there or says what is in the way.
pub(crate) async fn create(
    shared: &Shared,
    request: v1::CreateGroupRequest,
    deadline: Instant,
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
    // What is in the way is said in time to be heard.
    let until = deadline.min(Instant::now() + OTHERS_LIMIT) - OTHERS_POLL;
    for name in request.voters.iter().chain(&request.learners) {
        // Whoever is not found is named below.
        let _ = look_up(shared, name).await;
    }
    loop {
        let there = of_name(shared, &request.name).await;
        let under_way = match Standing::of(&there) {
            Standing::Nothing => {
                let (voters, learners) = await_members(shared, &request).await?;
                let spec = specification(&request.name, plugin.clone(), &voters, &learners);
                match create_new(shared, &spec).await {
                    Err(fault) if fault.reason_name() == Reason::GroupExists.as_str() => fault,
                    Err(fault) => return Err(fault.of_group(&spec.name)),
                    Ok(()) => {
                        elect(shared, &voters, &spec.name).await;
                        return Ok(spec);
                    }
                }
            }
            Standing::Created(existing) if has_ended(shared, &there, &existing).await => {
                undecided(shared, &existing)
            }
            Standing::Created(existing) => {
                let (voters, learners) = members(shared, &request)?;
                let spec = specification(&request.name, plugin, &voters, &learners);
                return complete(shared, &there, &existing, &spec).await;
            }
            Standing::Undecided(spec) => {
                // Whoever decides looks whether its coordinator is still there.
                let decider = shared.context.transport.introduction(decider(&spec));
                if let Some(decider) = &decider {
                    // Why it cannot say is seen by looking again.
                    let _ = ask_to_settle(shared, decider, GroupId(spec.id)).await;
                }
                undecided(shared, &spec)
            }
            Standing::Several(ids) => return Err(several(&request.name, &ids)),
        };
        if Instant::now() >= until || shared.context.is_stopping() {
            return Err(under_way.of_group(&request.name));
        }
        tokio::time::sleep(OTHERS_POLL.mul_f64(1.0 + share(random_u64()))).await;
    }
}

/// A number of `[0, 1)`.
fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1_u64 << 53) as f64
}

/// What the nodes that can be reached hold under a name.
async fn of_name(shared: &Shared, name: &str) -> Survey {
    let request = v1::LookUpGroupsRequest {
        ids: Vec::new(),
        name: name.to_owned(),
    };
    survey(shared, &request).await
}

/// What there is under a name.
#[derive(Debug, PartialEq)]
enum Standing {
    Nothing,
    /// One group, as it was specified when it was created.
    Created(v1::GroupSpec),
    /// Its creation is not decided, as far as can be seen.
    Undecided(v1::GroupSpec),
    /// More than one group that was created.
    Several(BTreeSet<GroupId>),
}

impl Standing {
    fn of(there: &Survey) -> Self {
        let runs = |held: &&v1::HeldGroup| {
            matches!(held.stage(), GroupStage::Running | GroupStage::Broken)
        };
        let all = || there.held.iter().map(|(_, held)| held);
        let created: BTreeSet<GroupId> = all().filter(runs).map(|it| GroupId(it.id)).collect();
        if created.len() > 1 {
            return Self::Several(created);
        }
        if let Some(id) = created.first() {
            let of_it = all().filter(|held| held.id == id.0);
            let specs = of_it.filter_map(|held| held.spec.clone());
            // Replicas that joined later do not know who began.
            let began = |spec: &v1::GroupSpec| {
                let members = spec.initial_members.clone().unwrap_or_default();
                members.voters.len()
            };
            let spec = specs.max_by_key(began).unwrap_or_default();
            return Self::Created(spec);
        }
        let prepared = all().find(|held| held.stage() == GroupStage::Prepared);
        match prepared.and_then(|held| held.spec.clone()) {
            Some(spec) => Self::Undecided(spec),
            None => Self::Nothing,
        }
    }
}

/// Whether a node that holds a group finds, now that it looks, that the group was deleted while the
/// node was away: its name is free then.
async fn has_ended(shared: &Shared, there: &Survey, spec: &v1::GroupSpec) -> bool {
    let id = GroupId(spec.id);
    let holders = there.of(id).filter(|(_, held)| is_there(held.stage()));
    let asked = holders.map(|(node, _)| ask_to_settle(shared, node, id));
    let answers = join_all(asked).await.into_iter().flatten();
    let mut stages = answers.map(|settled| settled.stage());
    stages.any(|stage| stage == GroupStage::Deleted)
}

fn undecided(shared: &Shared, spec: &v1::GroupSpec) -> Fault {
    let message = format!(
        "another creation of group {:?} is not decided yet; node {:?} decides it",
        spec.name,
        shared.context.transport.name(decider(spec))
    );
    Fault::new(Reason::CreationUndecided, message)
}

fn several(name: &str, ids: &BTreeSet<GroupId>) -> Fault {
    let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let message = format!(
        "there are {} groups called {name:?}, with the ids {}: delete those that are of no use by id",
        ids.len(),
        ids.join(", ")
    );
    Fault::new(Reason::GroupExists, message).of_group(name)
}

/// Marks a creation as under way while it lives: whoever decides it asks.
struct UnderWay {
    context: Arc<Context>,
    id: GroupId,
}

impl UnderWay {
    fn begin(context: &Arc<Context>, id: GroupId) -> Self {
        lock(&context.creating).insert(id);
        let context = Arc::clone(context);
        Self { context, id }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.context.creating).remove(&self.id);
    }
}

/// Prepares, decides, and has every member open the group.
async fn create_new(shared: &Shared, spec: &v1::GroupSpec) -> Result<(), Fault> {
    let id = GroupId(spec.id);
    let first = decider(spec);
    let (decider, others): (Vec<_>, Vec<_>) = spec
        .nodes
        .iter()
        .cloned()
        .partition(|node| node.node == first.0);
    let Some(decider) = decider.first() else {
        return Err(Fault::invalid("a group needs at least one voter"));
    };
    let under_way = UnderWay::begin(&shared.context, id);
    if let Err(fault) = prepare(shared, spec, decider, &others).await {
        // Only this coordinator would complete it, and it does not: the outcome is certain whether
        // or not the members hear of it now.
        drop(under_way);
        give_up(shared, id, decider, &others).await;
        return Err(fault);
    }
    let decided = decide_on(shared, decider, id, true).await;
    drop(under_way);
    failpoint("create.after_decided");
    match decided {
        Ok(GroupStage::Running | GroupStage::Broken) => {}
        Ok(stage) => return Err(lost(spec, decider, stage)),
        Err(why) => decided_anyway(shared, spec, decider, &why).await?,
    }
    info!(group = spec.id, name = %spec.name, plugin = %spec.plugin, "group created");
    await_open(shared, spec, &spec.nodes, OPEN_LIMIT).await
}

/// The decider first: of two creations of one name on the same members only one gets beyond it.
async fn prepare(
    shared: &Shared,
    spec: &v1::GroupSpec,
    decider: &v1::Introduction,
    others: &[v1::Introduction],
) -> Result<(), Fault> {
    create_on(shared, decider, spec, false).await?;
    failpoint("create.after_first");
    let rest = others
        .iter()
        .map(|node| create_on(shared, node, spec, false));
    for made in join_all(rest).await {
        made?;
    }
    failpoint("create.after_prepared");
    // Two creations of one name on different members: each looks after it has prepared, so at least
    // one sees the other.
    let there = of_name(shared, &spec.name).await;
    match there.ids().iter().find(|other| other.0 != spec.id) {
        None => Ok(()),
        Some(other) => {
            let message = format!(
                "there is a group {:?} already, or being created, with id {other}",
                spec.name
            );
            Err(Fault::new(Reason::GroupExists, message))
        }
    }
}

/// Undoes what was prepared. What does not hear of it finds out by itself.
async fn give_up(
    shared: &Shared,
    id: GroupId,
    decider: &v1::Introduction,
    others: &[v1::Introduction],
) {
    if let Err(why) = decide_on(shared, decider, id, false).await {
        warn!(group = id.0, peer = %decider.name, error = why, "a creation is given up later");
    }
    failpoint("create.after_given_up");
    let told = others.iter().map(|node| ask_to_settle(shared, node, id));
    for (node, told) in others.iter().zip(join_all(told).await) {
        if let Err(why) = told {
            warn!(group = id.0, peer = %node.name, error = why, "a replica is taken back later");
        }
    }
}

fn lost(spec: &v1::GroupSpec, decider: &v1::Introduction, stage: GroupStage) -> Fault {
    let message = format!(
        "the creation was given up by node {:?}, which took this node for gone: try again ({})",
        decider.name,
        stage.as_str_name()
    );
    Fault::new(Reason::CreationUndecided, message).of_group(&spec.name)
}

/// The decider was told to complete and its answer is lost: only it knows, until it is asked again.
async fn decided_anyway(
    shared: &Shared,
    spec: &v1::GroupSpec,
    decider: &v1::Introduction,
    why: &str,
) -> Result<(), Fault> {
    let until = Instant::now() + OPEN_LIMIT;
    while Instant::now() < until && !shared.context.is_stopping() {
        if let Ok(held) = ask_of(shared, decider, GroupId(spec.id)).await {
            match held.stage() {
                GroupStage::Running | GroupStage::Broken => return Ok(()),
                // The order is still on its way, or will be given up there.
                GroupStage::Prepared => {}
                stage => return Err(lost(spec, decider, stage)),
            }
        }
        tokio::time::sleep(OPEN_POLL).await;
    }
    let message = format!(
        "whether group {:?} is created is not known: node {:?}, which decides, does not answer \
         ({why}); create it again to find out",
        spec.name, decider.name
    );
    Err(Fault::new(Reason::ReplyLost, message).with_outcome(Outcome::Unknown))
}

/// Waits until every one of these nodes runs the group, at most for `limit`.
async fn await_open(
    shared: &Shared,
    spec: &v1::GroupSpec,
    nodes: &[v1::Introduction],
    limit: Duration,
) -> Result<(), Fault> {
    let until = Instant::now() + limit;
    let mut lacking: Vec<v1::Introduction> = nodes.to_vec();
    loop {
        let asked = lacking.iter().map(|node| async move {
            let why = match ask_to_settle(shared, node, GroupId(spec.id)).await {
                Ok(settled) if settled.stage() == GroupStage::Running => return None,
                Ok(settled) => reason(&settled),
                Err(why) => why,
            };
            Some((node.clone(), why))
        });
        let left: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until || shared.context.is_stopping() {
            return Err(incomplete(spec, &left));
        }
        lacking = left.into_iter().map(|(node, _)| node).collect();
        tokio::time::sleep(OPEN_POLL).await;
    }
}

fn reason(settled: &v1::SettleReply) -> String {
    match settled.stage() {
        GroupStage::Absent => "it has no replica of it".to_owned(),
        GroupStage::Broken => "its replica cannot be opened".to_owned(),
        GroupStage::Aborted | GroupStage::Deleted => "the group has ended there".to_owned(),
        GroupStage::Prepared | GroupStage::Running => settled.problem.clone(),
    }
}

/// It exists, and not everywhere.
fn incomplete(spec: &v1::GroupSpec, lacking: &[(v1::Introduction, String)]) -> Fault {
    let one = |(node, why): &(v1::Introduction, String)| format!("node {:?}: {why}", node.name);
    let lacking: Vec<_> = lacking.iter().map(one).collect();
    let message = format!(
        "group {:?} is created, but not every member runs it: {}",
        spec.name,
        lacking.join("; ")
    );
    let fault = Fault::new(Reason::GroupIncomplete, message).with_outcome(Outcome::Unknown);
    fault.of_group(&spec.name)
}

/// Asking for what is there already is fine, once every member has it; asking for something else
/// under its name is not.
async fn complete(
    shared: &Shared,
    there: &Survey,
    existing: &v1::GroupSpec,
    wanted: &v1::GroupSpec,
) -> Result<v1::GroupSpec, Fault> {
    let same =
        existing.plugin == wanted.plugin && existing.initial_members == wanted.initial_members;
    if !same {
        let message = format!(
            "there is a group {:?} already, with plugin {} or members other than asked for",
            wanted.name, existing.plugin
        );
        return Err(Fault::new(Reason::GroupExists, message).of_group(&wanted.name));
    }
    let now = members_now(there, GroupId(existing.id));
    let is_member =
        |node: &&v1::Introduction| now.as_ref().is_none_or(|now| now.contains(&node.node));
    let members: Vec<_> = wanted.nodes.iter().filter(is_member).cloned().collect();
    await_open(shared, existing, &members, MEETING_LIMIT).await?;
    Ok(existing.clone())
}

/// The members in force, by the word of its leader, else of any replica.
fn members_now(there: &Survey, id: GroupId) -> Option<BTreeSet<u64>> {
    let running = there.of(id).map(|(_, held)| held);
    let running = running.filter(|held| is_there(held.stage()) && held.configuration.is_some());
    let best =
        running.max_by_key(|held| (held.leads, held.last.map(|last| (last.term, last.index))))?;
    let configuration = best.configuration.clone().unwrap_or_default();
    let sets = configuration.current.into_iter().chain(configuration.old);
    let members = sets.flat_map(|set| set.voters.into_iter().chain(set.learners));
    Some(members.collect()).filter(|members: &BTreeSet<u64>| !members.is_empty())
}

/// Voters and learners.
type Members = (Vec<v1::Introduction>, Vec<v1::Introduction>);

/// The members, once each can be reached. Nodes that were just started need a moment to meet.
async fn await_members(
    shared: &Shared,
    request: &v1::CreateGroupRequest,
) -> Result<Members, Fault> {
    let until = Instant::now() + MEETING_LIMIT;
    loop {
        let found = members(shared, request).and_then(|(voters, learners)| {
            check_connected(shared, voters.iter().chain(&learners))?;
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
        lineage: None,
    }
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
