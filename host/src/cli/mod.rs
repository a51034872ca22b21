//! The command line: raw arguments, then checked types, then work. One file per noun.

mod bench;
mod braft;
mod call;
mod cluster;
mod completion;
mod config;
mod context;
mod delete_group;
mod demo_plugins;
mod describe;
mod dev;
mod election;
mod exit;
mod failure;
mod forget;
mod group;
mod logging;
mod member;
mod membership;
mod names;
mod node;
mod output;
mod plugin;
mod progress;
mod purge;
mod recover;
mod remove_plugin;
mod serve;
mod settings;
mod signals;
mod status;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use context::Global;
use exit::Exit;
use failure::{Failure, Result};
use output::{Format, Output};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

/// Deploy a .wasm, get a replicated state machine.
#[derive(Debug, Parser)]
#[command(
    name = "kontiki",
    version,
    infer_subcommands = false,
    subcommand_required = true
)]
#[command(arg_required_else_help = true, after_help = FIRST_STEPS)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const FIRST_STEPS: &str = "First steps:
  kontiki dev                     three nodes on this machine
  kontiki call counter add 5      in another terminal
  kontiki dev kill leader && kontiki call counter add 1
  kontiki help exit-codes";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a cluster on this machine to try things on
    Dev(dev::DevArgs),
    /// Runs one node
    Serve(serve::ServeArgs),
    /// Checks or shows a node's configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Shows every node and group, and what is wrong
    Status(status::StatusArgs),
    /// Waits until the cluster is ready or healthy
    Wait(status::WaitArgs),
    /// Builds, inspects, pushes and lists plugins
    #[command(subcommand, visible_alias = "p")]
    Plugin(plugin::PluginCommand),
    /// Creates, lists and steers groups
    #[command(subcommand, visible_alias = "g")]
    Group(group::GroupCommand),
    /// Changes who belongs to a group
    #[command(subcommand, visible_alias = "m")]
    Member(member::MemberCommand),
    /// Lists and drains nodes
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Lists and changes settings
    #[command(subcommand)]
    Settings(settings::SettingsCommand),
    /// DESTRUCTIVE: repairs a group that lost its majority for good
    Recover(recover::RecoverArgs),
    /// Replicates a command
    Call(call::CallArgs),
    /// Reads a group's state
    Query(call::QueryArgs),
    /// Measures commands per second and latency
    Bench(bench::BenchArgs),
    /// Prints a completion script
    Completion(completion::CompletionArgs),
    /// Prints versions
    Version,
    /// Lists exit codes
    #[command(name = "exit-codes", hide = true, after_help = exit::table())]
    ExitCodes,
    #[command(flatten)]
    Braft(braft::BraftCommand),
}

/// Longest wait for data that a failed command left open to be closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Parses the arguments, does what they say, and reports how that went.
pub(crate) fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let (cli, matches) = match parse(&arguments) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let done = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::local("IO", format!("cannot start threads: {error}")))
        .and_then(|runtime| {
            let done = runtime.block_on(run(&cli, &matches));
            // A read from standard input cannot be interrupted; nobody waits for it.
            runtime.shutdown_background();
            done
        });
    match done {
        Ok(()) => end(Exit::Ok),
        Err(failure) => {
            if logging::flush() {
                cli.global.out().fail(&failure);
            }
            end(failure.exit())
        }
    }
}

/// Ends in the ordinary way, which needs the data closed, if it closes soon.
fn end(exit: Exit) -> ExitCode {
    logging::flush();
    if !kontiki_storage::wait_until_closed(CLOSE_LIMIT) {
        exit::at_once(exit.number());
    }
    ExitCode::from(exit.number())
}

fn parse(arguments: &[OsString]) -> std::result::Result<(Cli, ArgMatches), ExitCode> {
    let parsed = Cli::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| {
            let cli = Cli::from_arg_matches(&matches)?;
            Ok((cli, matches))
        });
    parsed.map_err(|error| {
        let help = matches!(
            error.kind(),
            ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        if wants_json(arguments) && !help {
            let text = error.render().to_string();
            let message = text.trim_start_matches("error: ").trim_end().to_owned();
            let failure = Failure::usage(message);
            Output {
                format: Format::Json,
                quiet: false,
            }
            .fail(&failure);
        } else {
            error.print().ok();
        }
        ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage.number()))
    })
}

/// Whether errors are to be JSON, told from arguments that could not be parsed.
fn wants_json(arguments: &[OsString]) -> bool {
    let words: Vec<_> = arguments
        .iter()
        .map(|word| word.to_string_lossy())
        .collect();
    let json = |form: &str| matches!(form, "json" | "jsonl");
    let pairs = words.windows(2);
    let spaced = pairs
        .filter(|pair| matches!(&*pair[0], "-o" | "--output"))
        .map(|p| json(&p[1]));
    let joined = words.iter().filter_map(|word| {
        word.strip_prefix("--output=")
            .or_else(|| word.strip_prefix("-o"))
            .map(json)
    });
    let said: Vec<bool> = spaced.chain(joined).collect();
    let environment = || std::env::var("KONTIKI_OUTPUT").is_ok_and(|form| json(&form));
    if said.is_empty() {
        environment()
    } else {
        said.contains(&true)
    }
}

/// The arguments of the innermost subcommand.
fn innermost(matches: &ArgMatches) -> &ArgMatches {
    match matches.subcommand() {
        Some((_, inner)) => innermost(inner),
        None => matches,
    }
}

async fn run(cli: &Cli, matches: &ArgMatches) -> Result<()> {
    let global = &cli.global;
    match &cli.command {
        Command::Dev(args) => dev::run(global, args).await,
        Command::Serve(args) => serve::run(args).await,
        Command::Config(command) => config::run(global, command, innermost(matches)),
        Command::Status(args) => status::status(global, args).await,
        Command::Wait(args) => status::wait(global, args).await,
        Command::Plugin(command) => plugin::run(global, command).await,
        Command::Group(command) => group::run(global, command).await,
        Command::Member(command) => member::run(global, command).await,
        Command::Node(command) => node::run(global, command).await,
        Command::Settings(command) => settings::run(global, command).await,
        Command::Recover(args) => recover::run(global, args).await,
        Command::Call(args) => call::call(global, args).await,
        Command::Query(args) => call::query(global, args).await,
        Command::Bench(args) => bench::run(global, args).await,
        Command::Completion(args) => completion::completion(args),
        Command::Version => completion::version(global),
        Command::ExitCodes => {
            output::line_out(exit::table().trim_end());
            Ok(())
        }
        Command::Braft(command) => Err(command.answer()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_recognised_in_arguments_that_do_not_parse() {
        let wants =
            |line: &str| wants_json(&line.split(' ').map(OsString::from).collect::<Vec<_>>());
        assert!(wants("kontiki nonsense -o json"));
        assert!(wants("kontiki nonsense --output=jsonl"));
        assert!(wants("kontiki nonsense -ojson"));
        assert!(!wants("kontiki nonsense -o table"));
        assert!(!wants("kontiki nonsense"));
    }
}
