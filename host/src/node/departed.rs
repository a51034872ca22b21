//! Term and vote of replicas that were deleted. A node that is added again votes on from there: a
//! fresh start could let it vote twice in one term (trap 38 of the design's reference).

use kontiki_raft::{GroupId, HardState, NodeId, Persist, Term};
use kontiki_storage::{Storage, StorageError};
use std::sync::mpsc;

/// Length of a record: term, whether there is a vote, vote.
const RECORD_LENGTH: usize = 8 + 1 + 8;

fn key(group: GroupId) -> String {
    format!("departed/{:016x}", group.0)
}

/// Deletes a replica and keeps its term and vote. Durable on return; a crash in between leaves the
/// replica whole.
pub(crate) fn remove(
    storage: &dyn Storage,
    group: GroupId,
    last: HardState,
) -> Result<(), StorageError> {
    storage.put_node_record(&key(group), &encode(last))?;
    storage.remove_group(group)
}

/// Gives a replica that is being opened the term and vote that an earlier one left, unless its own
/// are later. Durable on return.
///
/// # Errors
/// `NodeRecordUnreadable` if what was left cannot be read: without it the replica could vote twice.
pub(crate) fn restore(
    storage: &dyn Storage,
    group: GroupId,
    own: &mut HardState,
) -> Result<(), StorageError> {
    let Some(left) = storage.node_record(&key(group))? else {
        return Ok(());
    };
    let left = decode(&left).ok_or_else(|| StorageError::NodeRecordUnreadable {
        key: key(group),
        why: format!("{} bytes are no term and vote", left.len()),
    })?;
    if (own.term, own.voted_for) >= (left.term, left.voted_for) {
        return Ok(());
    }
    *own = left;
    persist(storage, group, left)
}

fn persist(
    storage: &dyn Storage,
    group: GroupId,
    hard_state: HardState,
) -> Result<(), StorageError> {
    let write = Persist {
        hard_state: Some(hard_state),
        ..Persist::default()
    };
    let (done, result) = mpsc::channel();
    let completion = Box::new(move |written: Result<_, StorageError>| {
        // The receiver waits below.
        let _ = done.send(written);
    });
    storage.persist(group, write, completion);
    result.recv().unwrap_or(Err(StorageError::Closed)).map(drop)
}

fn encode(state: HardState) -> Vec<u8> {
    let mut bytes = state.term.0.to_be_bytes().to_vec();
    bytes.push(u8::from(state.voted_for.is_some()));
    bytes.extend(state.voted_for.unwrap_or_default().0.to_be_bytes());
    bytes
}

/// The storage has verified its checksum, so a record of this length is what was written.
fn decode(bytes: &[u8]) -> Option<HardState> {
    if bytes.len() != RECORD_LENGTH {
        return None;
    }
    let (term, vote) = bytes.split_at(8);
    let (is_vote, vote) = vote.split_first()?;
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    Some(HardState {
        term: Term(number(term)?),
        voted_for: (*is_vote == 1).then_some(NodeId(number(vote)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kontiki_storage::GroupRecord;

    fn open(storage: &dyn Storage, group: GroupId) -> HardState {
        let mut state = storage.recover(group, 0).unwrap().hard_state;
        restore(storage, group, &mut state).unwrap();
        assert_eq!(storage.recover(group, 0).unwrap().hard_state, state);
        state
    }

    #[test]
    fn a_replica_made_anew_keeps_term_and_vote() {
        let uri = "memory://".parse().unwrap();
        let storage = kontiki_storage::open(&uri, &kontiki_storage::Options::default()).unwrap();
        let group = GroupId(7);
        let record = GroupRecord {
            id: group,
            body: vec![1],
        };
        for voted_for in [None, Some(NodeId(9))] {
            let state = HardState {
                term: Term(5),
                voted_for,
            };
            storage.create_group(&record).unwrap();
            remove(&*storage, group, state).unwrap();
            storage.create_group(&record).unwrap();
            assert_eq!(open(&*storage, group), state);
            let later = HardState {
                term: Term(6),
                voted_for: None,
            };
            persist(&*storage, group, later).unwrap();
            assert_eq!(open(&*storage, group), later);
            storage.remove_group(group).unwrap();
        }
        let id = GroupId(8);
        storage.create_group(&GroupRecord { id, ..record }).unwrap();
        assert_eq!(open(&*storage, id), HardState::default());
    }

    #[test]
    fn what_was_left_and_cannot_be_read_keeps_the_replica_from_voting() {
        let uri = "memory://".parse().unwrap();
        let storage = kontiki_storage::open(&uri, &kontiki_storage::Options::default()).unwrap();
        let group = GroupId(7);
        storage.put_node_record(&key(group), b"short").unwrap();
        let refused = restore(&*storage, group, &mut HardState::default()).unwrap_err();
        let named = matches!(&refused, StorageError::NodeRecordUnreadable { .. });
        assert!(named, "{refused}");
    }
}
