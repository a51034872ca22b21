//! What the replica says about itself, and when it wants to be called again.

use crate::core::Core;
use crate::progress::Peer;
use crate::{CatchUp, Instant, LogId, LogIndex, NodeId, PeerStatus, Status, TransferStatus};
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
        Some(self.forwarded.due().map_or(role, |due| due.min(role)))
    }

    fn leader_deadline(&self, leading: &crate::leading::Leading) -> Instant {
        let limit = self.settings.disk_stall_timeout;
        let stall = self.disk.oldest_issued().filter(|_| !limit.is_zero());
        let others = [
            stall.map(|at| at.plus(limit)),
            leading.transfer.as_ref().map(|transfer| transfer.due()),
            leading.change.as_ref().and_then(|change| change.due()),
        ];
        let own = leading.heartbeat_due.min(leading.quorum_due);
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
            election_timer: leading.is_none().then(|| self.election_due.since(now)),
            election_timeout: self.settings.election_timeout,
            max_clock_drift: self.settings.max_clock_drift,
            priority: self.settings.priority,
            drained: self.drained,
            failure: self.failure,
        }
    }

    fn peer_statuses(&self, now: Instant) -> Vec<PeerStatus> {
        let peers = self.leading.iter().flat_map(|leading| &leading.peers);
        peers.map(|peer| peer_status(peer, now)).collect()
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
                size_bytes_left: self.size_bytes_after(peer.match_index),
                elapsed: now.since(change.since),
                entries_done: peer.match_index.0.saturating_sub(peer.catch_up_from.0),
            })
        };
        change.joining().iter().filter_map(status).collect()
    }

    /// Bytes of the entries after `index` that are in memory.
    fn size_bytes_after(&self, index: LogIndex) -> u64 {
        self.log.size_bytes_from(index.next()) as u64
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

fn peer_status(peer: &Peer, now: Instant) -> PeerStatus {
    PeerStatus {
        node: peer.node,
        voter: peer.is_voter(),
        state: peer.state(),
        match_index: peer.match_index,
        next_index: peer.next_index,
        inflight_messages: peer.inflight_messages(),
        inflight_size_bytes: peer.inflight_size_bytes(),
        last_contact: peer.last_answer.map(|at| now.since(at)),
        read_only: peer.read_only,
        standing: peer.standing,
    }
}
