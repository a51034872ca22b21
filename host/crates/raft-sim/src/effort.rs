//! How much processor time this process used. Never seen by a simulated run.

/// Processor seconds used by all threads so far; zero where the system does not say.
#[must_use]
pub fn cpu_seconds() -> f64 {
    // Fields 14 and 15 of /proc/self/stat, in hundredths of a second on Linux.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
    ticks(11).unwrap_or(0.0) / 100.0 + ticks(12).unwrap_or(0.0) / 100.0
}

/// Millions of steps per processor minute.
#[must_use]
pub fn rate(steps: u64, cpu_seconds: f64) -> f64 {
    steps as f64 / 1e6 / (cpu_seconds / 60.0).max(1e-6)
}
