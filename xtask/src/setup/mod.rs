//! `cargo xtask setup`: what this machine lacks, and getting it.

mod apt;
mod failure_note;
mod machine;
mod native;
mod network;
mod rustup;
mod wasm;

use crate::output::Format;
use anyhow::{Result, bail};
use machine::Machine;
use serde::Serialize;
use std::process::ExitCode;

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only report; install nothing. Exits with 1 if something is missing.
    #[arg(long)]
    check: bool,
}

/// One thing that building needs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Need {
    /// What it is for.
    pub(crate) name: &'static str,
    /// Whether the machine has it.
    pub(crate) present: bool,
    /// What was found, or what is missing.
    pub(crate) detail: String,
}

/// What a run found and did.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing is missing now.
    ready: bool,
    /// Everything that building needs.
    needs: Vec<Need>,
    /// What was done, in order.
    actions: Vec<String>,
    /// What a person has to type, if this program could not.
    todo: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// If something is missing and could not be installed.
pub(crate) fn run(arguments: &Arguments, format: Format) -> Result<ExitCode> {
    let machine = Machine::this()?;
    let report = if arguments.check {
        check(&machine)?
    } else {
        set_up(&machine)?
    };
    format.print(&report, print)?;
    Ok(if report.ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What every other command calls first: quick when nothing is missing, and silent then.
///
/// # Errors
/// If something is missing and could not be installed.
pub(crate) fn ensure() -> Result<()> {
    let report = set_up(&Machine::this()?)?;
    for action in &report.actions {
        eprintln!("setup: {action}");
    }
    if report.ready {
        return Ok(());
    }
    print_missing(&report);
    bail!("this machine is not ready to build Kontiki")
}

fn check(machine: &Machine) -> Result<Report> {
    let needs = vec![
        native::need(machine),
        wasm::need(machine)?,
        network::need(machine),
    ];
    let ready = needs.iter().all(|need| need.present);
    Ok(Report {
        ready,
        needs,
        actions: Vec::new(),
        todo: None,
    })
}

fn set_up(machine: &Machine) -> Result<Report> {
    let mut report = check(machine)?;
    if report.ready {
        return Ok(report);
    }
    let mut actions = Vec::new();
    if !report.needs[1].present {
        actions.extend(wasm::through_rustup(machine)?);
    }
    let mut packages = native::missing_packages(machine);
    packages.extend(wasm::missing_packages(machine)?);
    packages.extend(network::missing_packages(machine));
    let todo = match apt::install(machine, &packages)? {
        apt::Outcome::NothingToDo => None,
        apt::Outcome::Installed(action) => {
            actions.push(action);
            None
        }
        apt::Outcome::Impossible { todo } => Some(todo),
    };
    report = check(machine)?;
    Ok(Report {
        actions,
        todo,
        ..report
    })
}

fn print(report: &Report) {
    for need in &report.needs {
        let state = if need.present { "ok     " } else { "missing" };
        println!("{state}  {:<22} {}", need.name, need.detail);
    }
    for action in &report.actions {
        println!("done     {action}");
    }
    if let Some(todo) = &report.todo {
        println!("to do    run: {todo}");
    }
}

fn print_missing(report: &Report) {
    for need in report.needs.iter().filter(|need| !need.present) {
        eprintln!("missing: {}: {}", need.name, need.detail);
    }
    if let Some(todo) = &report.todo {
        eprintln!("run: {todo}");
    }
}

#[cfg(test)]
mod tests;
