//! Between the core's types and the protocol's. Total in both directions; what comes from the wire
//! is checked, so that a hostile frame is an error here and never reaches the core.

use crate::node::clock::micros;
use bytes::Bytes;
use kontiki_proto::v1;
use kontiki_proto::v1::entry::{Internal, Kind};
use kontiki_proto::v1::raft_message::Body;
use kontiki_raft::{
    AppendEntries, AppendEntriesReply, Configuration, Echo, ElectionTurn, Entry, EntryKind,
    Heartbeat, HeartbeatReply, HorizonNews, InstallSnapshot, InstallSnapshotReply, Instant,
    LeasePromise, LogId, LogIndex, MemberSet, Message, MessageBody, NodeId, ReadIndexReply,
    ReadIndexRequest, ReadMode, RequestVote, RequestVoteReply, SnapshotMeta, Standing, Term,
    TimeoutNow, Token,
};
use std::time::Duration;

/// Terms, indexes and sequences from the wire stay below this, so that adding to them cannot
/// overflow.
const NUMBER_MAX: u64 = 1 << 62;

/// Why a message from the wire is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A required field is absent.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A value is outside its range.
    #[error("field {0} is outside its range")]
    OutOfRange(&'static str),
    /// Entries are not consecutive, or their terms go back.
    #[error("entries are not consecutive")]
    NotConsecutive,
    /// A node is named as voter and as learner.
    #[error("node {0} is named both voter and learner")]
    VoterAndLearner(u64),
}

type Result<T> = std::result::Result<T, ConvertError>;

fn present<T>(name: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or(ConvertError::Missing(name))
}

fn number(name: &'static str, value: u64) -> Result<u64> {
    if value < NUMBER_MAX {
        Ok(value)
    } else {
        Err(ConvertError::OutOfRange(name))
    }
}

/// Whether the other side would take a message with this term: what it refuses is not sent, so that
/// it is counted as dropped here.
#[must_use]
pub fn is_sendable(message: &Message) -> bool {
    message.term.0 < NUMBER_MAX
}

/// Puts a message into its wire form.
#[must_use]
pub fn message_to_wire(message: Message) -> v1::RaftMessage {
    let body = match message.body {
        MessageBody::RequestVote(m) => Body::RequestVote(request_vote_to_wire(&m)),
        MessageBody::RequestVoteReply(m) => Body::RequestVoteReply(v1::RequestVoteReply {
            pre_vote: m.pre_vote,
            round: m.round,
            granted: m.granted,
            rejected_by_lease: m.rejected_by_lease,
            disrupted: m.disrupted.map(|term| term.0),
        }),
        MessageBody::AppendEntries(m) => Body::AppendEntries(append_to_wire(m)),
        MessageBody::AppendEntriesReply(m) => Body::AppendEntriesReply(v1::AppendEntriesReply {
            sequence: m.sequence,
            index: m.index.0,
            conflict: m.conflict.map(log_id_to_wire),
            read_only: m.read_only,
            promise: m.promise.map(promise_to_wire),
        }),
        MessageBody::Heartbeat(m) => Body::Heartbeat(v1::Heartbeat {
            commit: m.commit.0,
            round: m.round,
            horizon: m.horizon.map(horizon_to_wire),
            turn: turn_to_wire(m.turn).into(),
        }),
        MessageBody::HeartbeatReply(m) => Body::HeartbeatReply(v1::HeartbeatReply {
            round: m.round,
            read_only: m.read_only,
            echo: m.echo.map(echo_to_wire),
            promise: m.promise.map(promise_to_wire),
            priority: Some(m.standing.priority),
            drained: m.standing.drained,
            applied: m.standing.applied.map(|index| index.0),
        }),
        MessageBody::InstallSnapshot(m) => Body::InstallSnapshot(v1::InstallSnapshot {
            snapshot: Some(snapshot_to_wire(&m.snapshot)),
        }),
        MessageBody::InstallSnapshotReply(m) => {
            Body::InstallSnapshotReply(v1::InstallSnapshotReply {
                last_included: Some(log_id_to_wire(m.last_included)),
                installed: m.installed,
            })
        }
        MessageBody::TimeoutNow(m) => Body::TimeoutNow(v1::TimeoutNow {
            leader_stepped_down: m.leader_stepped_down,
        }),
        MessageBody::ReadIndexRequest(m) => Body::ReadIndexRequest(v1::ReadIndexRequest {
            token: m.token.0,
            by_lease: m.mode == ReadMode::Lease,
        }),
        MessageBody::ReadIndexReply(m) => Body::ReadIndexReply(v1::ReadIndexReply {
            token: m.token.0,
            index: m.index.map(|index| index.0),
            busy: m.busy,
        }),
    };
    v1::RaftMessage {
        term: message.term.0,
        body: Some(body),
    }
}

