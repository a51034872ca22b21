//! Proposals, and what refuses them.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{Effects, Entry, EntryKind, LogId, Proposal, RejectReason};
use alloc::vec::Vec;

/// Proposals waiting for their application before new ones are refused as busy: a state machine
/// that lags must not let them pile up without bound.
const PENDING_MAX: usize = 1 << 18;

impl Core {
    /// Appends what can be appended, in order, as one write and one round of replication.
    pub(crate) fn on_propose(&mut self, proposals: Vec<Proposal>, out: &mut Effects) {
        let before = self.log.last();
        for proposal in proposals {
            match self.refusal(&proposal) {
                Some(reason) => Self::reject(proposal.token, reason, out),
                None => self.append_proposal(proposal),
            }
        }
        if self.log.last() != before {
            self.replicate(out);
        }
    }

    fn append_proposal(&mut self, proposal: Proposal) {
        let entry = self.next_entry(proposal.time_ns, proposal.kind);
        let size_bytes = entry.size_bytes();
        self.waiting
            .push(entry.id.index, proposal.token, size_bytes);
        self.append_entry(entry);
    }

    /// An entry of this term for the next index.
    pub(crate) fn next_entry(&self, time_ns: u64, kind: EntryKind) -> Entry {
        let id = LogId::new(self.hard.term, self.log.last().index.next());
        Entry { id, time_ns, kind }
    }

    fn refusal(&self, proposal: &Proposal) -> Option<RejectReason> {
        let Some(leading) = self.leading.as_deref() else {
            return Some(self.not_leader());
        };
        if leading.transfer.is_some() {
            return Some(RejectReason::Transferring);
        }
        if proposal
            .expected_term
            .is_some_and(|term| term != self.hard.term)
        {
            let term = self.hard.term;
            return Some(RejectReason::TermMismatch { term });
        }
        if self.is_group_read_only() {
            return Some(RejectReason::ReadOnly);
        }
        self.size_refusal(&proposal.kind)
    }

    fn size_refusal(&self, kind: &EntryKind) -> Option<RejectReason> {
        let payload = match kind {
            EntryKind::Command(bytes) | EntryKind::Internal { payload: bytes, .. } => bytes,
            EntryKind::Configuration(_) => {
                let why = "a configuration is changed by a request of its own";
                return Some(RejectReason::Invalid(why));
            }
        };
        let size_bytes_max = self.settings.entry_size_bytes_max;
        if payload.len() > size_bytes_max {
            let size_bytes = payload.len();
            return Some(RejectReason::TooLarge {
                size_bytes,
                size_bytes_max,
            });
        }
        if self.waiting.len() >= PENDING_MAX {
            return Some(RejectReason::Busy);
        }
        // One entry is always accepted, however small the limit, or nothing would ever go on.
        let uncommitted = self.waiting.uncommitted_size_bytes();
        let full = uncommitted + payload.len() > self.settings.uncommitted_size_bytes_max;
        (full && uncommitted > 0 && !self.bug(PlantedBug::BacklogUnlimited))
            .then_some(RejectReason::Busy)
    }
}
