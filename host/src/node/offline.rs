//! Work on the data of a node that does not run.

use super::context::random_u64;
use super::epoch::{EpochError, Epochs, Position};
use super::registry::{self, Record, RecordError};
use crate::server::dropped_learners;
use crate::transport::book::Book;
use crate::transport::convert::{
    ConvertError, configuration_to_wire, log_id_to_wire, members_from_wire,
};
use kontiki_proto::v1;
use kontiki_raft::{
    Configuration, Core, Effect, Effects, GroupId, Input, Instant, MemberSet, NodeId, Persist,
    RejectReason, Settings, Status, Token,
};
use kontiki_storage::{DataDirectory, Identity, Options, Storage, StorageError};
use std::path::Path;
use std::sync::{Arc, mpsc};

/// Why the data of a stopped node cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data cannot be opened, read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// No replica of that name is there.
    #[error("there is no group {group:?} in this directory; it has {}", list(.there))]
    GroupNotFound {
        /// As asked for.
        group: String,
        /// Groups that are there.
        there: Vec<String>,
    },
    /// A node that this one never met.
    #[error("node {0:?} is not known to this directory; name it by its id")]
    NodeNotFound(String),
    /// The group's record cannot be read.
    #[error("{0}")]
    Record(String),
    /// The membership is not possible.
    #[error("the membership is refused: {0}")]
    Refused(String),
}

impl From<RecordError> for OfflineError {
    fn from(error: RecordError) -> Self {
        Self::Record(error.to_string())
    }
}

impl From<EpochError> for OfflineError {
    fn from(error: EpochError) -> Self {
        match error {
            EpochError::Storage(error) => Self::Storage(error),
            EpochError::Record(error) => error.into(),
        }
    }
}

impl From<ConvertError> for OfflineError {
    fn from(error: ConvertError) -> Self {
        Self::Record(error.to_string())
    }
}

fn list(names: &[String]) -> String {
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}

/// What was, or would be, done; and whom the directory knows.
pub type Report = (v1::ResetPeersReply, Vec<v1::Introduction>);

/// Forces a membership on the replica of `group` in the data directory of the stopped node `name`;
/// only says what it would do unless `really`. Durable on return.
///
/// # Errors
/// [`OfflineError::Storage`] also when the node runs, or the directory is another's.
pub fn reset_peers(
    path: &Path,
    name: &str,
    group: &str,
    voters: &[String],
    really: bool,
) -> Result<Report, OfflineError> {
    let wanted = Identity {
        node: NodeId(1),
        name: name.to_owned(),
        // Whatever cluster it belongs to.
        cluster: String::new(),
    };
    let directory = DataDirectory::open(path, false, &wanted)?;
    let storage = kontiki_storage::open(&directory.storage_uri()?, &Options::default())?;
    let done = Offline::open(directory.identity(), Arc::clone(&storage), group)
        .and_then(|mut replica| replica.reset(voters, really));
    storage.close();
    done
}

/// A replica without a node around it.
struct Offline {
    group: GroupId,
    me: NodeId,
    epochs: Epochs,
    core: Core,
    book: Book,
    nodes: Vec<v1::Introduction>,
    storage: Arc<dyn Storage>,
}

/// There is no time here; the core only wants it not to go back.
const NOW: Instant = Instant(1);

impl Offline {
    fn open(me: &Identity, storage: Arc<dyn Storage>, group: &str) -> Result<Self, OfflineError> {
        let records = storage.groups()?;
        let records: Vec<Record> = records
            .iter()
            .map(registry::read)
            .collect::<Result<_, _>>()?;
        // A replica of a group that is not created yet has no members to force any on.
        let confirmed = records.into_iter().filter_map(|record| match record {
            Record::Confirmed(spec) => Some(spec),
            Record::Prepared { .. } => None,
        });
        let specs: Vec<v1::GroupSpec> = confirmed.collect();
        let there = specs.iter().map(|spec| spec.name.clone()).collect();
        let not_found = || OfflineError::GroupNotFound {
            group: group.to_owned(),
            there,
        };
        let spec = specs
            .iter()
            .find(|spec| spec.name == group)
            .ok_or_else(not_found)?;
        let settings = Settings::default();
        let id = GroupId(spec.id);
        let recovered = storage.recover(id, settings.cache_size_bytes_max)?;
        let initial = spec.initial_members.clone();
        let initial = initial
            .map(members_from_wire)
            .transpose()?
            .unwrap_or_default();
        let introduction = v1::Introduction {
            node: me.node.0,
            name: me.name.clone(),
            cluster: me.cluster.clone(),
            ..v1::Introduction::default()
        };
        let book = Book::open(introduction.clone(), Arc::clone(&storage))?;
        let mut nodes: Vec<v1::Introduction> = book.nodes().cloned().collect();
        nodes.push(introduction);
        let epochs = Epochs::load(&*storage, spec)?;
        let core = Core::new(me.node, settings, initial, recovered, NOW, 0);
        Ok(Self {
            group: id,
            me: me.node,
            epochs,
            core,
            book,
            nodes,
            storage,
        })
    }

