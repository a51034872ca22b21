//! The on-disk encoding of entries and state records, format 1.
//!
//! Every value in the database is a **record**: one byte of version, a CRC-32C, and a body. The
//! checksum also covers the column family and the key under which the record is stored, so a
//! record that turns up under another key (a misdirected write, a mixed-up file) is damage and not
//! data. Integers are little-endian; only keys are big-endian, because they must sort.
//!
//! ```text
//! record         version u8 = 1 | crc u32 | body
//!                crc = CRC-32C(family u8 | key | version | body)
//! entry          term u64 | index u64 | time_ns u64 | kind u8 | length u32 | content
//! content        kind 0 command: the payload
//!                kind 1 configuration: see below
//!                kind 2 internal: tag u8 | payload
//! configuration  joint u8 (0, 1) | member set | member set being left, if joint
//! member set     voters u32 | that many u64, ascending | learners u32 | that many u64, ascending
//! ```
//!
//! Decoders never panic, and never allocate more than their input is long.

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, Digest};
use kontiki_raft::{Configuration, Entry, EntryKind, LogId, LogIndex, MemberSet, NodeId, Term};
use std::collections::BTreeSet;

/// Version written at the front of every record.
pub const RECORD_VERSION: u8 = 1;
/// Bytes of a record before its body.
pub const RECORD_HEADER_SIZE_BYTES: usize = 5;

const KIND_COMMAND: u8 = 0;
const KIND_CONFIGURATION: u8 = 1;
const KIND_INTERNAL: u8 = 2;

/// Why bytes are no valid record or body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// It ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Bytes are left over at the end.
    #[error("it has {0} bytes too many")]
    TrailingBytes(usize),
    /// The checksum does not fit.
    #[error("its checksum is wrong")]
    Checksum,
    /// A newer version wrote it, or the first byte is damaged.
    #[error("its version is {0}, known is {RECORD_VERSION}")]
    Version(u8),
    /// A field has a value it cannot have.
    #[error("its {0} is invalid")]
    Invalid(&'static str),
}

/// Where a record is stored; part of its checksum.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Tag of the column family.
    pub family: u8,
    /// The whole key.
    pub key: &'a [u8],
}

/// Appends the record of `body` to `out`, where `body` writes the body.
pub fn encode_record(place: Place<'_>, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[RECORD_VERSION, 0, 0, 0, 0]);
    body(out);
    let body_start = start + RECORD_HEADER_SIZE_BYTES;
    let crc = checksum(place, RECORD_VERSION, &out[body_start..]);
    out[start + 1..body_start].copy_from_slice(&crc.to_le_bytes());
}

/// Verifies a record and gives its body.
///
/// # Errors
/// `Truncated`, `Version` or `Checksum`.
pub fn decode_record<'a>(place: Place<'_>, record: &'a [u8]) -> Result<&'a [u8], CodecError> {
    let mut reader = Reader(record);
    let version = reader.u8()?;
    if version != RECORD_VERSION {
        return Err(CodecError::Version(version));
    }
    let crc = reader.u32()?;
    if crc != checksum(place, version, reader.0) {
        return Err(CodecError::Checksum);
    }
    Ok(reader.0)
}

fn checksum(place: Place<'_>, version: u8, body: &[u8]) -> u32 {
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&[place.family]);
    digest.update(place.key);
    digest.update(&[version]);
    digest.update(body);
    low_32_bits(digest.finalize())
}

/// The 32-bit algorithms of `crc-fast` give their result in the low half of a `u64`.
fn low_32_bits(crc: u64) -> u32 {
    u32::try_from(crc & 0xffff_ffff).expect("masked to 32 bits")
}

/// CRC-32C of `bytes`, as used for whole files.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    low_32_bits(crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes))
}

/// Appends an entry's body.
pub fn encode_entry(entry: &Entry, out: &mut Vec<u8>) {
    encode_log_id(entry.id, out);
    out.extend_from_slice(&entry.time_ns.to_le_bytes());
    match &entry.kind {
        EntryKind::Command(payload) => {
            out.push(KIND_COMMAND);
            encode_content(out, |out| out.extend_from_slice(payload));
        }
        EntryKind::Configuration(configuration) => {
            out.push(KIND_CONFIGURATION);
            encode_content(out, |out| encode_configuration(configuration, out));
        }
        EntryKind::Internal { tag, payload } => {
            out.push(KIND_INTERNAL);
            encode_content(out, |out| {
                out.push(*tag);
                out.extend_from_slice(payload);
            });
        }
    }
}

