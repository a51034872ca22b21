//! The connection to one peer: dials, introduces, streams, and begins again.

use super::book::Source;
use super::frame::Frames;
use super::queue::{Lane, Outgoing, Queue, QueueLimits};
use super::refusal::Refusal;
use super::{Transport, dial};
use futures_util::{FutureExt as _, future};
use kontiki_proto::v1::Introduction;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_raft::NodeId;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;
use tracing::{debug, error, info, warn};

/// Largest message between nodes, above any frame that may be sent: a frame ends with the message
/// that makes it a MiB, and no append has more than its settings allow, or one entry of 64 MiB.
pub(crate) const MESSAGE_SIZE_BYTES_MAX: usize = 80 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The other side may have to look for this node at several addresses first.
const INTRODUCE_TIMEOUT: Duration = Duration::from_secs(5);
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(2);
/// The reason by which another node says that this process is the second with its id.
pub(crate) const DUPLICATE_REASON: &str = "DUPLICATE_NODE";
const BACKOFF_MIN: Duration = Duration::from_millis(20);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Where a peer may be found. The operator's word is tried first, what the peer says of itself next:
/// either may be out of date.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) configured: Option<String>,
    pub(crate) introduced: Option<String>,
}

impl Addresses {
    /// The address for the given attempt; they take turns.
    pub(crate) fn pick(&self, attempt: usize) -> String {
        let both = [&self.configured, &self.introduced];
        let known: Vec<_> = both.into_iter().flatten().collect();
        known
            .get(attempt % known.len().max(1))
            .map_or_else(String::new, |at| (*at).clone())
    }
}

/// A link at one moment.
#[derive(Clone, Debug)]
pub(crate) struct LinkStatus {
    pub(crate) name: String,
    /// Which node it leads to, once that is known.
    pub(crate) node: Option<NodeId>,
    pub(crate) connected: bool,
    /// Messages so far.
    pub(crate) sent: u64,
    pub(crate) dropped: u64,
}

/// A peer, and what is queued for it.
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) addresses: watch::Sender<Addresses>,
    queue: Arc<Queue>,
    pub(crate) connected: AtomicBool,
    /// How often it was connected.
    connections: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) sent: AtomicU64,
    /// Which node it leads to; 0 until that is known.
    node: AtomicU64,
    error: Mutex<String>,
    channel: Mutex<Option<Channel>>,
    /// Cancelled when the peer is forgotten; the link's task ends then.
    forgotten: CancellationToken,
}

impl Link {
    pub(crate) fn new(name: &str, limits: QueueLimits) -> Self {
        Self {
            name: name.to_owned(),
            addresses: watch::Sender::default(),
            queue: Arc::new(Queue::new(limits)),
            connected: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            node: AtomicU64::new(0),
            error: Mutex::new("not connected yet".to_owned()),
            channel: Mutex::new(None),
            forgotten: CancellationToken::new(),
        }
    }

    /// Ends the link for good.
    pub(crate) fn forget(&self) {
        self.forgotten.cancel();
    }

    /// Queues a message; false if it was dropped.
    pub(crate) fn send(&self, outgoing: Outgoing) -> bool {
        let queued = self.connected.load(Ordering::Acquire) && self.queue.push(outgoing);
        let counter = if queued { &self.sent } else { &self.dropped };
        counter.fetch_add(1, Ordering::Relaxed);
        queued
    }

