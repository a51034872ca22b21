//! Verbs of `braft_cli`, answered with ours.

use super::failure::Failure;
use clap::{Args, Subcommand};

/// What an operator of braft types from habit.
#[derive(Debug, Subcommand)]
pub(crate) enum BraftCommand {
    #[command(name = "add_peer", hide = true)]
    AddPeer(Anything),
    #[command(name = "remove_peer", hide = true)]
    RemovePeer(Anything),
    #[command(name = "change_peers", hide = true)]
    ChangePeers(Anything),
    #[command(name = "transfer_leader", hide = true)]
    TransferLeader(Anything),
    #[command(name = "reset_peer", hide = true)]
    ResetPeer(Anything),
    #[command(name = "snapshot", hide = true)]
    Snapshot(Anything),
}

/// Whatever follows.
#[derive(Debug, Args)]
pub(crate) struct Anything {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

impl BraftCommand {
    /// The way to say it here.
    pub(crate) fn answer(&self) -> Failure {
        let (theirs, ours) = match self {
            Self::AddPeer(_) => ("add_peer", "kontiki member add NODE --group GROUP"),
            Self::RemovePeer(_) => ("remove_peer", "kontiki member remove NODE --group GROUP"),
            Self::ChangePeers(_) => (
                "change_peers",
                "kontiki member change --group GROUP --voters NODE,…",
            ),
            Self::TransferLeader(_) => {
                ("transfer_leader", "kontiki group transfer GROUP --to NODE")
            }
            Self::ResetPeer(_) => ("reset_peer", "kontiki recover GROUP --survivors NODE,…"),
            Self::Snapshot(_) => {
                let message = "`snapshot` is braft's; this version saves no snapshots on real \
                               nodes: a log is kept whole, and a restart replays it";
                return Failure::usage(message).with_hint("kontiki group describe GROUP");
            }
        };
        Failure::usage(format!("`{theirs}` is braft's; here it is: {ours}")).with_hint(ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verb_is_answered_with_what_there_is() {
        let anything = || Anything { rest: vec![] };
        for (verb, ours) in [
            (BraftCommand::AddPeer(anything()), "kontiki member add"),
            (
                BraftCommand::RemovePeer(anything()),
                "kontiki member remove",
            ),
            (
                BraftCommand::ChangePeers(anything()),
                "kontiki member change",
            ),
            (
                BraftCommand::TransferLeader(anything()),
                "kontiki group transfer",
            ),
            (BraftCommand::ResetPeer(anything()), "kontiki recover"),
            (
                BraftCommand::Snapshot(anything()),
                "this version saves no snapshots",
            ),
        ] {
            let answer = verb.answer();
            assert!(answer.message().contains(ours), "{}", answer.message());
        }
    }
}
