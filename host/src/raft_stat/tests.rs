//! Every field is there, documented and true.

use super::*;
use std::collections::BTreeSet;

/// Where the fields are documented.
const PAGE: &str = include_str!("../../docs/operations/raft-stat.md");

/// A leader of three in the middle of everything; no field has its default.
fn busy() -> v1::GroupDescription {
    let id = |term, index| v1::LogId { term, index };
    let timer = |span_us, left_us| Some(v1::Timer { span_us, left_us });
    v1::GroupDescription {
        summary: Some(v1::GroupSummary {
            epoch: Some(v1::EpochId {
                number: 1,
                random: 5 << 32,
            }),
            left_behind: true,
            members: Some(v1::MemberSet {
                voters: vec![1, 2],
                learners: vec![],
            }),
            next_steps: vec!["look at the disk".into()],
            id: u64::MAX,
            name: "orders".into(),
            plugin: "sha256:ab".into(),
            plugin_name: "counter".into(),
            role: "transferring".into(),
            leader: Some(1),
            leader_name: "n1".into(),
            term: 3,
            commit_index: 10,
            applied_index: 8,
            voters: 2,
            problems: vec!["the disk is slow".into()],
        }),
        node: 1,
        node_name: "n1".into(),
        voted_for: Some(1),
        configuration: Some(v1::Configuration {
            current: Some(v1::MemberSet {
                voters: vec![1, 2],
                learners: vec![4],
            }),
            old: Some(v1::MemberSet {
                voters: vec![1, 3],
                learners: vec![],
            }),
        }),
        configuration_index: 9,
        change_stage: "joint".into(),
        change_target: Some(v1::MemberSet {
            voters: vec![1, 2],
            learners: vec![4],
        }),
        log_start: Some(id(2, 4)),
        last: Some(id(3, 12)),
        durable_index: 11,
        applying_index: 9,
        snapshot: Some(id(2, 4)),
        snapshot_status: "REFUSED".into(),
        snapshot_offered: Some(id(3, 6)),
        peers: vec![replicator_n2()],
        catching_up: vec![v1::CatchUpProgress {
            node: 2,
            name: "n2".into(),
            entries_left: 3,
            size_bytes_left: 30,
            elapsed_us: 1_500_000,
            entries_done: 4,
        }],
        transfer_target: "n2".into(),
        transfer_elapsed_us: Some(250_000),
        lease: "valid".into(),
        lease_epoch: 2,
        read_only: true,
        group_read_only: true,
        uncommitted_size_bytes: 20,
        proposals_pending: 5,
        reads_pending: 6,
        requests_waiting: 7,
        cache_size_bytes: 1_000,
        leader_last_contact_us: Some(40_000),
        election_timeout_us: 1_000_000,
        max_clock_drift_us: 2_000_000,
        priority: 100,
        drained: true,
        failure: "a write failed".into(),
        apply_queue: 2,
        outcome_hash: "00ff".into(),
        plugin_version: "1.0.0".into(),
        plugin_memory_size_bytes: 65_536,
        engine_profile: "p1".into(),
        next_steps: vec!["look at the disk".into()],
        nodes: [(1, "n1"), (2, "n2")]
            .map(|(node, name)| v1::Introduction {
                node,
                name: name.into(),
                ..Default::default()
            })
            .into(),
        log_size_bytes: Some(4_096),
        timers: Some(v1::Timers {
            election: timer(1_200_000, None),
            vote: timer(1_200_000, None),
            step_down: timer(1_000_000, Some(900_000)),
            heartbeat: timer(100_000, Some(50_000)),
        }),
        machine_state: "applying".into(),
        writes_pending: 1,
        oldest_write_us: Some(3_000),
        disk_stall_timeout_us: 10_000_000,
    }
}

fn replicator_n2() -> v1::PeerDescription {
    v1::PeerDescription {
        node: 2,
        name: "n2".into(),
        voter: true,
        state: "probe".into(),
        match_index: 7,
        next_index: 8,
        inflight_messages: 1,
        inflight_size_bytes: 10,
        last_contact_us: Some(20_000),
        read_only: true,
        priority: 200,
        drained: true,
        part: "voter".into(),
        blocked: "retry".into(),
        heartbeats_sent: 30,
        appends_sent: 12,
        entries_sent: 15,
        installs_sent: 1,
        heartbeats_unanswered: 2,
        consecutive_errors: 3,
        connected: true,
        connection_error: "refused".into(),
    }
}

fn broken() -> v1::GroupDescription {
    v1::GroupDescription {
        summary: Some(v1::GroupSummary {
            id: 7,
            name: "orders".into(),
            plugin: "sha256:ab".into(),
            role: BROKEN.into(),
            problems: vec!["its plugin is gone".into()],
            ..Default::default()
        }),
        node: 1,
        node_name: "n1".into(),
        failure: "its plugin is gone".into(),
        next_steps: vec!["push it again".into()],
        ..Default::default()
    }
}

/// The paths of all values; nodes are values.
fn paths(at: &str, value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) if !(fields.contains_key("id") && fields.contains_key("name")) => {
            let dot = if at.is_empty() { "" } else { "." };
            for (key, value) in fields {
                paths(&format!("{at}{dot}{key}"), value, into);
            }
        }
        Value::Array(items) if items.iter().any(|item| item.get("id").is_none()) => {
            items
                .iter()
                .for_each(|item| paths(&format!("{at}[]"), item, into));
        }
        _ => drop(into.insert(at.to_owned())),
    }
}

/// The names in the first column of the page.
fn documented() -> BTreeSet<String> {
    let rows = PAGE.lines().filter(|line| line.starts_with("| `"));
    let fields = rows.filter_map(|row| row.split('|').nth(1));
    let names = fields.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    names.map(str::to_owned).collect()
}

