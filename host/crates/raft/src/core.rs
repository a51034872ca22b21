//! One replica: its state, and which part handles which input.

use crate::commit::{ApplyWindow, Waiting};
use crate::disk::Disk;
use crate::election::Campaign;
use crate::history::History;
use crate::horizon::Horizon;
use crate::leading::Leading;
use crate::lease::FollowerLease;
use crate::log::Log;
use crate::pace::Pace;
use crate::planted::PlantedBug;
use crate::random::Random;
use crate::read_index::Forwarded;
use crate::snapshot::Snapshots;
use crate::takeover::Takeover;
use crate::transfer::HandedOver;
use crate::{
    Configuration, Effect, Effects, ElectionTurn, Event, HardState, Input, Instant, LogIndex,
    Message, MessageBody, NodeId, RejectReason, Role, Settings, StopReason, Term, Token,
};

/// One replica of one group.
///
/// Time is an argument and never goes back; if it seems to, the latest time seen is taken.
#[derive(Debug)]
pub struct Core {
    pub(crate) node: NodeId,
    pub(crate) settings: Settings,
    pub(crate) now: Instant,
    pub(crate) random: Random,
    /// Term and vote as decided; durable once [`Disk::hard_state_sequence`] is.
    pub(crate) hard: HardState,
    pub(crate) disk: Disk,
    pub(crate) log: Log,
    pub(crate) history: History,
    pub(crate) commit: LogIndex,
    /// Last index handed to the state machine; `applied <= applying <= commit`.
    pub(crate) applying: LogIndex,
    pub(crate) applied: LogIndex,
    pub(crate) snapshots: Snapshots,
    /// Everything that waits for its entry to be committed and handed to the state machine.
    pub(crate) waiting: Waiting,
    pub(crate) apply_window: ApplyWindow,
    /// What was applied a while ago, and what is to be replayed.
    pub(crate) pace: Pace,
    /// The leader of this term, itself included.
    pub(crate) known_leader: Option<NodeId>,
    /// When a leader of the present term last spoke.
    pub(crate) leader_heard_at: Option<Instant>,
    /// The latest moment up to which it is known what had been acknowledged.
    pub(crate) horizon: Option<Horizon>,
    /// Tells this process's echoes from those of an earlier one.
    pub(crate) incarnation: u64,
    pub(crate) lease: FollowerLease,
    /// The last term in which this replica led and stood down. Whoever is bound by a lease of that
    /// leadership may be told that it is void.
    pub(crate) last_led: Option<Term>,
    /// When to give up waiting for a leader, or for votes. Not used while leading.
    pub(crate) election_due: Instant,
    /// The wait behind `election_due`, drawn anew for each leader and each attempt.
    pub(crate) election_wait: core::time::Duration,
    pub(crate) handed_over: Option<HandedOver>,
    /// At most one of these two is there.
    pub(crate) leading: Option<alloc::boxed::Box<Leading>>,
    pub(crate) campaign: Option<Campaign>,
    /// Reads this follower has asked its leader about.
    pub(crate) forwarded: Forwarded,
    pub(crate) read_only: bool,
    /// An operator wants this node to lead nothing.
    pub(crate) drained: bool,
    /// Election timeouts since a leader was last known, counted while drained.
    pub(crate) drained_timeouts: u32,
    /// When to campaign once the leader is silent. Only the first attempt is ordered by it.
    pub(crate) turn: ElectionTurn,
    pub(crate) takeover: Takeover,
    pub(crate) lease_epoch: u64,
    /// Numbers campaign rounds, heartbeat rounds and reads. Begins at random, so that an answer
    /// from before a restart does not fit a question from after it (trap 9).
    pub(crate) counter: u64,
    /// Since when it refuses pre-votes in favour of its own higher priority; nothing if it has not
    /// since a leader was last known.
    pub(crate) refusing_since: Option<Instant>,
    /// Whether the last committed configuration contains this node.
    pub(crate) is_member: bool,
    pub(crate) stopped: bool,
    pub(crate) failure: Option<&'static str>,
    /// Effects of opening the replica, handed out with the first input.
    pub(crate) opening: Effects,
    #[cfg(feature = "planted-bugs")]
    pub(crate) planted: u64,
}

