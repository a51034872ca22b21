//! Linearizable reads (thesis §6.4).
//!
//! A read index is the commit index at the time of the question, confirmed by a heartbeat round
//! that *began* after it. Rounds are numbered by the leader, so an answer to an older round can
//! never confirm a newer question (trap 9). Many questions share one round.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{
    Effect, Effects, Instant, LeaseStatus, LogIndex, MessageBody, NodeId, ReadIndexReply,
    ReadIndexRequest, ReadMode, RejectReason, StopReason, Term, Token,
};
use alloc::collections::VecDeque;

/// Reads waiting for confirmation before new ones are refused as busy.
const READS_MAX: usize = 16_384;

/// Who asked.
#[derive(Clone, Copy, Debug)]
enum Asker {
    Host(Token),
    Follower(NodeId, Token),
}

/// Reads a leader has not confirmed yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reads {
    /// Asked before the first entry of the term was committed.
    unready: VecDeque<Asker>,
    /// Read index, the round that confirms it (or a later one), and who asked. Rounds ascend.
    unconfirmed: VecDeque<(LogIndex, u64, Asker)>,
}

impl Reads {
    pub(crate) fn len(&self) -> usize {
        self.unready.len() + self.unconfirmed.len()
    }
}

/// Reads a follower has asked its leader about.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarded {
    /// The number under which it was asked, the host's token, and when to give up; ascending.
    queue: VecDeque<(Token, Token, Instant)>,
}

impl Forwarded {
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.queue.front().map(|&(_, _, due)| due)
    }
}

impl Core {
    pub(crate) fn on_read_index(&mut self, token: Token, mode: ReadMode, out: &mut Effects) {
        if self.leading.is_some() {
            self.ask_as_leader(Asker::Host(token), mode, out);
        } else {
            self.ask_leader(token, mode, out);
        }
    }

    fn ask_as_leader(&mut self, asker: Asker, mode: ReadMode, out: &mut Effects) {
        let early = self.bug(PlantedBug::ReadBeforeOwnCommit);
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if leading.reads.len() >= READS_MAX {
            return self.refuse_read(asker, RejectReason::Busy, out);
        }
        if !leading.ready && !early {
            // What the leader has committed so far may be less than what its predecessor
            // acknowledged (trap 8).
            return leading.reads.unready.push_back(asker);
        }
        if mode == ReadMode::Lease && self.lease_status(self.now) == LeaseStatus::Valid {
            return self.grant_read(asker, self.commit, out);
        }
        self.confirm_by_round(asker, out);
    }

    /// Waits for a round that begins now, or, if one for reads is under way, for the next.
    fn confirm_by_round(&mut self, asker: Asker, out: &mut Effects) {
        let reused = self.bug(PlantedBug::ReadRoundReused);
        let commit = self.commit;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let under_way = !leading.reads.unconfirmed.is_empty();
        let round = if reused {
            leading.round
        } else {
            leading.round + 1
        };
        leading.reads.unconfirmed.push_back((commit, round, asker));
        if !under_way {
            self.begin_heartbeat_round(out);
        }
    }

    /// The first entry of the term is committed: reads that waited for it may go on.
    pub(crate) fn start_waiting_reads(&mut self, out: &mut Effects) {
        let commit = self.commit;
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        let askers = core::mem::take(&mut leading.reads.unready);
        if askers.is_empty() {
            return;
        }
        // One round serves them all: every question is older than it.
        let round = leading.round + 1;
        let reads = askers.into_iter().map(|asker| (commit, round, asker));
        leading.reads.unconfirmed.extend(reads);
        self.begin_heartbeat_round(out);
    }

    /// Answers the reads whose round a quorum has confirmed, and begins a round for the rest.
    pub(crate) fn confirm_reads(&mut self, out: &mut Effects) {
        let Some(leading) = self.leading.as_deref_mut() else {
            return;
        };
        if leading.reads.unconfirmed.is_empty() {
            return;
        }
        let Some(confirmed) = leading.agreed(leading.round, |peer| peer.acked_round) else {
            return;
        };
        let due = |read: &mut (LogIndex, u64, Asker)| read.1 <= confirmed;
        let mut answered = false;
        while let Some((index, _, asker)) = self
            .leading
            .as_deref_mut()
            .and_then(|l| l.reads.unconfirmed.pop_front_if(due))
        {
            answered = true;
            self.grant_read(asker, index, out);
        }
        let waits = |l: &crate::leading::Leading| {
            let next = l.reads.unconfirmed.front();
            next.is_some_and(|&(_, round, _)| round > l.round)
        };
        if answered && self.leading.as_deref().is_some_and(waits) {
            self.begin_heartbeat_round(out);
        }
    }

