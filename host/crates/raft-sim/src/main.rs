//! Command line of the simulator.

use clap::{Args, Parser, Subcommand, ValueEnum};
use kontiki_raft::PlantedBug;
use kontiki_raft_sim::plan::Mode;
use kontiki_raft_sim::run::{self, Batch, Caught, LINES_SHOWN, Outcome, Report};
use kontiki_raft_sim::trace::Words;
use kontiki_raft_sim::witness;
use kontiki_raft_sim::world::Setup;
use serde_json::{Value, json};
use signal_hook::consts::SIGINT;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a run says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);
/// What the shell says of a process that ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// Simulates whole Raft clusters by seed and checks every invariant after every step.
///
/// Exit codes: 0 all is well, 1 an invariant was broken (or a planted fault was not caught), 2 wrong
/// arguments, 3 too little happened to prove anything, 130 interrupted before the last seed.
#[derive(Parser)]
#[command(name = "kontiki-raft-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds; stop at the first violation and say how to replay it. Says on standard error
    /// how far it is; Ctrl-C ends it with what was found so far
    Run(RunArgs),
    /// Run one seed again and show the end of its trace, or all of it
    Replay(ReplayArgs),
    /// Plant every deliberate fault in turn and run seeds until each is caught
    Bugs(BugArgs),
    /// Run seeds and print the hashes of their traces, for another process to compare
    Hashes(HashArgs),
}

#[derive(Args)]
struct RunArgs {
    /// Seeds to run
    #[arg(long, default_value_t = 200, env = "KONTIKI_SIM_SEEDS")]
    seeds: u64,
    /// Steps of each seed before its liveness phase
    #[arg(long, default_value_t = 20_000, env = "KONTIKI_SIM_STEPS")]
    steps: u64,
    /// First seed; the others follow
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads
    #[arg(long, default_value_t = processors())]
    jobs: usize,
    /// Run each N-th seed twice here and once in another process, and compare the traces; 0
    /// switches it off
    #[arg(long, default_value_t = 100, value_name = "N")]
    repeat_every: u64,
    /// Go on after a failure and list all of them
    #[arg(long)]
    keep_going: bool,
    /// Do not fail when too little happened
    #[arg(long)]
    no_gate: bool,
    #[command(flatten)]
    variant: Variant,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args)]
struct ReplayArgs {
    /// The seed
    seed: u64,
    /// Steps before the liveness phase, as in the run that failed
    #[arg(long, default_value_t = 20_000, env = "KONTIKI_SIM_STEPS")]
    steps: u64,
    /// Print the whole trace instead of its end
    #[arg(long)]
    trace: bool,
    /// Lines of the end of the trace
    #[arg(long, default_value_t = LINES_SHOWN, conflicts_with = "trace")]
    lines: usize,
    #[command(flatten)]
    variant: Variant,
}

#[derive(Args)]
struct HashArgs {
    /// The seeds
    #[arg(required = true)]
    seeds: Vec<u64>,
    /// Steps before the liveness phase
    #[arg(long, default_value_t = 20_000, env = "KONTIKI_SIM_STEPS")]
    steps: u64,
    #[command(flatten)]
    variant: Variant,
}

#[derive(Args)]
struct BugArgs {
    /// Only these faults; all if none is named
    #[arg(value_parser = parse_bug)]
    bugs: Vec<PlantedBug>,
    /// Seeds a fault may take instead of its own limit
    #[arg(long)]
    limit: Option<u64>,
    /// Steps of each seed before its liveness phase
    #[arg(long, default_value_t = 20_000, env = "KONTIKI_SIM_STEPS")]
    steps: u64,
    /// First seed
    #[arg(long, default_value_t = 1)]
    first_seed: u64,
    /// Threads; with more than one the number of seeds is an upper bound
    #[arg(long, default_value_t = processors())]
    jobs: usize,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Args, Clone, Copy)]
struct Variant {
    /// What to prove
    #[arg(long, value_enum, default_value_t = ModeArg::Usual)]
    mode: ModeArg,
    /// Plant this fault in every core
    #[arg(long, value_parser = parse_bug)]
    bug: Option<PlantedBug>,
}