    fn reset(&mut self, voters: &[String], really: bool) -> Result<Report, OfflineError> {
        let members = MemberSet {
            voters: voters
                .iter()
                .map(|name| self.find(name))
                .collect::<Result<_, _>>()?,
            ..MemberSet::default()
        };
        // Also in a rehearsal: what it shows must then be done.
        self.core.check_reset(&members).map_err(|r| refused(&r))?;
        let status = self.core.status(NOW);
        let after = Configuration::stable(members.clone());
        let reply = v1::ResetPeersReply {
            before: Some(configuration_to_wire(&status.configuration)),
            after: Some(configuration_to_wire(&after)),
            last: Some(log_id_to_wire(status.last)),
            // Only a leader could say, and none is asked.
            commit_index: None,
            warnings: self.warnings(&status, &members),
        };
        if really {
            self.force(members)?;
        }
        Ok((reply, std::mem::take(&mut self.nodes)))
    }

    fn warnings(&self, status: &Status, members: &MemberSet) -> Vec<String> {
        let last = status.last.index;
        let mut warnings = vec![
            format!(
                "commands acknowledged by a majority without this node are lost if its log ends \
                 before them: it ends at {last}"
            ),
            "if another member comes back with its old data it is refused and stops as soon as it \
             reaches a node that knows of this recovery; until then it may answer clients"
                .to_owned(),
        ];
        let name = |node: NodeId| {
            let known = self.nodes.iter().find(|known| known.node == node.0);
            known.map_or_else(|| node.to_string(), |known| known.name.clone())
        };
        warnings.extend(dropped_learners(&status.configuration, members, name));
        warnings
    }

    fn find(&self, name: &str) -> Result<NodeId, OfflineError> {
        match self.book.find(name) {
            Some(node) => Ok(NodeId(node.node)),
            None => name
                .parse()
                .map(NodeId)
                .map_err(|_| OfflineError::NodeNotFound(name.to_owned())),
        }
    }

    /// Durable before the membership is: a crash in between finds the replica in an epoch where
    /// nobody else is, and the node carries the recovery out when it is started.
    fn begin_epoch(&mut self, members: &MemberSet) -> Result<(), StorageError> {
        let status = self.core.status(NOW);
        let position = Position {
            node: self.me,
            last: status.last,
            commit: status.commit_index,
        };
        let (term, random) = (status.term.next(), random_u64());
        let voters = &members.voters;
        self.epochs = self.epochs.begun_here(position, term, voters, random);
        self.epochs.keep(&*self.storage, self.group)
    }

    /// Lets the core do it, and carries out what it writes; what it would send goes nowhere.
    fn force(&mut self, members: MemberSet) -> Result<(), OfflineError> {
        const TOKEN: Token = Token(1);
        self.begin_epoch(&members)?;
        let mut effects = Effects::new();
        self.core.handle(
            NOW,
            Input::ResetPeers {
                token: TOKEN,
                members,
            },
            &mut effects,
        );
        // Each write answered may release further effects, the last of them `Done`.
        while !effects.is_empty() {
            for effect in std::mem::take(&mut effects) {
                match effect {
                    Effect::Persist(write) => {
                        let io = self.persist(write)?;
                        self.core.handle(NOW, Input::Persisted { io }, &mut effects);
                    }
                    Effect::Done { token } if token == TOKEN => return Ok(()),
                    Effect::Rejected { token, reason } if token == TOKEN => {
                        return Err(refused(&reason));
                    }
                    _ => {}
                }
            }
        }
        Err(OfflineError::Refused(
            "the core did not carry it out".to_owned(),
        ))
    }

    fn persist(&self, write: Persist) -> Result<kontiki_raft::IoId, StorageError> {
        let (done, result) = mpsc::channel();
        let completion = Box::new(move |written| {
            // The receiver waits below.
            let _ = done.send(written);
        });
        self.storage.persist(self.group, write, completion);
        result.recv().unwrap_or(Err(StorageError::Closed))
    }
}

fn refused(reason: &RejectReason) -> OfflineError {
    OfflineError::Refused(reason.to_string())
}
