//! Requests of clients and operators, and their answers.
//!
//! Every completed request has a log index: a write its own, a read the one it was served at. In
//! that order (writes before the reads that saw them) the history is sequential by construction, so
//! it is linearizable if the order also agrees with real time, which is checked as it happens.

use super::{Check, Oracle};
use crate::require;
use kontiki_raft::LogIndex;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A client's write of its token to a register.
    Write {
        /// Register.
        key: u8,
    },
    /// A client's linearizable read of a register.
    Read {
        /// Register.
        key: u8,
        /// It must be confirmed by a quorum, not by a lease.
        by_quorum: bool,
    },
    /// Anything an operator asks for.
    Order,
}

/// How it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The write was applied here.
    Applied(LogIndex),
    /// The read was served at this index with this value.
    Served(LogIndex, u64),
    /// The order was carried out.
    Done,
    /// Refused: it never takes effect.
    Refused,
    /// Nobody knows.
    Unknown,
}

/// A request and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What was asked for.
    pub ask: Ask,
    /// Whom: the node's number, and which opening of it.
    pub node: usize,
    incarnation: u32,
    /// When, in simulated time.
    pub asked_us: u64,
    /// When it was answered.
    pub answered_us: u64,
    /// Everything completed when it was asked had at most this index.
    floor: LogIndex,
    /// The core's answer.
    pub answer: Option<Answer>,
    /// Read index, once confirmed.
    confirmed: Option<LogIndex>,
    /// Index at which its entry was committed, zero if it was not (yet).
    committed: LogIndex,
}

impl Request {
    /// Whether it is a read whose index the core has confirmed.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.is_some()
    }
}

impl Oracle {
    /// Somebody asks a replica for something; returns the token.
    pub fn ask(&mut self, n: usize, ask: Ask, now_us: u64) -> u64 {
        self.requests.push(Request {
            ask,
            node: n,
            incarnation: self.replicas[n].incarnation,
            asked_us: now_us,
            answered_us: u64::MAX,
            floor: self.completed,
            answer: None,
            confirmed: None,
            committed: LogIndex(0),
        });
        self.requests.len() as u64
    }

    /// Everything asked so far, by token minus one.
    #[must_use]
    pub fn requests(&self) -> &[Request] {
        &self.requests
    }

    /// The request of this token.
    #[must_use]
    pub fn request(&self, token: u64) -> Option<&Request> {
        self.requests.get((token as usize).wrapping_sub(1))
    }

    /// Whether the replica it was asked of is still the same and has not answered.
    #[must_use]
    pub fn is_pending(&self, token: u64) -> bool {
        self.request(token).is_some_and(|request| {
            request.answer.is_none()
                && request.incarnation == self.replicas[request.node].incarnation
        })
    }

    /// The core confirms a read index; the read is served later.
    ///
    /// # Errors
    /// It was confirmed before, or the index is too low.
    pub fn read_ready(&mut self, n: usize, token: u64, index: LogIndex) -> Check {
        self.checks.reads += 1;
        self.check_whose(n, token)?;
        self.check_may_serve_reads(n)?;
        let request = &mut self.requests[token as usize - 1];
        require!(
            matches!(request.ask, Ask::Read { .. }) && request.confirmed.is_none(),
            AnsweredOnce,
            "request {token} got a read index twice, or is no read: {request:?}"
        );
        request.confirmed = Some(index);
        let request = *request;
        require!(
            index >= request.floor,
            ReadIndex,
            "read {token} may be served at {index}, but {} was completed before it began",
            request.floor
        );
        self.check_confirmed(n, token, request)
    }

    /// A leader that confirms a read by quorum has heard from one since it was asked.
    fn check_confirmed(&self, n: usize, token: u64, request: Request) -> Check {
        let Ask::Read {
            by_quorum: true, ..
        } = request.ask
        else {
            return Ok(());
        };
        if !self.replicas[n].view.leads() {
            return Ok(());
        }
        let heard = self.heard_since(n, request.asked_us);
        let (_, members) = self.replicas[n].members_in_force();
        require!(
            members.is_quorum(heard),
            ReadConfirmed,
            "read {token} is confirmed, but only {heard:b} answered since it was asked"
        );
        Ok(())
    }

