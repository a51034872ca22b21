//! Leadership transfer (thesis §3.10).

use crate::core::Core;
use crate::leading::Leading;
use crate::planted::PlantedBug;
use crate::progress::{Flow, Peer};
use crate::{
    ConfigurationError, Effect, Effects, Event, Instant, Lag, LogIndex, MessageBody, NodeId,
    RejectReason, StopReason, TimeoutNow, Token, TransferTarget,
};
use core::cmp::Reverse;

/// A running transfer.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    /// Who asked for it; nobody if the leader itself wants another to lead.
    token: Option<Token>,
    pub(crate) target: NodeId,
    pub(crate) since: Instant,
    due: Instant,
    /// `TimeoutNow` is out.
    ordered: bool,
}

/// A transfer whose target stands for election in a later term. It is done when a leader is known:
/// a node that stopped before could take the vote with it by which the others are released from a
/// lease.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HandedOver {
    pub(crate) token: Token,
    pub(crate) due: Instant,
}

impl Transfer {
    /// When it is given up.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }
}

impl Core {
    pub(crate) fn on_transfer(&mut self, token: Token, target: TransferTarget, out: &mut Effects) {
        let target = match self.transfer_target(target) {
            Ok(target) => target,
            Err(reason) => return Self::reject(token, reason, out),
        };
        if target == self.node {
            return out.push(Effect::Done { token });
        }
        self.begin_transfer(Some(token), target, StopReason::Transfer, out);
        self.check_transfer(out);
    }

    /// Who would take over, or why nobody can.
    pub(crate) fn transfer_target(&self, target: TransferTarget) -> Result<NodeId, RejectReason> {
        let Some(leading) = self.leading.as_deref() else {
            return Err(self.not_leader());
        };
        if leading.transfer.is_some() {
            return Err(RejectReason::Transferring);
        }
        if leading.change.is_some() || self.configuration().is_joint() {
            let reason = self.change_in_progress(leading);
            return Err(reason.unwrap_or(ConfigurationError::InProgress).into());
        }
        let node = match target {
            TransferTarget::Node(node) if node == self.node => return Ok(node),
            TransferTarget::Node(node) => node,
            TransferTarget::Best => {
                let why = "no other voter answers";
                return self.best_successor().ok_or(RejectReason::Invalid(why));
            }
        };
        let peer = leading.peer(node).filter(|peer| peer.is_voter());
        let peer = peer.ok_or(RejectReason::NotVoter { node })?;
        if !peer.answered_within(self.settings.election_timeout, self.now) {
            return Err(RejectReason::PeerUnreachable { node });
        }
        if self.is_far_behind(peer) {
            let lag = self.lag_of(peer);
            return Err(RejectReason::TargetLags { node, lag });
        }
        Ok(node)
    }

    /// Whether it would take longer than an election timeout until the peer could lead: what was
    /// committed so long ago it does not hold, or it has not applied what was applied here.
    fn is_far_behind(&self, peer: &Peer) -> bool {
        let pace = self.yardstick();
        match peer.flow {
            Flow::Replicate => {
                let lacks = pace.was_committed(peer.match_index.next());
                !peer.is_current(&pace) || lacks && !self.bug(PlantedBug::TransferToLagging)
            }
            Flow::Probe { .. } => !peer.is_current(&pace),
            // It may be loaded already; if not, the transfer is given up in time.
            Flow::Snapshot { .. } => false,
        }
    }

    /// How far the peer is behind.
    fn lag_of(&self, peer: &Peer) -> Lag {
        let last = self.log.last().index;
        let applied = peer.standing.applied;
        Lag {
            entries: last.0.saturating_sub(peer.match_index.0),
            size_bytes: self.log.size_bytes_from(peer.match_index.next()),
            unapplied: applied.map(|applied| self.commit.0.saturating_sub(applied.0)),
        }
    }

    /// Whom to hand over to, with time for it to receive the rest of the log: of the voters that
    /// answer and keep up, the one of highest priority. One that lags in applying, so that commands
    /// would wait for it, only if all do; one that is drained or of priority 0 only if there is
    /// nobody else.
    fn best_successor(&self) -> Option<NodeId> {
        let pace = self.yardstick();
        self.best_answering(|leading, peer| {
            let keeps_up = leading.keeps_up(peer);
            let rank = peer.standing.rank();
            let is_current = peer.is_current(&pace);
            let rank_if_fit = if keeps_up { rank } else { 0 };
            (rank > 0, is_current, keeps_up, rank_if_fit)
        })
    }

    /// Whom to wake when there is no time to wait: a longer log wins elections, so it goes before
    /// priority. One that lags in applying, is drained or of priority 0 only if no other voter keeps
    /// up.
    pub(crate) fn next_in_line(&self) -> Option<NodeId> {
        let pace = self.yardstick();
        self.best_answering(|leading, peer| {
            let rank = peer.standing.rank();
            let keeps_up = rank > 0 && leading.keeps_up(peer);
            let at_once = keeps_up && peer.is_current(&pace);
            (keeps_up, at_once, peer.match_index, rank)
        })
    }

    /// The voter that answers and for which `order` is greatest; of equals the one with more of the
    /// log.
    fn best_answering<T: Ord>(&self, order: impl Fn(&Leading, &Peer) -> T) -> Option<NodeId> {
        let timeout = self.settings.election_timeout;
        let leading = self.leading.as_deref()?;
        let answers = |peer: &&Peer| peer.in_current && peer.answered_within(timeout, self.now);
        let key = |peer: &&Peer| (order(leading, peer), peer.match_index, Reverse(peer.node));
        let best = leading.peers.iter().filter(answers).max_by_key(key);
        best.map(|peer| peer.node)
    }

