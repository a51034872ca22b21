//! How far a replica has applied what its group has committed, and whether that is far enough to
//! lead.
//!
//! A leader whose state machine lags commits commands and leaves them unanswered for as long as it
//! lags: after a restart that is the replay of the whole log. Entries say little about that time,
//! so members are compared by what was applied *an election timeout ago*: whoever has applied that
//! much delays nobody for longer than an election would.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::progress::Peer;
use crate::{Instant, LogIndex};
use core::time::Duration;

/// What was committed and applied at a moment.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: Instant,
    commit: LogIndex,
    applied: LogIndex,
}

/// What was committed and applied a while ago, and what is to be replayed since the start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// At least an election timeout before `latest`, or when the replica was opened.
    before: Mark,
    latest: Mark,
    /// Highest commit index that a leader named.
    heard: LogIndex,
    replay: Option<Replay>,
}

/// The replay since the replica was opened, while it lasts.
#[derive(Clone, Copy, Debug)]
struct Replay {
    /// Last entry found. It need not be committed, and may be cut.
    found: LogIndex,
    /// What the first leader named as committed.
    heard: LogIndex,
}

impl Pace {
    /// At opening: nothing is known but what was found and what the state machine holds.
    pub(crate) fn new(now: Instant, found: LogIndex, applied: LogIndex) -> Self {
        let mark = Mark {
            at: now,
            commit: LogIndex(0),
            applied,
        };
        let replay = Replay {
            found,
            heard: LogIndex(0),
        };
        Self {
            before: mark,
            latest: mark,
            heard: LogIndex(0),
            replay: (found > applied).then_some(replay),
        }
    }

    /// A sign of a leader, one's own included: `commit` is what it named.
    fn note(&mut self, now: Instant, timeout: Duration, commit: LogIndex, applied: LogIndex) {
        self.heard = self.heard.max(commit);
        if let Some(replay) = self.replay.as_mut().filter(|r| r.heard == LogIndex(0)) {
            replay.heard = commit;
        }
        if now >= self.latest.at.plus(timeout) {
            self.before = self.latest;
            self.latest = Mark {
                at: now,
                commit: self.heard,
                applied,
            };
        }
    }

    /// Whether a member that has applied up to `applied` is current. One that does not say is taken
    /// to be: it is of an older version.
    pub(crate) fn is_current(&self, applied: Option<LogIndex>) -> bool {
        applied.is_none_or(|applied| applied >= self.before.applied)
    }

    /// Whether it has applied what was committed a while ago: then it could lead without a pause.
    pub(crate) fn has_applied(&self, applied: Option<LogIndex>) -> bool {
        applied.is_some_and(|applied| applied >= self.before.commit)
    }

    /// Whether `index` had been committed a while ago.
    pub(crate) fn was_committed(&self, index: LogIndex) -> bool {
        index <= self.before.commit
    }

    /// Up to where to replay, with a log that ends at `last`; none once that was reached.
    fn replay_upto(&self, last: LogIndex) -> Option<LogIndex> {
        let replay = self.replay?;
        Some(
            replay
                .found
                .min(last)
                .max(replay.heard)
                .max(self.before.commit),
        )
    }
}

impl Peer {
    /// What `pace` says of it.
    pub(crate) fn is_current(&self, pace: &Pace) -> bool {
        pace.is_current(self.standing.applied)
    }
}

impl Core {
    /// Takes note of the time, while there is a leader.
    pub(crate) fn note_pace(&mut self, commit: LogIndex) {
        let commit = commit.max(self.commit);
        let timeout = self.settings.election_timeout;
        self.pace.note(self.now, timeout, commit, self.applied);
        self.settle_replay();
    }

    /// Ends the replay if it is complete.
    pub(crate) fn settle_replay(&mut self) {
        let upto = self.pace.replay_upto(self.log.last().index);
        if upto.is_some_and(|upto| self.applied >= upto) {
            self.pace.replay = None;
        }
    }

    /// What other members are compared with.
    pub(crate) fn yardstick(&self) -> Pace {
        if self.bug(PlantedBug::LagIgnored) {
            return Pace::new(self.now, LogIndex(0), LogIndex(0));
        }
        self.pace
    }

    /// Whether the replay since the replica was opened is not complete.
    pub(crate) fn is_replaying(&self) -> bool {
        self.yardstick().replay.is_some()
    }

    /// Whether this replica has not applied what was committed an election timeout ago.
    pub(crate) fn lags(&self) -> bool {
        self.is_replaying() || self.applied < self.yardstick().before.commit
    }

    /// Entries that this replica must still apply until it is as current as it was before it was
    /// opened; none once it has been. Zero also if it cannot go on because it has stopped.
    #[must_use]
    pub fn replay_left(&self) -> u64 {
        let upto = self.pace.replay_upto(self.log.last().index);
        let upto = upto.filter(|_| !self.stopped);
        upto.map_or(0, |upto| upto.0.saturating_sub(self.applied.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(1);

    fn note(pace: &mut Pace, seconds: u64, commit: u64, applied: u64) {
        let at = Instant(seconds * 1_000_000);
        pace.note(at, TIMEOUT, LogIndex(commit), LogIndex(applied));
    }

    #[test]
    fn what_was_applied_a_timeout_ago_is_current() {
        let mut pace = Pace::new(Instant(0), LogIndex(0), LogIndex(0));
        for second in 1..=5 {
            note(&mut pace, second, 10 * second, 10 * second);
        }
        assert!(pace.is_current(Some(LogIndex(40))));
        assert!(!pace.is_current(Some(LogIndex(39))));
        assert!(pace.is_current(None), "an older version does not say");
    }

    #[test]
    fn whoever_replays_finds_nobody_behind() {
        let mut pace = Pace::new(Instant(0), LogIndex(100), LogIndex(0));
        note(&mut pace, 1, 100, 0);
        assert!(pace.is_current(Some(LogIndex(0))));
    }

    #[test]
    fn a_replay_goes_up_to_what_is_committed_and_not_beyond_the_log() {
        let mut pace = Pace::new(Instant(0), LogIndex(100), LogIndex(0));
        assert_eq!(pace.replay_upto(LogIndex(100)), Some(LogIndex(100)));
        assert_eq!(pace.replay_upto(LogIndex(90)), Some(LogIndex(90)), "cut");
        note(&mut pace, 0, 200, 0);
        assert_eq!(pace.replay_upto(LogIndex(100)), Some(LogIndex(200)));
        note(&mut pace, 1, 300, 150);
        note(&mut pace, 2, 400, 250);
        assert_eq!(pace.replay_upto(LogIndex(400)), Some(LogIndex(300)));
    }

    #[test]
    fn nothing_found_is_nothing_to_replay() {
        let pace = Pace::new(Instant(0), LogIndex(7), LogIndex(7));
        assert_eq!(pace.replay_upto(LogIndex(7)), None);
    }
}
