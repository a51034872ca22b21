//! The whole cluster as its nodes describe it, each for itself.

use super::context::Global;
use super::failure::{Failure, Result};
use futures_util::future::join_all;
use kontiki::raft_stat::BROKEN;
use kontiki_client::proto::{GetNodeReply, GroupDescription, GroupSummary, Introduction};
use kontiki_client::{Address, Client};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was seen of a cluster.
#[derive(Debug)]
pub(crate) struct Survey {
    /// Ascending by name.
    pub(crate) nodes: Vec<SeenNode>,
    /// Ascending by name.
    pub(crate) groups: Vec<SeenGroup>,
}

/// A node, whether it answered or not.
#[derive(Debug)]
pub(crate) struct SeenNode {
    pub(crate) name: String,
    pub(crate) id: Option<u64>,
    /// As advertised, or as it was reached.
    pub(crate) address: String,
    /// What it says of itself, or why it says nothing.
    pub(crate) report: std::result::Result<GetNodeReply, String>,
}

/// A group, with the view of its leader where there is one.
#[derive(Debug)]
pub(crate) struct SeenGroup {
    pub(crate) summary: GroupSummary,
    /// Names of the members that answered and hold a replica; of all that do if the members are not
    /// known.
    pub(crate) replicas: Vec<String>,
    /// Names of the members that do not.
    pub(crate) missing: Vec<String>,
    /// What is wrong with replicas that serve nothing, and on which nodes they are. The leader does
    /// not know.
    pub(crate) failed: BTreeMap<String, Vec<String>>,
}

impl SeenNode {
    pub(crate) fn state(&self) -> &'static str {
        match &self.report {
            Ok(report) if is_set_aside(report) => "duplicate",
            Ok(report) if report.drained && report.leading == 0 => "drained",
            Ok(report) if report.draining => "draining",
            Ok(_) => "up",
            Err(_) => "down",
        }
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        match &self.report {
            Ok(report) => with_steps(&report.problems, &report.next_steps),
            Err(problem) => vec![format!(
                "{problem}; start it, or see that its address is right"
            )],
        }
    }
}

/// Each problem with what to do about it, where that is said.
fn with_steps(problems: &[String], next_steps: &[String]) -> Vec<String> {
    let mut steps = next_steps.iter();
    let joined = problems.iter().map(|problem| match steps.next() {
        Some(step) if !step.is_empty() => format!("{problem}; {step}"),
        _ => problem.clone(),
    });
    joined.collect()
}

/// Whether the other nodes refuse that process as a second one of its node.
fn is_set_aside(report: &GetNodeReply) -> bool {
    report.node.as_ref().is_some_and(|node| node.set_aside)
}

impl SeenGroup {
    /// Followers believe in a dead leader for a while; who asked it knows better.
    fn disbelieve(&mut self, nodes: &[SeenNode]) {
        let leader = self.summary.leader;
        let dead = nodes
            .iter()
            .find(|node| node.report.is_err() && node.id == leader);
        if let Some(dead) = dead.filter(|_| leader.is_some()) {
            self.summary.leader = None;
            let problem = format!("no leader: {}, which led, is down", dead.name);
            self.summary.problems.push(problem);
        }
    }

    pub(crate) fn has_leader(&self) -> bool {
        self.summary.leader.is_some()
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = match has_failed(&self.summary) {
            true => vec![],
            false => with_steps(&self.summary.problems, &self.summary.next_steps),
        };
        let failed = self.failed.iter();
        problems.extend(failed.map(|(what, nodes)| format!("on {}: {what}", nodes.join(", "))));
        if !self.has_leader() && problems.is_empty() {
            problems.push("no leader".to_owned());
        }
        // The leader may still hear what does not answer here, or not miss it yet.
        let unsaid = |name: &&String| !problems.iter().any(|it| it.contains(name.as_str()));
        let missing: Vec<String> = self.missing.iter().filter(unsaid).cloned().collect();
        if !missing.is_empty() {
            problems.push(format!(
                "no replica answers on {}; start or reconnect what is missing, or `kontiki member \
                 remove` what is lost for good",
                missing.join(", ")
            ));
        }
        problems
    }

