//! Messages, effects and configurations in words.

use super::selector::kind_of;
use kontiki_raft::{
    Configuration, ElectionTurn, Entry, EntryKind, Event, MemberSet, Message, MessageBody, NodeId,
    Persist, Standing,
};

fn ids<'a>(nodes: impl IntoIterator<Item = &'a NodeId>) -> String {
    let ids: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
    ids.join(" ")
}

fn set(set: &MemberSet) -> String {
    if set.learners.is_empty() {
        format!("({})", ids(&set.voters))
    } else {
        format!("({} learners {})", ids(&set.voters), ids(&set.learners))
    }
}

pub(super) fn configuration(configuration: &Configuration) -> String {
    match &configuration.old {
        None => set(&configuration.current),
        Some(old) => format!("{}&{}", set(&configuration.current), set(old)),
    }
}

pub(super) fn entry(entry: &Entry) -> String {
    let what = match &entry.kind {
        EntryKind::Command(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        EntryKind::Configuration(members) => configuration(members),
        EntryKind::Internal { tag, .. } => format!("internal {tag}"),
    };
    format!("{} {what}", entry.id)
}

pub(super) fn entries(list: &[Entry]) -> String {
    let list: Vec<String> = list.iter().map(entry).collect();
    format!("[{}]", list.join(", "))
}

pub(super) fn persist(persist: &Persist) -> String {
    let mut parts = Vec::new();
    if let Some(state) = persist.hard_state {
        let vote = state.voted_for.map_or("none".into(), |v| v.to_string());
        parts.push(format!("term {} vote {vote}", state.term));
    }
    if let Some(span) = persist.promised_span {
        parts.push(format!("promises of {} ms", span.as_millis()));
    }
    if let Some(start) = persist.reset_log {
        parts.push(format!("log begins after {start}"));
    }
    if let Some(from) = persist.truncate_from {
        parts.push(format!("log cut from {from}"));
    }
    if !persist.entries.is_empty() {
        parts.push(entries(&persist.entries));
    }
    if let Some((upto, members)) = &persist.forced_configuration {
        parts.push(format!(
            "members up to {upto} are {}",
            configuration(members)
        ));
    }
    if let Some(span) = persist.promised_span {
        parts.push(format!("promises of at most {} ms", span.as_millis()));
    }
    parts.join(", ")
}

fn yes_no(yes: bool, word: &str) -> String {
    if yes {
        format!(" {word}")
    } else {
        String::new()
    }
}

pub(super) fn message(message: &Message) -> String {
    let rest = match &message.body {
        MessageBody::RequestVote(request) => {
            format!("last {}{}", request.last, yes_no(request.forced, "forced"))
        }
        MessageBody::RequestVoteReply(reply) => {
            let verdict = if reply.granted { "granted" } else { "refused" };
            format!(
                "{verdict}{}",
                yes_no(reply.rejected_by_lease, "under a lease")
            )
        }
        MessageBody::AppendEntries(append) => format!(
            "prev {} {} commit {}",
            append.prev,
            entries(&append.entries),
            append.commit
        ),
        MessageBody::AppendEntriesReply(reply) => match reply.conflict {
            None => format!("holds {}", reply.index),
            Some(hint) => format!("lacks {}, try after {hint}", reply.index),
        },
        MessageBody::Heartbeat(heartbeat) => {
            format!("commit {}{}", heartbeat.commit, turn(heartbeat.turn))
        }
        MessageBody::HeartbeatReply(reply) => {
            let read_only = yes_no(reply.read_only, "read-only");
            format!("{read_only}{}", standing(reply.standing))
        }
        MessageBody::InstallSnapshot(install) => format!(
            "{} {}",
            install.snapshot.last_included,
            configuration(&install.snapshot.configuration)
        ),
        MessageBody::InstallSnapshotReply(reply) => format!(
            "{}{}",
            reply.last_included,
            if reply.installed {
                " installed"
            } else {
                " not installed"
            }
        ),
        MessageBody::TimeoutNow(order) => {
            yes_no(order.leader_stepped_down, "the leader stepped down")
                .trim()
                .into()
        }
        MessageBody::ReadIndexRequest(_) => String::new(),
        MessageBody::ReadIndexReply(reply) => {
            reply.index.map_or("none".into(), |index| index.to_string())
        }
    };
    format!("{} term {} {rest}", kind_of(message), message.term)
        .trim_end()
        .to_owned()
}

fn turn(turn: ElectionTurn) -> &'static str {
    match turn {
        ElectionTurn::Any => "",
        ElectionTurn::First => ", goes first",
        ElectionTurn::Later => ", goes later",
    }
}

/// Only what is out of the ordinary.
fn standing(standing: Standing) -> String {
    let priority = match standing.priority {
        100 => String::new(),
        other => format!("priority {other}"),
    };
    format!("{priority}{}", yes_no(standing.drained, "drained"))
}

pub(super) fn event(event: &Event) -> String {
    match event {
        Event::LeaderStarted { term, .. } => format!("started to lead term {term}"),
        Event::LeaderStopped { term, reason } => format!("stopped to lead term {term}: {reason:?}"),
        Event::StartedFollowing { leader, term } => format!("follows {leader} in term {term}"),
        Event::StoppedFollowing {
            leader,
            term,
            reason,
        } => {
            format!("no longer follows {leader} in term {term}: {reason:?}")
        }
        Event::ConfigurationCommitted {
            index,
            configuration: members,
        } => {
            format!("members since {index}: {}", configuration(members))
        }
        Event::SecondLeader { other, term } => format!("{other} leads term {term} too"),
        Event::Conflict { from, index } => format!("{from} contradicts committed {index}"),
        Event::TakeoverStarted { target, term } => {
            format!("lets {target} take over from term {term}")
        }
        Event::Removed => "is no member any more".into(),
        Event::Failed { why } => format!("has failed: {why}"),
    }
}
