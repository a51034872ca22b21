//! Who waits for which answer of a core.

use super::reply::CommandReply;
use super::request::{Failure, Query};
use kontiki_raft::Token;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Instant;
use tokio::sync::oneshot;

/// One request that the core has.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// A command, and when it was proposed.
    Apply(CommandReply, Instant),
    /// Queries that share a read index.
    Read(Vec<Query>),
    /// An operator's order.
    Order(oneshot::Sender<Result<(), Failure>>),
}

impl Waiter {
    /// Lets go of those that nobody listens to any more; says whether anybody is left. Commands are
    /// kept: their entry will answer them.
    fn is_wanted(&mut self) -> bool {
        match self {
            Self::Apply(..) => true,
            Self::Read(queries) => {
                queries.retain(|query| !query.reply.is_closed());
                !queries.is_empty()
            }
            Self::Order(reply) => !reply.is_closed(),
        }
    }

    /// Answers with a failure.
    pub(crate) fn fail(self, failure: &Failure) {
        match self {
            Self::Apply(reply, _) => reply.answer(Err(failure.clone())),
            Self::Read(queries) => {
                for query in queries {
                    query.reply.answer(Err(failure.clone()));
                }
            }
            Self::Order(reply) => {
                let _ = reply.send(Err(failure.clone()));
            }
        }
    }
}

/// Tokens count up from one; they need no better hash than a multiplication.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenHasher(u64);

impl Hasher for TokenHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

/// Every request that the core has and has not answered.
pub(crate) type Waiting = HashMap<Token, Waiter, BuildHasherDefault<TokenHasher>>;

/// Forgets requests whose clients are gone.
pub(crate) fn sweep(waiting: &mut Waiting) {
    waiting.retain(|_, waiter| waiter.is_wanted());
}
