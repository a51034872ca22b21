//! Shutting a node down: say so, hand over, finish, close.

use super::RunningNode;
use super::context::Context;
use super::handle::GroupHandle;
use super::request::{Control, Failure, Order};
use futures_util::future::join_all;
use kontiki_raft::{Role, TransferTarget};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

pub(super) async fn stop(node: RunningNode) {
    let RunningNode {
        context,
        servers,
        directory,
        ..
    } = node;
    let deadline = Instant::now() + context.config.shutdown_grace;
    info!(node = context.node().0, "shutting down");
    context.draining.store(true, Ordering::Release);
    servers.say_not_ready().await;
    let handed_over = tokio::time::timeout_at(deadline, hand_over_all(&context)).await;
    if handed_over.is_err() {
        warn!("leaderships were not handed over in time");
    }
    context.closing.cancel();
    servers.finish(deadline).await;
    if tokio::time::timeout_at(deadline + Duration::from_secs(1), context.stop_groups())
        .await
        .is_err()
    {
        warn!("some groups did not end in time");
    }
    context.transport.close().await;
    close_storage(&context).await;
    drop(directory);
    info!(node = context.node().0, "stopped");
}

async fn close_storage(context: &Arc<Context>) {
    let context = Arc::clone(context);
    let closing = tokio::task::spawn_blocking(move || {
        context.storage.close();
        context.join_threads();
    });
    if closing.await.is_err() {
        warn!("closing the storage failed");
    }
}

/// What became of a leadership.
pub(crate) enum HandedOver {
    /// This node did not lead.
    NotLeading,
    /// Another node leads.
    Moved,
    /// It stays, for this reason.
    Stayed(String),
}

/// Moves every leadership off this node and keeps it off, as far as others can lead; by group.
pub(crate) async fn hand_over_all(context: &Context) -> Vec<(String, HandedOver)> {
    let one = |handle: GroupHandle| async move {
        // A failure means that the group has ended already.
        let _ = handle.control(Control::SetPriority(0)).await;
        let outcome = hand_over(&handle).await;
        (handle.name().to_owned(), outcome)
    };
    join_all(context.router.all().into_iter().map(one)).await
}

async fn hand_over(handle: &GroupHandle) -> HandedOver {
    let brief = handle.brief();
    if !matches!(brief.role, Role::Leader | Role::Transferring) {
        return HandedOver::NotLeading;
    }
    match handle.order(Order::Transfer(TransferTarget::Best)).await {
        Ok(()) => HandedOver::Moved,
        Err(Failure::Refused { reason, .. }) => HandedOver::Stayed(reason.to_string()),
        Err(failure) => HandedOver::Stayed(failure.to_string()),
    }
}
