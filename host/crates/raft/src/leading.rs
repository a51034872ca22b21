//! What only a leader knows.

use crate::membership::Change;
use crate::progress::Peer;
use crate::quorum;
use crate::read_index::Reads;
use crate::transfer::Transfer;
use crate::{Configuration, Instant, LogIndex, NodeId, Settings};
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

/// Send times of heartbeat rounds that are remembered.
const ROUNDS_MAX: usize = 256;

/// State of a leadership; dropped with it.
#[derive(Debug)]
pub(crate) struct Leading {
    /// Everyone this leader replicates to, ascending by node.
    pub(crate) peers: Vec<Peer>,
    /// Whether the leader itself votes in the current set.
    self_in_current: bool,
    /// Whether it votes in the set being left; nothing if no change is under way.
    self_in_old: Option<bool>,
    /// The first entry of this term.
    pub(crate) first_index: LogIndex,
    /// That entry is committed, and `LeaderStarted` was or will be reported.
    pub(crate) ready: bool,
    /// `LeaderStarted` was reported and `LeaderStopped` was not.
    pub(crate) announced: bool,
    pub(crate) since: Instant,
    pub(crate) heartbeat_due: Instant,
    /// When to look after peers again. Reads send heartbeats as well, and put off the next one: what
    /// is done by the clock has a time of its own, or many reads would put it off for ever.
    pub(crate) upkeep_due: Instant,
    /// Commit index at the upkeep before.
    pub(crate) committed_before: LogIndex,
    /// When to look again whether a quorum answers.
    pub(crate) quorum_due: Instant,
    /// Silence before this does not count: the timers were changed then.
    pub(crate) silence_from: Instant,
    /// Number of the latest heartbeat round.
    pub(crate) round: u64,
    /// Some of the latest rounds, and when they were sent; ascending.
    rounds: VecDeque<(u64, Instant)>,
    /// Answers to messages sent before this do not count for the lease.
    pub(crate) lease_from: Instant,
    pub(crate) reads: Reads,
    pub(crate) change: Option<Change>,
    pub(crate) transfer: Option<Transfer>,
    /// Too few members are writable.
    pub(crate) peers_read_only: bool,
    /// Highest sequence of the records that were let go.
    sequence_forgotten: u64,
}

impl Leading {
    pub(crate) fn new(first_index: LogIndex, round: u64, now: Instant) -> Self {
        Self {
            peers: Vec::new(),
            self_in_current: false,
            self_in_old: None,
            first_index,
            ready: false,
            announced: false,
            since: now,
            heartbeat_due: now,
            upkeep_due: now,
            committed_before: LogIndex(0),
            quorum_due: now,
            silence_from: now,
            round,
            rounds: VecDeque::new(),
            lease_from: now,
            reads: Reads::default(),
            change: None,
            transfer: None,
            peers_read_only: false,
            sequence_forgotten: 0,
        }
    }

    pub(crate) fn position(&self, node: NodeId) -> Option<usize> {
        self.peers
            .binary_search_by_key(&node, |peer| peer.node)
            .ok()
    }

    pub(crate) fn peer(&self, node: NodeId) -> Option<&Peer> {
        self.position(node).map(|at| &self.peers[at])
    }

    /// The record of `node`, made if there is none.
    pub(crate) fn peer_or_new(&mut self, node: NodeId, next: LogIndex, now: Instant) -> &mut Peer {
        let at = match self.peers.binary_search_by_key(&node, |peer| peer.node) {
            Ok(at) => at,
            Err(at) => {
                let peer = Peer::new(node, next, now).after(self.sequence_forgotten);
                self.peers.insert(at, peer);
                at
            }
        };
        &mut self.peers[at]
    }

    /// Lets the records go that `keep` does not name.
    pub(crate) fn retain_peers(&mut self, keep: impl Fn(&Peer) -> bool) {
        let forgotten = &mut self.sequence_forgotten;
        self.peers.retain(|peer| {
            let kept = keep(peer);
            if !kept {
                *forgotten = peer.sequence().max(*forgotten);
            }
            kept
        });
    }

    /// Lets the records of leaving peers go that are to come back: such a replica may have been
    /// deleted in between, so what it once held says nothing (trap 38).
    pub(crate) fn forget_leaving(&mut self, comes_back: impl Fn(NodeId) -> bool) {
        self.retain_peers(|peer| peer.leaving.is_none() || !comes_back(peer.node));
    }