impl Variant {
    fn setup(&self, seed: u64, steps: u64) -> Setup {
        Setup {
            seed,
            steps,
            mode: self.mode.into(),
            bug: self.bug,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    /// Faults that Raft must survive
    Usual,
    /// Clocks beyond the drift bound: a violation must be found
    BeyondDrift,
    /// No faults: the gate must refuse the run
    Calm,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One object
    Json,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Usual => Self::Usual,
            ModeArg::BeyondDrift => Self::BeyondDrift,
            ModeArg::Calm => Self::Calm,
        }
    }
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn parse_bug(name: &str) -> Result<PlantedBug, String> {
    let known = PlantedBug::ALL.iter().copied();
    let mut found = known.filter(|bug| format!("{bug:?}").eq_ignore_ascii_case(name));
    found.next().ok_or_else(|| {
        let names: Vec<String> = PlantedBug::ALL.iter().map(|b| format!("{b:?}")).collect();
        format!("no such fault; there are {}", names.join(", "))
    })
}

fn main() -> ExitCode {
    // A panic of a core is reported as a violation of its seed, not on the way.
    std::panic::set_hook(Box::new(|_| {}));
    match Cli::parse().command {
        Command::Run(args) => run_many(&args),
        Command::Replay(args) => replay(&args),
        Command::Bugs(args) => hunt_bugs(&args),
        Command::Hashes(args) => print_hashes(&args),
    }
}

fn print_hashes(args: &HashArgs) -> ExitCode {
    for seed in &args.seeds {
        let outcome = run::run_seed(args.variant.setup(*seed, args.steps), Words::None);
        println!("{}", witness::line(outcome.seed, outcome.hash));
    }
    ExitCode::SUCCESS
}

/// Has the repeated seeds run by another process too.
fn ask_witness(args: &RunArgs, report: &Report) -> Result<(), String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let setup = args.variant.setup(args.first_seed, args.steps);
    witness::run_again(&program, setup, &report.repeated).map_err(|violation| violation.to_string())
}

fn run_many(args: &RunArgs) -> ExitCode {
    let batch = Batch {
        first: args.first_seed,
        seeds: args.seeds,
        steps: args.steps,
        mode: args.variant.mode.into(),
        bug: args.variant.bug,
        jobs: args.jobs,
        repeat_every: args.repeat_every,
        keep_going: args.keep_going,
    };
    let interrupted = match catch_interrupt() {
        Ok(interrupted) => interrupted,
        Err(error) => {
            eprintln!("Ctrl-C cannot be caught: {error}");
            return ExitCode::from(2);
        }
    };
    let progress = Progress::of(args.seeds);
    let report = batch.run_until(&interrupted, |report| progress.show(report));
    let was_interrupted = interrupted.load(Ordering::Relaxed) && report.seeds < args.seeds;
    let witnessed = match was_interrupted {
        true => Ok(()),
        false => ask_witness(args, &report),
    };
    let too_few = report.counters.too_few();
    match args.output {
        Output::Text => print_report(args, &report),
        Output::Json => println!("{}", report_json(args, &report)),
    }
    if let Err(differs) = &witnessed {
        eprintln!("{differs}");
    }
    if report.failure.is_some() || witnessed.is_err() {
        return ExitCode::from(1);
    }
    if was_interrupted {
        eprintln!("interrupted after {} of {} seeds", report.seeds, args.seeds);
        return ExitCode::from(INTERRUPTED);
    }
    if !args.no_gate && !too_few.is_empty() {
        return ExitCode::from(3);
    }
    ExitCode::SUCCESS
}

/// A flag that the first Ctrl-C sets; the second ends the process at once.
fn catch_interrupt() -> std::io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let code = i32::from(INTERRUPTED);
    signal_hook::flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&flag))?;
    signal_hook::flag::register(SIGINT, Arc::clone(&flag))?;
    Ok(flag)
}

/// Says now and then how far a run is.
struct Progress {
    seeds: u64,
    begun: Instant,
    /// When to say it next, in milliseconds since the begin.
    next_ms: AtomicU64,
}

impl Progress {
    #[expect(
        clippy::disallowed_methods,
        reason = "told to people; no simulated run sees it"
    )]
    fn of(seeds: u64) -> Self {
        Self {
            seeds,
            begun: Instant::now(),
            next_ms: AtomicU64::new(PROGRESS_EVERY.as_millis() as u64),
        }
    }

    fn show(&self, report: &Report) {
        let elapsed = self.begun.elapsed();
        let now_ms = elapsed.as_millis() as u64;
        if now_ms < self.next_ms.load(Ordering::Relaxed) {
            return;
        }
        let next_ms = now_ms + PROGRESS_EVERY.as_millis() as u64;
        self.next_ms.store(next_ms, Ordering::Relaxed);
        let rate = report.counters.steps as f64 / elapsed.as_secs_f64();
        // Nobody may be reading; that is no reason to end.
        let _ = writeln!(
            std::io::stderr(),
            "{} of {} seeds, {} steps, {rate:.0} steps/s, {} failed",
            report.seeds,
            self.seeds,
            report.counters.steps,
            report.failures.len()
        );
    }
}

fn print_report(args: &RunArgs, report: &Report) {
    let steps = report.counters.steps;
    println!(
        "{} seeds from {}, {steps} steps",
        report.seeds, args.first_seed
    );
    println!(
        "{:.1} s of processor time, {:.1} million steps per processor minute",
        report.effort.cpu_seconds,
        report.effort.rate(steps)
    );
    println!(
        "{} seeds run twice; trace hash {:016x}",
        report.repeated.len(),
        report.hash
    );
    for (name, count, _) in report.counters.rows() {
        println!("  {name:<22} {count:>12}");
    }
    if args.keep_going {
        for (seed, violation) in &report.failures {
            println!("seed {seed}: {violation}");
        }
    }
    if let Some(failure) = &report.failure {
        print_failure(failure, &replay_command(args, failure.seed));
        return;
    }
    let too_few = report.counters.too_few();
    for (name, count, least) in &too_few {
        println!("TOO FEW {name}: {count}, at least {least} are needed for this many steps");
    }
    if too_few.is_empty() {
        println!("no violation, and enough happened to mean it");
    }
}

