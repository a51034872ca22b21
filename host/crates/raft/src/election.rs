//! Elections: pre-vote, vote, and who may campaign when (Raft §5.2, §5.4.1; thesis §9.6).

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::quorum::{self, Outcome};
use crate::{
    Configuration, Effects, ElectionTurn, HardState, Instant, MemberSet, MessageBody, NodeId,
    RejectReason, RequestVote, RequestVoteReply, StopReason, Term, TimeoutNow, Token,
};
use crate::{Effect, Message};
use alloc::vec::Vec;

/// An attempt to be elected.
#[derive(Clone, Debug)]
pub(crate) struct Campaign {
    pub(crate) pre_vote: bool,
    /// Answers to other rounds do not count (trap 17).
    round: u64,
    pub(crate) forced: bool,
    /// A leader that stood down for this election.
    disrupted: Option<(NodeId, Term)>,
    granted: Vec<NodeId>,
    refused: Vec<NodeId>,
    /// When to ask again those who have not answered, or are bound by a lease.
    pub(crate) retry_due: Instant,
}

impl Campaign {
    /// How the vote stands under `configuration`; joint needs both sets.
    fn outcome(&self, configuration: &Configuration) -> Outcome {
        let current = self.outcome_in(&configuration.current);
        match &configuration.old {
            Some(old) => current.and(self.outcome_in(old)),
            None => current,
        }
    }

    fn outcome_in(&self, set: &MemberSet) -> Outcome {
        let count = |nodes: &[NodeId]| nodes.iter().filter(|n| set.voters.contains(n)).count();
        quorum::outcome(set.voters.len(), count(&self.granted), count(&self.refused))
    }
}

impl Core {
    /// Draws a new wait and starts the election timer.
    pub(crate) fn reset_election_timer(&mut self) {
        self.election_wait = self.draw_election_wait();
        self.rearm_election_timer();
    }

    /// Starts the election timer with the wait drawn last.
    pub(crate) fn rearm_election_timer(&mut self) {
        self.election_due = self.now.plus(self.election_wait);
    }

    pub(crate) fn election_tick(&mut self, out: &mut Effects) {
        if self.now >= self.election_due {
            self.on_election_timeout(out);
        } else if self
            .campaign
            .as_ref()
            .is_some_and(|c| self.now >= c.retry_due)
        {
            self.ask_again(out);
        }
    }

    fn on_election_timeout(&mut self, out: &mut Effects) {
        let vote = self.campaign.take().filter(|c| !c.pre_vote);
        let disrupted = vote.as_ref().and_then(|vote| vote.disrupted);
        self.set_leader(None, StopReason::LeaderSilent, out);
        self.turn = ElectionTurn::Any;
        self.reset_election_timer();
        if !self.may_campaign() || !self.may_campaign_unasked() {
            return;
        }
        if self.is_bound_by_lease(disrupted) {
            // Nobody who heard the same leader may vote before; try when the lease is over.
            let spread = self.random.below(self.settings.election_timeout / 4);
            self.election_due = self.lease.until.plus(spread);
        } else if vote.is_some() && !self.settings.step_down_on_vote_timeout {
            self.start_vote(false, disrupted, out);
        } else {
            self.start_pre_vote(out);
        }
    }

    /// Whether this node may ask for votes: it votes in the configuration in force, or in one it
    /// may fall back to because the later ones are not known to be committed. Without the second
    /// half a crash between joint and final configuration could leave nobody electable (trap 6).
    /// Configurations are effective at append here, so unlike etcd a committed but unapplied change
    /// is no reason to wait (trap 3).
    pub(crate) fn may_campaign(&self) -> bool {
        let votes = |c: &Configuration| c.is_voter(self.node);
        let electable = votes(self.configuration()) || self.history.since(self.commit).any(votes);
        electable && !self.snapshots.is_fetching() && !self.is_disk_stalled()
    }

    /// An operator orders an election (braft's `vote`).
    pub(crate) fn on_campaign(&mut self, token: Token, out: &mut Effects) {
        let refusal = if self.leading.is_some() {
            Some(RejectReason::Invalid("this replica leads already"))
        } else if self.snapshots.is_fetching() || self.is_disk_stalled() {
            Some(RejectReason::Busy)
        } else if !self.may_campaign() {
            Some(RejectReason::NotVoter { node: self.node })
        } else {
            None
        };
        if let Some(reason) = refusal {
            return Self::reject(token, reason, out);
        }
        self.set_leader(None, StopReason::Ordered, out);
        self.start_vote(true, None, out);
        out.push(Effect::Done { token });
    }

