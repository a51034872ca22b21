//! `cargo xtask demo`: three nodes, two plugins, and the death of a leader.

use crate::cargo::{cargo, run as run_command};
use crate::output::Format;
use crate::{checkout, plugins, setup};
use anyhow::Result;
use std::process::{Command, ExitCode};

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// End after the check, instead of leaving the nodes up to play with.
    #[arg(long)]
    once: bool,
}

/// Sets up, builds, and runs the demonstration.
///
/// # Errors
/// If something does not build. What the demonstration finds is its exit code.
pub(crate) fn run(arguments: &Arguments, format: Format) -> Result<ExitCode> {
    setup::ensure()?;
    eprintln!("demo: building (the first time takes about twenty minutes on two cores)");
    plugins::build_quietly()?;
    run_command(&mut cargo(["build", "--workspace", "--bins"])?)?;
    let mut demo = Command::new(checkout::binary("kontiki-demo")?);
    demo.env("KONTIKI_BIN", checkout::binary("kontiki")?);
    if arguments.once {
        demo.arg("--once");
    }
    if format == Format::Json {
        demo.args(["--output", "json"]);
    }
    let status = demo.status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
