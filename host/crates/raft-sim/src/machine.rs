//! The replicated state machine of the simulation: a few registers and a hash chain over
//! everything applied, so that equal chains mean equal histories.

use crate::members::Members;
use crate::random::mix;
use bytes::Bytes;
use kontiki_raft::{Entry, EntryKind, LogId, LogIndex, Term};

/// Registers that clients write and read.
pub const KEYS: usize = 8;

/// A client's write: unique by its token, which is also the value it writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Token of the proposal.
    pub token: u64,
    /// Register written.
    pub key: u8,
}

impl Write {
    /// The payload of the command, at least 9 bytes.
    #[must_use]
    pub fn encode(self, size_bytes: usize) -> Bytes {
        let mut payload = vec![0; size_bytes.max(9)];
        payload[..8].copy_from_slice(&self.token.to_le_bytes());
        payload[8] = self.key;
        Bytes::from(payload)
    }

    /// Reads a payload back; none if it is not one of ours.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<Self> {
        let token = u64::from_le_bytes(payload.get(..8)?.try_into().ok()?);
        let key = *payload.get(8)?;
        (usize::from(key) < KEYS).then_some(Self { token, key })
    }
}

/// A word that names the content of an entry, its position aside.
#[must_use]
pub fn fingerprint(entry: &Entry) -> u64 {
    let content = match &entry.kind {
        EntryKind::Command(payload) => {
            let head = Write::decode(payload).map_or(0, |w| w.token << 4 | u64::from(w.key));
            mix(head) ^ payload.len() as u64
        }
        EntryKind::Configuration(configuration) => Members::of(configuration).fingerprint() ^ 1,
        EntryKind::Internal { tag, payload } => {
            mix(u64::from(*tag) << 32 | payload.len() as u64) ^ 2
        }
    };
    mix(content ^ entry.time_ns.rotate_left(20))
}

/// State after applying a prefix of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Last entry applied.
    pub applied: LogId,
    /// Hash over all entries applied, in order.
    pub chain: u64,
    /// Values of the registers: token of the last write, zero if never written.
    pub registers: [u64; KEYS],
    /// Configuration at the last entry applied.
    pub members: Members,
}

impl Machine {
    /// A machine that has applied nothing in a group with these members.
    #[must_use]
    pub fn new(members: Members) -> Self {
        Self {
            members,
            ..Self::default()
        }
    }

    /// Applies the next entry.
    pub fn apply(&mut self, entry: &Entry) {
        debug_assert_eq!(entry.id.index, self.applied.index.next());
        self.applied = entry.id;
        self.chain = mix(self.chain ^ fingerprint(entry).wrapping_add(entry.id.term.0));
        match &entry.kind {
            EntryKind::Command(payload) => {
                if let Some(write) = Write::decode(payload) {
                    self.registers[usize::from(write.key)] = write.token;
                }
            }
            EntryKind::Configuration(configuration) => self.members = Members::of(configuration),
            EntryKind::Internal { .. } => {}
        }
    }

    /// Index of the last entry applied.
    #[must_use]
    pub fn index(&self) -> LogIndex {
        self.applied.index
    }

    /// Term of the last entry applied.
    #[must_use]
    pub fn term(&self) -> Term {
        self.applied.term
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(term: u64, index: u64, token: u64, key: u8) -> Entry {
        Entry {
            id: LogId::new(Term(term), LogIndex(index)),
            time_ns: 5,
            kind: EntryKind::Command(Write { token, key }.encode(20)),
        }
    }

    #[test]
    fn a_write_survives_its_encoding() {
        let write = Write { token: 77, key: 3 };
        assert_eq!(Write::decode(&write.encode(64)), Some(write));
        assert_eq!(Write::decode(b"short"), None);
        assert_eq!(Write::decode(&[255; 9]), None, "no such register");
    }

    #[test]
    fn equal_chains_mean_equal_histories() {
        let run = |entries: &[Entry]| {
            let mut machine = Machine::default();
            entries.iter().for_each(|entry| machine.apply(entry));
            machine
        };
        let a = [command(1, 1, 10, 0), command(1, 2, 11, 1)];
        let b = [command(1, 1, 11, 1), command(1, 2, 10, 0)];
        let c = [command(1, 1, 10, 0), command(2, 2, 11, 1)];
        assert_eq!(run(&a), run(&a));
        assert_eq!(run(&a).registers, run(&b).registers);
        assert_ne!(run(&a).chain, run(&b).chain, "order counts");
        assert_ne!(run(&a).chain, run(&c).chain, "terms count");
    }
}
