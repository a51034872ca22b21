//! Between nodes: who is who, and one ordered stream of messages to each.

pub(crate) mod book;
pub mod convert;
mod frame;
mod link;
mod queue;
#[cfg(test)]
mod stall_tests;

use crate::config::PeerAddress;
use crate::node::router::Router;
pub use book::Refusal;
use book::{Book, Source};
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_proto::v1::{AddressBook, GroupMessage, Introduction, PeerInfo};
use kontiki_raft::{GroupId, Message, NodeId};
use kontiki_storage::{Storage, StorageError};
use link::{Addresses, Link};
pub(crate) use link::{LinkStatus, MESSAGE_SIZE_BYTES_MAX};
use queue::Outgoing;
pub(crate) use queue::QueueLimits;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};
use tracing::{debug, error, warn};

/// The connections of a node. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    name: String,
    book: Mutex<Book>,
    links: RwLock<Links>,
    router: Router,
    queue: QueueLimits,
    tasks: TaskTracker,
    /// No more is sent than what is queued.
    finishing: CancellationToken,
    closed: CancellationToken,
    /// Messages from peers that were refused: not valid, not for this node, or of no group here.
    refused: AtomicU64,
}

#[derive(Default)]
struct Links {
    by_name: BTreeMap<String, Arc<Link>>,
    by_id: HashMap<NodeId, Arc<Link>>,
}

impl Transport {
    /// Opens the address book, numbers the node's addresses and begins to dial every node known from it or from `peers`.
    pub(crate) fn start(
        me: Introduction,
        storage: Arc<dyn Storage>,
        peers: &[PeerAddress],
        queue: QueueLimits,
        router: Router,
    ) -> Result<Self, StorageError> {
        let (node, name) = (NodeId(me.node), me.name.clone());
        let mut book = Book::open(me, storage)?;
        book.number_addresses()?;
        let known: Vec<Introduction> = book.nodes().cloned().collect();
        let transport = Self {
            inner: Arc::new(Inner {
                node,
                name,
                book: Mutex::new(book),
                links: RwLock::default(),
                router,
                queue,
                tasks: TaskTracker::new(),
                finishing: CancellationToken::new(),
                closed: CancellationToken::new(),
                refused: AtomicU64::new(0),
            }),
        };
        for peer in peers {
            transport.dial(&peer.name, None, |at| {
                at.configured = Some(peer.address.to_string());
            });
        }
        for node in &known {
            transport.dial_introduced(node);
        }
        Ok(transport)
    }

    /// Who this node is.
    #[must_use]
    pub fn me(&self) -> Introduction {
        self.book().me().clone()
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Sends a message, or drops it and says so (false).
    pub(crate) fn send(&self, to: NodeId, group: GroupId, message: Message) -> bool {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        match links.by_id.get(&to) {
            Some(link) => link.send(Outgoing { group, to, message }),
            None => false,
        }
    }

    /// Whether messages to this node go out.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let link = links.by_id.get(&node);
        link.is_some_and(|link| link.connected.load(Ordering::Acquire))
    }

    /// What is known of a node.
    #[must_use]
    pub fn introduction(&self, node: NodeId) -> Option<Introduction> {
        self.book().by_id(node).cloned()
    }

    /// The node of that name or, in decimal, id.
    #[must_use]
    pub fn find(&self, name_or_id: &str) -> Option<Introduction> {
        self.book().find(name_or_id).cloned()
    }

    /// What people call a node; its id if nobody knows.
    #[must_use]
    pub fn name(&self, node: NodeId) -> String {
        let known = self.introduction(node);
        known.map_or_else(|| node.to_string(), |known| known.name)
    }

