//! Turns: whatever makes, opens, confirms, takes back or deletes a replica of one group does it one
//! at a time. Groups do not wait for each other.

use super::context::lock;
use kontiki_raft::GroupId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::OwnedMutexGuard;

/// Turns of all groups.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<BTreeMap<GroupId, Arc<tokio::sync::Mutex<()>>>>);

/// Nobody else changes whether this node has a replica of the group while it is held.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(super) group: GroupId,
    _guard: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for the turn of a group.
    pub(crate) async fn of(&self, group: GroupId) -> Turn {
        let turn = {
            let mut turns = lock(&self.0);
            // Whoever holds or awaits a turn has a copy.
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(group).or_default())
        };
        Turn {
            group,
            _guard: turn.lock_owned().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn groups_do_not_wait_for_each_other() {
        let turns = Turns::default();
        let first = turns.of(GroupId(1)).await;
        let other = turns.of(GroupId(2)).await;
        let second = turns.of(GroupId(1));
        tokio::pin!(second);
        let waits = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(waits.is_err());
        drop(first);
        let second = second.await;
        drop((other, second));
        drop(turns.of(GroupId(3)).await);
        assert_eq!(lock(&turns.0).len(), 1);
    }
}
