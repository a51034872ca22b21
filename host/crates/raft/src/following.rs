//! Following a leader: who it is, that it lives, and what a second one means.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{
    AppendEntriesReply, Effect, Effects, Event, Heartbeat, HeartbeatReply, LogId, LogIndex,
    MessageBody, NodeId, StopReason, Term,
};

impl Core {
    /// Sets the leader of this term and reports the change in pairs.
    pub(crate) fn set_leader(
        &mut self,
        leader: Option<NodeId>,
        reason: StopReason,
        out: &mut Effects,
    ) {
        if self.known_leader == leader {
            return;
        }
        let term = self.hard.term;
        let followed = self.known_leader.filter(|&old| old != self.node);
        if let Some(leader) = followed {
            let event = Event::StoppedFollowing {
                leader,
                term,
                reason,
            };
            out.push(Effect::Event(event));
            self.lose_forwarded_reads(out);
        }
        self.known_leader = leader;
        if let Some(leader) = leader {
            self.settle_handed_over(Some(leader), out);
            self.refusing_since = None;
            self.drained_timeouts = 0;
            if leader != self.node {
                out.push(Effect::Event(Event::StartedFollowing { leader, term }));
            }
        }
    }

    /// What every message of a leader begins with. Says whether to go on with it: a leader of an
    /// older term, or a second one of this term, gets a refusal with a higher term instead.
    pub(crate) fn hear_leader(&mut self, from: NodeId, term: Term, out: &mut Effects) -> bool {
        if term < self.hard.term {
            self.refuse_leader(from, out);
            return false;
        }
        if term > self.hard.term {
            self.adopt_term(term, StopReason::NewLeader, out);
        }
        if self.known_leader.is_some_and(|leader| leader != from) {
            self.report_second_leader(from, out);
            return false;
        }
        if self.known_leader.is_none() {
            self.campaign = None;
            self.disk.drop_held_vote_requests();
            self.set_leader(Some(from), StopReason::NewLeader, out);
            self.reset_election_timer();
            self.ask_next_leader(out);
        }
        self.leader_heard_at = Some(self.now);
        self.rearm_election_timer();
        self.extend_lease(from);
        self.note_pace(LogIndex(0));
        true
    }

    /// Two leaders in one term cannot be, unless somebody's stable storage lied. Both are forced
    /// into the next term (braft).
    fn report_second_leader(&mut self, other: NodeId, out: &mut Effects) {
        let term = self.hard.term;
        out.push(Effect::Event(Event::SecondLeader { other, term }));
        let first = self.known_leader.filter(|&leader| leader != self.node);
        self.adopt_term(term.next(), StopReason::HigherTerm, out);
        self.reset_election_timer();
        self.refuse_leader(other, out);
        if let Some(first) = first {
            self.refuse_leader(first, out);
        }
    }

    /// Tells a leader of an older term that its time is over.
    fn refuse_leader(&mut self, leader: NodeId, out: &mut Effects) {
        let body = MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence: 0,
            index: LogIndex(0),
            conflict: Some(LogId::default()),
            read_only: self.read_only,
            promise: None,
        });
        self.send(leader, body, out);
    }

    pub(crate) fn on_heartbeat(
        &mut self,
        from: NodeId,
        term: Term,
        heartbeat: &Heartbeat,
        out: &mut Effects,
    ) {
        if !self.hear_leader(from, term, out) {
            return;
        }
        self.note_turn(heartbeat.turn);
        // The leader caps this at what it knows to match here, so it lies within the log.
        let known = heartbeat.commit.min(self.log.last().index);
        self.commit_to(known, out);
        if let Some(news) = &heartbeat.horizon {
            self.note_pace(news.commit);
            self.note_horizon(news);
        }
        let body = MessageBody::HeartbeatReply(HeartbeatReply {
            round: heartbeat.round,
            read_only: self.read_only,
            echo: Some(self.echo()),
            promise: self.promise(),
            standing: self.standing(),
        });
        self.send(from, body, out);
    }

    /// Ends a leadership in the same term: the vote stays (trap 19), what was appended may or may
    /// not be committed by another.
    pub(crate) fn step_down(&mut self, reason: StopReason, out: &mut Effects) {
        let Some(leading) = self.leading.take() else {
            return;
        };
        if leading.announced {
            let term = self.hard.term;
            out.push(Effect::Event(Event::LeaderStopped { term, reason }));
        }
        self.known_leader = None;
        self.last_led = Some(self.hard.term);
        self.end_transfer(leading.transfer, reason, out);
        self.end_change(leading.change.as_ref(), out);
        self.lose_reads(leading.reads, out);
        self.lose_proposals(out);
        self.reset_election_timer();
        if self.bug(PlantedBug::VoteForgottenOnStepDown) && reason != StopReason::HigherTerm {
            self.hard.voted_for = None;
            self.disk.stage_hard_state(self.hard);
        }
    }
}