    /// The leader hands over to this node (thesis §3.10).
    pub(crate) fn on_timeout_now(
        &mut self,
        from: NodeId,
        term: Term,
        order: &TimeoutNow,
        out: &mut Effects,
    ) {
        let from_leader = term == self.hard.term && self.known_leader == Some(from);
        if self.leading.is_some() || !from_leader || !self.may_campaign() {
            return;
        }
        self.set_leader(None, StopReason::Transfer, out);
        let disrupted = order.leader_stepped_down.then_some((from, term));
        self.start_vote(true, disrupted, out);
    }

    fn start_pre_vote(&mut self, out: &mut Effects) {
        self.begin_campaign(true, false, None);
        self.ask_again(out);
        if let Some(campaign) = &mut self.campaign {
            campaign.granted.push(self.node);
        }
        self.settle_campaign(out);
    }

    /// Raises the term and asks for votes. The requests leave when term and own vote are durable,
    /// and the own vote counts from then on (trap 20).
    pub(crate) fn start_vote(
        &mut self,
        forced: bool,
        disrupted: Option<(NodeId, Term)>,
        out: &mut Effects,
    ) {
        self.set_leader(None, StopReason::HigherTerm, out);
        self.adopt_hard_state(HardState {
            term: self.hard.term.next(),
            voted_for: Some(self.node),
        });
        if self.bug(PlantedBug::VoteBeforeDurable) {
            self.disk.forget_hard_state_wait();
        }
        self.begin_campaign(false, forced, disrupted);
        self.reset_election_timer();
        self.ask_again(out);
        self.count_own_vote(out);
    }

    fn begin_campaign(&mut self, pre_vote: bool, forced: bool, disrupted: Option<(NodeId, Term)>) {
        let round = self.next_number();
        self.campaign = Some(Campaign {
            pre_vote,
            round,
            forced,
            disrupted,
            granted: Vec::new(),
            refused: Vec::new(),
            retry_due: self.now,
        });
    }

    /// Asks every voter that has not given a final answer. A pre-vote that was refused is asked for
    /// again, as it was mostly refused by a voter that had not missed the leader yet, or had rather
    /// led itself: nothing was promised by it.
    fn ask_again(&mut self, out: &mut Effects) {
        let retry_due = self.now.plus(self.heartbeat_interval());
        let (last, durable_last) = (self.log.last(), self.log.durable_last());
        let standing = self.standing();
        let Some(campaign) = &mut self.campaign else {
            return;
        };
        campaign.retry_due = retry_due;
        // The request of a vote leaves after term and own vote are durable, and so is the log by
        // then: their write follows all of its writes. Were less claimed, whoever holds what this
        // node is still writing would refuse a candidate that a leader ordered to take over.
        let last = if campaign.pre_vote {
            durable_last
        } else {
            last
        };
        if !campaign.pre_vote && self.disk.holds_messages() {
            return; // The requests of this vote still wait for the disk.
        }
        if campaign.pre_vote {
            campaign.refused.clear();
        }
        let settled =
            |node: &NodeId| campaign.granted.contains(node) || campaign.refused.contains(node);
        let configuration = self.history.latest().1;
        let asked = configuration.members().into_iter();
        let asked = asked.filter(|&node| node != self.node && configuration.is_voter(node));
        let asked: Vec<NodeId> = asked.filter(|node| !settled(node)).collect();
        let body = MessageBody::RequestVote(RequestVote {
            pre_vote: campaign.pre_vote,
            last,
            round: campaign.round,
            forced: campaign.forced,
            disrupted_leader: campaign.disrupted,
            priority: standing.rank(),
            applied: standing.applied,
        });
        let pre_vote = campaign.pre_vote;
        for to in asked {
            self.send_request(to, pre_vote, body.clone(), out);
        }
    }

    fn send_request(&mut self, to: NodeId, pre_vote: bool, body: MessageBody, out: &mut Effects) {
        if pre_vote {
            // Nothing is promised under the next term, so nothing need be durable.
            let term = self.hard.term.next();
            let message = Message { term, body };
            out.push(Effect::Send { to, message });
        } else {
            self.send(to, body, out);
        }
    }

