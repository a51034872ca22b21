//! The network between replicas: latency, cut links, dropped and held messages.

use kontiki_raft::{Instant, Message, NodeId};
use std::collections::BTreeSet;

/// A message under way.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) message: Message,
    due: Instant,
}

impl Envelope {
    pub(crate) fn goes(&self, from: u64, to: u64) -> bool {
        self.from == NodeId(from) && self.to == NodeId(to)
    }
}

type Filter = Box<dyn FnMut(&Envelope) -> bool>;

/// Messages under way, and what happens to them.
pub(crate) struct Network {
    in_flight: Vec<Envelope>,
    cut: BTreeSet<(NodeId, NodeId)>,
    drop_if: Option<Filter>,
    hold_if: Option<Filter>,
    held: Vec<Envelope>,
    pub(crate) latency: std::time::Duration,
    /// Everything ever sent, cut links included.
    pub(crate) sent: Vec<Envelope>,
}

impl Network {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: Vec::new(),
            cut: BTreeSet::new(),
            drop_if: None,
            hold_if: None,
            held: Vec::new(),
            latency: super::ms(1),
            sent: Vec::new(),
        }
    }

    pub(crate) fn send(&mut self, now: Instant, from: NodeId, to: NodeId, message: Message) {
        let due = now.plus(self.latency);
        let envelope = Envelope {
            from,
            to,
            message,
            due,
        };
        self.sent.push(envelope.clone());
        if self.is_cut(&envelope) || self.drop_if.as_mut().is_some_and(|drop| drop(&envelope)) {
            return;
        }
        if self.hold_if.as_mut().is_some_and(|hold| hold(&envelope)) {
            return self.held.push(envelope);
        }
        self.in_flight.push(envelope);
    }

    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.in_flight.iter().map(|envelope| envelope.due).min()
    }

    /// Takes the oldest message that is due.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<Envelope> {
        let at = self
            .in_flight
            .iter()
            .position(|envelope| envelope.due <= now)?;
        Some(self.in_flight.remove(at))
    }

    pub(crate) fn is_cut(&self, envelope: &Envelope) -> bool {
        self.cut.contains(&(envelope.from, envelope.to))
    }

    pub(crate) fn is_open(&self, from: NodeId, to: NodeId) -> bool {
        !self.cut.contains(&(from, to))
    }

    pub(crate) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cut.insert((from, to));
    }

    pub(crate) fn heal(&mut self) {
        self.cut.clear();
    }

    pub(crate) fn drop_if(&mut self, filter: Option<Filter>) {
        self.drop_if = filter;
    }

    pub(crate) fn hold_if(&mut self, filter: Option<Filter>) {
        self.hold_if = filter;
    }

    /// Lets held messages go on; they arrive after the latency.
    pub(crate) fn release(&mut self, now: Instant) {
        let due = now.plus(self.latency);
        let released = self
            .held
            .drain(..)
            .map(|envelope| Envelope { due, ..envelope });
        self.in_flight.extend(released);
    }

    /// Sends everything under way, and held, once more.
    pub(crate) fn duplicate(&mut self) {
        let copies = self.in_flight.clone();
        self.in_flight.extend(copies);
    }

    pub(crate) fn held(&self) -> &[Envelope] {
        &self.held
    }

    pub(crate) fn inject(&mut self, now: Instant, from: NodeId, to: NodeId, message: Message) {
        let due = now;
        self.in_flight.push(Envelope {
            from,
            to,
            message,
            due,
        });
    }
}