    /// Every other node, known or only configured.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerInfo> {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let links: Vec<_> = links.by_name.values().cloned().collect();
        let book = self.book();
        let info = |link: &Arc<Link>| PeerInfo {
            node: Some(
                book.find(&link.name)
                    .cloned()
                    .unwrap_or_else(|| Introduction {
                        name: link.name.clone(),
                        peer_address: link.addresses.borrow().pick(0),
                        ..Introduction::default()
                    }),
            ),
            connected: link.connected.load(Ordering::Acquire),
            error: link.error(),
        };
        links.iter().map(info).collect()
    }

    /// How the links to other nodes are. Unlike [`Transport::peers`] it never waits for the book,
    /// which is locked while it is written.
    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        links.by_name.values().map(|link| link.status()).collect()
    }

    /// Messages from peers that were refused so far.
    pub(crate) fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    /// Takes in what another node says about itself, durably, and dials it if it is new.
    ///
    /// # Errors
    /// Says why it is not spoken to.
    pub(crate) async fn meet(&self, other: Introduction) -> Result<(), Refusal> {
        self.learn(other, Source::Itself).await
    }

    /// Takes in what this node was told of another one by a third, as far as it is news.
    ///
    /// # Errors
    /// Says why that node would not be spoken to.
    pub(crate) async fn hear_of(&self, other: Introduction) -> Result<(), Refusal> {
        self.learn(other, Source::Hearsay).await
    }

    async fn learn(&self, other: Introduction, source: Source) -> Result<(), Refusal> {
        self.book().check(&other)?;
        let before = self.introduction(NodeId(other.node));
        let transport = self.clone();
        let learnt = other.clone();
        let learning = tokio::task::spawn_blocking(move || transport.book().learn(&learnt, source));
        match learning.await {
            Ok(Ok(_)) => {}
            // The identity is checked all the same; it is met again after a restart.
            Ok(Err(error)) => error!(peer = %other.name, %error, "the address book is not written"),
            Err(error) => warn!(peer = %other.name, %error, "the address book is not written"),
        }
        let now = self.introduction(NodeId(other.node)).unwrap_or(other);
        self.dial_introduced(&now);
        if before.is_some_and(|before| before.address_epoch < now.address_epoch) {
            self.spread();
        }
        Ok(())
    }

    /// Every node that this one knows, itself included.
    pub(crate) fn address_book(&self) -> AddressBook {
        let book = self.book();
        let nodes = book.nodes().chain([book.me()]).cloned().collect();
        AddressBook { nodes }
    }

    /// Takes in where another node says that nodes are. Only nodes known already are looked at: a
    /// node that was forgotten is not to come back by hearsay.
    pub(crate) async fn take_in(&self, heard: AddressBook) {
        for other in heard.nodes {
            let known = self.book().knows(&other);
            if other.node == self.inner.node.0 {
                self.outdo(other).await;
            } else if known && let Err(refusal) = self.hear_of(other).await {
                debug!(%refusal, "what is said of a node is not taken");
            }
        }
    }

    /// Others may know later addresses of this node than it gave itself.
    async fn outdo(&self, heard: Introduction) {
        let transport = self.clone();
        let outdoing = tokio::task::spawn_blocking(move || transport.book().outdo(&heard));
        match outdoing.await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => {
                warn!("others know later addresses of this node: was its data restored?");
                self.spread();
            }
            Ok(Err(error)) => error!(%error, "the own introduction is not written"),
            Err(error) => warn!(%error, "the own introduction is not written"),
        }
    }

    /// Tells every node that is connected what changed, and hears what it knows.
    fn spread(&self) {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for channel in links.by_name.values().filter_map(|link| link.channel()) {
            let transport = self.clone();
            self.inner.tasks.spawn(async move {
                tokio::select! {
                    () = link::exchange_books(&transport, channel) => {}
                    () = transport.closed() => {}
                }
            });
        }
    }

    /// Forgets a node, so that another may take its name, and ends the link to it. If the operator
    /// configured an address for the name, a new link begins there: whoever takes the name may come
    /// to the same place. False if it was not known.
    pub(crate) fn forget(&self, name: &str) -> Result<bool, StorageError> {
        let forgotten = self.book().forget(name)?;
        let Some(link) = self.remove_link(name) else {
            return Ok(forgotten);
        };
        link.forget();
        let configured = link.addresses.borrow().configured.clone();
        if configured.is_some() {
            self.dial(name, None, |at| at.configured = configured);
        }
        Ok(forgotten)
    }

    fn remove_link(&self, name: &str) -> Option<Arc<Link>> {
        let mut links = self
            .inner
            .links
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        links.by_id.retain(|_, link| link.name != name);
        links.by_name.remove(name)
    }

    /// Makes a link to a node that was met, or tells the one there is.
    fn dial_introduced(&self, node: &Introduction) {
        self.dial(&node.name, Some(NodeId(node.node)), |at| {
            at.introduced = Some(node.peer_address.clone()).filter(|at| !at.is_empty());
        });
    }

    /// Makes a link to a node, or corrects the addresses of the one there is.
    fn dial(&self, name: &str, node: Option<NodeId>, correct: impl FnOnce(&mut Addresses)) {
        if name == self.inner.name {
            return;
        }
        let mut links = self
            .inner
            .links
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = links.by_name.get(name).cloned();
        let link = known.clone().unwrap_or_else(|| {
            let link = Arc::new(Link::new(name, self.inner.queue));
            links.by_name.insert(name.to_owned(), Arc::clone(&link));
            link
        });
        link.addresses.send_if_modified(|addresses| {
            let before = addresses.clone();
            correct(addresses);
            *addresses != before
        });
        if let Some(node) = node {
            link.set_node(node);
            links.by_id.insert(node, Arc::clone(&link));
        }
        if known.is_none() {
            self.inner.tasks.spawn(link::run(link, self.clone()));
        }
    }

    /// Passes a message from the wire on to its group.
    pub(crate) fn receive(&self, from: NodeId, message: GroupMessage) {
        let handle = self.inner.router.by_id(GroupId(message.group));
        let wire = message.message.filter(|_| message.to == self.inner.node.0);
        let (Some(handle), Some(wire)) = (handle, wire) else {
            self.inner.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match convert::message_from_wire(wire) {
            Ok(message) => handle.deliver(from, message),
            Err(error) => {
                self.inner.refused.fetch_add(1, Ordering::Relaxed);
                warn!(peer = from.0, group = message.group, %error, "a message is not valid");
            }
        }
    }

    /// A client for calls to a node beside the stream.
    pub(crate) fn peer_client(&self, name: &str) -> Option<PeerClient<Channel>> {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let link = links.by_name.get(name)?;
        let lazy = || {
            Some(
                endpoint(&link.addresses.borrow().pick(0))
                    .ok()?
                    .connect_lazy(),
            )
        };
        Some(PeerClient::new(link.channel().or_else(lazy)?))
    }

    /// Tells every group that a node cannot be reached.
    fn lost(&self, node: NodeId) {
        self.inner.router.unreachable(node);
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.inner
            .book
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the transport is closed.
    async fn closed(&self) {
        self.inner.closed.cancelled().await;
    }

    /// Whether nothing is to be sent but what is queued already.
    fn is_finishing(&self) -> bool {
        self.inner.finishing.is_cancelled()
    }

    /// Resolves when nothing more is to be queued.
    async fn finishing(&self) {
        self.inner.finishing.cancelled().await;
    }

    /// Lets what is queued leave, for at most `limit`, then ends every connection and waits until
    /// they have ended. A peer has taken in what was sent when its side of the stream has ended.
    pub(crate) async fn finish(&self, limit: Duration) {
        self.inner.tasks.close();
        self.inner.finishing.cancel();
        let left = tokio::time::timeout(limit, self.inner.tasks.wait()).await;
        if left.is_err() {
            warn!("not everything that was queued for other nodes has left");
        }
        self.inner.closed.cancel();
        self.inner.tasks.wait().await;
    }
}

/// How other nodes are dialled.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(Duration::from_secs(1))
        .tcp_nodelay(true)
        .tcp_keepalive(Some(Duration::from_secs(10)))
        .http2_keep_alive_interval(Duration::from_secs(2))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(8 << 20)
        .initial_connection_window_size(16 << 20))
}

/// The cause that says most: the last of the chain.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
