//! `kontiki bench`: a closed loop, each client waiting for its answer before it sends again.

mod load;
mod report;

use super::context::{Global, duration};
use super::exit::Exit;
use super::failure::{Failure, Result};
use clap::Args;
use kontiki_client::{Client, Consistency, Verdict};
use load::{Load, Measured};
use report::{Report, Row};
use std::time::Duration;

/// Measures commands per second and latency, with a closed loop over real connections.
///
/// Each client has a connection of its own and sends its next command when the one before is
/// answered. Commands are those of the group's plugin (counter or atomic), padded with spaces to the
/// payload size, or --command. Lists give a matrix.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki bench
  kontiki bench --clients 1,64,256 --payload 16,256 --duration 10s -o json")]
pub(crate) struct BenchArgs {
    /// Name of the group
    #[arg(long, short, default_value = "counter")]
    group: String,
    /// Clients at a time
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "64",
        value_name = "N,…"
    )]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    clients: Vec<u32>,
    /// Bytes of a command
    #[arg(
        long,
        short,
        value_delimiter = ',',
        default_value = "16",
        value_name = "BYTES,…"
    )]
    #[arg(value_parser = payload)]
    payload: Vec<usize>,
    /// How long to measure
    #[arg(long, short, value_parser = duration, default_value = "10s")]
    duration: Duration,
    /// How long to run before that, unmeasured
    #[arg(long, value_parser = duration, default_value = "1s")]
    warmup: Duration,
    /// What to send, instead of what the plugin takes
    #[arg(long, value_name = "TEXT")]
    command: Option<String>,
}

/// Reads a size that some group may take.
fn payload(text: &str) -> std::result::Result<usize, String> {
    match text.parse() {
        Ok(size_bytes @ 0..=PAYLOAD_MAX) => Ok(size_bytes),
        Ok(_) => Err(format!("at most {PAYLOAD_MAX} bytes: no group takes more")),
        Err(error) => Err(format!("{error}")),
    }
}

/// The largest `entry_size_bytes_max`.
const PAYLOAD_MAX: usize = 64 << 20;

/// Runs `kontiki bench`.
pub(crate) async fn run(global: &Global, args: &BenchArgs) -> Result<()> {
    let client = global.client();
    client
        .members()
        .await
        .map_err(|error| Failure::from(error).of_read())?;
    let described = client.admin().describe(&args.group, false).await;
    let described = described.map_err(|error| Failure::from(error).of_read())?;
    let plugin = described.summary.clone().unwrap_or_default().plugin_name;
    let commands = Commands::choose(args, &plugin)?;
    let mut rows = Vec::new();
    for &payload in &args.payload {
        commands.check_size(payload)?;
        for &clients in &args.clients {
            global
                .out()
                .note(&format!("{clients} clients, {payload} bytes"));
            rows.push(one(global, args, &client, &commands, clients, payload).await?);
        }
    }
    let wrong: Vec<String> = rows.iter().filter_map(Row::discrepancy).collect();
    let nodes = described.peers.len() + 1;
    global.out().print(&Report {
        group: args.group.clone(),
        plugin,
        nodes,
        rows,
    });
    if wrong.is_empty() {
        return Ok(());
    }
    Err(
        Failure::new(Exit::Unhealthy, "COUNT_WRONG", wrong.join("; "))
            .with_hint("nobody else may write to the group while it is measured"),
    )
}

async fn one(
    global: &Global,
    args: &BenchArgs,
    client: &Client,
    commands: &Commands,
    clients: u32,
    payload: usize,
) -> Result<Row> {
    let before = count(client, args, commands).await?;
    let load = Load {
        endpoints: global.endpoints(),
        timeout: global.timeout(),
        group: args.group.clone(),
        commands: (0..clients).map(|n| commands.padded(n, payload)).collect(),
        warmup: args.warmup,
        duration: args.duration,
    };
    let measured: Measured = load.run().await?;
    let after = count(client, args, commands).await?;
    let counted = before.zip(after).map(|(before, after)| after - before);
    Ok(Row {
        clients,
        payload,
        seconds: args.duration.as_secs_f64(),
        measured,
        counted,
    })
}

/// The counter's value, if the group is one.
async fn count(client: &Client, args: &BenchArgs, commands: &Commands) -> Result<Option<i64>> {
    if !matches!(commands, Commands::Counter) {
        return Ok(None);
    }
    let asked = client
        .query(&args.group, "get", Consistency::Linearizable)
        .await;
    let reply = asked.map_err(|error| Failure::from(error).of_read())?;
    let text = match reply.verdict {
        Verdict::Answer(answer) => String::from_utf8_lossy(&answer).into_owned(),
        Verdict::Rejected(why) => why,
    };
    let value = text.trim().parse().map_err(|_| {
        let message = format!("the counter answers {text:?}, no number");
        Failure::new(Exit::Refused, "BAD_ANSWER", message)
    })?;
    Ok(Some(value))
}

/// What the clients send.
#[derive(Debug, PartialEq, Eq)]
enum Commands {
    /// `add 1`: the end value tells whether every acknowledged command is in.
    Counter,
    /// `exchange`, each client on a register of its own.
    Atomic,
    Given(String),
}

impl Commands {
    fn choose(args: &BenchArgs, plugin: &str) -> Result<Self> {
        match (&args.command, plugin.trim_start_matches("native:")) {
            (Some(text), _) => Ok(Self::Given(text.clone())),
            (None, "counter") => Ok(Self::Counter),
            (None, "atomic") => Ok(Self::Atomic),
            (None, other) => Err(Failure::usage(format!(
                "no command is known for plugin {other:?}: say what to send with --command"
            ))),
        }
    }

    fn text(&self, client: u32) -> String {
        match self {
            Self::Counter => "add 1".to_owned(),
            Self::Atomic => format!("exchange b{client} 1"),
            Self::Given(text) => text.clone(),
        }
    }

    /// The command of one client, padded with spaces.
    fn padded(&self, client: u32, payload: usize) -> String {
        let text = self.text(client);
        let missing = payload.saturating_sub(text.len());
        text + &" ".repeat(missing)
    }

    fn check_size(&self, payload: usize) -> Result<()> {
        let text = self.text(0);
        match text.len() > payload {
            true => Err(Failure::usage(format!(
                "--payload {payload} is too small for {text:?}, which has {} bytes",
                text.len()
            ))),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_padded_to_the_payload_size() {
        assert_eq!(Commands::Counter.padded(0, 16), "add 1           ");
        assert_eq!(Commands::Atomic.padded(7, 16), "exchange b7 1   ");
        assert_eq!(Commands::Counter.padded(0, 100_000).len(), 100_000);
        assert!(payload("65536").is_ok() && payload("99999999999").is_err());
        assert!(Commands::Counter.check_size(5).is_ok());
        assert_eq!(
            Commands::Counter.check_size(4).unwrap_err().exit(),
            Exit::Usage
        );
    }
}
