//! `kontiki node`: the processes of the cluster.

use super::cluster::{SeenNode, Survey};
use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::forget;
use super::names::id_json;
use super::output::{Document, table};
use clap::{Args, Subcommand};
use kontiki_client::proto::DrainReply;
use serde_json::{Value, json};
use std::time::Duration;

/// Nodes: each is one process that hosts replicas of groups.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Lists the nodes of the cluster
    #[command(visible_alias = "ls")]
    List,
    /// Moves every leadership off a node and keeps it off until `undrain`, also over restarts
    ///
    /// Waits until the node leads no group, at most for --timeout, and says which it still leads
    /// and why. A drained node keeps voting and storing. It leads a group all the same where no
    /// other voter has for several election timeouts, and hands over as soon as one can.
    Drain(NodeArg),
    /// Lets a drained node lead again
    Undrain(NodeArg),
    /// Makes every other node forget one whose data was lost, so that a new one may take its name
    ///
    /// Says which nodes have forgotten it. One that cannot be reached forgets it when it is back and
    /// hears of it from the others. Refused while a node is connected to the one to be forgotten.
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NodeArg {
    /// The node, by name or id
    node: String,
}

#[derive(Debug, Args)]
pub(crate) struct ForgetArgs {
    #[command(flatten)]
    node: NodeArg,
    /// Also if it runs and is connected: the connections end, and it is known again as soon as it
    /// calls
    #[arg(long)]
    force: bool,
}

/// Runs `kontiki node`.
pub(crate) async fn run(global: &Global, command: &NodeCommand) -> Result<()> {
    match command {
        NodeCommand::List => {
            let survey = Survey::of(global).await?;
            global.out().print(&Nodes(&survey.nodes));
            Ok(())
        }
        NodeCommand::Drain(args) => drain(global, &args.node, false).await,
        NodeCommand::Undrain(args) => drain(global, &args.node, true).await,
        NodeCommand::Forget(args) => forget::run(global, &args.node.node, args.force).await,
    }
}

/// A list of nodes.
pub(crate) struct Nodes<'a>(pub(crate) &'a [SeenNode]);

pub(crate) fn node_json(node: &SeenNode) -> Value {
    let report = node.report.as_ref().ok();
    json!({
        "id": node.id.map(id_json),
        "name": node.name,
        "address": node.address,
        "state": node.state(),
        "groups": report.map(|report| report.groups),
        "leading": report.map(|report| report.leading),
        "drained": report.map(|report| report.drained),
        "storage": report.map(|report| &report.storage),
        "http_address": report.map(|report| &report.http_address),
        "version": report.and_then(|report| Some(&report.node.as_ref()?.version)),
        "uptime_seconds": report.map(|report| report.uptime_us as f64 / 1e6),
        "problems": node.problems(),
    })
}

fn uptime(us: u64) -> String {
    humantime::format_duration(Duration::from_secs(us / 1_000_000)).to_string()
}

/// Every node a line.
pub(crate) fn nodes_table(nodes: &[SeenNode], wide: bool) -> String {
    let rows = nodes.iter().map(|node| {
        let report = node.report.clone().unwrap_or_default();
        let up = node.report.is_ok();
        let count = |n: u32| if up { n.to_string() } else { "-".into() };
        let storage = if wide {
            report.storage.clone()
        } else {
            String::new()
        };
        [
            node.name.clone(),
            node.state().to_owned(),
            node.address.clone(),
            report.http_address.clone(),
            count(report.groups),
            count(report.leading),
            if up {
                uptime(report.uptime_us)
            } else {
                "-".into()
            },
            storage,
        ]
    });
    let last = if wide { "STORAGE" } else { "" };
    let head = [
        "NODE", "STATE", "ADDRESS", "HTTP", "GROUPS", "LEADS", "UP", last,
    ];
    table(head, rows.collect())
}

impl Document for Nodes<'_> {
    const KIND: &'static str = "nodes";

    fn json(&self) -> Value {
        json!({ "nodes": self.items() })
    }

    fn text(&self, wide: bool) -> String {
        let problems = self.0.iter().filter(|node| !node.problems().is_empty());
        let lines = problems.map(|node| format!("\n{}: {}", node.name, node.problems().join("; ")));
        format!("{}{}", nodes_table(self.0, wide), lines.collect::<String>())
    }

    fn names(&self) -> Vec<String> {
        self.0.iter().map(|node| node.name.clone()).collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        Some(self.0.iter().map(node_json).collect())
    }
}

async fn drain(global: &Global, node: &str, undo: bool) -> Result<()> {
    let reply = global.client_of(node).await?.admin().drain(undo).await?;
    let stayed = reply.stayed.join("; ");
    global.out().print(&Drained { node, undo, reply });
    if stayed.is_empty() {
        return Ok(());
    }
    let message = format!("{node} still leads: {stayed}");
    Err(Failure::new(Exit::Unhealthy, "DRAIN_INCOMPLETE", message)
        .with_hint("the node takes no new leadership; run the same command again to move the rest"))
}

struct Drained<'a> {
    node: &'a str,
    undo: bool,
    reply: DrainReply,
}

impl Document for Drained<'_> {
    const KIND: &'static str = "drain";

    fn json(&self) -> Value {
        json!({
            "node": self.node,
            "drained": !self.undo,
            "draining": !self.undo,
            "moved": self.reply.moved,
            "stayed": self.reply.stayed,
        })
    }

    fn text(&self, _: bool) -> String {
        match (self.undo, self.reply.moved.is_empty()) {
            (true, _) => format!("{} may lead again", self.node),
            (false, true) => format!("{} leads nothing and will not", self.node),
            (false, false) => {
                format!("{} handed over {}", self.node, self.reply.moved.join(", "))
            }
        }
    }

    fn names(&self) -> Vec<String> {
        self.reply.moved.clone()
    }
}
