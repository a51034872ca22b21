//! The groups' part of the page: a series for each, or above a number of groups their sums.

use super::page::{Family, Labels, Page, family, family_in};
use crate::node::apply::ApplyStatus;
use crate::node::handle::{Brief, GroupHandle};
use crate::node::request::GroupStatus;
use kontiki_raft::{NodeId, Role};
use prometheus_client::registry::Unit;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A group at one moment.
pub(super) struct GroupState {
    handle: GroupHandle,
    brief: Brief,
    apply: ApplyStatus,
    /// None if the group's task did not answer in time.
    status: Option<GroupStatus>,
}

impl fmt::Debug for GroupState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("GroupState");
        debug.field("name", &self.handle.name());
        debug.field("status", &self.status).finish_non_exhaustive()
    }
}

impl GroupState {
    /// What the group announces, and what its task answered.
    pub(super) fn new(handle: GroupHandle, status: Option<GroupStatus>) -> Self {
        Self {
            brief: handle.brief(),
            apply: handle.apply_status(),
            status,
            handle,
        }
    }

    fn labels(&self) -> Labels<'_> {
        vec![("group", self.handle.name())]
    }

    fn is_silent(&self) -> bool {
        self.status.is_none()
    }

    fn is_without_leader(&self) -> bool {
        self.brief.leader.is_none()
    }

    /// Entries that each peer lacks, on the leader.
    fn lags(&self) -> impl Iterator<Item = (NodeId, u64)> {
        let core = self.status.iter().map(|status| &status.core);
        core.flat_map(|core| {
            let last = core.last.index.0;
            let lag = move |at: u64| last.saturating_sub(at);
            core.peers
                .iter()
                .map(move |peer| (peer.node, lag(peer.match_index.0)))
        })
    }
}

/// A gauge that every group has.
struct GroupGauge {
    family: Family,
    /// None if the group did not say.
    value: fn(&GroupState) -> Option<u64>,
    /// Whether the sum over all groups says anything.
    sums_up: bool,
}

fn of_each(family: Family, value: fn(&GroupState) -> Option<u64>) -> GroupGauge {
    GroupGauge {
        family,
        value,
        sums_up: false,
    }
}

fn summable(family: Family, value: fn(&GroupState) -> Option<u64>) -> GroupGauge {
    GroupGauge {
        family,
        value,
        sums_up: true,
    }
}

fn gauges() -> [GroupGauge; 10] {
    [
        of_each(
            family("group_has_leader", "1 if the replica knows a leader"),
            |group| Some(u64::from(!group.is_without_leader())),
        ),
        of_each(
            family("group_healthy", "1 with a leader and a running plugin"),
            |group| Some(u64::from(group.handle.is_healthy())),
        ),
        summable(
            family(
                "group_diverged",
                "1 if another replica has answered the same log differently",
            ),
            |group| Some(u64::from(group.handle.is_diverged())),
        ),
        of_each(family("group_term", "Current term"), |group| {
            Some(group.brief.term.0)
        }),
        of_each(family("group_commit_index", "Commit index"), |group| {
            Some(group.brief.commit.0)
        }),
        of_each(family("group_applied_index", "Applied index"), |group| {
            Some(group.apply.applied.index.0)
        }),
        summable(
            family("apply_lag_entries", "Committed entries not applied yet"),
            |group| {
                let (commit, applied) = (group.brief.commit.0, group.apply.applied.index.0);
                Some(commit.saturating_sub(applied))
            },
        ),
        summable(
            family("proposals_pending", "Commands that wait for commit"),
            |group| Some(group.status.as_ref()?.core.proposals_pending as u64),
        ),
        summable(
            family("requests_waiting", "Requests that wait for an answer"),
            |group| Some(group.handle.waiting()),
        ),
        summable(
            family_in(Unit::Bytes, "plugin_memory", "Memory of plugins' instances"),
            |group| Some(group.apply.memory_size_bytes),
        ),
    ]
}

/// The groups of a node at one moment.
#[derive(Debug)]
pub(super) struct Groups {
    pub(super) states: Vec<GroupState>,
    /// Groups that could not be opened.
    pub(super) broken: usize,
    /// Whether there are few enough for series of their own.
    pub(super) each: bool,
    /// What people call the peers of these groups.
    pub(super) names: BTreeMap<NodeId, String>,
}

