//! What waits for a peer, bounded in number and in bytes, in two lanes.
//!
//! Log entries go in the bulk lane, in order, together with all that belongs to their stream: an
//! append without entries and the offer of a snapshot. Everything else is small and urgent: votes,
//! heartbeats, answers, orders to campaign, questions about reads. It goes first, so that a peer
//! behind a slow link still hears in time that its leader lives, and a stream that fills its queue
//! does not cost leaderships.
//!
//! The core allows for any order, and the simulator gives it every order. What overtakes a stream
//! in practice is harmless for these reasons: a heartbeat commits only what its receiver is known to
//! hold; an order to campaign is sent to a target that holds everything, and to another only by a
//! leader that goes away, whose voters judge the target's log themselves; a vote of a later term
//! makes the stream of the earlier one void, which its receiver refuses; a read index is waited for
//! until it is applied. Answers keep their order among each other, and so do appends.

use kontiki_raft::{Entry, GroupId, Message, MessageBody, NodeId};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

/// Messages taken at once.
const TAKEN_MESSAGES_MAX: usize = 256;
/// Payload bytes taken at once; the message that reaches it is the last.
const TAKEN_SIZE_BYTES_MAX: usize = 1 << 20;
/// What a message costs besides its entries.
const MESSAGE_SIZE_BYTES: usize = 128;

/// A message on its way to a peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) group: GroupId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
}

impl Outgoing {
    fn is_bulk(&self) -> bool {
        let body = &self.message.body;
        matches!(
            body,
            MessageBody::AppendEntries(_) | MessageBody::InstallSnapshot(_)
        )
    }

    fn size_bytes(&self) -> usize {
        let entries = match &self.message.body {
            MessageBody::AppendEntries(append) => append.entries.as_slice(),
            _ => &[],
        };
        MESSAGE_SIZE_BYTES + entries.iter().map(Entry::size_bytes).sum::<usize>()
    }
}

/// Bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Messages in each lane.
    pub(crate) messages_max: usize,
    /// Bytes in the bulk lane.
    pub(crate) size_bytes_max: usize,
}

/// The queue of one peer; outlives connections.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    lanes: Mutex<Lanes>,
}

#[derive(Debug, Default)]
struct Lanes {
    urgent: VecDeque<Outgoing>,
    bulk: VecDeque<Outgoing>,
    bulk_size_bytes: usize,
    /// Of whoever sends what is queued.
    waker: Option<Waker>,
}

