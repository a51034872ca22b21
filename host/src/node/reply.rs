//! The answer to a command, on its way from the client's end to the group's and back.

use super::request::{Applied, Claim, Failure, Outcome};
use crate::metrics::Proposals;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// What becomes of a command.
type Answer = Result<Applied, Failure>;

/// The group's end of a command: whoever holds it owes an answer. Each is measured exactly once,
/// also if it is dropped without an answer.
#[derive(Debug)]
pub(crate) struct CommandReply {
    /// None once it is answered.
    client: Option<oneshot::Sender<Answer>>,
    claim: Claim,
    arrived: Instant,
    proposals: Arc<Proposals>,
}

impl CommandReply {
    /// Both ends of a command that arrives now.
    pub(crate) fn new(proposals: &Arc<Proposals>) -> (Self, oneshot::Receiver<Answer>) {
        let (client, answer) = oneshot::channel();
        let reply = Self {
            client: Some(client),
            claim: Claim::default(),
            arrived: Instant::now(),
            proposals: Arc::clone(proposals),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

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
        let new = || CommandReply::new(&metrics.proposals);
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
}
