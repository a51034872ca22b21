//! One task owns one group: its core, its timers, the clients that wait for it.
//!
//! The loop takes what has come in, hands it to the core, and carries the core's effects out in
//! their order. It never waits for disk, network or plugin: those answer through `completions`.

mod candidacy;
mod effects;
mod epochs;
mod mailbox;
mod problems;
mod reach;
#[cfg(test)]
mod tests;

use super::apply::{Applier, ApplyReport};
use super::clock::{Clock, wall_time_ns};
use super::epoch::{EpochId, Epochs};
use super::handle::{Brief, GroupShared};
use super::request::{Check, Control, Failure, Order, Proposed, Query, Retirement, Tokens};
use super::waiting::{Waiter, Waiting, sweep};
use crate::metrics::Metrics;
use crate::transport::Transport;
use kontiki_raft::{
    Core, Effects, EntryKind, GroupId, HardState, Horizon, Input, MemberSet, Message, NodeId,
    Proposal, ReadMode, RejectReason, Role, SnapshotMeta, Term, Token,
};
use kontiki_storage::Storage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tracing::error;

use candidacy::{Candidacy, Cause};
use mailbox::Incoming;
pub(crate) use mailbox::{Completion, Mailbox};
use reach::OutOfReach;

/// Commands handed to the core in one go.
const PROPOSALS_AT_ONCE: usize = 1_024;
/// Writes under way above which commands gather in their queue.
const WRITES_UNDER_WAY_MAX: usize = 1;
/// Messages of peers handed to the core in one go.
const MESSAGES_AT_ONCE: usize = 256;
/// Election timeouts for which a replica waits for a leader to replay from before that alone keeps
/// nobody waiting for its node.
const LEADERLESS_TIMEOUTS: u32 = 10;
/// Longest time for the writes that a stopping replica's last messages wait for.
const LAST_WRITES_LIMIT: Duration = Duration::from_millis(500);
/// How often requests of clients that have gone are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What a group's task owns.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) name: String,
    pub(crate) epochs: Epochs,
    pub(crate) core: Core,
    pub(crate) clock: Clock,
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) transport: Transport,
    pub(crate) applier: Applier,
    pub(crate) mailbox: Mailbox,
    pub(crate) completed: mpsc::UnboundedSender<Completion>,
    pub(crate) shared: Arc<GroupShared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) brief: watch::Sender<Brief>,
    pub(crate) proposals_max: usize,
    pub(crate) state: State,
}

/// What the loop keeps between rounds.
#[derive(Default)]
pub(crate) struct State {
    tokens: Tokens,
    waiting: Waiting,
    candidacy: Candidacy,
    /// Used again and again.
    effects: Effects,
    /// Peers to which a message could not be sent in this round.
    unreachable: BTreeSet<NodeId>,
    storage_failure: Option<String>,
    /// Writes under way.
    writes: usize,
    snapshot_refused: Option<SnapshotMeta>,
    /// To be answered once the effects of this round are carried out.
    snapshot_failed: Option<SnapshotMeta>,
    /// The machine's thread has ended; the core is told once this round's effects are carried out.
    apply_ended: bool,
    /// The latest horizon that was passed on.
    horizon: Option<Horizon>,
    /// Whose term was not believed last.
    out_of_reach: Option<OutOfReach>,
    /// A change of epoch that is being written.
    entering: Option<epochs::Entering>,
    /// Nodes that were heard of in another epoch that this one came after, and when last.
    in_other_epochs: BTreeMap<NodeId, (EpochId, Instant)>,
    removed: bool,
    stopping: bool,
    /// It goes down in order, and may have messages that wait for a write.
    has_last_words: bool,
    /// The replica was read-only when it ran last.
    begins_read_only: bool,
}

impl State {
    /// Before the first round.
    pub(crate) fn starting(begins_read_only: bool) -> Self {
        Self {
            begins_read_only,
            ..Self::default()
        }
    }
}

impl Group {
    /// Runs until told to stop.
    pub(crate) async fn run(mut self) {
        let opened = Instant::now();
        let mut sweep_at = tokio::time::Instant::now() + SWEEP_INTERVAL;
        if self.state.begins_read_only {
            self.handle(Input::SetReadOnly(true));
        }
        self.finish_recovery();
        self.refresh_brief(opened);
        while !self.state.stopping {
            let due = self.core.next_deadline().filter(|_| !self.is_apart());
            let deadline = due.map(|at| self.clock.to_tokio(at));
            let wake = deadline.map_or(sweep_at, |at| at.min(sweep_at));
            let event = self.mailbox.next(wake, self.takes_commands()).await;
            self.take(event);
            self.take_queued();
            self.take_deferred();
            self.keep_time();
            self.refresh_brief(opened);
            if tokio::time::Instant::now() >= sweep_at {
                sweep(&mut self.state.waiting);
                self.applier.sweep();
                self.sweep_epochs();
                sweep_at = tokio::time::Instant::now() + SWEEP_INTERVAL;
            }
        }
        if self.state.has_last_words {
            self.let_out_last_words().await;
        }
        self.end();
    }

