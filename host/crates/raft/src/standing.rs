//! Who should lead: priorities, drained members, and whose turn it is when a leader falls silent.
//!
//! Members report their [`Standing`] with every heartbeat, and the leader tells each follower its
//! [`ElectionTurn`] in the next one. So a follower that others are preferred to gives them a head
//! start when the leader is gone. Only the first attempt is ordered in this way: preferred members
//! that are dead or behind as well cost half an election timeout, once. That voters refuse a less
//! preferred candidate a few times (`election.rs`) is the second line, for groups that had no leader
//! to tell them.

use crate::core::Core;
use crate::leading::Leading;
use crate::pace::Pace;
use crate::planted::PlantedBug;
use crate::progress::Peer;
use crate::{ElectionTurn, Instant, Standing};
use core::time::Duration;

/// Election timeouts without any leader after which a drained member campaigns all the same:
/// everybody else has had several chances, and a group without a leader is worse than one that is
/// led from where it should not be.
const DRAINED_TIMEOUTS: u32 = 4;

impl Standing {
    /// What candidates are compared by: a drained member ranks below every other.
    pub(crate) fn rank(self) -> u32 {
        if self.drained { 0 } else { self.priority }
    }

    /// Whether it may be given leadership though nobody named it.
    pub(crate) fn is_willing(self) -> bool {
        self.rank() > 0
    }
}

/// What successors are compared by: first whether one could answer commands at once, for it is
/// willing and does not lag in applying, then its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fitness {
    at_once: bool,
    rank: u32,
}

impl Fitness {
    /// Below everybody's but that of a drained member.
    const LEAST: Self = Self {
        at_once: false,
        rank: 0,
    };
    const MOST: Self = Self {
        at_once: true,
        rank: u32::MAX,
    };
}

/// How fit the voters are that may become leader, as the leader sees them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    pace: Pace,
    /// The fittest of those that answer and keep up.
    best: Fitness,
    /// The least fit of those that answer and campaign of their own accord.
    lowest: Fitness,
}

impl Field {
    /// When `peer` should campaign if this leader falls silent.
    pub(crate) fn turn(self, peer: &Peer) -> ElectionTurn {
        let fitness = peer.fitness(&self.pace);
        if !peer.is_voter() || fitness > self.best {
            ElectionTurn::Any
        } else if fitness < self.best {
            ElectionTurn::Later
        } else if self.lowest < self.best {
            ElectionTurn::First
        } else {
            ElectionTurn::Any
        }
    }
}

impl Peer {
    pub(crate) fn fitness(&self, pace: &Pace) -> Fitness {
        Fitness {
            at_once: self.standing.is_willing() && self.is_current(pace),
            rank: self.standing.rank(),
        }
    }
}

impl Leading {
    /// The voters other than the leader.
    pub(crate) fn field(&self, now: Instant, timeout: Duration, pace: Pace) -> Field {
        let answering = |peer: &&Peer| peer.is_voter() && peer.answered_within(timeout, now);
        let voters = self.peers.iter().filter(answering);
        let best = voters.clone().filter(|peer| self.keeps_up(peer));
        let willing = voters.filter(|peer| peer.standing.is_willing());
        let fitness = |peer: &Peer| peer.fitness(&pace);
        Field {
            pace,
            best: best.map(fitness).max().unwrap_or(Fitness::LEAST),
            lowest: willing.map(fitness).min().unwrap_or(Fitness::MOST),
        }
    }

    /// Whether the peer holds everything that was committed a heartbeat interval ago: what it still
    /// lacks it will have in about that time.
    pub(crate) fn keeps_up(&self, peer: &Peer) -> bool {
        peer.is_streaming_from(self.committed_before)
    }
}

impl Core {
    /// What this member reports of itself.
    pub(crate) fn standing(&self) -> Standing {
        Standing {
            priority: self.settings.priority,
            drained: self.drained,
            applied: Some(self.applied),
        }
    }

    /// The priority has changed.
    pub(crate) fn on_new_priority(&mut self) {
        self.takeover.forget();
        if self.settings.priority == 0 {
            self.cancel_unforced_campaign();
        }
    }

    pub(crate) fn on_set_drained(&mut self, drained: bool) {
        if self.drained == drained {
            return;
        }
        self.drained = drained;
        self.drained_timeouts = 0;
        self.takeover.forget();
        if drained {
            self.cancel_unforced_campaign();
        }
    }

    /// Ends an election that nobody ordered, before it is won. Requests that still wait for the
    /// disk, be it since an earlier attempt, do not leave; the vote this node gave itself in the
    /// term stays.
    fn cancel_unforced_campaign(&mut self) {
        self.disk.drop_held_vote_requests();
        if self.campaign.take_if(|campaign| !campaign.forced).is_some() {
            self.reset_election_timer();
        }
    }

    /// Whether this node may start an election that nobody ordered, at this election timeout.
    pub(crate) fn may_campaign_unasked(&mut self) -> bool {
        if self.settings.priority == 0 {
            return false;
        }
        if !self.drained || self.is_only_voter() || self.bug(PlantedBug::DrainedCampaigns) {
            return true;
        }
        self.drained_timeouts += 1;
        self.drained_timeouts >= DRAINED_TIMEOUTS
    }

    /// Takes note of when the leader wants this node to campaign should it fall silent.
    pub(crate) fn note_turn(&mut self, turn: ElectionTurn) {
        if self.turn != turn {
            self.turn = turn;
            self.reset_election_timer();
        }
    }

    /// Draws how long to wait for a sign of a leader. Whoever goes first begins within a third of a
    /// timeout after everybody has missed the leader, and whoever goes later leaves it the rest of
    /// half a timeout to win, counted from when voters may vote again.
    pub(crate) fn draw_election_wait(&mut self) -> Duration {
        let timeout = self.settings.election_timeout;
        let spread = timeout.min(self.settings.election_spread_max);
        match self.turn {
            ElectionTurn::Any => timeout + self.random.below(spread),
            ElectionTurn::First => {
                timeout + timeout / 16 + self.random.below(spread.min(timeout / 4))
            }
            ElectionTurn::Later => {
                let bound = if self.settings.leader_lease {
                    timeout + self.settings.max_clock_drift
                } else {
                    timeout
                };
                bound + timeout / 2 + self.random.below(spread)
            }
        }
    }
}
