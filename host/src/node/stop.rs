//! Shutting a node down: say so, hand over, finish, close.

use super::RunningNode;
use super::context::Context;
use super::drain;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Longest time for handing leaderships over; a transfer takes an election timeout at most.
const HAND_OVER_LIMIT: Duration = Duration::from_secs(3);
/// Longest time for what is queued for other nodes to leave.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

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
    hand_over(&context, deadline).await;
    context.closing.cancel();
    servers.finish(&context, deadline).await;
    if tokio::time::timeout_at(deadline + Duration::from_secs(1), context.stop_groups())
        .await
        .is_err()
    {
        warn!("some groups did not end in time");
    }
    close(&context).await;
    drop(directory);
    info!(node = context.node().0, "stopped");
}

/// Ends what a node without groups has: connections to others, and data.
pub(super) async fn close(context: &Arc<Context>) {
    context.closing.cancel();
    context.peers_closing.cancel();
    // The groups' last words are queued: a leader that could not hand over wakes its successor.
    context.transport.finish(FLUSH_LIMIT).await;
    close_storage(context).await;
}

/// Moves leaderships to others, before clients are turned away. A change of membership may be about
/// to end and is waited for a little; its leader can be replaced while it runs, but not by transfer.
async fn hand_over(context: &Arc<Context>, deadline: Instant) {
    drain::tell_groups(context).await;
    let limit = deadline.min(Instant::now() + HAND_OVER_LIMIT);
    let drained = drain::hand_over_all(context, limit, drain::is_passing).await;
    for (group, why) in drained.stayed {
        warn!(group, why, "a leadership was not handed over");
    }
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
