//! What must hold at every moment of every scenario.

use kontiki_raft::{Entry, LogIndex, NodeId, Role, Status, Term, Token};
use std::collections::{BTreeMap, BTreeSet};

/// Watches a cluster for broken promises.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    leaders: BTreeMap<Term, NodeId>,
    applied: BTreeMap<LogIndex, Entry>,
    answered: BTreeSet<Token>,
}

impl Watch {
    /// Election Safety (Raft Figure 3): at most one leader per term.
    pub(crate) fn role(&mut self, node: NodeId, role: Role, term: Term) {
        if matches!(role, Role::Leader | Role::Transferring) {
            let first = *self.leaders.entry(term).or_insert(node);
            assert_eq!(first, node, "two leaders in term {term}");
        }
    }

    /// State Machine Safety: no two replicas apply different entries at one index.
    pub(crate) fn applied(&mut self, entries: &[Entry]) {
        for entry in entries {
            let first = self
                .applied
                .entry(entry.id.index)
                .or_insert_with(|| entry.clone());
            assert_eq!(first, entry, "two entries applied at one index");
        }
    }

    /// Every request is answered at most once.
    pub(crate) fn answered(&mut self, token: Token) {
        assert!(self.answered.insert(token), "{token:?} was answered twice");
    }

    pub(crate) fn status(&self, status: &Status) {
        if status.failure.is_some() {
            return; // What it was opened on need not make sense.
        }
        assert!(status.commit_index <= status.last.index);
        assert!(status.durable_index <= status.last.index);
        assert!(status.applied_index <= status.applying_index);
        assert!(status.applying_index <= status.commit_index);
        assert!(status.log_start.index <= status.commit_index);
    }

    /// A lost majority was given up (`reset_peers`): committed entries may be lost.
    pub(crate) fn forgive_lost_entries(&mut self) {
        self.applied.clear();
    }
}
