//! What waits for a peer, bounded in number and in bytes, in two lanes.
//!
//! Log entries go in the bulk lane, in order, together with all that belongs to their stream: an
//! append without entries and the offer of a snapshot. Everything else is small and urgent: votes,
//! heartbeats, answers, orders to campaign, questions about reads. Each lane has a connection of its
//! own, so that a peer behind a slow link still hears in time that its leader lives: what waits in
//! buffers on the way, a large entry above all, is waited for by nothing else, and a stream that
//! fills its queue does not cost leaderships.
//!
//! The core allows for any order, and the simulator gives it every order. What overtakes a stream
//! in practice is harmless for these reasons: a heartbeat commits only what its receiver is known to
//! hold; an order to campaign is sent to a target that holds everything, and to another only by a
//! leader that goes away, whose voters judge the target's log themselves; a vote of a later term
//! makes the stream of the earlier one void, which its receiver refuses; a read index is waited for
//! until it is applied. Answers keep their order among each other, and so do appends.

use crate::node::epoch::EpochId;
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

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Small, and of use only if they arrive soon.
    Urgent,
    /// Log entries and what keeps its place among them.
    Bulk,
}

/// A message on its way to a peer.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) group: GroupId,
    pub(crate) to: NodeId,
    /// The sender's, when it was sent.
    pub(crate) epoch: EpochId,
    pub(crate) message: Message,
}

impl Outgoing {
    fn lane(&self) -> Lane {
        match &self.message.body {
            MessageBody::AppendEntries(_) | MessageBody::InstallSnapshot(_) => Lane::Bulk,
            _ => Lane::Urgent,
        }
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
    urgent: Waiting,
    bulk: Waiting,
}

#[derive(Debug, Default)]
struct Waiting {
    messages: VecDeque<Outgoing>,
    size_bytes: usize,
    /// Of whoever sends them.
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
        let lane = outgoing.lane();
        let mut lanes = self.lanes();
        let waiting = lanes.of(lane);
        let size_bytes = waiting.size_bytes + outgoing.size_bytes();
        // Alone, any message fits: else a large one would never be sent.
        let full = lane == Lane::Bulk
            && size_bytes > self.limits.size_bytes_max
            && !waiting.messages.is_empty();
        if full || waiting.messages.len() >= self.limits.messages_max {
            return false;
        }
        waiting.size_bytes = size_bytes;
        waiting.messages.push_back(outgoing);
        let waker = waiting.waker.take();
        drop(lanes);
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Takes as much of a lane as one frame holds, at least one message.
    pub(crate) fn poll_take(&self, lane: Lane, cx: &mut Context<'_>) -> Poll<Vec<Outgoing>> {
        let mut lanes = self.lanes();
        let waiting = lanes.of(lane);
        if waiting.messages.is_empty() {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(waiting.take())
    }

    /// Drops everything, and says how many messages that was.
    pub(crate) fn clear(&self) -> usize {
        let mut lanes = self.lanes();
        let Lanes { urgent, bulk } = &mut *lanes;
        urgent.clear() + bulk.clear()
    }

    /// Bytes that wait in the bulk lane.
    #[cfg(test)]
    pub(super) fn bulk_size_bytes(&self) -> usize {
        self.lanes().bulk.size_bytes
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lanes {
    fn of(&mut self, lane: Lane) -> &mut Waiting {
        match lane {
            Lane::Urgent => &mut self.urgent,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<Outgoing> {
        let (mut taken, mut size_bytes) = (Vec::new(), 0);
        while taken.len() < TAKEN_MESSAGES_MAX && size_bytes < TAKEN_SIZE_BYTES_MAX {
            let Some(next) = self.messages.pop_front() else {
                break;
            };
            size_bytes += next.size_bytes();
            taken.push(next);
        }
        self.size_bytes -= size_bytes;
        taken
    }

    fn clear(&mut self) -> usize {
        let count = self.messages.len();
        self.messages.clear();
        self.size_bytes = 0;
        count
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::Bytes;
    use kontiki_raft::{AppendEntries, ElectionTurn, EntryKind, Heartbeat, LogId, LogIndex, Term};

    fn outgoing(body: MessageBody) -> Outgoing {
        Outgoing {
            epoch: EpochId::default(),
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

    fn take(queue: &Queue, lane: Lane) -> Option<Vec<Outgoing>> {
        match queue.poll_take(lane, &mut Context::from_waker(Waker::noop())) {
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
        assert_eq!(take(&queue, Lane::Bulk).unwrap().len(), 4);
        assert_eq!(take(&queue, Lane::Urgent).unwrap().len(), 4);
        assert!(take(&queue, Lane::Bulk).is_none() && take(&queue, Lane::Urgent).is_none());
        assert!(queue.push(append(20_000)), "alone anything fits");
        assert_eq!(queue.clear(), 1);
        assert!(queue.push(append(9_000)));
    }

    #[test]
    fn a_frame_is_bounded_in_number_and_bytes() {
        let queue = queue(10_000, 1 << 30);
        for round in 0..1_000 {
            queue.push(heartbeat(round));
            queue.push(append(TAKEN_SIZE_BYTES_MAX / 2));
        }
        assert_eq!(
            take(&queue, Lane::Urgent).unwrap().len(),
            TAKEN_MESSAGES_MAX
        );
        assert_eq!(take(&queue, Lane::Bulk).unwrap().len(), 2);
    }
}
