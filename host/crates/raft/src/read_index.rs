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

/// A read that a follower has to ask its leader about.
#[derive(Clone, Copy, Debug)]
struct Question {
    /// The host's.
    token: Token,
    mode: ReadMode,
    /// When to give up.
    due: Instant,
    /// It was asked before, of a node that leads no more.
    again: bool,
}

/// Reads of a follower that are not confirmed yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Forwarded {
    /// The number under which it was asked, and the question; both in ascending order.
    queue: VecDeque<(Token, Question)>,
    /// Those to be asked again, of the next leader, ascending by when to give up.
    homeless: VecDeque<Question>,
}

impl Forwarded {
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.homeless.len()
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        let asked = self.queue.front().map(|(_, question)| question.due);
        let homeless = self.homeless.front().map(|question| question.due);
        asked.into_iter().chain(homeless).min()
    }

    fn keep(&mut self, question: Question) {
        let at = self.homeless.partition_point(|q| q.due <= question.due);
        self.homeless.insert(at, question);
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
            Asker::Follower(node, token) => {
                let reply = ReadIndexReply {
                    token,
                    index: Some(index),
                    busy: false,
                };
                self.send(node, MessageBody::ReadIndexReply(reply), out);
            }
        }
    }

    fn refuse_read(&mut self, asker: Asker, reason: RejectReason, out: &mut Effects) {
        match asker {
            Asker::Host(token) => Self::reject(token, reason, out),
            Asker::Follower(node, token) => {
                let reply = ReadIndexReply {
                    token,
                    index: None,
                    busy: reason == RejectReason::Busy,
                };
                self.send(node, MessageBody::ReadIndexReply(reply), out);
            }
        }
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
        let question = Question {
            token,
            mode,
            due: self.now.plus(self.settings.election_timeout),
            again: false,
        };
        self.forward(leader, question, out);
    }

    fn forward(&mut self, leader: NodeId, question: Question, out: &mut Effects) {
        let number = Token(self.next_number());
        self.forwarded.queue.push_back((number, question));
        let body = MessageBody::ReadIndexRequest(ReadIndexRequest {
            token: number,
            mode: question.mode,
        });
        self.send(leader, body, out);
    }

    /// There is a leader again, perhaps this node: reads that lost theirs are asked once more.
    pub(crate) fn ask_next_leader(&mut self, out: &mut Effects) {
        let homeless = core::mem::take(&mut self.forwarded.homeless);
        for question in homeless {
            match self.known_leader {
                Some(leader) if leader != self.node => self.forward(leader, question, out),
                Some(_) => self.ask_as_leader(Asker::Host(question.token), question.mode, out),
                None => self.forwarded.homeless.push_back(question),
            }
        }
    }

    /// Whoever was asked does not lead. The next leader is asked, but only once: whoever waits
    /// would rather hear of it than wait for ever.
    fn lost_leader(&mut self, question: Question, out: &mut Effects) {
        if question.again {
            let reason = RejectReason::NotLeader { leader: None };
            return Self::reject(question.token, reason, out);
        }
        self.forwarded.keep(Question {
            again: true,
            ..question
        });
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
            let reason = RejectReason::NotLeader { leader: None };
            self.refuse_read(Asker::Follower(from, token), reason, out);
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
        let Ok(at) = queue.binary_search_by_key(&reply.token, |&(number, _)| number) else {
            return;
        };
        let Some((_, question)) = queue.remove(at) else {
            return;
        };
        let token = question.token;
        match reply.index {
            Some(index) => out.push(Effect::ReadReady { token, index }),
            None if reply.busy => Self::reject(token, RejectReason::Busy, out),
            None => self.lost_leader(question, out),
        }
    }

    /// The leader that was asked is not followed any more.
    pub(crate) fn lose_forwarded_reads(&mut self, out: &mut Effects) {
        for (_, question) in core::mem::take(&mut self.forwarded.queue) {
            self.lost_leader(question, out);
        }
    }

    /// The replica stops: nobody will be asked again.
    pub(crate) fn give_up_forwarded_reads(&mut self, out: &mut Effects) {
        for question in core::mem::take(&mut self.forwarded.homeless) {
            let reason = RejectReason::NotLeader { leader: None };
            Self::reject(question.token, reason, out);
        }
    }

    /// Gives up reads whose question or answer was lost, and those that found no leader in time.
    pub(crate) fn expire_forwarded_reads(&mut self, out: &mut Effects) {
        let now = self.now;
        let due = |read: &mut (Token, Question)| now >= read.1.due;
        while let Some((_, question)) = self.forwarded.queue.pop_front_if(due) {
            let silent = self.known_leader.filter(|&leader| leader != self.node);
            let reason = silent.map_or(self.not_leader(), |leader| RejectReason::LeaderSilent {
                leader,
            });
            Self::reject(question.token, reason, out);
        }
        let due = |question: &mut Question| now >= question.due;
        while let Some(question) = self.forwarded.homeless.pop_front_if(due) {
            Self::reject(question.token, self.not_leader(), out);
        }
    }
}