impl Core {
    /// Takes one input and appends what is to be done to `effects`. `now` never goes back.
    pub fn handle(&mut self, now: Instant, input: Input, effects: &mut Effects) {
        self.now = self.now.max(now);
        effects.append(&mut self.opening);
        if self.stopped {
            self.handle_stopped(input, effects);
        } else {
            self.dispatch(input, effects);
        }
        self.finish(effects);
    }

    fn dispatch(&mut self, input: Input, out: &mut Effects) {
        match input {
            Input::Message { from, message } => self.on_message(from, message, out),
            Input::Tick => self.on_tick(out),
            Input::Propose(proposals) => self.on_propose(proposals, out),
            Input::ChangeConfiguration {
                token,
                change,
                expected,
            } => self.on_change_configuration(token, &change, expected.as_ref(), out),
            Input::CancelChange { token } => self.on_cancel_change(token, out),
            Input::ResetPeers { token, members } => self.on_reset_peers(token, members, out),
            Input::ForgetPeers { token } => self.on_forget_peers(token, out),
            Input::TransferLeadership { token, target } => self.on_transfer(token, target, out),
            Input::Campaign { token } => self.on_campaign(token, out),
            Input::SetTimeouts {
                token,
                election_timeout,
                max_clock_drift,
            } => self.on_set_timeouts(token, election_timeout, max_clock_drift, out),
            Input::SetSettings { token, settings } => self.on_set_settings(token, *settings, out),
            Input::SetDrained(drained) => self.on_set_drained(drained),
            Input::SetReadOnly(read_only) => self.read_only = read_only,
            Input::ReadIndex { token, mode } => self.on_read_index(token, mode, out),
            Input::EntriesRead { read, result } => self.on_entries_read(read, result, out),
            Input::Persisted { io } => self.on_persisted(io, out),
            Input::PersistFailed { .. } => self.fail("a write to the log failed", out),
            Input::Applied { index } => self.on_applied(index),
            Input::ApplyFailed { index } => {
                self.on_applied(index);
                self.fail("the state machine cannot go on", out);
            }
            Input::SnapshotSaved { snapshot } => self.on_snapshot_saved(snapshot, out),
            Input::SnapshotInstalled { snapshot } => self.on_snapshot_installed(snapshot, out),
            Input::SnapshotFailed { snapshot } => self.on_snapshot_failed(&snapshot, out),
            Input::PeerUnreachable { peer } => self.on_peer_unreachable(peer),
            Input::Shutdown => self.stop(StopReason::Shutdown, out),
        }
    }

    /// What every input ends with: hand over what is committed, let go of what is not needed in
    /// memory, issue one write for everything the input caused.
    fn finish(&mut self, out: &mut Effects) {
        if !self.stopped {
            self.apply_committed(out);
        }
        if !self.bug(PlantedBug::CacheNeverEvicted) {
            self.log.evict(self.settings.cache_size_bytes_max);
        }
        self.flush(out);
    }

    /// Issues the staged write now; needed only where its parts would be out of order.
    pub(crate) fn flush(&mut self, out: &mut Effects) {
        let last = self.log.last().index;
        self.disk.flush(self.now, self.hard.term, last, out);
    }

    /// Sends `body` under the present term, once that term is durable (trap 20).
    pub(crate) fn send(&mut self, to: NodeId, body: MessageBody, out: &mut Effects) {
        let after = self.disk.hard_state_sequence();
        self.send_after(after, to, body, out);
    }

    /// Sends `body` once write `sequence` and the present term are durable.
    pub(crate) fn send_after(
        &mut self,
        sequence: u64,
        to: NodeId,
        body: MessageBody,
        out: &mut Effects,
    ) {
        let term = self.hard.term;
        let message = Message { term, body };
        let after = sequence.max(self.disk.hard_state_sequence());
        self.disk.hold(after, Effect::Send { to, message }, out);
    }

