//! `kontiki completion` and `kontiki version`.

use super::context::Global;
use super::failure::Result;
use super::output::{Document, bytes_out};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use serde_json::{Value, json};

/// Prints a completion script.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  source <(kontiki completion bash)")]
pub(crate) struct CompletionArgs {
    /// For this shell
    shell: Shell,
}

/// Runs `kontiki completion`.
pub(crate) fn completion(args: &CompletionArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "kontiki",
        &mut script,
    );
    bytes_out(&script);
    Ok(())
}

/// Runs `kontiki version`.
pub(crate) fn version(global: &Global) -> Result<()> {
    global.out().print(&Version);
    Ok(())
}

struct Version;

impl Document for Version {
    const KIND: &'static str = "version";

    fn json(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "peer_protocol": kontiki_proto::PEER_PROTOCOL,
        })
    }

    fn text(&self, _: bool) -> String {
        format!(
            "kontiki {} (peer protocol {})",
            env!("CARGO_PKG_VERSION"),
            kontiki_proto::PEER_PROTOCOL
        )
    }

    fn names(&self) -> Vec<String> {
        vec![env!("CARGO_PKG_VERSION").to_owned()]
    }
}
