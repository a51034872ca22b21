//! One replica with its disk, state machine and clock.

use super::disk::{Disk, Saved};
use super::planted;
use kontiki_raft::{
    ApplyBatch, Core, Effect, Effects, EntryKind, Event, Input, Instant, LogIndex, MemberSet,
    NodeId, Settings, SnapshotMeta,
};
use std::collections::VecDeque;

/// A replica as its host sees it.
pub(crate) struct Replica {
    pub(crate) id: NodeId,
    pub(crate) core: Option<Core>,
    pub(crate) settings: Settings,
    initial: MemberSet,
    pub(crate) disk: Disk,
    /// Commands applied, in order.
    pub(crate) commands: Vec<String>,
    pub(crate) applied: LogIndex,
    /// Batches wait for an order instead of being applied at once.
    pub(crate) apply_is_held: bool,
    pub(crate) to_apply: VecDeque<ApplyBatch>,
    /// Fetches wait for an order.
    pub(crate) fetch_is_held: bool,
    pub(crate) fetching: Option<(NodeId, SnapshotMeta)>,
    pub(crate) events: Vec<Event>,
    /// Speed of its clock, in percent of true time.
    pub(crate) clock_percent: u64,
    starts: u64,
}

impl Replica {
    pub(crate) fn new(id: NodeId, settings: Settings, initial: MemberSet, disk: Disk) -> Self {
        Self {
            id,
            core: None,
            settings,
            initial,
            disk,
            commands: Vec::new(),
            applied: LogIndex(0),
            apply_is_held: false,
            to_apply: VecDeque::new(),
            fetch_is_held: false,
            fetching: None,
            events: Vec::new(),
            clock_percent: 100,
            starts: 0,
        }
    }

    /// Opens the replica on what its disk holds.
    pub(crate) fn start(&mut self, now: Instant) {
        let saved = self.disk.snapshots.last().cloned().unwrap_or_default();
        self.applied = saved.meta.last_included.index;
        self.commands = saved.commands;
        self.starts += 1;
        let seed = self.id.0 * 1_000 + self.starts;
        let (settings, initial) = (self.settings.clone(), self.initial.clone());
        let recovered = self.disk.durable.recovered(&self.disk.snapshots);
        let now = self.local(now);
        let core = Core::new(self.id, settings, initial, recovered, now, seed);
        self.core = Some(planted(core));
    }

    pub(crate) fn crash(&mut self) {
        self.core = None;
        self.disk.crash();
        self.to_apply.clear();
        self.fetching = None;
    }

    pub(crate) fn handle(&mut self, now: Instant, input: Input) -> Effects {
        let mut effects = Effects::new();
        let now = self.local(now);
        if let Some(core) = &mut self.core {
            core.handle(now, input, &mut effects);
        }
        effects
    }

    /// This replica's clock at true time `now`.
    pub(crate) fn local(&self, now: Instant) -> Instant {
        Instant(now.0 * self.clock_percent / 100)
    }

    /// True time of the next deadline.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let local = self.core.as_ref()?.next_deadline()?;
        Some(Instant((local.0 * 100).div_ceil(self.clock_percent)))
    }

    /// Applies the oldest batch and says up to where, with who waited.
    pub(crate) fn apply_one(&mut self) -> Option<ApplyBatch> {
        let mut batch = self.to_apply.pop_front()?;
        if batch.entries.is_empty() {
            let log = &self.disk.written;
            let read = log.read(batch.first, batch.last, usize::MAX);
            batch.entries = read.expect("what is handed over is in the log");
        }
        assert_eq!(batch.first, self.applied.next(), "applied in order");
        assert_eq!(batch.entries.len() as u64, batch.last.0 + 1 - batch.first.0);
        for entry in &batch.entries {
            if let EntryKind::Command(bytes) = &entry.kind {
                let command = String::from_utf8_lossy(bytes).into_owned();
                self.commands.push(command);
            }
        }
        self.applied = batch.last;
        Some(batch)
    }

    /// A snapshot of the state machine as it is.
    pub(crate) fn save(&mut self) -> Saved {
        let core = self.core.as_ref().expect("a running replica");
        let configuration = core.configuration_at(self.applied).expect("known").clone();
        let log = &self.disk.written;
        let applied = self.applied;
        let entry = log.entries.iter().find(|entry| entry.id.index == applied);
        let last_included = entry.map_or(log.log_start, |entry| entry.id);
        assert_eq!(last_included.index, applied);
        let meta = SnapshotMeta {
            last_included,
            configuration,
        };
        let commands = self.commands.clone();
        Saved { meta, commands }
    }

    /// Loads a snapshot that was fetched.
    pub(crate) fn install(&mut self, saved: Saved) -> Input {
        let snapshot = saved.meta.clone();
        self.to_apply.clear();
        self.applied = snapshot.last_included.index;
        self.commands = saved.commands.clone();
        self.disk.publish(saved);
        Input::SnapshotInstalled { snapshot }
    }

    /// Answers a read of the log.
    pub(crate) fn read(&self, effect: &Effect) -> Option<Input> {
        let Effect::ReadEntries {
            read,
            first,
            last,
            size_bytes_max,
        } = *effect
        else {
            return None;
        };
        let result = self.disk.written.read(first, last, size_bytes_max);
        Some(Input::EntriesRead { read, result })
    }
}
