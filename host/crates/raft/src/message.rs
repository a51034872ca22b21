//! Messages between replicas of one group. Sender and receiver travel with the message in the host.

use crate::{Entry, Instant, LogId, LogIndex, ReadMode, SnapshotMeta, Term, Token};
use alloc::vec::Vec;
use core::time::Duration;

/// A message and its sender's term (of the candidate's *next* term in a pre-vote request).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's term.
    pub term: Term,
    /// What it says.
    pub body: MessageBody,
}

/// The kinds of message, named as in the paper.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageBody {
    /// Asks for a vote, or in a pre-vote whether one would be given (thesis §9.6).
    RequestVote(RequestVote),
    /// The answer.
    RequestVoteReply(RequestVoteReply),
    /// Log entries.
    AppendEntries(AppendEntries),
    /// The answer.
    AppendEntriesReply(AppendEntriesReply),
    /// A sign of life that bypasses the log path; confirms leases and read indexes.
    Heartbeat(Heartbeat),
    /// The answer.
    HeartbeatReply(HeartbeatReply),
    /// Offers a snapshot to a follower whose next entry is gone.
    InstallSnapshot(InstallSnapshot),
    /// The answer, once it is installed or refused.
    InstallSnapshotReply(InstallSnapshotReply),
    /// Orders the target of a leadership transfer to campaign at once (thesis §3.10).
    TimeoutNow(TimeoutNow),
    /// A follower asks the leader for a read index (thesis §6.4).
    ReadIndexRequest(ReadIndexRequest),
    /// The answer.
    ReadIndexReply(ReadIndexReply),
}

/// `RequestVote` (Raft §5.2, §5.4.1; pre-vote in thesis §9.6).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestVote {
    /// A pre-vote: nothing is promised and no term changes.
    pub pre_vote: bool,
    /// Last entry of the candidate that is durable there.
    pub last: LogId,
    /// Round of the candidate; comes back in the reply so that a late reply cannot count for
    /// another round.
    pub round: u64,
    /// Ignore a live leader: the election was ordered by the leader itself or by an operator.
    pub forced: bool,
    /// For a forced election: the leader that stood down for it, and its term (braft's
    /// `disrupted_leader`). A voter whose follower lease is on exactly this leader may vote.
    pub disrupted_leader: Option<(crate::NodeId, Term)>,
    /// The candidate's election priority.
    pub priority: u32,
    /// Up to where it has applied; none if it does not say (an older version).
    pub applied: Option<LogIndex>,
}

/// Reply to [`RequestVote`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestVoteReply {
    /// Whether it answers a pre-vote.
    pub pre_vote: bool,
    /// As in the request.
    pub round: u64,
    /// Whether the vote is (or would be) given.
    pub granted: bool,
    /// Refused only because the voter still honours a leader's lease; ask again when it is over.
    pub rejected_by_lease: bool,
    /// The last term in which the voter led, if it leads no more. The candidate passes it on as
    /// `disrupted_leader` to voters that still honour that leader's lease. A leader that merely
    /// ordered a transfer says nothing here, since it may resume.
    pub disrupted: Option<Term>,
}

/// `AppendEntries` (Raft §5.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntries {
    /// The entry before the first of `entries`.
    pub prev: LogId,
    /// Consecutive entries after `prev`; may be empty (a probe).
    pub entries: Vec<Entry>,
    /// The leader's commit index.
    pub commit: LogIndex,
    /// Rises with every message of this leader to this follower; comes back in the reply.
    pub sequence: u64,
}

