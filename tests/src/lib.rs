//! Whole nodes under faults.
//!
//! A [`Cluster`] is real `kontiki serve` processes on this machine. A [`load`] drives them through
//! the public API and records what every client saw; [`check`] holds the record against the
//! committed log of each node. This crate speaks the protocol by itself, without `kontiki-client`,
//! so that a fault in that library cannot hide one in the node.

mod acknowledged;
pub mod check;
pub mod cluster;
pub mod command_line;
pub mod copy;
pub mod load;
pub mod model;
pub mod network;
pub mod open_load;
pub mod pauses;
pub mod readiness;
pub mod session;
mod unsent;
pub mod until;

pub use cluster::{Cluster, ClusterOptions};
pub use command_line::Operator;
pub use network::Network;
pub use open_load::OpenLoad;
pub use readiness::readiness;
pub use session::{Outcome, Session};
pub use until::until;
