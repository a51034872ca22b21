//! Becoming leader, and the leader's clock: heartbeats, quorum, retries.

use crate::core::Core;
use crate::leading::Leading;
use crate::progress::Flow;
use crate::{
    Effect, Effects, EntryKind, Event, Heartbeat, HeartbeatReply, Horizon, HorizonNews, LogIndex,
    Message, MessageBody, NodeId, StopReason, TimeoutNow,
};
use alloc::boxed::Box;
use core::time::Duration;

impl Core {
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.settings.election_timeout / self.settings.heartbeat_factor
    }

    /// The election is won. The first entry of the term is a configuration entry: the present one
    /// again, so that a change left half done is carried on (braft).
    pub(crate) fn become_leader(&mut self, out: &mut Effects) {
        self.campaign = None;
        self.set_leader(Some(self.node), StopReason::NewLeader, out);
        let first = self.log.last().index.next();
        let mut leading = Leading::new(first, self.counter, self.now);
        leading.quorum_due = self.now.plus(self.settings.election_timeout);
        leading.upkeep_due = self.now.plus(self.heartbeat_interval());
        leading.committed_before = self.commit;
        self.leading = Some(Box::new(leading));
        let configuration = self.configuration().clone();
        self.resume_change(&configuration);
        self.append_configuration(configuration);
        self.begin_heartbeat_round(out);
        self.replicate(out);
        self.ask_next_leader(out);
    }

    /// Appends a configuration; it is in force from now on.
    pub(crate) fn append_configuration(&mut self, configuration: crate::Configuration) {
        let next = self.log.last().index.next();
        let entry = self.next_entry(0, EntryKind::Configuration(configuration.into()));
        self.append_entry(entry);
        self.adopt_configuration(next);
    }

    /// Brings the leader's record of peers in line with the configuration in force; `next` is
    /// where new peers are probed first.
    pub(crate) fn adopt_configuration(&mut self, next: LogIndex) {
        let (index, configuration) = self.history.latest();
        if let Some(leading) = self.leading.as_deref_mut() {
            leading.adopt(self.node, configuration, next, self.now);
            let grace = self.now.plus(self.settings.election_timeout * 2);
            leading.dismiss_strangers(index, grace);
        }
        self.recount_writable();
    }

    pub(crate) fn on_tick(&mut self, out: &mut Effects) {
        if self.leading.is_some() {
            self.leader_tick(out);
        } else {
            self.election_tick(out);
            self.count_own_vote(out);
            self.expire_handed_over(out);
        }
        self.expire_forwarded_reads(out);
    }

    fn leader_tick(&mut self, out: &mut Effects) {
        if self.is_disk_stalled() {
            // Heartbeats bypass the log, so nobody else would notice (trap 34).
            self.wake_successor(out);
            return self.step_down(StopReason::DiskStalled, out);
        }
        if self.has_lost_quorum() {
            return self.step_down(StopReason::QuorumLost, out);
        }
        self.transfer_tick(out);
        self.change_tick(out);
        let upkeep = self.is_upkeep_due();
        if upkeep {
            self.takeover_tick(out);
        }
        let due = |leading: &Leading| self.now >= leading.heartbeat_due;
        if self.leading.as_deref().is_some_and(due) {
            self.begin_heartbeat_round(out);
        }
        if upkeep {
            self.retry_silent_peers(out);
        }
    }

    /// Whether a heartbeat interval has passed since this was last so.
    fn is_upkeep_due(&mut self) -> bool {
        let (now, interval) = (self.now, self.heartbeat_interval());
        let leading = self.leading.as_deref_mut();
        let due = leading.filter(|leading| now >= leading.upkeep_due);
        due.map(|leading| leading.upkeep_due = now.plus(interval))
            .is_some()
    }

    /// Whether no quorum has answered anything sent within the last election timeout.
    fn has_lost_quorum(&mut self) -> bool {
        let (now, timeout) = (self.now, self.settings.election_timeout);
        let Some(leading) = self.leading.as_deref_mut().filter(|l| now >= l.quorum_due) else {
            return false;
        };
        let heard = leading.quorum_heard_at(now).unwrap_or(leading.since);
        let heard = heard.max(leading.silence_from);
        leading.quorum_due = heard.plus(timeout);
        now >= leading.quorum_due
    }

    /// Whether a write has been under way for too long.
    pub(crate) fn is_disk_stalled(&self) -> bool {
        let limit = self.settings.disk_stall_timeout;
        let issued = self.disk.oldest_issued();
        !limit.is_zero() && issued.is_some_and(|at| self.now >= at.plus(limit))
    }

    /// Sends a heartbeat to everyone, and returns the number of the round.
    pub(crate) fn begin_heartbeat_round(&mut self, out: &mut Effects) {
        let interval = self.heartbeat_interval();
        let horizon = self.own_horizon();
        self.advance_horizon(horizon);
        let pace = self.yardstick();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.heartbeat_due = self.now.plus(interval);
        let timeout = self.settings.election_timeout;
        let round = leading.begin_round(self.now, timeout / 128);
        let field = leading.field(self.now, timeout, pace);
        let (term, commit) = (self.hard.term, self.commit);
        for peer in &mut leading.peers {
            let commit = commit.min(peer.match_index);
            peer.commit_sent = peer.commit_sent.max(commit);
            peer.traffic.heartbeats_sent += 1;
            peer.traffic.heartbeats_unanswered += 1;
            let news = |(horizon, echo): (Horizon, _)| HorizonNews {
                commit: horizon.commit,
                age: self.now.since(horizon.as_of),
                echo,
            };
            let body = MessageBody::Heartbeat(Heartbeat {
                commit,
                round,
                horizon: horizon.zip(peer.echo).map(news),
                turn: field.turn(peer),
            });
            let message = Message { term, body };
            out.push(Effect::Send {
                to: peer.node,
                message,
            });
        }
        self.counter = self.counter.max(round);
        self.confirm_reads(out);
    }

    pub(crate) fn on_heartbeat_reply(
        &mut self,
        from: NodeId,
        reply: &HeartbeatReply,
        out: &mut Effects,
    ) {
        let (now, patience) = (self.now, 2 * self.heartbeat_interval());
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let Some(at) = leading
            .position(from)
            .filter(|_| reply.round <= leading.round)
        else {
            return;
        };
        let sent_at = leading.round_sent_at(reply.round);
        let peer = &mut leading.peers[at];
        peer.heard(now, sent_at);
        peer.promised(sent_at, reply.promise);
        peer.resume_probe(sent_at, patience);
        if reply.round >= peer.acked_round {
            peer.acked_round = reply.round;
            peer.echo = reply.echo;
        }
        peer.standing = reply.standing;
        self.advance_horizon(self.own_horizon());
        self.note_read_only(at, reply.read_only);
        self.confirm_reads(out);
        self.replicate_to(at, out);
    }

    /// Takes care of peers whose messages were lost, and lets go of those that left.
    fn retry_silent_peers(&mut self, out: &mut Effects) {
        let (now, retry) = (self.now, self.settings.retry());
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.retain_peers(|peer| peer.leaving.is_none_or(|(_, until)| now < until));
        for peer in &mut leading.peers {
            if peer.flow == Flow::Replicate && peer.is_overdue(retry, now) {
                peer.failed();
                peer.doubt_stream();
            }
        }
        self.replicate(out);
    }

    /// The host saw that messages to `peer` are lost: what was streamed must be found out anew.
    pub(crate) fn on_peer_unreachable(&mut self, peer: NodeId) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let Some(at) = leading.position(peer) else {
            return;
        };
        let peer = &mut leading.peers[at];
        peer.failed();
        if peer.flow == Flow::Replicate {
            peer.probe_later(self.now);
        }
    }

    /// A leader that goes away tells the best follower to take over at once.
    pub(crate) fn wake_successor(&mut self, out: &mut Effects) {
        let Some(successor) = self.next_in_line() else {
            return;
        };
        let body = MessageBody::TimeoutNow(TimeoutNow {
            leader_stepped_down: true,
        });
        self.send(successor, body, out);
    }

    /// What follows for a leader when its commit index has risen.
    pub(crate) fn on_leader_commit(&mut self, out: &mut Effects) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if !leading.ready && self.commit >= leading.first_index {
            leading.ready = true;
            if leading.transfer.is_none() {
                self.announce_leadership(out);
            }
            self.start_waiting_reads(out);
        }
        self.advance_change(out);
    }

    /// Reports that leadership has begun, or resumed after a transfer that failed.
    pub(crate) fn announce_leadership(&mut self, out: &mut Effects) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.announced = true;
        self.lease_epoch += 1;
        out.push(Effect::Event(Event::LeaderStarted {
            term: self.hard.term,
            lease_epoch: self.lease_epoch,
        }));
    }
}
