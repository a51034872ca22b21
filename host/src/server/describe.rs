//! What this node says about its groups.

use crate::node::apply::ApplyStatus;
use crate::node::broken::Broken;
use crate::node::clock::micros;
use crate::node::context::{Context, lock};
use crate::node::handle::GroupHandle;
use crate::node::request::{Failure, GroupStatus, Problem};
use crate::raft_stat::BROKEN;
use crate::transport::Transport;
use crate::transport::convert::{configuration_to_wire, log_id_to_wire, members_to_wire};
use kontiki_proto::v1;
use kontiki_raft::{
    Blocked, CatchUp, GroupId, LeaseStatus, NodeId, PeerPart, PeerState, PeerStatus, Role, Timer,
    Timers,
};
use std::sync::Arc;

/// A role's name, as everywhere outside the core.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Follower => "follower",
        Role::PreCandidate => "pre-candidate",
        Role::Candidate => "candidate",
        Role::Leader => "leader",
        Role::Transferring => "transferring",
        Role::Stopped => "stopped",
    }
}

fn lease_name(lease: LeaseStatus) -> &'static str {
    match lease {
        LeaseStatus::Disabled => "disabled",
        LeaseStatus::Expired => "expired",
        LeaseStatus::NotReady => "not-ready",
        LeaseStatus::Valid => "valid",
    }
}

fn peer_part_name(part: PeerPart) -> &'static str {
    match part {
        PeerPart::Voter => "voter",
        PeerPart::Learner => "learner",
        PeerPart::CatchingUp => "catching-up",
        PeerPart::Leaving => "leaving",
    }
}

fn blocked_name(blocked: Blocked) -> &'static str {
    match blocked {
        Blocked::Window => "window",
        Blocked::Probe => "probe",
        Blocked::Retry => "retry",
        Blocked::Disk => "disk",
        Blocked::Snapshot => "snapshot",
    }
}

fn peer_state_name(state: PeerState) -> &'static str {
    match state {
        PeerState::Probe => "probe",
        PeerState::Replicate => "replicate",
        PeerState::Snapshot => "snapshot",
    }
}

/// A group in a line, without asking its task: from what it announces.
pub(crate) fn brief_summary(context: &Context, handle: &GroupHandle) -> v1::GroupSummary {
    let brief = handle.brief();
    let apply = handle.apply_status();
    let mut summary = summary(context, handle, &apply);
    summary.role = role_name(brief.role).to_owned();
    summary.leader = brief.leader.map(|leader| leader.0);
    summary.leader_name = leader_name(&context.transport, brief.leader);
    summary.term = brief.term.0;
    summary.commit_index = brief.commit.0;
    summary
}

fn leader_name(transport: &Transport, leader: Option<NodeId>) -> String {
    leader
        .map(|leader| transport.name(leader))
        .unwrap_or_default()
}

fn summary(_: &Context, handle: &GroupHandle, apply: &ApplyStatus) -> v1::GroupSummary {
    v1::GroupSummary {
        id: handle.id().0,
        name: handle.name().to_owned(),
        plugin: handle.spec().plugin.clone(),
        plugin_name: handle.plugin_description().name.clone(),
        applied_index: apply.applied.index.0,
        epoch: handle.epochs().id().to_wire(),
        left_behind: handle.epochs().newer().is_some(),
        ..v1::GroupSummary::default()
    }
}

/// A group in a line, with its problems.
pub(crate) async fn full_summary(
    context: &Context,
    handle: &GroupHandle,
) -> Result<v1::GroupSummary, Failure> {
    let status = handle.status().await?;
    let mut summary = brief_summary(context, handle);
    summary.voters = voters(&status);
    summary.problems = status
        .problems
        .iter()
        .map(|problem| problem.what.clone())
        .collect();
    summary.next_steps = next_steps(&status.problems);
    summary.members = Some(members_to_wire(&status.core.configuration.current));
    Ok(summary)
}

fn next_steps(problems: &[Problem]) -> Vec<String> {
    problems
        .iter()
        .map(|problem| problem.next_step.clone())
        .collect()
}

fn voters(status: &GroupStatus) -> u32 {
    u32::try_from(status.core.configuration.current.voters.len()).unwrap_or(u32::MAX)
}

/// A replica that could not be opened, in a line.
pub(crate) fn broken_summary(broken: &Broken) -> v1::GroupSummary {
    let spec = broken.spec.clone().unwrap_or_default();
    v1::GroupSummary {
        id: broken.id.0,
        name: broken.name(),
        plugin: spec.plugin,
        role: BROKEN.to_owned(),
        problems: vec![broken.problem.what.clone()],
        next_steps: vec![broken.problem.next_step.clone()],
        ..v1::GroupSummary::default()
    }
}

