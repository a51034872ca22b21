//! Reading a group's log: at start, and when somebody is behind.

use crate::codec::decode_entry;
use crate::engine::{Engine, Family};
use crate::error::StorageError;
use crate::layout::{
    BOUNDS, Bounds, decode_bounds, log_key, log_key_index, open_record, state_key,
};
use crate::log_state::LogState;
use kontiki_raft::{Entry, EntryKind, GroupId, LogIndex, Recovered, TermStart};
use std::ops::ControlFlow;

/// What a group's log and state hold, checked.
///
/// The log is not scanned. Checked are: the state records; that the first entry follows the entry
/// before the log; that the last entry on disk is the one recorded as last, neither fewer nor
/// more; that the tail has no hole; the checksum of each entry of the tail; and that the recorded
/// terms and configurations are those of the tail's entries. Entries before the tail are checked
/// when they are read.
///
/// # Errors
/// `Damaged` if one of the checks fails: a log is never shortened to fit.
pub(crate) fn recover(
    engine: &dyn Engine,
    group: GroupId,
    tail_size_bytes_max: usize,
) -> Result<Recovered, StorageError> {
    let state = LogState::load(engine, group)?.ok_or(StorageError::UnknownGroup { group })?;
    check_indexes(group, &state)?;
    check_first(engine, group, &state)?;
    let tail = read_tail(engine, group, &state, tail_size_bytes_max)?;
    let Bounds { log_start, last } = state.bounds;
    Ok(Recovered {
        hard_state: state.hard_state,
        log_start,
        last,
        terms: clip_terms(state.terms, log_start.index),
        configurations: state.configurations.into_iter().collect(),
        forced_configuration: state.forced,
        promised_span: state.promised_span,
        tail,
        ..Recovered::default()
    })
}

/// The first run may begin before the log does.
fn clip_terms(mut terms: Vec<TermStart>, log_start: LogIndex) -> Vec<TermStart> {
    if let Some(first) = terms.first_mut() {
        first.index = first.index.max(log_start.next());
    }
    terms
}

/// Whether term starts and configurations fit the bounds.
fn check_indexes(group: GroupId, state: &LogState) -> Result<(), StorageError> {
    let Bounds { log_start, last } = state.bounds;
    let damaged = |index, why| Err(StorageError::damaged(group, Some(index), why));
    let empty = last.index == log_start.index;
    if let Some(first) = state.terms.first()
        && empty
    {
        return damaged(first.index, "a term is recorded for an empty log");
    }
    let covered = state
        .terms
        .first()
        .is_some_and(|run| run.index <= log_start.index.next());
    if !empty && !covered {
        return damaged(log_start.index.next(), "its term is not recorded");
    }
    for pair in state.terms.windows(2) {
        if pair[0].term >= pair[1].term || pair[1].index <= log_start.index.next() {
            return damaged(pair[1].index, "the recorded terms are out of order");
        }
    }
    if let Some(run) = state.terms.last()
        && (run.index > last.index || run.term != last.term)
    {
        return damaged(run.index, "the recorded terms do not fit the last entry");
    }
    let outside = |index: &&LogIndex| **index <= log_start.index || **index > last.index;
    match state.configurations.keys().find(outside) {
        Some(index) => damaged(*index, "a configuration is recorded outside the log"),
        None => Ok(()),
    }
}

/// Whether the first entry on disk is the one after `log_start`.
fn check_first(engine: &dyn Engine, group: GroupId, state: &LogState) -> Result<(), StorageError> {
    let Bounds { log_start, last } = state.bounds;
    if last.index == log_start.index {
        return Ok(());
    }
    let first = log_start.index.next();
    let (from, to) = (log_key(group, first), log_key(group, LogIndex(u64::MAX)));
    let mut found = None;
    engine.scan(Family::Log, &from[..]..&to[..], &mut |key, _| {
        found = log_key_index(key);
        Ok(ControlFlow::Break(()))
    })?;
    match found == Some(first) {
        true => Ok(()),
        false => Err(StorageError::damaged(group, Some(first), "it is missing")),
    }
}

/// Reads back from the end, at least the last entry, and checks each.
fn read_tail(
    engine: &dyn Engine,
    group: GroupId,
    state: &LogState,
    size_bytes_max: usize,
) -> Result<Vec<Entry>, StorageError> {
    let Bounds { log_start, last } = state.bounds;
    let from = log_key(group, log_start.index.next());
    let to = log_key(group, LogIndex(u64::MAX));
    let mut tail = Vec::new();
    let mut size_bytes = 0;
    let mut expected = last.index;
    engine.scan_back(Family::Log, &from[..]..&to[..], &mut |key, record| {
        let found = log_key_index(key);
        if found.is_some_and(|found| found > last.index) {
            let why = "it lies beyond the recorded end of the log";
            return Err(StorageError::damaged(group, found, why));
        }
        if found != Some(expected) {
            return Err(StorageError::damaged(
                group,
                Some(expected),
                "it is missing",
            ));
        }
        let entry = check_entry(group, state, key, record)?;
        size_bytes += entry.size_bytes();
        expected = expected.prev();
        let room = size_bytes <= size_bytes_max;
        if room {
            tail.push(entry);
        }
        Ok(match room {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        })
    })?;
    if last.index > log_start.index && expected == last.index {
        return Err(StorageError::damaged(
            group,
            Some(expected),
            "it is missing",
        ));
    }
    if size_bytes <= size_bytes_max && expected > log_start.index {
        return Err(StorageError::damaged(
            group,
            Some(expected),
            "it is missing",
        ));
    }
    tail.reverse();
    Ok(tail)
}

