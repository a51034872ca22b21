//! Commands: what became of them, and how long the applied ones took.

use super::{buckets, family, labelled, seconds};
use crate::node::request::Outcome;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

/// Commands that were given to groups of this node, by outcome. Each counts once, when its outcome
/// is known here, whether or not its client still waits.
#[derive(Debug)]
pub(crate) struct Proposals {
    applied: Counter,
    not_applied: Counter,
    unknown: Counter,
    duration: Histogram,
}

impl Proposals {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let help = "Commands given to groups of this node, by outcome";
        let family = family(registry, "proposals", help);
        let outcome = |name| labelled(&family, "outcome", name);
        Self {
            applied: outcome("applied"),
            not_applied: outcome(Outcome::NotApplied.as_str()),
            unknown: outcome(Outcome::Unknown.as_str()),
            duration: seconds(
                registry,
                "proposal_duration",
                "Time from a command's arrival at its group until it is answered as applied",
                &buckets::REQUEST,
            ),
        }
    }

    /// A command was applied and answered, after this time.
    pub(crate) fn applied(&self, took: Duration) {
        self.applied.inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A command has failed.
    pub(crate) fn failed(&self, outcome: Outcome) {
        match outcome {
            Outcome::NotApplied => self.not_applied.inc(),
            Outcome::Unknown => self.unknown.inc(),
        };
    }
}
