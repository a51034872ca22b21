//! The follower's side of log replication (Raft §5.3).

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{
    AppendEntries, AppendEntriesReply, Effect, Effects, Entry, EntryKind, Event, LogId, LogIndex,
    MessageBody, NodeId, Term,
};
use alloc::vec::Vec;

impl Core {
    pub(crate) fn on_append_entries(
        &mut self,
        from: NodeId,
        term: Term,
        append: AppendEntries,
        out: &mut Effects,
    ) {
        if !self.hear_leader(from, term, out) {
            return;
        }
        self.note_pace(append.commit);
        let AppendEntries {
            prev,
            entries,
            commit,
            sequence,
        } = append;
        if !self.agrees_with_committed(from, prev, &entries, out) {
            return;
        }
        // What is committed is the same in every leader's log, compacted or not, so a `prev` below
        // it matches; above it the log must contain `prev`.
        if prev.index > self.commit && !self.log.contains(prev) {
            return self.refuse_append(from, sequence, prev, out);
        }
        let last_new = LogIndex(prev.index.0 + entries.len() as u64);
        self.append_from_leader(entries);
        let matched = last_new.max(self.commit).min(self.log.last().index);
        let known = if self.bug(PlantedBug::CommitUncapped) {
            commit.min(self.log.last().index)
        } else {
            // Beyond the entries of this message nothing is known to match (trap 25).
            commit.min(matched)
        };
        self.commit_to(known, out);
        self.acknowledge(from, sequence, matched, out);
    }

    /// Whether the message is compatible with what is committed here, as far as terms are in
    /// memory. Committed entries are never cut, whatever a peer says.
    fn agrees_with_committed(
        &mut self,
        from: NodeId,
        prev: LogId,
        entries: &[Entry],
        out: &mut Effects,
    ) -> bool {
        if prev.index > self.commit {
            return true;
        }
        let ids = core::iter::once(prev).chain(entries.iter().map(|entry| entry.id));
        let committed = ids.take_while(|id| id.index <= self.commit);
        let contradicts = |id: &LogId| self.log.term(id.index).is_some_and(|term| term != id.term);
        let Some(id) = committed.into_iter().find(contradicts) else {
            return true;
        };
        let index = id.index;
        out.push(Effect::Event(Event::Conflict { from, index }));
        false
    }

    fn refuse_append(&mut self, to: NodeId, sequence: u64, prev: LogId, out: &mut Effects) {
        let body = MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence,
            index: prev.index,
            conflict: Some(self.log.last_agreeing(prev.index, prev.term)),
            read_only: self.read_only,
            promise: self.promise(),
        });
        self.send(to, body, out);
    }

    /// Answers once everything up to `matched` is durable here, and whatever else the log holds: a
    /// probe of a leader that waits for a slow disk must not be answered before the entries that
    /// are being written, or it would take those for lost and send them again.
    fn acknowledge(&mut self, to: NodeId, sequence: u64, matched: LogIndex, out: &mut Effects) {
        let body = MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence,
            index: matched,
            conflict: None,
            read_only: self.read_only,
            promise: self.promise(),
        });
        self.send_when_durable(self.log.last().index, to, body, out);
    }

    pub(crate) fn send_when_durable(
        &mut self,
        index: LogIndex,
        to: NodeId,
        body: MessageBody,
        out: &mut Effects,
    ) {
        if index <= self.log.durable() || self.bug(PlantedBug::AckBeforeSync) {
            self.send(to, body, out);
        } else {
            self.send_after(self.disk.write_covering(index), to, body, out);
        }
    }

    /// Appends what is new in `entries`, which follow a matching entry. The suffix is dropped only
    /// at a real conflict: a message that is late may well say less than is known (trap 25).
    fn append_from_leader(&mut self, mut entries: Vec<Entry>) {
        let last = self.log.last().index;
        let known = |entry: &&Entry| entry.id.index <= last && self.has(entry);
        let skip = entries.iter().take_while(known).count();
        let skip = if self.bug(PlantedBug::TruncateMatching) {
            let committed = |entry: &&Entry| entry.id.index <= self.commit;
            entries.iter().take_while(committed).count()
        } else {
            skip
        };
        let Some(first) = entries.get(skip).map(|entry| entry.id.index) else {
            return;
        };
        if first <= last {
            self.truncate_log(first);
        }
        entries.drain(..skip);
        for entry in entries {
            self.append_entry(entry);
        }
    }

    /// Whether this entry is in the log, or was compacted away as committed.
    fn has(&self, entry: &Entry) -> bool {
        entry.id.index <= self.log.start().index || self.log.contains(entry.id)
    }

    /// Appends one entry in memory and to the staged write. A configuration governs from here.
    pub(crate) fn append_entry(&mut self, entry: Entry) {
        if let EntryKind::Configuration(configuration) = &entry.kind {
            let configuration = configuration.as_ref().clone();
            self.history.append(entry.id.index, configuration);
        }
        self.disk.stage().entries.push(entry.clone());
        self.log.append(entry);
    }

    /// Cuts the log from `from` on, which lies above the commit index.
    fn truncate_log(&mut self, from: LogIndex) {
        debug_assert!(from > self.commit, "committed entries are never cut");
        self.disk.assert_no_staged_entries();
        self.log.truncate(from);
        self.disk.truncated(from);
        let narrowed = self.history.truncate(from);
        let stage = self.disk.stage();
        stage.truncate_from = Some(from);
        if narrowed {
            stage.forced_configuration = self.history.forced().cloned();
        }
        // Held acknowledgements may name what was just cut.
        self.disk.drop_held_messages();
    }
}
