//! Which groups this node hosts, by id and by name.

use super::handle::GroupHandle;
use kontiki_raft::{GroupId, NodeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

/// The groups of a node. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Router {
    groups: Arc<RwLock<Groups>>,
}

#[derive(Default)]
struct Groups {
    by_id: HashMap<GroupId, GroupHandle>,
    by_name: BTreeMap<String, GroupHandle>,
}

impl Router {
    /// Takes a group in. False, and nothing done, if its id or its name is there: two replicas of
    /// one group would write one log, and of two of one name one could not be reached.
    #[must_use]
    pub(crate) fn insert(&self, handle: GroupHandle) -> bool {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        if groups.by_id.contains_key(&handle.id()) || groups.by_name.contains_key(handle.name()) {
            return false;
        }
        groups
            .by_name
            .insert(handle.name().to_owned(), handle.clone());
        groups.by_id.insert(handle.id(), handle);
        true
    }

    pub(crate) fn remove(&self, id: GroupId) -> Option<GroupHandle> {
        let mut groups = self.groups.write().unwrap_or_else(PoisonError::into_inner);
        let handle = groups.by_id.remove(&id)?;
        groups.by_name.remove(handle.name());
        Some(handle)
    }

    pub(crate) fn by_id(&self, id: GroupId) -> Option<GroupHandle> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.by_id.get(&id).cloned()
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<GroupHandle> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.by_name.get(name).cloned()
    }

    /// Every group, ascending by name.
    pub(crate) fn all(&self) -> Vec<GroupHandle> {
        let groups = self.groups.read().unwrap_or_else(PoisonError::into_inner);
        groups.by_name.values().cloned().collect()
    }

    /// Tells every group that a node cannot be reached.
    pub(crate) fn unreachable(&self, node: NodeId) {
        for handle in self.all() {
            handle.unreachable(node);
        }
    }
}
