//! What it costs to carry out an entry of the plugin `counter`: in Wasm and natively, in batches of
//! 1, 16 and 256. Needs `cargo xtask plugins`; run with `cargo run --release --example apply_cost`.

#[path = "../tests/support/components.rs"]
mod components;
#[allow(dead_code, reason = "the tests use the rest")]
#[path = "../tests/support/native.rs"]
mod native;

use kontiki_plugin::{Batch, Engine, Limits, Machine};
use std::time::{Duration, Instant};

/// Each measurement goes on for at least that long, and the best of several is shown: the machine
/// may be busy with other things.
const ROUND: Duration = Duration::from_millis(100);
const ROUNDS: usize = 15;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::new(Limits::default())?;
    let plugin = engine.load(&components::read("counter"))?;
    println!(
        "{:>8} {:>12} {:>12}   ns of this thread per entry, best of {ROUNDS} rounds",
        "batch", "wasm", "native"
    );
    for size in [1, 16, 256] {
        let wasm = cost(&mut *plugin.instantiate()?, size)?;
        let native = cost(&mut native::counter(), size)?;
        println!("{size:>8} {wasm:>12.1} {native:>12.1}");
    }
    let started = Instant::now();
    for _ in 0..100 {
        drop(plugin.instantiate()?);
    }
    println!(
        "instantiate and drop: {:.1} us",
        started.elapsed().as_secs_f64() * 1e4
    );
    Ok(())
}

/// Nanoseconds per entry.
fn cost(machine: &mut dyn Machine, size: u64) -> Result<f64, Box<dyn std::error::Error>> {
    let mut index = 0;
    let mut best = f64::MAX;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        let busy_before = busy_ns()?;
        let mut entries = 0;
        while started.elapsed() < ROUND {
            for _ in 0..64 {
                let mut batch = Batch::new();
                for _ in 0..size {
                    index += 1;
                    batch.push(index, index, b"add 1");
                }
                let answers = machine.apply(&batch)?;
                assert_eq!(answers.len() as u64, size);
                entries += size;
            }
        }
        best = best.min((busy_ns()? - busy_before) as f64 / entries as f64);
    }
    Ok(best)
}

/// Time that this thread has run: others on the machine do not count.
fn busy_ns() -> Result<u64, Box<dyn std::error::Error>> {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(times
        .split(' ')
        .next()
        .ok_or("no time in schedstat")?
        .parse()?)
}