    /// The configuration in force: that of the latest configuration entry in the log, committed or
    /// not (Raft §6).
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        self.history.latest().1
    }

    /// The configuration in force at `index`, if that still lies within what is remembered: a
    /// host needs it for the metadata of a snapshot at `index`.
    #[must_use]
    pub fn configuration_at(&self, index: LogIndex) -> Option<&Configuration> {
        self.history.at(index)
    }

    /// Whether the configuration in force has this node in it. A replica that waits to be added, or
    /// that was removed, is in none.
    #[must_use]
    pub fn is_in_configuration(&self) -> bool {
        self.configuration().contains(self.node)
    }

    /// Current term and vote, durable or about to be.
    #[must_use]
    pub fn hard_state(&self) -> HardState {
        self.hard
    }

    /// Current term.
    #[must_use]
    pub fn term(&self) -> Term {
        self.hard.term
    }

    /// This node's part.
    #[must_use]
    pub fn role(&self) -> Role {
        match (&self.leading, &self.campaign) {
            _ if self.stopped => Role::Stopped,
            (Some(leading), _) if leading.transfer.is_some() => Role::Transferring,
            (Some(_), _) => Role::Leader,
            (None, Some(campaign)) if campaign.pre_vote => Role::PreCandidate,
            (None, Some(_)) => Role::Candidate,
            (None, None) => Role::Follower,
        }
    }

    /// Known leader of the current term, this node included.
    #[must_use]
    pub fn leader(&self) -> Option<NodeId> {
        self.known_leader
    }

    /// Why the replica takes part in nothing any more; none while it does, and none after an
    /// orderly [`Input::Shutdown`].
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        self.failure
    }

    /// Whether messages wait for a write. A host that stops should wait a moment for it: a vote
    /// among them may release others from a lease.
    #[must_use]
    pub fn holds_messages(&self) -> bool {
        self.disk.holds_messages()
    }

    /// The settings in force.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(crate) fn reject(token: Token, reason: RejectReason, out: &mut Effects) {
        out.push(Effect::Rejected { token, reason });
    }

    pub(crate) fn not_leader(&self) -> RejectReason {
        RejectReason::NotLeader {
            leader: self.known_leader.filter(|&leader| leader != self.node),
        }
    }

    /// Whether a deliberate fault is switched on; never without the feature.
    #[cfg(feature = "planted-bugs")]
    #[inline]
    pub(crate) fn bug(&self, bug: PlantedBug) -> bool {
        self.planted & bug.bit() != 0
    }

    /// Whether a deliberate fault is switched on; never without the feature.
    #[cfg(not(feature = "planted-bugs"))]
    #[inline(always)]
    pub(crate) const fn bug(&self, bug: PlantedBug) -> bool {
        let _ = bug;
        false
    }

    fn on_message(&mut self, from: NodeId, message: Message, out: &mut Effects) {
        if from == self.node || !crate::guard::is_plausible(&message) {
            return;
        }
        let term = message.term;
        match message.body {
            MessageBody::RequestVote(request) => self.on_request_vote(from, term, &request, out),
            MessageBody::RequestVoteReply(reply) => self.on_vote_reply(from, term, &reply, out),
            MessageBody::AppendEntries(append) => self.on_append_entries(from, term, append, out),
            MessageBody::Heartbeat(heartbeat) => self.on_heartbeat(from, term, &heartbeat, out),
            MessageBody::InstallSnapshot(install) => {
                self.on_install_snapshot(from, term, install.snapshot, out);
            }
            MessageBody::TimeoutNow(order) => self.on_timeout_now(from, term, &order, out),
            MessageBody::ReadIndexRequest(request) => {
                self.on_read_index_request(from, term, &request, out);
            }
            MessageBody::AppendEntriesReply(reply) => {
                if self.is_current(from, term, out) {
                    self.on_append_reply(from, &reply, out);
                }
            }
            MessageBody::HeartbeatReply(reply) => {
                if self.is_current(from, term, out) {
                    self.on_heartbeat_reply(from, &reply, out);
                }
            }
            MessageBody::InstallSnapshotReply(reply) => {
                if self.is_current(from, term, out) {
                    self.on_install_reply(from, &reply, out);
                }
            }
            MessageBody::ReadIndexReply(reply) => {
                if self.is_current(from, term, out) {
                    self.on_read_index_reply(from, &reply, out);
                }
            }
        }
    }

    /// Whether an answer belongs to the present term. A higher term is adopted, but only from a
    /// node that this one has business with: a stranger cannot depose a leader.
    pub(crate) fn is_current(&mut self, from: NodeId, term: Term, out: &mut Effects) -> bool {
        if term > self.hard.term && self.has_business_with(from) {
            self.adopt_term(term, StopReason::HigherTerm, out);
            return false;
        }
        term == self.hard.term || (term < self.hard.term && self.bug(PlantedBug::StaleTermReply))
    }

    pub(crate) fn has_business_with(&self, node: NodeId) -> bool {
        let peer = self.leading.as_ref().and_then(|leading| leading.peer(node));
        match peer {
            Some(peer) => peer.leaving.is_none(),
            None => self.configuration().contains(node) || self.bug(PlantedBug::StrangerHeeded),
        }
    }

    /// A write is durable, and every one before it.
    fn on_persisted(&mut self, io: crate::IoId, out: &mut Effects) {
        let known = self.bug(PlantedBug::AckByIndexOnly) && self.disk.is_pending(io);
        let Some(durable) = self.disk.complete(io) else {
            return;
        };
        self.log
            .mark_durable(if known { io.last_index } else { durable });
        self.settle_proposals();
        self.disk.release(out);
        self.count_own_vote(out);
        self.advance_leader_commit(out);
    }

    /// Takes the replica out of service for good, with everything pending answered.
    pub(crate) fn fail(&mut self, why: &'static str, out: &mut Effects) {
        self.failure = Some(why);
        self.stop(StopReason::Failed, out);
        out.push(Effect::Event(Event::Failed { why }));
    }

    fn stop(&mut self, reason: StopReason, out: &mut Effects) {
        self.wake_successor(out);
        self.step_down(reason, out);
        self.campaign = None;
        self.set_leader(None, reason, out);
        self.give_up_forwarded_reads(out);
        self.stopped = true;
        for (_, token) in self.waiting.take_all() {
            Self::reject(token, RejectReason::LeadershipLost, out);
        }
        if let Some(handed) = self.handed_over.take() {
            Self::reject(handed.token, RejectReason::Stopping, out);
        }
        // What was promised to others still holds, and is told them when it is durable: a vote may
        // release them from a lease.
        for effect in self.disk.take_held(reason == StopReason::Shutdown) {
            if let Effect::Done { token } = effect {
                Self::reject(token, RejectReason::Stopping, out);
            }
        }
    }

    fn handle_stopped(&mut self, input: Input, out: &mut Effects) {
        let mut refuse = |token| Self::reject(token, RejectReason::Stopping, out);
        match input {
            Input::Propose(proposals) => proposals.iter().for_each(|p| refuse(p.token)),
            Input::ChangeConfiguration { token, .. }
            | Input::CancelChange { token }
            | Input::ResetPeers { token, .. }
            | Input::ForgetPeers { token }
            | Input::TransferLeadership { token, .. }
            | Input::Campaign { token }
            | Input::SetTimeouts { token, .. }
            | Input::SetSettings { token, .. }
            | Input::ReadIndex { token, .. } => refuse(token),
            Input::Persisted { io } => {
                self.disk.complete(io);
                self.disk.release(out);
            }
            Input::Applied { index } => self.on_applied(index),
            _ => {}
        }
    }
}
