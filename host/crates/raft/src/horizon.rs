//! How old a replica's state may be.
//!
//! A leader knows a moment up to which no other leader can have committed anything: when it sent
//! the latest message that a quorum has answered. Whatever was acknowledged before that moment lies
//! at or below its commit index. It tells its followers so in heartbeats, together with how long
//! ago that moment is and the [`Echo`] of their own latest answer, which proves that the heartbeat
//! was made after it: a follower need not trust the network, or its own queues, to be fast. In a
//! healthy group a follower can vouch for its state as of two to three heartbeats ago. Only spans
//! of time are compared, each measured on one clock.

use crate::core::Core;
use crate::{Echo, HorizonNews, Instant, LogIndex};
use alloc::collections::VecDeque;

/// Horizons that are remembered; a replica that lags far behind keeps a coarser past.
const HORIZONS_MAX: usize = 64;

/// Everything acknowledged before `as_of` has an index of at most `commit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// On this replica's clock.
    pub as_of: Instant,
    /// What must be applied for the state to be that fresh.
    pub commit: LogIndex,
}

/// The horizons a replica has seen and not yet reached, and the latest one it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Horizons {
    /// Moments and indexes both ascend, neither repeats.
    known: VecDeque<Horizon>,
}

impl Horizons {
    /// Takes in a horizon; one that says less than is known is dropped. What lies before the
    /// latest horizon within `applied` is forgotten.
    pub fn note(&mut self, horizon: Horizon, applied: LogIndex) {
        let newest = self.known.back();
        if newest.is_some_and(|h| horizon.as_of <= h.as_of || horizon.commit < h.commit) {
            return;
        }
        self.known.pop_back_if(|h| h.commit == horizon.commit);
        self.forget_before(applied);
        if self.known.len() == HORIZONS_MAX {
            self.thin_out();
        }
        self.known.push_back(horizon);
    }

    /// The latest moment before which nothing was acknowledged that a state at `applied` lacks;
    /// none if no such moment is known.
    #[must_use]
    pub fn as_of(&self, applied: LogIndex) -> Option<Instant> {
        let reached = self.known.partition_point(|h| h.commit <= applied);
        let at = reached.checked_sub(1)?;
        Some(self.known[at].as_of)
    }

    fn forget_before(&mut self, applied: LogIndex) {
        let reached = self.known.partition_point(|h| h.commit <= applied);
        self.known.drain(..reached.saturating_sub(1));
    }

    /// Forgetting a horizon never makes a state look fresher than it is.
    fn thin_out(&mut self) {
        let mut keep = false;
        self.known.retain(|_| {
            keep = !keep;
            keep
        });
    }
}

impl Core {
    /// The latest horizon, if any is known. It changes with heartbeats and their answers; a host
    /// that wants to know how stale a state is collects them in [`Horizons`].
    #[must_use]
    pub fn horizon(&self) -> Option<Horizon> {
        self.horizon
    }

    /// As a leader: what a quorum has confirmed, and how long ago. Nothing before the first entry
    /// of the term is committed: the predecessor may have acknowledged more (trap 8).
    pub(crate) fn own_horizon(&self) -> Option<Horizon> {
        let leading = self.leading.as_deref().filter(|leading| leading.ready)?;
        let as_of = leading.quorum_sent_at(self.now)?;
        let commit = self.commit;
        Some(Horizon { as_of, commit })
    }

    /// Takes note of a horizon, unless a later one is known.
    pub(crate) fn advance_horizon(&mut self, horizon: Option<Horizon>) {
        let newer = |h: &Horizon| self.horizon.is_none_or(|known| known.as_of < h.as_of);
        self.horizon = horizon.filter(newer).or(self.horizon);
    }

    /// As a follower: what the leader says counts from the answer that it had when it said it.
    pub(crate) fn note_horizon(&mut self, news: &HorizonNews) {
        let own = news.echo.incarnation == self.incarnation && news.echo.at <= self.now;
        let horizon = own.then(|| Horizon {
            as_of: news.echo.at.before(news.age),
            commit: news.commit,
        });
        self.advance_horizon(horizon);
    }