/// The replica of that group, if it is here and could not be opened: all there is to say.
pub(crate) fn describe_broken(context: &Context, name: &str) -> Option<v1::GroupDescription> {
    let broken = lock(&context.broken).get(name).cloned()?;
    Some(v1::GroupDescription {
        summary: Some(broken_summary(&broken)),
        node: context.node().0,
        node_name: context.config.name.clone(),
        failure: broken.problem.what,
        next_steps: vec![broken.problem.next_step],
        ..v1::GroupDescription::default()
    })
}

/// Everything this node's replica knows.
pub(crate) async fn describe(
    context: &Context,
    handle: &GroupHandle,
) -> Result<v1::GroupDescription, Failure> {
    let status = handle.status().await?;
    let mut description = describe_core(context, &status);
    describe_machine(context, handle, &mut description);
    description.log_size_bytes = log_size_bytes(context, handle.id()).await;
    Ok(description)
}

/// Nothing if the storage was closed meanwhile.
async fn log_size_bytes(context: &Context, group: GroupId) -> Option<u64> {
    let storage = Arc::clone(&context.storage);
    let asked = tokio::task::spawn_blocking(move || storage.log_size_bytes(group));
    asked.await.ok()?.ok()
}

/// What the core says.
fn describe_core(context: &Context, status: &GroupStatus) -> v1::GroupDescription {
    let core = &status.core;
    let transport = &context.transport;
    let problems = status.problems.iter();
    let connections = Connections::of(transport);
    let transfer = core.transfer.as_ref();
    v1::GroupDescription {
        summary: Some(core_summary(context, status)),
        node: context.node().0,
        node_name: context.config.name.clone(),
        voted_for: core.voted_for.map(|node| node.0),
        configuration: Some(configuration_to_wire(&core.configuration)),
        configuration_index: core.configuration_index.0,
        change_stage: core.change_stage.to_owned(),
        change_target: core.change_target.as_ref().map(members_to_wire),
        log_start: Some(log_id_to_wire(core.log_start)),
        last: Some(log_id_to_wire(core.last)),
        durable_index: core.durable_index.0,
        applying_index: core.applying_index.0,
        snapshot: core.snapshot.map(log_id_to_wire),
        snapshot_status: snapshot_status(status).to_owned(),
        snapshot_offered: core
            .fetching
            .or(status.snapshot_refused)
            .map(log_id_to_wire),
        peers: core
            .peers
            .iter()
            .map(|peer| connections.describe(peer))
            .collect(),
        catching_up: core
            .catching_up
            .iter()
            .map(|one| catch_up(transport, one))
            .collect(),
        transfer_target: transfer
            .map(|transfer| transport.name(transfer.target))
            .unwrap_or_default(),
        transfer_elapsed_us: transfer.map(|transfer| micros(transfer.elapsed)),
        lease: lease_name(core.lease).to_owned(),
        lease_epoch: core.lease_epoch,
        read_only: core.read_only,
        group_read_only: core.group_read_only,
        uncommitted_size_bytes: core.uncommitted_size_bytes as u64,
        proposals_pending: core.proposals_pending as u64,
        reads_pending: core.reads_pending as u64,
        requests_waiting: status.waiting as u64,
        cache_size_bytes: core.cache_size_bytes as u64,
        leader_last_contact_us: core.leader_last_contact.map(micros),
        timers: Some(timers(&core.timers)),
        writes_pending: core.writes_pending as u64,
        oldest_write_us: core.oldest_write.map(micros),
        disk_stall_timeout_us: micros(core.disk_stall_timeout),
        election_timeout_us: micros(core.election_timeout),
        max_clock_drift_us: micros(core.max_clock_drift),
        priority: core.priority,
        failure: core.failure.unwrap_or_default().to_owned(),
        drained: core.drained,
        next_steps: problems.map(|problem| problem.next_step.clone()).collect(),
        nodes: introductions(transport, core),
        ..v1::GroupDescription::default()
    }
}

fn core_summary(context: &Context, status: &GroupStatus) -> v1::GroupSummary {
    let core = &status.core;
    let problems = status.problems.iter();
    v1::GroupSummary {
        role: role_name(core.role).to_owned(),
        leader: core.leader.map(|leader| leader.0),
        leader_name: leader_name(&context.transport, core.leader),
        term: core.term.0,
        commit_index: core.commit_index.0,
        voters: voters(status),
        epoch: status.epochs.id().to_wire(),
        left_behind: status.epochs.newer().is_some(),
        members: Some(members_to_wire(&core.configuration.current)),
        next_steps: next_steps(&status.problems),
        problems: problems.map(|problem| problem.what.clone()).collect(),
        ..v1::GroupSummary::default()
    }
}

