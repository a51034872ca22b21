//! The state machine itself.

use crate::{Effects, Input, Instant, MemberSet, NodeId, Recovered, Settings, Status};

/// One replica of one group.
pub struct Core {}

impl Core {
    /// Opens a replica. `initial` is its membership if neither log nor snapshot knows one.
    /// `seed` feeds the spread of election timeouts and should differ between replicas.
    #[must_use]
    pub fn new(
        node: NodeId,
        settings: Settings,
        initial: MemberSet,
        recovered: Recovered,
        now: Instant,
        seed: u64,
    ) -> Self {
        let _ = (node, settings, initial, recovered, now, seed);
        unimplemented!()
    }

    /// Takes one input and appends what is to be done to `effects`. `now` never goes back.
    pub fn handle(&mut self, now: Instant, input: Input, effects: &mut Effects) {
        let _ = (now, input, effects);
        unimplemented!()
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        unimplemented!()
    }

    /// What the replica says about itself.
    #[must_use]
    pub fn status(&self, now: Instant) -> Status {
        let _ = now;
        unimplemented!()
    }
}
