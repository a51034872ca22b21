//! The address book: every node this one has met, durable. A name is pinned to the id it first came
//! with; addresses may change. How many nodes are known, and how much of each, is bounded.

use super::refusal::Refusal;
use kontiki_proto::PEER_PROTOCOL;
use kontiki_proto::v1::{AddressBook, ForgottenNode, Introduction};
use kontiki_raft::NodeId;
use kontiki_storage::{Storage, StorageError};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Key of the node record that holds the book.
const RECORD: &str = "address-book";
/// Key of the node record that holds this node's own introduction at its last start.
const OWN_RECORD: &str = "introduction";
/// As many other nodes are known. Each costs a connection that is dialled for ever, so whoever makes
/// nodes up must not be able to add to them without end.
pub(crate) const NODES_MAX: usize = 256;
/// The latest forgotten nodes that are kept out of hearsay.
const FORGOTTEN_MAX: usize = 256;
/// Longest version and engine profile that a node may have.
const TEXT_SIZE_BYTES_MAX: usize = 256;
/// A node counts its moves; none has moved so often.
const ADDRESS_EPOCH_MAX: u64 = 1 << 32;

/// From whom an introduction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From the node itself, reached at the address where it is said to be.
    Itself,
    /// From another node, and found where it said.
    Hearsay,
}

/// The address book of one node.
pub(crate) struct Book {
    me: Introduction,
    nodes: BTreeMap<String, Introduction>,
    /// Oldest first.
    forgotten: Vec<ForgottenNode>,
    storage: Arc<dyn Storage>,
    /// This node's own number was raised because others knew a higher one.
    outdone: bool,
}

impl Book {
    /// Reads the book of the node that `me` introduces.
    ///
    /// # Errors
    /// `NodeRecordUnreadable` if it has no form that this version reads: an empty one in its place
    /// would let strangers take the names of members.
    pub(crate) fn open(me: Introduction, storage: Arc<dyn Storage>) -> Result<Self, StorageError> {
        let book: AddressBook = read(&*storage, RECORD)?;
        let nodes = book
            .nodes
            .into_iter()
            .map(|node| (node.name.clone(), node))
            .collect();
        Ok(Self {
            me,
            nodes,
            forgotten: book.forgotten,
            storage,
            outdone: false,
        })
    }

    /// How this node introduces itself.
    pub(crate) fn me(&self) -> &Introduction {
        &self.me
    }

    /// Numbers this node's addresses, higher than before if they differ from those at its last
    /// start. Durable on return.
    pub(crate) fn number_addresses(&mut self) -> Result<(), StorageError> {
        let before: Introduction = read(&*self.storage, OWN_RECORD)?;
        let moved = addresses(&before) != addresses(&self.me);
        self.me.address_epoch = before.address_epoch + u64::from(moved);
        match moved {
            true => self.save_own(),
            false => Ok(()),
        }
    }

    /// Others know later addresses of this node than it has given itself: its data was restored from
    /// a copy. It takes a higher number, once: a second process with the same data would answer with
    /// a higher one for ever. True if it did. Durable on return.
    pub(crate) fn outdo(&mut self, heard: &Introduction) -> Result<bool, StorageError> {
        let is_me = (heard.node, &heard.name) == (self.me.node, &self.me.name);
        let newer = heard.address_epoch > self.me.address_epoch
            || (heard.address_epoch == self.me.address_epoch
                && addresses(heard) != addresses(&self.me));
        let honest = heard.address_epoch < ADDRESS_EPOCH_MAX;
        if !is_me || !newer || !honest || self.outdone {
            return Ok(false);
        }
        self.outdone = true;
        self.me.address_epoch = heard.address_epoch + 1;
        self.save_own()?;
        Ok(true)
    }

