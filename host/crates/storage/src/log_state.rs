//! What the writer knows of a group's log and state, and how a write changes it.

use crate::codec::{CodecError, decode_configuration};
use crate::codec::{encode_configuration, encode_entry};
use crate::engine::{Batch, Engine, Family};
use crate::error::StorageError;
use crate::layout::{
    BOUNDS, Bounds, CONFIGURATION, FORCED_CONFIGURATION, HARD_STATE, OWN_RECORD, PROMISED_SPAN,
    StateKey, TERM_START, decode_bounds, decode_forced, decode_hard_state, decode_span,
    decode_term, encode_bounds, encode_forced, encode_hard_state, encode_span, indexed_state_key,
    log_key, open_record, state_key,
};
use kontiki_raft::{
    Configuration, Entry, EntryKind, GroupId, HardState, LogId, LogIndex, Persist, Term, TermStart,
};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::time::Duration;

/// Entries removed one by one when a suffix is truncated; above it, one range delete. A range
/// delete costs every later read of the neighbourhood a little, and a suffix is replaced at the
/// very end of the log, where all reads and writes are; it is normally a few uncommitted entries.
const TRUNCATE_BY_KEY_MAX: u64 = 4096;

/// The state records of one group, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogState {
    pub(crate) hard_state: HardState,
    pub(crate) bounds: Bounds,
    /// Runs of equal terms, ascending; the first may begin before the log does.
    pub(crate) terms: Vec<TermStart>,
    pub(crate) configurations: BTreeMap<LogIndex, Configuration>,
    pub(crate) forced: Option<(LogIndex, Configuration)>,
    pub(crate) promised_span: Option<Duration>,
}

impl LogState {
    /// Reads the state records of a registered group. `None` if it is not registered.
    ///
    /// # Errors
    /// `Damaged`, or what the engine reports.
    pub(crate) fn load(engine: &dyn Engine, group: GroupId) -> Result<Option<Self>, StorageError> {
        let (from, to) = (state_key(group, 0), state_key(group, u8::MAX));
        let mut state = Self::default();
        let mut registered = false;
        engine.scan(Family::State, &from[..]..&to[..], &mut |key, record| {
            let absorbed = state.absorb(key, record, &mut registered);
            absorbed.map_err(|error| damaged_state(group, key, &error))?;
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(registered.then_some(state))
    }

    fn absorb(
        &mut self,
        key: &[u8],
        record: &[u8],
        registered: &mut bool,
    ) -> Result<(), CodecError> {
        let body = open_record(Family::State, key, record)?;
        let key = StateKey::parse(key).ok_or(CodecError::Invalid("key"))?;
        match (key.kind, key.index) {
            (crate::layout::GROUP_RECORD, None) => *registered = true,
            (HARD_STATE, None) => self.hard_state = decode_hard_state(body)?,
            (BOUNDS, None) => self.bounds = decode_bounds(body)?,
            (FORCED_CONFIGURATION, None) => self.forced = Some(decode_forced(body)?),
            (PROMISED_SPAN, None) => self.promised_span = Some(decode_span(body)?),
            // The host's; whoever wants it reads it.
            (OWN_RECORD, None) => {}
            (TERM_START, Some(index)) => {
                let term = decode_term(body)?;
                self.terms.push(TermStart { index, term });
            }
            (CONFIGURATION, Some(index)) => {
                self.configurations
                    .insert(index, decode_configuration(body)?);
            }
            _ => return Err(CodecError::Invalid("key")),
        }
        Ok(())
    }

    /// Term of the entry at `index`, if it is in the log or just before it.
    pub(crate) fn term_at(&self, index: LogIndex) -> Option<Term> {
        let Bounds { log_start, last } = self.bounds;
        if index == log_start.index {
            return Some(log_start.term);
        }
        if index < log_start.index || index > last.index {
            return None;
        }
        let after = self.terms.partition_point(|start| start.index <= index);
        Some(self.terms[..after].last()?.term)
    }

    /// Adds the changes of `write` to the batch and makes them here too. On `Err` nothing changed.
    ///
    /// # Errors
    /// `Refused` if the write contradicts what is stored.
    pub(crate) fn persist(
        &mut self,
        group: GroupId,
        write: &Persist,
        batch: &mut Batch,
    ) -> Result<(), StorageError> {
        self.check(write)
            .map_err(|why| StorageError::Refused { group, why })?;
        let mut change = LogChange {
            state: self,
            group,
            batch,
        };
        if let Some(hard_state) = write.hard_state {
            change.set_hard_state(hard_state);
        }
        if let Some(log_start) = write.reset_log {
            change.reset(log_start);
        }
        if let Some(from) = write.truncate_from {
            change.truncate(from);
        }
        write.entries.iter().for_each(|entry| change.append(entry));
        if let Some((index, configuration)) = &write.forced_configuration {
            change.force_configuration(*index, configuration);
        }
        if let Some(span) = write.promised_span {
            change.set_promised_span(span);
        }
        let log_changed =
            write.reset_log.is_some() || write.truncate_from.is_some() || !write.entries.is_empty();
        if log_changed {
            change.put_bounds();
        }
        Ok(())
    }

    /// Refuses a write that would break what every stored log promises: term and vote never go
    /// back, entries are consecutive, terms never fall, nothing compacted is touched.
    fn check(&self, write: &Persist) -> Result<(), &'static str> {
        if let Some(hard_state) = write.hard_state {
            self.check_hard_state(hard_state)?;
        }
        let bounds = match write.reset_log {
            Some(log_start) => Bounds {
                log_start,
                last: log_start,
            },
            None => self.bounds,
        };
        let last = match write.truncate_from {
            Some(from) => self.check_truncation(bounds, write.reset_log.is_some(), from)?,
            None => bounds.last,
        };
        check_entries(last, &write.entries)
    }

    fn check_hard_state(&self, new: HardState) -> Result<(), &'static str> {
        let old = self.hard_state;
        if new.term < old.term {
            return Err("the term would go back");
        }
        if new.term == old.term && old.voted_for.is_some() && new.voted_for != old.voted_for {
            return Err("the vote would change within a term");
        }
        Ok(())
    }

