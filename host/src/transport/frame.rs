//! Bundles what is queued for a peer into frames, without waiting for more.

use super::convert::message_to_wire;
use super::queue::{Outgoing, Queue};
use futures_util::Stream;
use kontiki_proto::v1::{GroupMessage, Introduction, PeerFrame};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

/// Frames of one connection.
pub(crate) struct Frames {
    introduction: Option<Introduction>,
    queue: Arc<Queue>,
    /// Set when the connection is given up, so that it takes nothing from its successor.
    over: Arc<AtomicBool>,
}

impl Frames {
    pub(crate) fn new(
        introduction: Introduction,
        queue: Arc<Queue>,
        over: Arc<AtomicBool>,
    ) -> Self {
        Self {
            introduction: Some(introduction),
            queue,
            over,
        }
    }
}

fn bundle(taken: Vec<Outgoing>) -> PeerFrame {
    let to_wire = |next: Outgoing| GroupMessage {
        group: next.group.0,
        to: next.to.0,
        message: Some(message_to_wire(next.message)),
    };
    PeerFrame {
        introduction: None,
        messages: taken.into_iter().map(to_wire).collect(),
    }
}

impl Stream for Frames {
    type Item = PeerFrame;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<PeerFrame>> {
        let this = &mut *self;
        if this.over.load(Ordering::Acquire) {
            return Poll::Ready(None);
        }
        if let Some(introduction) = this.introduction.take() {
            return Poll::Ready(Some(PeerFrame {
                introduction: Some(introduction),
                messages: Vec::new(),
            }));
        }
        Poll::Ready(Some(bundle(ready!(this.queue.poll_take(cx)))))
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::QueueLimits;
    use super::super::queue::tests::{append, heartbeat};
    use super::*;
    use futures_util::StreamExt as _;

    const LIMITS: QueueLimits = QueueLimits {
        messages_max: 1_000,
        size_bytes_max: 4 << 20,
    };

    #[tokio::test]
    async fn frames_introduce_then_bundle_what_is_queued() {
        let over = Arc::new(AtomicBool::new(false));
        let queue = Arc::new(Queue::new(LIMITS));
        let mut frames = Frames::new(
            Introduction::default(),
            Arc::clone(&queue),
            Arc::clone(&over),
        );
        for size_bytes in [10, 10, 1 << 20, 10] {
            assert!(queue.push(append(size_bytes)));
        }
        assert!(frames.next().await.unwrap().introduction.is_some());
        assert_eq!(frames.next().await.unwrap().messages.len(), 3);
        assert_eq!(frames.next().await.unwrap().messages.len(), 1);
        let waits = tokio::spawn(async move { (frames.next().await, frames) });
        tokio::task::yield_now().await;
        queue.push(heartbeat(1));
        let (woken, mut frames) = waits.await.unwrap();
        assert_eq!(woken.unwrap().messages.len(), 1);
        over.store(true, Ordering::Release);
        assert!(frames.next().await.is_none());
    }
}