/// Writes the length of what `content` appends, then the content.
fn encode_content(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    content(out);
    let length = count_u32(out.len() - length_at - 4);
    out[length_at..length_at + 4].copy_from_slice(&length);
}

/// Decodes an entry's body.
///
/// # Errors
/// Any [`CodecError`] but `Checksum` and `Version`.
pub fn decode_entry(body: &[u8]) -> Result<Entry, CodecError> {
    let mut reader = Reader(body);
    let id = reader.log_id()?;
    let time_ns = reader.u64()?;
    let kind = reader.u8()?;
    let length = reader.count(1)?;
    let mut content = Reader(reader.take(length)?);
    reader.end()?;
    let kind = match kind {
        KIND_COMMAND => EntryKind::Command(content.rest()),
        KIND_CONFIGURATION => EntryKind::Configuration(decode_configuration(content.0)?.into()),
        KIND_INTERNAL => EntryKind::Internal {
            tag: content.u8()?,
            payload: content.rest(),
        },
        _ => return Err(CodecError::Invalid("kind")),
    };
    Ok(Entry { id, time_ns, kind })
}

/// Appends a configuration.
pub fn encode_configuration(configuration: &Configuration, out: &mut Vec<u8>) {
    out.push(u8::from(configuration.is_joint()));
    encode_member_set(&configuration.current, out);
    if let Some(old) = &configuration.old {
        encode_member_set(old, out);
    }
}

/// Decodes a configuration that fills `body`.
///
/// # Errors
/// Any [`CodecError`] but `Checksum` and `Version`.
pub fn decode_configuration(body: &[u8]) -> Result<Configuration, CodecError> {
    let mut reader = Reader(body);
    let joint = reader.bool("joint flag")?;
    let current = reader.member_set()?;
    let old = if joint {
        Some(reader.member_set()?)
    } else {
        None
    };
    reader.end()?;
    Ok(Configuration { current, old })
}

fn encode_member_set(set: &MemberSet, out: &mut Vec<u8>) {
    for nodes in [&set.voters, &set.learners] {
        out.extend_from_slice(&count_u32(nodes.len()));
        for node in nodes {
            out.extend_from_slice(&node.0.to_le_bytes());
        }
    }
}

/// Lengths fit 32 bits: entries and member sets are limited far below 4 GiB before they get here.
fn count_u32(count: usize) -> [u8; 4] {
    u32::try_from(count)
        .expect("entries and member sets are far below 4 GiB")
        .to_le_bytes()
}

pub(crate) fn encode_log_id(id: LogId, out: &mut Vec<u8>) {
    out.extend_from_slice(&id.term.0.to_le_bytes());
    out.extend_from_slice(&id.index.0.to_le_bytes());
}

/// What is left to decode.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    pub(crate) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(crate) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(crate) fn bool(&mut self, field: &'static str) -> Result<bool, CodecError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CodecError::Invalid(field)),
        }
    }

    pub(crate) fn log_id(&mut self) -> Result<LogId, CodecError> {
        let term = Term(self.u64()?);
        let index = LogIndex(self.u64()?);
        Ok(LogId { term, index })
    }

    /// A count of items of `size_bytes` each, which must still be there.
    fn count(&mut self, size_bytes: usize) -> Result<usize, CodecError> {
        let count = usize::try_from(self.u32()?).map_err(|_| CodecError::Truncated)?;
        match count.checked_mul(size_bytes) {
            Some(needed) if needed <= self.0.len() => Ok(count),
            _ => Err(CodecError::Truncated),
        }
    }

    fn rest(&mut self) -> Bytes {
        Bytes::copy_from_slice(std::mem::take(&mut self.0))
    }

    pub(crate) fn end(&self) -> Result<(), CodecError> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(CodecError::TrailingBytes(left)),
        }
    }

    fn member_set(&mut self) -> Result<MemberSet, CodecError> {
        let voters = self.nodes()?;
        let learners = self.nodes()?;
        if voters.intersection(&learners).next().is_some() {
            return Err(CodecError::Invalid("member set: voter and learner"));
        }
        Ok(MemberSet { voters, learners })
    }

    fn nodes(&mut self) -> Result<BTreeSet<NodeId>, CodecError> {
        let count = self.count(8)?;
        let mut nodes = BTreeSet::new();
        for _ in 0..count {
            let node = NodeId(self.u64()?);
            if nodes.last().is_some_and(|last| *last >= node) {
                return Err(CodecError::Invalid("member set: order"));
            }
            nodes.insert(node);
        }
        Ok(nodes)
    }
}
