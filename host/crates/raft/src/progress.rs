//! How far replication to one peer has come (etcd's `Progress`).

use crate::{
    Echo, Instant, LeasePromise, LogId, LogIndex, NodeId, PeerPart, PeerState, ReadId, Standing,
    Traffic,
};
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
    /// Answers up to this sequence were meant for an earlier record of the same node.
    sequence_before: u64,
    /// When an append was last answered with success.
    progressed_at: Option<Instant>,
    /// Last index of a stream that was given up without a refusal: what it has above what matches
    /// may still be on its way. Zero otherwise.
    streamed_upto: LogIndex,
    /// A probe was sent and not answered: the next one repeats it.
    probed: bool,
    /// When the latest message it answered was *sent*.
    pub(crate) acked_sent_at: Option<Instant>,
    /// What it promised with the answer to the latest message, and when that was *sent*: the lease
    /// counts from there (trap 11).
    promise: Option<(Instant, Option<LeasePromise>)>,
    /// Latest heartbeat round it answered.
    pub(crate) acked_round: u64,
    /// Its own note in that answer.
    pub(crate) echo: Option<Echo>,
    /// When its latest answer came.
    pub(crate) last_answer: Option<Instant>,
    /// When this record was made.
    pub(crate) since: Instant,
    pub(crate) read_only: bool,
    /// Counted for people; decides nothing.
    pub(crate) traffic: Traffic,
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
            sequence_before: 0,
            progressed_at: None,
            streamed_upto: LogIndex(0),
            probed: false,
            acked_sent_at: None,
            promise: None,
            acked_round: 0,
            echo: None,
            last_answer: None,
            since: now,
            read_only: false,
            traffic: Traffic::default(),
            standing: Standing::default(),
            fit_since: None,
            commit_sent: LogIndex(0),
            reading: None,
            catch_up_from: LogIndex(0),
        }
    }

    /// The same, for a node that may have had a record before, with sequences up to `sequence`.
    pub(crate) fn after(self, sequence: u64) -> Self {
        Self {
            sequence_before: sequence,
            ..self
        }
    }

    /// Sequence of the last append; zero if there was none.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether an answer with this sequence is for an append of this record.
    pub(crate) fn is_addressed(&self, sequence: u64) -> bool {
        self.sequence_before == 0 || sequence > self.sequence_before
    }

    /// Whether it votes in either set.
    pub(crate) fn is_voter(&self) -> bool {
        self.in_current || self.in_old
    }

    pub(crate) fn part(&self) -> PeerPart {
        match (self.is_voter(), self.member, self.leaving) {
            (true, ..) => PeerPart::Voter,
            (false, true, _) => PeerPart::Learner,
            (false, false, None) => PeerPart::CatchingUp,
            (false, false, Some(_)) => PeerPart::Leaving,
        }
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
        self.streamed_upto = LogIndex(0);
        self.probed = false;
        self.clear_inflight();
    }

    /// Gives up a stream of which nothing was heard for too long. It may be lost, or its messages
    /// may wait in a queue somewhere, and then they must not be queued there once more.
    pub(crate) fn doubt_stream(&mut self) {
        let upto = self.next_index.prev();
        self.probe_from(self.match_index.next());
        self.streamed_upto = upto;
    }

    /// Whether entries sent before may still arrive: those of a stream given up, or of a probe that
    /// is taken for lost. A probe sent now must not carry them again, or a queue that is slow
    /// would be filled with repeats.
    pub(crate) fn awaits_entries(&self) -> bool {
        self.streamed_upto > self.match_index || self.probed
    }

    /// Whether a message under way must be taken for lost: the oldest is older than `retry`, and
    /// none was answered since. A peer that is merely slow goes on answering.
    pub(crate) fn is_overdue(&self, retry: Duration, now: Instant) -> bool {
        let oldest = self.inflight.front().map(|sent| sent.at);
        oldest.is_some_and(|at| now >= at.max(self.progressed_at.unwrap_or(at)).plus(retry))
    }

    /// Probes what is known to match, but not before a retry interval.
    pub(crate) fn probe_later(&mut self, now: Instant) {
        match self.flow {
            Flow::Replicate => self.doubt_stream(),
            Flow::Probe { .. } | Flow::Snapshot { .. } => self.probe_from(self.match_index.next()),
        }
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

    /// Takes note of append `sequence` with entries up to `last`. Sequences rise, and none is used
    /// twice in a leadership: the peer may have been removed and added again meanwhile.
    pub(crate) fn sent(&mut self, sequence: u64, last: LogIndex, size_bytes: usize, now: Instant) {
        self.sequence = sequence;
        match &mut self.flow {
            Flow::Probe { outstanding } => {
                *outstanding = Some((sequence, now));
                self.probed = true;
            }
            Flow::Replicate => {
                self.inflight.push_back(Sent {
                    sequence,
                    size_bytes,
                    at: now,
                });
                self.inflight_size_bytes += size_bytes;
                self.next_index = self.next_index.max(last.next());
            }
            Flow::Snapshot { .. } => {}
        }
    }

    /// Takes note that append `sequence` was answered, and says when it was sent, if it is still
    /// under way. Later answers stand for earlier messages: their entries lie before.
    pub(crate) fn answered(&mut self, sequence: u64) -> Option<Instant> {
        if let Flow::Probe { outstanding } = &mut self.flow {
            let (_, at) = outstanding.take_if(|(probe, _)| *probe == sequence)?;
            self.probed = false;
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

    /// An append was answered with success: everything up to `index` is durable there and
    /// matches. `under_way` says whether the append was still counted on.
    pub(crate) fn accepted(
        &mut self,
        index: LogIndex,
        log_start: LogIndex,
        under_way: bool,
        now: Instant,
    ) {
        let progress = index > self.match_index;
        if under_way || progress {
            self.progressed_at = Some(now);
        }
        let late = !under_way && self.streamed_upto > index.max(self.match_index);
        match &mut self.flow {
            Flow::Probe { outstanding } if late => {
                // The stream given up is alive after all, and more of it is on its way: neither
                // is that to be sent again, nor is the probe behind it overdue.
                self.match_index = self.match_index.max(index);
                self.next_index = self.match_index.next();
                if let Some((_, at)) = outstanding.as_mut().filter(|_| progress) {
                    *at = now;
                }
            }
            _ => self.matched(index, log_start),
        }
    }

    /// Takes note that everything up to `index` is durable there and matches.
    pub(crate) fn matched(&mut self, index: LogIndex, log_start: LogIndex) {
        self.match_index = self.match_index.max(index);
        self.next_index = self.next_index.max(self.match_index.next());
        match self.flow {
            Flow::Probe { .. } => {
                self.next_index = self.match_index.next();
                self.streamed_upto = LogIndex(0);
                self.probed = false;
                self.flow = Flow::Replicate;
            }
            Flow::Snapshot { .. } if self.match_index >= log_start => {
                self.probe_from(self.match_index.next());
            }
            Flow::Snapshot { .. } | Flow::Replicate => {}
        }
    }

    /// Takes note that its state machine holds everything up to `index`, by a snapshot.
    pub(crate) fn loaded(&mut self, index: LogIndex) {
        if let Some(applied) = &mut self.standing.applied {
            *applied = index.max(*applied);
        }
    }

    /// Takes note that something sent to it was lost.
    pub(crate) fn failed(&mut self) {
        self.traffic.consecutive_errors += 1;
    }

    pub(crate) fn heard(&mut self, now: Instant, sent_at: Option<Instant>) {
        self.last_answer = Some(now);
        self.traffic.heartbeats_unanswered = 0;
        self.traffic.consecutive_errors = 0;
        self.acked_sent_at = self.acked_sent_at.max(sent_at);
    }

    /// Takes note of what it promised with the answer to a message sent at `sent_at`. The word on
    /// the latest message counts, also if it is less than was promised before: less is always safe.
    pub(crate) fn promised(&mut self, sent_at: Option<Instant>, promise: Option<LeasePromise>) {
        let Some(sent_at) = sent_at else {
            return;
        };
        if self.promise.is_none_or(|(latest, _)| sent_at >= latest) {
            self.promise = Some((sent_at, promise));
        }
    }

    /// What it promised last, and when the message it answered was sent.
    pub(crate) fn promise(&self) -> Option<(Instant, LeasePromise)> {
        let (sent_at, promise) = self.promise?;
        Some((sent_at, promise?))
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
        peer.sent(1, LogIndex(4), 0, Instant(0));
        peer.answered(1);
        peer.matched(LogIndex(4), LogIndex(0));
        peer
    }

    #[test]
    fn a_later_answer_frees_the_window_of_earlier_messages() {
        let mut peer = replicating();
        peer.sent(2, LogIndex(5), 10, Instant(1));
        peer.sent(3, LogIndex(6), 20, Instant(2));
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

    const RETRY: Duration = Duration::from_secs(1);

    fn at_ms(ms: u64) -> Instant {
        Instant(ms * 1_000)
    }

    #[test]
    fn a_peer_that_goes_on_answering_is_not_taken_for_lost() {
        let mut peer = replicating();
        for sequence in 2..=9 {
            peer.sent(sequence, LogIndex(sequence + 3), 1, at_ms(0));
        }
        for sequence in 2..=5 {
            let now = at_ms(800 * (sequence - 1));
            assert!(!peer.is_overdue(RETRY, now));
            let under_way = peer.answered(sequence).is_some();
            peer.accepted(LogIndex(sequence + 3), LogIndex(0), under_way, now);
        }
        assert!(!peer.is_overdue(RETRY, at_ms(4_199)));
        assert!(peer.is_overdue(RETRY, at_ms(4_200)));
    }

    #[test]
    fn what_a_doubted_stream_has_under_way_is_not_sent_again() {
        let mut peer = replicating();
        for sequence in 2..=9 {
            peer.sent(sequence, LogIndex(sequence + 3), 1, at_ms(0));
        }
        peer.doubt_stream();
        peer.sent(10, LogIndex(4), 0, at_ms(1_000));
        let late = |peer: &mut Peer, sequence| {
            let under_way = peer.answered(sequence).is_some();
            peer.accepted(LogIndex(sequence + 3), LogIndex(0), under_way, at_ms(1_500));
        };
        late(&mut peer, 2);
        let outstanding = Some((10, at_ms(1_500)));
        assert_eq!(peer.flow, Flow::Probe { outstanding });
        assert_eq!(peer.match_index, LogIndex(5));
        late(&mut peer, 9);
        assert_eq!(peer.flow, Flow::Replicate);
        assert_eq!(peer.next_index, LogIndex(13));
    }

    #[test]
    fn the_answer_to_a_probe_ends_all_doubt() {
        let mut peer = replicating();
        peer.sent(2, LogIndex(9), 1, at_ms(0));
        peer.doubt_stream();
        peer.sent(3, LogIndex(4), 0, at_ms(1_000));
        let under_way = peer.answered(3).is_some();
        peer.accepted(LogIndex(4), LogIndex(0), under_way, at_ms(1_001));
        assert_eq!((peer.flow, peer.next_index), (Flow::Replicate, LogIndex(5)));
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

    #[test]
    fn an_answer_to_an_earlier_record_is_not_for_this_one() {
        let peer = Peer::new(NodeId(2), LogIndex(5), Instant(0)).after(7);
        assert!(!peer.is_addressed(7));
        assert!(peer.is_addressed(8));
        assert_eq!(replicating().sequence(), 1);
    }

    #[test]
    fn a_stream_begins_with_replication_and_reaches_what_matches() {
        let mut peer = replicating();
        assert!(peer.is_streaming_from(LogIndex(4)));
        assert!(!peer.is_streaming_from(LogIndex(5)));
        peer.probe_from(LogIndex(5));
        assert!(!peer.is_streaming_from(LogIndex(4)));
    }

    #[test]
    fn a_doubted_stream_of_which_everything_arrived_holds_nothing_up() {
        let mut peer = replicating();
        peer.doubt_stream();
        assert!(!peer.awaits_entries());
        peer.sent(2, LogIndex(4), 0, at_ms(0));
        assert!(peer.awaits_entries(), "the probe itself");
    }

    #[test]
    fn the_last_answer_of_a_doubted_stream_ends_the_doubt() {
        let mut peer = replicating();
        peer.sent(2, LogIndex(5), 1, at_ms(0));
        peer.doubt_stream();
        peer.accepted(LogIndex(5), LogIndex(0), false, at_ms(10));
        assert_eq!((peer.flow, peer.next_index), (Flow::Replicate, LogIndex(6)));
    }

    #[test]
    fn an_answer_that_brings_nothing_new_still_shows_that_the_peer_is_there() {
        let mut peer = replicating();
        peer.sent(2, LogIndex(4), 0, at_ms(0));
        peer.sent(3, LogIndex(4), 0, at_ms(0));
        peer.answered(2);
        peer.accepted(LogIndex(4), LogIndex(0), true, at_ms(900));
        assert!(!peer.is_overdue(RETRY, at_ms(1_899)));
        assert!(peer.is_overdue(RETRY, at_ms(1_900)));
    }

    #[test]
    fn an_answer_counts_for_exactly_the_span() {
        let mut peer = replicating();
        assert!(!peer.answered_within(RETRY, at_ms(0)));
        peer.heard(at_ms(5), None);
        assert!(peer.answered_within(RETRY, at_ms(1_004)));
        assert!(!peer.answered_within(RETRY, at_ms(1_005)));
    }

    #[test]
    fn a_repeated_answer_is_no_sign_that_what_is_under_way_arrives() {
        let mut peer = replicating();
        peer.sent(2, LogIndex(5), 1, at_ms(0));
        let under_way = peer.answered(1).is_some();
        peer.accepted(LogIndex(4), LogIndex(0), under_way, at_ms(900));
        assert!(peer.is_overdue(RETRY, at_ms(1_000)));
    }
}
