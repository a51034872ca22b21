//! Batches: what one call of a machine applies.

use kontiki_plugin::Batch;
use kontiki_raft::{Entry, EntryKind};

pub(super) fn is_command(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::Command(_))
}

/// Cuts one batch off the front of `entries`: its commands, how many entries it covers, and the
/// time of the last. An entry's time is the wall time that its leader gave it, at most what a majority
/// of the voters had reached (and 5 s); since the clocks of two leaders differ, a machine is given the
/// latest so far, which is the same on every replica. Entries that are no commands are covered and not passed on.
pub(super) fn cut(entries: &[Entry], mut time_ns: u64) -> (Batch<'_>, usize, u64) {
    let mut batch = Batch::new();
    for (taken, entry) in entries.iter().enumerate() {
        let EntryKind::Command(command) = &entry.kind else {
            continue;
        };
        if batch.is_full() || !batch.fits(command.len()) {
            return (batch, taken, time_ns);
        }
        time_ns = time_ns.max(entry.time_ns);
        batch.push(entry.id.index.0, time_ns, command);
    }
    (batch, entries.len(), time_ns)
}
