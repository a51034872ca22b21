//! Which process speaks as which node, while this one runs. Nothing of it is kept: after a restart
//! the first that is found at a node's known address counts.

use super::refusal::Refusal;
use bytes::Bytes;
use kontiki_proto::v1::Introduction;
use kontiki_raft::NodeId;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Refused processes that are remembered, per node.
const REFUSED_MAX: usize = 16;
/// Nodes of which anything is remembered: more than can be known.
const NODES_MAX: usize = 1_024;
/// How long a refused process is shown after it came last. It comes again every few seconds.
const SHOWN: Duration = Duration::from_secs(20);

/// The processes that are taken for the nodes they say they are.
#[derive(Clone, Default)]
pub(crate) struct Contacts {
    nodes: Arc<Mutex<HashMap<NodeId, Contact>>>,
}

#[derive(Default)]
struct Contact {
    live: Option<Live>,
    /// Oldest first.
    refused: VecDeque<Refused>,
}

/// The process that counts.
struct Live {
    incarnation: u64,
    /// Where it was found.
    address: String,
    /// The last session that it has confirmed.
    session: Bytes,
    /// Streams of it that are open.
    streams: usize,
    /// Cancelled when another takes its place.
    over: CancellationToken,
}

/// A process that was refused as a second one.
struct Refused {
    incarnation: u64,
    known: String,
    came: String,
    at: Instant,
}

/// The process that counts, as others need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) incarnation: u64,
    pub(crate) address: String,
    pub(crate) is_streaming: bool,
}

/// A second process that came lately.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Duplicate {
    pub(crate) node: NodeId,
    pub(crate) known: String,
    pub(crate) came: String,
}

impl Contacts {
    /// The process that counts for a node.
    pub(crate) fn seen(&self, node: NodeId) -> Option<Seen> {
        let nodes = self.lock();
        let live = nodes.get(&node)?.live.as_ref()?;
        Some(Seen {
            incarnation: live.incarnation,
            address: live.address.clone(),
            is_streaming: live.streams > 0,
        })
    }

    /// Whether this process has confirmed this session already.
    pub(crate) fn has_confirmed(&self, of: &Introduction) -> bool {
        let nodes = self.lock();
        let live = nodes.get(&NodeId(of.node)).and_then(|it| it.live.as_ref());
        live.is_some_and(|live| {
            live.incarnation == of.incarnation
                && live.session == of.session
                && !of.session.is_empty()
        })
    }

    /// The process that gave this introduction counts from now on, found at `address`. The streams
    /// of an earlier one end.
    pub(crate) fn accept(&self, of: &Introduction, address: &str) {
        let mut nodes = self.lock();
        let contact = nodes.entry(NodeId(of.node)).or_default();
        let same = contact.live.take().filter(|live| {
            let same = live.incarnation == of.incarnation;
            if !same {
                live.over.cancel();
            }
            same
        });
        let mut live = same.unwrap_or_else(|| Live {
            incarnation: of.incarnation,
            address: String::new(),
            session: Bytes::new(),
            streams: 0,
            over: CancellationToken::new(),
        });
        address.clone_into(&mut live.address);
        if !of.session.is_empty() {
            live.session = of.session.clone();
        }
        contact.live = Some(live);
    }

    /// A stream of the process that counts; none if it does not count (any more).
    pub(crate) fn stream(&self, of: &Introduction) -> Option<OpenStream> {
        let node = NodeId(of.node);
        let mut nodes = self.lock();
        let live = nodes.get_mut(&node)?.live.as_mut()?;
        if live.incarnation != of.incarnation {
            return None;
        }
        live.streams += 1;
        Some(OpenStream {
            contacts: self.clone(),
            node,
            incarnation: of.incarnation,
            over: live.over.clone(),
        })
    }

    /// Remembers that a process was found to be a second one. True if it is the first time.
    pub(crate) fn refuse(&self, of: &Introduction, known: &str, came: &str) -> bool {
        let mut nodes = self.lock();
        if nodes.len() >= NODES_MAX && !nodes.contains_key(&NodeId(of.node)) {
            return false;
        }
        let refused = &mut nodes.entry(NodeId(of.node)).or_default().refused;
        let before = refused.len();
        refused.retain(|one| one.incarnation != of.incarnation);
        let is_new = refused.len() == before;
        if refused.len() == REFUSED_MAX {
            refused.pop_front();
        }
        refused.push_back(Refused {
            incarnation: of.incarnation,
            known: known.to_owned(),
            came: came.to_owned(),
            at: Instant::now(),
        });
        is_new
    }

    /// Whether a process was found to be a second one before. It stays refused, whatever became of
    /// the other: its state is of another time.
    pub(crate) fn check(&self, of: &Introduction) -> Result<(), Refusal> {
        let mut nodes = self.lock();
        let refused = nodes.get_mut(&NodeId(of.node)).and_then(|contact| {
            let mut all = contact.refused.iter_mut();
            all.find(|one| one.incarnation == of.incarnation)
        });
        let Some(refused) = refused else {
            return Ok(());
        };
        refused.at = Instant::now();
        Err(Refusal::Duplicate {
            name: of.name.clone(),
            known: refused.known.clone(),
            came: refused.came.clone(),
        })
    }

    /// Second processes that came lately.
    pub(crate) fn duplicates(&self) -> Vec<Duplicate> {
        let nodes = self.lock();
        let one = |(node, contact): (&NodeId, &Contact)| {
            let last = contact.refused.iter().max_by_key(|one| one.at)?;
            (last.at.elapsed() < SHOWN).then(|| Duplicate {
                node: *node,
                known: last.known.clone(),
                came: last.came.clone(),
            })
        };
        let mut all: Vec<_> = nodes.iter().filter_map(one).collect();
        all.sort_unstable_by_key(|duplicate| duplicate.node);
        all
    }

