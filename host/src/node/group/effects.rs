//! Carrying the core's effects out: to disk, to peers, to the plugin, to whoever waits.

use super::{Completion, Group};
use crate::node::request::{Failure, Outcome};
use crate::node::waiting::Waiter;
use kontiki_raft::{
    ApplyBatch, Effect, Event, IoId, LogIndex, NodeId, Persist, ReadError, ReadId, RejectReason,
    SnapshotMeta, Token,
};
use kontiki_storage::StorageError;
use std::time::Instant;
use tracing::{debug, error, info, warn};

impl Group {
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Persist(persist) => self.persist(persist),
            Effect::Send { to, message } => {
                let sent = || self.transport.send(to, self.id, self.epochs.id(), message);
                if !self.is_apart() && !sent() {
                    self.state.unreachable.insert(to);
                }
            }
            Effect::ReadEntries {
                read,
                first,
                last,
                size_bytes_max,
            } => {
                self.read_entries(read, first, last, size_bytes_max);
            }
            Effect::Apply(batch) => self.apply(batch),
            Effect::FetchSnapshot { from, snapshot } => self.refuse_snapshot(from, snapshot),
            // Nothing is compacted while real nodes have no snapshots to fall back on.
            Effect::CompactLog { upto } => debug!(index = upto.index.0, "log kept"),
            Effect::Done { token } => self.done(token),
            Effect::Rejected { token, reason } => self.rejected(token, reason),
            Effect::ReadReady { token, index } => self.read_ready(token, index),
            Effect::Event(event) => self.on_event(&event),
        }
    }

    /// Hands committed entries to the plugin, with the clients that wait for them here.
    fn apply(&mut self, batch: ApplyBatch) {
        let mut replies = Vec::with_capacity(batch.waiting.len());
        let now = Instant::now();
        for (index, token) in &batch.waiting {
            if let Some(Waiter::Apply(reply, proposed)) = self.state.waiting.remove(token) {
                let took = now.saturating_duration_since(proposed);
                self.metrics.commit_duration.observe(took.as_secs_f64());
                replies.push((*index, reply));
            }
        }
        self.state.apply_ended |= !self.applier.apply(batch, replies);
    }

    fn read_ready(&mut self, token: Token, index: LogIndex) {
        let Some(Waiter::Read(queries)) = self.state.waiting.remove(&token) else {
            return;
        };
        for query in queries {
            let took = query.arrived.elapsed().as_secs_f64();
            self.metrics.read_index_duration.observe(took);
            self.applier.query(index, query.request, query.reply);
        }
    }

    fn persist(&mut self, persist: Persist) {
        self.state.writes += 1;
        let completed = self.completed.clone();
        let io = persist.io;
        let done = move |result: Result<IoId, StorageError>| {
            let result = result.map_err(|error| (io, error));
            // The group is gone: nobody waits for the write.
            let _ = completed.send(Completion::Persisted(result));
        };
        self.storage.persist(self.id, persist, Box::new(done));
    }

    fn read_entries(&self, read: ReadId, first: LogIndex, last: LogIndex, size_bytes_max: usize) {
        let (storage, completed, id) = (self.storage.clone(), self.completed.clone(), self.id);
        tokio::task::spawn_blocking(move || {
            let entries = storage.entries(id, first, last, size_bytes_max);
            let result = entries.map_err(|error| match error {
                StorageError::Compacted { .. } => ReadError::Compacted,
                error => {
                    error!(group = id.0, index = first.0, %error, "entries cannot be read back");
                    ReadError::Damaged
                }
            });
            let _ = completed.send(Completion::Read(read, result));
        });
    }

    fn refuse_snapshot(&mut self, from: NodeId, snapshot: SnapshotMeta) {
        if self.state.snapshot_refused.as_ref() != Some(&snapshot) {
            warn!(
                peer = from.0,
                index = snapshot.last_included.index.0,
                "a snapshot is offered, but this version cannot install any"
            );
            self.state.snapshot_refused = Some(snapshot.clone());
        }
        self.state.snapshot_failed = Some(snapshot);
    }

    fn done(&mut self, token: Token) {
        if let Some(Waiter::Order(reply)) = self.state.waiting.remove(&token) {
            let _ = reply.send(Ok(()));
        }
    }

    pub(super) fn rejected(&mut self, token: Token, reason: RejectReason) {
        let Some(waiter) = self.state.waiting.remove(&token) else {
            return;
        };
        waiter.fail(&self.failure(reason));
    }

    /// What a refusal means to the client.
    pub(super) fn failure(&self, reason: RejectReason) -> Failure {
        let (leader, term) = (self.core.leader(), self.core.term());
        match reason {
            RejectReason::Stopping => match self.why_stopped() {
                Some(message) if self.applier.view().fault().is_some() => Failure::PluginFault {
                    message,
                    outcome: Outcome::NotApplied,
                },
                Some(message) => Failure::ReplicaFailed(message),
                None => Failure::ShuttingDown,
            },
            RejectReason::NotLeader { leader: None } if !self.core.is_in_configuration() => {
                Failure::NoMember
            }
            RejectReason::NotLeader { leader: None } => Failure::NoLeader { term },
            RejectReason::NotLeader { leader } => Failure::Refused {
                reason: RejectReason::NotLeader { leader },
                leader,
                term,
            },
            reason => Failure::Refused {
                reason,
                leader,
                term,
            },
        }
    }

    pub(super) fn why_stopped(&self) -> Option<String> {
        let fault = self.applier.view().fault();
        let failure = fault.or_else(|| self.state.storage_failure.clone());
        failure.or_else(|| self.core.failure().map(str::to_owned))
    }

    fn on_event(&mut self, event: &Event) {
        match event {
            Event::LeaderStarted { term, .. } => {
                self.metrics.leader_changes.inc();
                info!(term = term.0, "leads");
            }
            Event::LeaderStopped { term, reason } => self.leader_stopped(*term, *reason),
            Event::StartedFollowing { leader, term } => {
                self.metrics.leader_changes.inc();
                info!(leader = leader.0, term = term.0, "follows");
            }
            Event::StoppedFollowing {
                leader,
                term,
                reason,
            } => {
                info!(leader = leader.0, term = term.0, ?reason, "follows no more");
            }
            Event::ConfigurationCommitted {
                index,
                configuration,
            } => {
                // A replica that waits to be added sees many a membership without it.
                self.state.removed &= !configuration.contains(self.shared.node);
                info!(index = index.0, members = ?configuration.members(), "membership committed");
            }
            Event::SecondLeader { other, term } => {
                error!(peer = other.0, term = term.0, "a second leader in one term");
            }
            Event::Conflict { from, index } => {
                error!(
                    peer = from.0,
                    index = index.0,
                    "a peer contradicts what is committed"
                );
            }
            Event::TakeoverStarted { target, term } => {
                info!(
                    peer = target.0,
                    term = term.0,
                    "lets a preferred member take over"
                );
            }
            Event::Removed => {
                self.state.removed = true;
                // Read back from the log it may be long past.
                match self.core.is_in_configuration() {
                    true => debug!("this replica was removed from the group, and added again"),
                    false => warn!("this replica was removed from the group"),
                }
            }
            Event::Failed { why } => error!(error = why, "the replica has failed"),
        }
    }
}
