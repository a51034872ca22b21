//! What follows when the machine faults in the middle of a batch.

use super::cut::is_command;
use super::runner::is_outsize;
use super::view::MachineState;
use super::worker::{Stopped, Worker};
use crate::node::reply::CommandReply;
use kontiki_plugin::ApplyFault;
use kontiki_raft::{Entry, LogIndex};
use std::collections::VecDeque;
use tracing::{info, warn};

impl Worker {
    /// The machine failed in a call for `entries`, and its state is lost with it. It is made anew
    /// from the log, and the entries are applied one by one up to the one that fails by itself.
    ///
    /// A command that traps would trap again: the replica stands still before it. One that reached
    /// a limit is tried once more: in a machine that has nothing used up it may well succeed, as it
    /// did elsewhere.
    ///
    /// # Errors
    ///
    /// [`Stopped`] if the replica stands still.
    pub(super) fn second_try(
        &mut self,
        entries: &[Entry],
        fault: &ApplyFault,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Result<(), Stopped> {
        let again = fault.fault.is_limit();
        let upto = match again {
            true => entries.len(),
            false => before_failed(entries, fault.entry),
        };
        let doing = self.view.enter(MachineState::Rebuilding);
        let index = self.runner.state.applied.index.0;
        info!(group = self.group.0, index, "rebuilding the machine");
        let rebuilt = self.runner.rebuild(&|| false);
        self.view.enter(doing);
        if let Err(stopped) = rebuilt {
            warn!(group = self.group.0, error = %stopped.whole, "the machine cannot be rebuilt");
            return Err(match again && !stopped.is_not_deterministic() {
                true => Stopped::by(&fault.fault),
                false => stopped,
            });
        }
        self.runner.machine_replays(self.replaying);
        let digest = self.digest.clone();
        let applied = self.runner.singly(&entries[..upto], &mut |id, answer| {
            super::commands::reply(&digest, replies, id, answer);
        });
        // It may have been made anew once more.
        self.runner.machine_replays(self.replaying);
        self.publish();
        applied?;
        if again {
            let outsize = is_outsize(&fault.fault);
            warn!(
                group = self.group.0,
                index, outsize, "a fresh instance did what failed before"
            );
            return Ok(());
        }
        Err(Stopped::by(&fault.fault))
    }
}

/// How many entries come before the command that is to blame.
fn before_failed(entries: &[Entry], failed: usize) -> usize {
    let mut commands = entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| is_command(entry));
    commands.nth(failed).map_or(0, |(at, _)| at)
}
