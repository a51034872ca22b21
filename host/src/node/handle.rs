//! What the rest of the node holds of a group.

use super::apply::{Applier, ApplyStatus};
use super::clock::{Clock, micros};
use super::request::{
    Applied, Claim, Control, Failure, GroupStatus, Order, Outcome, Proposed, Query,
};
use bytes::Bytes;
use kontiki_plugin::Description;
use kontiki_proto::v1::GroupSpec;
use kontiki_raft::{
    GroupId, Instant, LogIndex, Message, NodeId, ReadMode, RejectReason, Role, Term,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// A replica in four words; changes are announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Brief {
    pub(crate) role: Role,
    pub(crate) term: Term,
    pub(crate) leader: Option<NodeId>,
    pub(crate) commit: LogIndex,
}

impl Default for Brief {
    fn default() -> Self {
        Self {
            role: Role::Follower,
            term: Term(0),
            leader: None,
            commit: LogIndex(0),
        }
    }
}

/// Commands answered otherwise than as applied, by outcome.
#[derive(Debug, Default)]
pub(crate) struct Answered {
    pub(crate) not_applied: AtomicU64,
    pub(crate) unknown: AtomicU64,
}

/// What a group's task and its handles share.
#[derive(Debug)]
pub(crate) struct GroupShared {
    pub(crate) node: NodeId,
    pub(crate) answered: Answered,
    pub(crate) messages_dropped: AtomicU64,
    pub(crate) leader_changes: AtomicU64,
    pub(crate) waiting: AtomicU64,
    /// When the leader last spoke, in microseconds of the node's clock; zero: never.
    leader_heard_us: AtomicU64,
}

impl GroupShared {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            node,
            answered: Answered::default(),
            messages_dropped: AtomicU64::new(0),
            leader_changes: AtomicU64::new(0),
            waiting: AtomicU64::new(0),
            leader_heard_us: AtomicU64::new(0),
        }
    }

    /// Notes that `from` spoke, if it is the leader.
    pub(crate) fn heard_from(&self, from: NodeId, leader: Option<NodeId>, now: Instant) {
        if leader == Some(from) {
            self.leader_heard_us.store(now.0, Ordering::Relaxed);
        }
    }
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
    pub(crate) messages: mpsc::Sender<(NodeId, Message)>,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) applier: Applier,
    pub(crate) shared: Arc<GroupShared>,
    pub(crate) brief: watch::Receiver<Brief>,
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

    pub(crate) fn shared(&self) -> &GroupShared {
        &self.inner.shared
    }

    pub(crate) fn apply_status(&self) -> ApplyStatus {
        self.inner.applier.view().status()
    }

    /// Whether a leader is known and the plugin runs.
    pub(crate) fn is_healthy(&self) -> bool {
        let brief = self.brief();
        brief.leader.is_some()
            && brief.role != Role::Stopped
            && self.inner.applier.view().fault().is_none()
    }

    /// Puts a command into the queue, without waiting for its answer.
    pub(crate) fn propose(&self, command: Bytes, expected_term: Option<Term>) -> Pending {
        let (reply, answer) = oneshot::channel();
        let claim = Claim::default();
        let proposed = Proposed {
            command,
            expected_term,
            claim: claim.clone(),
            reply,
        };
        match self.inner.proposals.try_send(proposed) {
            Ok(()) => Pending {
                claim,
                answer: Ok(answer),
            },
            Err(error) => {
                self.inner
                    .shared
                    .answered
                    .not_applied
                    .fetch_add(1, Ordering::Relaxed);
                Pending {
                    claim,
                    answer: Err(match error {
                        mpsc::error::TrySendError::Full(_) => Failure::Busy,
                        mpsc::error::TrySendError::Closed(_) => Failure::ShuttingDown,
                    }),
                }
            }
        }
    }

    /// Asks the state. Gives up after `limit`.
    pub(crate) async fn query(
        &self,
        request: Bytes,
        consistency: Consistency,
        limit: Duration,
    ) -> Result<Applied, Failure> {
        let (reply, answer) = oneshot::channel();
        match consistency {
            Consistency::Stale => self.inner.applier.query(LogIndex(0), request, reply),
            Consistency::Linearizable(mode) => {
                let query = Query {
                    request,
                    mode,
                    reply,
                };
                self.inner
                    .queries
                    .try_send(query)
                    .map_err(|error| match error {
                        mpsc::error::TrySendError::Full(_) => Failure::Busy,
                        mpsc::error::TrySendError::Closed(_) => Failure::ShuttingDown,
                    })?;
            }
        }
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::ShuttingDown),
            Err(_) => Err(Failure::Deadline(Outcome::NotApplied)),
        }
    }

    /// Time since the leader last spoke to this replica; none on the leader, or if it never did.
    pub(crate) fn staleness_us(&self) -> Option<u64> {
        let heard = self.inner.shared.leader_heard_us.load(Ordering::Relaxed);
        let leads = matches!(self.brief().role, Role::Leader | Role::Transferring);
        (heard > 0 && !leads).then(|| micros(self.inner.clock.now().since(Instant(heard))))
    }

    /// Passes a peer's message on. Dropped and counted if the mailbox is full: Raft repeats it.
    pub(crate) fn deliver(&self, from: NodeId, message: Message) {
        if self.inner.messages.try_send((from, message)).is_err() {
            self.inner
                .shared
                .messages_dropped
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Carries out an operator's order and waits until it is done.
    pub(crate) async fn order(&self, order: Order) -> Result<(), Failure> {
        let (reply, answer) = oneshot::channel();
        self.control(Control::Order(order, reply)).await?;
        answer.await.unwrap_or(Err(Failure::ShuttingDown))
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

/// A command in the queue or under way.
pub(crate) struct Pending {
    claim: Claim,
    answer: Result<oneshot::Receiver<Result<Applied, Failure>>, Failure>,
}

impl Pending {
    /// Waits for the answer, at most until `deadline`.
    pub(crate) async fn wait(self, deadline: tokio::time::Instant) -> Result<Applied, Failure> {
        let answer = self.answer?;
        match tokio::time::timeout_at(deadline, answer).await {
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
