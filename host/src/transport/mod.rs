//! Between nodes: who is who, and one ordered stream of messages to each.

pub(crate) mod book;
pub(crate) mod clocks;
mod contacts;
pub mod convert;
pub(crate) mod dial;
mod epochs;
mod frame;
mod link;
mod probe;
mod queue;
mod refusal;
#[cfg(test)]
mod stall_tests;
mod verify;

use crate::config::PeerAddress;
use crate::node::clock::wall_time_ns;
use crate::node::epoch::EpochId;
use crate::node::handle::GroupHandle;
use crate::node::request::Problem;
use crate::node::router::Router;
use book::Book;
use clocks::Clocks;
pub(crate) use contacts::OpenStream;
use contacts::{Contacts, Duplicate, Sessions};
use epochs::Asked;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_proto::v1::{GroupMessage, Introduction, PeerInfo};
use kontiki_raft::{GroupId, Message, NodeId};
use kontiki_storage::{Storage, StorageError};
use link::{Addresses, Link};
pub(crate) use link::{LinkStatus, MESSAGE_SIZE_BYTES_MAX};
use queue::Outgoing;
pub(crate) use queue::QueueLimits;
pub use refusal::Refusal;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Channel;
use tracing::{error, warn};
use verify::Turns;

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
    /// Which process speaks as which node.
    contacts: Contacts,
    /// Connections that this process opened, so that others can ask for them.
    sessions: Sessions,
    /// Which nodes were asked for their epochs lately.
    asked: Asked,
    clocks: Clocks,
    turns: Turns,
    /// Nodes that are looked for because a third spoke of them, by name.
    rumours: Mutex<BTreeSet<String>>,
    /// Second processes of a node that were found.
    duplicates: AtomicU64,
    /// Set once another node has found that this process is the second of two with one id.
    set_aside: OnceLock<SetAside>,
    /// Cancelled at the same time.
    stepped_aside: CancellationToken,
}

/// Why this process takes part in nothing: another node has found that it is the second with its id.
#[derive(Clone, Debug)]
pub(crate) struct SetAside {
    /// Who found it.
    pub(crate) by: String,
    /// What was found.
    pub(crate) why: String,
}

