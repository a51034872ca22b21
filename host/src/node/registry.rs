//! What the node's storage holds of each of its groups: a versioned record around the
//! specification.

use kontiki_proto::v1::GroupSpec;
use kontiki_raft::GroupId;
use kontiki_storage::GroupRecord;
use prost::Message as _;

/// First byte of the record: its format.
const FORMAT: u8 = 1;

/// Why a record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the group's record has format {0}; this version reads 1: upgrade Kontiki")]
    Newer(u8),
    #[error("the group's record is damaged: {0}")]
    Damaged(&'static str),
}

/// Puts a specification into its record.
pub(crate) fn record(spec: &GroupSpec) -> GroupRecord {
    let mut body = vec![FORMAT];
    spec.encode(&mut body).expect("a vector grows as needed");
    GroupRecord {
        id: GroupId(spec.id),
        body,
    }
}

/// Takes a specification from its record.
pub(crate) fn spec(record: &GroupRecord) -> Result<GroupSpec, RecordError> {
    match record.body.split_first() {
        Some((&FORMAT, body)) => {
            let spec = GroupSpec::decode(body).map_err(|_| RecordError::Damaged("no message"))?;
            match spec.id == record.id.0 {
                true => Ok(spec),
                false => Err(RecordError::Damaged("it is of another group")),
            }
        }
        Some((&newer, _)) => Err(RecordError::Newer(newer)),
        None => Err(RecordError::Damaged("it is empty")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_specification_comes_back_and_damage_is_refused() {
        let original = GroupSpec {
            id: 7,
            name: "orders".into(),
            plugin: "sha256:…".into(),
            ..GroupSpec::default()
        };
        let good = record(&original);
        assert_eq!(spec(&good), Ok(original));
        let with = |change: fn(&mut GroupRecord)| {
            let mut record = good.clone();
            change(&mut record);
            spec(&record).unwrap_err()
        };
        assert_eq!(with(|r| r.body[0] = 2), RecordError::Newer(2));
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
}
