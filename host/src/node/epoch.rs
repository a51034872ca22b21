//! Epochs: the histories of a group that was recovered without a majority.
//!
//! A group is created in the original epoch. Each recovery begins another on one survivor; the other
//! survivors that the operator named go over to it, members added later are made in it. Replicas take
//! in messages of their own epoch only, so the old majority and the recovered group are two groups to
//! Raft. A replica that hears of a later epoch and is no part of it is **left behind**: it neither
//! votes nor serves. Why: `docs/decisions/0012-epochs-of-recovered-groups.md`.

use super::registry::RecordError;
use kontiki_proto::v1;
use kontiki_raft::{GroupId, LogId, LogIndex, NodeId, Term};
use kontiki_storage::{Storage, StorageError};
use prost::Message as _;
use std::collections::BTreeSet;
use std::fmt;

/// First byte of a record: its format.
const FORMAT: u8 = 1;

fn key(group: GroupId) -> String {
    format!("epoch/{:016x}", group.0)
}

/// Names an epoch; a later one is greater. The default is the original one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct EpochId {
    /// Recoveries that it goes on from, itself included.
    pub number: u64,
    /// Tells apart recoveries that knew nothing of each other.
    pub random: u64,
}

impl fmt::Display for EpochId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number {
            0 => write!(f, "0"),
            number => write!(f, "{number}-{:08x}", self.random >> 32),
        }
    }
}

impl EpochId {
    /// The epoch that a lineage ends in.
    pub(crate) fn of(lineage: Option<&v1::Lineage>) -> Self {
        lineage.map_or(Self::default(), tip)
    }

    /// From the wire; absent is the original one.
    pub(crate) fn from_wire(id: Option<v1::EpochId>) -> Self {
        let v1::EpochId { number, random } = id.unwrap_or_default();
        Self { number, random }
    }

    /// For the wire: nothing for the original one.
    pub(crate) fn to_wire(self) -> Option<v1::EpochId> {
        let Self { number, random } = self;
        (number > 0).then_some(v1::EpochId { number, random })
    }
}

/// What a replica adds to the decision whether it may go over to an epoch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    pub(crate) node: NodeId,
    pub(crate) last: LogId,
    pub(crate) commit: LogIndex,
}

/// What follows from hearing of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is known already.
    Known,
    /// Whoever is in it was left behind by this replica's epoch.
    Earlier,
    /// This replica goes over to it with its data.
    Adopt,
    /// It leaves this replica behind.
    LeftBehind,
}

/// The epoch of a replica, and a later one that left it behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Epochs {
    own: v1::Lineage,
    newer: Option<v1::Lineage>,
}

impl Epochs {
    /// The epoch of a replica made with this specification; before that, what it kept. Blocks.
    ///
    /// # Errors
    /// A replica that cannot tell its epoch must not take part.
    pub(crate) fn load(storage: &dyn Storage, spec: &v1::GroupSpec) -> Result<Self, EpochError> {
        let kept = storage.node_record(&key(GroupId(spec.id)))?;
        let kept = kept.map(|record| decode(&record)).transpose()?;
        let made = Self {
            own: spec.lineage.clone().unwrap_or_default(),
            newer: None,
        };
        // What an earlier replica of the group left here says nothing of one made since.
        Ok(kept
            .filter(|kept| kept.latest() > made.latest() || kept.id() > made.id())
            .unwrap_or(made))
    }

    /// Keeps it. Durable on return. Blocks.
    pub(crate) fn keep(&self, storage: &dyn Storage, group: GroupId) -> Result<(), StorageError> {
        let record = v1::EpochRecord {
            own: Some(self.own.clone()),
            newer: self.newer.clone(),
        };
        let mut body = vec![FORMAT];
        record.encode(&mut body).expect("a vector grows as needed");
        storage.put_node_record(&key(group), &body)
    }

    /// The epoch that the replica is in.
    pub(crate) fn id(&self) -> EpochId {
        tip(&self.own)
    }

    /// The latest epoch that is known.
    pub(crate) fn latest(&self) -> EpochId {
        self.newer.as_ref().map_or(self.id(), tip)
    }

    /// The epoch that left this replica behind.
    pub(crate) fn newer(&self) -> Option<EpochId> {
        self.newer.as_ref().map(tip)
    }

    /// The history that this replica is in, for members that are made for it.
    pub(crate) fn lineage(&self) -> Option<v1::Lineage> {
        (self.id() != EpochId::default()).then(|| self.own.clone())
    }

    /// Whether the later epoch goes on from this replica's own, rather than from another history.
    pub(crate) fn is_succeeded(&self) -> bool {
        let newer = self.newer.as_ref();
        newer.is_some_and(|newer| successor(newer, self.id()).is_some())
    }

    /// Whether this replica's history went through `earlier` and on from there.
    pub(crate) fn went_on_from(&self, earlier: EpochId) -> bool {
        successor(&self.own, earlier).is_some()
    }