fn promise_to_wire(promise: LeasePromise) -> v1::LeasePromise {
    v1::LeasePromise {
        span_us: micros(promise.span),
        drift_us: micros(promise.drift),
    }
}

/// Any span will do: the leader takes the shorter of it and its own election timeout.
fn promise_from_wire(promise: v1::LeasePromise) -> LeasePromise {
    LeasePromise {
        span: Duration::from_micros(promise.span_us),
        drift: Duration::from_micros(promise.drift_us),
    }
}

/// Takes a message from its wire form.
///
/// # Errors
/// Names what is missing or outside its range.
pub fn message_from_wire(message: v1::RaftMessage) -> Result<Message> {
    let term = Term(number("term", message.term)?);
    let body = match present("body", message.body)? {
        Body::RequestVote(m) => MessageBody::RequestVote(request_vote_from_wire(&m)?),
        Body::RequestVoteReply(m) => MessageBody::RequestVoteReply(RequestVoteReply {
            pre_vote: m.pre_vote,
            round: m.round,
            granted: m.granted,
            rejected_by_lease: m.rejected_by_lease,
            disrupted: m
                .disrupted
                .map(|t| number("disrupted", t).map(Term))
                .transpose()?,
        }),
        Body::AppendEntries(m) => MessageBody::AppendEntries(append_from_wire(term, m)?),
        Body::AppendEntriesReply(m) => MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence: m.sequence,
            index: index("index", m.index)?,
            conflict: m.conflict.map(log_id_from_wire).transpose()?,
            read_only: m.read_only,
            promise: m.promise.map(promise_from_wire),
        }),
        Body::Heartbeat(m) => MessageBody::Heartbeat(Heartbeat {
            commit: index("commit", m.commit)?,
            round: number("round", m.round)?,
            horizon: m.horizon.map(horizon_from_wire).transpose()?,
            turn: turn_from_wire(m.turn()),
        }),
        Body::HeartbeatReply(m) => MessageBody::HeartbeatReply(HeartbeatReply {
            round: number("round", m.round)?,
            read_only: m.read_only,
            echo: m.echo.map(echo_from_wire),
            promise: m.promise.map(promise_from_wire),
            standing: standing_from_wire(&m),
        }),
        Body::InstallSnapshot(m) => MessageBody::InstallSnapshot(InstallSnapshot {
            snapshot: snapshot_from_wire(present("snapshot", m.snapshot)?)?,
        }),
        Body::InstallSnapshotReply(m) => MessageBody::InstallSnapshotReply(InstallSnapshotReply {
            last_included: log_id_from_wire(present("last_included", m.last_included)?)?,
            installed: m.installed,
        }),
        Body::TimeoutNow(m) => MessageBody::TimeoutNow(TimeoutNow {
            leader_stepped_down: m.leader_stepped_down,
        }),
        Body::ReadIndexRequest(m) => MessageBody::ReadIndexRequest(ReadIndexRequest {
            token: Token(m.token),
            mode: if m.by_lease {
                ReadMode::Lease
            } else {
                ReadMode::Quorum
            },
        }),
        Body::ReadIndexReply(m) => MessageBody::ReadIndexReply(ReadIndexReply {
            token: Token(m.token),
            index: m.index.map(|i| index("index", i)).transpose()?,
            busy: m.busy,
        }),
    };
    Ok(Message { term, body })
}

