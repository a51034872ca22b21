//! Two Raft cores doing the same work in memory: every entry of a batch is proposed on the leader,
//! written to each member's log and reported durable, sent to every follower, acknowledged,
//! committed, handed to every member's state machine and reported applied, until nobody has
//! anything left to say. No clock runs: neither sends heartbeats meanwhile.

mod ours;
mod theirs;

pub use ours::Ours;
pub use theirs::Theirs;

/// Bytes of one command.
pub const PAYLOAD: &[u8] = &[7; 64];

/// Rounds after which the logs are cut, outside the measured time.
const TRIM_EVERY_ENTRIES: usize = 16_384;

/// A group of members in one thread, with node 1 leading.
pub trait Group {
    /// Starts `members` members and elects node 1.
    fn start(members: u64) -> Self;

    /// Proposes `batch` commands and delivers everything until all members have applied them.
    fn round(&mut self, batch: usize);

    /// Commands applied so far, by member.
    fn applied(&self) -> Vec<u64>;

    /// Lets go of the log behind what is applied.
    fn trim(&mut self);
}

/// Time for `rounds` rounds of `batch` entries, the cutting of logs left out.
///
/// # Panics
/// If a member did not apply every command: then the comparison would mean nothing.
pub fn measure<G: Group>(group: &mut G, batch: usize, rounds: u64) -> std::time::Duration {
    let before = group.applied();
    let rounds_until_trim = (TRIM_EVERY_ENTRIES / batch).max(1) as u64;
    let mut spent = std::time::Duration::ZERO;
    let mut left = rounds;
    while left > 0 {
        let now = left.min(rounds_until_trim);
        let start = std::time::Instant::now();
        for _ in 0..now {
            group.round(batch);
        }
        spent += start.elapsed();
        left -= now;
        group.trim();
    }
    for (before, after) in before.into_iter().zip(group.applied()) {
        assert_eq!(
            after - before,
            rounds * batch as u64,
            "every member applied everything"
        );
    }
    spent
}
