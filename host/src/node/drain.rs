//! Keeping leadership off this node: until an operator undoes it, or because it goes down.

use super::context::Context;
use super::handle::{Brief, GroupHandle};
use super::request::{Control, Failure, Order};
use futures_util::future::join_all;
use kontiki_raft::{ConfigurationError, RejectReason, Role, TransferTarget};
use kontiki_storage::{Storage, StorageError};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Key of the node record that says whether the node is drained: one byte, 1 if it is.
const RECORD: &str = "drained";
/// How often a leadership that could not be moved is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Whether the node was drained when it was last stopped.
pub(super) fn is_recorded(storage: &dyn Storage) -> Result<bool, StorageError> {
    let record = storage.node_record(RECORD)?;
    Ok(record.is_some_and(|value| value == [1]))
}

/// Why the order was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// What became of the groups that were led here.
#[derive(Debug, Default)]
pub(crate) struct Drained {
    /// Groups that are led elsewhere now.
    pub(crate) moved: Vec<String>,
    /// Groups that are still led here, with the reason.
    pub(crate) stayed: Vec<(String, String)>,
}

/// Keeps leadership off this node from now on, durably, and waits at most until `deadline` for every
/// group to be led elsewhere.
///
/// # Errors
/// If that cannot be recorded; then nothing has changed.
pub(crate) async fn drain(
    context: &Arc<Context>,
    deadline: Instant,
) -> Result<Drained, DrainError> {
    set(context, true).await?;
    let mut all = Drained::default();
    loop {
        let round = hand_over_all(context, deadline, |_| true).await;
        all.stayed = round.stayed;
        // An election that was won meanwhile is found when one looks again.
        if round.moved.is_empty() || Instant::now() >= deadline {
            all.moved.sort();
            all.moved.dedup();
            return Ok(all);
        }
        all.moved.extend(round.moved);
    }
}

/// Lets this node lead again.
///
/// # Errors
/// If that cannot be recorded; then nothing has changed.
pub(crate) async fn undrain(context: &Arc<Context>) -> Result<(), DrainError> {
    set(context, false).await
}

/// To the end even if the caller goes away: what is recorded must also be in force.
async fn set(context: &Arc<Context>, drained: bool) -> Result<(), DrainError> {
    let context = Arc::clone(context);
    let setting = tokio::spawn(async move {
        let _one_at_a_time = context.drain_order.lock().await;
        let storage = Arc::clone(&context.storage);
        let record = [u8::from(drained)];
        tokio::task::spawn_blocking(move || storage.put_node_record(RECORD, &record)).await??;
        context.drained.store(drained, Ordering::Release);
        tell_groups(&context).await;
        Ok(())
    });
    setting.await?
}

/// Tells every group whether this node gives leadership away.
pub(super) async fn tell_groups(context: &Context) {
    let drained = context.gives_away();
    for group in context.router.all() {
        // A failure means that the group has ended already.
        let _ = group.control(Control::SetDrained(drained)).await;
    }
}

/// Moves every leadership off this node. What could not be moved is tried again until `deadline`
/// if the reason is worth waiting for.
pub(super) async fn hand_over_all(
    context: &Context,
    deadline: Instant,
    is_worth_waiting: fn(&Failure) -> bool,
) -> Drained {
    let one = |group: GroupHandle| async move {
        let outcome = hand_over(&group, deadline, is_worth_waiting).await;
        (group.name().to_owned(), outcome)
    };
    let mut drained = Drained::default();
    for (name, outcome) in join_all(context.router.all().into_iter().map(one)).await {
        match outcome {
            HandedOver::NotLeading => {}
            HandedOver::Moved => drained.moved.push(name),
            HandedOver::Stayed(why) => drained.stayed.push((name, why)),
        }
    }
    drained
}

/// What became of a leadership.
enum HandedOver {
    /// This node did not lead.
    NotLeading,
    /// Another node leads, or soon will.
    Moved,
    /// It stays, for this reason.
    Stayed(String),
}

async fn hand_over(
    group: &GroupHandle,
    deadline: Instant,
    is_worth_waiting: fn(&Failure) -> bool,
) -> HandedOver {
    if !leads(&group.brief()) {
        return HandedOver::NotLeading;
    }
    if is_only_voter(group).await {
        return HandedOver::Stayed("this node is its only voter".to_owned());
    }
    loop {
        let order = group.order(Order::Transfer(TransferTarget::Best));
        let failure = match tokio::time::timeout_at(deadline, order).await {
            Ok(Ok(())) => return HandedOver::Moved,
            Ok(Err(failure)) => failure,
            Err(_) => return HandedOver::Stayed("the transfer is not finished".to_owned()),
        };
        if !leads(&group.brief()) {
            return HandedOver::Moved;
        }
        if !is_worth_waiting(&failure) || Instant::now() + RETRY_INTERVAL >= deadline {
            return HandedOver::Stayed(failure.to_string());
        }
        // Somebody else may lead before that; the next look tells.
        let mut brief = group.watch();
        let moved = brief.wait_for(|now| !leads(now));
        let _ = tokio::time::timeout(RETRY_INTERVAL, moved).await;
    }
}

fn leads(brief: &Brief) -> bool {
    matches!(brief.role, Role::Leader | Role::Transferring)
}

async fn is_only_voter(group: &GroupHandle) -> bool {
    let status = group.status().await;
    // Not for long, maybe, if a change is under way.
    status.is_ok_and(|status| {
        let core = status.core;
        core.change_target.is_none()
            && core.configuration.old.is_none()
            && core.configuration.current.voters.len() == 1
    })
}

/// Whether a leadership that cannot be moved for this reason can be in a moment.
pub(super) fn is_passing(failure: &Failure) -> bool {
    let Failure::Refused { reason, .. } = failure else {
        return false;
    };
    let in_change = RejectReason::Configuration(ConfigurationError::InProgress);
    *reason == RejectReason::Transferring || *reason == in_change
}