fn index(name: &'static str, value: u64) -> Result<LogIndex> {
    number(name, value).map(LogIndex)
}

/// Puts a log id into its wire form.
#[must_use]
pub fn log_id_to_wire(id: LogId) -> v1::LogId {
    v1::LogId {
        term: id.term.0,
        index: id.index.0,
    }
}

fn log_id_from_wire(id: v1::LogId) -> Result<LogId> {
    Ok(LogId::new(
        Term(number("term", id.term)?),
        index("index", id.index)?,
    ))
}

fn horizon_to_wire(m: HorizonNews) -> v1::HorizonNews {
    v1::HorizonNews {
        commit: m.commit.0,
        age_us: u64::try_from(m.age.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX),
        echo: Some(echo_to_wire(m.echo)),
    }
}

fn horizon_from_wire(m: v1::HorizonNews) -> Result<HorizonNews> {
    Ok(HorizonNews {
        commit: index("commit", m.commit)?,
        age: Duration::from_micros(m.age_us),
        echo: echo_from_wire(present("echo", m.echo)?),
    })
}

fn echo_to_wire(echo: Echo) -> v1::Echo {
    v1::Echo {
        incarnation: echo.incarnation,
        at_us: echo.at.0,
    }
}

fn echo_from_wire(echo: v1::Echo) -> Echo {
    Echo {
        incarnation: echo.incarnation,
        at: Instant(echo.at_us),
    }
}

/// Puts a set of members into its wire form.
#[must_use]
pub fn members_to_wire(members: &MemberSet) -> v1::MemberSet {
    v1::MemberSet {
        voters: members.voters.iter().map(|node| node.0).collect(),
        learners: members.learners.iter().map(|node| node.0).collect(),
    }
}

/// Takes a set of members from its wire form.
///
/// # Errors
/// If a node is named as voter and as learner.
pub fn members_from_wire(members: v1::MemberSet) -> Result<MemberSet> {
    let set = MemberSet {
        voters: members.voters.into_iter().map(NodeId).collect(),
        learners: members.learners.into_iter().map(NodeId).collect(),
    };
    match set.voters.intersection(&set.learners).next() {
        Some(node) => Err(ConvertError::VoterAndLearner(node.0)),
        None => Ok(set),
    }
}

/// Puts a configuration into its wire form.
#[must_use]
pub fn configuration_to_wire(configuration: &Configuration) -> v1::Configuration {
    v1::Configuration {
        current: Some(members_to_wire(&configuration.current)),
        old: configuration.old.as_ref().map(members_to_wire),
    }
}

fn configuration_from_wire(configuration: v1::Configuration) -> Result<Configuration> {
    Ok(Configuration {
        current: members_from_wire(present("current", configuration.current)?)?,
        old: configuration.old.map(members_from_wire).transpose()?,
    })
}

fn snapshot_to_wire(snapshot: &SnapshotMeta) -> v1::SnapshotMeta {
    v1::SnapshotMeta {
        last_included: Some(log_id_to_wire(snapshot.last_included)),
        configuration: Some(configuration_to_wire(&snapshot.configuration)),
    }
}

fn snapshot_from_wire(snapshot: v1::SnapshotMeta) -> Result<SnapshotMeta> {
    Ok(SnapshotMeta {
        last_included: log_id_from_wire(present("last_included", snapshot.last_included)?)?,
        configuration: configuration_from_wire(present("configuration", snapshot.configuration)?)?,
    })
}

fn turn_to_wire(turn: ElectionTurn) -> v1::ElectionTurn {
    match turn {
        ElectionTurn::Any => v1::ElectionTurn::Any,
        ElectionTurn::First => v1::ElectionTurn::First,
        ElectionTurn::Later => v1::ElectionTurn::Later,
    }
}

