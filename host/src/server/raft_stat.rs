//! `/raft_stat`: everything a replica knows, as text for people with curl or as JSON.

use super::Shared;
use super::describe::describe;
use super::status::Fault;
use kontiki_proto::v1;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// How the page reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// `key: value` lines.
    Text,
    /// One document.
    Json,
}

/// This node's replica of every group.
pub(crate) async fn all(shared: &Shared) -> Vec<v1::GroupDescription> {
    let mut descriptions = Vec::new();
    for group in shared.context.router.all() {
        // A group that has just ended is no group any more.
        descriptions.extend(describe(&shared.context, &group).await.ok());
    }
    descriptions
}

/// This node's replica of one group, by name.
pub(crate) async fn one(shared: &Shared, name: &str) -> Result<v1::GroupDescription, Fault> {
    let group = shared.group(name)?;
    let description = describe(&shared.context, &group).await;
    description.map_err(|failure| shared.explain(&group, failure))
}

pub(crate) fn render(format: Format, descriptions: &[v1::GroupDescription]) -> String {
    match format {
        Format::Json => {
            let groups: Vec<_> = descriptions.iter().map(document).collect();
            format!("{:#}\n", json!({ "groups": groups }))
        }
        Format::Text => {
            let texts: Vec<_> = descriptions.iter().map(text).collect();
            texts.join("\n")
        }
    }
}

pub(crate) fn render_one(format: Format, description: &v1::GroupDescription) -> String {
    match format {
        Format::Json => format!("{:#}\n", document(description)),
        Format::Text => text(description),
    }
}

/// Ids are strings: many JSON readers round numbers above 2^53.
fn document(d: &v1::GroupDescription) -> Value {
    let mut whole = serde_json::Map::new();
    for part in [identity(d), log(d), timers(d), load(d), members(d)] {
        if let Value::Object(fields) = part {
            whole.extend(fields);
        }
    }
    Value::Object(whole)
}

fn identity(d: &v1::GroupDescription) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    json!({
        "kind": "raft_stat",
        "v": 1,
        "group": summary.name,
        "group_id": summary.id.to_string(),
        "node": d.node_name,
        "node_id": d.node.to_string(),
        "state": summary.role,
        "term": summary.term,
        "voted_for": d.voted_for.map(|id| id.to_string()),
        "leader": summary.leader.map(|id| id.to_string()),
        "leader_name": summary.leader_name,
        "failure": optional(&d.failure),
        "problems": problems(d),
    })
}

fn log(d: &v1::GroupDescription) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    json!({
        "storage": {
            "first_index": d.log_start.map_or(1, |id| id.index + 1),
            "last_index": d.last.map_or(0, |id| id.index),
            "last_log_term": d.last.map_or(0, |id| id.term),
        },
        "disk_index": d.durable_index,
        "last_committed_index": summary.commit_index,
        "applying_index": d.applying_index,
        "known_applied_index": summary.applied_index,
        "apply_queue": d.apply_queue,
        "outcome_hash": d.outcome_hash,
        "last_snapshot": d.snapshot.map(|id| json!({ "index": id.index, "term": id.term })),
        "snapshot_status": "IDLE",
    })
}

fn timers(d: &v1::GroupDescription) -> Value {
    json!({
        "election_timeout_s": seconds(d.election_timeout_us),
        "election_timer_s": d.election_timer_us.map(seconds),
        "max_clock_drift_s": seconds(d.max_clock_drift_us),
        "leader_last_contact_s": d.leader_last_contact_us.map(seconds),
        "lease": d.lease,
        "lease_epoch": d.lease_epoch,
        "priority": d.priority,
        "drained": d.drained,
    })
}

fn load(d: &v1::GroupDescription) -> Value {
    let summary = d.summary.clone().unwrap_or_default();
    json!({
        "read_only": d.read_only,
        "group_read_only": d.group_read_only,
        "uncommitted_size_bytes": d.uncommitted_size_bytes,
        "proposals_pending": d.proposals_pending,
        "reads_pending": d.reads_pending,
        "cache_size_bytes": d.cache_size_bytes,
        "plugin": {
            "name": summary.plugin_name,
            "version": d.plugin_version,
            "digest": summary.plugin,
            "memory_size_bytes": d.plugin_memory_size_bytes,
            "engine_profile": d.engine_profile,
        },
    })
}

