//! What every command starts from: the global options, and a client made of them.

use super::dev::state;
use super::failure::{Failure, Result};
use super::output::{Format, Output};
use clap::Args;
use kontiki_client::{Address, Client, Member, Options};
use std::time::Duration;

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Nodes to talk to; any of the cluster will do [default: the cluster of `kontiki dev` if one
    /// runs, else 127.0.0.1:7470]
    #[arg(long, global = true, env = "KONTIKI_ENDPOINTS", value_delimiter = ',')]
    #[arg(value_name = "HOST:PORT,…", hide_env_values = true)]
    endpoints: Vec<Address>,
    /// Form of the result; errors under json and jsonl are JSON too
    #[arg(
        short,
        long,
        global = true,
        env = "KONTIKI_OUTPUT",
        hide_env_values = true
    )]
    #[arg(value_enum, default_value_t, value_name = "FORM")]
    output: Format,
    /// Time limit of each call, retries included
    #[arg(long, global = true, env = "KONTIKI_TIMEOUT", hide_env_values = true)]
    #[arg(value_parser = duration, default_value = "10s", value_name = "DURATION")]
    timeout: Duration,
    /// Print names or ids only, and no notes
    #[arg(short, long, global = true)]
    quiet: bool,
}

/// How long to look for any node at all: a person should not wait for what nobody starts.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nobody waits for longer, and clocks can be added to it.
const DURATION_MAX: Duration = Duration::from_secs(365 * 24 * 3_600);

/// Reads `10s`, `1m 30s`, `250ms`.
pub(crate) fn duration(text: &str) -> std::result::Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error} (write for example 10s, 250ms, 1m)"))?;
    match duration {
        Duration::ZERO => Err("it must be more than nothing".into()),
        duration if duration > DURATION_MAX => Err("it must be at most 365 days".into()),
        duration => Ok(duration),
    }
}

impl Global {
    pub(crate) fn out(&self) -> Output {
        Output {
            format: self.output,
            quiet: self.quiet,
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Addresses to start from, most specific source first.
    pub(crate) fn endpoints(&self) -> Vec<Address> {
        if !self.endpoints.is_empty() {
            return self.endpoints.clone();
        }
        let running = state::running()
            .map(|cluster| cluster.addresses())
            .unwrap_or_default();
        if running.is_empty() {
            vec!["127.0.0.1:7470".parse().expect("a valid address")]
        } else {
            running
        }
    }

    /// The dev cluster these options lead to, if they do.
    pub(crate) fn dev_cluster(&self) -> Option<state::DevCluster> {
        self.endpoints.is_empty().then(state::running).flatten()
    }

    pub(crate) fn client(&self) -> Client {
        let patience = PATIENCE.min(self.timeout);
        let options = Options {
            timeout: self.timeout,
            patience,
            ..Options::default()
        };
        Client::connect(self.endpoints(), options)
    }

    /// A client that talks to the node of that name or id only.
    pub(crate) async fn client_of(&self, node: &str) -> Result<Client> {
        let client = self.client();
        let member = find_member(&client, node).await?;
        Ok(client.at(member.address))
    }
}

/// The member of that name or id.
pub(crate) async fn find_member(client: &Client, node: &str) -> Result<Member> {
    let members = client
        .members()
        .await
        .map_err(|e| Failure::from(e).of_read())?;
    let names: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
    let found = members
        .into_iter()
        .find(|m| m.name == node || m.id.to_string() == node);
    found.ok_or_else(|| {
        let message = format!(
            "no node is called {node:?}; known are: {}",
            names.join(", ")
        );
        Failure::new(super::exit::Exit::NotFound, "NODE_NOT_FOUND", message)
            .with_hint("kontiki node list")
    })
}
