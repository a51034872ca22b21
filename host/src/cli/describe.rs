//! `kontiki group describe`: everything known of one replica.

use super::names::{bytes_text, configuration_text, members_text, name_of};
use super::output::{Document, fields, table};
use kontiki::raft_stat::{document, is_broken};
use kontiki_client::proto::{
    CatchUpProgress, GroupDescription, GroupSummary, PeerDescription, Timer,
};
use serde_json::Value;

/// One replica's account of its group.
pub(crate) struct Described(pub(crate) GroupDescription);

type Rows = Vec<(&'static str, String)>;

impl Described {
    fn summary(&self) -> GroupSummary {
        self.0.summary.clone().unwrap_or_default()
    }

    /// What is known even of a replica that could not be opened.
    fn head(&self) -> Rows {
        let it = &self.0;
        let summary = self.summary();
        let name = &summary.plugin_name;
        let plugin = format!("{name} {} {}", it.plugin_version, summary.plugin);
        let seen_by = format!("{} (id {}), {}", it.node_name, it.node, summary.role);
        let failure = match summary.problems.contains(&it.failure) {
            true => String::new(),
            false => it.failure.clone(),
        };
        vec![
            ("group", format!("{} (id {})", summary.name, summary.id)),
            ("plugin", plugin.trim().to_owned()),
            ("seen by", seen_by),
            ("failure", failure),
        ]
    }

    fn part(&self) -> Rows {
        let it = &self.0;
        let summary = self.summary();
        let leader = match summary.leader {
            Some(id) if summary.leader_name.is_empty() => name_of(id, &it.nodes),
            Some(_) => summary.leader_name,
            None => "none".to_owned(),
        };
        let voted_for = it.voted_for.map(|id| name_of(id, &it.nodes));
        let configuration = it.configuration.clone().unwrap_or_default();
        let read_only = match (it.read_only, it.group_read_only) {
            (true, true) => "this replica, and so the group",
            (true, false) => "this replica",
            (false, true) => "the group",
            (false, false) => "",
        };
        vec![
            ("leader", leader),
            ("term", summary.term.to_string()),
            ("voted for", voted_for.unwrap_or_default()),
            ("members", configuration_text(&configuration, &it.nodes)),
            ("change under way", self.change()),
            ("transfer to", self.transfer()),
            ("lease", it.lease.clone()),
            ("read-only", read_only.to_owned()),
        ]
    }

    fn change(&self) -> String {
        let it = &self.0;
        match (&it.change_target, it.change_stage.as_str()) {
            (_, "none") => String::new(),
            (Some(target), stage) => format!("{stage}, to {}", members_text(target, &it.nodes)),
            (None, stage) => stage.to_owned(),
        }
    }

    fn transfer(&self) -> String {
        let elapsed = self.0.transfer_elapsed_us.map(millis);
        elapsed.map_or_else(String::new, |elapsed| {
            format!("{}, for {elapsed} so far", self.0.transfer_target)
        })
    }

    fn indexes(&self) -> Rows {
        let it = &self.0;
        let summary = self.summary();
        let last = it.last.unwrap_or_default();
        let log = format!(
            "first {}, last {} (term {}), durable {}, committed {}",
            it.log_start.unwrap_or_default().index + 1,
            last.index,
            last.term,
            it.durable_index,
            summary.commit_index,
        );
        let machine = format!(
            "{}, handed over {}, applied {}",
            it.machine_state, it.applying_index, summary.applied_index,
        );
        let pending = format!(
            "{} commands, {} reads, {} entries to apply, {} uncommitted",
            it.proposals_pending,
            it.reads_pending,
            it.apply_queue,
            bytes_text(it.uncommitted_size_bytes),
        );
        vec![
            ("log", log),
            ("writes", self.writes()),
            ("state machine", machine),
            ("outcome hash", it.outcome_hash.clone()),
            ("snapshot", self.snapshot()),
            ("pending", pending),
        ]
    }

    fn writes(&self) -> String {
        let oldest = self.0.oldest_write_us.map(millis);
        oldest.map_or_else(String::new, |oldest| {
            format!(
                "{} under way, the oldest for {oldest}",
                self.0.writes_pending
            )
        })
    }

    fn snapshot(&self) -> String {
        let it = &self.0;
        let newest = it.snapshot;
        let newest = newest.map(|id| format!("up to {} (term {})", id.index, id.term));
        let offered = it.snapshot_offered.filter(|_| it.snapshot_status != "IDLE");
        let offered = offered.map(|id| {
            let status = it.snapshot_status.to_lowercase();
            format!("{status}: one up to {} (term {})", id.index, id.term)
        });
        let both: Vec<_> = newest.into_iter().chain(offered).collect();
        both.join("; ")
    }

    fn details(&self) -> Rows {
        let it = &self.0;
        let heard = it.leader_last_contact_us;
        let heard = heard.map(|us| format!("{} ago", millis(us)));
        let log_size = match it.log_size_bytes {
            Some(0) => "0 B: nothing was flushed to them yet".to_owned(),
            Some(bytes) => format!("about {}", bytes_text(bytes)),
            None => String::new(),
        };
        vec![
            ("configuration index", it.configuration_index.to_string()),
            ("timers", self.timers()),
            ("leader heard", heard.unwrap_or_default()),
            ("election timeout", millis(it.election_timeout_us)),
            ("clock drift", millis(it.max_clock_drift_us)),
            ("priority", priority_text(it.priority, it.drained)),
            ("lease epoch", it.lease_epoch.to_string()),
            ("requests waiting", it.requests_waiting.to_string()),
            ("cache", bytes_text(it.cache_size_bytes)),
            ("log in table files", log_size),
            ("plugin memory", bytes_text(it.plugin_memory_size_bytes)),
            ("engine profile", it.engine_profile.clone()),
        ]
    }

    /// Those that run.
    fn timers(&self) -> String {
        let timers = self.0.timers.unwrap_or_default();
        let running = |(name, timer): (&str, Option<Timer>)| {
            let timer = timer?;
            let (left, span) = (millis(timer.left_us?), millis(timer.span_us));
            Some(format!("{name} in {left} (of {span})"))
        };
        let all = [
            ("election", timers.election),
            ("end of vote", timers.vote),
            ("step-down", timers.step_down),
            ("heartbeat", timers.heartbeat),
        ];
        let running: Vec<_> = all.into_iter().filter_map(running).collect();
        running.join(", ")
    }

    fn peers(&self) -> String {
        let last = self.0.last.unwrap_or_default().index;
        let rows = self.0.peers.iter().map(|peer| {
            let inflight = bytes_text(peer.inflight_size_bytes);
            let heard = peer.last_contact_us.map(millis);
            [
                peer.name.clone(),
                peer.part.clone(),
                flow(peer),
                peer.match_index.to_string(),
                last.saturating_sub(peer.match_index).to_string(),
                format!("{} ({inflight})", peer.inflight_messages),
                heard.unwrap_or_else(|| "never".into()),
            ]
        });
        let head = [
            "PEER",
            "PART",
            "STATE",
            "MATCH",
            "LAG",
            "IN FLIGHT",
            "HEARD",
        ];
        table(head, rows.collect())
    }

    /// What was sent to the peers.
    fn traffic(&self) -> String {
        let rows = self.0.peers.iter().map(|peer| {
            [
                peer.name.clone(),
                peer.next_index.to_string(),
                peer.heartbeats_sent.to_string(),
                peer.heartbeats_unanswered.to_string(),
                peer.appends_sent.to_string(),
                peer.entries_sent.to_string(),
                peer.installs_sent.to_string(),
                peer.consecutive_errors.to_string(),
                if peer.read_only { "yes" } else { "no" }.to_owned(),
            ]
        });
        let head = [
            "SENT TO",
            "NEXT",
            "HEARTBEATS",
            "UNANSWERED",
            "APPENDS",
            "ENTRIES",
            "INSTALLS",
            "ERRORS",
            "READ-ONLY",
        ];
        table(head, rows.collect())
    }

    /// Members that catch up, and peers that cannot be reached.
    fn remarks(&self) -> String {
        let cut_off = self.0.peers.iter().filter(|peer| !peer.connected);
        let cut_off = cut_off
            .map(|peer| format!("no connection to {}: {}", peer.name, peer.connection_error));
        let catching_up = self.0.catching_up.iter().map(catching_up);
        catching_up.chain(cut_off).collect::<Vec<_>>().join("\n")
    }

    fn problems(&self) -> String {
        let summary = self.summary();
        let steps = self.0.next_steps.iter().map(String::as_str);
        let steps = steps.chain(std::iter::repeat(""));
        let problems = summary.problems.iter().zip(steps);
        let lines = problems.map(|(problem, step)| match step {
            "" => format!("problem: {problem}"),
            step => format!("problem: {problem}\n  next: {step}"),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// State of replication, and why it stands still if it does.
fn flow(peer: &PeerDescription) -> String {
    match peer.blocked.as_str() {
        "" => peer.state.clone(),
        why if why == peer.state => peer.state.clone(),
        why => format!("{} ({why})", peer.state),
    }
}

fn priority_text(priority: u32, drained: bool) -> String {
    let note = if drained { " (drained)" } else { "" };
    format!("{priority}{note}")
}

fn catching_up(c: &CatchUpProgress) -> String {
    format!(
        "{} catches up: {} entries done, {} left ({}), for {} so far",
        c.name,
        c.entries_done,
        c.entries_left,
        bytes_text(c.size_bytes_left),
        millis(c.elapsed_us),
    )
}

/// A span that is mostly short.
fn millis(us: u64) -> String {
    match us {
        ..10_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        _ => format!("{:.1} s", us as f64 / 1e6),
    }
}

impl Document for Described {
    const KIND: &'static str = "group-description";

    fn json(&self) -> Value {
        Value::Object(document(&self.0))
    }

    fn text(&self, wide: bool) -> String {
        let mut rows = self.head();
        let opened = !is_broken(&self.0);
        if opened {
            rows.extend(self.part());
            rows.extend(self.indexes());
        }
        if opened && wide {
            rows.extend(self.details());
        }
        let mut blocks = vec![fields(&rows)];
        if !self.0.peers.is_empty() {
            blocks.push(self.peers());
            if wide {
                blocks.push(self.traffic());
            }
        }
        blocks.extend([self.remarks(), self.problems()]);
        blocks.retain(|block| !block.is_empty());
        blocks.join("\n\n")
    }

    fn names(&self) -> Vec<String> {
        vec![self.summary().name]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_client::proto::{LogId, Timers};

    fn leader() -> GroupDescription {
        GroupDescription {
            summary: Some(GroupSummary {
                id: 7,
                name: "orders".into(),
                role: "leader".into(),
                leader: Some(1),
                leader_name: "n1".into(),
                commit_index: 9,
                problems: vec!["the disk is slow".into()],
                ..Default::default()
            }),
            node_name: "n1".into(),
            change_stage: "none".into(),
            last: Some(LogId { term: 2, index: 9 }),
            machine_state: "idle".into(),
            snapshot_status: "IDLE".into(),
            log_size_bytes: Some(0),
            timers: Some(Timers {
                heartbeat: Some(Timer {
                    span_us: 100_000,
                    left_us: Some(25_000),
                }),
                ..Default::default()
            }),
            peers: vec![PeerDescription {
                name: "n2".into(),
                part: "voter".into(),
                state: "probe".into(),
                blocked: "retry".into(),
                match_index: 4,
                heartbeats_sent: 31,
                connection_error: "refused".into(),
                ..Default::default()
            }],
            next_steps: vec!["look at it".into()],
            ..Default::default()
        }
    }

    fn lines(wide: bool) -> String {
        Described(leader()).text(wide)
    }

    #[test]
    fn a_leader_shows_peers_remarks_and_problems() {
        let text = lines(false);
        for part in [
            "log            first 1, last 9 (term 2), durable 0, committed 9",
            "state machine  idle, handed over 0, applied 0",
            "n2    voter  probe (retry)  4      5    0 (0 B)    never",
            "no connection to n2: refused",
            "problem: the disk is slow\n  next: look at it",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        for absent in ["change under way", "transfer", "snapshot", "SENT TO"] {
            assert!(!text.contains(absent), "{absent} in\n{text}");
        }
    }

    #[test]
    fn wide_adds_timers_traffic_and_sizes() {
        let text = lines(true);
        for part in [
            "heartbeat in 25.0 ms (of 100.0 ms)",
            "0 B: nothing was flushed to them yet",
            "SENT TO",
            "31",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(!text.contains("end of vote"), "{text}");
    }

    #[test]
    fn a_broken_replica_shows_why_and_what_to_do_and_no_zeros() {
        let what = "this replica cannot be opened: its plugin is gone";
        let broken = GroupDescription {
            summary: Some(GroupSummary {
                id: 7,
                name: "orders".into(),
                role: kontiki::raft_stat::BROKEN.into(),
                problems: vec![what.into()],
                ..Default::default()
            }),
            node: 2,
            node_name: "n2".into(),
            failure: what.into(),
            next_steps: vec!["push it".into()],
            ..Default::default()
        };
        let text = Described(broken).text(true);
        assert_eq!(
            text,
            format!(
                "group    orders (id 7)\nseen by  n2 (id 2), broken\n\n\
                 problem: {what}\n  next: push it"
            )
        );
    }
}
