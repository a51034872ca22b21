//! Seeded simulation of whole Raft clusters, with invariants checked after every step.
//!
//! One seed gives one run, bit for bit. A [`Plan`](plan::Plan) draws sizes, settings and the rate of
//! every fault from it; a [`World`](world::World) lets nodes, disks, clocks, a network, clients and
//! operators act on each other in simulated time; an [`Oracle`](oracle::Oracle) is told every fact
//! once and judges it. After the faults a liveness phase demands that everything comes right, and at
//! the end the clients' history is judged once more by values and times alone. [`Counters`] say
//! whether a batch of runs saw enough to prove anything.
//!
//! [`Counters`]: counters::Counters

pub mod clock;
pub mod counters;
pub mod disk;
pub mod effort;
pub mod linearizability;
pub mod machine;
pub mod members;
pub mod network;
pub mod oracle;
pub mod plan;
pub mod queue;
pub mod random;
pub mod run;
pub mod script;
pub mod trace;
pub mod witness;
pub mod world;