    /// In a word: whether it serves, and with all that it was given.
    pub(crate) fn state(&self) -> &'static str {
        match (self.problems().is_empty(), self.has_leader()) {
            (true, _) => "ok",
            (false, true) if !self.missing.is_empty() => "degraded",
            (false, _) => "problem",
        }
    }

    /// Splits the nodes that hold a replica from members of which none is seen. Who holds one and is
    /// no member is neither.
    fn sort_members(&mut self, nodes: &[SeenNode]) {
        let Some(members) = self.summary.members.clone() else {
            return;
        };
        let ids = members.voters.into_iter().chain(members.learners);
        let names: Vec<String> = ids
            .map(|id| {
                let known = nodes.iter().find(|node| node.id == Some(id));
                known.map_or_else(|| id.to_string(), |node| node.name.clone())
            })
            .collect();
        self.replicas.retain(|name| names.contains(name));
        let absent = names.into_iter().filter(|it| !self.replicas.contains(it));
        self.missing = absent.collect();
    }
}

impl Survey {
    /// Asks every node that is known. Fails only if none answers.
    pub(crate) async fn of(global: &Global) -> Result<Self> {
        let client = global.client();
        let report = client
            .admin()
            .node()
            .await
            .map_err(|e| Failure::from(e).of_read())?;
        let known = known_nodes(report, &global.endpoints());
        let limit = PATIENCE.min(global.timeout());
        let seen = join_all(known.into_iter().map(|node| look(&client, node, limit))).await;
        let (nodes, reports): (Vec<_>, Vec<_>) = merge_nodes(seen).into_iter().unzip();
        let mut groups = merge_groups(&nodes, reports);
        groups.iter_mut().for_each(|group| group.disbelieve(&nodes));
        Ok(Self { nodes, groups })
    }

    /// What is not as it should be, each said once: that others miss a dead node is no news, nor
    /// that a node misses a replica of which the group tells.
    pub(crate) fn problems(&self) -> Vec<String> {
        let down = self.nodes.iter().filter(|node| node.report.is_err());
        let missed: Vec<String> = down
            .map(|node| format!("no connection to node {:?}", node.name))
            .chain(
                self.groups
                    .iter()
                    .map(|group| format!("group {:?}: ", group.summary.name)),
            )
            .collect();
        let nodes = self.nodes.iter().flat_map(|node| {
            let problems = node.problems().into_iter().filter(|problem| {
                node.report.is_err() || !missed.iter().any(|known| problem.starts_with(known))
            });
            problems.map(move |problem| format!("node {}: {problem}", node.name))
        });
        let groups = self.groups.iter().flat_map(|group| {
            let name = &group.summary.name;
            let problems = group.problems().into_iter();
            problems.map(move |problem| format!("group {name}: {problem}"))
        });
        nodes.chain(groups).collect()
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.problems().is_empty()
    }

    /// Every node answered and takes work.
    pub(crate) fn is_ready(&self) -> bool {
        self.nodes.iter().all(|node| node.state() == "up")
    }
}

/// The account of the replica that knows best: the leader's, else that of the member whose log is
/// furthest. A node that left the group long ago may answer first, and knows least.
pub(crate) async fn describe(client: &Client, group: &str) -> Result<GroupDescription> {
    let first = client.admin().describe(group, false).await;
    let first = first.map_err(|error| Failure::from(error).of_read())?;
    if knowledge(&first).1 {
        return Ok(first);
    }
    let members = client
        .members()
        .await
        .map_err(|error| Failure::from(error).of_read())?;
    let client = client.with_timeout(PATIENCE.min(client.timeout()));
    let looks = members.into_iter().map(|member| {
        let there = client.at(member.address);
        async move { there.admin().describe(group, true).await.ok() }
    });
    let all = join_all(looks).await.into_iter().flatten();
    Ok(all.chain([first]).max_by_key(knowledge).unwrap_or_default())
}