    /// What goes with every answer to a heartbeat.
    pub(crate) fn echo(&self) -> Echo {
        Echo {
            incarnation: self.incarnation,
            at: self.now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Cluster;
    use crate::{NodeId, Settings};
    use core::time::Duration;

    fn horizon(as_of: u64, commit: u64) -> Horizon {
        Horizon {
            as_of: Instant(as_of),
            commit: LogIndex(commit),
        }
    }

    #[test]
    fn a_state_is_as_fresh_as_the_last_horizon_it_reached() {
        let mut horizons = Horizons::default();
        assert_eq!(horizons.as_of(LogIndex(9)), None);
        horizons.note(horizon(10, 5), LogIndex(0));
        horizons.note(horizon(20, 8), LogIndex(0));
        assert_eq!(horizons.as_of(LogIndex(4)), None, "too far behind to say");
        assert_eq!(horizons.as_of(LogIndex(7)), Some(Instant(10)));
        assert_eq!(horizons.as_of(LogIndex(8)), Some(Instant(20)));
    }

    #[test]
    fn late_news_says_nothing_new() {
        let mut horizons = Horizons::default();
        horizons.note(horizon(20, 8), LogIndex(0));
        horizons.note(horizon(10, 9), LogIndex(0));
        horizons.note(horizon(30, 7), LogIndex(0));
        assert_eq!(horizons.as_of(LogIndex(100)), Some(Instant(20)));
        assert_eq!(horizons.as_of(LogIndex(7)), None);
    }

    #[test]
    fn an_idle_group_needs_one_horizon_and_a_lagging_replica_boundedly_many() {
        let mut horizons = Horizons::default();
        for at in 1..1_000 {
            horizons.note(horizon(at, 5), LogIndex(0));
        }
        assert_eq!(horizons.known.len(), 1);
        for at in 1_000..100_000 {
            horizons.note(horizon(at, at), LogIndex(4));
        }
        assert!(horizons.known.len() <= HORIZONS_MAX);
        let reached = horizons.as_of(LogIndex(50_000)).unwrap();
        assert!(reached <= Instant(50_000));
        horizons.note(horizon(100_000, 100_000), LogIndex(99_999));
        assert!(horizons.known.len() <= 2, "what was reached is forgotten");
    }

    #[test]
    fn as_many_horizons_as_fit_are_kept_exactly() {
        let mut horizons = Horizons::default();
        let all = 1..=HORIZONS_MAX as u64;
        all.clone()
            .for_each(|at| horizons.note(horizon(at, 10 * at), LogIndex(0)));
        for at in all {
            assert_eq!(horizons.as_of(LogIndex(10 * at)), Some(Instant(at)));
        }
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn everyone_in_a_healthy_group_is_fresh() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        cluster.run_ms(500);
        for id in 1..=3 {
            let rounds = if id == leader { 1 } else { 3 };
            let most = cluster.node(id).core.heartbeat_interval() * rounds;
            assert!(cluster.staleness(id).unwrap() <= most, "node {id}");
        }
        let mut alone = Cluster::new(1);
        alone.elect();
        alone.run_ms(500);
        assert!(alone.staleness(1).unwrap() <= ms(100));
    }

    #[test]
    fn a_leader_that_is_cut_off_grows_stale() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        cluster.run_ms(300);
        cluster.isolate(leader);
        cluster.run_ms(600);
        assert_eq!(cluster.node(leader).core.role(), crate::Role::Leader);
        assert!(cluster.staleness(leader).unwrap() >= ms(600));
        cluster.run_ms(5_000);
        assert!(cluster.staleness(leader).unwrap() >= ms(5_600));
    }

    #[test]
    fn a_follower_that_hears_only_a_leader_without_a_quorum_grows_stale() {
        let mut cluster = Cluster::new(5);
        let leader = cluster.elect();
        cluster.run_ms(300);
        let follower = leader % 5 + 1;
        cluster.isolate(leader);
        cluster.cut.remove(&(leader, follower));
        cluster.cut.remove(&(follower, leader));
        cluster.run_ms(700);
        assert_eq!(cluster.node(follower).core.leader(), Some(NodeId(leader)));
        assert!(cluster.staleness(follower).unwrap() >= ms(700));
    }

    #[test]
    fn a_replica_that_lags_in_applying_says_so() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        cluster.run_ms(300);
        let follower = leader % 3 + 1;
        cluster.node_mut(follower).hold_apply = true;
        cluster.propose(leader, b"x");
        cluster.run_ms(2_000);
        let staleness = cluster.staleness(follower).unwrap();
        assert!((ms(1_900)..=ms(2_300)).contains(&staleness));
    }

    #[test]
    fn a_follower_that_is_catching_up_cannot_say_how_old_it_is() {
        let settings = Settings {
            apply_inflight_entries_max: 1,
            ..Settings::default()
        };
        let mut cluster = Cluster::with(3, settings);
        let leader = cluster.elect();
        for _ in 0..20 {
            cluster.propose(leader, b"x");
        }
        let follower = leader % 3 + 1;
        cluster.restart(follower);
        cluster.node_mut(follower).hold_apply = true;
        cluster.run_ms(500);
        let status = cluster.node(follower).core.status(cluster.now);
        assert!(status.leader.is_some() && status.applied_index < status.commit_index);
        assert_eq!(cluster.staleness(follower), None);
    }

    #[test]
    fn a_heartbeat_that_was_long_under_way_makes_nothing_fresh() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        cluster.run_ms(300);
        let follower = leader % 3 + 1;
        let before = cluster.node(follower).core.horizon();
        // The follower sleeps for a while with heartbeats in its queues.
        cluster.node_mut(follower).asleep = true;
        cluster.run_ms(5_000);
        cluster.node_mut(follower).asleep = false;
        cluster.deliver_kept(follower);
        let after = cluster.node(follower).core.horizon();
        let gained = after.unwrap().as_of.since(before.unwrap().as_of);
        assert!(gained <= ms(200), "{gained:?}");
        cluster.run_ms(500);
        assert!(cluster.staleness(follower).unwrap() <= ms(300));
    }
}