/// Reply to [`AppendEntries`]. Sent when the entries are durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppendEntriesReply {
    /// As in the request.
    pub sequence: u64,
    /// On success the last index that is durable here and known to match the leader's log; on
    /// failure the `prev` that did not match.
    pub index: LogIndex,
    /// On failure: where the follower's log may still agree with the leader's.
    pub conflict: Option<LogId>,
    /// The replica is in read-only mode.
    pub read_only: bool,
    /// What the follower promises with this answer. Nothing if leases are off there, and from
    /// peers that do not know the field: nothing said is nothing promised.
    pub promise: Option<LeasePromise>,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The leader's commit index, capped at what the follower is known to hold.
    pub commit: LogIndex,
    /// Rises with every heartbeat round of this leader; comes back in the reply. Read index rounds
    /// and the leader lease are confirmed by it.
    pub round: u64,
    /// How old the follower's state may be, as far as the leader knows.
    pub horizon: Option<HorizonNews>,
    /// When the follower should campaign if this leader falls silent.
    pub turn: ElectionTurn,
}

/// Tells a follower how old its state may be: when the follower gave the answer named by `echo`,
/// everything acknowledged up to `age` earlier had an index of at most `commit`. Nothing is ever
/// committed on the strength of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HorizonNews {
    /// The leader's commit index, whatever the follower holds.
    pub commit: LogIndex,
    /// Time since the leader sent what a quorum has answered.
    pub age: Duration,
    /// Of the follower's latest answer.
    pub echo: Echo,
}

/// A moment on the clock of whoever answers; only that process can read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Drawn at random when the replica was opened: another process's clock says nothing.
    pub incarnation: u64,
    /// When the answer was given.
    pub at: Instant,
}

/// When a follower should campaign after its leader has fallen silent, by priorities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ElectionTurn {
    /// After the usual wait: nobody who could take over is preferred.
    #[default]
    Any,
    /// Before the others: no voter is preferred to it, some are less preferred.
    First,
    /// After the others: a voter that is up to date is preferred to it.
    Later,
}

/// Reply to [`Heartbeat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// As in the request.
    pub round: u64,
    /// The replica is in read-only mode.
    pub read_only: bool,
    /// Comes back in the next heartbeat.
    pub echo: Option<Echo>,
    /// What the follower promises with this answer. Nothing if leases are off there, and from
    /// peers that do not know the field: nothing said is nothing promised.
    pub promise: Option<LeasePromise>,
    /// The follower as a leader to be.
    pub standing: Standing,
}

/// What a follower promises the leader whose message it answers: no vote for anybody else within
/// `span`, by its own clock, from when it heard the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeasePromise {
    /// The whole span: the follower's election timeout plus its clock drift.
    pub span: Duration,
    /// The part of it that is the follower's clock drift. The leader takes off this or its own
    /// drift, whichever is longer.
    pub drift: Duration,
}

/// A member as a leader to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Its election priority.
    pub priority: u32,
    /// An operator wants no group led there.
    pub drained: bool,
    /// Up to where it has applied; none if it does not say (an older version).
    pub applied: Option<LogIndex>,
}

impl Default for Standing {
    /// What is assumed of a member that has said nothing: the default priority, not drained, and
    /// not lagging.
    fn default() -> Self {
        Self {
            priority: 100,
            drained: false,
            applied: None,
        }
    }
}

/// Offers a snapshot. The bytes are fetched outside the core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// What the snapshot holds.
    pub snapshot: SnapshotMeta,
}

/// Reply to [`InstallSnapshot`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstallSnapshotReply {
    /// Last included entry of the snapshot in question.
    pub last_included: LogId,
    /// Whether the follower now holds everything up to it.
    pub installed: bool,
}

/// Orders an election.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutNow {
    /// The sender has given up leadership already (braft's `old_leader_stepped_down`).
    pub leader_stepped_down: bool,
}

/// A follower's question for a read index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadIndexRequest {
    /// The follower's own number for it.
    pub token: Token,
    /// How the leader may confirm it.
    pub mode: ReadMode,
}

/// Answer to [`ReadIndexRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadIndexReply {
    /// As in the request.
    pub token: Token,
    /// The read index, or nothing if it was not confirmed.
    pub index: Option<LogIndex>,
    /// It was not, because too many reads wait there already; else because the node asked does
    /// not lead, or leads no more.
    pub busy: bool,
}
