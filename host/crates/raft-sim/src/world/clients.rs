//! Clients: each asks, waits for all answers or loses patience, thinks, and asks again. An answer
//! that never comes leaves an unknown outcome; a retry is a new request.

use super::{Happening, World, numbers};
use crate::linearizability::{self, Kind, Operation};
use crate::machine::{KEYS, Write};
use crate::oracle::{Answer, Ask, Check, Invariant, broken};
use kontiki_raft::{EntryKind, Input, Proposal, ReadMode, RejectReason, Token};

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Client {
    /// Counts its turns; answers to an earlier turn do not count.
    turn: u32,
    /// Requests of this turn that are not answered.
    left: u64,
    /// The node it takes for the leader.
    hint: Option<usize>,
}

impl World {
    /// Asks on behalf of a client, or of an operator (`usize::MAX`).
    pub(super) fn ask(&mut self, n: usize, ask: Ask, asker: usize) -> u64 {
        let turn = self.clients.get(asker).map_or(0, |client| client.turn);
        self.askers.push((asker, turn));
        self.oracle.ask(n, ask, self.now)
    }

    pub(super) fn take_turn(&mut self, client: usize) -> Check {
        self.clients[client].turn += 1;
        self.clients[client].left = 0;
        if !self.clients_on {
            return Ok(());
        }
        let Some(n) = self.choose_node(client) else {
            self.next_turn(client);
            return Ok(());
        };
        let patience = self.now + self.plan.patience_us;
        let turn = self.clients[client].turn;
        self.queue
            .push(patience, Happening::Patience { client, turn });
        if self.random.chance(self.plan.read_ppm) {
            self.read(client, n)
        } else {
            self.write_batch(client, n)
        }
    }

    fn next_turn(&mut self, client: usize) {
        // Without a leader there is no hurry: steps spent on refusals prove little.
        let hurry = if self.clients[client].hint.is_some() {
            2
        } else {
            10
        };
        let at = self.now + 1 + self.random.below(self.plan.think_us * hurry);
        self.queue.push(at, Happening::Turn { client });
    }

    fn choose_node(&mut self, client: usize) -> Option<usize> {
        let reachable = numbers(u32::MAX)
            .take_while(|n| *n < self.nodes.len())
            .filter(|n| self.nodes[*n].is_up() && !self.nodes[*n].paused)
            .filter(|n| !self.calm || self.core_nodes & (1 << n) != 0)
            .fold(0, |mask, n| mask | 1 << n);
        if reachable == 0 {
            return None;
        }
        let hint = self.clients[client]
            .hint
            .filter(|n| reachable & (1 << n) != 0);
        if hint.is_none() || self.random.chance(self.plan.stray_ppm) {
            return Some(self.random.bit(reachable));
        }
        hint
    }

    fn read(&mut self, client: usize, n: usize) -> Check {
        let key = self.random.position(KEYS) as u8;
        let lease = self.random.chance(self.plan.lease_read_ppm);
        let by_quorum = !lease;
        let token = self.ask(n, Ask::Read { key, by_quorum }, client);
        self.clients[client].left = 1;
        let mode = if lease {
            ReadMode::Lease
        } else {
            ReadMode::Quorum
        };
        let token = Token(token);
        self.input(n, Input::ReadIndex { token, mode })
    }

    fn write_batch(&mut self, client: usize, n: usize) -> Check {
        let writes = self.random.between(1, self.plan.batch_max);
        let expected_term = self
            .random
            .chance(self.plan.expected_term_ppm)
            .then(|| self.oracle.view(n).term);
        self.clients[client].left = writes;
        let proposals = (0..writes)
            .map(|_| {
                let key = self.random.position(KEYS) as u8;
                let token = self.ask(n, Ask::Write { key }, client);
                let size_bytes = self.random.below(self.plan.payload_max) as usize;
                Proposal {
                    token: Token(token),
                    expected_term,
                    time_ns: self.now * 1_000,
                    kind: EntryKind::Command(Write { token, key }.encode(size_bytes)),
                }
            })
            .collect();
        self.input(n, Input::Propose(proposals))
    }

    pub(super) fn lose_patience(&mut self, client: usize, turn: u32) {
        if self.clients[client].turn == turn && self.clients[client].left > 0 {
            self.clients[client].hint = None;
            self.clients[client].turn += 1;
            self.next_turn(client);
        }
    }

    /// A request has its answer: its client may go on.
    pub(super) fn note_answer(&mut self, token: u64) {
        let (client, turn) = self.askers[token as usize - 1];
        let Some(state) = self.clients.get_mut(client) else {
            return;
        };
        if state.turn != turn || state.left == 0 {
            return;
        }
        state.left -= 1;
        if state.left == 0 {
            self.next_turn(client);
        }
    }

    pub(super) fn on_rejected(&mut self, n: usize, token: u64, reason: &RejectReason) -> Check {
        if self.orders.contains_key(&token) {
            return self.on_order_refused(n, token, reason);
        }
        let Some(ask) = self.oracle.request(token).map(|request| request.ask) else {
            return broken(
                Invariant::AnsweredOnce,
                format!("token {token} was never asked for"),
            );
        };
        if let (RejectReason::NotLeader { leader }, Some(client)) = (
            reason,
            self.clients.get_mut(self.askers[token as usize - 1].0),
        ) {
            client.hint = leader.map(|leader| leader.0 as usize - 1);
        }
        let unknown = reason.is_unknown() && matches!(ask, Ask::Write { .. });
        match (ask, unknown) {
            (_, true) => self.counters.writes_unknown += 1,
            (Ask::Write { .. }, false) => self.counters.writes_refused += 1,
            _ => self.counters.reads_refused += 1,
        }
        let answer = if unknown {
            Answer::Unknown
        } else {
            Answer::Refused
        };
        self.answer(n, token, answer)
    }

    /// Judges the clients' history as a whole, by values and times alone.
    pub(super) fn judge_history(&mut self) -> Check {
        self.counters.histories += 1;
        let requests = self.oracle.requests().iter().zip(1u64..);
        let operations: Vec<Operation> = requests
            .filter_map(|(request, token)| {
                let (key, kind, value) = match (request.ask, request.answer) {
                    (Ask::Read { key, .. }, Some(Answer::Served(_, value))) => {
                        (key, Kind::Read, value)
                    }
                    (Ask::Read { .. }, _) | (Ask::Order, _) => return None,
                    (Ask::Write { .. }, Some(Answer::Refused)) => return None,
                    (Ask::Write { key }, _) => (key, Kind::Write, token),
                };
                let applied = matches!(
                    request.answer,
                    Some(Answer::Applied(_) | Answer::Served(..))
                );
                let ended = if applied {
                    request.answered_us
                } else {
                    u64::MAX
                };
                Some(Operation {
                    key,
                    kind,
                    value,
                    began: request.asked_us,
                    ended,
                })
            })
            .collect();
        match linearizability::check(&operations) {
            Ok(()) => Ok(()),
            Err(why) => broken(Invariant::Linearizable, why),
        }
    }
}
