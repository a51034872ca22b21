//! Prints the table of `host/docs/benchmarks/raft-core.md`. Both cores alternate in one run; since
//! a shared machine can only add time, the fastest repetition counts, the median stands beside it.

use kontiki_raft_bench::{Group, Ours, Theirs, measure};
use std::fmt;
use std::time::Duration;

const REPETITIONS: usize = 31;
const SPAN: Duration = Duration::from_millis(200);

fn main() {
    println!(
        "| members | batch | kontiki, ns per entry | raft-rs, ns per entry | raft-rs / kontiki |"
    );
    println!("|---|---|---|---|---|");
    for members in [3, 5] {
        for batch in [1, 256] {
            let (ours, theirs) = compare(members, batch);
            let ratio = theirs.fastest / ours.fastest;
            println!("| {members} | {batch} | {ours} | {theirs} | {ratio:.2} |");
        }
    }
}

/// Nanoseconds per entry over the repetitions.
struct Cost {
    fastest: f64,
    median: f64,
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} ({:.0})", self.fastest, self.median)
    }
}

/// Ours and theirs.
fn compare(members: u64, batch: usize) -> (Cost, Cost) {
    let (mut ours, mut theirs) = (Ours::start(members), Theirs::start(members));
    let our_rounds = rounds_within(&mut ours, batch, SPAN);
    let their_rounds = rounds_within(&mut theirs, batch, SPAN);
    let mut results = (Vec::new(), Vec::new());
    for _ in 0..REPETITIONS {
        results.0.push(per_entry(&mut ours, batch, our_rounds));
        results.1.push(per_entry(&mut theirs, batch, their_rounds));
    }
    (cost(results.0), cost(results.1))
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

fn cost(mut values: Vec<f64>) -> Cost {
    values.sort_by(f64::total_cmp);
    Cost {
        fastest: values[0],
        median: values[values.len() / 2],
    }
}
