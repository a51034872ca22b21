//! Installs Debian packages, as root or through sudo, or says what to type.

use super::machine::Machine;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// What came of it.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// No package was asked for.
    NothingToDo,
    /// They are installed now; what was done.
    Installed(String),
    /// This program may not; what a person has to type.
    Impossible { todo: String },
}

/// Installs packages.
///
/// # Errors
/// If the package manager fails.
pub(super) fn install(machine: &Machine, packages: &[&str]) -> Result<Outcome> {
    if packages.is_empty() {
        return Ok(Outcome::NothingToDo);
    }
    let list = packages.join(" ");
    if machine.programs.find("apt-get").is_none() {
        let todo = format!("your package manager, for what Debian calls: {list}");
        return Ok(Outcome::Impossible { todo });
    }
    let Some(prefix) = privilege(machine) else {
        let todo = format!("sudo apt-get update && sudo apt-get install --yes {list}");
        return Ok(Outcome::Impossible { todo });
    };
    eprintln!("setup: apt-get install {list}");
    run(machine, prefix, &["update"], &[])?;
    run(
        machine,
        prefix,
        &["install", "--yes", "--no-install-recommends"],
        packages,
    )?;
    Ok(Outcome::Installed(format!("apt-get install {list}")))
}

/// What stands before `apt-get`; none if this user may not install.
fn privilege(machine: &Machine) -> Option<&'static [&'static str]> {
    if machine.is_root {
        return Some(&[]);
    }
    let sudo = machine.programs.find("sudo")?;
    if machine.has_terminal {
        return Some(&["sudo"]);
    }
    let mut without_password = machine.programs.command(sudo);
    without_password
        .args(["-n", "true"])
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let allowed = without_password
        .status()
        .is_ok_and(|status| status.success());
    allowed.then_some(&["sudo", "-n"])
}

fn run(machine: &Machine, prefix: &[&str], words: &[&str], packages: &[&str]) -> Result<()> {
    let line: Vec<&str> = [prefix, &["apt-get"], words, packages].concat();
    let program = machine
        .programs
        .find(line[0])
        .context("a program vanished from the PATH")?;
    let mut command: Command = machine.programs.command(program);
    command
        .args(&line[1..])
        .env("DEBIAN_FRONTEND", "noninteractive");
    // Its words are progress; standard output is for the result.
    command.stdout(std::io::stderr());
    let status = command
        .status()
        .with_context(|| format!("cannot run {}", line[0]))?;
    if !status.success() {
        bail!("{} failed ({status})", line.join(" "));
    }
    Ok(())
}
