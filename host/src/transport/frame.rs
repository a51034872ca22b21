//! Bundles what is queued for a peer into frames, without waiting for more.

use super::convert::message_to_wire;
use super::queue::{Lane, Outgoing, Queue};
use crate::node::clock::wall_time_ns;
use futures_util::Stream;
use kontiki_proto::v1::{GroupMessage, Introduction, PeerFrame};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Frames of one connection, out of one lane.
pub(crate) struct Frames {
    introduction: Option<Introduction>,
    queue: Arc<Queue>,
    lane: Lane,
    /// Set when the connection is given up, so that it takes nothing from its successor.
    over: Arc<AtomicBool>,
    /// The frames end when what is queued is sent.
    finishing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Frames {
    pub(crate) fn new(
        introduction: Introduction,
        (queue, lane): (Arc<Queue>, Lane),
        over: Arc<AtomicBool>,
        finishing: CancellationToken,
    ) -> Self {
        Self {
            introduction: Some(introduction),
            queue,
            lane,
            over,
            finishing: Box::pin(finishing.cancelled_owned()),
        }
    }
}

fn bundle(taken: Vec<Outgoing>) -> PeerFrame {
    let to_wire = |next: Outgoing| GroupMessage {
        group: next.group.0,
        to: next.to.0,
        epoch: next.epoch.to_wire(),
        message: Some(message_to_wire(next.message)),
    };
    PeerFrame {
        introduction: None,
        messages: taken.into_iter().map(to_wire).collect(),
        time_ns: wall_time_ns(),
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
                time_ns: wall_time_ns(),
            }));
        }
        let taken = match this.queue.poll_take(this.lane, cx) {
            Poll::Ready(taken) => taken,
            Poll::Pending => return this.finishing.as_mut().poll(cx).map(|()| None),
        };
        Poll::Ready(Some(bundle(taken)))
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

    fn open(lane: Lane) -> (Arc<Queue>, Arc<AtomicBool>, CancellationToken, Frames) {
        let (queue, over) = (Arc::new(Queue::new(LIMITS)), Arc::default());
        let finishing = CancellationToken::new();
        let frames = Frames::new(
            Introduction::default(),
            (Arc::clone(&queue), lane),
            Arc::clone(&over),
            finishing.clone(),
        );
        (queue, over, finishing, frames)
    }

    #[tokio::test]
    async fn frames_introduce_then_bundle_what_is_queued() {
        let (queue, over, _, mut frames) = open(Lane::Bulk);
        for size_bytes in [10, 10, 1 << 20, 10] {
            assert!(queue.push(append(size_bytes)) && queue.push(heartbeat(1)));
        }
        assert!(frames.next().await.unwrap().introduction.is_some());
        assert_eq!(frames.next().await.unwrap().messages.len(), 3);
        assert_eq!(frames.next().await.unwrap().messages.len(), 1);
        let waits = tokio::spawn(async move { (frames.next().await, frames) });
        tokio::task::yield_now().await;
        queue.push(append(1));
        let (woken, mut frames) = waits.await.unwrap();
        assert_eq!(woken.unwrap().messages.len(), 1);
        over.store(true, Ordering::Release);
        assert!(frames.next().await.is_none());
    }

    #[tokio::test]
    async fn finishing_sends_what_is_queued_and_ends_a_stream_that_waits() {
        for lane in [Lane::Urgent, Lane::Bulk] {
            let (queue, _, finishing, mut frames) = open(lane);
            // More than one frame in each lane.
            for _ in 0..300 {
                assert!(queue.push(heartbeat(1)) && queue.push(append(10)));
            }
            assert!(frames.next().await.unwrap().introduction.is_some());
            finishing.cancel();
            let left: Vec<_> = frames.collect().await;
            let left = left.iter().map(|frame| frame.messages.len());
            assert_eq!(left.sum::<usize>(), 300);
        }
        let (_queue, _, finishing, mut idle) = open(Lane::Urgent);
        assert!(idle.next().await.is_some());
        let waiting = tokio::spawn(async move { idle.next().await });
        tokio::task::yield_now().await;
        finishing.cancel();
        assert!(waiting.await.unwrap().is_none());
    }
}
