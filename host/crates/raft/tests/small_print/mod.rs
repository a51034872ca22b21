//! What no other suite pins: found by changing the core on purpose and seeing every test pass.

mod elections;
mod flow;
mod horizons;
mod leases;
mod membership;
mod opening;
mod outside;
mod reads;
mod replication;
mod snapshots;
mod successors;

use crate::support::{Solo, voters};
use kontiki_raft::Settings;

/// A leader of three at term 1 that everybody follows.
fn leader(change: impl FnOnce(&mut Settings)) -> Solo {
    let mut settings = Settings::default();
    change(&mut settings);
    let mut node = Solo::leader_with(settings, voters([1, 2, 3]), 1, &[]);
    node.settle();
    node
}
