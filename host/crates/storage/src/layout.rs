//! Which key holds what.
//!
//! ```text
//! log    group u64 BE | index u64 BE                 entry
//! state  group u64 BE | 0                            group record (body opaque)
//! state  group u64 BE | 1                            hard state: term u64 | voted u8 | node u64
//! state  group u64 BE | 2                            bounds: entry before the log, last entry
//! state  group u64 BE | 3                            forced configuration: index u64 | configuration
//! state  group u64 BE | 4 | index u64 BE             term of the run that begins at index
//! state  group u64 BE | 5 | index u64 BE             configuration entry at index
//! state  group u64 BE | 6                            longest span promised: microseconds u64
//! state  group u64 BE | 7                            this replica's own record (body opaque)
//! node   any text                                    node record (body opaque)
//! ```
//!
//! Kinds 4 and 5 repeat what the log says, so that opening a group need not read its log; they
//! are written in the same batch as the entries they describe.

use crate::codec::{
    CodecError, Place, Reader, decode_configuration, decode_record, encode_configuration,
    encode_log_id,
};
use crate::engine::Family;
use kontiki_raft::{Configuration, GroupId, HardState, LogId, LogIndex, NodeId, Term};
use std::time::Duration;

/// Kinds of records in the `state` family; the byte after the group in the key.
pub(crate) const GROUP_RECORD: u8 = 0;
pub(crate) const HARD_STATE: u8 = 1;
pub(crate) const BOUNDS: u8 = 2;
pub(crate) const FORCED_CONFIGURATION: u8 = 3;
pub(crate) const TERM_START: u8 = 4;
pub(crate) const CONFIGURATION: u8 = 5;
pub(crate) const PROMISED_SPAN: u8 = 6;
pub(crate) const OWN_RECORD: u8 = 7;

/// Key of an entry.
pub(crate) fn log_key(group: GroupId, index: LogIndex) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key[8..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// The index in an entry's key.
pub(crate) fn log_key_index(key: &[u8]) -> Option<LogIndex> {
    let index = key.get(8..)?.try_into().ok()?;
    Some(LogIndex(u64::from_be_bytes(index)))
}

/// Key of a state record of which a group has one.
pub(crate) fn state_key(group: GroupId, kind: u8) -> [u8; 9] {
    let mut key = [kind; 9];
    key[..8].copy_from_slice(&group.0.to_be_bytes());
    key
}

/// Key of a state record of which a group has many.
pub(crate) fn indexed_state_key(group: GroupId, kind: u8, index: LogIndex) -> [u8; 17] {
    let mut key = [0; 17];
    key[..9].copy_from_slice(&state_key(group, kind));
    key[9..].copy_from_slice(&index.0.to_be_bytes());
    key
}

/// A key of the `state` family, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StateKey {
    pub(crate) group: GroupId,
    pub(crate) kind: u8,
    pub(crate) index: Option<LogIndex>,
}

impl StateKey {
    pub(crate) fn parse(key: &[u8]) -> Option<Self> {
        let (group, rest) = key.split_first_chunk()?;
        let (kind, index) = rest.split_first()?;
        let index = match index.len() {
            0 => None,
            _ => Some(LogIndex(u64::from_be_bytes(index.try_into().ok()?))),
        };
        Some(Self {
            group: GroupId(u64::from_be_bytes(*group)),
            kind: *kind,
            index,
        })
    }
}

/// First and last entry position of a group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The entry before the first.
    pub(crate) log_start: LogId,
    /// The last entry, equal to `log_start` if there is none.
    pub(crate) last: LogId,
}

pub(crate) fn encode_bounds(bounds: Bounds, out: &mut Vec<u8>) {
    encode_log_id(bounds.log_start, out);
    encode_log_id(bounds.last, out);
}

pub(crate) fn decode_bounds(body: &[u8]) -> Result<Bounds, CodecError> {
    let mut reader = Reader(body);
    let log_start = reader.log_id()?;
    let last = reader.log_id()?;
    reader.end()?;
    if last.index < log_start.index || last.term < log_start.term {
        return Err(CodecError::Invalid("log bounds"));
    }
    Ok(Bounds { log_start, last })
}

pub(crate) fn encode_hard_state(state: HardState, out: &mut Vec<u8>) {
    out.extend_from_slice(&state.term.0.to_le_bytes());
    out.push(u8::from(state.voted_for.is_some()));
    let node = state.voted_for.unwrap_or_default();
    out.extend_from_slice(&node.0.to_le_bytes());
}

pub(crate) fn decode_hard_state(body: &[u8]) -> Result<HardState, CodecError> {
    let mut reader = Reader(body);
    let term = Term(reader.u64()?);
    let voted = reader.bool("vote flag")?;
    let node = NodeId(reader.u64()?);
    reader.end()?;
    let voted_for = voted.then_some(node);
    Ok(HardState { term, voted_for })
}

pub(crate) fn encode_forced(index: LogIndex, configuration: &Configuration, out: &mut Vec<u8>) {
    out.extend_from_slice(&index.0.to_le_bytes());
    encode_configuration(configuration, out);
}

pub(crate) fn decode_forced(body: &[u8]) -> Result<(LogIndex, Configuration), CodecError> {
    let mut reader = Reader(body);
    let index = LogIndex(reader.u64()?);
    Ok((index, decode_configuration(reader.0)?))
}

/// Spans that a core promises are far below what microseconds in 64 bits hold.
pub(crate) fn encode_span(span: Duration, out: &mut Vec<u8>) {
    let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
    out.extend_from_slice(&micros.to_le_bytes());
}

pub(crate) fn decode_span(body: &[u8]) -> Result<Duration, CodecError> {
    let mut reader = Reader(body);
    let micros = reader.u64()?;
    reader.end()?;
    Ok(Duration::from_micros(micros))
}

pub(crate) fn decode_term(body: &[u8]) -> Result<Term, CodecError> {
    let mut reader = Reader(body);
    let term = Term(reader.u64()?);
    reader.end()?;
    Ok(term)
}

/// Verifies the record stored under `key` and gives its body.
pub(crate) fn open_record<'a>(
    family: Family,
    key: &[u8],
    record: &'a [u8],
) -> Result<&'a [u8], CodecError> {
    let family = family.tag();
    decode_record(Place { family, key }, record)
}