    /// Why it is not connected, in words.
    pub(crate) fn error(&self) -> String {
        self.error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The connection that the stream runs on, for calls beside it.
    pub(crate) fn channel(&self) -> Option<Channel> {
        self.channel
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Which node it leads to, once that is known.
    pub(crate) fn set_node(&self, node: NodeId) {
        self.node.store(node.0, Ordering::Release);
    }

    pub(crate) fn status(&self) -> LinkStatus {
        LinkStatus {
            name: self.name.clone(),
            node: Some(self.node()).filter(|node| node.0 != 0),
            connected: self.connected.load(Ordering::Acquire),
            sent: self.sent.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }

    /// Whether the operator gave an address for it.
    pub(crate) fn is_configured(&self) -> bool {
        self.addresses.borrow().configured.is_some()
    }

    /// How often it was connected.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn node(&self) -> NodeId {
        NodeId(self.node.load(Ordering::Acquire))
    }

    fn up(&self, channel: Channel) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = String::new();
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = Some(channel);
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connected.store(true, Ordering::Release);
    }

    fn disconnect(&self) {
        self.connected.store(false, Ordering::Release);
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.discard();
    }

    fn down(&self, error: &LinkError) {
        self.disconnect();
        let mut text = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let now = error.to_string();
        if *text != now {
            warn!(peer = %self.name, error = %now, "no connection");
            *text = now;
        }
    }

    /// What was queued is stale by now: Raft sends it anew.
    fn discard(&self) {
        let discarded = self.queue.clear() as u64;
        self.dropped.fetch_add(discarded, Ordering::Relaxed);
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("{address}: {what}")]
    Connect { address: String, what: String },
    #[error("{address}: refused: {message}")]
    RefusedThere { address: String, message: String },
    #[error("{address}: {message}")]
    Duplicate { address: String, message: String },
    #[error(transparent)]
    RefusedHere(#[from] Refusal),
    #[error("{address}: the connection ended")]
    Ended { address: String },
}

/// Keeps `link` connected until its peer is forgotten or the transport is closed, and begins anew
/// after a fault of the program: without its link a node is cut off.
pub(crate) async fn watch(link: Arc<Link>, transport: Transport) {
    loop {
        let run = run(Arc::clone(&link), transport.clone());
        if AssertUnwindSafe(run).catch_unwind().await.is_ok() {
            return;
        }
        error!(peer = %link.name, "a link's task panicked");
        link.disconnect();
        tokio::time::sleep(BACKOFF_MAX).await;
    }
}

async fn run(link: Arc<Link>, transport: Transport) {
    tokio::select! {
        () = keep_connected(&link, &transport) => {}
        () = transport.closed() => {}
        () = link.forgotten.cancelled() => {
            info!(peer = %link.name, "forgotten");
            link.disconnect();
            transport.lost(link.node());
        }
    }
}

/// Dials again and again.
async fn keep_connected(link: &Arc<Link>, transport: &Transport) {
    let mut addresses = link.addresses.subscribe();
    let mut backoff = BACKOFF_MIN;
    for attempt in 0.. {
        let at = addresses.borrow_and_update().pick(attempt);
        let error = session(link, transport, &at, &mut backoff).await;
        if let LinkError::Duplicate { message, .. } = &error
            && transport.heeds(link)
        {
            transport.step_aside(&link.name, message);
        }
        link.down(&error);
        if transport.is_finishing() {
            return;
        }
        transport.lost(link.node());
        let wait = jitter(backoff);
        backoff = (backoff * 2).min(BACKOFF_MAX);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = addresses.changed() => {}
            () = transport.finishing() => return,
        }
    }
}

/// Connects and streams; returns when it is over, with the reason.
async fn session(
    link: &Arc<Link>,
    transport: &Transport,
    address: &str,
    backoff: &mut Duration,
) -> LinkError {
    // The other side asks for it while it lasts.
    let session = transport.inner.sessions.open(&link.name);
    let me = Introduction {
        session: session.id.clone(),
        ..transport.me()
    };
    let connected = tokio::select! {
        connected = introduce(link, transport, address, &me) => connected,
        () = transport.finishing() => return ended(address),
    };
    let connected = match connected {
        Ok(connected) => connected,
        Err(error) => return error,
    };
    let (channel, them) = connected;
    exchange_books(transport, link, channel.clone()).await;
    let bulk = tokio::select! {
        called = call(link, address, &me) => called,
        () = transport.finishing() => return ended(address),
    };
    let bulk = match bulk {
        // A name may lead elsewhere the next time.
        Ok((bulk, same)) if same.incarnation == them.incarnation => bulk,
        Ok(_) => return ended(address),
        Err(error) => return error,
    };
    // Before anything is sent: a node that was left behind by a recovery learns it here.
    exchange_epochs(transport, NodeId(them.node), channel.clone()).await;
    link.discard();
    info!(peer = %link.name, node = them.node, address, "connected");
    *backoff = BACKOFF_MIN;
    link.up(channel.clone());
    let urgent = pin!(stream(link, transport, (channel, Lane::Urgent), &me));
    let bulk = pin!(stream(link, transport, (bulk, Lane::Bulk), &me));
    // Both or none: whoever is reached by heartbeats alone would be sent entries in vain.
    // A process that steps aside says nothing more, but stays: where it counted, none may take its place
    // while it runs.
    let streamed = future::select(urgent, bulk).await;
    let (over, other) = streamed.factor_first();
    if over.is_ok() && transport.is_finishing() {
        // What is queued in the other lane leaves too; how that ends is of no interest.
        let _ = other.await;
    }
    match over {
        Ok(()) => ended(address),
        Err(status) => status_error(address, &status),
    }
}

/// Sends what is queued in one lane until the connection ends.
async fn stream(
    link: &Arc<Link>,
    transport: &Transport,
    (channel, lane): (Channel, Lane),
    me: &Introduction,
) -> Result<(), tonic::Status> {
    let over = Over(Arc::new(AtomicBool::new(false)));
    let frames = Frames::new(
        me.clone(),
        (Arc::clone(&link.queue), lane),
        Arc::clone(&over.0),
        transport.inner.finishing.clone(),
    );
    client(channel).stream(frames).await.map(drop)
}

fn ended(address: &str) -> LinkError {
    LinkError::Ended {
        address: address.to_owned(),
    }
}

/// Ends a connection's frames when it is given up, however that happens.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Connects, says who this node is, and takes in who answers.
async fn introduce(
    link: &Arc<Link>,
    transport: &Transport,
    address: &str,
    me: &Introduction,
) -> Result<(Channel, Introduction), LinkError> {
    let (channel, them) = call(link, address, me).await?;
    if transport.is_set_aside() {
        return Err(Refusal::SetAside(me.name.clone()).into());
    }
    transport.meet(&them, address, Source::Itself).await?;
    Ok((channel, them))
}

/// Connects and says who this node is.
async fn call(
    link: &Arc<Link>,
    address: &str,
    me: &Introduction,
) -> Result<(Channel, Introduction), LinkError> {
    let failed = |what: String| LinkError::Connect {
        address: address.to_owned(),
        what,
    };
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, dial::now(address));
    let channel = match connecting.await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => return Err(failed(super::innermost(&error))),
        Err(_) => {
            return Err(failed(format!("no connection within {CONNECT_TIMEOUT:?}")));
        }
    };
    let mut client = client(channel.clone());
    let mut request = tonic::Request::new(me.clone());
    request.set_timeout(INTRODUCE_TIMEOUT);
    let reply = client
        .introduce(request)
        .await
        .map_err(|status| status_error(address, &status))?;
    let them = reply.into_inner();
    if them.name != link.name {
        return Err(Refusal::OtherName {
            wanted: link.name.clone(),
            found: them.name,
        }
        .into());
    }
    Ok((channel, them))
}

