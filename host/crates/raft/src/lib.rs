//! The Raft protocol as a pure state machine.
//!
//! [`Core`] holds one replica of one group. It owns no clock, thread, file, socket or source of
//! randomness: everything that happens to it is an [`Input`], everything it wants done is an
//! [`Effect`], and the same inputs in the same order give the same effects.
//!
//! # Order of effects
//!
//! Effects are carried out in the order they were pushed. What must wait for the disk is held back
//! *inside* the core: a vote, an append acknowledgement or a vote request appears as an
//! [`Effect::Send`] only after the [`Input::Persisted`] of the write it depends on. A host
//! therefore cannot send too early. What need not wait (a leader's `AppendEntries` runs in parallel
//! with its own disk write) appears at once.
//!
//! Writes of one group form one ordered stream. `Persisted { io }` means that write *and every
//! earlier one of this group* is durable, so a lost completion is made good by the next.
//!
//! # Rules chosen where implementations differ
//!
//! - A configuration governs from the moment its entry is *appended*, and the one of the leader's
//!   latest append decides every commit (the paper's rule; braft counts each entry under the
//!   configuration it was appended under).
//! - The first entry of every term is a configuration entry. Membership changes, `LeaderStarted`,
//!   leases and reads wait until it is committed.
//! - Commit may run ahead of the local disk, apply may not: a state machine is never ahead of its
//!   own log after a crash. Nothing is applied while a snapshot is being fetched.
//! - Elections always begin with a pre-vote, and whoever knows a live leader, the leader included,
//!   refuses, unless the election was ordered by that leader or an operator.
//! - A node that votes in no configuration that may be in force does not campaign, but every node
//!   answers vote requests.
//! - A leader hands over to a voter of higher priority that keeps up; equal priorities never move it.
//!   A drained member leads only where nobody else does, or when it is named.
//! - A read-only majority of either set makes the leader read-only.
//! - Messages that no honest peer sends change nothing; those that contradict committed entries
//!   are reported as [`Event::Conflict`].

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod append;
mod commit;
mod configuration;
mod core;
mod disk;
#[cfg(test)]
mod edge_tests;
mod effect;
mod election;
mod entry;
mod following;
#[cfg(test)]
mod fuzz;
mod guard;
mod history;
mod horizon;
mod ids;
mod input;
mod leader;
mod leading;
mod lease;
mod log;
mod membership;
mod message;
mod open;
mod pace;
mod planted;
mod progress;
#[cfg(test)]
mod promises;
mod proposal;
mod quorum;
mod random;
mod read_index;
mod read_only;
mod recovery;
mod replication;
mod report;
mod settings;
mod snapshot;
mod standing;
mod status;
mod takeover;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod transfer;

pub use configuration::{Configuration, ConfigurationChange, ConfigurationError, MemberSet};
pub use core::Core;
pub use effect::{ApplyBatch, Effect, Effects, Event, Lag, Persist, RejectReason, StopReason};
pub use entry::{Entry, EntryKind};
pub use horizon::{Horizon, Horizons};
pub use ids::{GroupId, Instant, IoId, LogId, LogIndex, NodeId, ReadId, Term, Token};
pub use input::{Input, Proposal, ReadError, ReadMode, TransferTarget};
pub use message::{
    AppendEntries, AppendEntriesReply, Echo, ElectionTurn, Heartbeat, HeartbeatReply, HorizonNews,
    InstallSnapshot, InstallSnapshotReply, LeasePromise, Message, MessageBody, ReadIndexReply,
    ReadIndexRequest, RequestVote, RequestVoteReply, Standing, TimeoutNow,
};
#[cfg(feature = "planted-bugs")]
pub use planted::PlantedBug;
pub use recovery::{HardState, Recovered, SnapshotMeta, TermStart};
pub use settings::{Settings, SettingsError};
pub use status::{
    Blocked, CatchUp, LeaseStatus, PeerPart, PeerState, PeerStatus, Role, Status, Timer, Timers,
    Traffic, TransferStatus,
};
