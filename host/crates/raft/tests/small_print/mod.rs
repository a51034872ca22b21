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