/// A client of one replica's node: the named one, else that of the replica that knows best.
pub(crate) async fn replica(global: &Global, group: &str, node: Option<&str>) -> Result<Client> {
    match node {
        Some(node) => global.client_of(node).await,
        None => {
            let best = describe(&global.client(), group).await?;
            global.client_of(&best.node.to_string()).await
        }
    }
}

/// How much a replica's account is worth.
fn knowledge(description: &GroupDescription) -> (bool, bool, bool, u64, u64) {
    let summary = description.summary.as_ref();
    let leads = summary.is_some_and(|summary| summary.role == "leader");
    let sets = description
        .configuration
        .iter()
        .flat_map(|c| c.current.iter().chain(&c.old));
    let member = sets.flat_map(|set| set.voters.iter().chain(&set.learners));
    let member = member.copied().any(|id| id == description.node);
    let last = description.last.unwrap_or_default();
    let left_behind = summary.is_some_and(|summary| summary.left_behind);
    (!left_behind, leads, member, last.term, last.index)
}

/// How long a node may be silent before it counts as down here.
const PATIENCE: Duration = Duration::from_secs(1);

/// A node to look at: its introduction as far as known, and where it might be.
struct Known {
    introduction: Introduction,
    address: Option<Address>,
    /// What another node says is wrong with it.
    problem: String,
}

fn known_nodes(report: GetNodeReply, endpoints: &[Address]) -> Vec<Known> {
    let own = report
        .node
        .map(|introduction| (introduction, String::new()));
    let peers = report
        .peers
        .into_iter()
        .filter_map(|peer| Some((peer.node?, peer.error)));
    let mut known: Vec<Known> = own
        .into_iter()
        .chain(peers)
        .map(|(introduction, problem)| {
            let address = introduction.client_address.parse().ok();
            Known {
                introduction,
                address,
                problem,
            }
        })
        .collect();
    for endpoint in endpoints {
        if !known
            .iter()
            .any(|node| node.address.as_ref() == Some(endpoint))
        {
            let address = Some(endpoint.clone());
            known.push(Known {
                introduction: Introduction::default(),
                address,
                problem: String::new(),
            });
        }
    }
    known
}

async fn look(client: &Client, known: Known, limit: Duration) -> (SeenNode, Vec<GroupSummary>) {
    let Known {
        introduction,
        address,
        problem,
    } = known;
    let named = |report| SeenNode {
        name: introduction.name.clone(),
        id: (introduction.node != 0).then_some(introduction.node),
        address: address
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        report,
    };
    let Some(reached) = address.clone() else {
        let unseen = if problem.is_empty() {
            "never heard of".to_owned()
        } else {
            problem
        };
        return (named(Err(unseen)), vec![]);
    };
    let client = client.with_timeout(limit).at(reached);
    let admin = client.admin();
    let (report, groups) = tokio::join!(admin.node(), admin.groups());
    let report = report.map_err(|error| short_problem(&error));
    (named(report), groups.unwrap_or_default())
}

/// Why a node does not answer, in a few words.
fn short_problem(error: &kontiki_client::Error) -> String {
    match error.tried().last() {
        Some(attempt) => format!("{}: {}", attempt.phase.as_str(), attempt.problem),
        None => error.message().to_owned(),
    }
}