    /// The node on which the latest epoch began, if there was one.
    pub(crate) fn begun_on(&self) -> Option<NodeId> {
        let latest = self.newer.as_ref().unwrap_or(&self.own);
        latest.epochs.last().map(|epoch| NodeId(epoch.node))
    }

    /// The survivors named for the latest epoch.
    pub(crate) fn survivors(&self) -> BTreeSet<NodeId> {
        let latest = self.newer.as_ref().unwrap_or(&self.own);
        latest.survivors.iter().copied().map(NodeId).collect()
    }

    /// For other nodes; nothing while the group was never recovered.
    pub(crate) fn to_wire(&self, group: GroupId) -> Option<v1::GroupEpoch> {
        (self.latest() != EpochId::default()).then(|| v1::GroupEpoch {
            group: group.0,
            latest: Some(self.newer.as_ref().unwrap_or(&self.own).clone()),
            left_behind: self.newer.is_some().then(|| v1::EpochId {
                number: self.id().number,
                random: self.id().random,
            }),
        })
    }

    /// The epoch that a recovery on this replica begins.
    pub(crate) fn begun_here(
        &self,
        position: Position,
        first_term: Term,
        survivors: &BTreeSet<NodeId>,
        random: u64,
    ) -> Self {
        let mut own = self.own.clone();
        own.epochs.push(v1::Epoch {
            id: Some(v1::EpochId {
                number: self.latest().number.saturating_add(1),
                random,
            }),
            first_term: first_term.0,
            node: position.node.0,
            last_index: position.last.index.0,
        });
        own.survivors = survivors.iter().map(|node| node.0).collect();
        Self { own, newer: None }
    }

    /// Whether this recovery was begun on `node` and not carried out: its term was never reached.
    pub(crate) fn is_unfinished(&self, node: NodeId, term: Term) -> bool {
        let begun = self.own.epochs.last();
        self.newer.is_none() && begun.is_some_and(|it| it.node == node.0 && term.0 < it.first_term)
    }

    /// What follows from hearing of `heard`.
    pub(crate) fn judge(&self, heard: &v1::Lineage, me: Position) -> Verdict {
        let id = tip(heard);
        if id == self.id() || Some(id) == self.newer() {
            return Verdict::Known;
        }
        if id < self.id() {
            return Verdict::Earlier;
        }
        if id < self.latest() {
            return Verdict::Known;
        }
        match self.may_adopt(heard, me) {
            true => Verdict::Adopt,
            false => Verdict::LeftBehind,
        }
    }

    /// A survivor brings nothing that the new epoch could contradict: no entry of a term that
    /// belongs to it, nothing committed that it lacks.
    fn may_adopt(&self, heard: &v1::Lineage, me: Position) -> bool {
        let next = successor(heard, self.id());
        heard.survivors.contains(&me.node.0)
            && next.is_some_and(|next| {
                me.last.term.0 < next.first_term && me.commit.0 <= next.last_index
            })
    }

    /// After going over to `heard`.
    pub(crate) fn adopted(heard: v1::Lineage) -> Self {
        Self {
            own: heard,
            newer: None,
        }
    }

    /// After being left behind by `heard`.
    pub(crate) fn left_behind_by(&self, heard: v1::Lineage) -> Self {
        Self {
            own: self.own.clone(),
            newer: Some(heard),
        }
    }
}

/// The epoch that a lineage ends in.
fn tip(lineage: &v1::Lineage) -> EpochId {
    let last = lineage.epochs.last();
    EpochId::from_wire(last.and_then(|epoch| epoch.id))
}

/// The epoch that `lineage` went on to from `id`; none if it never was in `id`.
fn successor(lineage: &v1::Lineage, id: EpochId) -> Option<&v1::Epoch> {
    let is_it = |epoch: &v1::Epoch| EpochId::from_wire(epoch.id) == id;
    match id == EpochId::default() {
        true => lineage.epochs.first(),
        false => {
            let at = lineage.epochs.iter().position(is_it)?;
            lineage.epochs.get(at + 1)
        }
    }
}

/// Why a replica cannot tell its epoch.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EpochError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error("what the replica kept of its epoch: {0}")]
    Record(#[from] RecordError),
}

