//! A machine that faulted is made anew, from the log.

use super::cut::{cut, is_command};
use super::view::MachineState;
use super::worker::{Progress, Stopped, Worker};
use crate::node::reply::CommandReply;
use kontiki_plugin::ApplyFault;
use kontiki_raft::{Entry, LogIndex};
use std::collections::VecDeque;
use tracing::{error, info, warn};

impl Worker {
    /// The machine failed in a call for `entries`. Its state is lost with it, so it is made anew
    /// from the log up to just before the entry that failed; what comes before gets its answers.
    pub(super) fn after_fault(
        &mut self,
        entries: &[Entry],
        fault: ApplyFault,
        replies: &mut VecDeque<(LogIndex, CommandReply)>,
    ) -> Stopped {
        let mut commands = entries.iter().filter(|entry| is_command(entry));
        let stopped = Stopped {
            message: fault.to_string(),
        };
        let Some(failed) = commands.nth(fault.entry) else {
            return stopped;
        };
        let before = entries
            .iter()
            .take_while(|entry| entry.id.index < failed.id.index)
            .count();
        if let Err(again) = self.rebuild() {
            warn!(group = self.group.0, error = %again.message, "the machine cannot be rebuilt");
            return stopped;
        }
        let (batch, taken, time_ns) = cut(&entries[..before], self.state.time_ns);
        if taken == before
            && self
                .call(&batch, &entries[..before], time_ns, replies)
                .is_ok()
        {
            self.publish();
        }
        stopped
    }

    /// Makes the machine anew and brings it to where it was, from the log.
    pub(super) fn rebuild(&mut self) -> Result<(), Stopped> {
        let wanted = self.state;
        let doing = self.view.enter(MachineState::Rebuilding);
        info!(
            group = self.group.0,
            index = wanted.applied.index.0,
            "rebuilding the machine"
        );
        self.state = Progress::default();
        let rebuilt = self.replay(wanted.applied.index);
        if rebuilt.is_ok() && self.state.hash != wanted.hash {
            error!(
                group = self.group.0,
                index = wanted.applied.index.0,
                "the plugin gave other answers when the log was replayed: it is not deterministic"
            );
        }
        self.state = wanted;
        self.view.enter(doing);
        rebuilt
    }

    fn replay(&mut self, upto: LogIndex) -> Result<(), Stopped> {
        self.machine = None;
        self.make_machine()?;
        while self.state.applied.index < upto {
            let entries = self.read(self.state.applied.index.next(), upto)?;
            let mut rest = entries.as_slice();
            while !rest.is_empty() {
                let (batch, taken, time_ns) = cut(rest, self.state.time_ns);
                let (now, later) = rest.split_at(taken);
                let nobody = &mut VecDeque::new();
                self.call(&batch, now, time_ns, nobody)
                    .map_err(|fault| Stopped {
                        message: fault.to_string(),
                    })?;
                rest = later;
            }
        }
        Ok(())
    }
}
