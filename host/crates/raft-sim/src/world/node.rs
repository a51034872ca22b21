//! One simulated machine: a core, its clock, its disk, its state machine.

use super::Happening;
use crate::clock::Clock;
use crate::disk::{Disk, Snapshot};
use crate::machine::Machine;
use kontiki_raft::{ApplyBatch, Core, LogIndex, MemberSet, NodeId, SnapshotMeta, Term};
use std::collections::VecDeque;

/// Something for the state machine to do, in order.
#[derive(Debug)]
pub(super) enum Task {
    /// Apply committed entries.
    Apply(ApplyBatch),
    /// Load a fetched snapshot.
    Load(Snapshot),
}

/// A snapshot being fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    pub(super) number: u64,
    pub(super) from: usize,
    pub(super) meta: SnapshotMeta,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// None while the process is down.
    pub(super) core: Option<Core>,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    pub(super) machine: Machine,
    /// Counts openings; what belongs to an earlier one is ignored.
    pub(super) incarnation: u32,
    pub(super) paused: bool,
    /// Disk destroyed: never comes back.
    pub(super) wiped: bool,
    /// The node that took its place in the rack, under another id.
    pub(super) replaced_by: Option<usize>,
    /// The core said it has stopped, or was told to: it must be opened anew.
    pub(super) stopped: bool,
    /// What happened to it while it was paused.
    pub(super) held: Vec<Happening>,
    pub(super) initial: MemberSet,
    pub(super) tasks: VecDeque<Task>,
    pub(super) working: bool,
    pub(super) apply_fails: bool,
    pub(super) apply_slow: bool,
    /// Confirmed reads that wait for their index: (index, token).
    pub(super) reads: Vec<(LogIndex, u64)>,
    /// Reads asked of its core, by the host or by a peer, and not answered; an upper bound, since an
    /// answer may be lost before it leaves.
    pub(super) reads_open: u64,
    pub(super) saving: Option<Snapshot>,
    pub(super) fetch: Option<Fetch>,
    pub(super) fetches: u64,
    pub(super) snapshot_index: LogIndex,
    pub(super) stalled_until: u64,
    pub(super) fail_next_write: bool,
    /// Election timeout in force, for the liveness phase.
    pub(super) timeout_us: u64,
    /// The longest span it was ever set to promise a leader.
    pub(super) promised_us: u64,
    /// Until when, at least, the leader of this term may count on what it was promised.
    pub(super) counted_on: (Term, u64),
    /// Set by an operator; survives restarts.
    pub(super) priority: u32,
    /// Set by an operator; survives restarts.
    pub(super) drained: bool,
}

impl Node {
    pub(super) fn new(id: NodeId, clock: Clock, initial: MemberSet, timeout_us: u64) -> Self {
        let members = crate::members::Members::stable(crate::members::Set::of(&initial));
        Self {
            id,
            core: None,
            clock,
            disk: Disk::default(),
            machine: Machine::new(members),
            incarnation: 0,
            paused: false,
            wiped: false,
            replaced_by: None,
            stopped: false,
            held: Vec::new(),
            initial,
            tasks: VecDeque::new(),
            working: false,
            apply_fails: false,
            apply_slow: false,
            reads: Vec::new(),
            reads_open: 0,
            saving: None,
            fetch: None,
            fetches: 0,
            snapshot_index: LogIndex(0),
            stalled_until: 0,
            fail_next_write: false,
            timeout_us,
            promised_us: 0,
            counted_on: (Term(0), 0),
            priority: 100,
            drained: false,
        }
    }

    /// What candidates are compared by.
    pub(super) fn rank(&self) -> u32 {
        if self.drained { 0 } else { self.priority }
    }

    /// Whether its process runs, be it stopped for a while.
    pub(super) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    /// Whether it runs and does its work.
    pub(super) fn is_well(&self) -> bool {
        self.is_up() && !self.paused && !self.stopped && !self.disk.is_failed()
    }
}
