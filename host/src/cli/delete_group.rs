//! `kontiki group delete`: a group and all its data.

use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::names::id_json;
use super::output::{Document, table};
use clap::Args;
use kontiki_client::proto::{DeleteGroupReply, DeleteGroupRequest, DeletedReplica};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(
    after_help = "Without --confirm it only says what would be deleted. It works on a group \
                        whose plugin failed, that cannot be opened, that has lost its majority, or \
                        whose creation was left half-way. Nodes that cannot be reached delete their \
                        replica when they come back.

Examples:
  kontiki group delete orders
  kontiki group delete orders --confirm orders"
)]
pub(crate) struct DeleteArgs {
    /// Name of the group, or its id
    group: String,
    /// The same, typed again: do it
    #[arg(long, value_name = "GROUP", conflicts_with = "dry_run")]
    confirm: Option<String>,
    /// Only say what would be deleted
    #[arg(long)]
    dry_run: bool,
}

/// Runs `kontiki group delete`.
pub(crate) async fn run(global: &Global, args: &DeleteArgs) -> Result<()> {
    let group = &args.group;
    if let Some(typed) = args.confirm.as_ref().filter(|typed| *typed != group) {
        return Err(Failure::usage(format!(
            "--confirm says {typed:?}, the group is {group:?}: nothing was deleted"
        )));
    }
    let done = args.confirm.is_some();
    let request = DeleteGroupRequest {
        group: group.clone(),
        dry_run: !done,
        confirm: args.confirm.clone().unwrap_or_default(),
    };
    let reply = global.client().admin().delete_group(request).await?;
    let failed: Vec<String> = named(&reply, "failed").collect();
    let away: Vec<String> = named(&reply, "unreachable").collect();
    global.out().print(&Deleted { done, reply });
    if !away.is_empty() {
        global.out().note(&format!(
            "not reached: {}; what they have of it is deleted when they come back",
            away.join(", ")
        ));
    }
    if !done {
        global.out().note(&format!(
            "nothing was deleted; to do it: kontiki group delete {group} --confirm {group}"
        ));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the group is deleted, but some nodes have not done so yet: {}",
        failed.join(", ")
    );
    Err(Failure::new(Exit::Unhealthy, "DELETE_INCOMPLETE", message)
        .with_hint("they ask again by themselves; deleting again is harmless".to_owned()))
}

fn named<'a>(reply: &'a DeleteGroupReply, state: &'a str) -> impl Iterator<Item = String> + 'a {
    let of_state = reply.replicas.iter().filter(move |it| it.state == state);
    of_state.map(|replica| replica.node.clone())
}

struct Deleted {
    done: bool,
    reply: DeleteGroupReply,
}

impl Document for Deleted {
    const KIND: &'static str = "group-deletion";

    fn json(&self) -> Value {
        let reply = &self.reply;
        json!({
            "id": id_json(reply.id),
            "group": reply.name,
            "done": self.done,
            "replicas": reply.replicas.iter().map(replica_json).collect::<Vec<_>>(),
        })
    }

    fn text(&self, _: bool) -> String {
        let verb = match self.done {
            true => "deleted",
            false => "would delete",
        };
        let head = format!("{verb} group {} (id {})", self.reply.name, self.reply.id);
        let rows = self.reply.replicas.iter().map(|replica| {
            let last = replica.last.unwrap_or_default();
            let last = match replica.last {
                Some(_) => last.index.to_string(),
                None => "-".to_owned(),
            };
            [
                replica.node.clone(),
                replica.state.clone(),
                last,
                replica.problem.clone(),
            ]
        });
        let rows = table(["NODE", "STATE", "LAST INDEX", "PROBLEM"], rows.collect());
        format!("{head}\n{rows}")
    }

    fn names(&self) -> Vec<String> {
        vec![self.reply.name.clone()]
    }
}

fn replica_json(replica: &DeletedReplica) -> Value {
    json!({
        "node": replica.node,
        "state": replica.state,
        "problem": replica.problem,
        "last": replica.last.map(|last| json!({ "index": last.index, "term": last.term })),
    })
}