    /// What was promised to others is told them once it is durable, if the disk is not slow.
    async fn let_out_last_words(&mut self) {
        let limit = tokio::time::Instant::now() + LAST_WRITES_LIMIT;
        while self.core.holds_messages() {
            let completed = self.mailbox.completions.recv();
            match tokio::time::timeout_at(limit, completed).await {
                Ok(Some(completion)) => self.on_completion(completion),
                _ => return,
            }
        }
    }

    /// The clock comes last in the mailbox, and a group that always finds something there would
    /// neither send heartbeats nor notice a silent quorum.
    fn keep_time(&mut self) {
        let now = self.clock.now();
        if !self.is_apart() && self.core.next_deadline().is_some_and(|due| due <= now) {
            self.handle(Input::Tick);
        }
    }

    /// Answers whatever still waits.
    fn end(&mut self) {
        let unknown = Failure::Refused {
            reason: RejectReason::LeadershipLost,
            leader: None,
            term: self.core.term(),
        };
        for (_, waiter) in self.state.waiting.drain() {
            waiter.fail(&unknown);
        }
    }

    fn take(&mut self, event: Incoming) {
        match event {
            Incoming::Completion(completion) => self.on_completion(completion),
            Incoming::Message(from, epoch, message) => self.on_message(from, epoch, message),
            Incoming::Control(control) => self.on_control(control),
            Incoming::Proposed(first) => self.propose(first),
            Incoming::Query(first) => self.read(first),
            Incoming::Tick => self.keep_time(),
            Incoming::Closed => self.state.stopping = true,
        }
    }

    /// Takes what else has come in, so that one round serves many. Completions first: they free
    /// what the others wait for.
    fn take_queued(&mut self) {
        while let Ok(completion) = self.mailbox.completions.try_recv() {
            self.on_completion(completion);
        }
        for _ in 0..MESSAGES_AT_ONCE {
            let Ok((from, epoch, message)) = self.mailbox.messages.try_recv() else {
                break;
            };
            self.on_message(from, epoch, message);
        }
        if let Ok(first) = self.mailbox.queries.try_recv() {
            self.read(first);
        }
        if self.takes_commands()
            && let Ok(first) = self.mailbox.proposals.try_recv()
        {
            self.propose(first);
        }
    }

    /// Commands gather in their queue while writes are under way: the disk could not take them
    /// earlier anyway, and one large batch costs the group, its peers and its plugin far less than
    /// many small ones. A command that finds the disk idle goes on at once. A replica that does not
    /// lead refuses them, and for that it needs no disk.
    fn takes_commands(&self) -> bool {
        self.core.role() != Role::Leader || self.state.writes < WRITES_UNDER_WAY_MAX
    }

    fn handle(&mut self, input: Input) {
        let cause = Cause::of(&input);
        let mut effects = std::mem::take(&mut self.state.effects);
        self.core.handle(self.clock.now(), input, &mut effects);
        self.measure_election(cause);
        for effect in effects.drain(..) {
            self.carry_out(effect);
        }
        self.state.effects = effects;
    }

    fn measure_election(&mut self, cause: Cause) {
        let (role, term) = (self.core.role(), self.core.term());
        if let Some(result) = self.state.candidacy.after(cause, role, term) {
            self.metrics.elections.ended(result);
        }
    }

    fn on_message(&mut self, from: NodeId, epoch: EpochId, message: Message) {
        if !self.is_of_this_epoch(from, epoch) || !self.is_in_reach(from, &message) {
            return;
        }
        self.handle(Input::Message { from, message });
    }

    fn on_completion(&mut self, completion: Completion) {
        if matches!(completion, Completion::Persisted(_)) {
            self.state.writes -= 1;
        }
        match completion {
            Completion::Persisted(Ok(io)) => self.handle(Input::Persisted { io }),
            Completion::Persisted(Err((io, error))) => {
                error!(%error, "a write failed; the replica stops");
                self.state
                    .storage_failure
                    .get_or_insert_with(|| describe(&error));
                self.handle(Input::PersistFailed { io });
            }
            Completion::Applied(ApplyReport::Applied(index)) => {
                self.handle(Input::Applied { index });
            }
            Completion::Applied(ApplyReport::Failed(index)) => {
                self.handle(Input::ApplyFailed { index });
            }
            Completion::EpochKept(kept) => self.on_epoch_kept(kept),
            Completion::Read(read, result) => self.handle(Input::EntriesRead { read, result }),
        }
    }