    /// A request is answered.
    ///
    /// # Errors
    /// It was answered before, or the answer is not true.
    pub fn answered(&mut self, n: usize, token: u64, answer: Answer, now_us: u64) -> Check {
        self.checks.answers += 1;
        self.check_whose(n, token)?;
        let request = &mut self.requests[token as usize - 1];
        require!(
            request.answer.is_none(),
            AnsweredOnce,
            "request {token} is answered {answer:?} after {:?}",
            request.answer
        );
        require!(
            !(request.confirmed.is_some() && answer == Answer::Refused),
            AnsweredOnce,
            "read {token} is refused after it was confirmed"
        );
        request.answer = Some(answer);
        request.answered_us = now_us;
        let request = *request;
        match answer {
            Answer::Applied(index) => self.complete_write(token, request, index),
            Answer::Served(index, _) => self.complete_read(token, request, index),
            Answer::Refused => {
                require!(
                    request.committed == LogIndex(0),
                    Outcome,
                    "write {token} was refused, but is committed at {}",
                    request.committed
                );
                Ok(())
            }
            Answer::Done => {
                require!(
                    request.ask == Ask::Order,
                    Contract,
                    "request {token} is no order, but done: {request:?}"
                );
                Ok(())
            }
            Answer::Unknown => Ok(()),
        }
    }

    fn check_whose(&self, n: usize, token: u64) -> Check {
        let Some(request) = self.request(token) else {
            require!(false, AnsweredOnce, "token {token} was never asked for");
            return Ok(());
        };
        require!(
            request.node == n && request.incarnation == self.replicas[n].incarnation,
            AnsweredOnce,
            "node {} answers request {token}, which was asked of another: {request:?}",
            self.replicas[n].node
        );
        Ok(())
    }

    fn complete_write(&mut self, token: u64, request: Request, index: LogIndex) -> Check {
        require!(
            request.committed == index,
            Outcome,
            "write {token} was answered as applied at {index}, but is committed at {}",
            request.committed
        );
        require!(
            index > request.floor,
            RealTimeOrder,
            "write {token} is at {index}, but {} was completed before it began",
            request.floor
        );
        self.completed = self.completed.max(index);
        Ok(())
    }

    fn complete_read(&mut self, token: u64, request: Request, index: LogIndex) -> Check {
        require!(
            request
                .confirmed
                .is_some_and(|confirmed| index >= confirmed)
                && index >= request.floor,
            ReadIndex,
            "read {token} is served at {index}, confirmed at {:?}, but {} was completed before it began",
            request.confirmed,
            request.floor
        );
        self.completed = self.completed.max(index);
        Ok(())
    }

    /// A client's write is committed.
    pub(super) fn note_committed(&mut self, token: u64, index: LogIndex) -> Check {
        let Some(request) = self.requests.get_mut(token as usize - 1) else {
            require!(
                false,
                Outcome,
                "write {token} is committed but was never asked for"
            );
            return Ok(());
        };
        let before = std::mem::replace(&mut request.committed, index);
        require!(
            before == LogIndex(0),
            Outcome,
            "write {token} is committed at {before} and at {index}"
        );
        require!(
            request.answer != Some(Answer::Refused),
            Outcome,
            "write {token} was refused, but is committed at {index}"
        );
        Ok(())
    }

    /// Makes a read that was served give another value, for a test of other judges.
    #[cfg(test)]
    pub(crate) fn spoil_read(&mut self, token: u64, value: u64) {
        if let Some(Answer::Served(_, served)) = &mut self.requests[token as usize - 1].answer {
            *served = value;
        }
    }

