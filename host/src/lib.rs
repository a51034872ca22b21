//! The Kontiki node as a library: `kontiki serve` is [`node::Node::start`] with a configuration.
//!
//! `ARCHITECTURE.md` beside this package has the map.

pub mod config;
pub mod node;
mod server;
pub mod transport;
