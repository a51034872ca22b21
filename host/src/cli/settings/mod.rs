//! `kontiki settings`: what can be tuned, and what can be changed while running.

mod change;

use super::cluster;
use super::context::Global;
use super::failure::{Failure, Result};
use super::output::{Document, table};
use clap::{Args, Subcommand};
use kontiki_client::proto::Setting;
use serde_json::{Value, json};

use change::{Change, Edit};

/// Settings of nodes and of groups' replicas.
#[derive(Debug, Subcommand)]
pub(crate) enum SettingsCommand {
    /// Lists settings with their values
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Changes settings while running, on every node unless --node names one
    Set(SetArgs),
    /// Undoes what was set while running, on every node unless --node names one
    Reset(ResetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Settings of this group's replicas, instead of the node's own
    #[arg(long, short, default_value = "", hide_default_value = true)]
    group: String,
    /// Ask this node, by name or id
    #[arg(long)]
    node: Option<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Without --node every node is told, one after the other, in the order in which no
leader's heartbeats become too rare for its followers. A node that cannot be reached is passed over
and reported; say it again when it is back. What is set lasts until it is reset, restarts included.

The election timeout alone keeps its sum with the clock drift, so the drift changes too; give both to
set both.

Examples:
  kontiki settings set --group orders election_timeout=2s max_clock_drift=1s
  kontiki settings set election_timeout=2s max_clock_drift=500ms --dry-run"
)]
pub(crate) struct SetArgs {
    /// What to change
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
    values: Vec<(String, String)>,
    #[command(flatten)]
    scope: Scope,
}

#[derive(Debug, Args)]
#[command(
    after_help = "What nobody sets any more comes from the node, its configuration, or is the default. The
election timeout and the clock drift are undone together.

Examples:
  kontiki settings reset priority
  kontiki settings reset --group orders"
)]
pub(crate) struct ResetArgs {
    /// What to undo; everything that was set while running if none is named
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    scope: Scope,
}

/// Where something is changed.
#[derive(Debug, Args)]
struct Scope {
    /// Of this group's replicas, instead of the node's own
    #[arg(long, short, default_value = "", hide_default_value = true)]
    group: String,
    /// On this node only, by name or id
    #[arg(long)]
    node: Option<String>,
    /// Check on every node and show what would change
    #[arg(long)]
    dry_run: bool,
}

fn pair(text: &str) -> std::result::Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}

/// Runs `kontiki settings`.
pub(crate) async fn run(global: &Global, command: &SettingsCommand) -> Result<()> {
    match command {
        SettingsCommand::List(args) => list(global, args).await,
        SettingsCommand::Set(args) => set(global, args).await,
        SettingsCommand::Reset(args) => reset(global, args).await,
    }
}

async fn list(global: &Global, args: &ListArgs) -> Result<()> {
    let client = match &args.node {
        Some(node) => global.client_of(node).await?,
        None if args.group.is_empty() => global.client(),
        None => cluster::replica(global, &args.group, None).await?,
    };
    let settings = client
        .admin()
        .settings(&args.group)
        .await
        .map_err(|error| Failure::from(error).of_read())?;
    global.out().print(&Settings(settings));
    Ok(())
}

async fn set(global: &Global, args: &SetArgs) -> Result<()> {
    let values = args.values.iter().cloned().collect();
    let change = Change {
        edit: Edit::Set(values),
        group: &args.scope.group,
        node: args.scope.node.as_deref(),
        dry_run: args.scope.dry_run,
    };
    change.run(global).await
}

async fn reset(global: &Global, args: &ResetArgs) -> Result<()> {
    let change = Change {
        edit: Edit::Reset(args.names.clone()),
        group: &args.scope.group,
        node: args.scope.node.as_deref(),
        dry_run: args.scope.dry_run,
    };
    change.run(global).await
}

struct Settings(Vec<Setting>);

impl Document for Settings {
    const KIND: &'static str = "settings";

    fn json(&self) -> Value {
        json!({ "settings": self.items() })
    }

    fn text(&self, wide: bool) -> String {
        let rows = self.0.iter().map(|setting| {
            let when = if setting.changeable {
                "any time"
            } else {
                "at start"
            };
            let braft = if wide {
                setting.braft_name.clone()
            } else {
                String::new()
            };
            [
                setting.name.clone(),
                setting.value.clone(),
                setting.default_value.clone(),
                setting.source.clone(),
                setting.range.clone(),
                when.to_owned(),
                setting.help.clone(),
                braft,
            ]
        });
        let braft = if wide { "BRAFT" } else { "" };
        table(
            [
                "SETTING", "VALUE", "DEFAULT", "FROM", "RANGE", "WHEN", "WHAT", braft,
            ],
            rows.collect(),
        )
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|setting| setting.name.clone()).collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        let item = |setting: &Setting| {
            json!({
                "name": setting.name,
                "value": setting.value,
                "default": setting.default_value,
                "source": setting.source,
                "range": setting.range,
                "help": setting.help,
                "braft_name": setting.braft_name,
                "changeable": setting.changeable,
            })
        };
        Some(self.0.iter().map(item).collect())
    }
}