fn turn_from_wire(turn: v1::ElectionTurn) -> ElectionTurn {
    match turn {
        v1::ElectionTurn::Any => ElectionTurn::Any,
        v1::ElectionTurn::First => ElectionTurn::First,
        v1::ElectionTurn::Later => ElectionTurn::Later,
    }
}

fn standing_from_wire(m: &v1::HeartbeatReply) -> Standing {
    let unsaid = Standing::default();
    Standing {
        priority: m.priority.unwrap_or(unsaid.priority),
        drained: m.drained,
        applied: m.applied.map(LogIndex),
    }
}

fn request_vote_to_wire(m: &RequestVote) -> v1::RequestVote {
    v1::RequestVote {
        pre_vote: m.pre_vote,
        last: Some(log_id_to_wire(m.last)),
        round: m.round,
        forced: m.forced,
        disrupted_leader: m.disrupted_leader.map(|(node, _)| node.0),
        disrupted_term: m.disrupted_leader.map_or(0, |(_, term)| term.0),
        priority: m.priority,
        applied: m.applied.map(|index| index.0),
    }
}

fn request_vote_from_wire(m: &v1::RequestVote) -> Result<RequestVote> {
    let disrupted_term = Term(number("disrupted_term", m.disrupted_term)?);
    Ok(RequestVote {
        pre_vote: m.pre_vote,
        last: log_id_from_wire(present("last", m.last)?)?,
        round: m.round,
        forced: m.forced,
        disrupted_leader: m
            .disrupted_leader
            .map(|node| (NodeId(node), disrupted_term)),
        priority: m.priority,
        applied: m.applied.map(LogIndex),
    })
}

fn append_to_wire(m: AppendEntries) -> v1::AppendEntries {
    v1::AppendEntries {
        prev: Some(log_id_to_wire(m.prev)),
        entries: m.entries.into_iter().map(entry_to_wire).collect(),
        commit: m.commit.0,
        sequence: m.sequence,
    }
}

fn append_from_wire(term: Term, m: v1::AppendEntries) -> Result<AppendEntries> {
    let prev = log_id_from_wire(present("prev", m.prev)?)?;
    let mut entries = Vec::with_capacity(m.entries.len());
    let mut before = prev;
    for entry in m.entries {
        let entry = entry_from_wire(entry)?;
        let follows = entry.id.index == before.index.next() && entry.id.term >= before.term;
        if !follows || entry.id.term > term {
            return Err(ConvertError::NotConsecutive);
        }
        before = entry.id;
        entries.push(entry);
    }
    Ok(AppendEntries {
        prev,
        entries,
        commit: index("commit", m.commit)?,
        sequence: number("sequence", m.sequence)?,
    })
}

fn entry_to_wire(entry: Entry) -> v1::Entry {
    let kind = match entry.kind {
        EntryKind::Command(command) => Kind::Command(command),
        EntryKind::Configuration(c) => Kind::Configuration(configuration_to_wire(&c)),
        EntryKind::Internal { tag, payload } => Kind::Internal(Internal {
            tag: u32::from(tag),
            payload,
        }),
    };
    v1::Entry {
        id: Some(log_id_to_wire(entry.id)),
        time_ns: entry.time_ns,
        kind: Some(kind),
    }
}

/// Payloads are copied: they are slices of the buffer that the frame came in, and an entry that
/// stays in the log's cache would keep it whole.
fn entry_from_wire(entry: v1::Entry) -> Result<Entry> {
    let kind = match present("kind", entry.kind)? {
        Kind::Command(command) => EntryKind::Command(Bytes::copy_from_slice(&command)),
        Kind::Configuration(c) => EntryKind::Configuration(configuration_from_wire(c)?.into()),
        Kind::Internal(internal) => EntryKind::Internal {
            tag: internal
                .tag
                .try_into()
                .map_err(|_| ConvertError::OutOfRange("tag"))?,
            payload: Bytes::copy_from_slice(&internal.payload),
        },
    };
    let id = log_id_from_wire(present("id", entry.id)?)?;
    Ok(Entry {
        id,
        time_ns: entry.time_ns,
        kind,
    })
}

#[cfg(test)]
mod tests;
