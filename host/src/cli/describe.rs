//! `kontiki group describe`: everything known of one replica.

use super::names::{bytes_text, configuration_json, configuration_text, id_json, name_of};
use super::output::{Document, fields, table};
use kontiki_client::proto::{GroupDescription, LogId};
use serde_json::{Value, json};

/// One replica's account of its group.
pub(crate) struct Described(pub(crate) GroupDescription);

impl Described {
    fn head(&self) -> Vec<(&'static str, String)> {
        let it = &self.0;
        let summary = it.summary.clone().unwrap_or_default();
        let leader = match summary.leader {
            Some(id) if summary.leader_name.is_empty() => name_of(id, &it.nodes),
            Some(_) => summary.leader_name.clone(),
            None => "none".to_owned(),
        };
        let configuration = it.configuration.clone().unwrap_or_default();
        let plugin = format!(
            "{} {} {}",
            summary.plugin_name, it.plugin_version, summary.plugin
        );
        vec![
            ("group", format!("{} (id {})", summary.name, summary.id)),
            ("plugin", plugin.trim().to_owned()),
            (
                "seen by",
                format!("{} (id {}), {}", it.node_name, it.node, summary.role),
            ),
            ("leader", leader),
            ("term", summary.term.to_string()),
            (
                "voted for",
                it.voted_for
                    .map(|id| name_of(id, &it.nodes))
                    .unwrap_or_default(),
            ),
            ("members", configuration_text(&configuration, &it.nodes)),
            ("change under way", unless_none(&it.change_stage)),
            ("transfer to", it.transfer_target.clone()),
            ("failure", it.failure.clone()),
        ]
    }

    fn indexes(&self) -> Vec<(&'static str, String)> {
        let it = &self.0;
        let summary = it.summary.clone().unwrap_or_default();
        let log = format!(
            "first {}, last {}, durable {}, commit {}, applying {}, applied {}",
            position(it.log_start),
            position(it.last),
            it.durable_index,
            summary.commit_index,
            it.applying_index,
            summary.applied_index,
        );
        let pending = format!(
            "{} commands, {} reads, {} entries to apply, {} uncommitted",
            it.proposals_pending,
            it.reads_pending,
            it.apply_queue,
            bytes_text(it.uncommitted_size_bytes),
        );
        let read_only = match (it.read_only, it.group_read_only) {
            (true, _) => "this replica",
            (false, true) => "the group",
            (false, false) => "",
        };
        vec![
            ("log", log),
            (
                "snapshot",
                it.snapshot.map(|at| position(Some(at))).unwrap_or_default(),
            ),
            ("pending", pending),
            ("lease", it.lease.clone()),
            ("read-only", read_only.to_owned()),
            ("outcome hash", it.outcome_hash.clone()),
        ]
    }

    fn details(&self) -> Vec<(&'static str, String)> {
        let it = &self.0;
        let millis = |us: u64| format!("{:.1} ms", us as f64 / 1e3);
        let since = |us: Option<u64>| us.map(millis).unwrap_or_default();
        vec![
            ("configuration index", it.configuration_index.to_string()),
            ("election timeout", millis(it.election_timeout_us)),
            ("election timer", since(it.election_timer_us)),
            ("leader heard", since(it.leader_last_contact_us)),
            ("clock drift", millis(it.max_clock_drift_us)),
            ("priority", priority_text(it.priority, it.drained)),
            ("lease epoch", it.lease_epoch.to_string()),
            ("cache", bytes_text(it.cache_size_bytes)),
            ("log on disk", bytes_text(it.log_size_bytes)),
            ("plugin memory", bytes_text(it.plugin_memory_size_bytes)),
            ("engine profile", it.engine_profile.clone()),
        ]
    }

    fn peers(&self) -> String {
        let rows = self.0.peers.iter().map(|peer| {
            let part = if peer.voter { "voter" } else { "learner" };
            let heard = peer
                .last_contact_us
                .map(|us| format!("{:.1} ms", us as f64 / 1e3));
            [
                peer.name.clone(),
                part.to_owned(),
                peer.state.clone(),
                peer.match_index.to_string(),
                peer.next_index.to_string(),
                format!(
                    "{} ({})",
                    peer.inflight_messages,
                    bytes_text(peer.inflight_size_bytes)
                ),
                heard.unwrap_or_else(|| "-".into()),
            ]
        });
        let head = [
            "PEER",
            "PART",
            "STATE",
            "MATCH",
            "NEXT",
            "IN FLIGHT",
            "HEARD",
        ];
        table(head, rows.collect())
    }

    fn problems(&self) -> String {
        let summary = self.0.summary.clone().unwrap_or_default();
        let mut text = String::new();
        for (n, problem) in summary.problems.iter().enumerate() {
            text.push_str(&format!("\n\nproblem: {problem}"));
            if let Some(step) = self.0.next_steps.get(n).filter(|step| !step.is_empty()) {
                text.push_str(&format!("\n  next: {step}"));
            }
        }
        text
    }
}

