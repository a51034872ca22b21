//! Changes of membership (Raft §6; thesis chapter 4; braft's catch-up phase).
//!
//! A change goes through catch-up (known to the leader only), joint configuration, and final
//! configuration. Where at most one voter differs the joint stage is skipped: majorities of the old
//! and new set overlap anyway, provided the leader has committed an entry of its own term (trap 2).

use crate::core::Core;
use crate::leading::Leading;
use crate::planted::PlantedBug;
use crate::progress::{Flow, Peer};
use crate::{
    Configuration, ConfigurationChange, ConfigurationError, Effect, Effects, HardState, Instant,
    LogIndex, MemberSet, NodeId, RejectReason, StopReason, Token,
};
use alloc::vec::Vec;

/// A change under way.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Who asked; nobody if it was taken over from an earlier leader.
    token: Option<Token>,
    pub(crate) target: MemberSet,
    pub(crate) stage: Stage,
    pub(crate) since: Instant,
}

/// How far a change has come.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// New voters receive the log, but nothing is logged yet.
    CatchUp { joining: Vec<NodeId>, due: Instant },
    /// The joint configuration is appended.
    Joint,
    /// The final configuration is appended.
    Stable,
}

impl Change {
    /// When it must be looked at again.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::CatchUp { due, .. } => Some(due),
            Stage::Joint | Stage::Stable => None,
        }
    }

    /// The stage in a word.
    pub(crate) fn stage_name(&self) -> &'static str {
        match self.stage {
            Stage::CatchUp { .. } => "catch-up",
            Stage::Joint => "joint",
            Stage::Stable => "stable",
        }
    }

    /// New voters that are catching up.
    pub(crate) fn joining(&self) -> &[NodeId] {
        match &self.stage {
            Stage::CatchUp { joining, .. } => joining,
            Stage::Joint | Stage::Stable => &[],
        }
    }
}

impl ConfigurationChange {
    /// The set this change leads to from `current`.
    ///
    /// # Errors
    /// Says why the change is impossible.
    pub fn target(&self, current: &MemberSet) -> Result<MemberSet, ConfigurationError> {
        let mut target = current.clone();
        match self {
            Self::AddVoter(node) => {
                target.learners.remove(node);
                target.voters.insert(*node);
            }
            Self::AddLearner(node) if current.voters.contains(node) => {
                return Err(ConfigurationError::IsVoter(*node));
            }
            Self::AddLearner(node) => {
                target.learners.insert(*node);
            }
            Self::Promote(node) | Self::Demote(node) if !current.contains(*node) => {
                return Err(ConfigurationError::NotMember(*node));
            }
            Self::Promote(node) => {
                target.learners.remove(node);
                target.voters.insert(*node);
            }
            Self::Demote(node) => {
                target.voters.remove(node);
                target.learners.insert(*node);
            }
            Self::Remove(node) => {
                if !target.voters.remove(node) && !target.learners.remove(node) {
                    return Err(ConfigurationError::NotMember(*node));
                }
            }
            Self::Replace(set) => target = set.clone(),
        }
        check_set(&target)?;
        if target == *current {
            return Err(ConfigurationError::NoChange);
        }
        Ok(target)
    }
}

fn check_set(set: &MemberSet) -> Result<(), ConfigurationError> {
    if set.voters.is_empty() {
        return Err(ConfigurationError::NoVoters);
    }
    match set.voters.intersection(&set.learners).next() {
        Some(&node) => Err(ConfigurationError::VoterAndLearner(node)),
        None => Ok(()),
    }
}

impl Leading {
    /// Peers outside the configuration that entry `index` brought are told so until `until`.
    pub(crate) fn dismiss_strangers(&mut self, index: LogIndex, until: Instant) {
        for peer in self.peers.iter_mut().filter(|peer| !peer.member) {
            peer.leaving.get_or_insert((index, until));
        }
    }
}

impl Peer {
    /// Whether it holds, and has been told to be committed, everything up to `index`.
    pub(crate) fn knows(&self, index: LogIndex) -> bool {
        self.match_index >= index && self.commit_sent >= index
    }
}

impl Core {
    pub(crate) fn on_change_configuration(
        &mut self,
        token: Token,
        change: &ConfigurationChange,
        expected: Option<&MemberSet>,
        out: &mut Effects,
    ) {
        match self.check_configuration_change(change, expected) {
            Ok(target) => self.begin_change(token, target, out),
            Err(reason) => Self::reject(token, reason, out),
        }
    }

