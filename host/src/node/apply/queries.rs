//! Queries: each waits until what it must see is applied, and is then handed to the reader.

use super::PendingQuery;
use super::reader::{ReaderHandle, Ready};
use super::worker::{Stopped, Worker};
use crate::node::request::Outcome;
use std::sync::Arc;

impl Worker {
    pub(super) fn query(&mut self, query: PendingQuery) {
        if query.after > self.runner.state.applied.index {
            match self.stopped {
                Some(_) => query.reply.answer(Err(self.failure())),
                None => self.waiting.push(query),
            }
            self.note_waiting();
            return;
        }
        self.hand_over(query);
    }

    fn hand_over(&mut self, query: PendingQuery) {
        if self.reader.is_none() {
            match self.start_reader() {
                Ok(reader) => self.reader = Some(reader),
                Err(stopped) => {
                    query
                        .reply
                        .answer(Err(stopped.failure(Outcome::NotApplied)));
                    return;
                }
            }
        }
        if let Some(reader) = &self.reader {
            reader.ask(Ready {
                applied: self.runner.state,
                request: query.request,
                reply: query.reply,
            });
        }
    }

    fn start_reader(&self) -> Result<ReaderHandle, Stopped> {
        let (digest, view) = (Arc::clone(&self.digest), Arc::clone(&self.view));
        let started = ReaderHandle::start(self.runner.reader(), digest, view);
        started.map_err(|error| Stopped::here(format!("no thread for queries: {error}")))
    }

    pub(super) fn run_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let applied = self.runner.state.applied.index;
        let mut at = 0;
        while at < self.waiting.len() {
            if self.waiting[at].after <= applied {
                let query = self.waiting.swap_remove(at);
                self.hand_over(query);
            } else {
                at += 1;
            }
        }
        self.note_waiting();
    }
}