    /// A leader that votes no more hands over and goes (thesis §4.2.2). It takes no more proposals,
    /// and wakes the best voter when that holds the whole log: woken before, it could lose to the
    /// others, which may already hold more of what is under way, and the group would wait for an
    /// election timeout.
    pub(crate) fn leave(&mut self, out: &mut Effects) {
        let leading = self.leading.as_deref();
        if leading.is_some_and(|leading| leading.transfer.is_some()) {
            return;
        }
        match self.best_successor() {
            Some(target) => {
                self.begin_transfer(None, target, StopReason::Removed, out);
                self.check_transfer(out);
            }
            None => self.go(out),
        }
    }

    fn go(&mut self, out: &mut Effects) {
        self.wake_successor(out);
        self.step_down(StopReason::Removed, out);
    }

    fn is_voter(&self) -> bool {
        self.configuration().is_voter(self.node)
    }

    /// From here on writes are refused, and the lease is void before anybody is told to campaign
    /// (trap 13).
    pub(crate) fn begin_transfer(
        &mut self,
        token: Option<Token>,
        target: NodeId,
        reason: StopReason,
        out: &mut Effects,
    ) {
        let due = self.now.plus(self.settings.election_timeout);
        let (now, term) = (self.now, self.hard.term);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.transfer = Some(Transfer {
            token,
            target,
            since: now,
            due,
            ordered: false,
        });
        if core::mem::take(&mut leading.announced) {
            out.push(Effect::Event(Event::LeaderStopped { term, reason }));
        }
    }

    /// Orders the target to campaign once it holds the whole log; a target that lags could only
    /// lose, and disturb (trap 33).
    pub(crate) fn check_transfer(&mut self, out: &mut Effects) {
        let last = self.log.last().index;
        let hasty = self.bug(PlantedBug::TransferToLagging);
        let leader_stepped_down = self.bug(PlantedBug::LeaseKeptAcrossTransfer);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let Some(target) = leading.transfer.as_ref().map(|transfer| transfer.target) else {
            return;
        };
        let matched = leading
            .peer(target)
            .map_or(LogIndex(0), |peer| peer.match_index);
        let Some(transfer) = leading
            .transfer
            .as_mut()
            .filter(|transfer| !transfer.ordered)
        else {
            return;
        };
        if matched == last || hasty {
            transfer.ordered = true;
            if !self.is_voter() {
                return self.go(out);
            }
            // Not stepped down: if nothing comes of it, this leader resumes. Voters bound by a
            // lease are released by its vote, which only comes with stepping down.
            let body = MessageBody::TimeoutNow(TimeoutNow {
                leader_stepped_down,
            });
            self.send(target, body, out);
        }
    }

    /// Gives up a transfer that takes longer than an election timeout, and resumes in the same
    /// term, if this leader still votes.
    pub(crate) fn transfer_tick(&mut self, out: &mut Effects) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let Some(transfer) = leading.transfer.take_if(|transfer| now >= transfer.due) else {
            return;
        };
        leading.lease_from = now;
        let ready = leading.ready;
        if !self.is_voter() {
            return self.go(out);
        }
        let target = self
            .leading
            .as_deref()
            .and_then(|l| l.peer(transfer.target));
        let reason = RejectReason::TransferTimedOut {
            node: transfer.target,
            lag: target.map(|peer| self.lag_of(peer)).unwrap_or_default(),
        };
        if let Some(token) = transfer.token {
            Self::reject(token, reason, out);
        }
        if ready {
            self.announce_leadership(out);
        }
    }

    /// This leadership has ended; answers whoever asked for the transfer, unless the election is
    /// still to be decided that it was for.
    pub(crate) fn end_transfer(
        &mut self,
        transfer: Option<Transfer>,
        reason: StopReason,
        out: &mut Effects,
    ) {
        let Some((transfer, token)) = transfer.and_then(|t| t.token.map(|token| (t, token))) else {
            return;
        };
        match reason {
            StopReason::NewLeader if transfer.ordered => out.push(Effect::Done { token }),
            StopReason::HigherTerm if transfer.ordered => {
                let due = self.now.plus(self.settings.election_timeout);
                self.handed_over = Some(HandedOver { token, due });
            }
            _ => Self::reject_unled(token, out),
        }
    }

    fn reject_unled(token: Token, out: &mut Effects) {
        let leader = None;
        Self::reject(token, RejectReason::NotLeader { leader }, out);
    }

    /// A leader is known again, or none will be: a transfer that made way for it is over.
    pub(crate) fn settle_handed_over(&mut self, leader: Option<NodeId>, out: &mut Effects) {
        let Some(HandedOver { token, .. }) = self.handed_over.take() else {
            return;
        };
        match leader {
            Some(leader) if leader != self.node => out.push(Effect::Done { token }),
            _ => Self::reject_unled(token, out),
        }
    }

    /// Nobody was elected in time after this node made way.
    pub(crate) fn expire_handed_over(&mut self, out: &mut Effects) {
        if self
            .handed_over
            .is_some_and(|handed| self.now >= handed.due)
        {
            self.settle_handed_over(None, out);
        }
    }
}
