//! Snapshots, as far as the protocol is concerned: offers, installs, compaction (Raft §7).

use crate::core::Core;
use crate::log::Log;
use crate::planted::PlantedBug;
use crate::progress::Flow;
use crate::{
    Effect, Effects, Event, InstallSnapshotReply, LogId, LogIndex, MessageBody, NodeId,
    RejectReason, SnapshotMeta, Term,
};

/// Snapshots this replica has, and the one it is fetching.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshots {
    pub(crate) newest: Option<SnapshotMeta>,
    /// The one before: the log is kept from there, so that a follower a little behind needs no
    /// install.
    previous: Option<LogId>,
    /// From whom, and what.
    fetching: Option<(NodeId, SnapshotMeta)>,
}

impl Snapshots {
    pub(crate) fn new(newest: Option<SnapshotMeta>, previous: Option<LogId>) -> Self {
        Self {
            newest,
            previous,
            fetching: None,
        }
    }

    pub(crate) fn is_fetching(&self) -> bool {
        self.fetching.is_some()
    }

    pub(crate) fn fetching(&self) -> Option<LogId> {
        self.fetching
            .as_ref()
            .map(|(_, snapshot)| snapshot.last_included)
    }

    fn newest_id(&self) -> LogId {
        self.newest
            .as_ref()
            .map_or(LogId::default(), |snapshot| snapshot.last_included)
    }

    /// A newer snapshot is there.
    fn adopt(&mut self, snapshot: SnapshotMeta) {
        let newest = self.newest.replace(snapshot);
        self.previous = newest
            .map(|snapshot| snapshot.last_included)
            .or(self.previous);
    }

    /// Ends the fetch of `last_included`, and says from whom it was.
    fn end_fetch(&mut self, last_included: LogId) -> Option<NodeId> {
        let ours =
            |(_, snapshot): &mut (NodeId, SnapshotMeta)| snapshot.last_included == last_included;
        self.fetching.take_if(ours).map(|(from, _)| from)
    }
}

impl Core {
    /// A leader offers a snapshot, since what this replica needs next is compacted away there.
    pub(crate) fn on_install_snapshot(
        &mut self,
        from: NodeId,
        term: Term,
        snapshot: SnapshotMeta,
        out: &mut Effects,
    ) {
        if !self.hear_leader(from, term, out) {
            return;
        }
        let last_included = snapshot.last_included;
        let index = last_included.index;
        let known = self.log.term(index);
        if index <= self.commit && known.is_some_and(|term| term != last_included.term) {
            return out.push(Effect::Event(Event::Conflict { from, index }));
        }
        let is_old = index <= self.commit && !self.bug(PlantedBug::OldSnapshotInstalled);
        if is_old || (index > self.commit && self.log.contains(last_included)) {
            // It is all here: a snapshot holds only what is committed.
            self.commit_to(index, out);
            return self.reply_to_install(from, last_included, true, out);
        }
        self.fetch(from, snapshot, out);
    }

    /// Begins to fetch, unless a fetch that will do as well is under way. A leader that keeps
    /// offering, or makes snapshots faster than they are fetched, must not start it over and over.
    fn fetch(&mut self, from: NodeId, snapshot: SnapshotMeta, out: &mut Effects) {
        if let Some((source, under_way)) = &self.snapshots.fetching {
            let older = snapshot.last_included.index < under_way.last_included.index;
            if *source == from || older {
                return;
            }
        }
        if self.bug(PlantedBug::ResetBeforeInstall) {
            self.replace_log(&snapshot, out);
        }
        self.snapshots.fetching = Some((from, snapshot.clone()));
        out.push(Effect::FetchSnapshot { from, snapshot });
    }

    fn reply_to_install(
        &mut self,
        to: NodeId,
        last_included: LogId,
        installed: bool,
        out: &mut Effects,
    ) {
        let body = MessageBody::InstallSnapshotReply(InstallSnapshotReply {
            last_included,
            installed,
        });
        if installed {
            self.send_when_durable(last_included.index, to, body, out);
        } else {
            self.send(to, body, out);
        }
    }

