//! `kontiki member purge`: what a node still holds of a group that it was removed from.

use super::context::Global;
use super::failure::{Failure, Result};
use super::names::{configuration_json, configuration_text};
use super::output::{Document, fields};
use clap::Args;
use kontiki_client::proto::{Introduction, PurgeReplicaReply, PurgeReplicaRequest};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki member remove n4 --group orders
  kontiki member purge n4 --group orders
  kontiki member purge n4 --group orders --confirm orders")]
pub(crate) struct PurgeArgs {
    /// The node, by name or id
    node: String,
    /// Name of the group
    #[arg(long, short)]
    group: String,
    /// The name of the group, typed again: do it
    #[arg(long, value_name = "GROUP")]
    confirm: Option<String>,
}

/// Runs `kontiki member purge`.
pub(crate) async fn run(global: &Global, args: &PurgeArgs) -> Result<()> {
    let (node, group) = (&args.node, &args.group);
    if let Some(typed) = args.confirm.as_ref().filter(|typed| *typed != group) {
        return Err(Failure::usage(format!(
            "--confirm says {typed:?}, the group is {group:?}: nothing was deleted"
        )));
    }
    let there = global.client_of(node).await?;
    let request = PurgeReplicaRequest {
        group: group.clone(),
        dry_run: args.confirm.is_none(),
        confirm: args.confirm.clone().unwrap_or_default(),
    };
    let reply = there.admin().purge(request).await.map_err(|error| {
        let is_member = error.reason().as_str() == "STILL_MEMBER";
        let failure = Failure::from(error);
        match is_member {
            true => failure.with_hint(format!("kontiki member remove {node} --group {group}")),
            false => failure,
        }
    })?;
    let client = global.client();
    let members = client.members().await.unwrap_or_default().into_iter();
    let nodes = members.map(|member| Introduction {
        node: member.id,
        name: member.name,
        ..Introduction::default()
    });
    let done = args.confirm.is_some();
    global.out().print(&Purged {
        node,
        group,
        done,
        reply,
        nodes: nodes.collect(),
    });
    if !done {
        global.out().note(&format!(
            "nothing was deleted; to do it: kontiki member purge {node} --group {group} --confirm \
             {group}"
        ));
    }
    Ok(())
}

struct Purged<'a> {
    node: &'a str,
    group: &'a str,
    done: bool,
    reply: PurgeReplicaReply,
    nodes: Vec<Introduction>,
}

impl Document for Purged<'_> {
    const KIND: &'static str = "purge";

    fn json(&self) -> Value {
        let reply = &self.reply;
        let configuration = reply.configuration.clone().unwrap_or_default();
        json!({
            "node": self.node,
            "group": self.group,
            "done": self.done,
            "authority": reply.authority,
            "last": reply.last.map(|last| json!({ "index": last.index, "term": last.term })),
            "members": configuration_json(&configuration, &self.nodes)["current"],
        })
    }

    fn text(&self, _: bool) -> String {
        let last = self.reply.last.unwrap_or_default();
        let what = if self.done { "deleted" } else { "would delete" };
        let configuration = self.reply.configuration.clone().unwrap_or_default();
        let who = match self.reply.authority.as_str() {
            "" => "the replica itself, which holds nothing".to_owned(),
            leader => format!("{leader}, which leads"),
        };
        fields(&[
            (
                what,
                format!("the replica of {} on {}", self.group, self.node),
            ),
            (
                "its log",
                format!("ends at index {} of term {}", last.index, last.term),
            ),
            ("members", configuration_text(&configuration, &self.nodes)),
            ("so says", who),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.node.to_owned()]
    }
}
