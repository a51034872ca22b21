//! What a replica says about itself.

use crate::{Configuration, LogId, LogIndex, NodeId, Standing, Term};
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

/// A peer as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// Whether it votes.
    pub voter: bool,
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
    /// Bytes it still lacks, as far as the leader can tell from memory; a lower bound.
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
    /// Time until the election timer fires; none if it is not running.
    pub election_timer: Option<Duration>,
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
