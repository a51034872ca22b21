//! Finishing what was left unfinished: creations that nobody carries on, deletions that this node
//! missed while it was away, plugins that are missing here.

use super::Shared;
use super::fetch::fetch_plugin;
use super::holdings::{IDS_MAX, ask, connected};
use super::settle;
use super::status::Fault;
use crate::node::context::lock;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_raft::{GroupId, NodeId, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// How often it looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Pause between two tries of one thing, growing.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often nodes that are connected are asked about groups that do not run well here.
const DOUBT_INTERVAL: Duration = Duration::from_secs(5);

/// Begins to look after the node's groups, until the node closes.
pub(super) fn start(shared: &Shared) {
    let context = &shared.context;
    let (steward, closing) = (Steward::new(shared.clone()), context.closing.clone());
    context.in_background(async move {
        tokio::select! {
            () = steward.run() => {}
            () = closing.cancelled() => {}
        }
    });
}

/// Dropped anywhere: what must not be left half-way is carried out elsewhere, to its end.
struct Steward {
    shared: Shared,
    tries: BTreeMap<GroupId, Tries>,
    /// Nodes that were connected at the last look, and by which connection: one that was away for less
    /// than the time between two looks may have been told of a deletion too.
    met: BTreeMap<NodeId, u64>,
    doubts_at: Instant,
}

/// When something is tried again.
struct Tries {
    at: Instant,
    pause: Duration,
}

impl Steward {
    fn new(shared: Shared) -> Self {
        Self {
            shared,
            tries: BTreeMap::new(),
            met: BTreeMap::new(),
            doubts_at: Instant::now(),
        }
    }

    async fn run(mut self) {
        loop {
            tokio::time::sleep(INTERVAL).await;
            if !self.shared.context.loading.load(Ordering::Acquire) {
                self.look().await;
            }
        }
    }

    async fn look(&mut self) {
        let undecided: Vec<_> = lock(&self.shared.context.prepared)
            .keys()
            .copied()
            .collect();
        let missing = self.missing_plugins();
        self.tries
            .retain(|id, _| undecided.contains(id) || missing.iter().any(|(it, _)| it == id));
        for id in undecided {
            if self.is_due(id) {
                self.settle(id).await;
            }
        }
        for (id, plugin) in missing {
            if self.is_due(id) {
                self.open_with_plugin(id, plugin).await;
            }
        }
        self.look_for_deletions().await;
    }

    fn missing_plugins(&self) -> Vec<(GroupId, String)> {
        let all = lock(&self.shared.context.broken);
        let missing = all.values().filter_map(|broken| {
            let plugin = broken.missing_plugin.clone()?;
            Some((broken.id, plugin))
        });
        missing.collect()
    }

    /// Whether it is time to try something again; the pause grows.
    fn is_due(&mut self, id: GroupId) -> bool {
        let now = Instant::now();
        let tries = self.tries.entry(id).or_insert(Tries {
            at: now,
            pause: PAUSE_MIN,
        });
        if now < tries.at {
            return false;
        }
        tries.at = now + tries.pause;
        tries.pause = (tries.pause * 2).min(PAUSE_MAX);
        true
    }

    async fn settle(&self, id: GroupId) {
        let shared = self.shared.clone();
        let settling = async move { settle::settle(&shared, id).await };
        match self.shared.context.to_the_end(settling).await {
            Ok(Ok(settled)) if settled.problem.is_empty() => {
                info!(group = id.0, stage = ?settled.stage, "a creation is settled");
            }
            Ok(Ok(settled)) => debug!(group = id.0, why = settled.problem, "not settled yet"),
            Ok(Err(fault)) => warn!(group = id.0, error = fault.message(), "not settled"),
            Err(error) => warn!(group = id.0, %error, "not settled"),
        }
    }

    /// Fetches a plugin from whichever node has it, and opens the group that needs it.
    async fn open_with_plugin(&self, id: GroupId, plugin: String) {
        let shared = self.shared.clone();
        let opening = async move { open_with_plugin(&shared, id, &plugin).await };
        match self.shared.context.to_the_end(opening).await {
            Ok(Ok(())) => info!(group = id.0, "its plugin is here again; the group is open"),
            Ok(Err(fault)) => warn!(group = id.0, error = fault.message(), "still not opened"),
            Err(error) => warn!(group = id.0, %error, "still not opened"),
        }
    }

    /// Asks nodes that are newly connected about every group, and all about groups in doubt.
    async fn look_for_deletions(&mut self) {
        let context = &self.shared.context;
        let nodes = connected(context);
        let connection = |node: &v1::Introduction| {
            let id = NodeId(node.node);
            (id, context.transport.connections(id))
        };
        let now: BTreeMap<NodeId, u64> = nodes.iter().map(connection).collect();
        let is_met = |node: &v1::Introduction| {
            let id = NodeId(node.node);
            self.met.get(&id) == now.get(&id)
        };
        let new = nodes.iter().filter(|node| !is_met(node));
        let mut questions: Vec<_> = new.map(|node| (node.clone(), self.all_ids())).collect();
        if Instant::now() >= self.doubts_at {
            self.doubts_at = Instant::now() + DOUBT_INTERVAL;
            let doubtful = self.doubtful_ids();
            let old = nodes.iter().filter(|node| is_met(node));
            questions.extend(old.map(|node| (node.clone(), doubtful.clone())));
        }
        self.met = now;
        let shared = &self.shared;
        let asked = questions.iter().map(|(node, ids)| async move {
            let answered = deleted_by(shared, node, ids).await;
            (NodeId(node.node), answered)
        });
        let mut deleted = BTreeSet::new();
        for (node, answered) in join_all(asked).await {
            match answered {
                Ok(ids) => {
                    let believed = |id: &GroupId| settle::may_end(context, *id, node);
                    deleted.extend(ids.into_iter().filter(believed));
                }
                // It is asked again as one that is new.
                Err(_) => {
                    self.met.remove(&node);
                }
            }
        }
        for id in deleted {
            self.end(id).await;
        }
    }

    fn all_ids(&self) -> Vec<u64> {
        let context = &self.shared.context;
        let running = context.router.all().into_iter().map(|it| it.id().0);
        let broken = lock(&context.broken);
        let broken = broken.values().map(|it| it.id.0);
        running.chain(broken).collect()
    }

    /// Replicas that hear of no leader, or do not run.
    fn doubtful_ids(&self) -> Vec<u64> {
        let context = &self.shared.context;
        let is_doubtful = |brief: crate::node::handle::Brief| {
            brief.leader.is_none() || brief.role == Role::Stopped
        };
        let running = context.router.all().into_iter();
        let running = running.filter(|it| is_doubtful(it.brief()));
        let running = running.map(|it| it.id().0);
        let broken = lock(&context.broken);
        let broken = broken.values().map(|it| it.id.0);
        running.chain(broken).collect()
    }

    async fn end(&self, id: GroupId) {
        warn!(
            group = id.0,
            "the group was deleted while this node was away"
        );
        let shared = self.shared.clone();
        let ending = async move { settle::end_deleted(&shared, id).await };
        match self.shared.context.to_the_end(ending).await {
            Ok(Ok(())) => {}
            Ok(Err(fault)) => warn!(group = id.0, error = fault.message(), "not ended"),
            Err(error) => warn!(group = id.0, %error, "not ended"),
        }
    }
}

/// Which of these groups a node knows to be deleted.
async fn deleted_by(
    shared: &Shared,
    node: &v1::Introduction,
    ids: &[u64],
) -> Result<Vec<GroupId>, String> {
    let mut deleted = Vec::new();
    for ids in ids.chunks(IDS_MAX) {
        let request = v1::LookUpGroupsRequest {
            ids: ids.to_vec(),
            name: String::new(),
        };
        let held = ask(shared, node, request).await?;
        let gone = held
            .iter()
            .filter(|held| held.stage() == GroupStage::Deleted);
        let asked = gone.filter(|held| ids.contains(&held.id));
        deleted.extend(asked.map(|held| GroupId(held.id)));
    }
    Ok(deleted)
}

async fn open_with_plugin(shared: &Shared, id: GroupId, plugin: &str) -> Result<(), Fault> {
    let context = &shared.context;
    for node in connected(context) {
        match fetch_plugin(context, &node, plugin).await {
            Ok(()) => break,
            Err(fault) => debug!(peer = %node.name, error = fault.message(), "no plugin there"),
        }
    }
    // It may have been pushed here meanwhile, too.
    let turn = context.turn(id).await?;
    Ok(context.reopen(&turn).await?)
}
