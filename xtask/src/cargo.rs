//! Runs cargo on this checkout.

use crate::checkout;
use anyhow::{Context, Result, ensure};
use std::ffi::OsStr;
use std::process::Command;

/// A cargo command in the root of the checkout, with the cargo that runs this program.
///
/// # Errors
/// If the program is run outside a checkout.
pub(crate) fn cargo<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> Result<Command> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(words).current_dir(checkout::root()?);
    // What cargo told this program about its own package is not for the next one.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_PKG_") {
            command.env_remove(name);
        }
    }
    command
        .env_remove("CARGO_MANIFEST_DIR")
        .env_remove("CARGO_MANIFEST_PATH");
    Ok(command)
}

/// Runs a command to its end; its output goes where this program's goes.
///
/// # Errors
/// If it cannot be run or does not end with 0.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("cannot run {name}"))?;
    let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
    ensure!(
        status.success(),
        "`{name} {}` ended with {status}",
        words.join(" ")
    );
    Ok(())
}
