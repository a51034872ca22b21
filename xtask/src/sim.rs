//! `cargo xtask sim`: as many seeds of the simulator as one likes.

use crate::cargo::{cargo, run as run_command};
use crate::output::Format;
use anyhow::Result;
use std::process::ExitCode;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Number of seeds.
    #[arg(long, default_value_t = 2_000)]
    seeds: u64,
    /// Everything else is for the simulator; `-- --help` shows what it takes.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Builds and runs it.
///
/// # Errors
/// If it does not build, or a seed fails: the seed is printed with the command that replays it.
pub(crate) fn run(arguments: &Arguments, format: Format) -> Result<ExitCode> {
    let seeds = arguments.seeds.to_string();
    let mut words = vec![
        "run",
        "--quiet",
        "--package",
        "kontiki-raft-sim",
        "--",
        "run",
    ];
    words.extend(["--seeds", &seeds]);
    if format == Format::Json {
        words.extend(["-o", "json"]);
    }
    words.extend(arguments.rest.iter().map(String::as_str));
    run_command(&mut cargo(words)?)?;
    Ok(ExitCode::SUCCESS)
}