    /// Counts the vote for oneself once it is durable, and not before a lease this node still owes
    /// another leader is over.
    pub(crate) fn count_own_vote(&mut self, out: &mut Effects) {
        let durable = self.disk.is_durable(self.disk.hard_state_sequence());
        let Some(campaign) = &self.campaign else {
            return;
        };
        let counted = campaign.pre_vote || campaign.granted.contains(&self.node);
        if counted || !durable || self.is_bound_by_lease(campaign.disrupted) {
            return;
        }
        if let Some(campaign) = &mut self.campaign {
            campaign.granted.push(self.node);
        }
        self.settle_campaign(out);
    }

    /// Goes on if the vote is decided.
    fn settle_campaign(&mut self, out: &mut Effects) {
        let Some(campaign) = &self.campaign else {
            return;
        };
        let disrupted = campaign.disrupted;
        match campaign.outcome(self.configuration()) {
            Outcome::Open => {}
            Outcome::Lost => self.lose_campaign(),
            Outcome::Won if campaign.pre_vote => self.start_vote(false, disrupted, out),
            Outcome::Won => self.become_leader(out),
        }
    }

    /// A lost pre-vote is tried again soon: often a voter had just not yet missed the leader. A lost
    /// vote waits in full, so that another may win the next.
    fn lose_campaign(&mut self) {
        let was_pre_vote = self
            .campaign
            .take()
            .is_some_and(|campaign| campaign.pre_vote);
        if was_pre_vote {
            let quarter = self.settings.election_timeout / 4;
            let soon = self.now.plus(quarter + self.random.below(quarter));
            self.election_due = self.election_due.min(soon);
        }
    }

    pub(crate) fn on_vote_reply(
        &mut self,
        from: NodeId,
        term: Term,
        reply: &RequestVoteReply,
        out: &mut Effects,
    ) {
        if term > self.hard.term {
            // Rejections carry the higher term, else groups of mixed terms never elect (trap 16).
            if self.has_business_with(from) {
                self.adopt_term(term, StopReason::HigherTerm, out);
            }
            return;
        }
        let any_round = self.bug(PlantedBug::StalePreVoteCounts);
        let Some(campaign) = &mut self.campaign else {
            return;
        };
        // A voter of a lower term may well grant a pre-vote: nothing is promised by it.
        let same_round = reply.round == campaign.round || any_round;
        if !same_round || reply.pre_vote != campaign.pre_vote {
            return;
        }
        if !campaign.pre_vote && term != self.hard.term && !reply.rejected_by_lease {
            return;
        }
        let release = reply.disrupted.map(|term| (from, term));
        if reply.granted && !campaign.granted.contains(&from) {
            campaign.granted.push(from);
        } else if !reply.granted && !reply.rejected_by_lease && !campaign.refused.contains(&from) {
            campaign.refused.push(from);
        }
        let term_of = |leader: Option<(NodeId, Term)>| leader.map(|(_, term)| term);
        if term_of(release) > term_of(campaign.disrupted) {
            campaign.disrupted = release;
            self.ask_again(out);
            self.count_own_vote(out);
        }
        self.settle_campaign(out);
    }

    pub(crate) fn on_request_vote(
        &mut self,
        from: NodeId,
        term: Term,
        request: &RequestVote,
        out: &mut Effects,
    ) {
        // An order of the leader or an operator overrides a live leader, but only for a voter.
        let forced = request.forced && self.configuration().is_voter(from);
        let mut verdict = Verdict::default();
        if term < self.hard.term {
            // The reply carries the higher term.
        } else if self.leading.is_none() && self.is_bound_by_lease(request.disrupted_leader) {
            verdict.rejected_by_lease = true;
        } else if !forced && self.has_live_leader() && !self.bug(PlantedBug::NoPreVoteRefusal) {
            // Whoever does not hear the leader cannot disturb those who do (trap 15).
        } else if request.pre_vote {
            verdict.granted = self.would_vote(term, request);
        } else {
            verdict = self.vote(from, term, request, out);
        }
        self.reply_to_vote(from, request, &verdict, out);
    }

