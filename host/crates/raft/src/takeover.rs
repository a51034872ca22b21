//! Leadership goes back to the member that should have it.
//!
//! A leader that has been undisturbed for two election timeouts hands over to a voter of higher rank
//! that answered and kept up all that time, by an ordinary transfer with all its conditions.
//!
//! # Why this cannot flap
//!
//! A takeover strictly raises the rank of the leader, and members of equal rank never move it. Ranks
//! are finite, so between two changes of rank by an operator there are fewer takeovers in a row than
//! members, and leadership can only come back down when a leader of higher rank fails, or was elected
//! before it had replayed its log: it hands over to a member that has, which a replica does at most
//! until its replay is complete, and it comes back only then. Whoever then leads remembers, across its own leaderships, when it last tried: each further attempt waits twice
//! as long as the one before, from 4 up to 64 election timeouts, until 256 have passed without one.
//! So a preferred member that always fails costs each other member at most one attempt in 64
//! election timeouts, and an attempt that is not taken up costs the group the writes of at most one
//! election timeout.

use crate::core::Core;
use crate::leading::Leading;
use crate::pace::Pace;
use crate::planted::PlantedBug;
use crate::progress::Peer;
use crate::{Effect, Effects, Event, Instant, NodeId, StopReason, TransferTarget};
use core::cmp::Reverse;
use core::time::Duration;

/// Election timeouts for which leader and successor must have been undisturbed.
const CALM_TIMEOUTS: u32 = 2;
/// Election timeouts between the first attempt and the second.
const WAIT_MIN_TIMEOUTS: u32 = 4;
/// The longest wait between two attempts, in election timeouts.
const WAIT_MAX_TIMEOUTS: u32 = 64;
/// Election timeouts without an attempt after which earlier ones are forgotten.
const FORGOTTEN_TIMEOUTS: u32 = 256;

/// What a node remembers of handing over by itself, across its leaderships.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Takeover {
    last: Option<Instant>,
    /// In election timeouts, after the last attempt.
    wait: u32,
}

impl Takeover {
    /// An operator has changed what the attempts were made for.
    pub(crate) fn forget(&mut self) {
        *self = Self::default();
    }

    fn may_try(&self, now: Instant, timeout: Duration) -> bool {
        self.last
            .is_none_or(|last| now >= last.plus(timeout * self.wait))
    }

    fn note_attempt(&mut self, now: Instant, timeout: Duration) {
        let recent = |last: Instant| now < last.plus(timeout * FORGOTTEN_TIMEOUTS);
        self.wait = match self.last.filter(|last| recent(*last)) {
            Some(_) => (self.wait * 2).min(WAIT_MAX_TIMEOUTS),
            None => WAIT_MIN_TIMEOUTS,
        };
        self.last = Some(now);
    }
}

impl Leading {
    /// Takes note of who answers, keeps up and is current. `patience` is for how long an answer may be missing.
    fn note_fit(&mut self, now: Instant, patience: Duration, pace: &Pace) {
        let before = self.committed_before;
        for peer in &mut self.peers {
            let fit = peer.in_current
                && peer.is_current(pace)
                && peer.standing.is_willing()
                && peer.answered_within(patience, now)
                && peer.is_streaming_from(before);
            peer.fit_since = fit.then(|| peer.fit_since.unwrap_or(now));
        }
    }

    fn disturbed(&mut self) {
        for peer in &mut self.peers {
            peer.fit_since = None;
        }
    }

    /// The best voter that is `preferred` and has been fit since `since` or longer.
    fn rightful(&self, preferred: impl Fn(&Peer) -> bool, since: Instant) -> Option<NodeId> {
        let fit = |at: Option<Instant>| at.is_some_and(|at| at <= since);
        let peers = self.peers.iter();
        let rightful = peers.filter(|peer| preferred(peer) && fit(peer.fit_since));
        let best = rightful
            .max_by_key(|peer| (peer.standing.rank(), peer.match_index, Reverse(peer.node)));
        best.map(|peer| peer.node)
    }
}