/// Decodes an entry and compares it with what the state records say of it.
fn check_entry(
    group: GroupId,
    state: &LogState,
    key: &[u8],
    record: &[u8],
) -> Result<Entry, StorageError> {
    let entry = read_entry(group, key, record)?;
    let index = entry.id.index;
    let damaged = |why| Err(StorageError::damaged(group, Some(index), why));
    if state.term_at(index) != Some(entry.id.term) {
        return damaged("its term is not the recorded one");
    }
    let configuration = match &entry.kind {
        EntryKind::Configuration(configuration) => Some(configuration.as_ref()),
        _ => None,
    };
    if configuration != state.configurations.get(&index) {
        return damaged("its configuration is not the recorded one");
    }
    Ok(entry)
}

/// Verifies and decodes one entry.
fn read_entry(group: GroupId, key: &[u8], record: &[u8]) -> Result<Entry, StorageError> {
    let index = log_key_index(key);
    let entry = open_record(Family::Log, key, record)
        .and_then(decode_entry)
        .map_err(|error| StorageError::damaged(group, index, error))?;
    if Some(entry.id.index) != index {
        return Err(StorageError::damaged(group, index, "it has another index"));
    }
    Ok(entry)
}

/// The recorded bounds of a group's log; those of an empty log if nothing was ever written.
pub(crate) fn read_bounds(engine: &dyn Engine, group: GroupId) -> Result<Bounds, StorageError> {
    let key = state_key(group, BOUNDS);
    let Some(record) = engine.read(Family::State, &key)? else {
        return Ok(Bounds::default());
    };
    open_record(Family::State, &key, &record)
        .and_then(decode_bounds)
        .map_err(|error| StorageError::damaged(group, None, error))
}

/// Entries from `first` on, up to `last` or the end of the log, at most `size_bytes_max` but at
/// least one.
///
/// # Errors
/// `Compacted`, `BeyondEnd`, or `Damaged` at the first entry that is missing or does not verify.
pub(crate) fn read_entries(
    engine: &dyn Engine,
    group: GroupId,
    first: LogIndex,
    last: LogIndex,
    size_bytes_max: usize,
) -> Result<Vec<Entry>, StorageError> {
    loop {
        let bounds = read_bounds(engine, group)?;
        check_range(group, bounds, first)?;
        let last = last.min(bounds.last.index).max(first);
        match read_run(engine, group, first, last, size_bytes_max) {
            // Between reading the bounds and the entries the log may have been compacted or
            // truncated; then what looks like damage is only news.
            Err(StorageError::Damaged { .. }) if read_bounds(engine, group)? != bounds => {}
            result => return result,
        }
    }
}

fn check_range(group: GroupId, bounds: Bounds, index: LogIndex) -> Result<(), StorageError> {
    let log_start = bounds.log_start.index;
    let last = bounds.last.index;
    if index <= log_start {
        return Err(StorageError::Compacted {
            group,
            index,
            log_start,
        });
    }
    if index > last {
        return Err(StorageError::BeyondEnd { group, index, last });
    }
    Ok(())
}

fn read_run(
    engine: &dyn Engine,
    group: GroupId,
    first: LogIndex,
    last: LogIndex,
    size_bytes_max: usize,
) -> Result<Vec<Entry>, StorageError> {
    let (from, to) = (log_key(group, first), log_key(group, last.next()));
    let mut entries = Vec::new();
    let mut size_bytes = 0;
    let mut expected = first;
    let mut full = false;
    engine.scan(Family::Log, &from[..]..&to[..], &mut |key, record| {
        if log_key_index(key) != Some(expected) {
            return Ok(ControlFlow::Break(()));
        }
        let entry = read_entry(group, key, record)?;
        size_bytes += entry.size_bytes();
        full = size_bytes > size_bytes_max && !entries.is_empty();
        if full {
            return Ok(ControlFlow::Break(()));
        }
        entries.push(entry);
        expected = expected.next();
        Ok(ControlFlow::Continue(()))
    })?;
    if !full && expected <= last {
        return Err(StorageError::damaged(
            group,
            Some(expected),
            "it is missing",
        ));
    }
    Ok(entries)
}