    /// Brings the flags of all peers in line with `configuration`, adds those that are missing.
    pub(crate) fn adopt(
        &mut self,
        own: NodeId,
        configuration: &Configuration,
        next: LogIndex,
        now: Instant,
    ) {
        let votes_in_old = |node| {
            let old = configuration.old.as_ref();
            old.is_some_and(|old| old.voters.contains(&node))
        };
        self.self_in_current = configuration.current.voters.contains(&own);
        self.self_in_old = configuration.is_joint().then(|| votes_in_old(own));
        self.forget_leaving(|node| configuration.contains(node));
        for node in configuration
            .members()
            .into_iter()
            .filter(|&node| node != own)
        {
            self.peer_or_new(node, next, now);
        }
        for peer in &mut self.peers {
            peer.member = configuration.contains(peer.node);
            peer.in_current = configuration.current.voters.contains(&peer.node);
            peer.in_old = votes_in_old(peer.node);
        }
    }

    /// The greatest value that a majority of each set in force has reached. The leader's own
    /// counts only where it votes; learners never count.
    pub(crate) fn agreed<T: Ord + Copy>(
        &self,
        own: T,
        value: impl Fn(&Peer) -> T + Copy,
    ) -> Option<T> {
        let set = |member: fn(&Peer) -> bool, with_own: bool| {
            let peers = self
                .peers
                .iter()
                .filter(move |peer| member(peer))
                .map(value);
            quorum::agreed(peers.chain(with_own.then_some(own)))
        };
        let current = set(|peer| peer.in_current, self.self_in_current);
        let old = self
            .self_in_old
            .map(|with_own| set(|peer| peer.in_old, with_own));
        quorum::agreed_jointly(current, old)
    }

    /// As [`Self::agreed`], looking at one set only; for planted faults.
    pub(crate) fn agreed_by_current<T: Ord + Copy>(
        &self,
        own: T,
        member: impl Fn(&Peer) -> bool + Copy,
        value: impl Fn(&Peer) -> T + Copy,
    ) -> Option<T> {
        let peers = self.peers.iter().filter(|peer| member(peer)).map(value);
        quorum::agreed(peers.chain(self.self_in_current.then_some(own)))
    }

    /// Begins a heartbeat round and returns its number. Reads may begin thousands in a second:
    /// rounds that follow within `resolution` share the send time of the first.
    pub(crate) fn begin_round(&mut self, now: Instant, resolution: Duration) -> u64 {
        self.round += 1;
        let due = |&(_, at): &(u64, Instant)| now >= at.plus(resolution);
        if self.rounds.back().is_none_or(due) {
            if self.rounds.len() == ROUNDS_MAX {
                self.rounds.pop_front();
            }
            self.rounds.push_back((self.round, now));
        }
        self.round
    }

    /// When `round` was sent, or a little earlier; nothing if it is unknown or too long ago.
    pub(crate) fn round_sent_at(&self, round: u64) -> Option<Instant> {
        let begun = self.rounds.partition_point(|&(first, _)| first <= round);
        let at = begun.checked_sub(1).filter(|_| round <= self.round)?;
        Some(self.rounds[at].1)
    }

    /// The moment before which no quorum can vote for anybody else, none if there is none: see the
    /// argument in `lease.rs`. The leader itself votes for nobody else while it leads.
    pub(crate) fn lease_end(&self, settings: &Settings, now: Instant) -> Option<Instant> {
        let own = settings.election_timeout;
        let end = |peer: &Peer| {
            let (sent_at, promise) = peer.promise().filter(|(at, _)| *at >= self.lease_from)?;
            let drift = promise.drift.max(settings.max_clock_drift);
            Some(sent_at.plus(own.min(promise.span.saturating_sub(drift))))
        };
        self.agreed(Some(now.plus(own)), end).flatten()
    }

    /// The moment up to which a quorum is known to have followed: the latest send time that a
    /// quorum has answered, none if there is none. The leader itself follows `now`.
    pub(crate) fn quorum_sent_at(&self, now: Instant) -> Option<Instant> {
        self.agreed(Some(now), |peer| peer.acked_sent_at).flatten()
    }

    /// As [`Self::quorum_sent_at`], but a peer that never answered counts from when
    /// it was added, so that a new leader has time to hear from its quorum.
    pub(crate) fn quorum_heard_at(&self, now: Instant) -> Option<Instant> {
        self.agreed(now, |peer| peer.acked_sent_at.unwrap_or(peer.since))
    }

    /// Time until the leader steps down if nobody answers from now on.
    pub(crate) fn patience_left(&self, now: Instant, timeout: Duration) -> Duration {
        let heard = self.quorum_heard_at(now).unwrap_or(self.since);
        heard.plus(timeout).since(now)
    }
}