/// Adds what the state machine and its plugin say.
fn describe_machine(
    context: &Context,
    handle: &GroupHandle,
    description: &mut v1::GroupDescription,
) {
    let apply = handle.apply_status();
    let plugin = handle.plugin_description();
    if let Some(summary) = &mut description.summary {
        summary.id = handle.id().0;
        summary.name = handle.name().to_owned();
        summary.plugin = handle.spec().plugin.clone();
        summary.plugin_name = plugin.name.clone();
        summary.applied_index = apply.applied.index.0;
    }
    description.machine_state = apply.state.as_str().to_owned();
    description.apply_queue = apply.queued;
    description.outcome_hash = format!("{:016x}", apply.outcome_hash);
    description.plugin_version = plugin.version.clone();
    description.plugin_memory_size_bytes = apply.memory_size_bytes;
    description.engine_profile = context.transport.me().engine_profile;
}

fn snapshot_status(status: &GroupStatus) -> &'static str {
    match (status.core.fetching, status.snapshot_refused) {
        (Some(_), _) => "DOWNLOADING",
        (None, Some(_)) => "REFUSED",
        (None, None) => "IDLE",
    }
}

fn timers(timers: &Timers) -> v1::Timers {
    let timer = |timer: Timer| v1::Timer {
        span_us: micros(timer.span),
        left_us: timer.left.map(micros),
    };
    v1::Timers {
        election: Some(timer(timers.election)),
        vote: Some(timer(timers.vote)),
        step_down: Some(timer(timers.step_down)),
        heartbeat: Some(timer(timers.heartbeat)),
    }
}

/// Members, and those that a change under way would make members.
fn introductions(transport: &Transport, core: &kontiki_raft::Status) -> Vec<v1::Introduction> {
    let mut members = core.configuration.members();
    if let Some(target) = &core.change_target {
        members.extend(target.voters.iter().chain(&target.learners));
    }
    members
        .into_iter()
        .filter_map(|node| transport.introduction(node))
        .collect()
}

/// The connections of this node, looked up once for all peers.
struct Connections<'a> {
    transport: &'a Transport,
    peers: Vec<v1::PeerInfo>,
}

impl<'a> Connections<'a> {
    fn of(transport: &'a Transport) -> Self {
        let peers = transport.peers();
        Self { transport, peers }
    }

    fn describe(&self, peer: &PeerStatus) -> v1::PeerDescription {
        let is_it = |info: &&v1::PeerInfo| {
            let node = info.node.as_ref();
            node.is_some_and(|node| node.node == peer.node.0)
        };
        let connection = self.peers.iter().find(is_it);
        v1::PeerDescription {
            connected: connection.is_some_and(|connection| connection.connected),
            connection_error: match connection {
                Some(connection) => connection.error.clone(),
                None => "this node does not know its address".to_owned(),
            },
            name: self.transport.name(peer.node),
            ..peer_description(peer)
        }
    }
}

fn peer_description(peer: &PeerStatus) -> v1::PeerDescription {
    let traffic = peer.traffic;
    v1::PeerDescription {
        node: peer.node.0,
        voter: peer.voter,
        part: peer_part_name(peer.part).to_owned(),
        state: peer_state_name(peer.state).to_owned(),
        blocked: peer
            .blocked
            .map(blocked_name)
            .unwrap_or_default()
            .to_owned(),
        match_index: peer.match_index.0,
        next_index: peer.next_index.0,
        inflight_messages: peer.inflight_messages as u64,
        inflight_size_bytes: peer.inflight_size_bytes as u64,
        last_contact_us: peer.last_contact.map(micros),
        read_only: peer.read_only,
        heartbeats_sent: traffic.heartbeats_sent,
        appends_sent: traffic.appends_sent,
        entries_sent: traffic.entries_sent,
        installs_sent: traffic.installs_sent,
        heartbeats_unanswered: traffic.heartbeats_unanswered,
        consecutive_errors: traffic.consecutive_errors,
        priority: peer.standing.priority,
        drained: peer.standing.drained,
        ..v1::PeerDescription::default()
    }
}

pub(crate) fn catch_up(transport: &Transport, one: &CatchUp) -> v1::CatchUpProgress {
    v1::CatchUpProgress {
        node: one.node.0,
        name: transport.name(one.node),
        entries_left: one.entries_left,
        size_bytes_left: one.size_bytes_left,
        elapsed_us: micros(one.elapsed),
        entries_done: one.entries_done,
    }
}