/// Endpoints and introductions may name one node twice; the answers tell.
fn merge_nodes(seen: Vec<(SeenNode, Vec<GroupSummary>)>) -> Vec<(SeenNode, Vec<GroupSummary>)> {
    let mut merged: BTreeMap<String, (SeenNode, Vec<GroupSummary>)> = BTreeMap::new();
    for (mut node, groups) in seen {
        if let Ok(GetNodeReply {
            node: Some(introduction),
            ..
        }) = &node.report
        {
            node.name.clone_from(&introduction.name);
            node.id = Some(introduction.node);
        }
        if node.name.is_empty() {
            node.name = format!("({})", node.address);
        }
        // A second process of a node is not the node.
        let counts = |node: &SeenNode| node.report.as_ref().is_ok_and(|it| !is_set_aside(it));
        let better = merged
            .get(&node.name)
            .is_none_or(|(known, _)| known.report.is_err() || (!counts(known) && counts(&node)));
        if better {
            merged.insert(node.name.clone(), (node, groups));
        }
    }
    merged.into_values().collect()
}

fn merge_groups(nodes: &[SeenNode], reports: Vec<Vec<GroupSummary>>) -> Vec<SeenGroup> {
    let mut merged: BTreeMap<(String, u64), SeenGroup> = BTreeMap::new();
    for (node, groups) in nodes.iter().zip(reports) {
        for summary in groups {
            let key = (summary.name.clone(), summary.id);
            let group = merged.entry(key).or_insert_with(|| SeenGroup {
                summary: summary.clone(),
                replicas: vec![],
                missing: vec![],
                failed: BTreeMap::new(),
            });
            group.replicas.push(node.name.clone());
            let problems = with_steps(&summary.problems, &summary.next_steps);
            for problem in problems.into_iter().filter(|_| has_failed(&summary)) {
                let nodes = group.failed.entry(problem).or_default();
                nodes.push(node.name.clone());
            }
            if weight(&summary) > weight(&group.summary) {
                group.summary = summary;
            }
        }
    }
    let mut groups: Vec<SeenGroup> = merged.into_values().collect();
    for group in &mut groups {
        group.sort_members(nodes);
    }
    groups
}

/// Whether the replica could not be opened or has stopped.
fn has_failed(summary: &GroupSummary) -> bool {
    summary.left_behind || [BROKEN, "stopped"].contains(&summary.role.as_str())
}