/// A node of which a second process came.
pub(crate) struct DuplicateNode {
    pub(crate) node: NodeId,
    pub(crate) problem: Problem,
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
                contacts: Contacts::default(),
                sessions: Sessions::default(),
                asked: Asked::default(),
                clocks: Clocks::default(),
                turns: Turns::default(),
                rumours: Mutex::default(),
                duplicates: AtomicU64::new(0),
                set_aside: OnceLock::new(),
                stepped_aside: CancellationToken::new(),
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
        Introduction {
            set_aside: self.is_set_aside(),
            ..self.book().me().clone()
        }
    }

    /// This node's id.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.inner.node
    }

    /// Sends a message, or drops it and says so (false).
    pub(crate) fn send(
        &self,
        to: NodeId,
        group: GroupId,
        epoch: EpochId,
        message: Message,
    ) -> bool {
        if self.is_set_aside() || !convert::is_sendable(&message) {
            return false;
        }
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        match links.by_id.get(&to) {
            Some(link) => link.send(Outgoing {
                group,
                to,
                epoch,
                message,
            }),
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

    /// Counts a message from a peer that a group did not take.
    pub(crate) fn count_refused(&self) {
        self.inner.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Second processes of a node that were found so far.
    pub(crate) fn duplicates(&self) -> u64 {
        self.inner.duplicates.load(Ordering::Relaxed)
    }

    /// Nodes of which a second process came lately, and what to do about it.
    pub(crate) fn duplicates_lately(&self) -> Vec<DuplicateNode> {
        let found = self.contacts().duplicates().into_iter();
        found.map(|it| self.duplicate_node(&it)).collect()
    }

    fn duplicate_node(&self, it: &Duplicate) -> DuplicateNode {
        let (name, known, came) = (self.name(it.node), &it.known, &it.came);
        let problem = Problem {
            what: format!(
                "two processes say that they are node {name:?}: the one at {known} counts, the one \
                 at {came} is refused"
            ),
            next_step: format!(
                "stop the process at {came} and wipe its data directory; if it is the one to keep, \
                 stop the one at {known}, then restart the other"
            ),
        };
        DuplicateNode {
            node: it.node,
            problem,
        }
    }

    /// Why this process takes part in nothing, if it does not.
    pub(crate) fn set_aside(&self) -> Option<&SetAside> {
        self.inner.set_aside.get()
    }

    /// Whether this process takes part in nothing.
    pub(crate) fn is_set_aside(&self) -> bool {
        self.set_aside().is_some()
    }

    /// Whether a node's word counts where it could take this node, or another, out of service: the
    /// operator configured it, or a group of this node has it for a member. Anybody can become known.
    fn heeds(&self, link: &Link) -> bool {
        let node = link.node();
        let is_member = |group: &GroupHandle| group.has_member(node);
        link.is_configured() || (node.0 != 0 && self.inner.router.all().iter().any(is_member))
    }

    /// How often this node was connected to that one: another number says that there was a pause,
    /// however short, in which it may have been another process.
    pub(crate) fn connections(&self, node: NodeId) -> u64 {
        let links = self.inner.links.read();
        let links = links.unwrap_or_else(PoisonError::into_inner);
        links.by_id.get(&node).map_or(0, |link| link.connections())
    }

    /// Whether the operator configured an address for that node.
    pub(crate) fn is_configured(&self, node: NodeId) -> bool {
        let links = self.inner.links.read();
        let links = links.unwrap_or_else(PoisonError::into_inner);
        let link = links.by_id.get(&node);
        link.is_some_and(|link| link.is_configured())
    }

    /// Takes this process out of everything until it is restarted: its state is of another time than
    /// that of the process that counts, and it must not vote, acknowledge or answer in its stead.
    fn step_aside(&self, by: &str, why: &str) {
        let aside = SetAside {
            by: by.to_owned(),
            why: why.to_owned(),
        };
        if self.inner.set_aside.set(aside).is_ok() {
            error!(why, "this process was refused as a second one of its node");
            self.inner.stepped_aside.cancel();
        }
    }

    /// Resolves once this process takes part in nothing any more.
    pub(crate) async fn stepped_aside(&self) {
        self.inner.stepped_aside.cancelled().await;
    }

    /// A stream of a process that was admitted; none if it does not count any more.
    pub(crate) fn open_stream(&self, of: &Introduction) -> Option<OpenStream> {
        self.contacts().stream(of)
    }

    /// Tells every node that is connected what changed, and hears what it knows.
    fn spread(&self) {
        let links = self
            .inner
            .links
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        for link in links.by_name.values() {
            let Some(channel) = link.channel() else {
                continue;
            };
            let (transport, link) = (self.clone(), Arc::clone(link));
            self.inner.tasks.spawn(async move {
                tokio::select! {
                    () = link::exchange_books(&transport, &link, channel) => {}
                    () = transport.closed() => {}
                }
            });
        }
    }

    /// Forgets a node, so that another may take its name, and ends the link to it. If the operator
    /// configured an address for the name, a new link begins there: whoever takes the name may come
    /// to the same place. False if it was not known.
    pub(crate) fn forget(&self, name: &str) -> Result<bool, StorageError> {
        let node = self.find(name).map(|known| NodeId(known.node));
        let forgotten = self.book().forget(name)?;
        if let Some(node) = node {
            self.contacts().forget(node);
        }
        self.unlink(name);
        Ok(forgotten)
    }

    /// Ends the link to a node that was forgotten.
    fn unlink(&self, name: &str) {
        let Some(link) = self.remove_link(name) else {
            return;
        };
        link.forget();
        let configured = link.addresses.borrow().configured.clone();
        if configured.is_some() {
            self.dial(name, None, |at| at.configured = configured);
        }
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
            self.inner.tasks.spawn(link::watch(link, self.clone()));
        }
    }

    /// Takes in the wall time that a node sent; zero is none.
    pub(crate) fn note_time(&self, node: NodeId, sent_ns: u64) {
        if sent_ns > 0 {
            let clocks = &self.inner.clocks;
            clocks.note(node, sent_ns, wall_time_ns(), Instant::now());
        }
    }

    /// How far other nodes' clocks are from this one's.
    pub(crate) fn clocks(&self) -> &Clocks {
        &self.inner.clocks
    }

    /// Passes a message from the wire on to its group.
    pub(crate) fn receive(&self, from: NodeId, message: GroupMessage) {
        let handle = self.inner.router.by_id(GroupId(message.group));
        let takes_part = message.to == self.inner.node.0 && !self.is_set_aside();
        let epoch = EpochId::from_wire(message.epoch);
        let wire = message.message.filter(|_| takes_part);
        let (Some(handle), Some(wire)) = (handle, wire) else {
            self.inner.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        match convert::message_from_wire(wire) {
            Ok(message) => handle.deliver(from, epoch, message),
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
        let lazy = || dial::lazily(&link.addresses.borrow().pick(0)).ok();
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

    fn contacts(&self) -> &Contacts {
        &self.inner.contacts
    }

    fn rumours(&self) -> MutexGuard<'_, BTreeSet<String>> {
        let rumours = self.inner.rumours.lock();
        rumours.unwrap_or_else(PoisonError::into_inner)
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

/// The cause that says most: the last of the chain.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
