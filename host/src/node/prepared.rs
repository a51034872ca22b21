//! A replica of a group whose creation is not decided: on disk, under id and name, with its machine
//! made, and without a core. It does not vote, campaign, replicate or serve.

use super::context::lock;
use super::opening::Machinery;
use kontiki_proto::v1::GroupSpec;
use kontiki_raft::{GroupId, NodeId};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A creation that takes longer than this is shown as a problem; most take milliseconds.
const SHOWN_AFTER: Duration = Duration::from_secs(2);

/// A prepared replica.
pub(crate) struct Prepared {
    pub(crate) spec: GroupSpec,
    /// The node that creates the group.
    pub(crate) coordinator: NodeId,
    /// Since when this process has it.
    pub(crate) since: Instant,
    /// Made already, unless the node has been restarted since.
    machinery: Mutex<Option<Machinery>>,
}

impl Prepared {
    pub(super) fn new(spec: GroupSpec, coordinator: NodeId, machinery: Option<Machinery>) -> Self {
        Self {
            spec,
            coordinator,
            since: Instant::now(),
            machinery: Mutex::new(machinery),
        }
    }

    pub(crate) fn id(&self) -> GroupId {
        GroupId(self.spec.id)
    }

    /// The node whose record decides for all: the first of the voters.
    pub(crate) fn decider(&self) -> NodeId {
        decider(&self.spec)
    }

    pub(super) fn take_machinery(&self) -> Option<Machinery> {
        lock(&self.machinery).take()
    }

    /// What is wrong, if it has been so for long.
    pub(super) fn is_late(&self) -> bool {
        self.since.elapsed() > SHOWN_AFTER
    }
}

/// The node whose record decides whether a group is created: the first of its voters by id.
pub(crate) fn decider(spec: &GroupSpec) -> NodeId {
    let voters = spec.initial_members.iter().flat_map(|set| &set.voters);
    NodeId(voters.copied().min().unwrap_or_default())
}
