//! One node: its listeners and the groups it hosts.

pub(crate) mod apply;
pub(crate) mod broken;
mod budget;
pub(crate) mod clock;
pub(crate) mod context;
mod departed;
pub mod descriptors;
pub(crate) mod drain;
pub(crate) mod ended;
pub(crate) mod epoch;
pub(crate) mod failpoint;
mod group;
pub mod handle;
pub(crate) mod lifecycle;
mod listen;
mod native_machine;
pub mod offline;
mod opening;
pub(crate) mod overrides;
#[cfg(test)]
mod panic_tests;
pub(crate) mod plugins;
pub(crate) mod prepared;
mod registry;
mod reply;
pub mod request;
pub(crate) mod router;
pub mod settings;
mod start;
mod stop;
pub(crate) mod tuning;
pub(crate) mod turn;
mod waiting;

use crate::config::NodeConfig;
use crate::server::Servers;
use context::Context;
use kontiki_storage::{DataDirectory, StorageError};
pub(crate) use listen::Listeners;
use serde::Serialize;
use std::net::SocketAddr;
use std::sync::Arc;

/// Starts nodes.
#[derive(Debug)]
pub struct Node;

impl Node {
    /// Opens the data, binds and serves the listeners, then opens the groups found in storage.
    ///
    /// # Errors
    /// Says what stood in the way; nothing is left running.
    pub async fn start(config: NodeConfig) -> Result<RunningNode, StartError> {
        start::start(config).await
    }
}

/// A node that runs. Dropping it leaves it running until its runtime ends, which closes the data as
/// a crash would leave them; see [`RunningNode::shutdown`].
pub struct RunningNode {
    ports: Ports,
    context: Arc<Context>,
    servers: Servers,
    /// Keeps the directory locked.
    directory: Option<DataDirectory>,
}

impl std::fmt::Debug for RunningNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningNode")
            .field("ports", &self.ports)
            .finish_non_exhaustive()
    }
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
        stop::stop(self).await;
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
    /// A socket that was bound cannot be served, for want of file descriptors say.
    #[error("cannot serve on a socket: {0}")]
    Serve(std::io::Error),
    /// The data cannot be opened.
    #[error("cannot open the data: {0}")]
    Storage(#[from] StorageError),
    /// The plugin engine cannot be made.
    #[error("cannot start the plugin engine: {0}")]
    Engine(#[from] kontiki_plugin::EngineError),
    /// The system gave no random bytes for the node's id.
    #[error("the system gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// A blocking task was lost.
    #[error("a task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
    /// The groups cannot be listed.
    #[error("cannot open the groups: {0}")]
    Groups(String),
}
