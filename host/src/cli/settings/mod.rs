//! `kontiki settings`: what can be tuned, and what can be changed while running.

use super::cluster;
use super::context::{Global, find_member};
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::output::{Document, table};
use clap::{Args, Subcommand};
use kontiki_client::proto::Setting;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Settings of nodes and of groups' replicas.
#[derive(Debug, Subcommand)]
pub(crate) enum SettingsCommand {
    /// Lists settings with their values
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Changes settings while running, on every node unless --node names one
    Set(SetArgs),
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
#[command(after_help = "Example:
  kontiki settings set --group orders election_timeout=2s")]
pub(crate) struct SetArgs {
    /// What to change
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = pair)]
    values: Vec<(String, String)>,
    /// Of this group's replicas, instead of the node's own
    #[arg(long, short, default_value = "", hide_default_value = true)]
    group: String,
    /// On this node only, by name or id
    #[arg(long)]
    node: Option<String>,
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
    let client = global.client();
    let members = match &args.node {
        Some(node) => vec![find_member(&client, node).await?],
        None => client
            .members()
            .await
            .map_err(|e| Failure::from(e).of_read())?,
    };
    let values: HashMap<String, String> = args.values.iter().cloned().collect();
    let mut changed: Vec<String> = Vec::new();
    for member in &members {
        let there = client.at(member.address.clone());
        match there
            .admin()
            .set_settings(&args.group, values.clone())
            .await
        {
            Ok(_) => changed.push(member.name.clone()),
            // Without --node, those without a replica are passed over.
            Err(error) if args.node.is_none() && error.reason().as_str() == "GROUP_NOT_FOUND" => {}
            Err(error) => return Err(partly(&changed, &member.name, Failure::from(error))),
        }
    }
    if changed.is_empty() {
        let message = format!("no reachable node has a replica of {:?}", args.group);
        return Err(Failure::new(Exit::NotFound, "GROUP_NOT_FOUND", message));
    }
    let shown: Vec<String> = args
        .values
        .iter()
        .map(|(n, v)| format!("{n}={v}"))
        .collect();
    global
        .out()
        .note(&format!("{} on {}", shown.join(" "), changed.join(", ")));
    Ok(())
}

/// A failure at `node`, with those that were changed before.
fn partly(changed: &[String], node: &str, failure: Failure) -> Failure {
    match changed {
        [] => failure,
        _ => failure.with_hint(format!("changed on {}, not on {node}", changed.join(", "))),
    }
}

struct Settings(Vec<Setting>);

impl Document for Settings {
    const KIND: &'static str = "settings";

    fn json(&self) -> Value {
        json!({ "settings": self.items() })
    }

    fn text(&self, wide: bool) -> String {
        let rows = self.0.iter().map(|setting| {
            let fixed = if setting.changeable { "" } else { "at start" };
            let braft = if wide {
                setting.braft_name.clone()
            } else {
                String::new()
            };
            [
                setting.name.clone(),
                setting.value.clone(),
                setting.range.clone(),
                fixed.to_owned(),
                setting.help.clone(),
                braft,
            ]
        });
        let braft = if wide { "BRAFT" } else { "" };
        table(
            ["SETTING", "VALUE", "RANGE", "SET", "WHAT", braft],
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
                "range": setting.range,
                "help": setting.help,
                "braft_name": setting.braft_name,
                "changeable": setting.changeable,
            })
        };
        Some(self.0.iter().map(item).collect())
    }
}