    /// The membership that `change` would lead to now; nothing is changed.
    ///
    /// # Errors
    /// As [`Input::ChangeConfiguration`](crate::Input) would be refused at once.
    pub fn check_configuration_change(
        &self,
        change: &ConfigurationChange,
        expected: Option<&MemberSet>,
    ) -> Result<MemberSet, RejectReason> {
        let Some(leading) = self.leading.as_deref() else {
            return Err(self.not_leader());
        };
        if leading.transfer.is_some() {
            return Err(RejectReason::Transferring);
        }
        let early = self.bug(PlantedBug::ChangeBeforeOwnCommit) && !leading.ready;
        if !leading.ready && !early {
            return Err(ConfigurationError::LeaderNotReady.into());
        }
        if let Some(in_progress) = self.change_in_progress(leading)
            && !early
            && !self.bug(PlantedBug::SecondChangeEarly)
        {
            return Err(in_progress.into());
        }
        let configuration = self.configuration();
        if expected.is_some_and(|expected| *expected != configuration.current) {
            return Err(ConfigurationError::Unexpected.into());
        }
        Ok(change.target(&configuration.current)?)
    }

    /// What stands in the way of a further change, or of handing leadership over.
    pub(crate) fn change_in_progress(&self, leading: &Leading) -> Option<ConfigurationError> {
        let (index, configuration) = self.history.latest();
        let catching_up = |change: &Change| matches!(change.stage, Stage::CatchUp { .. });
        if leading.change.as_ref().is_some_and(catching_up) {
            return Some(ConfigurationError::CatchingUp);
        }
        let logged = leading.change.is_some() || configuration.is_joint() || index > self.commit;
        logged.then_some(ConfigurationError::InProgress)
    }

    /// Gives a change up that has not been logged.
    pub(crate) fn on_cancel_change(&mut self, token: Token, out: &mut Effects) {
        let Some(leading) = self.leading.as_deref() else {
            return Self::reject(token, self.not_leader(), out);
        };
        match self.change_in_progress(leading) {
            Some(ConfigurationError::CatchingUp) => {
                self.abort_change(RejectReason::ChangeCancelled, out);
                out.push(Effect::Done { token });
            }
            Some(_) => Self::reject(token, ConfigurationError::Logged.into(), out),
            None => Self::reject(token, ConfigurationError::NoneUnderWay.into(), out),
        }
    }

    /// Lets the new voters catch up first, so that a change does not stop commits.
    fn begin_change(&mut self, token: Token, target: MemberSet, out: &mut Effects) {
        let now = self.now;
        let due = now.plus(self.settings.catch_up_timeout);
        let next = self.log.last().index.next();
        let voters = &self.history.latest().1.current.voters;
        let joining: Vec<NodeId> = target.voters.difference(voters).copied().collect();
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        leading.forget_leaving(|node| joining.contains(&node));
        for &node in &joining {
            let peer = leading.peer_or_new(node, next, now);
            peer.catch_up_from = peer.match_index;
        }
        leading.change = Some(Change {
            token: Some(token),
            target,
            stage: Stage::CatchUp { joining, due },
            since: now,
        });
        self.replicate(out);
        self.check_catch_up(out);
    }

    /// Goes on once every new voter is within the margin.
    pub(crate) fn check_catch_up(&mut self, out: &mut Effects) {
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        let Some(change) = &leading.change else {
            return;
        };
        let Stage::CatchUp { joining, .. } = &change.stage else {
            return;
        };
        let caught_up = |node: &NodeId| self.has_caught_up(leading, *node);
        if joining.iter().all(caught_up) {
            let target = change.target.clone();
            self.enter_configuration(target, out);
        }
    }

    /// A peer that has never answered matches nothing, however short the log is.
    fn has_caught_up(&self, leading: &Leading, node: NodeId) -> bool {
        let last = self.log.last().index;
        leading.peer(node).is_some_and(|peer| {
            let left = last.0.saturating_sub(peer.match_index.0);
            peer.flow == Flow::Replicate && left <= self.settings.catch_up_margin_entries
        })
    }

    /// Logs the change: joint first if more than one voter differs.
    fn enter_configuration(&mut self, target: MemberSet, out: &mut Effects) {
        let current = self.configuration().current.clone();
        let differing = current.voters.symmetric_difference(&target.voters).count();
        let is_joint = differing > 1;
        if let Some(change) = self.leading.as_deref_mut().and_then(|l| l.change.as_mut()) {
            change.stage = if is_joint {
                Stage::Joint
            } else {
                Stage::Stable
            };
        }
        self.append_configuration(Configuration {
            current: target,
            old: is_joint.then_some(current),
        });
        self.replicate(out);
    }

    /// Carries a change on when its latest configuration is committed.
    pub(crate) fn advance_change(&mut self, out: &mut Effects) {
        let (index, configuration) = self.history.latest();
        if index > self.commit {
            return;
        }
        if configuration.is_joint() {
            let stable = Configuration::stable(configuration.current.clone());
            let change = self.leading.as_deref_mut().and_then(|l| l.change.as_mut());
            if let Some(change) = change {
                change.stage = Stage::Stable;
            }
            return self.append_configuration(stable);
        }
        let remains = configuration.current.voters.contains(&self.node);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let logged = |change: &mut Change| matches!(change.stage, Stage::Joint | Stage::Stable);
        let finished = leading.change.take_if(logged);
        if let Some(token) = finished.and_then(|change| change.token) {
            out.push(Effect::Done { token });
        }
        if !remains && !self.bug(PlantedBug::RemovedLeaderContinues) {
            // The others learn that the change is committed, then the best of them takes over
            // without waiting for a timeout (trap 7).
            self.replicate(out);
            self.leave(out);
        }
    }

