//! Log entries.

use crate::{Configuration, LogId};
use alloc::boxed::Box;
use bytes::Bytes;

/// One entry of the replicated log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Position and term.
    pub id: LogId,
    /// Leader's wall clock when it was proposed, in nanoseconds since the Unix epoch; zero for the
    /// core's own entries. The core copies it and never looks at it; the apply layer makes it
    /// monotonic.
    pub time_ns: u64,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A client's command, opaque here.
    Command(Bytes),
    /// Membership from this index on (effective at append). Also the first entry of every term.
    /// Boxed, since it is rare and would make every entry twice as large.
    Configuration(Box<Configuration>),
    /// An order of the host to itself that travels in the log (skip a poisoned entry, upgrade a
    /// plugin). Opaque here; `tag` tells the host which.
    Internal {
        /// Kind of order, defined by the host.
        tag: u8,
        /// Its body.
        payload: Bytes,
    },
}

impl Entry {
    /// Bytes this entry counts against size limits: its payload plus a fixed overhead of 32.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        32 + match &self.kind {
            EntryKind::Command(bytes) | EntryKind::Internal { payload: bytes, .. } => bytes.len(),
            EntryKind::Configuration(configuration) => configuration.size_bytes(),
        }
    }
}
