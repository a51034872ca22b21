//! The Kontiki node as a library: `kontiki serve` is [`node::Node::start`] with a configuration.
//!
//! `ARCHITECTURE.md` beside this package has the map.

pub mod config;
pub mod log;
mod metrics;
pub mod node;
pub mod raft_stat;
mod server;
pub mod transport;