    fn grant_read(&mut self, asker: Asker, index: LogIndex, out: &mut Effects) {
        match asker {
            Asker::Host(token) => out.push(Effect::ReadReady { token, index }),
            Asker::Follower(node, token) => self.answer_read(node, token, Some(index), out),
        }
    }

    fn refuse_read(&mut self, asker: Asker, reason: RejectReason, out: &mut Effects) {
        match asker {
            Asker::Host(token) => Self::reject(token, reason, out),
            Asker::Follower(node, token) => self.answer_read(node, token, None, out),
        }
    }

    fn answer_read(
        &mut self,
        to: NodeId,
        token: Token,
        index: Option<LogIndex>,
        out: &mut Effects,
    ) {
        let body = MessageBody::ReadIndexReply(ReadIndexReply { token, index });
        self.send(to, body, out);
    }

    /// The leadership is over: whoever waits may ask the next leader.
    pub(crate) fn lose_reads(&mut self, reads: Reads, out: &mut Effects) {
        let unconfirmed = reads.unconfirmed.into_iter().map(|(_, _, asker)| asker);
        for asker in reads.unready.into_iter().chain(unconfirmed) {
            self.refuse_read(asker, RejectReason::NotLeader { leader: None }, out);
        }
    }

    /// A follower asks its leader.
    fn ask_leader(&mut self, token: Token, mode: ReadMode, out: &mut Effects) {
        let Some(leader) = self.known_leader else {
            return Self::reject(token, self.not_leader(), out);
        };
        if self.forwarded.len() >= READS_MAX {
            return Self::reject(token, RejectReason::Busy, out);
        }
        let number = Token(self.next_number());
        let due = self.now.plus(self.settings.election_timeout);
        self.forwarded.queue.push_back((number, token, due));
        let body = MessageBody::ReadIndexRequest(ReadIndexRequest {
            token: number,
            mode,
        });
        self.send(leader, body, out);
    }

    pub(crate) fn on_read_index_request(
        &mut self,
        from: NodeId,
        term: Term,
        request: &ReadIndexRequest,
        out: &mut Effects,
    ) {
        let token = request.token;
        if term > self.hard.term && self.has_business_with(from) {
            self.adopt_term(term, StopReason::HigherTerm, out);
        }
        if self.leading.is_some() {
            self.ask_as_leader(Asker::Follower(from, token), request.mode, out);
        } else {
            self.answer_read(from, token, None, out);
        }
    }

    pub(crate) fn on_read_index_reply(
        &mut self,
        from: NodeId,
        reply: &ReadIndexReply,
        out: &mut Effects,
    ) {
        if self.known_leader != Some(from) {
            return;
        }
        let queue = &mut self.forwarded.queue;
        let Ok(at) = queue.binary_search_by_key(&reply.token, |&(number, _, _)| number) else {
            return;
        };
        let Some((_, token, _)) = queue.remove(at) else {
            return;
        };
        match reply.index {
            Some(index) => out.push(Effect::ReadReady { token, index }),
            None => Self::reject(token, self.not_leader(), out),
        }
    }

    /// The leader that was asked is not followed any more.
    pub(crate) fn lose_forwarded_reads(&mut self, out: &mut Effects) {
        for (_, token, _) in core::mem::take(&mut self.forwarded.queue) {
            Self::reject(token, RejectReason::NotLeader { leader: None }, out);
        }
    }

    /// Gives up reads whose question or answer was lost.
    pub(crate) fn expire_forwarded_reads(&mut self, out: &mut Effects) {
        let now = self.now;
        let due = |read: &mut (Token, Token, Instant)| now >= read.2;
        while let Some((_, token, _)) = self.forwarded.queue.pop_front_if(due) {
            Self::reject(token, self.not_leader(), out);
        }
    }
}
