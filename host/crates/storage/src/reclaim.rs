//! Gives the space of compacted entries back, in the background.
//!
//! A range delete makes entries invisible at once, and RocksDB's own compaction drops them some day,
//! rewriting what is left in their files. A table file that holds nothing but compacted entries
//! can simply be unlinked; that is done here, one file at a time with a pause after each, because
//! unlinking many large files at once keeps the file system's journal busy, and with it every sync
//! of the log (braft's issue 532).

use crate::engine::{Engine, Family};
use crate::error::StorageError;
use crate::layout::{GROUP_RECORD, log_key, state_key};
use crate::writer::Shared;
use kontiki_raft::{GroupId, LogIndex};
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Between two files.
const PAUSE: Duration = Duration::from_millis(10);

/// Entries that are compacted, durably.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Compacted {
    pub(crate) group: GroupId,
    /// The last of them.
    pub(crate) upto: LogIndex,
}

/// Works until the sender is gone. A failure is no harm: the space comes back some other day.
pub(crate) fn run(engine: &dyn Engine, shared: &Shared, queue: &Receiver<Compacted>) {
    for compacted in queue {
        let group = compacted.group.0;
        match reclaim(engine, shared, compacted) {
            Ok(0) => {}
            Ok(files) => tracing::debug!(group, files, "table files of compacted entries removed"),
            Err(error) => tracing::warn!(group, %error, "space of compacted entries not reclaimed"),
        }
    }
}

/// Removes the files that hold nothing else, and says how many there were.
fn reclaim(
    engine: &dyn Engine,
    shared: &Shared,
    Compacted { group, upto }: Compacted,
) -> Result<usize, StorageError> {
    let (from, to) = (log_key(group, LogIndex(0)), log_key(group, upto.next()));
    let files = engine.files_within(Family::Log, &from[..]..&to[..])?;
    let mut removed = 0;
    for file in files {
        // Of a group that was removed meanwhile the keys may mean something else one day.
        let registered = engine.read(Family::State, &state_key(group, GROUP_RECORD))?;
        if registered.is_none() || shared.closing.load(Ordering::Relaxed) {
            break;
        }
        engine.remove_file(Family::Log, &file)?;
        removed += 1;
        std::thread::sleep(PAUSE);
    }
    Ok(removed)
}
