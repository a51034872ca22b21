//! A workload whose every state is known, so that what a crash left can be compared with it.
//!
//! A group's steps are numbered from 1, and each writes its number as the term. The state after a
//! crash therefore tells how many steps it holds, and must be exactly the state after that many.

#![allow(dead_code, reason = "each test program uses its own part")]

use crate::support::{GROUP, append, configuration_entry, entry, persist, record};
use kontiki_raft::{Entry, EntryKind, GroupId, HardState, LogId, LogIndex, NodeId, Persist, Term};
use kontiki_storage::{Storage, StorageError};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::mpsc::sync_channel;

pub(crate) const GROUPS: [GroupId; 3] = [GROUP, GroupId(1), GroupId(u64::MAX)];

/// Steps that may be under way in a group.
const WINDOW: usize = 6;

/// What is stored of a group after some steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    group: GroupId,
    hard_state: HardState,
    log_start: LogId,
    entries: Vec<Entry>,
}

/// Mixes the bits of two numbers (SplitMix64).
fn mix(a: u64, b: u64) -> u64 {
    let mut z = a.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(b);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Model {
    pub(crate) fn new(group: GroupId) -> Self {
        Self {
            group,
            hard_state: HardState::default(),
            log_start: LogId::default(),
            entries: Vec::new(),
        }
    }

    /// The state after `steps` steps and the compactions between them.
    pub(crate) fn after(group: GroupId, steps: u64) -> Self {
        let mut model = Self::new(group);
        for _ in 0..steps {
            if let Some(upto) = model.compaction() {
                model.compact(upto);
            }
            let write = model.next_step();
            model.apply(&write);
        }
        model
    }

    fn steps(&self) -> u64 {
        self.hard_state.term.0
    }

    fn last(&self) -> LogId {
        self.entries.last().map_or(self.log_start, |entry| entry.id)
    }

    /// The step that follows this state.
    fn next_step(&self) -> Persist {
        let number = self.steps() + 1;
        let random = mix(self.group.0, number);
        let mut write = match random % 64 {
            0 => Persist {
                reset_log: Some(LogId::new(Term(number), LogIndex(self.last().index.0 + 5))),
                ..Persist::default()
            },
            1..8 => self.replacement(number, random),
            8..12 => append(vec![configuration_entry(
                self.last().index.0 + 1,
                number,
                &[1, number],
            )]),
            12..16 => append(self.commands(self.last(), number, 4, 30_000)),
            16..20 => Persist::default(),
            _ => append(self.commands(self.last(), number, 1 + (random >> 8) % 6, 60)),
        };
        write.hard_state = Some(HardState {
            term: Term(number),
            voted_for: Some(NodeId(random % 5)),
        });
        write
    }

    /// Some entries from the end on are replaced by others.
    fn replacement(&self, number: u64, random: u64) -> Persist {
        let kept = self
            .entries
            .len()
            .saturating_sub(1 + (random >> 8) as usize % 9);
        let last = kept
            .checked_sub(1)
            .map_or(self.log_start, |at| self.entries[at].id);
        Persist {
            truncate_from: Some(last.index.next()),
            entries: self.commands(last, number, (random >> 16) % 4, 60),
            ..Persist::default()
        }
    }

    fn commands(&self, last: LogId, term: u64, count: u64, size: usize) -> Vec<Entry> {
        (1..=count)
            .map(|n| {
                let index = last.index.0 + n;
                let word = format!("{:016x}", mix(mix(self.group.0, term), index));
                entry(index, term, &word.repeat(size.div_ceil(16)))
            })
            .collect()
    }

    fn apply(&mut self, write: &Persist) {
        self.hard_state = write.hard_state.unwrap();
        if let Some(log_start) = write.reset_log {
            self.log_start = log_start;
            self.entries.clear();
        }
        if let Some(from) = write.truncate_from {
            self.entries.retain(|entry| entry.id.index < from);
        }
        self.entries.extend(write.entries.iter().cloned());
    }

    /// The compaction asked for after this state, before the next step.
    fn compaction(&self) -> Option<LogId> {
        let wanted = mix(self.group.0, self.steps()) >> 32 & 7 == 0;
        let at = self.entries.len().checked_sub(12)?;
        wanted.then(|| self.entries[at].id)
    }

    fn compact(&mut self, upto: LogId) {
        self.log_start = upto;
        self.entries.retain(|entry| entry.id.index > upto.index);
    }

    /// Compares with what is stored.
    fn check(&self, storage: &dyn Storage) -> Result<(), String> {
        let found = storage
            .recover(self.group, usize::MAX)
            .map_err(|error| error.to_string())?;
        let mut terms = Vec::new();
        let mut configurations = Vec::new();
        for entry in &self.entries {
            let LogId { term, index } = entry.id;
            if terms.last().is_none_or(|(_, last)| *last != term) {
                terms.push((index, term));
            }
            if let EntryKind::Configuration(configuration) = &entry.kind {
                configurations.push((index, configuration.as_ref().clone()));
            }
        }
        let found_terms: Vec<_> = found
            .terms
            .iter()
            .map(|run| (run.index, run.term))
            .collect();
        let same = found.hard_state == self.hard_state
            && found.log_start == self.log_start
            && found.last == self.last()
            && found.tail == self.entries
            && found_terms == terms
            && found.configurations == configurations;
        let shown = |start: LogId, last: LogId| format!("({start}, {last}]");
        match same {
            true => Ok(()),
            false => Err(format!(
                "after {} steps expected {} with {} entries, found {} with {}",
                self.steps(),
                shown(self.log_start, self.last()),
                self.entries.len(),
                shown(found.log_start, found.last),
                found.tail.len(),
            )),
        }
    }
}

/// Takes a new group through `steps` steps, comparing after each.
pub(crate) fn walk(storage: &dyn Storage, group: GroupId, steps: u64) {
    storage.create_group(&record(group, "")).unwrap();
    let mut model = Model::new(group);
    for _ in 0..steps {
        if let Some(upto) = model.compaction() {
            storage.compact(group, upto);
            model.compact(upto);
        }
        let write = model.next_step();
        model.apply(&write);
        persist(storage, group, write).unwrap();
        let checked = model.check(storage);
        checked.unwrap_or_else(|why| panic!("group {group}: {why}"));
    }
}

/// Steps acknowledged, by group; a group is in it once its registration was.
pub(crate) type Acknowledged = BTreeMap<GroupId, u64>;

/// Checks that each group is in the state after some step, none earlier than the last one
/// acknowledged, and gives the number of steps found.
pub(crate) fn verify(storage: &dyn Storage, acknowledged: &Acknowledged) -> Acknowledged {
    let registered = storage.groups().unwrap();
    for group in acknowledged.keys() {
        assert!(
            registered.iter().any(|record| record.id == *group),
            "group {group} is lost"
        );
    }
    let mut found = Acknowledged::new();
    for record in registered {
        let group = record.id;
        let steps = storage.recover(group, 0).unwrap().hard_state.term.0;
        let acknowledged = acknowledged.get(&group).copied().unwrap_or(0);
        assert!(
            steps >= acknowledged,
            "group {group}: {steps} of {acknowledged} steps"
        );
        let model = Model::after(group, steps);
        let mut compacted = model.clone();
        model
            .compaction()
            .into_iter()
            .for_each(|upto| compacted.compact(upto));
        // The compaction after the last step may or may not have been written.
        if let Err(why) = model.check(storage)
            && let Err(other) = compacted.check(storage)
        {
            panic!("group {group}: {why}; or {other}");
        }
        found.insert(group, steps);
    }
    found
}

/// Runs the workload until a write fails or the process is killed, telling standard output what was
/// acknowledged. Gives the first failure.
pub(crate) fn run(storage: &dyn Storage) -> StorageError {
    for group in GROUPS {
        match storage.create_group(&record(group, "")) {
            Ok(()) | Err(StorageError::AlreadyExists { .. }) => say(&format!("created {group}")),
            Err(error) => return error,
        }
    }
    std::thread::scope(|scope| {
        let threads = GROUPS.map(|group| scope.spawn(move || run_group(storage, group)));
        let failures = threads.map(|thread| thread.join().unwrap());
        let first = failures
            .into_iter()
            .min_by_key(|failure| matches!(failure, StorageError::Poisoned { .. }));
        first.unwrap()
    })
}

fn run_group(storage: &dyn Storage, group: GroupId) -> StorageError {
    let steps = storage.recover(group, 0).unwrap().hard_state.term.0;
    let mut model = Model::after(group, steps);
    let (sender, done) = sync_channel(WINDOW);
    let mut under_way = 0;
    loop {
        if let Some(upto) = model.compaction() {
            storage.compact(group, upto);
            model.compact(upto);
        }
        let write = model.next_step();
        model.apply(&write);
        let (sender, number) = (sender.clone(), model.steps());
        let completion = move |result: Result<_, StorageError>| {
            if result.is_ok() {
                say(&format!("ack {group} {number} {}", now()));
            }
            drop(sender.send(result));
        };
        storage.persist(group, write, Box::new(completion));
        under_way += 1;
        while under_way == WINDOW {
            under_way -= 1;
            if let Err(error) = done.recv().unwrap() {
                return error;
            }
        }
    }
}

/// One line in one write, so that a kill cannot leave half of it.
pub(crate) fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    drop(
        out.write_all(format!("{line}\n").as_bytes())
            .and_then(|()| out.flush()),
    );
}

/// Wall clock in microseconds, the same in every process.
pub(crate) fn now() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_micros()
}