    /// Hands the command, and those queued behind it, to the core in one go.
    fn propose(&mut self, first: Proposed) {
        let now = Instant::now();
        let time_ns = self.time_ns(now);
        let mut proposals = Vec::new();
        let mut next = Some(first);
        while let Some(proposed) = next.take() {
            if let Some(proposal) = self.admit(proposed, time_ns, now) {
                proposals.push(proposal);
            }
            if proposals.len() < PROPOSALS_AT_ONCE {
                next = self.mailbox.proposals.try_recv().ok();
            }
        }
        if !proposals.is_empty() {
            self.handle(Input::Propose(proposals));
        }
    }

    /// The wall time for commands: a leader whose clock is ahead of a majority's takes theirs, since
    /// what once stands in the log holds the group's time until it has come.
    fn time_ns(&self, now: Instant) -> u64 {
        let voters = &self.core.configuration().current.voters;
        let clocks = self.transport.clocks();
        clocks.stamp(
            wall_time_ns(),
            self.shared.node,
            voters.iter().copied(),
            now,
        )
    }

    fn admit(&mut self, proposed: Proposed, time_ns: u64, now: Instant) -> Option<Proposal> {
        if !proposed.reply.claim().take() {
            return None;
        }
        if let Some(failure) = self.left_behind() {
            proposed.reply.answer(Err(failure));
            return None;
        }
        if let Some(aside) = self.transport.set_aside() {
            let failure = Failure::ReplicaFailed(aside.why.clone());
            proposed.reply.answer(Err(failure));
            return None;
        }
        if self.state.waiting.len() >= self.proposals_max {
            proposed.reply.answer(Err(Failure::Busy));
            return None;
        }
        let token = self.state.tokens.next();
        let waiter = Waiter::Apply(proposed.reply, now);
        self.state.waiting.insert(token, waiter);
        Some(Proposal {
            token,
            expected_term: proposed.expected_term,
            time_ns,
            kind: EntryKind::Command(proposed.command),
        })
    }

    /// Asks for one read index for the query and those queued behind it that want the same proof.
    fn read(&mut self, first: Query) {
        let mut quorum = Vec::new();
        let mut lease = Vec::new();
        let mut next = Some(first);
        while let Some(query) = next.take() {
            match (self.left_behind(), query.mode) {
                (Some(failure), _) => query.reply.answer(Err(failure)),
                (None, ReadMode::Quorum) => quorum.push(query),
                (None, ReadMode::Lease) => lease.push(query),
            }
            if quorum.len() + lease.len() < PROPOSALS_AT_ONCE {
                next = self.mailbox.queries.try_recv().ok();
            }
        }
        for (mode, queries) in [(ReadMode::Quorum, quorum), (ReadMode::Lease, lease)] {
            if !queries.is_empty() {
                let token = self.state.tokens.next();
                self.state.waiting.insert(token, Waiter::Read(queries));
                self.handle(Input::ReadIndex { token, mode });
            }
        }
    }

    fn on_control(&mut self, control: Control) {
        match control {
            Control::Order(order, reply) => {
                let token = self.state.tokens.next();
                self.state.waiting.insert(token, Waiter::Order(reply));
                self.on_order(order, token);
            }
            Control::SetDrained(drained) => self.handle(Input::SetDrained(drained)),
            Control::Check(check, reply) => drop(reply.send(self.check(check))),
            Control::Retire(condition, reply) => drop(reply.send(self.retire(condition))),
            Control::SetReadOnly(on) => self.handle(Input::SetReadOnly(on)),
            Control::Epoch(from, told) => self.on_epoch(from, told),
            Control::Status(reply) => drop(reply.send(Box::new(self.status()))),
            Control::Unreachable(peer) => self.handle(Input::PeerUnreachable { peer }),
            #[cfg(test)]
            Control::Panic => panic!("as the test wants it"),
            Control::Stop => {
                self.handle(Input::Shutdown);
                self.state.stopping = true;
                self.state.has_last_words = true;
            }
        }
    }

    fn on_order(&mut self, order: Order, token: Token) {
        let failure = match (&self.state.entering, &order) {
            (Some(_), _) => Some(Failure::Busy),
            // The operator wants this history; settings are the node's own affair.
            (None, Order::ResetPeers(_) | Order::SetSettings(_)) => None,
            (None, _) => self.left_behind(),
        };
        match (failure, order) {
            (None, Order::ResetPeers(members)) => self.recover(token, members),
            (None, order) => self.handle(order_input(order, token)),
            (Some(failure), _) => {
                if let Some(waiter) = self.state.waiting.remove(&token) {
                    waiter.fail(&failure);
                }
            }
        }
    }

