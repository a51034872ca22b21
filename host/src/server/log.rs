//! Reading committed commands back (braft's `read_committed_user_log`).

use super::Shared;
use super::status::{Fault, Reason};
use crate::node::handle::GroupHandle;
use crate::transport::convert::log_id_to_wire;
use kontiki_proto::v1;
use kontiki_raft::{Entry, EntryKind, GroupId, LogIndex};
use kontiki_storage::{Storage, StorageError};
use std::sync::Arc;

const ENTRIES_MAX: u32 = 10_000;
/// Bytes of commands in one reply.
const SIZE_BYTES_MAX: usize = 4 << 20;

/// Commands of a group that this node has applied, from an index on.
pub(crate) async fn read(
    shared: &Shared,
    request: v1::ReadLogRequest,
) -> Result<v1::ReadLogReply, Fault> {
    let group = shared.group(&request.group)?;
    let first = LogIndex(request.first_index.max(1));
    let count = request.entries_max.clamp(1, ENTRIES_MAX);
    let last = applied(&group);
    if first > last {
        return Ok(v1::ReadLogReply::default());
    }
    let storage = Arc::clone(&shared.context.storage);
    let id = group.id();
    let collecting =
        tokio::task::spawn_blocking(move || collect(storage.as_ref(), id, first, last, count));
    collecting
        .await?
        .map_err(|error| unread(&error).of_group(&request.group))
}

/// What is compacted away is gone for good (braft's `ELOGDELETED`); the caller may begin later.
fn unread(error: &StorageError) -> Fault {
    let reason = match error {
        StorageError::Compacted { .. } => Reason::LogCompacted,
        _ => Reason::StorageFailed,
    };
    Fault::new(reason, error.to_string())
}

fn applied(group: &GroupHandle) -> LogIndex {
    group.apply_status().applied.index
}

fn collect(
    storage: &dyn Storage,
    id: GroupId,
    first: LogIndex,
    last: LogIndex,
    count: u32,
) -> Result<v1::ReadLogReply, StorageError> {
    let mut reply = v1::ReadLogReply::default();
    let mut next = first;
    let mut size_bytes = 0;
    while next <= last && reply.entries.len() < count as usize && size_bytes < SIZE_BYTES_MAX {
        for entry in storage.entries(id, next, last, SIZE_BYTES_MAX)? {
            next = entry.id.index.next();
            size_bytes += entry.size_bytes();
            reply.entries.extend(user_entry(entry));
            if reply.entries.len() >= count as usize {
                break;
            }
        }
    }
    reply.next_index = (next <= last).then_some(next.0);
    Ok(reply)
}

fn user_entry(entry: Entry) -> Option<v1::UserEntry> {
    let EntryKind::Command(command) = entry.kind else {
        return None;
    };
    Some(v1::UserEntry {
        id: Some(log_id_to_wire(entry.id)),
        time_ns: entry.time_ns,
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_are_gone_are_not_an_invalid_argument() {
        let gone = StorageError::Compacted {
            group: GroupId(1),
            index: LogIndex(3),
            log_start: LogIndex(9),
        };
        let fault = unread(&gone);
        assert_eq!(fault.reason_name(), "LOG_COMPACTED");
        assert!(fault.message().contains("begins after 9"));
    }
}