impl Groups {
    /// Every peer of a group that is led here.
    pub(super) fn peers(states: &[GroupState]) -> BTreeSet<NodeId> {
        let lags = states.iter().flat_map(GroupState::lags);
        lags.map(|(peer, _)| peer).collect()
    }

    pub(super) fn encode(&self, page: &mut Page<'_>) -> fmt::Result {
        self.encode_roles(page)?;
        let without = self.count(GroupState::is_without_leader);
        let help = "Groups of which this node knows no leader";
        page.gauge(&family("groups_without_leader", help), without)?;
        let help = "Groups whose task did not answer this scrape in time";
        let silent = self.count(GroupState::is_silent);
        page.gauge(&family("groups_unresponsive", help), silent)?;
        for gauge in gauges() {
            self.encode_gauge(page, &gauge)?;
        }
        self.encode_lags(page)?;
        self.encode_plugins(page)
    }

    fn count(&self, is: fn(&GroupState) -> bool) -> usize {
        self.states.iter().filter(|group| is(group)).count()
    }

    fn encode_roles(&self, page: &mut Page<'_>) -> fmt::Result {
        let roles = [Role::Leader, Role::Follower, Role::Candidate, Role::Stopped];
        let of_role = |role| {
            let states = self.states.iter();
            let count = states.filter(|group| simplified(group.brief.role) == role);
            let name = crate::server::describe::role_name(role);
            (vec![("role", name)], count.count())
        };
        let broken = (vec![("role", "broken")], self.broken);
        let help = "Replicas on this node by role; broken: it could not be opened";
        let samples = roles.into_iter().map(of_role).chain([broken]);
        page.gauges(&family("groups", help), samples)
    }

    fn encode_gauge(&self, page: &mut Page<'_>, gauge: &GroupGauge) -> fmt::Result {
        let values = self.states.iter();
        let values = values.filter_map(|group| Some((group, (gauge.value)(group)?)));
        if self.each {
            let samples = values.map(|(group, value)| (group.labels(), value));
            page.gauges(&gauge.family, samples)
        } else if gauge.sums_up {
            page.gauge(&gauge.family, values.map(|(_, value)| value).sum::<u64>())
        } else {
            Ok(())
        }
    }

    fn encode_lags(&self, page: &mut Page<'_>) -> fmt::Result {
        let help = "Entries that a peer lacks, as its leader here sees it";
        let family = family("replication_lag_entries", help);
        if self.each {
            let lags = self.states.iter().flat_map(|group| {
                let with_peer = move |peer| {
                    let mut labels = group.labels();
                    labels.push(("peer", self.name(peer)));
                    labels
                };
                let lags = group.lags();
                lags.map(move |(peer, lag)| (with_peer(peer), lag))
            });
            return page.gauges(&family, lags);
        }
        let mut sums = BTreeMap::new();
        for (peer, lag) in self.states.iter().flat_map(GroupState::lags) {
            *sums.entry(self.name(peer)).or_insert(0) += lag;
        }
        let sums = sums.into_iter();
        page.gauges(&family, sums.map(|(peer, lag)| (vec![("peer", peer)], lag)))
    }

    fn name(&self, peer: NodeId) -> &str {
        self.names.get(&peer).map_or("", String::as_str)
    }

    /// Above the number of groups once for each plugin in use.
    fn encode_plugins(&self, page: &mut Page<'_>) -> fmt::Result {
        let labels = self.states.iter().map(|group| {
            let mut labels = match self.each {
                true => group.labels(),
                false => Labels::new(),
            };
            let description = group.handle.plugin_description();
            labels.push(("plugin", &description.name));
            labels.push(("version", &description.version));
            labels.push(("digest", &group.handle.spec().plugin));
            labels
        });
        let labels: BTreeSet<_> = labels.collect();
        let help = "The plugins of groups; always 1";
        let samples = labels.into_iter().map(|labels| (labels, 1_u32));
        page.gauges(&family("plugin_info", help), samples)
    }
}

/// Two of the roles are passing stages of others.
fn simplified(role: Role) -> Role {
    match role {
        Role::PreCandidate => Role::Candidate,
        Role::Transferring => Role::Leader,
        other => other,
    }
}
