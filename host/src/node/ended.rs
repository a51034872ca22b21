//! What is left of groups that must never come back: those whose creation was given up, and those
//! that an operator deleted. A few bytes each, kept for good: a node that was away for years still
//! learns of them here.

use super::registry::RecordError;
use kontiki_proto::v1::{EndedGroup, GroupStage};
use kontiki_raft::GroupId;
use kontiki_storage::{Storage, StorageError};
use prost::Message as _;

/// First byte of the record: its format.
const FORMAT: u8 = 1;

/// How a group ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its creation was given up before any replica took part in anything.
    Aborted,
    /// An operator deleted it.
    Deleted,
}

impl Ended {
    /// Its name on the wire.
    pub(crate) fn stage(self) -> GroupStage {
        match self {
            Self::Aborted => GroupStage::Aborted,
            Self::Deleted => GroupStage::Deleted,
        }
    }

    /// What a stage says of the end, if it says that the group has ended.
    pub(crate) fn of_stage(stage: GroupStage) -> Option<Self> {
        match stage {
            GroupStage::Aborted => Some(Self::Aborted),
            GroupStage::Deleted => Some(Self::Deleted),
            _ => None,
        }
    }
}

fn key(group: GroupId) -> String {
    format!("ended/{:016x}", group.0)
}

/// Why it cannot be told whether a group has ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndedError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// Whether, and how, a group has ended as far as this node knows. Blocks.
pub(crate) fn ended(storage: &dyn Storage, group: GroupId) -> Result<Option<Ended>, EndedError> {
    let Some(bytes) = storage.node_record(&key(group))? else {
        return Ok(None);
    };
    match bytes.split_first() {
        Some((&FORMAT, body)) => {
            let record =
                EndedGroup::decode(body).map_err(|_| RecordError::Damaged("no message"))?;
            let ended = Ended::of_stage(record.stage());
            Ok(Some(ended.ok_or(RecordError::Damaged("it has no end"))?))
        }
        Some((&newer, _)) => Err(RecordError::Newer(newer).into()),
        None => Err(RecordError::Damaged("it is empty").into()),
    }
}

/// Notes that a group has ended. A deletion stays one. Durable on return; blocks.
pub(crate) fn note(
    storage: &dyn Storage,
    group: GroupId,
    name: &str,
    how: Ended,
) -> Result<(), EndedError> {
    let known = ended(storage, group)?;
    if known == Some(how) || known == Some(Ended::Deleted) {
        return Ok(());
    }
    let record = EndedGroup {
        stage: how.stage().into(),
        name: name.to_owned(),
    };
    let mut bytes = vec![FORMAT];
    record.encode(&mut bytes).expect("a vector grows as needed");
    storage.put_node_record(&key(group), &bytes)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_remembered_and_a_deletion_stays_one() {
        let uri = "memory://".parse().unwrap();
        let storage = kontiki_storage::open(&uri, &kontiki_storage::Options::default()).unwrap();
        let group = GroupId(7);
        let now = || ended(&*storage, group).unwrap();
        assert_eq!(now(), None);
        note(&*storage, group, "orders", Ended::Aborted).unwrap();
        assert_eq!(now(), Some(Ended::Aborted));
        note(&*storage, group, "orders", Ended::Deleted).unwrap();
        note(&*storage, group, "orders", Ended::Aborted).unwrap();
        assert_eq!(now(), Some(Ended::Deleted));
        storage.put_node_record(&key(group), &[2]).unwrap();
        assert!(matches!(
            ended(&*storage, group),
            Err(EndedError::Record(RecordError::Newer(2)))
        ));
    }
}
