//! The sockets a node listens on.

use super::StartError;
use crate::config::{Address, NodeConfig};
use std::net::SocketAddr;
use tokio::net::TcpListener;

/// Bound listeners of a node.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) client: TcpListener,
    /// Absent if the client listener serves peers too.
    pub(crate) peer: Option<TcpListener>,
    pub(crate) http: Option<TcpListener>,
}

impl Listeners {
    /// Binds everything or nothing.
    pub(crate) async fn bind(config: &NodeConfig) -> Result<Self, StartError> {
        let client = bind("listen", &config.listen).await?;
        let peer = bind_optional("peer_listen", config.peer_listen.as_ref()).await?;
        let http = bind_optional("http", config.http.as_ref()).await?;
        Ok(Self { client, peer, http })
    }

    pub(crate) fn client_address(&self) -> Result<SocketAddr, StartError> {
        local("listen", &self.client)
    }

    pub(crate) fn peer_address(&self) -> Result<SocketAddr, StartError> {
        local("peer_listen", self.peer.as_ref().unwrap_or(&self.client))
    }

    pub(crate) fn http_address(&self) -> Result<Option<SocketAddr>, StartError> {
        self.http
            .as_ref()
            .map(|http| local("http", http))
            .transpose()
    }
}

async fn bind_optional(
    key: &'static str,
    address: Option<&Address>,
) -> Result<Option<TcpListener>, StartError> {
    match address {
        Some(address) => bind(key, address).await.map(Some),
        None => Ok(None),
    }
}

async fn bind(key: &'static str, address: &Address) -> Result<TcpListener, StartError> {
    let address = address.to_string();
    TcpListener::bind(&address)
        .await
        .map_err(|source| StartError::Listen {
            key,
            address,
            source,
        })
}

fn local(key: &'static str, listener: &TcpListener) -> Result<SocketAddr, StartError> {
    let address = String::from("the bound socket");
    listener.local_addr().map_err(|source| StartError::Listen {
        key,
        address,
        source,
    })
}