    /// The last entry after the truncation.
    fn check_truncation(
        &self,
        bounds: Bounds,
        reset: bool,
        from: LogIndex,
    ) -> Result<LogId, &'static str> {
        if from <= bounds.log_start.index {
            return Err("the truncation reaches into the compacted part of the log");
        }
        if from > bounds.last.index.next() {
            return Err("the truncation begins beyond the end of the log");
        }
        if reset {
            return Ok(bounds.last);
        }
        let index = from.prev();
        let term = self.term_at(index).ok_or("the log has no term there")?;
        Ok(LogId { term, index })
    }

    /// Adds the removal of everything up to `upto` to the batch. Nothing happens if it is gone
    /// already.
    ///
    /// # Errors
    /// `Refused` if `upto` is not an entry of this log.
    pub(crate) fn compact(
        &mut self,
        group: GroupId,
        upto: LogId,
        batch: &mut Batch,
    ) -> Result<(), StorageError> {
        if upto.index <= self.bounds.log_start.index {
            return Ok(());
        }
        if self.term_at(upto.index) != Some(upto.term) {
            let why = "the entry to compact up to is not in the log";
            return Err(StorageError::Refused { group, why });
        }
        let mut change = LogChange {
            state: self,
            group,
            batch,
        };
        change.compact(upto);
        change.put_bounds();
        Ok(())
    }
}

fn check_entries(mut last: LogId, entries: &[Entry]) -> Result<(), &'static str> {
    for Entry { id, .. } in entries {
        if last.index.0.checked_add(1) != Some(id.index.0) {
            return Err("the entries do not follow the end of the log");
        }
        if id.term < last.term {
            return Err("the entries' terms fall");
        }
        last = *id;
    }
    Ok(())
}

/// Describes a damaged state record.
fn damaged_state(group: GroupId, key: &[u8], error: &CodecError) -> StorageError {
    let parsed = StateKey::parse(key);
    let what = match parsed.map(|key| key.kind) {
        Some(crate::layout::GROUP_RECORD) => "group record",
        Some(HARD_STATE) => "record of term and vote",
        Some(BOUNDS) => "record of the log's bounds",
        Some(FORCED_CONFIGURATION) => "forced configuration",
        Some(TERM_START) => "record of a term's start",
        Some(CONFIGURATION) => "record of a configuration",
        Some(PROMISED_SPAN) => "record of the span promised",
        Some(OWN_RECORD) => "the replica's own record",
        _ => "state record of unknown kind",
    };
    let index = parsed.and_then(|key| key.index);
    StorageError::damaged(group, index, format_args!("{what}: {error}"))
}

/// A change under way: whatever is done to the state is also put into the batch.
struct LogChange<'a> {
    state: &'a mut LogState,
    group: GroupId,
    batch: &'a mut Batch,
}