    /// A snapshot was fetched, published and loaded. The log behind it goes, unless it agrees.
    pub(crate) fn on_snapshot_installed(&mut self, snapshot: SnapshotMeta, out: &mut Effects) {
        let last_included = snapshot.last_included;
        let source = self.snapshots.end_fetch(last_included);
        let is_old = last_included.index <= self.applying;
        if is_old && !self.bug(PlantedBug::OldSnapshotInstalled) {
            return;
        }
        if self.log.contains(last_included) {
            self.commit_to(last_included.index, out);
        } else if last_included.index <= self.commit && !is_old {
            return self.fail("the installed snapshot contradicts the committed log", out);
        } else {
            self.replace_log(&snapshot, out);
        }
        self.applying = last_included.index;
        self.applied = last_included.index;
        self.apply_window.applied(last_included.index);
        // Committed by an earlier leadership here, but their results went past this replica.
        for (_, token) in self.waiting.take_upto(last_included.index) {
            Self::reject(token, RejectReason::LeadershipLost, out);
        }
        self.snapshots.adopt(snapshot);
        self.compact_log(out);
        self.answer_source(source, last_included, true, out);
    }

    /// The snapshot is ahead of the log, or contradicts it: nothing of the log is kept, nor of the
    /// memberships it held (traps 26 and 27).
    fn replace_log(&mut self, snapshot: &SnapshotMeta, out: &mut Effects) {
        self.disk.assert_no_staged_entries();
        let last_included = snapshot.last_included;
        self.log = Log::starting_after(last_included);
        self.disk.truncated(LogIndex(0));
        self.disk.drop_held_messages();
        self.commit = last_included.index;
        let narrowed = self.history.truncate(last_included.index);
        if !self.bug(PlantedBug::MembershipKeptAfterSnapshot) {
            self.history
                .reset(last_included.index, snapshot.configuration.clone());
        }
        let stage = self.disk.stage();
        stage.reset_log = Some(last_included);
        if narrowed {
            stage.forced_configuration = self.history.forced().cloned();
        }
        self.note_membership(&snapshot.configuration, out);
    }

    /// Answers the leader once the write that settles the log is durable.
    fn answer_source(
        &mut self,
        source: Option<NodeId>,
        last_included: LogId,
        installed: bool,
        out: &mut Effects,
    ) {
        let Some(leader) = source.filter(|&source| self.known_leader == Some(source)) else {
            return;
        };
        let body = MessageBody::InstallSnapshotReply(InstallSnapshotReply {
            last_included,
            installed,
        });
        let after = if self.disk.has_staged() {
            self.disk.staged_sequence()
        } else {
            0
        };
        self.send_after(after, leader, body, out);
    }

    pub(crate) fn on_snapshot_failed(&mut self, snapshot: &SnapshotMeta, out: &mut Effects) {
        let last_included = snapshot.last_included;
        let source = self.snapshots.end_fetch(last_included);
        self.answer_source(source, last_included, false, out);
    }

    /// A snapshot of this replica's own is published.
    pub(crate) fn on_snapshot_saved(&mut self, snapshot: SnapshotMeta, out: &mut Effects) {
        let last_included = snapshot.last_included;
        let is_newer = last_included.index > self.snapshots.newest_id().index;
        let is_applied = last_included.index <= self.applied;
        if is_newer && is_applied && self.log.contains(last_included) {
            self.snapshots.adopt(snapshot);
            self.compact_log(out);
        }
    }

    /// Lets go of the log up to the last-but-one snapshot; never of what is not applied or not
    /// durable.
    fn compact_log(&mut self, out: &mut Effects) {
        let Some(upto) = self.snapshots.previous else {
            return;
        };
        let settled = self.applied.min(self.log.durable());
        let due = upto.index > self.log.start().index && upto.index <= settled;
        if due && self.log.contains(upto) {
            self.log.compact(upto);
            self.history.compact(upto.index);
            out.push(Effect::CompactLog { upto });
        }
    }

    pub(crate) fn on_install_reply(
        &mut self,
        from: NodeId,
        reply: &InstallSnapshotReply,
        out: &mut Effects,
    ) {
        let (now, log_start) = (self.now, self.log.start().index);
        let impossible = reply.last_included.index > self.log.last().index;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let Some(at) = leading.position(from).filter(|_| !impossible) else {
            return;
        };
        let peer = &mut leading.peers[at];
        peer.heard(now, None);
        let is_offered = matches!(peer.flow, Flow::Snapshot { offered, .. }
            if offered == reply.last_included);
        if reply.installed {
            peer.matched(reply.last_included.index, log_start);
            peer.loaded(reply.last_included.index);
            if is_offered {
                // Even if the log begins later by now: then a newer snapshot is offered at once.
                peer.probe_from(peer.match_index.next());
            }
            self.advance_leader_commit(out);
        } else if is_offered {
            peer.probe_later(now);
        }
        self.replicate_to_node(from, out);
    }
}
