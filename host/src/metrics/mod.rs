//! What a node measures as it happens.
//!
//! A node has one [`Metrics`] with a registry of its own, so that several nodes can live in one
//! process. Everything here is a sum over the node: a group that leaves takes nothing away. What can
//! be read from state is not kept here but collected when it is asked for; see `server/metrics`.

mod buckets;
mod grpc;
mod grpc_layer;
mod plugins;
mod proposals;

pub(crate) use grpc_layer::GrpcLayer;
pub(crate) use plugins::{PluginMetrics, result_of};
pub(crate) use proposals::Proposals;

use grpc::Grpc;
use plugins::Plugins;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::Arc;

/// First part of every name.
pub(crate) const PREFIX: &str = "kontiki";

/// What a node has measured so far.
///
/// Counting is an atomic addition. A histogram has a lock of its own, held for some tens of
/// nanoseconds: an observation costs 36 ns, and 76 ns while another thread does nothing but observe.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Commands.
    pub(crate) proposals: Arc<Proposals>,
    /// From handing a command to the core until it is committed and goes to the plugin.
    pub(crate) commit_duration: Histogram,
    /// From the query's arrival until its read index is known to be committed.
    pub(crate) read_index_duration: Histogram,
    /// Leaders that the replicas of this node have seen begin, themselves included.
    pub(crate) leader_changes: Counter,
    /// Elections that the replicas of this node have started.
    pub(crate) elections: Elections,
    /// Messages of peers that found a group's mailbox full.
    pub(crate) messages_dropped: Counter,
    plugins: Plugins,
    grpc: Arc<Grpc>,
}

impl Metrics {
    /// A registry with everything at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        Self {
            proposals: Arc::new(Proposals::register(&mut registry)),
            commit_duration: seconds(
                &mut registry,
                "commit_duration",
                "Time from proposing a command until it is committed",
                &buckets::REQUEST,
            ),
            read_index_duration: seconds(
                &mut registry,
                "read_index_duration",
                "Time from a query's arrival until its read index is confirmed",
                &buckets::REQUEST,
            ),
            leader_changes: counter(
                &mut registry,
                "leader_changes",
                "Leaders that replicas here have seen begin",
            ),
            elections: Elections::register(&mut registry),
            messages_dropped: counter(
                &mut registry,
                "group_messages_dropped",
                "Messages of peers dropped because a group's mailbox was full",
            ),
            plugins: Plugins::register(&mut registry),
            grpc: Arc::new(Grpc::register(&mut registry)),
            registry,
        }
    }

    /// Writes everything, without the end mark.
    pub(crate) fn encode(&self, text: &mut String) -> fmt::Result {
        encode_registry(text, &self.registry)
    }

    /// What is measured of a machine made from the plugin of this name.
    pub(crate) fn plugin(&self, name: &str) -> PluginMetrics {
        self.plugins.of(name)
    }

    /// Measures the calls of a server.
    pub(crate) fn grpc_layer(&self) -> GrpcLayer {
        GrpcLayer::new(Arc::clone(&self.grpc))
    }
}

/// How an election ended that a replica of this node had started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElectionResult {
    /// The replica leads.
    Won,
    /// Another won, or a majority refused.
    Lost,
    /// Nobody won in time.
    TimedOut,
    /// The replica stopped, or another election was ordered.
    Abandoned,
}

/// Elections by result.
#[derive(Debug)]
pub(crate) struct Elections {
    won: Counter,
    lost: Counter,
    timed_out: Counter,
    abandoned: Counter,
}

impl Elections {
    fn register(registry: &mut Registry) -> Self {
        let help = "Elections that replicas here have started, by result; pre-votes are none";
        let family = family(registry, "elections", help);
        let result = |name| labelled(&family, "result", name);
        Self {
            won: result("won"),
            lost: result("lost"),
            timed_out: result("timed_out"),
            abandoned: result("abandoned"),
        }
    }

    /// Counts one that has ended.
    pub(crate) fn ended(&self, result: ElectionResult) {
        let counter = match result {
            ElectionResult::Won => &self.won,
            ElectionResult::Lost => &self.lost,
            ElectionResult::TimedOut => &self.timed_out,
            ElectionResult::Abandoned => &self.abandoned,
        };
        counter.inc();
    }
}

/// One label whose values are written in this program.
type Label = [(&'static str, &'static str); 1];

fn family(registry: &mut Registry, name: &str, help: &str) -> Family<Label, Counter> {
    let family = Family::default();
    registry.register(name, help, family.clone());
    family
}

/// The counter for one value, which is there from the start.
fn labelled(family: &Family<Label, Counter>, key: &'static str, value: &'static str) -> Counter {
    family.get_or_create_owned(&[(key, value)])
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// A histogram of durations in seconds; its unit is added to the name.
fn seconds(registry: &mut Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    let histogram = Histogram::new(buckets.iter().copied());
    registry.register_with_unit(name, help, Unit::Seconds, histogram.clone());
    histogram
}
