//! Seeded simulation of whole Raft clusters, with invariants checked after every step.

pub mod clock;
pub mod disk;
pub mod machine;
pub mod members;
pub mod oracle;
pub mod queue;
pub mod random;