impl Core {
    /// Hands over to a voter of higher rank if it is time to; called once in each heartbeat
    /// interval. A drained leader does so whatever the setting says, and so does one that was
    /// elected before it had replayed its log, to whoever has applied what is committed.
    pub(crate) fn takeover_tick(&mut self, out: &mut Effects) {
        let (now, timeout) = (self.now, self.settings.election_timeout);
        let patience = 2 * self.heartbeat_interval();
        self.note_pace(self.commit);
        let (latest, calm) = (self.commit, self.is_undisturbed());
        let pace = self.yardstick();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if calm {
            leading.note_fit(now, patience, &pace);
        } else {
            leading.disturbed();
        }
        leading.committed_before = latest;
        if self.settings.priority_takeover || self.drained || self.is_replaying() {
            self.hand_over_to_rightful(timeout, out);
        }
    }

    /// Whether nothing is under way that a transfer would be refused for.
    fn is_undisturbed(&self) -> bool {
        let (index, configuration) = self.history.latest();
        let settled = index <= self.commit && !configuration.is_joint();
        let idle = |leading: &Leading| {
            leading.ready && leading.transfer.is_none() && leading.change.is_none()
        };
        settled && self.leading.as_deref().is_some_and(idle)
    }

    fn is_current_peer(&self, node: NodeId) -> bool {
        let peer = self
            .leading
            .as_deref()
            .and_then(|leading| leading.peer(node));
        peer.is_some_and(|peer| peer.is_current(&self.pace))
    }

    fn hand_over_to_rightful(&mut self, timeout: Duration, out: &mut Effects) {
        let now = self.now;
        let rank = self.standing().rank();
        let rank = if self.bug(PlantedBug::TakeoverByEquals) {
            rank.saturating_sub(1)
        } else {
            rank
        };
        let calm = timeout * CALM_TIMEOUTS;
        let since = Instant(now.0.saturating_sub(calm.as_micros() as u64));
        let (pace, applied) = (self.yardstick(), Some(self.applied));
        let replays = self.is_replaying();
        let preferred = |peer: &Peer| {
            let theirs = peer.standing.applied;
            let spares_a_pause = replays && theirs > applied && pace.has_applied(theirs);
            peer.standing.rank() > rank || spares_a_pause
        };
        let rightful = self
            .leading
            .as_deref()
            .and_then(|leading| leading.rightful(preferred, since));
        let Some(target) = rightful.filter(|_| self.takeover.may_try(now, timeout)) else {
            return;
        };
        if self.transfer_target(TransferTarget::Node(target)) != Ok(target) {
            return;
        }
        debug_assert!(
            self.is_current_peer(target),
            "nobody hands over to a member that would have to replay first"
        );
        self.takeover.note_attempt(now, timeout);
        let term = self.hard.term;
        out.push(Effect::Event(Event::TakeoverStarted { target, term }));
        self.begin_transfer(None, target, StopReason::Transfer, out);
        self.check_transfer(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    #[test]
    fn attempts_become_rare_and_are_forgotten() {
        let mut takeover = Takeover::default();
        let mut now = 0;
        let mut waits = alloc::vec::Vec::new();
        for _ in 0..7 {
            takeover.note_attempt(at(now), TIMEOUT);
            let begun = now;
            while !takeover.may_try(at(now), TIMEOUT) {
                now += 1;
            }
            waits.push(now - begun);
        }
        assert_eq!(waits, [4, 8, 16, 32, 64, 64, 64]);
        takeover.note_attempt(at(now + 256), TIMEOUT);
        assert!(takeover.may_try(at(now + 260), TIMEOUT));
    }

    /// What the second attempt, this long after the first, makes the third wait for.
    fn wait_after(seconds: u64) -> u32 {
        let mut takeover = Takeover::default();
        takeover.note_attempt(at(0), TIMEOUT);
        takeover.note_attempt(at(seconds), TIMEOUT);
        takeover.wait
    }

    #[test]
    fn an_attempt_is_remembered_for_a_while_unless_an_operator_intervenes() {
        assert_eq!(wait_after(255), 2 * WAIT_MIN_TIMEOUTS);
        assert_eq!(wait_after(256), WAIT_MIN_TIMEOUTS);
        let mut takeover = Takeover::default();
        takeover.note_attempt(at(0), TIMEOUT);
        assert!(!takeover.may_try(at(1), TIMEOUT));
        takeover.forget();
        assert!(takeover.may_try(at(1), TIMEOUT));
    }
}
