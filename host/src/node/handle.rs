//! What the rest of the node holds of a group.

use super::apply::{Applier, ApplyStatus, Checkpoints, Comparison};
use super::budget::Budget;
use super::clock::{Clock, micros};
use super::context::lock;
use super::epoch::{EpochId, Epochs};
use super::overrides::Own;
use super::reply::{CommandReply, QueryReply};
use super::request::{
    Applied, Check, Claim, Control, Failure, GroupStatus, Order, Outcome, Proposed, Query,
    Retirement,
};
use crate::metrics::Metrics;
use bytes::Bytes;
use kontiki_plugin::Description;
use kontiki_proto::v1::GroupSpec;
use kontiki_raft::{
    Configuration, GroupId, HardState, Horizon, Horizons, LogIndex, MemberSet, Message, NodeId,
    ReadMode, RejectReason, Role, Term,
};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// A replica in a few words; changes are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) role: Role,
    pub(crate) term: Term,
    pub(crate) leader: Option<NodeId>,
    pub(crate) commit: LogIndex,
    /// The configuration in force has this node in it.
    pub(crate) member: bool,
    /// Entries to be applied before the replica is as current as before it was opened. None once
    /// it has been, nor while there is nobody to replay from (see `replay_left` of the group).
    pub(crate) replay_left: u64,
}

impl Default for Brief {
    fn default() -> Self {
        Self {
            role: Role::Follower,
            term: Term(0),
            leader: None,
            commit: LogIndex(0),
            member: false,
            replay_left: 0,
        }
    }
}

/// What a group's task and its handles share.
#[derive(Debug)]
pub(crate) struct GroupShared {
    pub(crate) node: NodeId,
    /// Written by the group's task only.
    epochs: Mutex<Epochs>,
    /// The membership in force. Written by the group's task only.
    configuration: Mutex<Configuration>,
    pub(crate) waiting: AtomicU64,
    /// What is known of how old the state is.
    horizons: Mutex<Horizons>,
    /// Largest command that the replica takes now.
    pub(crate) entry_size_bytes_max: AtomicUsize,
    /// How large answers have been lately.
    answer_size_bytes: AtomicUsize,
}

impl GroupShared {
    pub(crate) fn new(node: NodeId, epochs: Epochs, configuration: Configuration) -> Self {
        Self {
            node,
            epochs: Mutex::new(epochs),
            configuration: Mutex::new(configuration),
            waiting: AtomicU64::new(0),
            horizons: Mutex::default(),
            entry_size_bytes_max: AtomicUsize::new(usize::MAX),
            answer_size_bytes: AtomicUsize::new(0),
        }
    }

    pub(crate) fn epochs(&self) -> Epochs {
        lock(&self.epochs).clone()
    }

    pub(crate) fn set_epochs(&self, epochs: Epochs) {
        *lock(&self.epochs) = epochs;
    }

    /// Takes in the membership in force.
    pub(crate) fn note_configuration(&self, now: &Configuration) {
        let mut noted = lock(&self.configuration);
        if *noted != *now {
            noted.clone_from(now);
        }
    }

    /// Why the replica serves nobody, if a recovery left it behind.
    pub(crate) fn left_behind(&self) -> Option<Failure> {
        let epochs = lock(&self.epochs);
        Some(Failure::LeftBehind {
            newer: epochs.newer()?,
            own: epochs.id(),
            begun_on: epochs.begun_on(),
        })
    }

    /// Takes in what the core has learnt of how old the state is.
    pub(crate) fn note_horizon(&self, horizon: Horizon, applied: LogIndex) {
        lock(&self.horizons).note(horizon, applied);
    }
}

/// Whether a node was a member when a replica with this specification was made.
pub(crate) fn is_named(spec: &GroupSpec, node: NodeId) -> bool {
    let initial = spec.initial_members.iter();
    let mut initial = initial.flat_map(|set| set.voters.iter().chain(&set.learners));
    initial.any(|member| *member == node.0) || spec.nodes.iter().any(|it| it.node == node.0)
}

/// How a query is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// After everything acknowledged before it, proven in this way.
    Linearizable(ReadMode),
    /// At once, from what this replica has.
    Stale,
}

/// A group on this node. Cheap to clone.
#[derive(Clone)]
pub struct GroupHandle {
    pub(crate) inner: Arc<HandleInner>,
}

