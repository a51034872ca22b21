//! Prints the table of `host/docs/benchmarks/raft-core.md`. Both cores alternate in one run; since
//! a shared machine can only add time, the fastest repetition counts, the median stands beside it.

use kontiki_raft_bench::{Group, Ours, Theirs, measure};
use std::fmt;
use std::time::Duration;

const REPETITIONS: usize = 31;
const SPAN: Duration = Duration::from_millis(200);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [] => print_table(),
        [core, members, batch, rounds] => run_one(core, members, batch, rounds),
        _ => panic!("no arguments, or: kontiki|raft-rs MEMBERS BATCH ROUNDS"),
    }
}

/// One core alone, for a profiler.
fn run_one(core: &str, members: &str, batch: &str, rounds: &str) {
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (members, rounds) = (number(members), number(rounds));
    let batch = usize::try_from(number(batch)).expect("a small number");
    match core {
        "kontiki" => measure(&mut Ours::start(members), batch, rounds),
        "raft-rs" => measure(&mut Theirs::start(members), batch, rounds),
        other => panic!("no core is called {other}"),
    };
}

fn print_table() {
    println!("Nanoseconds per entry: fastest repetition (median).\n");
    println!("| members | batch | kontiki | raft-rs | raft-rs / kontiki |");
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
