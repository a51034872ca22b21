//! `cargo xtask bench`: what a plugin costs, beside the same machine compiled in.

use crate::cargo::{cargo, run as run_command};
use crate::output::Format;
use crate::{checkout, plugins, setup};
use anyhow::Result;
use std::process::{Command, ExitCode};

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Passed on; `-- --help` shows what there is.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// Sets up, builds, and measures.
///
/// # Errors
/// If something does not build.
pub(crate) fn run(arguments: &Arguments, format: Format) -> Result<ExitCode> {
    setup::ensure()?;
    plugins::build_quietly()?;
    run_command(&mut cargo(["build", "--workspace", "--bins"])?)?;
    let mut compare = Command::new(checkout::binary("kontiki-compare")?);
    compare
        .env("KONTIKI_BIN", checkout::binary("kontiki")?)
        .args(&arguments.rest);
    if format == Format::Json {
        compare.args(["--output", "json"]);
    }
    let status = compare.status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
