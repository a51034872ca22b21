//! Bundles what is queued for a peer into frames, without waiting for more.

use super::convert::message_to_wire;
use futures_util::Stream;
use kontiki_proto::v1::{GroupMessage, Introduction, PeerFrame};
use kontiki_raft::{Entry, GroupId, Message, MessageBody, NodeId};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Messages in one frame.
const FRAME_MESSAGES_MAX: usize = 256;
/// A frame is closed when it has this many bytes of payload.
const FRAME_SIZE_BYTES_MAX: usize = 1 << 20;

/// A message on its way to a peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) group: GroupId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

/// A peer's queue; outlives connections.
pub(crate) type Queue = Arc<Mutex<mpsc::Receiver<Outgoing>>>;

/// Frames of one connection.
pub(crate) struct Frames {
    introduction: Option<Introduction>,
    queue: Queue,
    taken: VecDeque<Outgoing>,
    scratch: Vec<Outgoing>,
    /// Set when the connection is given up, so that it takes nothing from its successor.
    over: Arc<AtomicBool>,
    /// The frames end when what is queued is sent.
    finishing: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Frames {
    pub(crate) fn new(
        introduction: Introduction,
        queue: Queue,
        over: Arc<AtomicBool>,
        finishing: CancellationToken,
    ) -> Self {
        Self {
            introduction: Some(introduction),
            queue,
            taken: VecDeque::new(),
            scratch: Vec::new(),
            over,
            finishing: Box::pin(finishing.cancelled_owned()),
        }
    }

    fn bundle(&mut self) -> PeerFrame {
        let mut messages = Vec::with_capacity(self.taken.len());
        let mut size_bytes = 0;
        while size_bytes < FRAME_SIZE_BYTES_MAX {
            let Some(next) = self.taken.pop_front() else {
                break;
            };
            size_bytes += size_of_message(&next.message);
            messages.push(GroupMessage {
                group: next.group.0,
                to: next.to.0,
                message: Some(message_to_wire(next.message)),
            });
        }
        PeerFrame {
            introduction: None,
            messages,
        }
    }
}

fn size_of_message(message: &Message) -> usize {
    match &message.body {
        MessageBody::AppendEntries(append) => append.entries.iter().map(Entry::size_bytes).sum(),
        _ => 0,
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
        if this.taken.is_empty() {
            let mut queue = this.queue.lock().unwrap_or_else(PoisonError::into_inner);
            match queue.poll_recv_many(cx, &mut this.scratch, FRAME_MESSAGES_MAX) {
                Poll::Pending => return this.finishing.as_mut().poll(cx).map(|()| None),
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Ready(_) => this.taken.extend(this.scratch.drain(..)),
            }
        }
        Poll::Ready(Some(this.bundle()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt as _;
    use kontiki_raft::{AppendEntries, EntryKind, LogId, LogIndex, Term};

    fn outgoing(size_bytes: usize) -> Outgoing {
        let entry = Entry {
            id: LogId::new(Term(1), LogIndex(1)),
            time_ns: 0,
            kind: EntryKind::Command(vec![0; size_bytes].into()),
        };
        let append = AppendEntries {
            prev: LogId::default(),
            entries: vec![entry],
            commit: LogIndex(0),
            sequence: 1,
        };
        let body = MessageBody::AppendEntries(append);
        let message = Message {
            term: Term(1),
            body,
        };
        Outgoing {
            group: GroupId(7),
            to: NodeId(2),
            message,
        }
    }

    #[tokio::test]
    async fn frames_introduce_then_bundle_what_is_queued() {
        let (sender, receiver) = mpsc::channel(16);
        let over = Arc::new(AtomicBool::new(false));
        let queue = Arc::new(Mutex::new(receiver));
        let finishing = CancellationToken::new();
        let mut frames = Frames::new(Introduction::default(), queue, Arc::clone(&over), finishing);
        for size_bytes in [10, 10, FRAME_SIZE_BYTES_MAX, 10] {
            sender.send(outgoing(size_bytes)).await.unwrap();
        }
        assert!(frames.next().await.unwrap().introduction.is_some());
        assert_eq!(frames.next().await.unwrap().messages.len(), 3);
        assert_eq!(frames.next().await.unwrap().messages.len(), 1);
        over.store(true, Ordering::Release);
        assert!(frames.next().await.is_none());
    }

    #[tokio::test]
    async fn finishing_sends_what_is_queued_and_ends_a_stream_that_waits() {
        let (sender, receiver) = mpsc::channel(16);
        let queue = Arc::new(Mutex::new(receiver));
        let finishing = CancellationToken::new();
        let over = Arc::default();
        let mut frames = Frames::new(Introduction::default(), queue, over, finishing.clone());
        sender.send(outgoing(10)).await.unwrap();
        assert!(frames.next().await.unwrap().introduction.is_some());
        finishing.cancel();
        assert_eq!(frames.next().await.unwrap().messages.len(), 1);
        assert!(frames.next().await.is_none());
        let (sender, receiver) = mpsc::channel(16);
        let queue = Arc::new(Mutex::new(receiver));
        let finishing = CancellationToken::new();
        let over = Arc::default();
        let mut idle = Frames::new(Introduction::default(), queue, over, finishing.clone());
        assert!(idle.next().await.is_some());
        let waiting = tokio::spawn(async move { idle.next().await });
        tokio::task::yield_now().await;
        finishing.cancel();
        assert!(waiting.await.unwrap().is_none());
        drop(sender);
    }
}
