//! Prints the table of `host/docs/benchmarks/raft-core.md`: both cores alternate in one run, the
//! median of the repetitions counts.

use kontiki_raft_bench::{Group, Ours, Theirs, measure};
use std::time::Duration;

const REPETITIONS: usize = 15;
const SPAN: Duration = Duration::from_millis(400);

fn main() {
    println!(
        "| members | batch | kontiki, ns per entry | raft-rs, ns per entry | raft-rs / kontiki |"
    );
    println!("|---|---|---|---|---|");
    for members in [3, 5] {
        for batch in [1, 256] {
            let (ours, theirs) = compare(members, batch);
            let ratio = theirs / ours;
            println!("| {members} | {batch} | {ours:.0} | {theirs:.0} | {ratio:.2} |");
        }
    }
}

/// Nanoseconds per entry, ours and theirs.
fn compare(members: u64, batch: usize) -> (f64, f64) {
    let (mut ours, mut theirs) = (Ours::start(members), Theirs::start(members));
    let our_rounds = rounds_within(&mut ours, batch, SPAN);
    let their_rounds = rounds_within(&mut theirs, batch, SPAN);
    let mut results = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        results.0.push(per_entry(&mut ours, batch, our_rounds));
        results.1.push(per_entry(&mut theirs, batch, their_rounds));
    }
    (median(results.0), median(results.1))
}

/// How many rounds take about `span`; warms up on the way.
fn rounds_within(group: &mut impl Group, batch: usize, span: Duration) -> u64 {
    let mut rounds = 16;
    loop {
        let spent = measure(group, batch, rounds);
        if spent >= span / 2 {
            return rounds;
        }
        rounds *= 2;
    }
}

fn per_entry(group: &mut impl Group, batch: usize, rounds: u64) -> f64 {
    let spent = measure(group, batch, rounds);
    spent.as_nanos() as f64 / (rounds * batch as u64) as f64
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