    /// Forgets a node; its streams end.
    pub(crate) fn forget(&self, node: NodeId) {
        let forgotten = self.lock().remove(&node);
        if let Some(live) = forgotten.and_then(|contact| contact.live) {
            live.over.cancel();
        }
    }

    fn stream_ended(&self, node: NodeId, incarnation: u64) {
        let mut nodes = self.lock();
        let live = nodes.get_mut(&node).and_then(|it| it.live.as_mut());
        if let Some(live) = live.filter(|live| live.incarnation == incarnation) {
            live.streams = live.streams.saturating_sub(1);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Contact>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a stream of the process that counts while it is open.
pub(crate) struct OpenStream {
    contacts: Contacts,
    node: NodeId,
    incarnation: u64,
    over: CancellationToken,
}

impl OpenStream {
    /// Resolves when another process has taken the place of this one.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.contacts.stream_ended(self.node, self.incarnation);
    }
}

/// Sessions that this process has opened, and to which node.
#[derive(Clone, Default)]
pub(crate) struct Sessions {
    open: Arc<Mutex<HashMap<Bytes, String>>>,
}

/// One session; closed when it is dropped.
pub(crate) struct Session {
    sessions: Sessions,
    pub(crate) id: Bytes,
}

impl Sessions {
    /// Opens a session to the node of that name. Without random bytes nobody can confirm it.
    pub(crate) fn open(&self, to: &str) -> Session {
        let mut id = [0; 16];
        let id = match getrandom::fill(&mut id) {
            Ok(()) => Bytes::copy_from_slice(&id),
            Err(_) => Bytes::new(),
        };
        if !id.is_empty() {
            self.lock().insert(id.clone(), to.to_owned());
        }
        Session {
            sessions: self.clone(),
            id,
        }
    }

    /// Whether this process has the session open to the node of that name.
    pub(crate) fn is_open(&self, id: &Bytes, to: &str) -> bool {
        self.lock().get(id).is_some_and(|name| name == to)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Bytes, String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.sessions.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N2: NodeId = NodeId(2);

    fn process(incarnation: u64, session: &'static [u8]) -> Introduction {
        Introduction {
            node: N2.0,
            name: "n2".into(),
            incarnation,
            session: Bytes::from_static(session),
            ..Introduction::default()
        }
    }

    #[test]
    fn streams_end_when_another_process_takes_the_place() {
        let contacts = Contacts::default();
        assert!(contacts.stream(&process(7, b"a")).is_none(), "not accepted");
        contacts.accept(&process(7, b"a"), "p:1");
        let stream = contacts.stream(&process(7, b"a")).unwrap();
        assert!(contacts.seen(N2).unwrap().is_streaming);
        contacts.accept(&process(7, b"b"), "p:1");
        assert!(!stream.over.is_cancelled(), "the same process dials anew");
        contacts.accept(&process(8, b"c"), "p:1");
        assert!(stream.over.is_cancelled());
        let later = contacts.stream(&process(8, b"c")).unwrap();
        drop(stream);
        assert!(contacts.seen(N2).unwrap().is_streaming, "that of the later");
        drop(later);
        assert!(!contacts.seen(N2).unwrap().is_streaming);
        assert!(contacts.stream(&process(7, b"a")).is_none());
    }

    #[test]
    fn a_session_is_confirmed_for_the_process_that_did() {
        let contacts = Contacts::default();
        contacts.accept(&process(7, b"a"), "p:1");
        assert!(contacts.has_confirmed(&process(7, b"a")));
        assert!(!contacts.has_confirmed(&process(7, b"b")));
        assert!(!contacts.has_confirmed(&process(8, b"a")));
        // Found by calling it: that confirms no session.
        contacts.accept(&process(9, b""), "p:1");
        assert!(!contacts.has_confirmed(&process(9, b"")));
    }

    #[test]
    fn a_refused_process_stays_refused_and_few_are_remembered() {
        let contacts = Contacts::default();
        assert!(contacts.refuse(&process(7, b""), "p:1", "q:1"));
        assert!(!contacts.refuse(&process(7, b""), "p:1", "q:1"));
        contacts.forget(NodeId(3));
        contacts.accept(&process(8, b""), "p:1");
        let refused = contacts.check(&process(7, b"")).unwrap_err();
        assert!(refused.is_duplicate(), "{refused}");
        contacts.check(&process(8, b"")).unwrap();
        for incarnation in 100..200 {
            contacts.refuse(&process(incarnation, b""), "p:1", "r:1");
        }
        contacts.check(&process(7, b"")).unwrap();
        assert_eq!(contacts.lock()[&N2].refused.len(), REFUSED_MAX);
        let shown = contacts.duplicates();
        assert_eq!(shown.len(), 1);
        assert_eq!((shown[0].node, shown[0].came.as_str()), (N2, "r:1"));
    }

    #[test]
    fn a_session_is_open_to_one_node_until_it_is_dropped() {
        let sessions = Sessions::default();
        let session = sessions.open("n2");
        let id = session.id.clone();
        assert!(sessions.is_open(&id, "n2"));
        assert!(!sessions.is_open(&id, "n3"), "it was opened to another");
        assert!(!sessions.is_open(&Bytes::new(), "n2"));
        drop(session);
        assert!(!sessions.is_open(&id, "n2"));
    }
}
