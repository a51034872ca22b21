//! `/metrics`, in the OpenMetrics text format.
//!
//! Everything is collected when it is asked for, so a group that left the node leaves no series
//! behind. Series by group are given up to a number of groups.

use super::Shared;
use crate::node::handle::GroupHandle;
use crate::node::request::GroupStatus;
use kontiki_raft::Role;
use kontiki_storage::SYNC_BUCKETS_US;
use std::fmt::Write as _;

/// Above this many groups there are no series by group.
const GROUPS_MAX: usize = 1_000;

/// Collects and writes everything.
pub(crate) async fn encode(shared: &Shared) -> String {
    let mut page = Page::default();
    node(shared, &mut page);
    storage(shared, &mut page);
    peers(shared, &mut page);
    groups(shared, &mut page).await;
    page.text.push_str("# EOF\n");
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    /// Begins a family; counters are named without `_total`, as the format wants it.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(
            self.text,
            "# HELP kontiki_{name} {help}\n# TYPE kontiki_{name} {kind}"
        );
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{}\"", escape(value)))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.text, "kontiki_{name}{labels} {value}");
    }

    /// A family of one sample without labels.
    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        let suffix = if kind == "counter" { "_total" } else { "" };
        self.sample(&format!("{name}{suffix}"), &[], value);
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

/// Counts are far below 2^53.
#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are floating-point numbers"
)]
fn number(value: u64) -> f64 {
    value as f64
}

fn count(value: usize) -> f64 {
    number(value as u64)
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

fn node(shared: &Shared, page: &mut Page) {
    let context = &shared.context;
    page.family("build_info", "gauge", "Version of the program; always 1.");
    let profile = context.transport.me().engine_profile;
    let labels = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("engine_profile", profile.as_str()),
    ];
    page.sample("build_info", &labels, 1.0);
    let uptime = context.clock.uptime().as_secs_f64();
    page.single(
        "uptime_seconds",
        "gauge",
        "Time since the node started.",
        uptime,
    );
    let roles = [Role::Leader, Role::Follower, Role::Candidate, Role::Stopped];
    page.family("groups", "gauge", "Replicas on this node by role.");
    let all = context.router.all();
    for role in roles {
        let of_role = all
            .iter()
            .filter(|group| simplified(group.brief().role) == role)
            .count();
        page.sample(
            "groups",
            &[("role", super::describe::role_name(role))],
            count(of_role),
        );
    }
}

/// Two of the roles are passing stages of others.
fn simplified(role: Role) -> Role {
    match role {
        Role::PreCandidate => Role::Candidate,
        Role::Transferring => Role::Leader,
        other => other,
    }
}

fn storage(shared: &Shared, page: &mut Page) {
    let metrics = shared.context.storage.metrics();
    let name = "wal_fsync_duration_seconds";
    page.family(name, "histogram", "Time of one write and sync of the log.");
    let mut below = 0;
    let bounds = SYNC_BUCKETS_US
        .iter()
        .map(|bound| format!("{:?}", seconds(*bound)));
    let bounds = bounds.chain(["+Inf".to_owned()]);
    for (bound, in_bucket) in bounds.zip(metrics.sync_durations) {
        below += in_bucket;
        page.sample(&format!("{name}_bucket"), &[("le", &bound)], number(below));
    }
    page.sample(
        &format!("{name}_sum"),
        &[],
        seconds(metrics.sync_duration_us),
    );
    page.sample(&format!("{name}_count"), &[], number(below));
    let counters = [
        (
            "wal_written_bytes",
            "Bytes written to the log.",
            metrics.bytes,
        ),
        (
            "wal_entries",
            "Entries written to the log.",
            metrics.entries,
        ),
        (
            "wal_batches",
            "Writes of groups; several share one sync.",
            metrics.batches,
        ),
    ];
    for (name, help, value) in counters {
        page.single(name, "counter", help, number(value));
    }
    let queue = number(metrics.queue_length);
    page.single(
        "wal_queue_length",
        "gauge",
        "Writes waiting for the log writer.",
        queue,
    );
    let failed = if metrics.failed { 1.0 } else { 0.0 };
    page.single(
        "storage_failed",
        "gauge",
        "1 if the storage takes no writes any more.",
        failed,
    );
}

fn peers(shared: &Shared, page: &mut Page) {
    let transport = &shared.context.transport;
    page.family(
        "peer_connected",
        "gauge",
        "1 if messages to the node go out.",
    );
    for peer in transport.peers() {
        let name = peer.node.unwrap_or_default().name;
        let connected = if peer.connected { 1.0 } else { 0.0 };
        page.sample("peer_connected", &[("peer", &name)], connected);
    }
    let counters = transport.counters();
    page.family(
        "peer_messages",
        "counter",
        "Messages to the node by what became of them.",
    );
    for (name, sent, dropped) in &counters {
        let labels = |result| [("peer", name.as_str()), ("result", result)];
        page.sample("peer_messages_total", &labels("sent"), number(*sent));
        page.sample("peer_messages_total", &labels("dropped"), number(*dropped));
    }
    let help = "Messages from other nodes that were refused.";
    page.single(
        "peer_messages_refused",
        "counter",
        help,
        number(transport.refused()),
    );
}