fn members(d: &v1::GroupDescription) -> Value {
    json!({
        "conf_index": d.configuration_index,
        "members": d.configuration.as_ref().map(configuration),
        "change_stage": d.change_stage,
        "transfer_target": optional(&d.transfer_target),
        "peers": d.peers.iter().map(peer).collect::<Vec<_>>(),
        "catching_up": d.catching_up.iter().map(catching_up).collect::<Vec<_>>(),
    })
}

fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

fn configuration(c: &v1::Configuration) -> Value {
    let ids = |ids: &[u64]| ids.iter().map(u64::to_string).collect::<Vec<_>>();
    let set =
        |set: &v1::MemberSet| json!({ "voters": ids(&set.voters), "learners": ids(&set.learners) });
    json!({ "current": c.current.as_ref().map(set), "old": c.old.as_ref().map(set) })
}

fn peer(p: &v1::PeerDescription) -> Value {
    json!({
        "node": p.name,
        "node_id": p.node.to_string(),
        "voter": p.voter,
        "state": p.state,
        "match_index": p.match_index,
        "next_index": p.next_index,
        "inflight_messages": p.inflight_messages,
        "inflight_size_bytes": p.inflight_size_bytes,
        "last_contact_s": p.last_contact_us.map(seconds),
        "read_only": p.read_only,
    })
}

fn catching_up(c: &v1::CatchUpProgress) -> Value {
    json!({
        "node": c.name,
        "node_id": c.node.to_string(),
        "entries_left": c.entries_left,
        "entries_done": c.entries_done,
        "size_bytes_left": c.size_bytes_left,
        "elapsed_s": seconds(c.elapsed_us),
    })
}

fn problems(d: &v1::GroupDescription) -> Vec<Value> {
    let found = d.summary.iter().flat_map(|summary| &summary.problems);
    found
        .zip(&d.next_steps)
        .map(|(what, next_step)| json!({ "what": what, "next_step": next_step }))
        .collect()
}

/// The document as `key: value` lines, nested keys joined by dots, under the group's name.
fn text(d: &v1::GroupDescription) -> String {
    let name = d
        .summary
        .as_ref()
        .map(|summary| summary.name.as_str())
        .unwrap_or_default();
    let mut text = format!("[{name}]\n");
    lines(&mut text, "", &document(d));
    text
}

fn lines(text: &mut String, key: &str, value: &Value) {
    let nested = |inner: &str| match key {
        "" => inner.to_owned(),
        _ => format!("{key}.{inner}"),
    };
    match value {
        Value::Object(fields) => {
            for (inner, value) in fields {
                lines(text, &nested(inner), value);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            for (at, value) in items.iter().enumerate() {
                lines(text, &nested(&at.to_string()), value);
            }
        }
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(plain).collect();
            let _ = writeln!(text, "{key}: {}", items.join(" "));
        }
        other => {
            let _ = writeln!(text, "{key}: {}", plain(other));
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> v1::GroupDescription {
        v1::GroupDescription {
            summary: Some(v1::GroupSummary {
                id: u64::MAX,
                name: "orders".into(),
                role: "leader".into(),
                problems: vec!["slow".into()],
                ..v1::GroupSummary::default()
            }),
            peers: vec![v1::PeerDescription {
                name: "n2".into(),
                match_index: 7,
                ..v1::PeerDescription::default()
            }],
            next_steps: vec!["wait".into()],
            ..v1::GroupDescription::default()
        }
    }

    #[test]
    fn json_keeps_large_ids_exact() {
        let text = render_one(Format::Json, &description());
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["group_id"], u64::MAX.to_string());
        assert_eq!(value["problems"][0]["next_step"], "wait");
        assert_eq!(value["peers"][0]["match_index"], 7);
    }

    #[test]
    fn text_has_a_line_for_every_field() {
        let text = render(Format::Text, &[description()]);
        for line in [
            "[orders]",
            "state: leader",
            "peers.0.match_index: 7",
            "voted_for: -",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
