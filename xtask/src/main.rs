//! What people type: `cargo xtask COMMAND`.

mod bench;
mod cargo;
mod checkout;
mod demo;
mod no_std;
mod output;
mod plugins;
mod setup;
mod sim;
mod test;

use clap::{Parser, Subcommand};
use output::Format;
use std::process::ExitCode;

/// Set up, build and try Kontiki from a checkout.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    /// How results are printed; progress always goes to standard error.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(subcommand)]
    command: Command,
}

/// One variant and one file per command.
#[derive(Subcommand)]
enum Command {
    /// Find out what this machine lacks to build everything, and install it.
    Setup(setup::Arguments),
    /// Build every plugin of this checkout to a component.
    Plugins(plugins::Arguments),
    /// Start three nodes, kill the leader under load, check that nothing acknowledged is lost.
    Demo(demo::Arguments),
    /// Run everything that must hold before a change lands.
    Test(test::Arguments),
    /// Measure three nodes with a plugin, beside the same machine compiled in.
    Bench(bench::Arguments),
    /// Simulate whole clusters, one seed after another.
    Sim(sim::Arguments),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Setup(command) => setup::run(&command, arguments.output),
        Command::Plugins(command) => plugins::run(&command, arguments.output),
        Command::Demo(command) => demo::run(&command, arguments.output),
        Command::Test(command) => test::run(&command, arguments.output),
        Command::Bench(command) => bench::run(&command, arguments.output),
        Command::Sim(command) => sim::run(&command, arguments.output),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