/// The leader's own view counts most, then the latest.
fn weight(summary: &GroupSummary) -> (bool, bool, u64, bool, u64) {
    let leads = summary.role == "leader";
    (
        !summary.left_behind,
        leads,
        summary.term,
        summary.leader.is_some(),
        summary.commit_index,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, report: std::result::Result<GetNodeReply, String>) -> SeenNode {
        SeenNode {
            name: name.into(),
            id: None,
            address: String::new(),
            report,
        }
    }

    fn summary(role: &str, term: u64, leader: Option<u64>) -> GroupSummary {
        GroupSummary {
            name: "g".into(),
            role: role.into(),
            term,
            leader,
            ..Default::default()
        }
    }

    #[test]
    fn the_leaders_view_of_a_group_wins() {
        let nodes = ["a", "b", "c"].map(|name| node(name, Ok(GetNodeReply::default())));
        let reports = vec![
            vec![summary("follower", 2, None)],
            vec![summary("leader", 3, Some(2))],
            vec![summary("candidate", 4, None)],
        ];
        let groups = merge_groups(&nodes, reports);
        assert_eq!(groups[0].summary.term, 3);
        assert_eq!(groups[0].replicas, ["a", "b", "c"]);
        assert!(groups[0].problems().is_empty());
    }

    #[test]
    fn a_group_with_a_dead_voter_is_degraded_and_an_ex_member_does_not_stand_in() {
        use kontiki_client::proto::MemberSet;
        let mut nodes = ["a", "b", "c", "d"].map(|name| node(name, Ok(GetNodeReply::default())));
        for (id, node) in (1..).zip(&mut nodes) {
            node.id = Some(id);
        }
        nodes[2].report = Err("connect: refused".into());
        let leads = GroupSummary {
            members: Some(MemberSet {
                voters: vec![1, 2, 3],
                learners: vec![],
            }),
            ..summary("leader", 3, Some(1))
        };
        let follows = summary("follower", 3, Some(1));
        let reports = vec![vec![leads], vec![follows.clone()], vec![], vec![follows]];
        let groups = merge_groups(&nodes, reports);
        assert_eq!(groups[0].state(), "degraded");
        assert_eq!(
            (groups[0].replicas.join(","), groups[0].missing.join(",")),
            ("a,b".into(), "c".into())
        );
        let problems = groups[0].problems();
        assert!(
            problems[0].starts_with("no replica answers on c; start"),
            "{problems:?}"
        );
        assert!(nodes[2].problems()[0].contains("; start it"));
    }

    #[test]
    fn a_replica_that_failed_is_a_problem_though_the_leader_is_well() {
        let nodes = ["a", "b", "c"].map(|name| node(name, Ok(GetNodeReply::default())));
        let failed = |role, what: &str| GroupSummary {
            problems: vec![what.into()],
            ..summary(role, 0, None)
        };
        let reports = vec![
            vec![failed(BROKEN, "no plugin")],
            vec![summary("leader", 3, Some(2))],
            vec![failed(BROKEN, "no plugin")],
        ];
        let groups = merge_groups(&nodes, reports);
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0].problems(), ["on a, c: no plugin"]);
        let alone = merge_groups(&nodes[..1], vec![vec![failed("stopped", "disk full")]]);
        assert_eq!(alone[0].problems(), ["on a: disk full"]);
    }

    #[test]
    fn a_group_without_leader_is_a_problem_even_if_nobody_says_so() {
        let nodes = [node("a", Ok(GetNodeReply::default()))];
        let groups = merge_groups(&nodes, vec![vec![summary("follower", 2, None)]]);
        assert_eq!(groups[0].problems(), ["no leader"]);
    }

    #[test]
    fn a_member_knows_more_than_one_that_left() {
        use kontiki_client::proto::{Configuration, LogId, MemberSet};
        let describe = |node, role: &str, index| {
            let current = Some(MemberSet {
                voters: vec![2, 3],
                learners: vec![],
            });
            GroupDescription {
                node,
                summary: Some(summary(role, 1, None)),
                configuration: Some(Configuration { current, old: None }),
                last: Some(LogId { term: 1, index }),
                ..Default::default()
            }
        };
        let (left, member) = (describe(1, "follower", 9), describe(2, "follower", 5));
        let (further, leader) = (describe(3, "follower", 6), describe(2, "leader", 5));
        assert!(knowledge(&member) > knowledge(&left));
        assert!(knowledge(&further) > knowledge(&member));
        assert!(knowledge(&leader) > knowledge(&further));
    }

    #[test]
    fn a_leader_that_is_down_leads_nothing() {
        let mut dead = node("b", Err("connect: refused".into()));
        dead.id = Some(2);
        let nodes = [node("a", Ok(GetNodeReply::default())), dead];
        let reports = vec![vec![summary("follower", 3, Some(2))], vec![]];
        let mut groups = merge_groups(&nodes, reports);
        groups[0].disbelieve(&nodes);
        assert!(!groups[0].has_leader());
        assert_eq!(groups[0].problems(), ["no leader: b, which led, is down"]);
    }

    #[test]
    fn one_node_under_two_addresses_is_one_node() {
        let introduction = Introduction {
            name: "n1".into(),
            node: 7,
            ..Default::default()
        };
        let report = GetNodeReply {
            node: Some(introduction),
            ..Default::default()
        };
        let seen = vec![
            (node("n1", Err("connect: refused".into())), vec![]),
            (node("", Ok(report)), vec![]),
        ];
        let merged = merge_nodes(seen);
        assert_eq!(merged.len(), 1);
        assert_eq!((merged[0].0.id, merged[0].0.state()), (Some(7), "up"));
    }
}