pub(crate) struct HandleInner {
    pub(crate) id: GroupId,
    pub(crate) spec: GroupSpec,
    pub(crate) description: Description,
    pub(crate) clock: Clock,
    pub(crate) proposals: mpsc::Sender<Proposed>,
    pub(crate) queries: mpsc::Sender<Query>,
    pub(crate) messages: mpsc::Sender<(NodeId, EpochId, Message)>,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) applier: Applier,
    pub(crate) shared: Arc<GroupShared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) brief: watch::Receiver<Brief>,
    pub(crate) commands_budget: Budget,
    pub(crate) queries_budget: Budget,
    /// What this node keeps of the replica alone; changed only by `tuning`.
    pub(crate) own: Mutex<Own>,
    /// Held by a membership change, from making replicas to taking back those made in vain.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl GroupHandle {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        self.inner.id
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.spec.name
    }

    /// How it was created.
    #[must_use]
    pub fn spec(&self) -> &GroupSpec {
        &self.inner.spec
    }

    /// What its plugin says about itself.
    #[must_use]
    pub fn plugin_description(&self) -> &Description {
        &self.inner.description
    }

    pub(crate) fn brief(&self) -> Brief {
        *self.inner.brief.borrow()
    }

    /// Announces every change of role, term and leader.
    pub(crate) fn watch(&self) -> watch::Receiver<Brief> {
        self.inner.brief.clone()
    }

    /// Requests that wait for an answer of the core, as of the last round of the group's task.
    pub(crate) fn waiting(&self) -> u64 {
        self.inner.shared.waiting.load(Ordering::Relaxed)
    }

    pub(crate) fn apply_status(&self) -> ApplyStatus {
        self.inner.applier.view().status()
    }

    /// Largest command that the replica takes now.
    pub(crate) fn entry_size_bytes_max(&self) -> usize {
        let limit = &self.inner.shared.entry_size_bytes_max;
        limit.load(Ordering::Relaxed)
    }

    /// What a command of `size_bytes` takes in memory until its answer is delivered, as far as can
    /// be told before there is one.
    pub(crate) fn expected_size_bytes(&self, size_bytes: usize) -> usize {
        let answers = &self.inner.shared.answer_size_bytes;
        size_bytes.max(answers.load(Ordering::Relaxed))
    }

    /// Takes in how large an answer was. Two at once may miss each other, which later ones mend.
    pub(crate) fn note_answer(&self, size_bytes: usize) {
        let answers = &self.inner.shared.answer_size_bytes;
        let before = answers.load(Ordering::Relaxed);
        if before != size_bytes {
            let faded = before - before.div_ceil(64);
            answers.store(faded.max(size_bytes), Ordering::Relaxed);
        }
    }

    /// Whether a leader is known, the plugin runs, and no other replica has answered otherwise.
    pub(crate) fn is_healthy(&self) -> bool {
        let brief = self.brief();
        brief.leader.is_some()
            && brief.role != Role::Stopped
            && self.inner.applier.view().fault().is_none()
            && !self.is_diverged()
    }

    /// Whether another replica has answered the same log differently.
    pub(crate) fn is_diverged(&self) -> bool {
        !self.inner.applier.view().differing().is_empty()
    }

    /// The outcome hashes that the replica remembers.
    pub(crate) fn checkpoints(&self) -> Checkpoints {
        self.inner.applier.view().checkpoints()
    }

    /// Notes what came of comparing them with another node's. True if that is news.
    pub(crate) fn note_comparison(&self, node: NodeId, result: Comparison) -> bool {
        self.inner.applier.view().note_comparison(node, result)
    }

    /// Puts a command into the queue, without waiting for its answer.
    ///
    /// It is copied: what comes off a connection is a slice of a receive buffer, which a short
    /// command would keep whole for as long as the log's cache keeps the command.
    pub(crate) fn propose(&self, command: &[u8], expected_term: Option<Term>) -> Pending {
        let share = self.inner.commands_budget.take(command.len());
        let within_budget = share.is_some();
        let (reply, answer) = CommandReply::new(&self.inner.metrics.proposals, share);
        let claim = reply.claim().clone();
        if !within_budget {
            reply.answer(Err(Failure::Busy));
            return Pending { claim, answer };
        }
        let proposed = Proposed {
            command: Bytes::copy_from_slice(command),
            expected_term,
            reply,
        };
        if let Err(error) = self.inner.proposals.try_send(proposed) {
            let failure = queue_failure(&error);
            error.into_inner().reply.answer(Err(failure));
        }
        Pending { claim, answer }
    }

    /// Asks the state. Gives up after `limit`. The request is copied, for the reason that a command
    /// is.
    pub(crate) async fn query(
        &self,
        request: &[u8],
        consistency: Consistency,
        limit: Duration,
    ) -> Result<Applied, Failure> {
        let share = self.inner.queries_budget.take(request.len());
        let share = share.ok_or(Failure::Busy)?;
        let (reply, answer) = QueryReply::new(Some(share));
        let request = Bytes::copy_from_slice(request);
        match consistency {
            Consistency::Stale if let Some(failure) = self.inner.shared.left_behind() => {
                return Err(failure);
            }
            Consistency::Stale => self.inner.applier.query(LogIndex(0), request, reply),
            Consistency::Linearizable(mode) => {
                let query = Query {
                    request,
                    mode,
                    arrived: std::time::Instant::now(),
                    reply,
                };
                let queued = self.inner.queries.try_send(query);
                queued.map_err(|error| queue_failure(&error))?;
            }
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::ShuttingDown),
            Err(_) => Err(Failure::Deadline(Outcome::NotApplied)),
        }
    }

    /// How old a state at `applied` is at most, in microseconds; none if that is not known.
    pub(crate) fn staleness_us(&self, applied: LogIndex) -> Option<u64> {
        let as_of = lock(&self.inner.shared.horizons).as_of(applied)?;
        Some(micros(self.inner.clock.now().since(as_of)))
    }

    /// Passes a peer's message on. Dropped and counted if the mailbox is full: Raft repeats it.
    pub(crate) fn deliver(&self, from: NodeId, epoch: EpochId, message: Message) {
        if self
            .inner
            .messages
            .try_send((from, epoch, message))
            .is_err()
        {
            self.inner.metrics.messages_dropped.inc();
        }
    }

    /// Whether a node is a member as far as this replica knows, or was one when the replica was made.
    /// What ends a replica is believed of such nodes only: anybody can come to be a node that is known.
    pub(crate) fn has_member(&self, node: NodeId) -> bool {
        is_named(&self.inner.spec, node) || lock(&self.inner.shared.configuration).contains(node)
    }

    /// The replica's epoch, and one that left it behind.
    pub(crate) fn epochs(&self) -> Epochs {
        self.inner.shared.epochs()
    }

    /// Passes on what another node knows of the group's epochs; told again if it gets lost.
    pub(crate) async fn hear_epoch(&self, from: NodeId, told: kontiki_proto::v1::GroupEpoch) {
        let _ = self.control(Control::Epoch(from, told)).await;
    }

    /// Carries out an operator's order and waits until it is done.
    pub(crate) async fn order(&self, order: Order) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.control(Control::Order(order, reply)).await?;
        answer.await.unwrap_or(Err(Failure::ShuttingDown))
    }

    /// Where an order would lead, and in which term that was found; nothing is done.
    pub(crate) async fn check(&self, check: Check) -> Result<(MemberSet, Term), Failure> {
        let (reply, answer) = oneshot::channel();
        self.control(Control::Check(check, reply)).await?;
        answer.await.unwrap_or(Err(Failure::ShuttingDown))
    }

    /// Ends the replica for good if the condition holds; its term and vote then.
    pub(crate) async fn retire(&self, condition: Retirement) -> Result<Option<HardState>, Failure> {
        let (reply, answer) = oneshot::channel();
        self.control(Control::Retire(condition, reply)).await?;
        answer.await.map_err(|_| Failure::ShuttingDown)
    }

    pub(crate) async fn control(&self, control: Control) -> Result<(), Failure> {
        self.inner
            .control
            .send(control)
            .await
            .map_err(|_| Failure::ShuttingDown)
    }

    /// As [`Self::control`] for a group that was just opened, whose queue is empty.
    pub(crate) fn control_now(&self, control: Control) {
        if self.inner.control.try_send(control).is_err() {
            tracing::warn!(group = self.id().0, "an order to a new group was lost");
        }
    }

    /// Tells the replica that a node cannot be reached; not worth waiting for.
    pub(crate) fn unreachable(&self, node: NodeId) {
        let _ = self.inner.control.try_send(Control::Unreachable(node));
    }

    pub(crate) async fn status(&self) -> Result<GroupStatus, Failure> {
        let (reply, answer) = oneshot::channel();
        self.control(Control::Status(reply)).await?;
        answer
            .await
            .map(|status| *status)
            .map_err(|_| Failure::ShuttingDown)
    }
}

/// Why something did not get into a group's queue.
fn queue_failure<T>(error: &mpsc::error::TrySendError<T>) -> Failure {
    match error {
        mpsc::error::TrySendError::Full(_) => Failure::Busy,
        mpsc::error::TrySendError::Closed(_) => Failure::ShuttingDown,
    }
}

/// A command in the queue or under way.
pub(crate) struct Pending {
    claim: Claim,
    answer: oneshot::Receiver<Result<Applied, Failure>>,
}

impl Pending {
    /// Waits for the answer, at most until `deadline`.
    pub(crate) async fn wait(self, deadline: tokio::time::Instant) -> Result<Applied, Failure> {
        match tokio::time::timeout_at(deadline, self.answer).await {
            Ok(Ok(result)) => result,
            // The group ended without a word, so it may have had the command.
            Ok(Err(_)) if self.claim.withdraw() => Err(Failure::ShuttingDown),
            Ok(Err(_)) => Err(Failure::Refused {
                reason: RejectReason::LeadershipLost,
                leader: None,
                term: Term(0),
            }),
            Err(_) if self.claim.withdraw() => Err(Failure::Deadline(Outcome::NotApplied)),
            Err(_) => Err(Failure::Deadline(Outcome::Unknown)),
        }
    }
}
