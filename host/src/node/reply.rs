//! The answers to commands and queries, on their way from the client's end to the group's and back.

use super::budget::Share;
use super::request::{Applied, Claim, Failure, Outcome};
use crate::metrics::Proposals;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// What becomes of a command or a query.
type Answer = Result<Applied, Failure>;

/// The group's end of a command: whoever holds it owes an answer. Until it is given, or the command
/// is dropped without one, the command counts against the group's budget. Each is measured exactly
/// once, however it ends.
#[derive(Debug)]
pub(crate) struct CommandReply {
    /// None once it is answered.
    client: Option<oneshot::Sender<Answer>>,
    claim: Claim,
    arrived: Instant,
    proposals: Arc<Proposals>,
    /// None if the budget refuses the command.
    share: Option<Share>,
}

impl CommandReply {
    /// Both ends of a command that arrives now.
    pub(crate) fn new(
        proposals: &Arc<Proposals>,
        share: Option<Share>,
    ) -> (Self, oneshot::Receiver<Answer>) {
        let (client, answer) = oneshot::channel();
        let reply = Self {
            client: Some(client),
            claim: Claim::default(),
            arrived: Instant::now(),
            proposals: Arc::clone(proposals),
            share,
        };
        (reply, answer)
    }

    /// Decides whether the group or its client's deadline was first.
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    /// Tells the client what became of its command. A client that has gone is no less counted.
    pub(crate) fn answer(mut self, answer: Answer) {
        match &answer {
            Ok(_) => self.proposals.applied(self.arrived.elapsed()),
            Err(failure) => self.proposals.failed(failure.outcome()),
        }
        // First, so that a client that has its answer finds room for its next command.
        drop(self.share.take());
        if let Some(client) = self.client.take() {
            // The client may have given up.
            let _ = client.send(answer);
        }
    }
}

impl Drop for CommandReply {
    /// Without an answer the client learns that nobody has its command any more.
    fn drop(&mut self) {
        if self.client.is_some() {
            self.proposals.failed(match self.claim.withdraw() {
                true => Outcome::NotApplied,
                false => Outcome::Unknown,
            });
        }
    }
}

/// The group's end of a query. Until it is answered, or nobody waits any more and it is dropped, the
/// query counts against the group's budget.
#[derive(Debug)]
pub(crate) struct QueryReply {
    client: oneshot::Sender<Answer>,
    share: Option<Share>,
}

impl QueryReply {
    /// Both ends of a query.
    pub(crate) fn new(share: Option<Share>) -> (Self, oneshot::Receiver<Answer>) {
        let (client, answer) = oneshot::channel();
        (Self { client, share }, answer)
    }

    /// Answers. Whoever asked may be gone; then nobody misses the answer.
    pub(crate) fn answer(self, answer: Answer) {
        // First, so that a client that has its answer finds room for its next query.
        drop(self.share);
        let _ = self.client.send(answer);
    }

    /// Whether nobody waits for the answer any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::node::budget::Budget;

    fn counted(metrics: &Metrics) -> Vec<String> {
        let mut text = String::new();
        metrics.encode(&mut text).unwrap();
        let lines = text.lines();
        let counters =
            lines.filter_map(|line| line.strip_prefix("kontiki_proposals_total{outcome="));
        let mut moved: Vec<_> = counters
            .filter(|line| !line.ends_with(" 0"))
            .map(str::to_owned)
            .collect();
        moved.sort();
        moved
    }

    #[test]
    fn a_command_counts_once_however_it_ends() {
        let metrics = Metrics::new();
        let new = || CommandReply::new(&metrics.proposals, None);
        let (reply, mut answer) = new();
        reply.answer(Err(Failure::Busy));
        assert_eq!(answer.try_recv().unwrap(), Err(Failure::Busy));
        let (withdrawn, _answer) = new();
        assert!(withdrawn.claim().withdraw());
        drop(withdrawn);
        let (never_taken, answer) = new();
        let claim = never_taken.claim().clone();
        drop(never_taken);
        assert!(answer.blocking_recv().is_err() && !claim.take());
        assert_eq!(counted(&metrics), ["\"not_applied\"} 3"]);
        let (lost, _answer) = new();
        assert!(lost.claim().take());
        drop(lost);
        assert_eq!(counted(&metrics), ["\"not_applied\"} 3", "\"unknown\"} 1"]);
    }

    #[test]
    fn a_request_gives_its_share_back_however_it_ends() {
        let (metrics, budget) = (Metrics::new(), Budget::new(1, 100));
        let command = || CommandReply::new(&metrics.proposals, budget.take(60));
        let (reply, _answer) = command();
        assert!(budget.take(0).is_none());
        reply.answer(Err(Failure::Busy));
        drop(command());
        let query = || QueryReply::new(budget.take(60));
        let (reply, _answer) = query();
        assert!(budget.take(0).is_none());
        reply.answer(Err(Failure::Busy));
        drop(query());
        assert!(budget.take(0).is_some());
    }
}
