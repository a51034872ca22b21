//! What the replica says about itself, and when it wants to be called again.

use crate::core::Core;
use crate::leading::Leading;
use crate::progress::Peer;
use crate::replication::blocked;
use crate::{
    CatchUp, Instant, LogId, LogIndex, NodeId, PeerStatus, Role, Settings, Status, Timer, Timers,
    TransferStatus,
};
use alloc::vec::Vec;

impl Core {
    /// When the next [`Input::Tick`](crate::Input::Tick) is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.disk.has_staged() || !self.opening.is_empty() {
            return Some(self.now);
        }
        if self.stopped {
            return None;
        }
        let role = match self.leading.as_deref() {
            Some(leading) => self.leader_deadline(leading),
            None => match &self.campaign {
                Some(campaign) => self.election_due.min(campaign.retry_due),
                None => self.election_due,
            },
        };
        let handed_over = self.handed_over.map(|handed| handed.due);
        let others = [self.forwarded.due(), handed_over];
        Some(others.into_iter().flatten().fold(role, Instant::min))
    }

    fn leader_deadline(&self, leading: &Leading) -> Instant {
        let limit = self.settings.disk_stall_timeout;
        let stall = self.disk.oldest_issued().filter(|_| !limit.is_zero());
        let others = [
            stall.map(|at| at.plus(limit)),
            leading.transfer.as_ref().map(|transfer| transfer.due()),
            leading.change.as_ref().and_then(|change| change.due()),
        ];
        let own = leading.heartbeat_due.min(leading.upkeep_due);
        let own = own.min(leading.quorum_due);
        others.into_iter().flatten().fold(own, Instant::min)
    }

    /// What the replica says about itself.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let (configuration_index, configuration) = self.history.latest();
        let leading = self.leading.as_deref();
        let change = leading.and_then(|leading| leading.change.as_ref());
        let transfer = leading.and_then(|leading| leading.transfer.as_ref());
        let newest = self.snapshots.newest.as_ref();
        Status {
            node: self.node,
            role: self.role(),
            term: self.hard.term,
            voted_for: self.hard.voted_for,
            leader: self.known_leader,
            configuration: configuration.clone(),
            configuration_index,
            log_start: self.log.start(),
            last: self.log.last(),
            durable_index: self.log.durable(),
            commit_index: self.commit,
            applying_index: self.applying,
            applied_index: self.applied,
            snapshot: newest.map(|snapshot| snapshot.last_included),
            fetching: self.snapshots.fetching(),
            peers: self.peer_statuses(now),
            catching_up: self.catch_up_statuses(now),
            change_stage: change.map_or("none", |change| change.stage_name()),
            change_target: change.map(|change| change.target.clone()),
            transfer: transfer.map(|transfer| TransferStatus {
                target: transfer.target,
                elapsed: now.since(transfer.since),
            }),
            lease: self.lease_status(now),
            lease_epoch: self.lease_epoch,
            read_only: self.read_only,
            group_read_only: self.is_group_read_only(),
            uncommitted_size_bytes: self.waiting.uncommitted_size_bytes(),
            proposals_pending: self.waiting.len(),
            reads_pending: self.forwarded.len() + leading.map_or(0, |l| l.reads.len()),
            cache_size_bytes: self.log.cache_size_bytes(),
            leader_last_contact: self.leader_heard_at.map(|at| now.since(at)),
            timers: self.timers(now),
            writes_pending: self.disk.pending_count(),
            oldest_write: self.disk.oldest_issued().map(|at| now.since(at)),
            disk_stall_timeout: self.settings.disk_stall_timeout,
            election_timeout: self.settings.election_timeout,
            max_clock_drift: self.settings.max_clock_drift,
            priority: self.settings.priority,
            drained: self.drained,
            failure: self.failure,
        }
    }

    fn timers(&self, now: Instant) -> Timers {
        let role = self.role();
        let waiting = |runs: bool, span| Timer {
            span,
            left: runs.then(|| self.election_due.since(now)),
        };
        let follows = matches!(role, Role::Follower | Role::PreCandidate);
        let leading = self.leading.as_deref();
        let timeout = self.settings.election_timeout;
        Timers {
            election: waiting(follows, self.election_wait),
            vote: waiting(role == Role::Candidate, self.election_wait),
            step_down: Timer {
                span: timeout,
                left: leading.map(|leading| leading.patience_left(now, timeout)),
            },
            heartbeat: Timer {
                span: self.heartbeat_interval(),
                left: leading.map(|leading| leading.heartbeat_due.since(now)),
            },
        }
    }

    fn peer_statuses(&self, now: Instant) -> Vec<PeerStatus> {
        let peers = self.leading.iter().flat_map(|leading| &leading.peers);
        let status = |peer| peer_status(peer, &self.settings, now);
        peers.map(status).collect()
    }

    fn catch_up_statuses(&self, now: Instant) -> Vec<CatchUp> {
        let Some(leading) = self.leading.as_deref() else {
            return Vec::new();
        };
        let Some(change) = &leading.change else {
            return Vec::new();
        };
        let status = |&node: &NodeId| {
            let peer = leading.peer(node)?;
            let last = self.log.last().index;
            Some(CatchUp {
                node,
                entries_left: last.0.saturating_sub(peer.match_index.0),
                size_bytes_left: self.log.size_bytes_from(peer.match_index.next()),
                elapsed: now.since(change.since),
                entries_done: peer.match_index.0.saturating_sub(peer.catch_up_from.0),
            })
        };
        change.joining().iter().filter_map(status).collect()
    }

    /// Last log position; cheaper than a full status.
    #[must_use]
    pub fn last_log_id(&self) -> LogId {
        self.log.last()
    }

    /// Commit index; cheaper than a full status.
    #[must_use]
    pub fn commit_index(&self) -> LogIndex {
        self.commit
    }
}

