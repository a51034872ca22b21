//! A machine and how far it is: what both the replicated instance and the reader are.

use super::checkpoints::{Checkpoint, Checkpoints};
use super::cut::{cut, is_command};
use super::worker::Stopped;
use crate::metrics::{PluginMetrics, result_of};
use crate::node::plugins::PluginSource;
use kontiki_plugin::{
    ANSWER_TOO_LARGE, Answer, Answers, ApplyFault, Batch, Fault, GuestCause, Machine, OutcomeHash,
};
use kontiki_raft::{Entry, GroupId, LogId, LogIndex};
use kontiki_storage::Storage;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

/// Bytes read back from the log at once while catching up.
const READ_SIZE_BYTES_MAX: usize = 1 << 20;

/// How far a machine is; a function of the entries applied.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) applied: LogId,
    /// Time of the last entry: an entry's time is never before it.
    pub(super) time_ns: u64,
    pub(super) hash: OutcomeHash,
}

/// Is told each answer.
pub(super) type OnAnswer<'a> = &'a mut dyn FnMut(LogId, Answer<'_>);

pub(super) struct Runner {
    pub(super) group: GroupId,
    pub(super) storage: Arc<dyn Storage>,
    pub(super) plugin: PluginSource,
    pub(super) metrics: PluginMetrics,
    pub(super) machine: Option<Box<dyn Machine>>,
    pub(super) state: Progress,
    /// Commands whose answers are more than the host takes over at all: they are rejected without
    /// being passed on. Found out by trying, alike on every replica.
    pub(super) outsized: BTreeSet<LogIndex>,
    /// Hashes at indexes to be kept, since they were last taken.
    pub(super) passed: Vec<Checkpoint>,
    /// Whether it is the replicated instance, whose calls of `apply` are measured and whose hashes
    /// are kept: a reader only repeats them.
    replicated: bool,
    /// Fuel of the present machine that was measured already.
    fuel_measured: u64,
}

impl Runner {
    pub(super) fn new(
        (group, storage): (GroupId, Arc<dyn Storage>),
        plugin: PluginSource,
        metrics: PluginMetrics,
    ) -> Self {
        Self {
            group,
            storage,
            plugin,
            metrics,
            machine: None,
            state: Progress::default(),
            outsized: BTreeSet::new(),
            passed: Vec::new(),
            replicated: true,
            fuel_measured: 0,
        }
    }

    /// The same anew, for a reader.
    pub(super) fn reader(&self) -> Self {
        let of = (self.group, Arc::clone(&self.storage));
        Self {
            outsized: self.outsized.clone(),
            replicated: false,
            ..Self::new(of, self.plugin.clone(), self.metrics.clone())
        }
    }

    /// Makes a machine with empty state, whose log lines are dropped.
    pub(super) fn make(&mut self) -> Result<(), Stopped> {
        // First, so that there are never two.
        self.forget();
        let start = Instant::now();
        let made = self.plugin.instantiate(self.group);
        let result = result_of(made.as_ref().err());
        self.metrics.started(start.elapsed(), result);
        let mut machine = made.map_err(|fault| Stopped::by(&fault))?;
        machine.set_replaying(true);
        self.machine = Some(machine);
        Ok(())
    }

    /// While `true`, log lines of the machine are dropped.
    pub(super) fn machine_replays(&mut self, replays: bool) {
        if let Some(machine) = self.machine.as_mut() {
            machine.set_replaying(replays);
        }
    }

    /// Lets the machine go, with all that it remembers.
    pub(super) fn forget(&mut self) {
        self.machine = None;
        self.state = Progress::default();
        self.fuel_measured = 0;
    }

    pub(super) fn read(&self, first: LogIndex, last: LogIndex) -> Result<Vec<Entry>, Stopped> {
        let read = self
            .storage
            .entries(self.group, first, last, READ_SIZE_BYTES_MAX);
        match read {
            Ok(entries) if entries.first().is_some_and(|entry| entry.id.index == first) => {
                Ok(entries)
            }
            Ok(_) => Err(Stopped::here(format!("the log has no entry {first}"))),
            Err(error) => Err(Stopped::here(format!(
                "the log cannot be read back: {error}"
            ))),
        }
    }

    /// Applies the first of consecutive entries by at most one call of the machine, and says how
    /// many they were.
    pub(super) fn step(
        &mut self,
        entries: &[Entry],
        on_answer: OnAnswer<'_>,
    ) -> Result<usize, ApplyFault> {
        if entries.first().is_some_and(|first| self.is_outsized(first)) {
            self.reject_outsized(&entries[0], on_answer);
            return Ok(1);
        }
        let until = entries.iter().position(|entry| self.is_outsized(entry));
        let (batch, taken, time_ns) = cut(
            &entries[..until.unwrap_or(entries.len())],
            self.state.time_ns,
        );
        self.call(&batch, &entries[..taken], time_ns, on_answer)?;
        Ok(taken)
    }

    fn is_outsized(&self, entry: &Entry) -> bool {
        self.outsized.contains(&entry.id.index)
    }

    /// One call of the machine for `entries`, whose commands are `batch`.
    fn call(
        &mut self,
        batch: &Batch<'_>,
        entries: &[Entry],
        time_ns: u64,
        on_answer: OnAnswer<'_>,
    ) -> Result<(), ApplyFault> {
        let answers = match batch.is_empty() {
            true => Answers::default(),
            false => self.call_machine(batch)?,
        };
        self.state.time_ns = time_ns;
        let mut answers = answers.iter();
        for entry in entries {
            if is_command(entry)
                && let Some(answer) = answers.next()
            {
                self.state.hash.add(entry.id.index.0, answer);
                on_answer(entry.id, answer);
            }
            self.pass(entry.id.index);
        }
        if let Some(last) = entries.last() {
            self.state.applied = last.id;
        }
        Ok(())
    }

    fn pass(&mut self, index: LogIndex) {
        if self.replicated && Checkpoints::keeps(index) {
            self.passed.push((index, self.state.hash.value()));
        }
    }

    fn call_machine(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        let machine = self.machine.as_mut();
        let machine = machine.expect("made before the first batch, else stopped");
        let start = Instant::now();
        let answers = machine.apply(batch);
        if self.replicated {
            let fault = answers.as_ref().err().map(|fault| &fault.fault);
            self.metrics.applied(start.elapsed(), result_of(fault));
        }
        self.measure_fuel();
        answers
    }

    /// Adds what the machine has used since it was last measured.
    pub(super) fn measure_fuel(&mut self) {
        let used = self
            .machine
            .as_ref()
            .map_or(0, |machine| machine.fuel_used());
        self.metrics
            .fuel_used(used.saturating_sub(self.fuel_measured));
        self.fuel_measured = used;
    }

    /// Answers a command that is not passed on.
    fn reject_outsized(&mut self, entry: &Entry, on_answer: OnAnswer<'_>) {
        let reason = format!(
            "{ANSWER_TOO_LARGE}: the plugin's answer is more than the host takes over at all; \
             the command changed nothing"
        );
        let answer = Answer::Reject(reason.as_bytes());
        self.state.time_ns = self.state.time_ns.max(entry.time_ns);
        self.state.hash.add(entry.id.index.0, answer);
        on_answer(entry.id, answer);
        self.pass(entry.id.index);
        self.state.applied = entry.id;
    }

    /// Applies entries one by one. A command whose answer is more than the host takes over, alone,
    /// is noted as such and the machine made anew without it. Nothing but that depends on how the
    /// entries would have been cut.
    pub(super) fn singly(
        &mut self,
        entries: &[Entry],
        on_answer: OnAnswer<'_>,
    ) -> Result<(), Stopped> {
        for entry in entries {
            let one = std::slice::from_ref(entry);
            let Err(fault) = self.step(one, on_answer) else {
                continue;
            };
            if !is_outsize(&fault.fault) {
                return Err(Stopped::by(&fault.fault));
            }
            self.outsized.insert(entry.id.index);
            self.rebuild(&|| false)?;
            self.step(one, on_answer)
                .map_err(|fault| Stopped::by(&fault.fault))?;
        }
        Ok(())
    }

    /// Makes the machine anew and brings it to where it was, from the log.
    ///
    /// # Errors
    ///
    /// [`Stopped`], also if the answers are not the same as before: then the plugin is not a
    /// function of its log, and nothing that this replica says can be relied on.
    pub(super) fn rebuild(&mut self, ended: &dyn Fn() -> bool) -> Result<(), Stopped> {
        let wanted = self.state;
        let caught_up = self
            .make()
            .and_then(|()| self.catch_up(wanted.applied.index, ended));
        // They were passed before.
        self.passed.clear();
        let same = self.state.hash == wanted.hash;
        // Also if that failed: what was applied stays applied.
        self.state = wanted;
        caught_up?;
        match same {
            true => Ok(()),
            false => Err(Stopped::not_deterministic(wanted.applied.index)),
        }
    }

    /// Applies what the log holds up to and with `upto`. Gives up when `ended` says so.
    pub(super) fn catch_up(
        &mut self,
        upto: LogIndex,
        ended: &dyn Fn() -> bool,
    ) -> Result<(), Stopped> {
        while self.state.applied.index < upto {
            let entries = self.read(self.state.applied.index.next(), upto)?;
            let mut rest = entries.as_slice();
            while !rest.is_empty() {
                if ended() {
                    return Err(Stopped::here("the replica is stopping".to_owned()));
                }
                match self.step(rest, &mut |_, _| {}) {
                    Ok(taken) => rest = &rest[taken..],
                    Err(fault) => {
                        self.again(rest, &fault, ended)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// A call for the first of `entries` failed while catching up: tries them once more, each by
    /// itself and in a fresh machine, which has nothing used up.
    fn again(
        &mut self,
        entries: &[Entry],
        fault: &ApplyFault,
        ended: &dyn Fn() -> bool,
    ) -> Result<(), Stopped> {
        if !fault.fault.is_limit() {
            return Err(Stopped::by(&fault.fault));
        }
        let (_, taken, _) = cut(entries, self.state.time_ns);
        let (state, now) = (self.state, &entries[..taken]);
        self.make()?;
        // What comes before has just succeeded; should it not again, then this is no second try.
        while self.state.applied.index < state.applied.index {
            let before = self.read(self.state.applied.index.next(), state.applied.index)?;
            if ended() {
                return Err(Stopped::here("the replica is stopping".to_owned()));
            }
            self.singly(&before, &mut |_, _| {})?;
        }
        self.singly(now, &mut |_, _| {})
    }
}

/// Whether all that went wrong is that answers were more than the host takes over in one call.
pub(super) fn is_outsize(fault: &Fault) -> bool {
    let Fault::Guest(fault) = fault else {
        return false;
    };
    matches!(fault.cause, GuestCause::DataTooLong { .. })
}
