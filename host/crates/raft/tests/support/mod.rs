//! A small deterministic cluster for the suites: virtual time, an in-memory disk that persists,
//! loses and stalls on order, a network that cuts, drops and holds on order, and state machines
//! that apply when told. Everything that is checked is seen from outside: inputs and effects.

mod actions;
mod cluster;
mod disk;
mod looking;
mod network;
mod replica;
pub(crate) mod say;
mod seen;
mod solo;
mod watch;

pub(crate) use cluster::{Cluster, Outcome, Setup};
pub(crate) use disk::{Image, Saved};
pub(crate) use network::Envelope;
pub(crate) use say::{change, configuration, entries_after, id, image, joint, learner_set, voters};
pub(crate) use seen::Seen;
pub(crate) use solo::Solo;

use std::time::Duration;

/// Milliseconds, as scenarios count time.
pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The core as it is, or, to prove that the suites would notice, with the fault planted that the
/// environment names: `KONTIKI_PLANT=VoteTwice cargo test --features planted-bugs`.
fn planted(core: kontiki_raft::Core) -> kontiki_raft::Core {
    #[cfg(feature = "planted-bugs")]
    if let Ok(wanted) = std::env::var("KONTIKI_PLANT") {
        let named = |bug: &&kontiki_raft::PlantedBug| format!("{bug:?}") == wanted;
        let bug = kontiki_raft::PlantedBug::ALL.iter().find(named);
        let mut core = core;
        core.plant(*bug.expect("KONTIKI_PLANT names a planted bug"));
        return core;
    }
    core
}

/// Property tests write no files: a failing case is printed, and belongs into a test of its own.
pub(crate) fn cases(cases: u32) -> proptest::test_runner::Config {
    proptest::test_runner::Config {
        cases,
        failure_persistence: None,
        ..proptest::test_runner::Config::default()
    }
}
