//! Everything that can happen to a replica.

use crate::{
    ConfigurationChange, Entry, EntryKind, IoId, LogIndex, MemberSet, Message, NodeId, ReadId,
    Settings, SnapshotMeta, Term, Token,
};
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

/// One thing that happened, or that somebody wants.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message arrived.
    Message {
        /// Who sent it; vouched for by the transport.
        from: NodeId,
        /// What it says.
        message: Message,
    },
    /// Time passed. Needed only when [`Core::next_deadline`](crate::Core::next_deadline) is
    /// reached; harmless at any other time.
    Tick,
    /// Append these to the log, in order. Each is answered exactly once: in an
    /// [`ApplyBatch`](crate::ApplyBatch) or by [`Effect::Rejected`](crate::Effect::Rejected).
    Propose(Vec<Proposal>),
    /// Change the membership. Answered once, by [`Effect::Done`](crate::Effect::Done) when the
    /// final configuration is committed, or by `Rejected`.
    ChangeConfiguration {
        /// Names the request.
        token: Token,
        /// What to change.
        change: ConfigurationChange,
        /// Refuse unless this is the present membership.
        expected: Option<MemberSet>,
    },
    /// Give up a membership change whose new voters are still catching up. Answered by `Done`, after
    /// the change was answered by `Rejected`; or by `Rejected` if nothing can be cancelled: what is
    /// logged cannot.
    CancelChange {
        /// Names the request.
        token: Token,
    },
    /// Force this membership on a survivor of a lost majority (braft's `reset_peers`). Committed
    /// entries may be lost. Answered by `Done` or `Rejected`.
    ResetPeers {
        /// Names the request.
        token: Token,
        /// The new membership; must contain this node as a voter.
        members: MemberSet,
    },
    /// Nothing that other members said counts any more: whoever spoke before this belongs to another
    /// history of the group. Ends a leadership or candidacy, follows nobody, and goes to the next
    /// term, so that no late answer counts. Answered by `Done` when that is durable, or `Rejected`.
    ForgetPeers {
        /// Names the request.
        token: Token,
    },
    /// Hand leadership over. Answered by `Done` when this node has stepped down in favour of the
    /// target, or by `Rejected`.
    TransferLeadership {
        /// Names the request.
        token: Token,
        /// To whom.
        target: TransferTarget,
    },
    /// Start an election now, whatever the timers say (braft's `vote`). Answered by `Done` when it
    /// has begun or `Rejected`.
    Campaign {
        /// Names the request.
        token: Token,
    },
    /// Change timers while running. With only the election timeout given, the sum of election
    /// timeout and clock drift stays as it is, as in braft's one-argument form. Answered by `Done`
    /// or `Rejected`.
    SetTimeouts {
        /// Names the request.
        token: Token,
        /// The new election timeout.
        election_timeout: Duration,
        /// The new clock drift.
        max_clock_drift: Option<Duration>,
    },
    /// Put these settings in force while running, all of them or, if one is outside its range,
    /// none. Any may change, on any member, in any order; [`Settings`] says from when each holds.
    /// Answered by `Done` or `Rejected`.
    SetSettings {
        /// Names the request.
        token: Token,
        /// All settings, changed or not.
        settings: Box<Settings>,
    },
    /// Keep leadership off this node, or no longer. While drained it starts no election that nobody
    /// ordered until several election timeouts have passed without any leader, is chosen as
    /// successor only if there is nobody else or it is named, and hands over as soon as another
    /// can lead. Not remembered across a restart: the host says it again.
    SetDrained(bool),
    /// Enter or leave read-only mode (braft's `enter_readonly_mode`).
    SetReadOnly(bool),
    /// Ask from which applied index a linearizable read may be served. Answered by
    /// [`Effect::ReadReady`](crate::Effect::ReadReady) or `Rejected`.
    ReadIndex {
        /// Names the request.
        token: Token,
        /// How it is confirmed.
        mode: ReadMode,
    },
    /// Entries asked for by [`Effect::ReadEntries`](crate::Effect::ReadEntries).
    EntriesRead {
        /// As in the effect.
        read: ReadId,
        /// The entries: consecutive, from the first asked for, at least one.
        result: Result<Vec<Entry>, ReadError>,
    },
    /// This write and every earlier one is durable.
    Persisted {
        /// The write.
        io: IoId,
    },
    /// This write failed. The replica stops: what is on disk is no longer known.
    PersistFailed {
        /// The write.
        io: IoId,
    },
    /// The state machine has applied everything up to here.
    Applied {
        /// Last applied index.
        index: LogIndex,
    },
    /// The state machine cannot go on. The replica stops applying and gives up leadership.
    ApplyFailed {
        /// Last applied index.
        index: LogIndex,
    },
    /// A snapshot is durable and published; the log before the one before it may go.
    SnapshotSaved {
        /// What it holds.
        snapshot: SnapshotMeta,
    },
    /// A snapshot ordered by [`Effect::FetchSnapshot`](crate::Effect::FetchSnapshot) is durable,
    /// published and loaded into the state machine.
    SnapshotInstalled {
        /// What it holds.
        snapshot: SnapshotMeta,
    },
    /// Fetching or loading it failed; the old state is intact.
    SnapshotFailed {
        /// Which.
        snapshot: SnapshotMeta,
    },
    /// The host saw that a peer cannot be reached, or that messages to it were dropped.
    PeerUnreachable {
        /// Which.
        peer: NodeId,
    },
    /// The node is going down: a leader hands over to the best follower if it can, and everything
    /// pending is answered.
    Shutdown,
}

/// One thing to append.
#[derive(Clone, Debug)]
pub struct Proposal {
    /// Names the request.
    pub token: Token,
    /// Refuse unless this is the term (braft's `Task.expected_term`).
    pub expected_term: Option<Term>,
    /// Leader's wall clock, nanoseconds since the Unix epoch.
    pub time_ns: u64,
    /// `Command` or `Internal`; a `Configuration` is refused.
    pub kind: EntryKind,
}

/// Who shall lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferTarget {
    /// This voter.
    Node(NodeId),
    /// The voter whose log is furthest (braft's `ANY_PEER`).
    Best,
}

/// How a linearizable read is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadMode {
    /// A round of heartbeats to a quorum (thesis §6.4). Safe with any clock.
    Quorum,
    /// The leader lease if it is valid (thesis §6.4.1), else as `Quorum`. Needs clocks whose rates
    /// differ by no more than the configured drift.
    Lease,
}

/// Why entries could not be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// They are compacted away.
    Compacted,
    /// They are damaged or the disk failed. The replica must not lead.
    Damaged,
}
