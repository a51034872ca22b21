//! `cargo xtask test`: everything that must hold before a change lands.

use crate::cargo::{cargo, run as run_command};
use crate::output::Format;
use crate::{checkout, no_std, plugins, setup};
use anyhow::{Context, Result, bail};
use serde::Serialize;
use std::process::ExitCode;
use std::time::Instant;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Do only these steps; `--list` names them.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Name the steps and what they are for.
    #[arg(long)]
    list: bool,
}

/// One step: its name, what it is for, and how it is done.
struct Step {
    name: &'static str,
    what: &'static str,
    run: fn() -> Result<()>,
}

/// In the order in which they are done: what is quick, or what others need, comes first.
const STEPS: [Step; 9] = [
    Step {
        name: "format",
        what: "every file is formatted",
        run: format,
    },
    Step {
        name: "plugins",
        what: "every plugin builds to a component",
        run: plugins_built,
    },
    Step {
        name: "clippy",
        what: "no warning of rustc or clippy",
        run: clippy,
    },
    Step {
        name: "guests",
        what: "the SDK and the plugins, natively",
        run: guests,
    },
    Step {
        name: "no-std",
        what: "the core builds without a standard library",
        run: no_std::check,
    },
    Step {
        name: "benches",
        what: "the comparison with raft-rs builds",
        run: benches,
    },
    Step {
        name: "build",
        what: "every program builds",
        run: build,
    },
    Step {
        name: "tests",
        what: "unit, simulation and real-process tests",
        run: tests,
    },
    Step {
        name: "docs",
        what: "documentation without warnings",
        run: docs,
    },
];

/// What a run did.
#[derive(Serialize)]
struct Done {
    step: &'static str,
    seconds: f64,
}

/// Runs the command.
///
/// # Errors
/// The first step that fails.
pub(crate) fn run(arguments: &Arguments, output: Format) -> Result<ExitCode> {
    if arguments.list {
        STEPS
            .iter()
            .for_each(|step| println!("{:<8} {}", step.name, step.what));
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(&arguments.steps)?;
    setup::ensure()?;
    let mut done = Vec::new();
    for step in chosen {
        eprintln!("test: {}: {}", step.name, step.what);
        let begin = Instant::now();
        (step.run)().with_context(|| format!("step `{}` failed", step.name))?;
        let seconds = begin.elapsed().as_secs_f64();
        done.push(Done {
            step: step.name,
            seconds,
        });
    }
    output.print(&done, |done| done.iter().for_each(print))?;
    Ok(ExitCode::SUCCESS)
}

fn chosen(names: &[String]) -> Result<Vec<&'static Step>> {
    if names.is_empty() {
        return Ok(STEPS.iter().collect());
    }
    let find = |name: &String| match STEPS.iter().find(|step| step.name == name) {
        Some(step) => Ok(step),
        None => bail!("there is no step `{name}`; `cargo xtask test --list` names them"),
    };
    names.iter().map(find).collect()
}

fn print(done: &Done) {
    println!("ok  {:<8} {:>7.1} s", done.step, done.seconds);
}

/// Workspaces of their own, beside the main one.
const GUEST_WORKSPACES: [&str; 2] = ["guest-sdk/rust/Cargo.toml", "plugins/Cargo.toml"];

fn format() -> Result<()> {
    run_command(&mut cargo(["fmt", "--all", "--check"])?)?;
    for manifest in GUEST_WORKSPACES {
        run_command(&mut cargo([
            "fmt",
            "--all",
            "--check",
            "--manifest-path",
            manifest,
        ])?)?;
    }
    Ok(())
}

fn plugins_built() -> Result<()> {
    plugins::build_quietly()
}

fn clippy() -> Result<()> {
    let words = [
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    run_command(&mut cargo(words)?)
}

fn guests() -> Result<()> {
    for manifest in GUEST_WORKSPACES {
        let manifest = ["--manifest-path", manifest];
        let clippy = ["clippy", "--all-targets", "--workspace"];
        let strict = ["--", "-D", "warnings"];
        run_command(&mut cargo([&clippy[..], &manifest, &strict].concat())?)?;
        run_command(&mut cargo(
            [&["test", "--workspace", "--quiet"][..], &manifest].concat(),
        )?)?;
    }
    Ok(())
}

/// A workspace of its own, with crates that nothing else needs; only looked at, as a comparison in a
/// development build says nothing.
const BENCH_WORKSPACE: [&str; 2] = ["--manifest-path", "host/crates/raft-bench/Cargo.toml"];

fn benches() -> Result<()> {
    run_command(&mut cargo(
        [&["fmt", "--check"][..], &BENCH_WORKSPACE].concat(),
    )?)?;
    let strict = ["--", "-D", "warnings"];
    let clippy = ["clippy", "--all-targets"];
    run_command(&mut cargo(
        [&clippy[..], &BENCH_WORKSPACE, &strict].concat(),
    )?)
}

fn build() -> Result<()> {
    run_command(&mut cargo(["build", "--workspace", "--bins"])?)
}

fn tests() -> Result<()> {
    let mut command = cargo(["test", "--workspace"])?;
    command.env("KONTIKI_BIN", checkout::binary("kontiki")?);
    run_command(&mut command)
}

fn docs() -> Result<()> {
    let mut command = cargo(["doc", "--workspace", "--no-deps"])?;
    run_command(command.env("RUSTDOCFLAGS", "-D warnings"))
}