fn decode(record: &[u8]) -> Result<Epochs, RecordError> {
    match record.split_first() {
        Some((&FORMAT, body)) => {
            let record =
                v1::EpochRecord::decode(body).map_err(|_| RecordError::Damaged("no message"))?;
            Ok(Epochs {
                own: record.own.unwrap_or_default(),
                newer: record.newer,
            })
        }
        Some((&newer, _)) => Err(RecordError::Newer(newer)),
        None => Err(RecordError::Damaged("it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(node: u64, term: u64, index: u64, commit: u64) -> Position {
        Position {
            node: NodeId(node),
            last: LogId::new(Term(term), LogIndex(index)),
            commit: LogIndex(commit),
        }
    }

    fn survivors(nodes: &[u64]) -> BTreeSet<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    /// Node 1 recovers the group with node 2, in term 4, at index 10.
    fn recovered() -> Epochs {
        let original = Epochs::default();
        original.begun_here(at(1, 3, 10, 8), Term(4), &survivors(&[1, 2]), 77)
    }

    #[test]
    fn survivors_go_over_and_others_are_left_behind() {
        let (old, new) = (Epochs::default(), recovered());
        let lineage = new.lineage().unwrap();
        assert_eq!(old.judge(&lineage, at(2, 3, 9, 9)), Verdict::Adopt);
        assert_eq!(old.judge(&lineage, at(3, 3, 9, 9)), Verdict::LeftBehind);
        assert_eq!(new.judge(&lineage, at(1, 5, 12, 12)), Verdict::Known);
        let original = v1::Lineage::default();
        assert_eq!(new.judge(&original, at(1, 5, 12, 12)), Verdict::Earlier);
        let left = old.left_behind_by(lineage.clone());
        assert!(left.is_succeeded());
        assert_eq!(left.judge(&lineage, at(3, 3, 9, 9)), Verdict::Known);
        assert_eq!(Epochs::adopted(lineage), new);
    }

    #[test]
    fn a_survivor_whose_log_the_new_epoch_could_contradict_is_left_behind() {
        let (old, lineage) = (Epochs::default(), recovered().lineage().unwrap());
        // An entry of the old majority in a term that the recovered group may use.
        assert_eq!(old.judge(&lineage, at(2, 4, 9, 9)), Verdict::LeftBehind);
        // Something committed that the node that was recovered never had.
        assert_eq!(old.judge(&lineage, at(2, 3, 12, 11)), Verdict::LeftBehind);
    }

    #[test]
    fn a_repeated_recovery_takes_along_whoever_is_in_any_earlier_epoch_of_it() {
        let first = recovered();
        let me = at(1, 6, 20, 20);
        let second = first.begun_here(me, Term(7), &survivors(&[1, 2]), 5);
        let lineage = second.lineage().unwrap();
        assert_eq!(second.id().number, 2);
        assert_eq!(first.judge(&lineage, at(2, 6, 20, 20)), Verdict::Adopt);
        let old = Epochs::default();
        assert_eq!(old.judge(&lineage, at(2, 3, 9, 9)), Verdict::Adopt);
        // It never went over to the first: entries of its terms are not of the first.
        assert_eq!(old.judge(&lineage, at(2, 5, 9, 9)), Verdict::LeftBehind);
    }

    #[test]
    fn of_two_recoveries_that_know_nothing_of_each_other_one_is_left_behind() {
        let one = recovered();
        let original = Epochs::default();
        let other = original.begun_here(at(2, 3, 9, 8), Term(4), &survivors(&[1, 2]), 78);
        assert_ne!(one.id(), other.id());
        let (of_one, of_other) = (one.lineage().unwrap(), other.lineage().unwrap());
        let me = at(1, 3, 9, 8);
        assert_eq!(one.judge(&of_other, me), Verdict::LeftBehind);
        assert_eq!(other.judge(&of_one, me), Verdict::Earlier);
        let left = one.left_behind_by(of_other);
        assert!(!left.is_succeeded());
        // The operator wants the other history: it is recovered once more.
        let again = left.begun_here(me, Term(9), &survivors(&[1]), 3);
        assert_eq!(again.id().number, 2);
        let of_again = again.lineage().unwrap();
        assert_eq!(other.judge(&of_again, me), Verdict::LeftBehind);
    }

    #[test]
    fn what_a_replica_kept_comes_back_unless_it_was_made_anew_since() {
        let uri = "memory://".parse().unwrap();
        let storage = kontiki_storage::open(&uri, &kontiki_storage::Options::default()).unwrap();
        let mut spec = v1::GroupSpec {
            id: 7,
            ..v1::GroupSpec::default()
        };
        let load = |spec: &v1::GroupSpec| Epochs::load(&*storage, spec).unwrap();
        assert_eq!(load(&spec), Epochs::default());
        let left = Epochs::default().left_behind_by(recovered().lineage().unwrap());
        left.keep(&*storage, GroupId(7)).unwrap();
        assert_eq!(load(&spec), left);
        spec.lineage = recovered().lineage();
        assert_eq!(load(&spec), recovered());
        storage
            .put_node_record("epoch/0000000000000007", &[9])
            .unwrap();
        assert!(Epochs::load(&*storage, &spec).is_err());
    }

    #[test]
    fn a_recovery_that_was_begun_and_not_carried_out_is_known_by_its_term() {
        let new = recovered();
        assert!(new.is_unfinished(NodeId(1), Term(3)));
        assert!(!new.is_unfinished(NodeId(1), Term(4)));
        assert!(!new.is_unfinished(NodeId(2), Term(3)));
        assert!(!Epochs::default().is_unfinished(NodeId(1), Term(0)));
    }
}
