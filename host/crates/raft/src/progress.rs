//! How far replication to one peer has come (etcd's `Progress`).

use crate::Instant;
use crate::{LogId, LogIndex, NodeId, PeerState, ReadId, Standing};
use alloc::collections::VecDeque;
use core::time::Duration;

/// One peer as the leader sees it.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    /// Votes in the current set.
    pub(crate) in_current: bool,
    /// Votes in the set being left.
    pub(crate) in_old: bool,
    /// Is in the configuration; else it is catching up or leaving.
    pub(crate) member: bool,
    /// Left the configuration: it is told so, up to this index and not after this time.
    pub(crate) leaving: Option<(LogIndex, Instant)>,
    pub(crate) flow: Flow,
    /// Last entry known to be durable there.
    pub(crate) match_index: LogIndex,
    /// Next entry to send; above `match_index`.
    pub(crate) next_index: LogIndex,
    /// Appends under way, ascending by sequence.
    inflight: VecDeque<Sent>,
    inflight_size_bytes: usize,
    /// Sequence of the last append.
    sequence: u64,
    /// When the latest message it answered was *sent*: the lease counts from there (trap 11).
    pub(crate) acked_sent_at: Option<Instant>,
    /// Latest heartbeat round it answered.
    pub(crate) acked_round: u64,
    /// When its latest answer came.
    pub(crate) last_answer: Option<Instant>,
    /// When this record was made.
    pub(crate) since: Instant,
    pub(crate) read_only: bool,
    /// What it last said of itself as a leader to be.
    pub(crate) standing: Standing,
    /// Since when it could take over without a pause worth speaking of.
    pub(crate) fit_since: Option<Instant>,
    /// Highest commit index sent to it.
    pub(crate) commit_sent: LogIndex,
    /// Entries being read back from disk for it, and their first index.
    pub(crate) reading: Option<(ReadId, LogIndex)>,
    /// Where it stood when it began to catch up.
    pub(crate) catch_up_from: LogIndex,
}

/// State of replication, with what each state needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// One message at a time; the one that is out, and when it left.
    Probe { outstanding: Option<(u64, Instant)> },
    /// Streaming.
    Replicate,
    /// A snapshot has been offered.
    Snapshot { offered: LogId, at: Instant },
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    sequence: u64,
    size_bytes: usize,
    at: Instant,
}

impl Peer {
    pub(crate) fn new(node: NodeId, next_index: LogIndex, now: Instant) -> Self {
        Self {
            node,
            in_current: false,
            in_old: false,
            member: false,
            leaving: None,
            flow: Flow::Probe { outstanding: None },
            match_index: LogIndex(0),
            next_index,
            inflight: VecDeque::new(),
            inflight_size_bytes: 0,
            sequence: 0,
            acked_sent_at: None,
            acked_round: 0,
            last_answer: None,
            since: now,
            read_only: false,
            standing: Standing::default(),
            fit_since: None,
            commit_sent: LogIndex(0),
            reading: None,
            catch_up_from: LogIndex(0),
        }
    }

    /// Whether it votes in either set.
    pub(crate) fn is_voter(&self) -> bool {
        self.in_current || self.in_old
    }

    /// Whether entries are streamed to it and it holds everything up to `index`.
    pub(crate) fn is_streaming_from(&self, index: LogIndex) -> bool {
        self.flow == Flow::Replicate && self.match_index >= index
    }

    pub(crate) fn state(&self) -> PeerState {
        match self.flow {
            Flow::Probe { .. } => PeerState::Probe,
            Flow::Replicate => PeerState::Replicate,
            Flow::Snapshot { .. } => PeerState::Snapshot,
        }
    }

    pub(crate) fn inflight_messages(&self) -> usize {
        self.inflight.len()
    }

    pub(crate) fn inflight_size_bytes(&self) -> usize {
        self.inflight_size_bytes
    }

    /// Looks for the last matching entry anew, from `next` or what is known to match.
    pub(crate) fn probe_from(&mut self, next: LogIndex) {
        self.flow = Flow::Probe { outstanding: None };
        self.next_index = next.max(self.match_index.next());
        self.clear_inflight();
    }

    /// As [`Self::probe_from`] what is known to match, but not before a retry interval.
    pub(crate) fn probe_later(&mut self, now: Instant) {
        self.probe_from(self.match_index.next());
        self.flow = Flow::Probe {
            outstanding: Some((0, now)),
        };
    }

    pub(crate) fn await_snapshot(&mut self, offered: LogId, now: Instant) {
        self.flow = Flow::Snapshot { offered, at: now };
        self.clear_inflight();
        self.reading = None;
    }