fn priority_text(priority: u32, drained: bool) -> String {
    let note = if drained { " (drained)" } else { "" };
    format!("{priority}{note}")
}

/// Nothing instead of `none`, so that the line is left out.
fn unless_none(text: &str) -> String {
    if text == "none" {
        String::new()
    } else {
        text.to_owned()
    }
}

/// `index (term)`.
fn position(id: Option<LogId>) -> String {
    let id = id.unwrap_or_default();
    format!("{} (term {})", id.index, id.term)
}

fn position_json(id: Option<LogId>) -> Value {
    id.map_or(
        Value::Null,
        |id| json!({ "index": id.index, "term": id.term }),
    )
}

impl Document for Described {
    const KIND: &'static str = "group-description";

    fn json(&self) -> Value {
        let it = &self.0;
        let summary = it.summary.clone().unwrap_or_default();
        let seconds = |us: u64| us as f64 / 1e6;
        let peers = it.peers.iter().map(|peer| {
            json!({
                "id": id_json(peer.node),
                "name": peer.name,
                "voter": peer.voter,
                "state": peer.state,
                "match_index": peer.match_index,
                "next_index": peer.next_index,
                "inflight_messages": peer.inflight_messages,
                "inflight_size_bytes": peer.inflight_size_bytes,
                "last_contact_seconds": peer.last_contact_us.map(seconds),
                "read_only": peer.read_only,
                "priority": peer.priority,
                "drained": peer.drained,
            })
        });
        let catching_up = it.catching_up.iter().map(|peer| {
            json!({
                "id": id_json(peer.node),
                "name": peer.name,
                "entries_left": peer.entries_left,
                "size_bytes_left": peer.size_bytes_left,
                "entries_done": peer.entries_done,
                "seconds": seconds(peer.elapsed_us),
            })
        });
        let mut document = json!({
            "id": id_json(summary.id),
            "name": summary.name,
            "plugin": summary.plugin,
            "plugin_name": summary.plugin_name,
            "plugin_version": it.plugin_version,
            "node": id_json(it.node),
            "node_name": it.node_name,
            "role": summary.role,
            "leader": summary.leader.map(id_json),
            "leader_name": summary.leader.map(|_| summary.leader_name.clone()),
            "term": summary.term,
            "voted_for": it.voted_for.map(id_json),
            "configuration": configuration_json(
                &it.configuration.clone().unwrap_or_default(),
                &it.nodes,
            ),
            "configuration_index": it.configuration_index,
            "change_stage": it.change_stage,
            "transfer_target": it.transfer_target,
            "log_start": position_json(it.log_start),
            "last": position_json(it.last),
            "snapshot": position_json(it.snapshot),
            "durable_index": it.durable_index,
            "commit_index": summary.commit_index,
            "applying_index": it.applying_index,
            "applied_index": summary.applied_index,
            "outcome_hash": it.outcome_hash,
            "problems": summary.problems,
            "next_steps": it.next_steps,
        });
        let rest = json!({
            "peers": peers.collect::<Vec<_>>(),
            "catching_up": catching_up.collect::<Vec<_>>(),
            "lease": it.lease,
            "lease_epoch": it.lease_epoch,
            "read_only": it.read_only,
            "group_read_only": it.group_read_only,
            "proposals_pending": it.proposals_pending,
            "reads_pending": it.reads_pending,
            "apply_queue": it.apply_queue,
            "uncommitted_size_bytes": it.uncommitted_size_bytes,
            "cache_size_bytes": it.cache_size_bytes,
            "log_size_bytes": it.log_size_bytes,
            "plugin_memory_size_bytes": it.plugin_memory_size_bytes,
            "leader_last_contact_seconds": it.leader_last_contact_us.map(seconds),
            "election_timer_seconds": it.election_timer_us.map(seconds),
            "election_timeout_seconds": seconds(it.election_timeout_us),
            "max_clock_drift_seconds": seconds(it.max_clock_drift_us),
            "priority": it.priority,
            "drained": it.drained,
            "engine_profile": it.engine_profile,
            "failure": it.failure,
        });
        if let (Some(document), Value::Object(rest)) = (document.as_object_mut(), rest) {
            document.extend(rest);
        }
        document
    }

    fn text(&self, wide: bool) -> String {
        let mut rows = self.head();
        rows.extend(self.indexes());
        if wide {
            rows.extend(self.details());
        }
        let peers = if self.0.peers.is_empty() {
            String::new()
        } else {
            self.peers()
        };
        let text = format!("{}\n\n{peers}", fields(&rows));
        format!("{}{}", text.trim_end(), self.problems())
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.summary.clone().unwrap_or_default().name]
    }
}
