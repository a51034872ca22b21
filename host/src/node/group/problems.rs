//! What a group says about itself: status, what is wrong, what to do next.

use super::Group;
use crate::node::request::{GroupStatus, Problem};
use crate::transport::Transport;
use kontiki_raft::{NodeId, Role};

impl Group {
    pub(super) fn status(&self) -> GroupStatus {
        let core = self.core.status(self.clock.now());
        GroupStatus {
            problems: self.problems(&core),
            core,
        }
    }

    fn problems(&self, core: &kontiki_raft::Status) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut add = |what: String, next_step: &str| {
            problems.push(Problem {
                what,
                next_step: next_step.to_owned(),
            });
        };
        if let Some(fault) = self.applier.view().fault() {
            add(
                format!("the state machine stands still: {fault}"),
                "correct the plugin; until upgrades exist, create a new group with it",
            );
        } else if let Some(failure) = &self.state.storage_failure {
            add(
                format!("this replica's storage failed: {failure}"),
                "see to the disk, then restart this node",
            );
        } else if let Some(failure) = core.failure {
            add(
                format!("this replica has failed: {failure}"),
                "see this node's log, then restart it or replace the replica",
            );
        }
        if self.state.removed {
            add(
                "this replica is no member of the group any more".to_owned(),
                "nothing, or add the node again",
            );
        }
        if let Some(snapshot) = &self.state.snapshot_refused {
            add(
                format!(
                    "the leader no longer has the entries up to {} that this replica lacks",
                    snapshot.last_included.index
                ),
                "remove this node from the group and add a node with an empty directory",
            );
        }
        problems.extend(no_leader_problem(core, &self.transport));
        if core.group_read_only || core.read_only {
            problems.push(Problem {
                what: "the group or this replica is read-only".to_owned(),
                next_step: "switch it off with `kontiki group read-only GROUP off`".to_owned(),
            });
        }
        problems
    }
}

/// Why there is no leader, as far as this replica can tell.
fn no_leader_problem(core: &kontiki_raft::Status, transport: &Transport) -> Option<Problem> {
    if core.leader.is_some() || core.role == Role::Stopped {
        return None;
    }
    let voters = &core.configuration.current.voters;
    if voters.is_empty() {
        return Some(Problem {
            what: "this replica knows no membership yet: no leader has spoken to it".to_owned(),
            next_step: "finish adding it with `kontiki member add`".to_owned(),
        });
    }
    let reachable = |node: &&NodeId| **node == core.node || transport.is_connected(**node);
    let up = voters.iter().filter(reachable).count();
    let needed = voters.len() / 2 + 1;
    let (what, next_step) = if up < needed {
        let what = format!(
            "no leader: {up} of {} voters are reachable, {needed} needed",
            voters.len()
        );
        (
            what,
            "start or reconnect the missing nodes; if they are lost for good, `kontiki recover`",
        )
    } else {
        (
            "no leader: an election is under way".to_owned(),
            "wait an election timeout or two",
        )
    };
    Some(Problem {
        what,
        next_step: next_step.to_owned(),
    })
}