impl LogChange<'_> {
    fn put_state(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        let key = state_key(self.group, kind);
        self.batch.put(Family::State, &key, body);
    }

    fn delete_indexed(&mut self, kind: u8, index: LogIndex) {
        let key = indexed_state_key(self.group, kind, index);
        self.batch.delete(Family::State, &key);
    }

    fn set_hard_state(&mut self, hard_state: HardState) {
        self.state.hard_state = hard_state;
        self.put_state(HARD_STATE, |out| encode_hard_state(hard_state, out));
    }

    fn set_promised_span(&mut self, span: Duration) {
        self.state.promised_span = Some(span);
        self.put_state(PROMISED_SPAN, |out| encode_span(span, out));
    }

    fn force_configuration(&mut self, index: LogIndex, configuration: &Configuration) {
        self.state.forced = Some((index, configuration.clone()));
        self.put_state(FORCED_CONFIGURATION, |out| {
            encode_forced(index, configuration, out);
        });
    }

    fn put_bounds(&mut self) {
        let bounds = self.state.bounds;
        self.put_state(BOUNDS, |out| encode_bounds(bounds, out));
    }

    /// Forgets the whole log. The range delete covers every index, so that nothing of an older log
    /// can come to light behind the new one.
    fn reset(&mut self, log_start: LogId) {
        self.drop_indexes_from(LogIndex(0));
        self.delete_entries(LogIndex(0), LogIndex(u64::MAX));
        self.state.bounds = Bounds {
            log_start,
            last: log_start,
        };
    }

    fn truncate(&mut self, from: LogIndex) {
        let last = self.state.bounds.last.index;
        if from > last {
            return;
        }
        let term = self.state.term_at(from.prev());
        // Of a log that becomes empty no term is recorded; its first run may begin before it.
        let empty = from == self.state.bounds.log_start.index.next();
        self.drop_indexes_from(if empty { LogIndex(0) } else { from });
        if last.0 - from.0 < TRUNCATE_BY_KEY_MAX {
            // From the back, as a log is shortened; within one atomic batch the order is only for
            // the reader of a dump.
            for index in (from.0..=last.0).rev() {
                let key = log_key(self.group, LogIndex(index));
                self.batch.delete(Family::Log, &key);
            }
        } else {
            self.delete_entries(from, LogIndex(u64::MAX));
        }
        self.state.bounds.last = LogId {
            term: term.expect("checked by check_truncation"),
            index: from.prev(),
        };
    }

    /// Removes the entries `[from, to)` with one tombstone. Later puts of the same batch have
    /// higher sequence numbers, so they are not covered by it.
    fn delete_entries(&mut self, from: LogIndex, to: LogIndex) {
        let (from, to) = (log_key(self.group, from), log_key(self.group, to));
        self.batch.delete_range(Family::Log, &from, &to);
    }

    /// Drops term starts and configurations at and after `from`.
    fn drop_indexes_from(&mut self, from: LogIndex) {
        while let Some(start) = self.state.terms.pop_if(|start| start.index >= from) {
            self.delete_indexed(TERM_START, start.index);
        }
        for index in self.state.configurations.split_off(&from).into_keys() {
            self.delete_indexed(CONFIGURATION, index);
        }
    }

    fn append(&mut self, entry: &Entry) {
        let LogId { term, index } = entry.id;
        if self.state.terms.last().is_none_or(|run| run.term != term) {
            self.state.terms.push(TermStart { index, term });
            let key = indexed_state_key(self.group, TERM_START, index);
            self.batch.put(Family::State, &key, |out| {
                out.extend_from_slice(&term.0.to_le_bytes());
            });
        }
        if let EntryKind::Configuration(configuration) = &entry.kind {
            self.state
                .configurations
                .insert(index, configuration.as_ref().clone());
            let key = indexed_state_key(self.group, CONFIGURATION, index);
            self.batch.put(Family::State, &key, |out| {
                encode_configuration(configuration, out);
            });
        }
        let key = log_key(self.group, index);
        self.batch
            .put(Family::Log, &key, |out| encode_entry(entry, out));
        self.state.bounds.last = entry.id;
    }

    fn compact(&mut self, upto: LogId) {
        let first = self.state.bounds.log_start.index.next();
        self.delete_entries(first, upto.index.next());
        self.drop_indexes_upto(upto.index);
        self.state.bounds.log_start = upto;
    }

    /// Drops the configurations up to `upto`, and the term runs that end there or before.
    fn drop_indexes_upto(&mut self, upto: LogIndex) {
        let last = self.state.bounds.last.index;
        let first_kept = upto.next();
        let kept_from = match first_kept <= last {
            true => (self.state.terms)
                .partition_point(|run| run.index <= first_kept)
                .saturating_sub(1),
            false => self.state.terms.len(),
        };
        let dropped: Vec<_> = self.state.terms.drain(..kept_from).collect();
        for run in dropped {
            self.delete_indexed(TERM_START, run.index);
        }
        let kept = self.state.configurations.split_off(&first_kept);
        let dropped = std::mem::replace(&mut self.state.configurations, kept);
        for index in dropped.into_keys() {
            self.delete_indexed(CONFIGURATION, index);
        }
    }
}
