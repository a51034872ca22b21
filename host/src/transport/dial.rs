//! How other nodes are dialled.

use hyper_util::rt::TokioIo;
use kontiki_client::{Alive, connect, ping};
use std::io;
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tonic::transport::{Channel, Endpoint, Error, Uri};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A connection that is there.
///
/// # Errors
/// If the address is none or nobody answers at it.
pub(crate) async fn now(address: &str) -> Result<Channel, Error> {
    endpoint(address)?.connect_with_connector(connector()).await
}

/// A connection that is made when it is needed, again and again.
///
/// # Errors
/// If the address is none.
pub(crate) fn lazily(address: &str) -> Result<Channel, Error> {
    Ok(endpoint(address)?.connect_with_connector_lazy(connector()))
}

fn endpoint(address: &str) -> Result<Endpoint, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_LIMIT)
        .http2_max_header_list_size(256 << 10)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20);
    Ok(ping(endpoint))
}

fn connector()
-> impl tower::Service<Uri, Response = TokioIo<Alive<TcpStream>>, Error = io::Error, Future: Send>
+ Send
+ 'static {
    tower::service_fn(|uri: Uri| async move { dial(&uri).await.map(TokioIo::new) })
}

/// Tries every address of the host in turn.
async fn dial(uri: &Uri) -> io::Result<Alive<TcpStream>> {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in lookup_host((host, uri.port_u16().unwrap_or(80))).await? {
        match connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}