    /// A new member has time while it answers.
    pub(crate) fn change_tick(&mut self, out: &mut Effects) {
        let (now, timeout) = (self.now, self.settings.election_timeout);
        let again = now.plus(self.settings.catch_up_timeout);
        let Some(leading) = self.leading.as_deref() else {
            return;
        };
        let Some(change) = leading
            .change
            .as_ref()
            .filter(|c| c.due().is_some_and(|at| now >= at))
        else {
            return;
        };
        let silent = |node: &&NodeId| {
            let peer = leading.peer(**node);
            !self.has_caught_up(leading, **node)
                && !peer.is_some_and(|peer| peer.answered_within(timeout, now))
        };
        let failed = change.joining().iter().find(silent).copied();
        match failed {
            Some(node) => self.abort_change(RejectReason::CatchUpFailed { node }, out),
            None => self.extend_catch_up(again),
        }
    }

    fn extend_catch_up(&mut self, until: Instant) {
        let change = self.leading.as_deref_mut().and_then(|l| l.change.as_mut());
        if let Some(Stage::CatchUp { due, .. }) = change.map(|change| &mut change.stage) {
            *due = until;
        }
    }

    /// Nothing was logged, so forgetting the newcomers undoes the change.
    fn abort_change(&mut self, reason: RejectReason, out: &mut Effects) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let change = leading.change.take();
        leading.retain_peers(|peer| peer.member || peer.leaving.is_some());
        if let Some(token) = change.and_then(|change| change.token) {
            Self::reject(token, reason, out);
        }
    }

    /// A new leader in a joint configuration carries the change on.
    pub(crate) fn resume_change(&mut self, configuration: &Configuration) {
        let now = self.now;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if configuration.is_joint() {
            leading.change = Some(Change {
                token: None,
                target: configuration.current.clone(),
                stage: Stage::Joint,
                since: now,
            });
        }
    }

    /// The leadership is over: before anything was logged the change has not happened, afterwards
    /// the next leader may finish it.
    pub(crate) fn end_change(&self, change: Option<&Change>, out: &mut Effects) {
        let Some((token, stage)) = change.and_then(|c| c.token.map(|token| (token, &c.stage)))
        else {
            return;
        };
        let reason = match stage {
            Stage::CatchUp { .. } => RejectReason::NotLeader { leader: None },
            Stage::Joint | Stage::Stable => RejectReason::LeadershipLost,
        };
        Self::reject(token, reason, out);
    }

    /// Whether this membership could be forced on this replica; nothing is changed.
    ///
    /// # Errors
    /// As [`Input::ResetPeers`](crate::Input) would be refused.
    pub fn check_reset(&self, members: &MemberSet) -> Result<(), RejectReason> {
        check_set(members)?;
        if members.voters.contains(&self.node) {
            return Ok(());
        }
        Err(ConfigurationError::WithoutSelf.into())
    }

    /// Forces a membership on a survivor (braft's `reset_peers`): it holds from here on without
    /// being logged, until the replica is elected by it and logs it.
    pub(crate) fn on_reset_peers(&mut self, token: Token, members: MemberSet, out: &mut Effects) {
        if let Err(reason) = self.check_reset(&members) {
            return Self::reject(token, reason, out);
        }
        self.begin_anew(out);
        let upto = self.log.last().index;
        let configuration = Configuration::stable(members);
        self.history.force(upto, configuration.clone());
        self.disk.stage().forced_configuration = Some((upto, configuration));
        self.done_when_durable(token, out);
    }

    /// Goes on in another history of the group with the same log (an epoch that another survivor
    /// began).
    pub(crate) fn on_forget_peers(&mut self, token: Token, out: &mut Effects) {
        self.begin_anew(out);
        self.done_when_durable(token, out);
    }

    /// What was heard, promised to be counted, or begun with others is over; the next term tells
    /// late answers apart.
    fn begin_anew(&mut self, out: &mut Effects) {
        self.step_down(StopReason::Reset, out);
        self.set_leader(None, StopReason::Reset, out);
        self.campaign = None;
        self.adopt_hard_state(HardState {
            term: self.hard.term.next(),
            voted_for: None,
        });
        self.reset_election_timer();
    }

    fn done_when_durable(&mut self, token: Token, out: &mut Effects) {
        let sequence = self.disk.staged_sequence();
        self.disk.hold(sequence, Effect::Done { token }, out);
    }
}

impl From<ConfigurationError> for RejectReason {
    fn from(error: ConfigurationError) -> Self {
        Self::Configuration(error)
    }
}
