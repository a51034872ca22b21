//! Identifiers and positions. Each is a newtype so that a term cannot stand where an index is meant.

use core::fmt;
use core::time::Duration;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// One Raft group. Drawn at random when the group is created, never reused, so a replica of a
    /// deleted group cannot speak to its successor of the same name.
    GroupId
}
id! {
    /// One node, that is one data directory. Drawn at random when the directory is made, so a node
    /// whose disk was wiped comes back as a stranger and cannot vote twice.
    NodeId
}
id! {
    /// An election term (Raft §5.1). Zero only before the first election.
    Term
}
id! {
    /// A position in the log; the first entry is 1, and 0 means "before the log".
    LogIndex
}
id! {
    /// Names one request of the host; comes back in the effect that answers it.
    Token
}
id! {
    /// Names one [`Effect::ReadEntries`](crate::Effect::ReadEntries).
    ReadId
}

impl Term {
    /// The term after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl LogIndex {
    /// The index after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The index before this one; 0 stays 0.
    #[must_use]
    pub fn prev(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

/// Position and term of an entry. The order is Raft's "at least as up to date" (§5.4.1): term
/// first, then index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// Term in which the entry was created.
    pub term: Term,
    /// Its position.
    pub index: LogIndex,
}

impl LogId {
    /// Joins a term and an index.
    #[must_use]
    pub const fn new(term: Term, index: LogIndex) -> Self {
        Self { term, index }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

/// Names one write to stable storage. An acknowledgement names the write, never only an index, so a
/// late completion cannot vouch for entries that were truncated and written anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IoId {
    /// Rises by one with every write of this replica since it was opened. Orders the writes.
    pub sequence: u64,
    /// Term of the leader whose entries the write holds.
    pub leader_term: Term,
    /// Last log index after the write.
    pub last_index: LogIndex,
}

/// A moment on the host's monotonic clock, in microseconds since a moment of the host's choice.
/// Never wall time: a lease on a clock that can be set is no lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(pub u64);

impl Instant {
    /// This moment plus `d`, rounded down to a microsecond; saturates.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(
            self.0
                .saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)),
        )
    }

    /// This moment less `d`, rounded down to a microsecond; not before the clock's beginning.
    #[must_use]
    pub fn before(self, d: Duration) -> Self {
        let micros = d.as_nanos().div_ceil(1_000);
        Self(
            self.0
                .saturating_sub(u64::try_from(micros).unwrap_or(u64::MAX)),
        )
    }

    /// Time from `earlier` to this moment, zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}
