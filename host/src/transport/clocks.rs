//! How far other nodes' wall clocks are from this one's.
//!
//! Each frame carries its sender's time. The time on the way makes a sender look late, never early, so
//! the latest that it looked within a while is the best that is known of it.

use kontiki_raft::NodeId;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a sample counts at least; twice that at most.
const WINDOW: Duration = Duration::from_secs(5);
/// Differences up to this are taken for time on the way and for clocks that are as good as the same.
pub(crate) const SLACK: Duration = Duration::from_secs(5);

/// What was seen of a node's clock: ahead of this one's by so much, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    highest_ns: i64,
    before: Option<i64>,
}

/// The clocks of the nodes that this one hears.
#[derive(Debug, Default)]
pub(crate) struct Clocks(Mutex<HashMap<NodeId, Seen>>);

impl Clocks {
    /// Takes in a time that a node sent, at this node's `own_ns`.
    pub(crate) fn note(&self, node: NodeId, sent_ns: u64, own_ns: u64, now: Instant) {
        let ahead_ns = difference(sent_ns, own_ns);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(node).or_insert(Seen {
            since: now,
            highest_ns: ahead_ns,
            before: None,
        });
        let age = now.saturating_duration_since(seen.since);
        if age < WINDOW {
            seen.highest_ns = seen.highest_ns.max(ahead_ns);
            return;
        }
        *seen = Seen {
            since: now,
            highest_ns: ahead_ns,
            before: (age < 2 * WINDOW).then_some(seen.highest_ns),
        };
    }

    /// By how many nanoseconds that node's clock is ahead of this one's; nothing if it is not heard.
    fn ahead_ns(&self, node: NodeId, now: Instant) -> Option<i64> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.get(&node)?;
        let fresh = now.saturating_duration_since(seen.since) < 2 * WINDOW;
        let highest = seen
            .before
            .map_or(seen.highest_ns, |before| before.max(seen.highest_ns));
        fresh.then_some(highest)
    }

    /// Nodes whose clock is further from this one's than [`SLACK`], and by how many seconds they are
    /// ahead.
    pub(crate) fn astray(&self, now: Instant) -> Vec<(NodeId, f64)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut nodes: Vec<NodeId> = all.keys().copied().collect();
        drop(all);
        nodes.sort_unstable();
        let seconds = |ns: i64| Duration::from_nanos(ns.unsigned_abs()).as_secs_f64();
        let ahead = nodes.into_iter().filter_map(|node| {
            let ns = self.ahead_ns(node, now)?;
            let sign = if ns < 0 { -1.0 } else { 1.0 };
            (seconds(ns) > SLACK.as_secs_f64()).then_some((node, sign * seconds(ns)))
        });
        ahead.collect()
    }

    /// The time that a leader gives to commands at `own_ns`: its own, unless it is ahead of what a
    /// majority of the voters (this node among `voters` or not) has reached by more than [`SLACK`];
    /// then theirs. Nodes that are not heard say nothing.
    pub(crate) fn stamp(
        &self,
        own_ns: u64,
        me: NodeId,
        voters: impl ExactSizeIterator<Item = NodeId>,
        now: Instant,
    ) -> u64 {
        let majority = voters.len() / 2 + 1;
        let ahead = |node| match node == me {
            true => Some(0),
            false => self.ahead_ns(node, now),
        };
        let mut clocks: Vec<i64> = voters.filter_map(ahead).collect();
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        let reached = clocks.get(majority - 1).copied().unwrap_or(0);
        match reached < -(SLACK.as_nanos() as i64) {
            true => own_ns.saturating_add_signed(reached),
            false => own_ns,
        }
    }
}

/// `a - b`, as far as it can be said.
fn difference(a: u64, b: u64) -> i64 {
    let size = |ns: u64| i64::try_from(ns).unwrap_or(i64::MAX);
    match a >= b {
        true => size(a - b),
        false => -size(b - a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const HOUR: u64 = 3_600 * SECOND;
    const NOON: u64 = 500_000 * HOUR;
    const ME: NodeId = NodeId(1);

    fn voters(count: u64) -> impl ExactSizeIterator<Item = NodeId> {
        (1..=count).map(NodeId).collect::<Vec<_>>().into_iter()
    }

    #[test]
    fn a_leader_that_is_hours_ahead_of_a_majority_stamps_by_the_majority() {
        let (clocks, now) = (Clocks::default(), Instant::now());
        let ahead = NOON + 2 * HOUR;
        assert_eq!(clocks.stamp(ahead, ME, voters(3), now), ahead);
        clocks.note(NodeId(2), NOON, ahead, now);
        assert_eq!(clocks.stamp(ahead, ME, voters(3), now), NOON);
        clocks.note(NodeId(3), NOON + SECOND, ahead, now);
        assert_eq!(clocks.stamp(ahead, ME, voters(3), now), NOON + SECOND);
        let later = ahead + SECOND;
        assert_eq!(clocks.stamp(later, ME, voters(3), now), NOON + 2 * SECOND);
    }

    #[test]
    fn a_leader_keeps_its_time_beside_one_that_lags_and_in_a_slow_network() {
        let (clocks, now) = (Clocks::default(), Instant::now());
        clocks.note(NodeId(2), NOON - 2 * HOUR, NOON, now);
        clocks.note(NodeId(3), NOON - 2 * SECOND, NOON, now);
        assert_eq!(clocks.stamp(NOON, ME, voters(3), now), NOON);
        // One that is ahead of all others pulls nobody along.
        clocks.note(NodeId(3), NOON + 9 * HOUR, NOON, now);
        assert_eq!(clocks.stamp(NOON, ME, voters(3), now), NOON);
        assert_eq!(clocks.stamp(NOON, ME, voters(1), now), NOON);
    }

    #[test]
    fn what_was_long_on_the_way_is_outweighed_and_what_is_old_says_nothing() {
        let (clocks, now) = (Clocks::default(), Instant::now());
        clocks.note(NodeId(2), NOON, NOON, now);
        clocks.note(NodeId(2), NOON, NOON + 60 * SECOND, now + WINDOW);
        assert_eq!(clocks.astray(now + WINDOW), []);
        let later = now + 2 * WINDOW;
        clocks.note(NodeId(2), NOON, NOON + 60 * SECOND, later);
        assert_eq!(clocks.astray(later), [(NodeId(2), -60.0)]);
        assert_eq!(clocks.astray(later + 2 * WINDOW), []);
    }
}
