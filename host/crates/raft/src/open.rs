//! Opening a replica on what storage found.

use crate::commit::{ApplyWindow, Waiting};
use crate::core::Core;
use crate::disk::Disk;
use crate::history::History;
use crate::lease::FollowerLease;
use crate::log::Log;
use crate::pace::Pace;
use crate::random::Random;
use crate::read_index::Forwarded;
use crate::snapshot::Snapshots;
use crate::takeover::Takeover;
use crate::{
    Configuration, Effect, ElectionTurn, Event, HardState, Instant, LogId, LogIndex, MemberSet,
    NodeId, Recovered, Settings,
};
use alloc::vec::Vec;

impl Core {
    /// Opens a replica. `initial` is its membership if neither log nor snapshot knows one.
    /// `settings` should have passed [`Settings::check`].
    /// `seed` feeds the spread of election timeouts and numbers questions to peers: it should
    /// differ between replicas and between restarts of one.
    ///
    /// What cannot be true (a hole between snapshot and log, a state machine ahead of the log)
    /// gives a replica that is stopped from the start and reports [`Event::Failed`] with the first
    /// input.
    #[must_use]
    pub fn new(
        node: NodeId,
        settings: Settings,
        initial: MemberSet,
        recovered: Recovered,
        now: Instant,
        seed: u64,
    ) -> Self {
        let mut contradiction = contradiction(&recovered);
        let mut core = Self::assemble(node, settings, initial, recovered, now, seed);
        core.repair_log();
        if core.applied < core.log.start().index {
            contradiction =
                contradiction.or(Some("the state machine is behind the first log entry"));
        }
        core.repair_term();
        core.arm_first_timer();
        if let Some(why) = contradiction {
            // Nothing is written over what may still tell how it came to this.
            core.disk = Disk::default();
            core.stopped = true;
            core.failure = Some(why);
            core.opening = alloc::vec![Effect::Event(Event::Failed { why })];
        }
        core
    }

    fn assemble(
        node: NodeId,
        settings: Settings,
        initial: MemberSet,
        recovered: Recovered,
        now: Instant,
        seed: u64,
    ) -> Self {
        let settings = Settings {
            // Zero would divide by zero or send nothing for ever; `Settings::check` refuses it.
            heartbeat_factor: settings.heartbeat_factor.max(1),
            append_entries_max: settings.append_entries_max.max(1),
            ..settings
        };
        let lease = FollowerLease::after_start(&settings, &recovered, now);
        let snapshot_index = recovered
            .snapshot
            .as_ref()
            .map_or(LogIndex(0), |snapshot| snapshot.last_included.index);
        let commit = recovered.applied.max(snapshot_index);
        let history = history(initial, &recovered);
        let is_member = history.at(commit).is_some_and(|c| c.contains(node));
        let mut random = Random::new(seed ^ node.0.rotate_left(32) ^ now.0);
        let counter = random.next() >> 2;
        Self {
            node,
            now,
            counter,
            random,
            hard: recovered.hard_state,
            disk: Disk::default(),
            log: Log::new(
                recovered.log_start,
                recovered.last,
                recovered.terms,
                recovered.tail,
            ),
            history,
            commit,
            applying: recovered.applied,
            applied: recovered.applied,
            snapshots: Snapshots::new(recovered.snapshot, recovered.previous_snapshot),
            waiting: Waiting::default(),
            apply_window: ApplyWindow::default(),
            pace: Pace::new(now, recovered.last.index, recovered.applied),
            known_leader: None,
            leader_heard_at: None,
            horizon: None,
            incarnation: counter,
            lease,
            last_led: None,
            election_due: now,
            election_wait: settings.election_timeout,
            handed_over: None,
            leading: None,
            campaign: None,
            forwarded: Forwarded::default(),
            read_only: false,
            drained: false,
            drained_timeouts: 0,
            turn: ElectionTurn::Any,
            takeover: Takeover::default(),
            lease_epoch: 0,
            refusing_since: None,
            is_member,
            stopped: false,
            failure: None,
            opening: Vec::new(),
            settings,
            #[cfg(feature = "planted-bugs")]
            planted: 0,
        }
    }

    /// A snapshot that the log does not reach, or contradicts, replaces the log: the crash came
    /// between publishing the snapshot and cutting the log (trap 27).
    fn repair_log(&mut self) {
        let Some(snapshot) = &self.snapshots.newest else {
            return;
        };
        let last_included = snapshot.last_included;
        if last_included.index <= self.log.start().index || self.log.contains(last_included) {
            return;
        }
        let configuration = snapshot.configuration.clone();
        self.log = Log::starting_after(last_included);
        self.history.reset(last_included.index, configuration);
        self.disk.stage().reset_log = Some(last_included);
    }

    /// A term below that of the last entry means that the record of term and vote was lost. The
    /// vote in that term is unknown, so the replica goes on in the next (braft).
    fn repair_term(&mut self) {
        let last = self.log.last().term;
        if self.hard.term < last {
            self.hard = HardState {
                term: last.next(),
                voted_for: None,
            };
            self.disk.stage_hard_state(self.hard);
        }
    }

    /// The only voter need not wait for a leader: there is no other.
    fn arm_first_timer(&mut self) {
        if self.is_only_voter() {
            self.election_due = self.now;
        } else {
            self.reset_election_timer();
        }
    }

    /// Whether there is no other voter.
    pub(crate) fn is_only_voter(&self) -> bool {
        let voters = &self.configuration().current.voters;
        let alone = voters.len() == 1 && voters.contains(&self.node);
        alone && !self.configuration().is_joint()
    }
}

fn history(initial: MemberSet, recovered: &Recovered) -> History {
    // The newest snapshot may lie inside the log. Configurations before it are in the log too, so
    // the history may begin at whichever is known to be earlier without losing one.
    let base = match &recovered.snapshot {
        Some(snapshot) => (snapshot.last_included.index, snapshot.configuration.clone()),
        None => (LogIndex(0), Configuration::stable(initial)),
    };
    let forced = recovered.forced_configuration.clone();
    History::new(base, recovered.configurations.iter().cloned(), forced)
}

/// What in `recovered` cannot be true, if anything. Damage must not be taken for the end of a log.
fn contradiction(recovered: &Recovered) -> Option<&'static str> {
    let start = recovered.log_start;
    let snapshot = recovered.snapshot.as_ref().map(|s| s.last_included);
    let snapshot_index = snapshot.map_or(LogIndex(0), |id| id.index);
    if recovered.last.index < start.index || recovered.last.term < start.term {
        return Some("the log ends before it begins");
    }
    if snapshot_index < start.index {
        return Some("the log begins after the newest snapshot");
    }
    if recovered.applied > recovered.last.index.max(snapshot_index) {
        return Some("the state machine is ahead of the log");
    }
    (!covers(recovered)).then_some("the terms of the log have a hole")
}

/// Whether the runs of terms cover `(log_start, last]`, ascending.
fn covers(recovered: &Recovered) -> bool {
    let runs = &recovered.terms;
    let LogId { term, index } = recovered.last;
    if index == recovered.log_start.index {
        return runs.is_empty();
    }
    let ascending = runs
        .windows(2)
        .all(|pair| pair[0].index < pair[1].index && pair[0].term < pair[1].term);
    let begins = runs.first().is_some_and(|run| {
        run.index == recovered.log_start.index.next() && run.term >= recovered.log_start.term
    });
    let ends = runs
        .last()
        .is_some_and(|run| run.index <= index && run.term == term);
    ascending && begins && ends
}
