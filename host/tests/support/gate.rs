//! A way to a node that can be shut.

use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Passes connections on to another address until it is shut.
pub struct Gate {
    pub address: String,
    task: JoinHandle<()>,
}

impl Gate {
    /// Opens a gate that leads to `to`, whether or not somebody listens there yet.
    pub async fn open(to: SocketAddr) -> Self {
        Self::open_at("127.0.0.1:0", to).await
    }

    /// Opens a gate at this address.
    pub async fn open_at(address: &str, to: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let task = tokio::spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut inside, _)) = listener.accept().await {
                passing.spawn(async move {
                    if let Ok(mut outside) = TcpStream::connect(to).await {
                        let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                    }
                });
            }
        });
        Self { address, task }
    }

    /// Ends every connection that passes, and lets none in any more.
    pub async fn shut(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