    fn save_own(&self) -> Result<(), StorageError> {
        self.storage
            .put_node_record(OWN_RECORD, &lasting(&self.me).encode_to_vec())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Introduction> {
        self.nodes.values()
    }

    /// The latest that were forgotten, oldest first.
    pub(crate) fn forgotten(&self) -> &[ForgottenNode] {
        &self.forgotten
    }

    pub(crate) fn by_id(&self, node: NodeId) -> Option<&Introduction> {
        if node.0 == self.me.node {
            return Some(&self.me);
        }
        self.nodes.values().find(|known| known.node == node.0)
    }

    /// The node of that name or, in decimal, id.
    pub(crate) fn find(&self, name_or_id: &str) -> Option<&Introduction> {
        if name_or_id == self.me.name {
            return Some(&self.me);
        }
        let by_name = self.nodes.get(name_or_id);
        by_name.or_else(|| self.by_id(NodeId(name_or_id.parse().ok()?)))
    }

    /// Whether this node may speak to the one that introduces itself so.
    pub(crate) fn check(&self, other: &Introduction) -> Result<(), Refusal> {
        if crate::config::name_fault(&other.name).is_some() || other.node == 0 {
            return Err(Refusal::Invalid("name or id"));
        }
        let name = other.name.clone();
        if other.protocol != PEER_PROTOCOL {
            return Err(Refusal::OtherProtocol {
                name,
                version: other.version.clone(),
                theirs: other.protocol,
                ours: PEER_PROTOCOL,
            });
        }
        if other.cluster != self.me.cluster {
            return Err(Refusal::OtherCluster {
                name,
                theirs: other.cluster.clone(),
                ours: self.me.cluster.clone(),
            });
        }
        if let Some(fault) = fault(other) {
            return Err(Refusal::Invalid(fault));
        }
        self.check_identity(other)?;
        if !self.nodes.contains_key(&name) && self.nodes.len() >= NODES_MAX {
            let limit = NODES_MAX;
            return Err(Refusal::BookFull { name, limit });
        }
        Ok(())
    }

    fn check_identity(&self, other: &Introduction) -> Result<(), Refusal> {
        let known = self.find(&other.name);
        if let Some(known) = known.filter(|known| known.node != other.node) {
            return Err(Refusal::IdentityChanged {
                name: other.name.clone(),
                known: known.node,
                came: other.node,
            });
        }
        if other.node == self.me.node {
            return Err(Refusal::Itself(other.name.clone()));
        }
        match self.by_id(NodeId(other.node)) {
            Some(known) if known.name != other.name => Err(Refusal::IdTaken {
                came: other.name.clone(),
                known: known.name.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Whether what a third node says of this one is worth a look: it is new here and nobody had it
    /// forgotten, or it is said to have moved since.
    pub(crate) fn is_worth_a_look(&self, other: &Introduction) -> bool {
        let forgotten = self.forgotten.iter().any(|gone| gone.node == other.node);
        let news = match self.nodes.get(&other.name) {
            None => !forgotten,
            Some(known) => other.address_epoch > known.address_epoch,
        };
        news && self.check(other).is_ok()
    }

    /// Takes an introduction into the book, if it may be and says anything new; true if it does.
    /// Durable on return. The record is small and changes seldom, so it is written whole.
    ///
    /// # Errors
    /// The refusal, or inside it what the storage said. After an error of the storage the node is
    /// known all the same, until a restart.
    pub(crate) fn learn(
        &mut self,
        other: &Introduction,
        source: Source,
    ) -> Result<Result<bool, StorageError>, Refusal> {
        self.check(other)?;
        let other = lasting(other);
        let known = self.nodes.get(&other.name);
        let is_news = match source {
            Source::Itself => known != Some(&other),
            Source::Hearsay => self.is_worth_a_look(&other),
        };
        if !is_news {
            return Ok(Ok(false));
        }
        self.forgotten.retain(|gone| gone.node != other.node);
        self.nodes.insert(other.name.clone(), other);
        Ok(self.save().map(|()| true))
    }

    /// Forgets a node, so that its name may be taken by another, and keeps it from coming back by
    /// hearsay. False if it was not known. Durable on return.
    pub(crate) fn forget(&mut self, name: &str) -> Result<bool, StorageError> {
        let Some(gone) = self.nodes.remove(name) else {
            return Ok(false);
        };
        self.note_forgotten(gone.name, gone.node);
        self.save()?;
        Ok(true)
    }

    /// Takes in that another node was told to forget one. True if it was known here under that name
    /// and id, and is now forgotten here too. Durable on return.
    pub(crate) fn hear_forgotten(&mut self, gone: &ForgottenNode) -> Result<bool, StorageError> {
        let known = self.nodes.get(&gone.name);
        match known.is_some_and(|known| known.node == gone.node) {
            true => self.forget(&gone.name),
            false => Ok(false),
        }
    }

    fn note_forgotten(&mut self, name: String, node: u64) {
        self.forgotten.retain(|gone| gone.node != node);
        self.forgotten.push(ForgottenNode { name, node });
        let too_many = self.forgotten.len().saturating_sub(FORGOTTEN_MAX);
        self.forgotten.drain(..too_many);
    }

    fn save(&self) -> Result<(), StorageError> {
        let book = AddressBook {
            nodes: self.nodes.values().cloned().collect(),
            forgotten: self.forgotten.clone(),
        };
        self.storage.put_node_record(RECORD, &book.encode_to_vec())
    }
}

/// A node record; what is empty if there is none.
fn read<M: prost::Message + Default>(storage: &dyn Storage, key: &str) -> Result<M, StorageError> {
    let bytes = storage.node_record(key)?.unwrap_or_default();
    M::decode(bytes.as_slice()).map_err(|error| StorageError::NodeRecordUnreadable {
        key: key.to_owned(),
        why: error.to_string(),
    })
}

fn addresses(of: &Introduction) -> (&str, &str) {
    (&of.peer_address, &of.client_address)
}

/// What of an introduction outlives the process that gave it.
fn lasting(of: &Introduction) -> Introduction {
    Introduction {
        incarnation: 0,
        session: bytes::Bytes::new(),
        set_aside: false,
        ..of.clone()
    }
}

/// What of an introduction is out of bounds, apart from name and id.
fn fault(of: &Introduction) -> Option<&'static str> {
    let address = |text: &str| crate::config::address_fault(text).is_some();
    if address(&of.peer_address) {
        Some("the address for other nodes is none")
    } else if address(&of.client_address) {
        Some("the address for clients is none")
    } else if of.version.len().max(of.engine_profile.len()) > TEXT_SIZE_BYTES_MAX {
        Some("the version or the engine profile is too long")
    } else if of.address_epoch >= ADDRESS_EPOCH_MAX {
        Some("the number of the addresses is out of range")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(name: &str, node: u64) -> Introduction {
        Introduction {
            cluster: "c".into(),
            node,
            name: name.into(),
            peer_address: "h:1".into(),
            client_address: "h:2".into(),
            protocol: PEER_PROTOCOL,
            ..Introduction::default()
        }
    }

    fn storage() -> Arc<dyn Storage> {
        let uri = "memory://".parse().unwrap();
        kontiki_storage::open(&uri, &kontiki_storage::Options::default()).unwrap()
    }

    #[test]
    fn a_name_is_pinned_to_its_id_and_survives_a_restart() {
        let storage = storage();
        let me = introduction("n1", 1);
        let mut book = Book::open(me.clone(), storage.clone()).unwrap();
        let n2 = introduction("n2", 2);
        book.check(&n2).unwrap();
        assert!(book.learn(&n2, Source::Itself).unwrap().unwrap());
        assert!(!book.learn(&n2, Source::Itself).unwrap().unwrap());

        let mut book = Book::open(me, storage).unwrap();
        let wiped = book.check(&introduction("n2", 3)).unwrap_err();
        assert!(matches!(
            wiped,
            Refusal::IdentityChanged {
                known: 2,
                came: 3,
                ..
            }
        ));
        let copied = book.check(&introduction("n3", 2)).unwrap_err();
        assert!(matches!(copied, Refusal::IdTaken { .. }));
        assert!(book.forget("n2").unwrap());
        book.check(&introduction("n2", 3)).unwrap();
    }

    #[test]
    fn an_address_may_change() {
        let mut book = Book::open(introduction("n1", 1), storage()).unwrap();
        book.learn(&introduction("n2", 2), Source::Itself)
            .unwrap()
            .unwrap();
        let moved = Introduction {
            peer_address: "elsewhere:1".into(),
            ..introduction("n2", 2)
        };
        book.check(&moved).unwrap();
        assert!(book.learn(&moved, Source::Itself).unwrap().unwrap());
        assert_eq!(book.find("2").unwrap().peer_address, "elsewhere:1");
    }

    fn at(address: &str, address_epoch: u64) -> Introduction {
        Introduction {
            peer_address: format!("{address}:1"),
            address_epoch,
            ..introduction("n2", 2)
        }
    }

    #[test]
    fn only_the_node_itself_replaces_a_later_address() {
        let mut book = Book::open(introduction("n1", 1), storage()).unwrap();
        let mut learn = |other: &Introduction, source| {
            book.learn(other, source).unwrap().unwrap();
            book.find("n2").unwrap().peer_address.clone()
        };
        assert_eq!(learn(&at("a", 3), Source::Hearsay), "a:1");
        assert_eq!(learn(&at("old", 2), Source::Hearsay), "a:1");
        assert_eq!(learn(&at("same", 3), Source::Hearsay), "a:1");
        assert_eq!(learn(&at("b", 3), Source::Itself), "b:1");
        assert_eq!(learn(&at("c", 4), Source::Hearsay), "c:1");
        // Its data was restored: it was found where it says it is.
        assert_eq!(learn(&at("d", 2), Source::Itself), "d:1");
    }

    #[test]
    fn a_process_leaves_no_trace_in_the_book() {
        let storage = storage();
        let mut book = Book::open(introduction("n1", 1), storage.clone()).unwrap();
        let process = |incarnation| Introduction {
            incarnation,
            session: vec![1].into(),
            ..introduction("n2", 2)
        };
        let mut learn = |other| book.learn(&other, Source::Itself).unwrap().unwrap();
        assert!(learn(process(7)));
        assert!(!learn(process(8)), "it was only restarted");
        let book = Book::open(introduction("n1", 1), storage).unwrap();
        assert_eq!(book.find("n2").unwrap().incarnation, 0);
    }

    #[test]
    fn a_forgotten_node_comes_back_by_itself_only() {
        let storage = storage();
        let mut book = Book::open(introduction("n1", 1), storage.clone()).unwrap();
        let n2 = introduction("n2", 2);
        book.learn(&n2, Source::Itself).unwrap().unwrap();
        assert!(book.forget("n2").unwrap());
        let mut book = Book::open(introduction("n1", 1), storage).unwrap();
        assert!(!book.is_worth_a_look(&n2));
        assert!(!book.learn(&n2, Source::Hearsay).unwrap().unwrap());
        // The new one under its name is another.
        assert!(book.is_worth_a_look(&introduction("n2", 3)));
        assert!(book.learn(&n2, Source::Itself).unwrap().unwrap());
        assert!(book.forgotten().is_empty());
    }

    #[test]
    fn what_others_were_told_to_forget_is_forgotten_here() {
        let mut book = Book::open(introduction("n1", 1), storage()).unwrap();
        let n2 = introduction("n2", 2);
        book.learn(&n2, Source::Itself).unwrap().unwrap();
        let gone = |node| ForgottenNode {
            name: "n2".into(),
            node,
        };
        assert!(
            !book.hear_forgotten(&gone(3)).unwrap(),
            "another of its name"
        );
        assert!(book.hear_forgotten(&gone(2)).unwrap());
        assert_eq!(book.forgotten(), [gone(2)]);
    }

    #[test]
    fn the_book_is_bounded_in_every_direction() {
        let mut book = Book::open(introduction("n1", 1), storage()).unwrap();
        for node in 2..2 + NODES_MAX as u64 {
            let other = introduction(&format!("x{node}"), node);
            book.learn(&other, Source::Itself).unwrap().unwrap();
        }
        let more = book.check(&introduction("more", 9_999)).unwrap_err();
        assert!(matches!(more, Refusal::BookFull { .. }), "{more}");
        // Whoever is known may still move.
        book.check(&introduction("x2", 2)).unwrap();

        let wrong: [fn(&mut Introduction); 5] = [
            |it| it.name = "n".repeat(65),
            |it| it.peer_address = format!("{}:1", "h".repeat(300)),
            |it| it.client_address = "127.0.0.1/x:1".into(),
            |it| it.version = "v".repeat(257),
            |it| it.address_epoch = u64::MAX,
        ];
        for change in wrong {
            let mut other = introduction("x2", 2);
            change(&mut other);
            let refused = book.check(&other).unwrap_err();
            assert!(matches!(refused, Refusal::Invalid(_)), "{refused}");
        }
        for gone in 0..=FORGOTTEN_MAX as u64 {
            book.note_forgotten("x".into(), gone);
        }
        assert_eq!(book.forgotten().len(), FORGOTTEN_MAX);
    }

    #[test]
    fn a_book_that_cannot_be_read_is_an_error_and_not_empty() {
        for key in [RECORD, OWN_RECORD] {
            let storage = storage();
            storage.put_node_record(key, &[0xff; 7]).unwrap();
            let opened = Book::open(introduction("n1", 1), storage);
            let error = opened.and_then(|mut book| book.number_addresses());
            let error = error.unwrap_err();
            let named = matches!(&error, StorageError::NodeRecordUnreadable { .. });
            assert!(named, "{error}");
        }
    }

    #[test]
    fn a_node_numbers_its_addresses_anew_when_they_change() {
        let storage = storage();
        let epoch = |address: &str| {
            let me = at(address, 0);
            let mut book = Book::open(me, storage.clone()).unwrap();
            book.number_addresses().unwrap();
            book.me().address_epoch
        };
        assert_eq!(["a", "a", "b", "b", "a"].map(epoch), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn a_node_whose_data_was_restored_outdoes_what_others_know_of_it_once() {
        let mut book = Book::open(at("b", 0), storage()).unwrap();
        book.number_addresses().unwrap();
        assert!(!book.outdo(&at("b", 1)).unwrap(), "it said so itself");
        assert!(
            !book
                .outdo(&Introduction {
                    node: 3,
                    ..at("c", 9)
                })
                .unwrap()
        );
        assert!(book.outdo(&at("c", 7)).unwrap());
        assert_eq!(book.me().address_epoch, 8);
        assert!(!book.outdo(&at("c", 9)).unwrap());
    }

    #[test]
    fn strangers_are_refused() {
        let book = Book::open(introduction("n1", 1), storage()).unwrap();
        let elsewhere = Introduction {
            cluster: "d".into(),
            ..introduction("n2", 2)
        };
        assert!(matches!(
            book.check(&elsewhere),
            Err(Refusal::OtherCluster { .. })
        ));
        let newer = Introduction {
            protocol: 99,
            ..introduction("n2", 2)
        };
        assert!(matches!(
            book.check(&newer),
            Err(Refusal::OtherProtocol { .. })
        ));
        assert!(matches!(
            book.check(&introduction("n1", 1)),
            Err(Refusal::Itself(_))
        ));
        assert!(matches!(
            book.check(&introduction("n1", 7)),
            Err(Refusal::IdentityChanged { .. })
        ));
        assert!(matches!(
            book.check(&introduction("n2", 0)),
            Err(Refusal::Invalid(_))
        ));
    }
}