    pub(super) fn forgive_requests(&mut self, last: LogIndex) {
        for request in &mut self.requests {
            request.floor = request.floor.min(last);
            if request.committed > last {
                request.committed = LogIndex(0);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::testing::*;
    use super::super::{Invariant, View};
    use super::*;
    use kontiki_raft::{HeartbeatReply, Message, MessageBody, NodeId, Role, Term};

    const WRITE: Ask = Ask::Write { key: 0 };
    const READ: Ask = Ask::Read {
        key: 0,
        by_quorum: true,
    };

    fn committed_write(oracle: &mut Oracle) -> u64 {
        lead(oracle, 0, 1);
        commit_one(oracle);
        let token = oracle.ask(0, WRITE, 1);
        let write = append(2, vec![command(1, 2, token)]);
        write_everywhere(oracle, &[0, 1], &write);
        let after = View {
            commit: LogIndex(2),
            ..view(Role::Leader, 1, 2)
        };
        oracle.begin(0, after).unwrap();
        oracle.committing(0).unwrap();
        start_leading(oracle, 0, 1);
        oracle.finish(0).unwrap();
        token
    }

    #[test]
    pub(in crate::oracle) fn a_second_answer_is_found() {
        let mut oracle = three();
        let token = oracle.ask(0, WRITE, 1);
        oracle.answered(0, token, Answer::Unknown, 2).unwrap();
        let again = oracle.answered(0, token, Answer::Refused, 3);
        assert_breaks(again, Invariant::AnsweredOnce);
        let stranger = oracle.answered(1, token, Answer::Refused, 3);
        assert_breaks(stranger, Invariant::AnsweredOnce);
        let unasked = oracle.answered(1, 99, Answer::Refused, 3);
        assert_breaks(unasked, Invariant::AnsweredOnce);
    }

    #[test]
    pub(in crate::oracle) fn a_refused_write_that_is_committed_is_found() {
        let mut oracle = three();
        let token = committed_write(&mut oracle);
        let refused = oracle.answered(0, token, Answer::Refused, 2);
        assert_breaks(refused, Invariant::Outcome);
    }

    #[test]
    fn a_write_answered_at_another_index_is_found() {
        let mut oracle = three();
        let token = committed_write(&mut oracle);
        let wrong = oracle.answered(0, token, Answer::Applied(LogIndex(1)), 2);
        assert_breaks(wrong, Invariant::Outcome);
    }

    #[test]
    pub(in crate::oracle) fn a_stale_read_is_found() {
        let mut oracle = three();
        let token = committed_write(&mut oracle);
        oracle
            .answered(0, token, Answer::Applied(LogIndex(2)), 2)
            .unwrap();
        let read = oracle.ask(1, READ, 3);
        let stale = oracle.read_ready(1, read, LogIndex(1));
        assert_breaks(stale, Invariant::ReadIndex);
        let read = oracle.ask(1, READ, 3);
        oracle.read_ready(1, read, LogIndex(2)).unwrap();
        let stale = oracle.answered(1, read, Answer::Served(LogIndex(1), 0), 4);
        assert_breaks(stale, Invariant::ReadIndex);
    }

    #[test]
    pub(in crate::oracle) fn a_read_confirmed_by_answers_from_before_it_is_found() {
        let mut oracle = three();
        committed_write(&mut oracle);
        let reply = HeartbeatReply {
            round: 1,
            read_only: false,
            echo: None,
            promise: None,
            standing: kontiki_raft::Standing::default(),
        };
        let reply = Message {
            term: Term(1),
            body: MessageBody::HeartbeatReply(reply),
        };
        oracle.sending(1, NodeId(1), &reply, 5).unwrap();
        let read = oracle.ask(0, READ, 6);
        let early = oracle.read_ready(0, read, LogIndex(2));
        assert_breaks(early, Invariant::ReadConfirmed);
        let read = oracle.ask(0, READ, 7);
        oracle.sending(1, NodeId(1), &reply, 8).unwrap();
        oracle.read_ready(0, read, LogIndex(2)).unwrap();
    }

    #[test]
    pub(in crate::oracle) fn a_write_that_comes_before_what_was_completed_is_found() {
        let mut oracle = three();
        let token = committed_write(&mut oracle);
        oracle.completed = LogIndex(5);
        let late = oracle.ask(0, WRITE, 9);
        oracle.requests[late as usize - 1].committed = LogIndex(2);
        let early = oracle.answered(0, late, Answer::Applied(LogIndex(2)), 10);
        assert_breaks(early, Invariant::RealTimeOrder);
        assert!(oracle.is_pending(token));
    }
}
