//! What a replica says about itself.

use crate::{Configuration, LogId, LogIndex, MemberSet, NodeId, Standing, Term};
use alloc::vec::Vec;
use core::time::Duration;

/// A replica's part in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Follows a leader or waits for one; also learners.
    Follower,
    /// Asks whether it would be elected (pre-vote).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Leads, but is handing over and takes no writes.
    Transferring,
    /// Stopped after a failure, or going down.
    Stopped,
}

/// braft's four states of a leader lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseStatus {
    /// Leases are off.
    Disabled,
    /// Not the leader, or the lease ran out.
    Expired,
    /// Leads, but has not committed an entry of its term yet.
    NotReady,
    /// Valid now.
    Valid,
}

/// State of replication to one peer (etcd's probe, replicate, snapshot).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Looking for the last matching entry, one message at a time.
    Probe,
    /// Streaming entries within the window.
    Replicate,
    /// The peer is fetching a snapshot.
    Snapshot,
}

/// What a peer is to the leader that replicates to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerPart {
    /// Votes in a set in force.
    Voter,
    /// Receives everything and does not vote.
    Learner,
    /// Receives the log before a change that adds it is logged.
    CatchingUp,
    /// Left the configuration, and is sent what tells it so.
    Leaving,
}

/// Why a leader sends a peer no entries at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// The window of messages or bytes in flight is full.
    Window,
    /// A probe is out; entries follow its answer.
    Probe,
    /// Messages to it were lost; the next try is due after the retry interval.
    Retry,
    /// Entries are being read back from disk for it.
    Disk,
    /// It is fetching a snapshot.
    Snapshot,
}

/// What a leader has sent to a peer since it began to lead, or since the peer was added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Heartbeats, those that confirm reads included.
    pub heartbeats_sent: u64,
    /// `AppendEntries`, probes and news of the commit index included.
    pub appends_sent: u64,
    /// Entries in them; those that were repeated count again.
    pub entries_sent: u64,
    /// Offers of a snapshot.
    pub installs_sent: u64,
    /// Heartbeats sent since its last answer.
    pub heartbeats_unanswered: u64,
    /// Failures since its last answer: the host could not send, or an append got no answer within
    /// the retry interval.
    pub consecutive_errors: u64,
}

/// A timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timer {
    /// What it is set to.
    pub span: Duration,
    /// Time until it fires; none while it does not run.
    pub left: Option<Duration>,
}

/// The timers of a replica. Each runs in one part only (braft's are the first three).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Runs while following: silence after which this replica campaigns, its random part included.
    pub election: Timer,
    /// Runs while asking for votes: how long until an undecided vote is given up.
    pub vote: Timer,
    /// Runs while leading: how long until this leader steps down if nobody answers any more.
    pub step_down: Timer,
    /// Runs while leading: the next round of heartbeats.
    pub heartbeat: Timer,
}

/// A peer as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
    /// What it is to the leader.
    pub part: PeerPart,
    /// State of replication.
    pub state: PeerState,
    /// Last entry known to be durable there.
    pub match_index: LogIndex,
    /// Next entry to send.
    pub next_index: LogIndex,
    /// Messages in flight.
    pub inflight_messages: usize,
    /// Bytes in flight.
    pub inflight_size_bytes: usize,
    /// Time since the last answer; none if there never was one.
    pub last_contact: Option<Duration>,
    /// Whether it said it is read-only.
    pub read_only: bool,
    /// Why it is sent no entries now, if it is not.
    pub blocked: Option<Blocked>,
    /// What was sent to it.
    pub traffic: Traffic,
    /// Its priority, and whether it is drained, by its own word.
    pub standing: Standing,
}

/// Progress of a member that is catching up before a membership change is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatchUp {
    /// Which.
    pub node: NodeId,
    /// Entries it still lacks.
    pub entries_left: u64,
    /// Bytes it still lacks, estimated: entries that the leader holds in memory are counted, older
    /// ones taken to be of average size, and a snapshot it needs is left out.
    pub size_bytes_left: u64,
    /// Time since it began.
    pub elapsed: Duration,
    /// Entries it acknowledged since then.
    pub entries_done: u64,
}

/// A running leadership transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferStatus {
    /// To whom.
    pub target: NodeId,
    /// Time since it began.
    pub elapsed: Duration,
}

/// Everything a replica can say about itself; taking it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its part.
    pub role: Role,
    /// Current term.
    pub term: Term,
    /// Vote in that term.
    pub voted_for: Option<NodeId>,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Configuration in force (effective at append).
    pub configuration: Configuration,
    /// Index of the entry it came with; zero for the initial one.
    pub configuration_index: LogIndex,
    /// The entry before the log.
    pub log_start: LogId,
    /// Last entry.
    pub last: LogId,
    /// Last entry that is durable here.
    pub durable_index: LogIndex,
    /// Commit index.
    pub commit_index: LogIndex,
    /// Last index handed to the state machine.
    pub applying_index: LogIndex,
    /// Last index reported applied.
    pub applied_index: LogIndex,
    /// Newest snapshot.
    pub snapshot: Option<LogId>,
    /// Snapshot being fetched.
    pub fetching: Option<LogId>,
    /// Peers, on the leader.
    pub peers: Vec<PeerStatus>,
    /// Members catching up, on the leader.
    pub catching_up: Vec<CatchUp>,
    /// Stage of a membership change: `none`, `catch-up`, `joint`, `stable`.
    pub change_stage: &'static str,
    /// Where that change leads, if there is one.
    pub change_target: Option<MemberSet>,
    /// Running transfer.
    pub transfer: Option<TransferStatus>,
    /// Leader lease.
    pub lease: LeaseStatus,
    /// Counts starts of leadership in this process.
    pub lease_epoch: u64,
    /// Whether this replica is in read-only mode.
    pub read_only: bool,
    /// Whether the group as a whole is (leader's view).
    pub group_read_only: bool,
    /// Bytes appended but not committed.
    pub uncommitted_size_bytes: usize,
    /// Proposals waiting for commit.
    pub proposals_pending: usize,
    /// Reads waiting for confirmation.
    pub reads_pending: usize,
    /// Bytes of entries held in memory.
    pub cache_size_bytes: usize,
    /// Time since the last message of a leader; none if there never was one.
    pub leader_last_contact: Option<Duration>,
    /// Its timers.
    pub timers: Timers,
    /// Writes to the log under way.
    pub writes_pending: usize,
    /// Time since the oldest of them was issued.
    pub oldest_write: Option<Duration>,
    /// Age of a write at which a leader steps down and nobody campaigns; zero: never.
    pub disk_stall_timeout: Duration,
    /// Election timeout in force.
    pub election_timeout: Duration,
    /// Clock drift in force.
    pub max_clock_drift: Duration,
    /// Election priority.
    pub priority: u32,
    /// Whether an operator wants this node to lead nothing.
    pub drained: bool,
    /// Why the replica stopped, if it did.
    pub failure: Option<&'static str>,
}
