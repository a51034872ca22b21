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

/// The address book of one node.
pub(crate) struct Book {
    me: Introduction,
    nodes: BTreeMap<String, Introduction>,
    storage: Arc<dyn Storage>,
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
        Ok(Self { me, nodes, storage })
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

    /// Takes an introduction that was checked into the book; true if it says anything new. Durable
    /// on return. The record is small and changes seldom, so it is written whole.
    pub(crate) fn learn(&mut self, other: &Introduction) -> Result<bool, StorageError> {
        if self.nodes.get(&other.name) == Some(other) {
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
        assert!(book.learn(&n2).unwrap());
        assert!(!book.learn(&n2).unwrap());

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
        book.learn(&introduction("n2", 2)).unwrap();
        let moved = Introduction {
            peer_address: "elsewhere:1".into(),
            ..introduction("n2", 2)
        };
        book.check(&moved).unwrap();
        assert!(book.learn(&moved).unwrap());
        assert_eq!(book.find("2").unwrap().peer_address, "elsewhere:1");
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
