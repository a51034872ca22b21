//! What this node says about its groups.

use crate::node::apply::ApplyStatus;
use crate::node::clock::micros;
use crate::node::context::Context;
use crate::node::handle::GroupHandle;
use crate::node::request::{Failure, GroupStatus};
use crate::transport::Transport;
use crate::transport::convert::{configuration_to_wire, log_id_to_wire};
use kontiki_proto::v1;
use kontiki_raft::{CatchUp, LeaseStatus, NodeId, PeerState, PeerStatus, Role};

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
    Ok(summary)
}

fn voters(status: &GroupStatus) -> u32 {
    u32::try_from(status.core.configuration.current.voters.len()).unwrap_or(u32::MAX)
}

/// Everything this node's replica knows.
pub(crate) async fn describe(
    context: &Context,
    handle: &GroupHandle,
) -> Result<v1::GroupDescription, Failure> {
    let status = handle.status().await?;
    let apply = handle.apply_status();
    let core = &status.core;
    let transport = &context.transport;
    let description = handle.plugin_description();
    let mut summary = summary(context, handle, &apply);
    summary.role = role_name(core.role).to_owned();
    summary.leader = core.leader.map(|leader| leader.0);
    summary.leader_name = leader_name(transport, core.leader);
    summary.term = core.term.0;
    summary.commit_index = core.commit_index.0;
    summary.voters = voters(&status);
    summary.problems = status
        .problems
        .iter()
        .map(|problem| problem.what.clone())
        .collect();
    Ok(v1::GroupDescription {
        summary: Some(summary),
        node: context.node().0,
        node_name: context.config.name.clone(),
        voted_for: core.voted_for.map(|node| node.0),
        configuration: Some(configuration_to_wire(&core.configuration)),
        configuration_index: core.configuration_index.0,
        change_stage: core.change_stage.to_owned(),
        log_start: Some(log_id_to_wire(core.log_start)),
        last: Some(log_id_to_wire(core.last)),
        durable_index: core.durable_index.0,
        applying_index: core.applying_index.0,
        snapshot: core.snapshot.map(log_id_to_wire),
        peers: core
            .peers
            .iter()
            .map(|peer| peer_description(transport, peer))
            .collect(),
        catching_up: core
            .catching_up
            .iter()
            .map(|one| catch_up(transport, one))
            .collect(),
        transfer_target: core
            .transfer
            .as_ref()
            .map(|transfer| transport.name(transfer.target))
            .unwrap_or_default(),
        lease: lease_name(core.lease).to_owned(),
        lease_epoch: core.lease_epoch,
        read_only: core.read_only,
        group_read_only: core.group_read_only,
        uncommitted_size_bytes: core.uncommitted_size_bytes as u64,
        proposals_pending: core.proposals_pending as u64,
        reads_pending: core.reads_pending as u64,
        cache_size_bytes: core.cache_size_bytes as u64,
        leader_last_contact_us: core.leader_last_contact.map(micros),
        election_timer_us: core.election_timer.map(micros),
        election_timeout_us: micros(core.election_timeout),
        max_clock_drift_us: micros(core.max_clock_drift),
        priority: core.priority,
        failure: core.failure.unwrap_or_default().to_owned(),
        apply_queue: apply.queued,
        outcome_hash: format!("{:016x}", apply.outcome_hash),
        plugin_version: description.version.clone(),
        plugin_memory_size_bytes: apply.memory_size_bytes,
        engine_profile: transport.me().engine_profile,
        next_steps: status
            .problems
            .into_iter()
            .map(|problem| problem.next_step)
            .collect(),
        nodes: introductions(transport, &core.configuration),
        log_size_bytes: 0,
        drained: core.drained,
    })
}

fn introductions(
    transport: &Transport,
    configuration: &kontiki_raft::Configuration,
) -> Vec<v1::Introduction> {
    let members = configuration.members().into_iter();
    members
        .filter_map(|node| transport.introduction(node))
        .collect()
}

fn peer_description(transport: &Transport, peer: &PeerStatus) -> v1::PeerDescription {
    v1::PeerDescription {
        node: peer.node.0,
        name: transport.name(peer.node),
        voter: peer.voter,
        state: peer_state_name(peer.state).to_owned(),
        match_index: peer.match_index.0,
        next_index: peer.next_index.0,
        inflight_messages: peer.inflight_messages as u64,
        inflight_size_bytes: peer.inflight_size_bytes as u64,
        last_contact_us: peer.last_contact.map(micros),
        read_only: peer.read_only,
        priority: peer.standing.priority,
        drained: peer.standing.drained,
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
