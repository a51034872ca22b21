//! The ordered key-value store underneath: what RocksDB and memory have in common.

use crate::codec::{Place, encode_record};
use crate::error::StorageError;
use std::ops::{ControlFlow, Range, RangeInclusive};

/// A column family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Entries of all groups.
    Log,
    /// Registry and state of all groups.
    State,
    /// Records of the node itself.
    Node,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::Log, Self::State, Self::Node];

    /// Its name in the database.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::State => "state",
            Self::Node => "node",
        }
    }

    /// Its byte in checksums: part of the disk format.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::Log => b'l',
            Self::State => b's',
            Self::Node => b'n',
        }
    }
}

/// Called for each key and value of a scan; may stop it.
pub(crate) type Visit<'a> =
    &'a mut dyn FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, StorageError>;

/// First and last key of a file.
pub(crate) type Span = RangeInclusive<Vec<u8>>;

/// An ordered key-value store with atomic batches.
pub(crate) trait Engine: Send + Sync {
    /// Carries out the batch atomically; durable on return (as far as the engine can).
    fn write(&self, batch: &Batch) -> Result<(), StorageError>;
    /// Reads one value.
    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;
    /// Visits the keys of `range`, ascending, as of one moment.
    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError>;
    /// As `scan`, descending.
    fn scan_back(
        &self,
        family: Family,
        range: Range<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError>;
    /// About how many bytes of files the keys of `range` take.
    fn range_size_bytes(&self, family: Family, range: Range<&[u8]>) -> u64;
    /// Files that hold keys of `range` only and can be removed whole.
    fn files_within(&self, family: Family, range: Range<&[u8]>) -> Result<Vec<Span>, StorageError>;
    /// Removes the files that hold keys of `span` only. What was deleted may come to light again
    /// in their place: only for keys nobody will look at.
    fn remove_file(&self, family: Family, span: &Span) -> Result<(), StorageError>;
    /// Bytes it takes where it is stored.
    fn size_bytes(&self) -> Result<u64, StorageError>;
    /// Where it is, for messages.
    fn path(&self) -> &std::path::Path;
}

/// One change of a [`Batch`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// Store `value` under `key`.
    Put { key: &'a [u8], value: &'a [u8] },
    /// Remove `key`.
    Delete { key: &'a [u8] },
    /// Remove every key from `from` up to but not including `to`.
    DeleteRange { from: &'a [u8], to: &'a [u8] },
}

#[derive(Clone, Debug)]
struct Op {
    family: Family,
    kind: OpKind,
    /// Ends of the two byte strings in `Batch::bytes`; the first begins where the last op ended.
    middle: usize,
    end: usize,
}

#[derive(Clone, Copy, Debug)]
enum OpKind {
    Put,
    Delete,
    DeleteRange,
}

/// Changes to be made together, in order. All bytes lie in one buffer that is used again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    ops: Vec<Op>,
    bytes: Vec<u8>,
}

impl Batch {
    /// Stores a record under `key`, with its version and checksum; `body` writes the body.
    pub(crate) fn put(&mut self, family: Family, key: &[u8], body: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend_from_slice(key);
        let middle = self.bytes.len();
        let place = Place {
            family: family.tag(),
            key,
        };
        encode_record(place, &mut self.bytes, body);
        self.push(family, OpKind::Put, middle);
    }

    /// Removes `key`.
    pub(crate) fn delete(&mut self, family: Family, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.push(family, OpKind::Delete, self.bytes.len());
    }

    /// Removes every key from `from` up to but not including `to`.
    pub(crate) fn delete_range(&mut self, family: Family, from: &[u8], to: &[u8]) {
        self.bytes.extend_from_slice(from);
        let middle = self.bytes.len();
        self.bytes.extend_from_slice(to);
        self.push(family, OpKind::DeleteRange, middle);
    }

    fn push(&mut self, family: Family, kind: OpKind, middle: usize) {
        let end = self.bytes.len();
        self.ops.push(Op {
            family,
            kind,
            middle,
            end,
        });
    }

    /// The changes, in order.
    pub(crate) fn changes(&self) -> impl Iterator<Item = (Family, Change<'_>)> {
        let mut start = 0;
        self.ops.iter().map(move |op| {
            let first = &self.bytes[start..op.middle];
            let second = &self.bytes[op.middle..op.end];
            start = op.end;
            let change = match op.kind {
                OpKind::Put => Change::Put {
                    key: first,
                    value: second,
                },
                OpKind::Delete => Change::Delete { key: first },
                OpKind::DeleteRange => Change::DeleteRange {
                    from: first,
                    to: second,
                },
            };
            (op.family, change)
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Bytes of all keys and values.
    pub(crate) fn size_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties the batch. Keeps the buffer for the next one, unless it grew out of proportion.
    pub(crate) fn clear(&mut self) {
        const KEEP_SIZE_BYTES_MAX: usize = 16 << 20;
        self.ops.clear();
        self.bytes.clear();
        self.bytes.shrink_to(KEEP_SIZE_BYTES_MAX);
    }
}
