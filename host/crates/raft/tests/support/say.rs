//! Short ways to say positions, entries, configurations and messages.

use super::{Image, ms};
use bytes::Bytes;
use kontiki_raft::{
    AppendEntries, AppendEntriesReply, Configuration, ConfigurationChange, ElectionTurn, Entry,
    EntryKind, HardState, Heartbeat, HeartbeatReply, InstallSnapshot, LeasePromise, LogId,
    LogIndex, MemberSet, MessageBody, NodeId, RequestVote, RequestVoteReply, SnapshotMeta,
    Standing, Term, TimeoutNow,
};

pub(crate) fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

pub(crate) fn voters<const N: usize>(ids: [u64; N]) -> MemberSet {
    MemberSet::of_voters(ids.map(NodeId))
}

pub(crate) fn learner_set(voters: &[u64], learners: &[u64]) -> MemberSet {
    MemberSet {
        voters: voters.iter().copied().map(NodeId).collect(),
        learners: learners.iter().copied().map(NodeId).collect(),
    }
}

pub(crate) fn configuration<const N: usize>(ids: [u64; N]) -> Configuration {
    Configuration::stable(voters(ids))
}

/// The joint configuration on the way from `old` to `current`.
pub(crate) fn joint<const N: usize, const M: usize>(
    old: [u64; N],
    current: [u64; M],
) -> Configuration {
    Configuration {
        current: voters(current),
        old: Some(voters(old)),
    }
}

/// Membership changes by number.
pub(crate) mod change {
    use super::{ConfigurationChange, NodeId, voters};

    pub(crate) fn add(node: u64) -> ConfigurationChange {
        ConfigurationChange::AddVoter(NodeId(node))
    }

    pub(crate) fn add_learner(node: u64) -> ConfigurationChange {
        ConfigurationChange::AddLearner(NodeId(node))
    }

    pub(crate) fn promote(node: u64) -> ConfigurationChange {
        ConfigurationChange::Promote(NodeId(node))
    }

    pub(crate) fn demote(node: u64) -> ConfigurationChange {
        ConfigurationChange::Demote(NodeId(node))
    }

    pub(crate) fn remove(node: u64) -> ConfigurationChange {
        ConfigurationChange::Remove(NodeId(node))
    }

    pub(crate) fn replace_by<const N: usize>(ids: [u64; N]) -> ConfigurationChange {
        ConfigurationChange::Replace(voters(ids))
    }
}

/// A command; its payload names term and index, so that different entries differ.
pub(crate) fn command(id: LogId) -> Entry {
    Entry {
        id,
        time_ns: 0,
        kind: EntryKind::Command(Bytes::from(id.to_string())),
    }
}

/// A configuration entry.
pub(crate) fn membership(id: LogId, configuration: Configuration) -> Entry {
    Entry {
        id,
        time_ns: 0,
        kind: EntryKind::Configuration(configuration.into()),
    }
}

/// Commands of these terms, directly after `prev`.
pub(crate) fn entries_after(prev: LogId, terms: &[u64]) -> Vec<Entry> {
    let positions = (prev.index.0 + 1..).zip(terms);
    positions
        .map(|(index, &term)| command(id(term, index)))
        .collect()
}

/// A disk with this term and commands of these terms.
pub(crate) fn image(term: u64, terms: &[u64]) -> Image {
    Image {
        hard_state: HardState {
            term: Term(term),
            voted_for: None,
        },
        entries: entries_after(LogId::default(), terms),
        ..Image::default()
    }
}

pub(crate) fn append(prev: LogId, terms: &[u64], commit: u64) -> MessageBody {
    append_of(prev, entries_after(prev, terms), commit)
}

pub(crate) fn append_of(prev: LogId, entries: Vec<Entry>, commit: u64) -> MessageBody {
    MessageBody::AppendEntries(AppendEntries {
        prev,
        entries,
        commit: LogIndex(commit),
        sequence: 1,
    })
}

/// Success up to `index`, in answer to append `sequence`.
pub(crate) fn append_ack(sequence: u64, index: u64) -> MessageBody {
    MessageBody::AppendEntriesReply(AppendEntriesReply {
        sequence,
        index: LogIndex(index),
        conflict: None,
        read_only: false,
        promise: None,
    })
}

pub(crate) fn heartbeat(commit: u64) -> MessageBody {
    MessageBody::Heartbeat(Heartbeat {
        commit: LogIndex(commit),
        round: 1,
        horizon: None,
        turn: ElectionTurn::Any,
    })
}

pub(crate) fn heartbeat_ack(round: u64) -> MessageBody {
    MessageBody::HeartbeatReply(HeartbeatReply {
        round,
        read_only: false,
        echo: None,
        promise: None,
        standing: Standing::default(),
    })
}

/// As [`heartbeat_ack`], by a follower with leases on that has these timers.
pub(crate) fn promising_ack(round: u64, timeout_ms: u64, drift_ms: u64) -> MessageBody {
    MessageBody::HeartbeatReply(HeartbeatReply {
        round,
        read_only: false,
        echo: None,
        promise: Some(LeasePromise {
            span: ms(timeout_ms + drift_ms),
            drift: ms(drift_ms),
        }),
        standing: Standing::default(),
    })
}

/// A request for a vote by a candidate whose log ends at `last`.
pub(crate) fn request_vote(last: LogId) -> RequestVote {
    RequestVote {
        pre_vote: false,
        last,
        round: 1,
        forced: false,
        disrupted_leader: None,
        priority: 100,
        applied: None,
    }
}

pub(crate) fn vote_request(last: LogId) -> MessageBody {
    MessageBody::RequestVote(request_vote(last))
}

pub(crate) fn pre_vote_request(last: LogId) -> MessageBody {
    let request = request_vote(last);
    MessageBody::RequestVote(RequestVote {
        pre_vote: true,
        ..request
    })
}

pub(crate) fn forced_vote_request(last: LogId) -> MessageBody {
    let request = request_vote(last);
    MessageBody::RequestVote(RequestVote {
        forced: true,
        ..request
    })
}

/// The answer to `request`.
pub(crate) fn vote_reply(request: &RequestVote, granted: bool) -> MessageBody {
    MessageBody::RequestVoteReply(RequestVoteReply {
        pre_vote: request.pre_vote,
        round: request.round,
        granted,
        rejected_by_lease: false,
        disrupted: None,
    })
}

pub(crate) fn timeout_now() -> MessageBody {
    MessageBody::TimeoutNow(TimeoutNow {
        leader_stepped_down: false,
    })
}

pub(crate) fn install(snapshot: SnapshotMeta) -> MessageBody {
    MessageBody::InstallSnapshot(InstallSnapshot { snapshot })
}

pub(crate) fn snapshot(last_included: LogId, configuration: Configuration) -> SnapshotMeta {
    SnapshotMeta {
        last_included,
        configuration,
    }
}