fn replay_command(args: &RunArgs, seed: u64) -> String {
    let mut command = format!(
        "cargo run -p kontiki-raft-sim -- replay {seed} --steps {}",
        args.steps
    );
    if args.variant.mode != ModeArg::Usual {
        command += &format!(" --mode {}", Mode::from(args.variant.mode).name());
    }
    if let Some(bug) = args.variant.bug {
        command += &format!(" --bug {bug:?}");
    }
    command
}

fn print_failure(failure: &Outcome, command: &str) {
    for line in &failure.lines {
        println!("{line}");
    }
    println!(
        "SEED {} FAILED after {} steps",
        failure.seed, failure.counters.steps
    );
    if let Some(violation) = &failure.violation {
        println!("{violation}");
    }
    println!("replay it with: {command}");
}

fn failure_json(failure: &Outcome, command: &str) -> Value {
    let violation = failure.violation.as_ref();
    json!({
        "seed": failure.seed,
        "invariant": violation.map(|v| format!("{:?}", v.invariant)),
        "rule": violation.map(|v| v.invariant.text()),
        "facts": violation.map(|v| v.facts.clone()),
        "trace": failure.lines,
        "replay": command,
    })
}

fn report_json(args: &RunArgs, report: &Report) -> Value {
    let too_few = report.counters.too_few().into_iter();
    let failure = report.failure.as_ref();
    json!({
        "seeds": report.seeds,
        "first_seed": args.first_seed,
        "steps": report.counters.steps,
        "cpu_seconds": report.effort.cpu_seconds,
        "million_steps_per_cpu_minute": report.effort.rate(report.counters.steps),
        "repeated_seeds": report.repeated.len(),
        "trace_hash": format!("{:016x}", report.hash),
        "counters": report.counters.to_json(),
        "too_few": too_few
            .map(|(name, count, least)| json!({"name": name, "count": count, "least": least}))
            .collect::<Vec<_>>(),
        "failed_seeds": report.failures.iter().map(|(seed, _)| *seed).collect::<Vec<_>>(),
        "failure": failure.map(|f| failure_json(f, &replay_command(args, f.seed))),
    })
}

fn replay(args: &ReplayArgs) -> ExitCode {
    let words = if args.trace {
        Words::Print
    } else {
        Words::Last(args.lines)
    };
    let outcome = run::run_seed(args.variant.setup(args.seed, args.steps), words);
    for line in &outcome.lines {
        println!("{line}");
    }
    println!(
        "seed {}: {} steps, trace hash {:016x}",
        outcome.seed, outcome.counters.steps, outcome.hash
    );
    match outcome.violation {
        Some(violation) => {
            println!("{violation}");
            ExitCode::from(1)
        }
        None => {
            println!("no violation");
            ExitCode::SUCCESS
        }
    }
}

fn hunt_bugs(args: &BugArgs) -> ExitCode {
    let bugs = if args.bugs.is_empty() {
        PlantedBug::ALL
    } else {
        &args.bugs
    };
    let mut caught = Vec::new();
    for bug in bugs {
        let limit = args.limit.unwrap_or_else(|| run::seeds_allowed(*bug));
        let one = run::hunt(*bug, args.first_seed, limit, args.steps, args.jobs);
        if args.output == Output::Text {
            print_caught(&one);
        }
        caught.push(one);
    }
    let missed = caught.iter().filter(|one| one.seeds.is_none()).count();
    match args.output {
        Output::Text => println!("{} of {} caught", caught.len() - missed, caught.len()),
        Output::Json => println!("{}", Value::from_iter(caught.iter().map(caught_json))),
    }
    ExitCode::from(u8::from(missed > 0))
}

fn print_caught(one: &Caught) {
    let name = format!("{:?}", one.bug);
    match (&one.seeds, &one.violation) {
        (Some(seeds), Some(violation)) => println!(
            "{name:<28} caught by seed {seeds:>4} of {:<5} {:?}",
            one.limit, violation.invariant
        ),
        _ => println!(
            "{name:<28} NOT CAUGHT in {} seeds, {} steps",
            one.limit, one.steps
        ),
    }
}

fn caught_json(one: &Caught) -> Value {
    let violation = one.violation.as_ref();
    json!({
        "bug": format!("{:?}", one.bug),
        "seeds": one.seeds,
        "limit": one.limit,
        "steps": one.steps,
        "invariant": violation.map(|v| format!("{:?}", v.invariant)),
    })
}