    /// What would become of an order.
    fn check(&self, check: Check) -> Result<(MemberSet, Term), Failure> {
        let result = match check {
            Check::Change(change, expected) => self
                .core
                .check_configuration_change(&change, expected.as_ref()),
            Check::Reset(members) => self.core.check_reset(&members).map(|()| members),
        };
        result
            .map(|members| (members, self.core.term()))
            .map_err(|reason| self.failure(reason))
    }

    /// Ends the replica if the condition holds. Nothing that comes later is listened to, so the
    /// condition still holds when the data is deleted.
    fn retire(&mut self, condition: Retirement) -> Option<HardState> {
        let core = &self.core;
        let allowed = match condition {
            Retirement::Deleted => true,
            Retirement::NotJoined(term) => core.term() <= term && self.is_surely_no_member(),
            Retirement::NoMember => !matches!(core.role(), Role::Leader | Role::Transferring),
        };
        if allowed {
            self.handle(Input::Shutdown);
            self.state.stopping = true;
        }
        allowed.then(|| self.core.hard_state())
    }

    /// Whether the log alone shows that nobody counts on this replica: it holds nothing, or the
    /// membership in force, known to be committed, is without it. What is only logged may be undone.
    fn is_surely_no_member(&self) -> bool {
        if self.core.is_in_configuration() {
            return false;
        }
        let status = self.core.status(self.clock.now());
        let is_empty = status.last.index.0 == 0 && status.snapshot.is_none();
        is_empty || status.configuration_index <= status.commit_index
    }

    /// Tells the core what carrying out its effects has shown: the effects of one input must be
    /// complete before the next is handled.
    fn take_deferred(&mut self) {
        if let Some(snapshot) = self.state.snapshot_failed.take() {
            self.handle(Input::SnapshotFailed { snapshot });
        }
        if std::mem::take(&mut self.state.apply_ended) {
            let index = self.applier.view().status().applied.index;
            self.handle(Input::ApplyFailed { index });
        }
        for peer in std::mem::take(&mut self.state.unreachable) {
            self.handle(Input::PeerUnreachable { peer });
        }
        // What that caused to be sent and failed again is told when it fails next time.
        self.state.unreachable.clear();
    }

    fn note_horizon(&mut self) {
        let horizon = self.core.horizon();
        if let Some(new) = horizon.filter(|_| horizon != self.state.horizon) {
            let applied = self.applier.view().status().applied.index;
            self.shared.note_horizon(new, applied);
            self.state.horizon = horizon;
        }
    }

    /// Entries that a member must apply before its node is ready. Without a leader nothing can be
    /// replayed, and if that kept nodes from being ready, whoever starts one node after the other
    /// would never start the second: after a while it does not count.
    fn replay_left(&self, opened: Instant) -> u64 {
        let patience = self.core.settings().election_timeout * LEADERLESS_TIMEOUTS;
        let may_replay = self.core.leader().is_some() || opened.elapsed() < patience;
        if may_replay && self.core.is_in_configuration() {
            self.core.replay_left()
        } else {
            0
        }
    }

    fn refresh_brief(&mut self, opened: Instant) {
        self.note_horizon();
        let brief = Brief {
            role: self.core.role(),
            term: self.core.term(),
            leader: self.core.leader(),
            commit: self.core.commit_index(),
            member: self.core.is_in_configuration(),
            replay_left: self.replay_left(opened),
        };
        self.shared.note_configuration(self.core.configuration());
        self.shared
            .waiting
            .store(self.state.waiting.len() as u64, Ordering::Relaxed);
        self.shared
            .entry_size_bytes_max
            .store(self.core.settings().entry_size_bytes_max, Ordering::Relaxed);
        self.brief.send_if_modified(|old| {
            let changed =
                (old.role, old.term, old.leader) != (brief.role, brief.term, brief.leader);
            *old = brief;
            changed
        });
    }
}

fn order_input(order: Order, token: Token) -> Input {
    match order {
        Order::ChangeConfiguration { change, expected } => Input::ChangeConfiguration {
            token,
            change,
            expected,
        },
        Order::CancelChange => Input::CancelChange { token },
        Order::ResetPeers(members) => Input::ResetPeers { token, members },
        Order::Transfer(target) => Input::TransferLeadership { token, target },
        Order::Campaign => Input::Campaign { token },
        Order::SetSettings(settings) => Input::SetSettings { token, settings },
    }
}

/// An error and its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