fn peer_status(peer: &Peer, settings: &Settings, now: Instant) -> PeerStatus {
    PeerStatus {
        node: peer.node,
        voter: peer.is_voter(),
        part: peer.part(),
        state: peer.state(),
        match_index: peer.match_index,
        next_index: peer.next_index,
        inflight_messages: peer.inflight_messages(),
        inflight_size_bytes: peer.inflight_size_bytes(),
        last_contact: peer.last_answer.map(|at| now.since(at)),
        read_only: peer.read_only,
        blocked: blocked(peer, settings),
        traffic: peer.traffic,
        standing: peer.standing,
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Cluster;
    use crate::{
        Blocked, ConfigurationChange, Input, NodeId, PeerPart, PeerStatus, Status, TransferTarget,
    };

    impl Cluster {
        fn status(&self, id: u64) -> Status {
            self.node(id).core.status(self.now)
        }

        fn peer(&self, leader: u64, id: u64) -> PeerStatus {
            let peers = self.status(leader).peers;
            let peer = peers.into_iter().find(|peer| peer.node == NodeId(id));
            peer.expect("it is a peer")
        }

        fn another(&self, id: u64) -> u64 {
            (1..=3).find(|&other| other != id).expect("there are three")
        }
    }

    /// Which of election, vote, step-down and heartbeat timer run.
    fn running(status: &Status) -> [bool; 4] {
        let timers = status.timers;
        let all = [
            timers.election,
            timers.vote,
            timers.step_down,
            timers.heartbeat,
        ];
        all.map(|timer| timer.left.is_some())
    }

    #[test]
    fn each_timer_runs_in_its_part_only() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let follower = cluster.another(leader);
        assert_eq!(running(&cluster.status(leader)), [false, false, true, true]);
        assert_eq!(
            running(&cluster.status(follower)),
            [true, false, false, false]
        );
        cluster.isolate(follower);
        let token = cluster.token();
        cluster.give(follower, Input::Campaign { token });
        assert_eq!(
            running(&cluster.status(follower)),
            [false, true, false, false]
        );
        cluster.give(follower, Input::Shutdown);
        assert_eq!(running(&cluster.status(follower)), [false; 4]);
    }

    #[test]
    fn the_step_down_timer_runs_out_when_the_leader_does() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        cluster.run_ms(500);
        let full = cluster.status(leader).timers.step_down;
        cluster.isolate(leader);
        cluster.run_ms(600);
        let left = cluster.status(leader).timers.step_down.left;
        assert!(left.unwrap() < full.left.unwrap(), "{left:?} {full:?}");
        let left_ms = u64::try_from(left.unwrap().as_millis()).unwrap();
        cluster.run_ms(left_ms - 1);
        assert!(cluster.status(leader).timers.step_down.left.is_some());
        cluster.run_ms(3);
        assert_eq!(cluster.status(leader).timers.step_down.left, None);
    }

    #[test]
    fn what_is_sent_to_a_peer_is_counted() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let follower = cluster.another(leader);
        let before = cluster.peer(leader, follower).traffic;
        for payload in [b"a", b"b"] {
            cluster.propose(leader, payload);
        }
        cluster.run_ms(1_000);
        let peer = cluster.peer(leader, follower);
        let after = peer.traffic;
        assert_eq!(after.entries_sent - before.entries_sent, 2);
        assert!(after.appends_sent - before.appends_sent >= 2, "{after:?}");
        let heartbeats = after.heartbeats_sent - before.heartbeats_sent;
        assert!((9..=11).contains(&heartbeats), "{after:?}");
        assert_eq!((after.installs_sent, after.consecutive_errors), (0, 0));
        assert!(after.heartbeats_unanswered <= 1, "{after:?}");
        assert_eq!((peer.part, peer.blocked), (PeerPart::Voter, None));
    }

    #[test]
    fn a_silent_peer_shows_errors_and_why_it_gets_nothing() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let follower = cluster.another(leader);
        cluster.isolate(follower);
        cluster.propose(leader, b"a");
        cluster.run_ms(2_500);
        let peer = cluster.peer(leader, follower);
        assert_eq!(peer.blocked, Some(Blocked::Probe));
        assert!(peer.traffic.consecutive_errors > 0, "{peer:?}");
        assert!(peer.traffic.heartbeats_unanswered >= 20, "{peer:?}");
        cluster.heal();
        cluster.run_ms(2_500);
        let peer = cluster.peer(leader, follower);
        assert_eq!((peer.blocked, peer.traffic.consecutive_errors), (None, 0));

        let peer = NodeId(follower);
        cluster.give(leader, Input::PeerUnreachable { peer });
        let peer = cluster.peer(leader, follower);
        assert_eq!(peer.blocked, Some(Blocked::Retry));
        assert_eq!(peer.traffic.consecutive_errors, 1);
    }

    #[test]
    fn a_change_under_way_says_where_it_leads() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        assert_eq!(cluster.status(leader).change_target, None);
        // Nobody is there under this id, so it never catches up.
        cluster.change(leader, ConfigurationChange::AddVoter(NodeId(9)));
        let status = cluster.status(leader);
        assert_eq!(status.change_stage, "catch-up");
        let target = status.change_target.expect("a change is under way");
        assert!(target.voters.contains(&NodeId(9)) && target.voters.len() == 4);
        assert_eq!(cluster.peer(leader, 9).part, PeerPart::CatchingUp);
    }

    #[test]
    fn a_write_under_way_shows_its_age() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        assert_eq!(cluster.status(leader).oldest_write, None);
        cluster.node_mut(leader).hold_disk = true;
        cluster.propose(leader, b"a");
        let before = cluster
            .status(leader)
            .oldest_write
            .expect("it is under way");
        cluster.run_ms(300);
        let status = cluster.status(leader);
        let waited = status.oldest_write.unwrap().checked_sub(before).unwrap();
        assert!((299..=301).contains(&waited.as_millis()), "{waited:?}");
        assert_eq!(status.writes_pending, 1);
    }

    #[test]
    fn a_transfer_shows_its_target() {
        let mut cluster = Cluster::new(3);
        let leader = cluster.elect();
        let target = NodeId(cluster.another(leader));
        cluster.cut.insert((leader, target.0));
        let token = cluster.token();
        let target_given = TransferTarget::Node(target);
        cluster.give(
            leader,
            Input::TransferLeadership {
                token,
                target: target_given,
            },
        );
        assert_eq!(
            cluster.status(leader).transfer.map(|t| t.target),
            Some(target)
        );
    }
}
