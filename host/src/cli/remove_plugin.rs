//! `kontiki plugin rm`: a plugin that no group needs.

use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::output::{Document, fields};
use clap::Args;
use kontiki_client::proto::RemovePluginReply;
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "Refused while a group of any node needs it.

Examples:
  kontiki plugin rm counter@0.1.0
  kontiki plugin rm sha256:… --dry-run")]
pub(crate) struct RemoveArgs {
    /// A digest, NAME@VERSION, or a name of which one version is stored
    plugin: String,
    /// Only check whether it could be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs `kontiki plugin rm`.
pub(crate) async fn run(global: &Global, args: &RemoveArgs) -> Result<()> {
    let client = global.client();
    let reply = client
        .admin()
        .remove_plugin(&args.plugin, args.dry_run)
        .await?;
    let failed = reply.failed_nodes.clone();
    let done = !args.dry_run;
    global.out().print(&Removed { done, reply });
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("not removed from every node: {}", failed.join("; "));
    Err(Failure::new(Exit::Unhealthy, "REMOVE_INCOMPLETE", message)
        .with_hint("removing again, once they can be reached, is harmless"))
}

struct Removed {
    done: bool,
    reply: RemovePluginReply,
}

impl Document for Removed {
    const KIND: &'static str = "plugin-removal";

    fn json(&self) -> Value {
        json!({
            "digest": self.reply.digest,
            "done": self.done,
            "nodes": self.reply.nodes,
            "failed_nodes": self.reply.failed_nodes,
        })
    }

    fn text(&self, _: bool) -> String {
        let what = match self.done {
            true => "removed",
            false => "would remove",
        };
        fields(&[
            (what, self.reply.digest.clone()),
            ("nodes", self.reply.nodes.join(", ")),
        ])
    }

    fn names(&self) -> Vec<String> {
        vec![self.reply.digest.clone()]
    }
}
