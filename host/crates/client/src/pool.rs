//! Connections, one for each address.

use crate::alive::{Alive, connect, ping};
use crate::error::Phase;
use crate::{Address, Options};
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::OnceCell;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

/// A connection could not be made. Nothing was sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{problem}")]
pub(crate) struct ConnectFailure {
    pub(crate) phase: Phase,
    pub(crate) problem: String,
}

/// Connections by address; each is made when it is first needed, by whoever comes first.
#[derive(Debug)]
pub(crate) struct Pool {
    options: Options,
    channels: Mutex<HashMap<Address, Slot>>,
}

type Slot = Arc<OnceCell<Channel>>;

/// A connection out of the pool.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) address: Address,
    pub(crate) channel: Channel,
    slot: Slot,
}

impl Pool {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            channels: Mutex::default(),
        }
    }

    /// The connection to `address`, made now if there is none.
    pub(crate) async fn connection(&self, address: &Address) -> Result<Connection, ConnectFailure> {
        let slot = self.lock().entry(address.clone()).or_default().clone();
        let channel = slot
            .get_or_try_init(|| open(address, &self.options))
            .await?
            .clone();
        Ok(Connection {
            address: address.clone(),
            channel,
            slot,
        })
    }

    /// Drops a broken connection, unless another has taken its place.
    pub(crate) fn discard(&self, broken: &Connection) {
        let mut channels = self.lock();
        if channels
            .get(&broken.address)
            .is_some_and(|slot| Arc::ptr_eq(slot, &broken.slot))
        {
            channels.remove(&broken.address);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Address, Slot>> {
        // The map is whole between any two statements, so a panic elsewhere cannot have spoilt it.
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The HTTP/2 library bounds how many small frames may wait unread on a connection by half of this,
/// each counted as 256 bytes, and closes the connection above that. Its default is too little for a
/// few hundred short answers at once.
const CONNECTION_WINDOW_SIZE_BYTES: u32 = 16 << 20;

/// Most that is taken of an answer's headers and trailers. Nodes send 8 KiB at most; older ones sent
/// whole backtraces.
const HEADERS_SIZE_BYTES_MAX: u32 = 256 << 10;

async fn open(address: &Address, options: &Options) -> Result<Channel, ConnectFailure> {
    let failure = |problem: String| ConnectFailure {
        phase: last_phase(address),
        problem,
    };
    let endpoint = Endpoint::from_shared(address.uri()).map_err(|error| failure(chain(&error)))?;
    let mut endpoint = ping(endpoint)
        .http2_max_header_list_size(HEADERS_SIZE_BYTES_MAX)
        .initial_connection_window_size(CONNECTION_WINDOW_SIZE_BYTES);
    if let Some(tls) = options.tls.clone().filter(|_| address.is_tls()) {
        endpoint = endpoint
            .tls_config(tls)
            .map_err(|error| failure(chain(&error)))?;
    }
    let (dialled, limit) = (address.clone(), options.connect_timeout);
    let connector = tower::service_fn(move |_| {
        let address = dialled.clone();
        async move { dial(&address, limit).await.map(TokioIo::new) }
    });
    match timeout(limit * 2, endpoint.connect_with_connector(connector)).await {
        Ok(Ok(channel)) => Ok(channel),
        Ok(Err(error)) => Err(find_connect_failure(&error).unwrap_or(failure(chain(&error)))),
        Err(_) => Err(failure(format!("no answer within {}", seconds(limit * 2)))),
    }
}

/// What fails after TCP is up.
fn last_phase(address: &Address) -> Phase {
    if address.is_tls() {
        Phase::Tls
    } else {
        Phase::Connect
    }
}

async fn dial(address: &Address, limit: Duration) -> Result<Alive<TcpStream>, ConnectFailure> {
    let failed = |phase, problem| ConnectFailure { phase, problem };
    let name = (address.host(), address.port());
    let found = timeout(limit, lookup_host(name))
        .await
        .map_err(|_| {
            failed(
                Phase::Resolve,
                format!("no answer within {}", seconds(limit)),
            )
        })?
        .map_err(|error| failed(Phase::Resolve, error.to_string()))?;
    let mut last = failed(Phase::Resolve, "the name has no address".to_owned());
    for socket in found {
        match timeout(limit, connect(socket)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = failed(Phase::Connect, io_problem(&error)),
            Err(_) => {
                last = failed(
                    Phase::Connect,
                    format!("no answer within {}", seconds(limit)),
                );
            }
        }
    }
    Err(last)
}

fn io_problem(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "refused".to_owned(),
        _ => error.to_string(),
    }
}

pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Our own failure somewhere in the causes of a transport's error.
pub(crate) fn find_connect_failure(
    error: &(dyn std::error::Error + 'static),
) -> Option<ConnectFailure> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|cause| {
        if let Some(tonic::ConnectError(inner)) = cause.downcast_ref() {
            return find_connect_failure(&**inner).or(Some(ConnectFailure {
                phase: Phase::Connect,
                problem: chain(&**inner),
            }));
        }
        cause.downcast_ref::<ConnectFailure>().cloned()
    })
}

/// An error with its causes, each said once.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |error| error.source()) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}
