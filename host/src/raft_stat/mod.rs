//! What a replica says about itself, as one document: `/raft_stat` and `kontiki group describe`
//! show the same fields. `docs/operations/raft-stat.md` says what each means and what braft calls
//! it; a test holds the two together.

mod text;

use crate::node::epoch::EpochId;
use kontiki_proto::v1;
use serde::Serialize;
use serde_json::{Map, Value, json};
pub use text::text;

/// Stands in the place of a role for a replica that could not be opened: nothing else is known of
/// it than which it is and why.
pub const BROKEN: &str = "broken";

/// The fields of a document, in the order in which people want them.
type Fields = Vec<(&'static str, Field)>;

/// What a field holds. A node is a value: `{"id", "name"}`.
enum Field {
    One(Value),
    Parts(Fields),
    Each(Vec<Fields>),
}

impl Field {
    fn json(self) -> Value {
        match self {
            Self::One(value) => value,
            Self::Parts(fields) => Value::Object(object(fields)),
            Self::Each(items) => items.into_iter().map(object).collect(),
        }
    }
}

fn object(fields: Fields) -> Map<String, Value> {
    let pairs = fields.into_iter();
    pairs
        .map(|(key, field)| (key.to_owned(), field.json()))
        .collect()
}

fn one(value: impl Serialize) -> Field {
    Field::One(json!(value))
}

/// Parts of something that may not be there.
fn parts<T>(whole: Option<T>, parts: impl FnOnce(T) -> Fields) -> Field {
    whole.map_or(Field::One(Value::Null), |whole| Field::Parts(parts(whole)))
}

/// The document of one replica. Ids are strings: many JSON readers round numbers above 2^53.
#[must_use]
pub fn document(description: &v1::GroupDescription) -> Map<String, Value> {
    object(fields(description))
}

/// Whether the replica could not be opened.
#[must_use]
pub fn is_broken(description: &v1::GroupDescription) -> bool {
    let summary = description.summary.as_ref();
    summary.is_some_and(|summary| summary.role == BROKEN)
}

fn fields(d: &v1::GroupDescription) -> Fields {
    let summary = d.summary.clone().unwrap_or_default();
    let mut fields = identity(d, &summary);
    if is_broken(d) {
        let digest = vec![("digest", one(optional(&summary.plugin)))];
        fields.push(("plugin", Field::Parts(digest)));
        return fields;
    }
    fields.extend(part(d, &summary));
    fields.extend(membership(d));
    fields.extend(timers(d));
    fields.extend(log(d));
    fields.extend(commit(d, &summary));
    fields.extend(state_machine(d, &summary));
    fields.extend(snapshot(d));
    let replicators = d.peers.iter().map(|peer| replicator(d, peer));
    fields.push(("replicators", Field::Each(replicators.collect())));
    fields
}

fn identity(d: &v1::GroupDescription, summary: &v1::GroupSummary) -> Fields {
    let problems = summary.problems.iter().zip(&d.next_steps);
    let problems =
        problems.map(|(what, next_step)| vec![("what", one(what)), ("next_step", one(next_step))]);
    vec![
        ("group", one(&summary.name)),
        ("group_id", one(summary.id.to_string())),
        ("node_name", one(&d.node_name)),
        ("node_id", one(d.node.to_string())),
        ("state", one(&summary.role)),
        ("failure", one(optional(&d.failure))),
        ("problems", Field::Each(problems.collect())),
    ]
}

fn part(d: &v1::GroupDescription, summary: &v1::GroupSummary) -> Fields {
    let leader = summary.leader.map(|id| match summary.leader_name.as_str() {
        "" => node(d, id),
        name => json!({ "id": id.to_string(), "name": name }),
    });
    let heard = d.leader_last_contact_us.map(seconds);
    vec![
        ("epoch", one(EpochId::from_wire(summary.epoch).to_string())),
        ("left_behind", one(summary.left_behind)),
        ("read_only", one(d.read_only)),
        ("group_read_only", one(d.group_read_only)),
        ("term", one(summary.term)),
        ("voted_for", one(d.voted_for.map(|id| node(d, id)))),
        ("leader", one(leader)),
        ("last_msg_to_now_seconds", one(heard)),
        ("lease", one(&d.lease)),
        ("lease_epoch", one(d.lease_epoch)),
        ("priority", one(d.priority)),
        ("drained", one(d.drained)),
    ]
}

/// A node by id, and by name where that is known.
fn node(d: &v1::GroupDescription, id: u64) -> Value {
    let known = d.nodes.iter().find(|node| node.node == id);
    let name = known.map(|node| node.name.as_str());
    json!({ "id": id.to_string(), "name": name.filter(|name| !name.is_empty()) })
}

fn membership(d: &v1::GroupDescription) -> Fields {
    let configuration = d.configuration.clone().unwrap_or_default();
    let set = |set: &v1::MemberSet| {
        let nodes = |ids: &[u64]| {
            let mut nodes: Vec<_> = ids.iter().map(|id| node(d, *id)).collect();
            nodes.sort_by_key(|node| {
                let name = node["name"].as_str();
                (name.is_none(), name.map(str::to_owned))
            });
            one(nodes)
        };
        vec![
            ("voters", nodes(&set.voters)),
            ("learners", nodes(&set.learners)),
        ]
    };
    let current = configuration.current.as_ref();
    let old = configuration.old.as_ref();
    let changing = d.change_stage != "none" || old.is_some();
    let new = d.change_target.as_ref().or(current);
    let transfer = |elapsed| {
        vec![
            ("target", one(&d.transfer_target)),
            ("elapsed_seconds", one(seconds(elapsed))),
        ]
    };
    let catching_up = d.catching_up.iter().map(catching_up);
    vec![
        ("conf_index", one(d.configuration_index)),
        ("peers", parts(current, set)),
        ("changing_conf", one(changing)),
        ("stage", one(&d.change_stage)),
        ("new_peers", parts(new.filter(|_| changing), set)),
        ("old_peers", parts(old, set)),
        ("catching_up", Field::Each(catching_up.collect())),
        ("transfer", parts(d.transfer_elapsed_us, transfer)),
    ]
}

fn catching_up(c: &v1::CatchUpProgress) -> Fields {
    vec![
        ("node_name", one(&c.name)),
        ("node_id", one(c.node.to_string())),
        ("entries_done", one(c.entries_done)),
        ("entries_left", one(c.entries_left)),
        ("size_bytes_left", one(c.size_bytes_left)),
        ("elapsed_seconds", one(seconds(c.elapsed_us))),
    ]
}

fn timers(d: &v1::GroupDescription) -> Fields {
    let timers = d.timers.unwrap_or_default();
    let timer = |timer: v1::Timer| {
        let running = timer.left_us.is_some();
        vec![
            ("state", one(if running { "running" } else { "stopped" })),
            ("left_seconds", one(timer.left_us.map(seconds))),
            ("span_seconds", one(seconds(timer.span_us))),
        ]
    };
    vec![
        ("election_timer", parts(timers.election, timer)),
        ("vote_timer", parts(timers.vote, timer)),
        ("stepdown_timer", parts(timers.step_down, timer)),
        ("heartbeat_timer", parts(timers.heartbeat, timer)),
        (
            "election_timeout_seconds",
            one(seconds(d.election_timeout_us)),
        ),
        (
            "max_clock_drift_seconds",
            one(seconds(d.max_clock_drift_us)),
        ),
    ]
}

fn log_id(id: v1::LogId) -> Fields {
    vec![("index", one(id.index)), ("term", one(id.term))]
}

fn log(d: &v1::GroupDescription) -> Fields {
    let last = d.last.unwrap_or_default();
    let storage = vec![
        (
            "first_index",
            one(d.log_start.unwrap_or_default().index + 1),
        ),
        ("last_index", one(last.index)),
        ("table_size_bytes", one(d.log_size_bytes)),
    ];
    let writes = vec![
        ("pending", one(d.writes_pending)),
        ("oldest_seconds", one(d.oldest_write_us.map(seconds))),
        (
            "stall_timeout_seconds",
            one(seconds(d.disk_stall_timeout_us)),
        ),
    ];
    vec![
        ("storage", Field::Parts(storage)),
        ("disk_index", one(d.durable_index)),
        ("last_log_id", Field::Parts(log_id(last))),
        ("writes", Field::Parts(writes)),
        ("cache_size_bytes", one(d.cache_size_bytes)),
    ]
}

/// What braft's ballot box says, and who waits. Entries are pending on the leader only: the others
/// are told what is committed.
fn commit(d: &v1::GroupDescription, summary: &v1::GroupSummary) -> Fields {
    let leads = matches!(summary.role.as_str(), "leader" | "transferring");
    let last = d.last.unwrap_or_default().index;
    let pending = last.saturating_sub(summary.commit_index);
    let first_pending = (leads && pending > 0).then(|| summary.commit_index + 1);
    vec![
        ("last_committed_index", one(summary.commit_index)),
        ("pending_index", one(first_pending)),
        ("pending_queue_size", one(leads.then_some(pending))),
        ("uncommitted_size_bytes", one(d.uncommitted_size_bytes)),
        ("proposals_pending", one(d.proposals_pending)),
        ("reads_pending", one(d.reads_pending)),
        ("requests_waiting", one(d.requests_waiting)),
    ]
}

fn state_machine(d: &v1::GroupDescription, summary: &v1::GroupSummary) -> Fields {
    let plugin = vec![
        ("name", one(&summary.plugin_name)),
        ("version", one(&d.plugin_version)),
        ("digest", one(&summary.plugin)),
        ("memory_size_bytes", one(d.plugin_memory_size_bytes)),
        ("engine_profile", one(&d.engine_profile)),
    ];
    vec![
        ("state_machine", one(&d.machine_state)),
        ("known_applied_index", one(summary.applied_index)),
        ("applying_index", one(d.applying_index)),
        ("apply_queue", one(d.apply_queue)),
        ("outcome_hash", one(&d.outcome_hash)),
        ("plugin", Field::Parts(plugin)),
    ]
}

fn snapshot(d: &v1::GroupDescription) -> Fields {
    vec![
        ("last_snapshot_index", one(d.snapshot.map(|id| id.index))),
        ("last_snapshot_term", one(d.snapshot.map(|id| id.term))),
        ("snapshot_status", one(&d.snapshot_status)),
        ("snapshot_offered", parts(d.snapshot_offered, log_id)),
    ]
}

fn replicator(d: &v1::GroupDescription, p: &v1::PeerDescription) -> Fields {
    let last = d.last.unwrap_or_default().index;
    vec![
        ("node_name", one(&p.name)),
        ("node_id", one(p.node.to_string())),
        ("part", one(&p.part)),
        ("state", one(&p.state)),
        ("blocked", one(optional(&p.blocked))),
        ("next_index", one(p.next_index)),
        ("match_index", one(p.match_index)),
        ("lag_entries", one(last.saturating_sub(p.match_index))),
        ("flying_append_entries", one(p.inflight_messages)),
        ("flying_size_bytes", one(p.inflight_size_bytes)),
        ("heartbeats_sent", one(p.heartbeats_sent)),
        ("heartbeats_unanswered", one(p.heartbeats_unanswered)),
        ("appends_sent", one(p.appends_sent)),
        ("entries_sent", one(p.entries_sent)),
        ("installs_sent", one(p.installs_sent)),
        ("consecutive_errors", one(p.consecutive_errors)),
        ("last_answer_seconds", one(p.last_contact_us.map(seconds))),
        ("read_only", one(p.read_only)),
        ("priority", one(p.priority)),
        ("drained", one(p.drained)),
        ("connected", one(p.connected)),
        ("connection_error", one(optional(&p.connection_error))),
    ]
}

fn optional(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn seconds(micros: u64) -> f64 {
    std::time::Duration::from_micros(micros).as_secs_f64()
}

#[cfg(test)]
mod tests;
