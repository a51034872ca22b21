//! What the node's storage holds of each of its groups: a versioned record around the
//! specification. Until a creation is decided the record has a format of its own, so that no version
//! takes a prepared replica for one that may vote.

use kontiki_proto::v1::{GroupSpec, PreparedReplica};
use kontiki_raft::{GroupId, NodeId};
use kontiki_storage::GroupRecord;
use prost::Message as _;

/// First byte of the record: its format. A replica that takes part in its group.
const FORMAT: u8 = 1;
/// A replica whose group's creation is not decided.
const FORMAT_PREPARED: u8 = 2;

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record has format {0}; this version reads up to 2: upgrade Kontiki")]
    Newer(u8),
    #[error("the record is damaged: {0}")]
    Damaged(&'static str),
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Record {
    /// The replica takes part in its group.
    Confirmed(GroupSpec),
    /// It waits for the creation of its group to be decided.
    Prepared {
        /// The group.
        spec: GroupSpec,
        /// The node that creates it.
        coordinator: NodeId,
    },
}

/// Puts the specification of a replica that takes part into its record.
pub(crate) fn record(spec: &GroupSpec) -> GroupRecord {
    encode(GroupId(spec.id), FORMAT, spec)
}

/// The record of a replica whose group's creation is not decided.
pub(crate) fn prepared(spec: &GroupSpec, coordinator: NodeId) -> GroupRecord {
    let message = PreparedReplica {
        group: Some(spec.clone()),
        coordinator: coordinator.0,
    };
    encode(GroupId(spec.id), FORMAT_PREPARED, &message)
}

fn encode(id: GroupId, format: u8, message: &impl prost::Message) -> GroupRecord {
    let mut body = vec![format];
    message.encode(&mut body).expect("a vector grows as needed");
    GroupRecord { id, body }
}

/// Takes a record apart.
pub(crate) fn read(record: &GroupRecord) -> Result<Record, RecordError> {
    let damaged = |_| RecordError::Damaged("no message");
    let read = match record.body.split_first() {
        Some((&FORMAT, body)) => Record::Confirmed(GroupSpec::decode(body).map_err(damaged)?),
        Some((&FORMAT_PREPARED, body)) => {
            let message = PreparedReplica::decode(body).map_err(damaged)?;
            let spec = message.group.ok_or(RecordError::Damaged("no group"))?;
            let coordinator = NodeId(message.coordinator);
            Record::Prepared { spec, coordinator }
        }
        Some((&newer, _)) => return Err(RecordError::Newer(newer)),
        None => return Err(RecordError::Damaged("it is empty")),
    };
    let (Record::Confirmed(spec) | Record::Prepared { spec, .. }) = &read;
    match spec.id == record.id.0 {
        true => Ok(read),
        false => Err(RecordError::Damaged("it is of another group")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn original() -> GroupSpec {
        GroupSpec {
            id: 7,
            name: "orders".into(),
            plugin: "sha256:…".into(),
            ..GroupSpec::default()
        }
    }

    #[test]
    fn a_specification_comes_back_and_damage_is_refused() {
        let good = record(&original());
        assert_eq!(read(&good), Ok(Record::Confirmed(original())));
        let with = |change: fn(&mut GroupRecord)| {
            let mut record = good.clone();
            change(&mut record);
            read(&record).unwrap_err()
        };
        assert_eq!(with(|r| r.body[0] = 3), RecordError::Newer(3));
        assert!(matches!(with(|r| r.body.clear()), RecordError::Damaged(_)));
        assert!(matches!(
            with(|r| r.body.truncate(5)),
            RecordError::Damaged(_)
        ));
        assert!(matches!(
            with(|r| r.id = GroupId(8)),
            RecordError::Damaged(_)
        ));
    }

    #[test]
    fn a_prepared_replica_is_never_taken_for_one_that_takes_part() {
        let (spec, coordinator) = (original(), NodeId(9));
        let record = prepared(&spec, coordinator);
        assert_ne!(record.body[0], FORMAT);
        assert_eq!(read(&record), Ok(Record::Prepared { spec, coordinator }));
    }
}