/// Tells another node where nodes are, and hears it from it. Nodes that all moved at once find each
/// other so, by way of any node that both can reach.
pub(crate) async fn exchange_books(transport: &Transport, link: &Link, channel: Channel) {
    let mut request = tonic::Request::new(transport.address_book());
    request.set_timeout(EXCHANGE_TIMEOUT);
    match client(channel).exchange_books(request).await {
        Ok(heard) => transport.take_in(link, heard.into_inner()).await,
        Err(error) => debug!(%error, "no addresses exchanged"),
    }
}

/// Tells another node of the epochs of recovered groups, and hears it from it.
pub(super) async fn exchange_epochs(transport: &Transport, node: NodeId, channel: Channel) {
    let mut request = tonic::Request::new(transport.epochs());
    request.set_timeout(EXCHANGE_TIMEOUT);
    match client(channel).exchange_epochs(request).await {
        Ok(heard) => transport.take_in_epochs(node, heard.into_inner()).await,
        Err(error) => debug!(%error, "no epochs exchanged"),
    }
}

fn status_error(address: &str, status: &tonic::Status) -> LinkError {
    let address = address.to_owned();
    let message = status.message().to_owned();
    let details = status.get_error_details();
    if details
        .error_info()
        .is_some_and(|it| it.reason == DUPLICATE_REASON)
    {
        return LinkError::Duplicate { address, message };
    }
    match status.code() {
        tonic::Code::FailedPrecondition => LinkError::RefusedThere { address, message },
        _ => LinkError::Connect {
            address,
            what: super::innermost(status),
        },
    }
}

fn client(channel: Channel) -> PeerClient<Channel> {
    PeerClient::new(channel)
        .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX)
}

/// Between half of `wait` and all of it, so that nodes do not dial in step.
fn jitter(wait: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX / 2);
    wait / 2 + wait.mul_f64(f64::from(random) / f64::from(u32::MAX) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_take_turns() {
        let mut addresses = Addresses {
            configured: None,
            introduced: Some("b".into()),
        };
        assert_eq!([0, 1].map(|attempt| addresses.pick(attempt)), ["b", "b"]);
        addresses.configured = Some("a".into());
        assert_eq!(
            [0, 1, 2].map(|attempt| addresses.pick(attempt)),
            ["a", "b", "a"]
        );
        assert_eq!(Addresses::default().pick(3), "");
    }
}