#[test]
fn the_page_documents_every_field_and_no_other() {
    let mut found = BTreeSet::new();
    paths("", &Value::Object(document(&busy())), &mut found);
    assert_eq!(found, documented());
}

#[test]
fn a_leader_in_the_middle_of_everything_says_so() {
    let d = Value::Object(document(&busy()));
    let n1 = json!({ "id": "1", "name": "n1" });
    let n2 = json!({ "id": "2", "name": "n2" });
    let unknown = |id: &str| json!({ "id": id, "name": null });
    let stopped = json!({ "state": "stopped", "span_seconds": 1.2, "left_seconds": null });
    for (field, value) in [
        ("group_id", json!(u64::MAX.to_string())),
        ("state", json!("transferring")),
        (
            "problems",
            json!([{ "what": "the disk is slow", "next_step": "look at the disk" }]),
        ),
        ("leader", n1.clone()),
        ("voted_for", n1.clone()),
        ("changing_conf", json!(true)),
        (
            "peers",
            json!({ "voters": [n1, n2], "learners": [unknown("4")] }),
        ),
        (
            "new_peers",
            json!({ "voters": [n1, n2], "learners": [unknown("4")] }),
        ),
        (
            "old_peers",
            json!({ "voters": [n1, unknown("3")], "learners": [] }),
        ),
        (
            "transfer",
            json!({ "target": "n2", "elapsed_seconds": 0.25 }),
        ),
        ("election_timer", stopped),
        (
            "stepdown_timer",
            json!({ "state": "running", "span_seconds": 1.0, "left_seconds": 0.9 }),
        ),
        (
            "storage",
            json!({ "first_index": 5, "last_index": 12, "table_size_bytes": 4096 }),
        ),
        ("last_log_id", json!({ "index": 12, "term": 3 })),
        ("pending_index", json!(11)),
        ("pending_queue_size", json!(2)),
        ("known_applied_index", json!(8)),
        ("state_machine", json!("applying")),
        ("last_snapshot_index", json!(4)),
        ("snapshot_status", json!("REFUSED")),
        ("read_only", json!(true)),
    ] {
        assert_eq!(d[field], value, "{field}");
    }
    let replicator = &d["replicators"][0];
    assert_eq!(replicator["lag_entries"], 5);
    assert_eq!(replicator["blocked"], "retry");
    assert_eq!(replicator["last_answer_seconds"], 0.02);
}

#[test]
fn what_is_not_there_is_null_and_not_zero() {
    let mut quiet = busy();
    quiet.configuration = quiet
        .configuration
        .map(|c| v1::Configuration { old: None, ..c });
    quiet.change_stage = "none".into();
    quiet.change_target = None;
    quiet.snapshot = None;
    quiet.snapshot_offered = None;
    quiet.transfer_elapsed_us = None;
    quiet.voted_for = None;
    quiet.oldest_write_us = None;
    if let Some(summary) = &mut quiet.summary {
        summary.role = "follower".into();
        summary.leader = None;
    }
    let d = Value::Object(document(&quiet));
    for field in [
        "leader",
        "voted_for",
        "new_peers",
        "old_peers",
        "transfer",
        "pending_index",
        "pending_queue_size",
        "last_snapshot_index",
        "last_snapshot_term",
        "snapshot_offered",
    ] {
        assert_eq!(d[field], Value::Null, "{field}");
    }
    assert_eq!(d["changing_conf"], false);
    assert_eq!(d["writes"]["oldest_seconds"], Value::Null);
}

#[test]
fn a_broken_replica_says_nothing_that_is_not_known() {
    let d = Value::Object(document(&broken()));
    let fields: Vec<_> = d.as_object().unwrap().keys().map(String::as_str).collect();
    let known = [
        "failure",
        "group",
        "group_id",
        "node_id",
        "node_name",
        "plugin",
        "problems",
        "state",
    ];
    assert_eq!(fields, known);
    assert_eq!(d["failure"], "its plugin is gone");
    assert_eq!(d["problems"][0]["next_step"], "push it again");
}

#[test]
fn the_text_has_a_line_for_every_field() {
    let text = text(&busy());
    let keys: Vec<_> = text
        .lines()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "[orders]",
            "group",
            "group_id",
            "node_name",
            "node_id",
            "state",
            "failure",
            "problems",
            "epoch",
            "left_behind",
            "read_only",
            "group_read_only",
            "term",
            "voted_for",
            "leader",
            "last_msg_to_now_seconds",
            "lease",
            "lease_epoch",
            "priority",
            "drained",
            "conf_index",
            "peers",
            "changing_conf",
            "stage",
            "new_peers",
            "old_peers",
            "catching_up.n2",
            "transfer",
            "election_timer",
            "vote_timer",
            "stepdown_timer",
            "heartbeat_timer",
            "election_timeout_seconds",
            "max_clock_drift_seconds",
            "storage",
            "disk_index",
            "last_log_id",
            "writes",
            "cache_size_bytes",
            "last_committed_index",
            "pending_index",
            "pending_queue_size",
            "uncommitted_size_bytes",
            "proposals_pending",
            "reads_pending",
            "requests_waiting",
            "state_machine",
            "known_applied_index",
            "applying_index",
            "apply_queue",
            "outcome_hash",
            "plugin",
            "last_snapshot_index",
            "last_snapshot_term",
            "snapshot_status",
            "snapshot_offered",
            "replicators.n2",
        ]
    );
    for line in [
        "problems: the disk is slow; next: look at the disk",
        "leader: n1",
        "peers: voters=n1,n2 learners=4",
        "vote_timer: state=stopped left_seconds=- span_seconds=1.2",
        "last_log_id: index=12 term=3",
        "snapshot_offered: index=6 term=3",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
}
