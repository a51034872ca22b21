//! The address book: every node this one has met, durable. A name is pinned to the id it first came
//! with; addresses may change.

use kontiki_proto::PEER_PROTOCOL;
use kontiki_proto::v1::{AddressBook, Introduction};
use kontiki_raft::NodeId;
use kontiki_storage::{Storage, StorageError};
use prost::Message as _;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Key of the node record that holds the book.
const RECORD: &str = "address-book";
/// Key of the node record that holds this node's own introduction at its last start.
const OWN_RECORD: &str = "introduction";

/// Why another node is not spoken to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs elsewhere.
    #[error("node {name:?} belongs to cluster {theirs:?}, this one to {ours:?}")]
    OtherCluster {
        /// Its name.
        name: String,
        /// Its cluster.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// It speaks another protocol.
    #[error("node {name:?} ({version}) speaks peer protocol {theirs}, this one {ours}")]
    OtherProtocol {
        /// Its name.
        name: String,
        /// Version of its program.
        version: String,
        /// Its protocol.
        theirs: u32,
        /// Ours.
        ours: u32,
    },
    /// Its disk was wiped, or it is another node under a name that is taken.
    #[error(
        "node {name:?} was known with id {known} and comes with id {came}: its data was lost, or \
         another node has taken its name; restore its data, or have it forgotten with \
         `kontiki node forget {name}`"
    )]
    IdentityChanged {
        /// Its name.
        name: String,
        /// The id it is known by.
        known: u64,
        /// The id it came with.
        came: u64,
    },
    /// It has the id of a node of another name.
    #[error("node {came:?} comes with the id of node {known:?}: is its data directory a copy?")]
    IdTaken {
        /// The name it came with.
        came: String,
        /// The name that the id is known by.
        known: String,
    },
    /// Another node answers at the address.
    #[error("node {found:?} answers at the address of node {wanted:?}")]
    OtherName {
        /// Who was looked for.
        wanted: String,
        /// Who answered.
        found: String,
    },
    /// The address leads back here.
    #[error("the address of node {0:?} leads to this node itself")]
    Itself(String),
    /// What was said is not valid.
    #[error("the introduction is not valid: {0}")]
    Invalid(&'static str),
}

/// From whom an introduction came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// From the node itself: right unless it is known to be out of date.
    Itself,
    /// From another node: right only if it is newer than what is known.
    Hearsay,
}

/// The address book of one node.
pub(crate) struct Book {
    me: Introduction,
    nodes: BTreeMap<String, Introduction>,
    storage: Arc<dyn Storage>,
    /// This node's own number was raised because others knew a higher one.
    outdone: bool,
}

impl Book {
    /// Reads the book of the node that `me` introduces.
    pub(crate) fn open(me: Introduction, storage: Arc<dyn Storage>) -> Result<Self, StorageError> {
        let bytes = storage.node_record(RECORD)?.unwrap_or_default();
        // The storage has verified its checksum, so it is what this program wrote.
        let book = AddressBook::decode(bytes.as_slice()).unwrap_or_default();
        let nodes = book
            .nodes
            .into_iter()
            .map(|node| (node.name.clone(), node))
            .collect();
        Ok(Self {
            me,
            nodes,
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
        let bytes = self.storage.node_record(OWN_RECORD)?.unwrap_or_default();
        let before = Introduction::decode(bytes.as_slice()).unwrap_or_default();
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
        if !is_me || !newer || self.outdone {
            return Ok(false);
        }
        self.outdone = true;
        self.me.address_epoch = heard.address_epoch + 1;
        self.save_own()?;
        Ok(true)
    }

    fn save_own(&self) -> Result<(), StorageError> {
        self.storage
            .put_node_record(OWN_RECORD, &self.me.encode_to_vec())
    }

    pub(crate) fn nodes(&self) -> impl Iterator<Item = &Introduction> {
        self.nodes.values()
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
        if crate::config::name_fault(&name).is_some() || other.node == 0 {
            return Err(Refusal::Invalid("name or id"));
        }
        self.check_identity(other)
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

    /// Whether this node is in the book under this name.
    pub(crate) fn knows(&self, other: &Introduction) -> bool {
        let known = self.nodes.get(&other.name);
        known.is_some_and(|known| known.node == other.node)
    }

    /// Takes an introduction that was checked into the book; true if it says anything new. Durable
    /// on return. The record is small and changes seldom, so it is written whole.
    pub(crate) fn learn(
        &mut self,
        other: &Introduction,
        source: Source,
    ) -> Result<bool, StorageError> {
        let is_news = match (self.nodes.get(&other.name), source) {
            (None, _) => true,
            (Some(known), Source::Itself) => {
                other.address_epoch >= known.address_epoch && other != known
            }
            (Some(known), Source::Hearsay) => other.address_epoch > known.address_epoch,
        };
        if !is_news {
            return Ok(false);
        }
        self.nodes.insert(other.name.clone(), other.clone());
        self.save()?;
        Ok(true)
    }

    /// Forgets a node, so that its name may be taken by another. False if it was not known.
    pub(crate) fn forget(&mut self, name: &str) -> Result<bool, StorageError> {
        if self.nodes.remove(name).is_none() {
            return Ok(false);
        }
        self.save()?;
        Ok(true)
    }

    fn save(&self) -> Result<(), StorageError> {
        let nodes = self.nodes.values().cloned().collect();
        self.storage
            .put_node_record(RECORD, &AddressBook { nodes }.encode_to_vec())
    }
}

fn addresses(of: &Introduction) -> (&str, &str) {
    (&of.peer_address, &of.client_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn introduction(name: &str, node: u64) -> Introduction {
        Introduction {
            cluster: "c".into(),
            node,
            name: name.into(),
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
        assert!(book.learn(&n2, Source::Itself).unwrap());
        assert!(!book.learn(&n2, Source::Itself).unwrap());

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
        book.learn(&introduction("n2", 2), Source::Itself).unwrap();
        let moved = Introduction {
            peer_address: "elsewhere:1".into(),
            ..introduction("n2", 2)
        };
        book.check(&moved).unwrap();
        assert!(book.learn(&moved, Source::Itself).unwrap());
        assert_eq!(book.find("2").unwrap().peer_address, "elsewhere:1");
    }

    fn at(address: &str, address_epoch: u64) -> Introduction {
        Introduction {
            peer_address: address.into(),
            address_epoch,
            ..introduction("n2", 2)
        }
    }

    #[test]
    fn only_a_newer_address_replaces_one_that_is_known() {
        let mut book = Book::open(introduction("n1", 1), storage()).unwrap();
        let mut learn = |other: &Introduction, source| {
            book.learn(other, source).unwrap();
            book.find("n2").unwrap().peer_address.clone()
        };
        assert_eq!(learn(&at("a", 3), Source::Hearsay), "a");
        assert_eq!(learn(&at("old", 2), Source::Hearsay), "a");
        assert_eq!(learn(&at("old", 2), Source::Itself), "a", "a late message");
        assert_eq!(learn(&at("same", 3), Source::Hearsay), "a");
        assert_eq!(learn(&at("b", 3), Source::Itself), "b");
        assert_eq!(learn(&at("c", 4), Source::Hearsay), "c");
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
