//! `kontiki config`: what a node would run with, and why.

use super::context::Global;
use super::failure::Result;
use super::output::{Document, table};
use super::serve::ConfigArgs;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Subcommand};
use kontiki::config::{NodeConfig, NodeOptions};
use kontiki::node::settings::SETTINGS;
use serde_json::{Map, Value, json};

/// The configuration of a node: takes what `kontiki serve` takes, starts nothing.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Checks it; exit code 2 if it is wrong
    Check(ConfigArgs),
    /// Shows what a node would run with
    Show(ShowArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Say where each value comes from: flag, environment, file or default
    #[arg(long)]
    origin: bool,
}

/// Runs `kontiki config`; `matches` are those of the innermost subcommand.
pub(crate) fn run(global: &Global, command: &ConfigCommand, matches: &ArgMatches) -> Result<()> {
    match command {
        ConfigCommand::Check(args) => {
            args.check()?;
            global.out().note("the configuration is valid");
        }
        ConfigCommand::Show(args) => {
            let checked = args.config.check()?;
            let sources = Sources {
                matches,
                file: args.config.file()?,
                args: &args.config,
            };
            global.out().print(&Shown {
                rows: rows(&checked, &sources),
                origin: args.origin,
            });
        }
    }
    Ok(())
}

struct Row {
    key: &'static str,
    value: String,
    origin: &'static str,
}

struct Sources<'a> {
    matches: &'a ArgMatches,
    file: NodeOptions,
    args: &'a ConfigArgs,
}

impl Sources<'_> {
    /// Of a key that is one flag.
    fn of(&self, key: &str, in_file: bool) -> &'static str {
        match self
            .matches
            .try_contains_id(key)
            .ok()
            .and_then(|_| self.matches.value_source(key))
        {
            Some(ValueSource::CommandLine) => "flag",
            Some(ValueSource::EnvVariable) => "environment",
            _ if in_file => "file",
            _ => "default",
        }
    }

    /// Of a Raft setting, which may be given in several ways.
    fn of_setting(&self, name: &str) -> &'static str {
        let names = |settings: &[String]| {
            let given = |text: &String| text.split('=').next().is_some_and(|n| n.trim() == name);
            settings.iter().any(given)
        };
        if name == "election_timeout" {
            let in_file = self.file.election_timeout.is_some();
            let short = self.of("election_timeout", in_file);
            if short != "default" {
                return short;
            }
        }
        match names(&self.args.node.settings) {
            true => self.of("settings", false),
            false if names(&self.file.settings) => "file",
            false => "default",
        }
    }
}

fn rows(config: &NodeConfig, sources: &Sources<'_>) -> Vec<Row> {
    let file = &sources.file;
    let row = |key, value: String, in_file| Row {
        key,
        value,
        origin: sources.of(key, in_file),
    };
    let optional = |address: &Option<kontiki::config::Address>| {
        address
            .as_ref()
            .map_or_else(|| "the bound address".to_owned(), ToString::to_string)
    };
    let peer_listen = config
        .peer_listen
        .as_ref()
        .unwrap_or(&config.listen)
        .to_string();
    let peers: Vec<String> = config
        .peers
        .iter()
        .map(|peer| format!("{}={}", peer.name, peer.address))
        .collect();
    let http = config
        .http
        .as_ref()
        .map_or_else(|| "off".to_owned(), ToString::to_string);
    let grace = humantime::format_duration(config.shutdown_grace).to_string();
    let limits = &config.limits;
    let mut rows = vec![
        row("name", config.name.clone(), file.name.is_some()),
        row("cluster", config.cluster.clone(), file.cluster.is_some()),
        row("data_dir", config.data.to_string(), file.data_dir.is_some()),
        row("listen", config.listen.to_string(), file.listen.is_some()),
        row(
            "advertise",
            optional(&config.advertise),
            file.advertise.is_some(),
        ),
        row("peer_listen", peer_listen, file.peer_listen.is_some()),
        row(
            "peer_advertise",
            optional(&config.peer_advertise),
            file.peer_advertise.is_some(),
        ),
        row("http", http, file.http.is_some()),
        row("peers", peers.join(","), !file.peers.is_empty()),
        row(
            "proposals_max",
            limits.proposals_max.to_string(),
            file.proposals_max.is_some(),
        ),
        row(
            "connections_max",
            limits.connections_max.to_string(),
            file.connections_max.is_some(),
        ),
        row(
            "plugin_size_bytes_max",
            limits.plugin_size_bytes_max.to_string(),
            file.plugin_size_bytes_max.is_some(),
        ),
        row(
            "metrics_per_group",
            config.metrics_per_group.to_string(),
            file.metrics_per_group.is_some(),
        ),
        row("shutdown_grace", grace, file.shutdown_grace.is_some()),
        row(
            "allow_native_machines",
            config.allow_native_machines.to_string(),
            file.allow_native_machines.is_some(),
        ),
    ];
    rows.extend(SETTINGS.iter().map(|setting| Row {
        key: setting.name,
        value: setting.value(&config.raft),
        origin: sources.of_setting(setting.name),
    }));
    rows
}

struct Shown {
    rows: Vec<Row>,
    origin: bool,
}

impl Document for Shown {
    const KIND: &'static str = "config";

    fn json(&self) -> Value {
        let value = |row: &Row| match self.origin {
            true => json!({ "value": row.value, "origin": row.origin }),
            false => row.value.clone().into(),
        };
        let keys: Map<String, Value> = self
            .rows
            .iter()
            .map(|row| (row.key.to_owned(), value(row)))
            .collect();
        json!({ "config": keys })
    }

    fn text(&self, _: bool) -> String {
        let rows = self.rows.iter().map(|row| {
            let origin = if self.origin { row.origin } else { "" };
            [row.key.to_owned(), row.value.clone(), origin.to_owned()]
        });
        let origin = if self.origin { "ORIGIN" } else { "" };
        table(["KEY", "VALUE", origin], rows.collect())
    }

    fn names(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.key.to_owned()).collect()
    }
}
