//! What is bounded must be bounded: windows, queues and the cache.

use crate::oracle::Check;
use crate::plan::Plan;
use crate::require;
use kontiki_raft::{AppendEntries, Entry, NodeId, PeerStatus, Settings, Status};

/// What every entry counts beside its payload.
const ENTRY_OVERHEAD_BYTES: usize = 32;
/// Payload of the largest configuration: two sets of all nodes a run may have.
const CONFIGURATION_SIZE_BYTES_MAX: usize = 2 * 8 * super::SLOTS;

/// Limits of one run.
#[derive(Debug)]
pub(super) struct Limits<'a> {
    settings: &'a Settings,
    /// The largest message of entries that may leave when the window has a byte left.
    message_size_bytes_max: usize,
}

impl<'a> Limits<'a> {
    pub(super) fn of(plan: &'a Plan) -> Self {
        let settings = &plan.settings;
        let payload = CONFIGURATION_SIZE_BYTES_MAX.max(plan.payload_max as usize);
        let entry = ENTRY_OVERHEAD_BYTES + payload;
        let entries = settings.append_entries_max.saturating_mul(entry);
        Self {
            settings,
            message_size_bytes_max: entries.min(settings.append_size_bytes_max.max(entry)),
        }
    }

    /// What a replica says about itself. Entries that are not durable (`volatile_size_bytes`) must
    /// stay in memory whatever the limit; `reads_open` were asked of it and not answered.
    pub(super) fn check(
        &self,
        status: &Status,
        volatile_size_bytes: impl FnOnce() -> usize,
        reads_open: u64,
    ) -> Check {
        self.check_backlog(status, reads_open)?;
        let mut peers = status.peers.iter();
        peers.try_for_each(|peer| self.check_window(status.node, peer))?;
        let (cache, limit) = (status.cache_size_bytes, self.settings.cache_size_bytes_max);
        require!(
            cache <= limit || cache <= volatile_size_bytes(),
            Bounded,
            "node {}: {cache} bytes of entries in memory, most of them durable",
            status.node
        );
        Ok(())
    }

    fn check_backlog(&self, status: &Status, reads_open: u64) -> Check {
        let uncommitted = status.uncommitted_size_bytes;
        require!(
            uncommitted <= self.settings.uncommitted_size_bytes_max + ENTRY_OVERHEAD_BYTES,
            Bounded,
            "node {}: {uncommitted} bytes uncommitted",
            status.node
        );
        let applying = status.applying_index.0 - status.applied_index.0;
        require!(
            applying <= self.settings.apply_inflight_entries_max as u64,
            Bounded,
            "node {}: {applying} entries handed to the state machine",
            status.node
        );
        require!(
            status.reads_pending as u64 <= reads_open,
            Bounded,
            "node {}: {} reads wait, but only {reads_open} were asked and not answered",
            status.node,
            status.reads_pending
        );
        Ok(())
    }

    fn check_window(&self, node: NodeId, peer: &PeerStatus) -> Check {
        let (messages, size_bytes) = (peer.inflight_messages, peer.inflight_size_bytes);
        require!(
            messages <= self.settings.inflight_messages_max,
            Bounded,
            "node {node}: {messages} messages in flight to {}",
            peer.node
        );
        require!(
            size_bytes < self.settings.inflight_size_bytes_max + self.message_size_bytes_max,
            Bounded,
            "node {node}: {size_bytes} bytes in flight to {}",
            peer.node
        );
        Ok(())
    }

    /// One entry may always travel, however large it is.
    pub(super) fn check_message(&self, node: NodeId, append: &AppendEntries) -> Check {
        let entries = &append.entries;
        if entries.len() < 2 {
            return Ok(());
        }
        let size_bytes: usize = entries.iter().map(Entry::size_bytes).sum();
        require!(
            entries.len() <= self.settings.append_entries_max
                && size_bytes <= self.settings.append_size_bytes_max,
            Bounded,
            "node {node}: one message of {} entries and {size_bytes} bytes",
            entries.len()
        );
        Ok(())
    }
}
