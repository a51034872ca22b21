//! What a group says about itself: status, what is wrong, what to do next.

use super::Group;
use crate::node::request::{GroupStatus, Problem};
use crate::transport::Transport;
use kontiki_raft::{NodeId, PeerStatus, Role, StopReason, Term};
use std::time::Duration;
use tracing::{info, warn};

impl Group {
    pub(super) fn status(&self) -> GroupStatus {
        let core = self.core.status(self.clock.now());
        let refused = self.state.snapshot_refused.as_ref();
        GroupStatus {
            epochs: self.epochs.clone(),
            waiting: self.state.waiting.len(),
            snapshot_refused: refused.map(|snapshot| snapshot.last_included),
            problems: self.problems(&core),
            core,
        }
    }

    fn problems(&self, core: &kontiki_raft::Status) -> Vec<Problem> {
        let mut problems = self.epoch_problems();
        if self.epochs.newer().is_some() {
            // What else is wrong with it is wrong with nobody's data.
            return problems;
        }
        let mut add = |what: String, next_step: &str| {
            problems.push(Problem {
                what,
                next_step: next_step.to_owned(),
            });
        };
        if let Some(standstill) = self.applier.view().standstill() {
            add(
                format!(
                    "the state machine stands still: {}; this node's log has more",
                    standstill.headline
                ),
                standstill.cause.next_step(),
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
        for (node, index) in self.applier.view().differing() {
            add(
                format!(
                    "this replica has diverged from that of node {:?}: at index {index} or before \
                     they answered the same log differently",
                    self.transport.name(node)
                ),
                "find out which one is right (`kontiki group describe GROUP --node NODE`: outcome \
                 hash; the odd one out is wrong), and replace that replica: remove its node from \
                 the group, and add it again",
            );
        }
        if let Some(problem) = self.applier.view().read_problem() {
            add(
                problem,
                "correct the plugin: a query changes nothing, and answers depend on the log alone",
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
        problems.extend(self.out_of_reach_problem());
        problems.extend(duplicate_problems(core, &self.transport));
        problems.extend(replay_problem(self.core.replay_left()));
        problems.extend(slow_disk_problem(core));
        problems.extend(no_leader_problem(core, &self.transport));
        problems.extend(succession_problem(core));
        problems.extend(silent_voters_problem(core, &self.name, &self.transport));
        if core.group_read_only || core.read_only {
            problems.push(Problem {
                what: "the group or this replica is read-only".to_owned(),
                next_step: "switch it off with `kontiki group read-only GROUP off`".to_owned(),
            });
        }
        problems
    }

    /// Says that a leadership is over: aloud if something is wrong with this node or its links.
    pub(super) fn leader_stopped(&self, term: Term, reason: StopReason) {
        let term = term.0;
        match reason {
            StopReason::DiskStalled => {
                let core = self.core.status(self.clock.now());
                warn!(
                    term,
                    write_age_ms = millis(core.oldest_write.unwrap_or_default()),
                    limit_ms = millis(core.disk_stall_timeout),
                    "the disk stalls; leadership was given up"
                );
            }
            StopReason::QuorumLost => {
                warn!(term, "no majority answers; leadership was given up");
            }
            _ => info!(term, ?reason, "leads no more"),
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Members of which a second process came lately.
fn duplicate_problems(core: &kontiki_raft::Status, transport: &Transport) -> Vec<Problem> {
    let found = transport.duplicates_lately().into_iter();
    let members = found.filter(|it| core.configuration.contains(it.node));
    members.map(|it| it.problem).collect()
}

/// Until the log is replayed the replica answers with what it has, and should not lead.
fn replay_problem(left: u64) -> Option<Problem> {
    (left > 0).then(|| Problem {
        what: format!("this replica still replays its log: {left} entries to apply"),
        next_step: "wait; do not restart another node of the group meanwhile".to_owned(),
    })
}

/// A write that takes longer than an election: clients wait, and a leader may have to give up.
fn slow_disk_problem(core: &kontiki_raft::Status) -> Option<Problem> {
    let age = core
        .oldest_write
        .filter(|age| *age > core.election_timeout)?;
    if core.role == Role::Stopped {
        return None;
    }
    let limit = core.disk_stall_timeout;
    let stalls = !limit.is_zero() && age >= limit;
    let took = age.as_secs_f64();
    let what = match stalls {
        true => format!(
            "this node does not lead while the disk stalls: a write has taken {took:.1} s so far"
        ),
        false => format!("this node's disk is slow: a write has taken {took:.1} s so far"),
    };
    let next_step = "look at this node's disk: how busy it is, and what the system says of it";
    Some(Problem {
        what,
        next_step: next_step.to_owned(),
    })
}

/// What keeps enough reachable voters from electing a leader.
fn election_problem(core: &kontiki_raft::Status) -> (&'static str, &'static str) {
    let votes = core.configuration.is_voter(core.node);
    if votes && core.priority == 0 {
        (
            "no leader, and this replica has priority 0: it never starts an election, and if that \
             is so of all nobody does",
            "give a voter a priority above 0 with `kontiki settings set --node NODE priority=100`, \
             or start one election with `kontiki group campaign GROUP --node NODE`",
        )
    } else if votes && core.drained {
        (
            "no leader: this node is drained and leaves elections to others for four election timeouts",
            "wait, or let it lead again with `kontiki node undrain NODE`",
        )
    } else {
        (
            "no leader: an election is under way",
            "wait an election timeout or two",
        )
    }
}

/// Why nobody would take over from this leader, or should have but does not.
fn succession_problem(core: &kontiki_raft::Status) -> Option<Problem> {
    // What a silent one would say is not known; that it is silent is another problem.
    let recent = |since: Duration| since < 2 * core.election_timeout;
    let answers = |peer: &&PeerStatus| peer.voter && peer.last_contact.is_some_and(recent);
    let mut others = core.peers.iter().filter(answers).peekable();
    others.peek()?;
    let (what, next_step) = if others.all(|peer| peer.standing.priority == 0) {
        (
            "every other voter that answers has priority 0: without this leader nobody would start an \
             election",
            "give another voter a priority above 0 with `kontiki settings set --node NODE priority=100`",
        )
    } else if core.drained {
        (
            "the group is led from a drained node: no other voter has been able to take over",
            "see that another voter is up, not drained and has caught up; or `kontiki node undrain NODE`",
        )
    } else {
        return None;
    };
    Some(Problem {
        what: what.to_owned(),
        next_step: next_step.to_owned(),
    })
}

/// Voters that a leader does not hear: the group serves, with less to spare than it was given.
fn silent_voters_problem(
    core: &kontiki_raft::Status,
    group: &str,
    transport: &Transport,
) -> Option<Problem> {
    let hears = |peer: &PeerStatus| match peer.last_contact {
        Some(since) => since < 2 * core.election_timeout,
        // A leader that has just begun waits for the first answer of whoever it can reach.
        None => transport.is_connected(peer.node),
    };
    let voters = core.peers.iter().filter(|peer| peer.voter);
    let silent: Vec<String> = voters
        .filter(|peer| !hears(peer))
        .map(|peer| transport.name(peer.node))
        .collect();
    let first = silent.first()?;
    let all = core.configuration.current.voters.len();
    Some(Problem {
        what: format!(
            "{} of {all} voters {} answer: {}; the group needs {}",
            silent.len(),
            if silent.len() == 1 {
                "does not"
            } else {
                "do not"
            },
            silent.join(", "),
            all / 2 + 1
        ),
        next_step: format!(
            "start or reconnect what is missing; what is lost for good is removed with `kontiki \
             member remove {first} --group {group}`"
        ),
    })
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
        let (what, next_step) = election_problem(core);
        (what.to_owned(), next_step)
    };
    Some(Problem {
        what,
        next_step: next_step.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_raft::{Core, Instant, MemberSet, Recovered, Settings};

    fn status(write_age_ms: u64) -> kontiki_raft::Status {
        let members = MemberSet::of_voters([NodeId(1)]);
        let (settings, now) = (Settings::default(), Instant(0));
        let core = Core::new(NodeId(1), settings, members, Recovered::default(), now, 7);
        kontiki_raft::Status {
            oldest_write: Some(Duration::from_millis(write_age_ms)),
            ..core.status(now)
        }
    }

    #[test]
    fn a_slow_write_is_a_problem_and_a_stalled_one_says_what_it_costs() {
        assert_eq!(slow_disk_problem(&status(900)), None);
        let slow = slow_disk_problem(&status(2_500)).unwrap();
        assert_eq!(
            slow.what,
            "this node's disk is slow: a write has taken 2.5 s so far"
        );
        let stalled = slow_disk_problem(&status(10_000)).unwrap();
        assert!(
            stalled
                .what
                .starts_with("this node does not lead while the disk stalls")
        );
        let quiet = kontiki_raft::Status {
            oldest_write: None,
            ..status(0)
        };
        assert_eq!(slow_disk_problem(&quiet), None);
    }
}