impl Queue {
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self {
            limits,
            lanes: Mutex::default(),
        }
    }

    /// Queues a message; false if its lane is full.
    pub(crate) fn push(&self, outgoing: Outgoing) -> bool {
        let mut lanes = self.lanes();
        if outgoing.is_bulk() {
            let size_bytes = lanes.bulk_size_bytes + outgoing.size_bytes();
            // Alone, any message fits: else a large one would never be sent.
            let full = size_bytes > self.limits.size_bytes_max && !lanes.bulk.is_empty();
            if full || lanes.bulk.len() >= self.limits.messages_max {
                return false;
            }
            lanes.bulk_size_bytes = size_bytes;
            lanes.bulk.push_back(outgoing);
        } else {
            if lanes.urgent.len() >= self.limits.messages_max {
                return false;
            }
            lanes.urgent.push_back(outgoing);
        }
        let waker = lanes.waker.take();
        drop(lanes);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Takes as much as one frame holds, at least one message.
    pub(crate) fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Vec<Outgoing>> {
        let mut lanes = self.lanes();
        if lanes.urgent.is_empty() && lanes.bulk.is_empty() {
            lanes.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(lanes.take())
    }

    /// Drops everything, and says how many messages that was.
    pub(crate) fn clear(&self) -> usize {
        let mut lanes = self.lanes();
        let count = lanes.urgent.len() + lanes.bulk.len();
        lanes.urgent.clear();
        lanes.bulk.clear();
        lanes.bulk_size_bytes = 0;
        count
    }

    /// Bytes that wait in the bulk lane.
    #[cfg(test)]
    pub(super) fn bulk_size_bytes(&self) -> usize {
        self.lanes().bulk_size_bytes
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    /// The urgent first; but one place is the stream's, or it could starve.
    fn take(&mut self) -> Vec<Outgoing> {
        let reserved = usize::from(!self.bulk.is_empty());
        let urgent = self.urgent.len().min(TAKEN_MESSAGES_MAX - reserved);
        let mut taken: Vec<_> = self.urgent.drain(..urgent).collect();
        let mut size_bytes = 0;
        while taken.len() < TAKEN_MESSAGES_MAX && size_bytes < TAKEN_SIZE_BYTES_MAX {
            let Some(next) = self.bulk.pop_front() else {
                break;
            };
            size_bytes += next.size_bytes();
            taken.push(next);
        }
        self.bulk_size_bytes -= size_bytes;
        taken
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::Bytes;
    use kontiki_raft::{AppendEntries, ElectionTurn, EntryKind, Heartbeat, LogId, LogIndex, Term};

    fn outgoing(body: MessageBody) -> Outgoing {
        Outgoing {
            group: GroupId(7),
            to: NodeId(2),
            message: Message {
                term: Term(1),
                body,
            },
        }
    }

    /// An append with one entry.
    pub(crate) fn append(size_bytes: usize) -> Outgoing {
        let entry = Entry {
            id: LogId::new(Term(1), LogIndex(1)),
            time_ns: 0,
            kind: EntryKind::Command(Bytes::from(vec![0; size_bytes])),
        };
        outgoing(MessageBody::AppendEntries(AppendEntries {
            prev: LogId::default(),
            entries: vec![entry],
            commit: LogIndex(0),
            sequence: 1,
        }))
    }

    pub(crate) fn heartbeat(round: u64) -> Outgoing {
        outgoing(MessageBody::Heartbeat(Heartbeat {
            commit: LogIndex(0),
            round,
            horizon: None,
            turn: ElectionTurn::Any,
        }))
    }

    fn queue(messages_max: usize, size_bytes_max: usize) -> Queue {
        Queue::new(QueueLimits {
            messages_max,
            size_bytes_max,
        })
    }

    fn take(queue: &Queue) -> Option<Vec<Outgoing>> {
        match queue.poll_take(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(taken) => Some(taken),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_lane_that_is_full_leaves_the_other_open() {
        let queue = queue(4, 10_000);
        assert!(queue.push(append(9_000)));
        assert!(!queue.push(append(2_000)), "too many bytes");
        assert!(queue.push(append(0)) && queue.push(append(0)) && queue.push(append(0)));
        assert!(!queue.push(append(0)), "too many messages");
        for round in 0..4 {
            assert!(queue.push(heartbeat(round)));
        }
        assert!(!queue.push(heartbeat(4)));
        assert_eq!(take(&queue).unwrap().len(), 8);
        assert!(take(&queue).is_none());
        assert!(queue.push(append(20_000)), "alone anything fits");
        assert_eq!(queue.clear(), 1);
        assert!(queue.push(append(9_000)));
    }

    #[test]
    fn heartbeats_overtake_entries_and_entries_do_not_starve() {
        let queue = queue(10_000, 1 << 30);
        for _ in 0..4 {
            queue.push(append(TAKEN_SIZE_BYTES_MAX));
        }
        queue.push(heartbeat(1));
        let first = take(&queue).unwrap();
        assert_eq!((first.len(), first[0].is_bulk()), (2, false));
        for round in 0..1_000 {
            queue.push(heartbeat(round));
        }
        let second = take(&queue).unwrap();
        assert_eq!(second.len(), TAKEN_MESSAGES_MAX);
        assert!(second.last().unwrap().is_bulk());
    }
}