/// One gauge or counter of a group: name, kind, help, value.
type Row = (&'static str, &'static str, &'static str, f64);

async fn groups(shared: &Shared, page: &mut Page) {
    let handles = shared.context.router.all();
    if handles.len() > GROUPS_MAX {
        return;
    }
    let mut rows: Vec<(String, Vec<Row>)> = Vec::new();
    let mut lags: Vec<(String, String, f64)> = Vec::new();
    for handle in &handles {
        let Ok(status) = handle.status().await else {
            continue;
        };
        rows.push((handle.name().to_owned(), group_rows(handle, &status)));
        for peer in &status.core.peers {
            let lag = status.core.last.index.0.saturating_sub(peer.match_index.0);
            let peer = shared.context.transport.name(peer.node);
            lags.push((handle.name().to_owned(), peer, number(lag)));
        }
    }
    let families = rows
        .first()
        .map(|(_, rows)| rows.clone())
        .unwrap_or_default();
    for (at, (name, kind, help, _)) in families.iter().enumerate() {
        page.family(name, kind, help);
        let suffix = if *kind == "counter" { "_total" } else { "" };
        for (group, rows) in &rows {
            page.sample(&format!("{name}{suffix}"), &[("group", group)], rows[at].3);
        }
    }
    page.family(
        "replication_lag_entries",
        "gauge",
        "Entries a peer lacks, seen by the leader.",
    );
    for (group, peer, lag) in &lags {
        page.sample(
            "replication_lag_entries",
            &[("group", group), ("peer", peer)],
            *lag,
        );
    }
    outcomes(&handles, page).await;
    plugins(&handles, page);
}

fn group_rows(handle: &GroupHandle, status: &GroupStatus) -> Vec<Row> {
    let core = &status.core;
    let apply = handle.apply_status();
    let changes = handle
        .shared()
        .leader_changes
        .load(std::sync::atomic::Ordering::Relaxed);
    let lag = core.commit_index.0.saturating_sub(apply.applied.index.0);
    let has_leader = if core.leader.is_some() { 1.0 } else { 0.0 };
    let healthy = if handle.is_healthy() { 1.0 } else { 0.0 };
    let apply_seconds = std::time::Duration::from_nanos(apply.call_time_ns).as_secs_f64();
    vec![
        (
            "group_has_leader",
            "gauge",
            "1 if the replica knows a leader.",
            has_leader,
        ),
        (
            "group_healthy",
            "gauge",
            "1 with a leader and a running plugin.",
            healthy,
        ),
        ("group_term", "gauge", "Current term.", number(core.term.0)),
        (
            "group_commit_index",
            "gauge",
            "Commit index.",
            number(core.commit_index.0),
        ),
        (
            "group_applied_index",
            "gauge",
            "Applied index.",
            number(apply.applied.index.0),
        ),
        (
            "apply_lag_entries",
            "gauge",
            "Committed entries not applied yet.",
            number(lag),
        ),
        (
            "leader_changes",
            "counter",
            "Leaders this replica has seen.",
            number(changes),
        ),
        (
            "proposals_pending",
            "gauge",
            "Commands waiting for commit.",
            count(core.proposals_pending),
        ),
        (
            "requests_waiting",
            "gauge",
            "Requests waiting for an answer.",
            count(status.waiting),
        ),
        (
            "group_messages_dropped",
            "counter",
            "Peer messages dropped: the mailbox was full.",
            number(status.messages_dropped),
        ),
        (
            "plugin_apply_calls",
            "counter",
            "Calls of the plugin to apply.",
            number(apply.calls),
        ),
        (
            "plugin_apply_seconds",
            "counter",
            "Time spent in them.",
            apply_seconds,
        ),
        (
            "plugin_queries",
            "counter",
            "Queries run.",
            number(apply.queries),
        ),
        (
            "plugin_fuel",
            "counter",
            "Fuel the plugin used.",
            number(apply.fuel_used),
        ),
        (
            "plugin_memory_bytes",
            "gauge",
            "Memory of the plugin's instance.",
            number(apply.memory_size_bytes),
        ),
    ]
}

async fn outcomes(handles: &[GroupHandle], page: &mut Page) {
    page.family(
        "proposals",
        "counter",
        "Commands answered to clients, by outcome.",
    );
    for handle in handles {
        let Ok(status) = handle.status().await else {
            continue;
        };
        for (outcome, value) in ["applied", "not_applied", "unknown"]
            .iter()
            .zip(status.answered)
        {
            let labels = [("group", handle.name()), ("outcome", *outcome)];
            page.sample("proposals_total", &labels, number(value));
        }
    }
}

fn plugins(handles: &[GroupHandle], page: &mut Page) {
    page.family("plugin_info", "gauge", "The plugin of a group; always 1.");
    for handle in handles {
        let description = handle.plugin_description();
        let labels = [
            ("group", handle.name()),
            ("plugin", description.name.as_str()),
            ("version", description.version.as_str()),
            ("digest", handle.spec().plugin.as_str()),
        ];
        page.sample("plugin_info", &labels, 1.0);
    }
}