    fn reply_to_vote(
        &mut self,
        to: NodeId,
        request: &RequestVote,
        verdict: &Verdict,
        out: &mut Effects,
    ) {
        let body = MessageBody::RequestVoteReply(RequestVoteReply {
            pre_vote: request.pre_vote,
            round: request.round,
            granted: verdict.granted,
            rejected_by_lease: verdict.rejected_by_lease,
            disrupted: self.last_led.filter(|_| self.leading.is_none()),
        });
        if self.bug(PlantedBug::VoteBeforeDurable) {
            self.disk.forget_hard_state_wait();
        }
        self.send(to, body, out);
    }

    /// Whether this node leads, or has heard a leader within the election timeout.
    fn has_live_leader(&self) -> bool {
        let heard = |at: Instant| self.now < at.plus(self.settings.election_timeout);
        self.leading.is_some()
            || self.known_leader.is_some() && self.leader_heard_at.is_some_and(heard)
    }

    /// Pre-vote: whether it would get the vote. Nothing changes by asking, but the time for which
    /// others are refused in favour of one's own priority begins: an election timeout at most, as a
    /// preferred node that cannot win must not keep the group without a leader.
    fn would_vote(&mut self, term: Term, request: &RequestVote) -> bool {
        if term <= self.hard.term || request.last < self.log.last() {
            return false;
        }
        let prefers_itself = self.is_preferred_to(request)
            && self.log.durable_last() >= request.last
            && self.may_campaign();
        if !prefers_itself || request.forced {
            return true;
        }
        let since = *self.refusing_since.get_or_insert(self.now);
        if self.now >= since.plus(self.settings.election_timeout) {
            return true;
        }
        let soon = self.settings.election_timeout / 4;
        let soon = self.now.plus(self.random.below(soon));
        if self.campaign.is_none() {
            self.election_due = self.election_due.min(soon);
        }
        false
    }

    /// Whether it had better lead than the candidate: by what is applied, then by priority. One
    /// that is drained, or of priority 0, prefers nobody less than itself.
    fn is_preferred_to(&self, request: &RequestVote) -> bool {
        let rank = self.standing().rank();
        if !self.yardstick().is_current(request.applied) {
            return rank > 0;
        }
        let is_ahead = request.applied > Some(self.applied);
        rank > request.priority && !(is_ahead && self.lags())
    }

    /// The vote itself: the first candidate of a term whose log is at least as long (§5.4.1). A
    /// node answers whatever its own configuration says, it may be behind (trap 4).
    fn vote(
        &mut self,
        from: NodeId,
        term: Term,
        request: &RequestVote,
        out: &mut Effects,
    ) -> Verdict {
        if term > self.hard.term {
            self.adopt_term(term, StopReason::HigherTerm, out);
        }
        let may = match self.hard.voted_for {
            None => self.known_leader.is_none(),
            Some(candidate) => candidate == from || self.bug(PlantedBug::VoteTwice),
        };
        let granted = may && request.last >= self.log.last();
        if granted && self.hard.voted_for != Some(from) {
            self.adopt_hard_state(HardState {
                term,
                voted_for: Some(from),
            });
            // Only a vote given anew earns the candidate time: one that hears no answer asks for
            // the same vote again and again, and would keep everybody waiting for ever.
            self.reset_election_timer();
        } else if granted && self.bug(PlantedBug::RepeatedVoteEarnsTime) {
            self.reset_election_timer();
        }
        Verdict {
            granted,
            rejected_by_lease: false,
        }
    }

    /// Adopts a new term and vote; they are durable before anything of that term leaves.
    pub(crate) fn adopt_hard_state(&mut self, hard: HardState) {
        if hard.term > self.hard.term {
            // Held answers speak for a term that is over, of a log that may be cut (trap 22).
            self.disk.drop_held_messages();
            self.turn = ElectionTurn::Any;
        }
        self.hard = hard;
        if !self.bug(PlantedBug::TermOnlyInMemory) {
            self.disk.stage_hard_state(hard);
        }
    }

    /// Goes to a higher term as a follower that has not voted.
    pub(crate) fn adopt_term(&mut self, term: Term, reason: StopReason, out: &mut Effects) {
        self.step_down(reason, out);
        self.set_leader(None, reason, out);
        if self.campaign.take().is_some() {
            self.reset_election_timer();
        }
        self.adopt_hard_state(HardState {
            term,
            voted_for: None,
        });
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Verdict {
    granted: bool,
    rejected_by_lease: bool,
}