    fn clear_inflight(&mut self) {
        self.inflight.clear();
        self.inflight_size_bytes = 0;
    }

    /// A heartbeat sent at `sent_at` was answered. If a probe sent more than `patience` before was
    /// not, it is taken for lost and may be repeated.
    pub(crate) fn resume_probe(&mut self, sent_at: Option<Instant>, patience: Duration) {
        if let (Flow::Probe { outstanding }, Some(sent_at)) = (&mut self.flow, sent_at) {
            outstanding.take_if(|(_, at)| sent_at >= at.plus(patience));
        }
    }

    /// Takes note of an append with entries up to `last`, and returns its sequence number.
    pub(crate) fn sent(&mut self, last: LogIndex, size_bytes: usize, now: Instant) -> u64 {
        self.sequence += 1;
        match &mut self.flow {
            Flow::Probe { outstanding } => *outstanding = Some((self.sequence, now)),
            Flow::Replicate => {
                self.inflight.push_back(Sent {
                    sequence: self.sequence,
                    size_bytes,
                    at: now,
                });
                self.inflight_size_bytes += size_bytes;
                self.next_index = self.next_index.max(last.next());
            }
            Flow::Snapshot { .. } => {}
        }
        self.sequence
    }

    /// Takes note that append `sequence` was answered, and says when it was sent, if it is still
    /// under way. Later answers stand for earlier messages: their entries lie before.
    pub(crate) fn answered(&mut self, sequence: u64) -> Option<Instant> {
        if let Flow::Probe { outstanding } = &mut self.flow {
            let (_, at) = outstanding.take_if(|(probe, _)| *probe == sequence)?;
            return Some(at);
        }
        let mut sent_at = None;
        while self
            .inflight
            .front()
            .is_some_and(|sent| sent.sequence <= sequence)
        {
            if let Some(sent) = self.inflight.pop_front() {
                self.inflight_size_bytes -= sent.size_bytes;
                sent_at = (sent.sequence == sequence).then_some(sent.at);
            }
        }
        sent_at
    }

    /// When the oldest append under way left.
    pub(crate) fn oldest_inflight(&self) -> Option<Instant> {
        self.inflight.front().map(|sent| sent.at)
    }

    /// Takes note that everything up to `index` is durable there and matches.
    pub(crate) fn matched(&mut self, index: LogIndex, log_start: LogIndex) {
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(self.match_index.next());
        match self.flow {
            Flow::Probe { .. } => {
                self.next_index = self.match_index.next();
                self.flow = Flow::Replicate;
            }
            Flow::Snapshot { .. } if self.match_index >= log_start => {
                self.probe_from(self.match_index.next());
            }
            Flow::Snapshot { .. } | Flow::Replicate => {}
        }
    }

    pub(crate) fn heard(&mut self, now: Instant, sent_at: Option<Instant>) {
        self.last_answer = Some(now);
        self.acked_sent_at = self.acked_sent_at.max(sent_at);
    }

    /// Whether it answered within the last `span`.
    pub(crate) fn answered_within(&self, span: Duration, now: Instant) -> bool {
        self.last_answer.is_some_and(|at| now < at.plus(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicating() -> Peer {
        let mut peer = Peer::new(NodeId(2), LogIndex(5), Instant(0));
        peer.sent(LogIndex(4), 0, Instant(0));
        peer.answered(1);
        peer.matched(LogIndex(4), LogIndex(0));
        peer
    }

    #[test]
    fn a_later_answer_frees_the_window_of_earlier_messages() {
        let mut peer = replicating();
        peer.sent(LogIndex(5), 10, Instant(1));
        peer.sent(LogIndex(6), 20, Instant(2));
        assert_eq!(
            (peer.inflight_messages(), peer.inflight_size_bytes()),
            (2, 30)
        );
        assert_eq!(peer.answered(3), Some(Instant(2)));
        assert_eq!(
            (peer.inflight_messages(), peer.inflight_size_bytes()),
            (0, 0)
        );
        assert_eq!(peer.answered(3), None);
    }

    #[test]
    fn probing_never_goes_below_what_matches() {
        let mut peer = replicating();
        peer.probe_from(LogIndex(2));
        assert_eq!(peer.next_index, LogIndex(5));
    }

    #[test]
    fn an_append_ack_ends_the_snapshot_state() {
        let mut peer = replicating();
        peer.await_snapshot(LogId::default(), Instant(0));
        peer.matched(LogIndex(7), LogIndex(9));
        assert_eq!(peer.state(), PeerState::Snapshot);
        peer.matched(LogIndex(9), LogIndex(9));
        assert_eq!(peer.state(), PeerState::Probe);
        assert_eq!(peer.next_index, LogIndex(10));
    }
}
