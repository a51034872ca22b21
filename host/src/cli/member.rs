//! `kontiki member`: who belongs to a group.

use super::cluster;
use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::membership::{cancel, execute};
use super::names::{configuration_json, id_json, members_text, name_of};
use super::output::{Document, table};
use super::progress::{catch_up_json, node_line};
use super::purge::{self, PurgeArgs};
use clap::{Args, Subcommand};
use kontiki_client::proto::change_membership_request::Change;
use kontiki_client::proto::{
    ChangeMembershipRequest, Configuration, GroupDescription, Introduction, MemberSet, NamedMembers,
};
use serde_json::{Value, json};

/// Members of a group. Changes wait until they are in force and report progress.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// Lists the members of a group and how far each is
    #[command(visible_alias = "ls")]
    List(GroupArg),
    /// Adds a node; as a voter it counts only once it has caught up
    Add(AddArgs),
    /// Removes a node
    Remove(NodeArgs),
    /// Makes the membership what is given, in one step (joint consensus)
    Change(ChangeArgs),
    /// Makes a learner a voter
    Promote(NodeArgs),
    /// Makes a voter a learner
    Demote(NodeArgs),
    /// Gives up a change whose new voters are still catching up
    Cancel(GroupArg),
    /// DESTRUCTIVE: deletes what a node still holds of a group that it was removed from
    ///
    /// Refused while the node is a member, and unless the group's leader, or the replica's own
    /// emptiness, shows that it is none. Without --confirm it says what would be deleted.
    Purge(PurgeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GroupArg {
    /// Name of the group
    #[arg(long, short)]
    group: String,
}

#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    #[command(flatten)]
    common: NodeArgs,
    /// Let it stay a learner: it receives everything and does not vote
    #[arg(long)]
    learner: bool,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The node, by name or id
    node: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:
  kontiki member change --group orders --voters n1,n2,n3 --expect n1,n2,n4")]
pub(crate) struct ChangeArgs {
    /// The new voters, by name or id
    #[arg(long, value_delimiter = ',', value_name = "NODE,…", required = true)]
    voters: Vec<String>,
    /// The new learners, by name or id
    #[arg(long, value_delimiter = ',', value_name = "NODE,…")]
    learners: Vec<String>,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    #[command(flatten)]
    group: GroupArg,
    /// Refuse unless these are the voters now
    #[arg(long, value_delimiter = ',', value_name = "NODE,…")]
    expect: Vec<String>,
    /// Refuse unless these are the learners now (with --expect; default: none)
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "NODE,…",
        requires = "expect"
    )]
    expect_learners: Vec<String>,
    /// Show the quorum before and after, and change nothing
    #[arg(long)]
    plan: bool,
    /// Return as soon as the change is under way
    #[arg(long, conflicts_with = "plan")]
    no_wait: bool,
}

/// Runs `kontiki member`.
pub(crate) async fn run(global: &Global, command: &MemberCommand) -> Result<()> {
    let (change, how) = match command {
        MemberCommand::List(args) => return list(global, &args.group).await,
        MemberCommand::Cancel(args) => return cancel(global, &args.group).await,
        MemberCommand::Purge(args) => return purge::run(global, args).await,
        MemberCommand::Add(args) if args.learner => (
            Change::AddLearner(args.common.node.clone()),
            &args.common.how,
        ),
        MemberCommand::Add(args) => (Change::AddVoter(args.common.node.clone()), &args.common.how),
        MemberCommand::Remove(args) => (Change::Remove(args.node.clone()), &args.how),
        MemberCommand::Promote(args) => (Change::Promote(args.node.clone()), &args.how),
        MemberCommand::Demote(args) => (Change::Demote(args.node.clone()), &args.how),
        MemberCommand::Change(args) => {
            let voters = args.voters.clone();
            let members = NamedMembers {
                voters,
                learners: args.learners.clone(),
            };
            (Change::Replace(members), &args.how)
        }
    };
    if how.plan {
        return plan(global, how, change).await;
    }
    let removed = match &change {
        Change::Remove(node) if !how.no_wait => Some(node.clone()),
        _ => None,
    };
    let group = &how.group.group;
    let request = ChangeMembershipRequest {
        group: group.clone(),
        change: Some(change),
        expected: how.expected(),
        dry_run: false,
    };
    let done = execute(global, request, !how.no_wait).await;
    done.map_err(|failure| match demotion(command, &failure) {
        Some(hint) => failure.with_hint(hint),
        None => failure,
    })?;
    if let Some(node) = removed {
        global.out().note(&format!(
            "{node} keeps its replica; `kontiki member purge {node} --group {group}` deletes it"
        ));
    }
    Ok(())
}

/// What to type instead of adding a voter as a learner.
fn demotion(command: &MemberCommand, failure: &Failure) -> Option<String> {
    let MemberCommand::Add(args) = command else {
        return None;
    };
    let (node, group) = (&args.common.node, &args.common.how.group.group);
    let votes = args.learner && failure.message().contains("is a voter already");
    votes.then(|| format!("kontiki member demote {node} --group {group}"))
}

impl How {
    fn expected(&self) -> Option<NamedMembers> {
        (!self.expect.is_empty()).then(|| NamedMembers {
            voters: self.expect.clone(),
            learners: self.expect_learners.clone(),
        })
    }
}

async fn described(global: &Global, group: &str) -> Result<GroupDescription> {
    cluster::describe(&global.client(), group).await
}

async fn list(global: &Global, group: &str) -> Result<()> {
    global
        .out()
        .print(&Members(described(global, group).await?));
    Ok(())
}

struct Members(GroupDescription);

impl Members {
    fn set(&self) -> MemberSet {
        self.0
            .configuration
            .clone()
            .unwrap_or_default()
            .current
            .unwrap_or_default()
    }

    fn old(&self) -> Option<MemberSet> {
        self.0.configuration.as_ref()?.old.clone()
    }

    /// Everyone with a part in the group: members, those that are leaving it while it is joint, and
    /// those that are catching up to join it.
    fn parts(&self) -> Vec<(u64, &'static str)> {
        let (set, old) = (self.set(), self.old().unwrap_or_default());
        let mut parts: Vec<(u64, &'static str)> = Vec::new();
        let joining: Vec<u64> = self.0.catching_up.iter().map(|one| one.node).collect();
        for (ids, part) in [
            (&set.voters, "voter"),
            (&set.learners, "learner"),
            (&old.voters, "leaving"),
            (&old.learners, "leaving"),
            (&joining, "joining"),
        ] {
            for id in ids {
                if parts.iter().all(|(other, _)| other != id) {
                    parts.push((*id, part));
                }
            }
        }
        parts
    }

    /// The change under way, if there is one: its stage, where it leads, how far it is.
    fn change_lines(&self) -> Vec<String> {
        let it = &self.0;
        let mut lines = Vec::new();
        if !matches!(it.change_stage.as_str(), "" | "none") {
            let target = it.change_target.as_ref();
            let target = target.map(|set| format!(", to {}", members_text(set, &it.nodes)));
            let target = target.unwrap_or_default();
            lines.push(format!("change under way: {}{target}", it.change_stage));
        }
        if let Some(old) = self.old() {
            let (new, old) = (self.set(), members_text(&old, &it.nodes));
            let new = members_text(&new, &it.nodes);
            lines.push(format!(
                "joint: majorities of {new} and of {old} are needed"
            ));
        }
        lines.extend(it.catching_up.iter().map(node_line));
        lines
    }

    fn rows(&self) -> Vec<(u64, String, &'static str, String, Option<u64>)> {
        let row = |(id, part)| {
            let name = name_of(id, &self.nodes());
            let peer = self.0.peers.iter().find(|peer| peer.node == id);
            match peer {
                Some(peer) => (id, name, part, peer.state.clone(), Some(peer.match_index)),
                None if id == self.0.node => {
                    let role = self.0.summary.clone().unwrap_or_default().role;
                    (id, name, part, role, self.0.last.map(|last| last.index))
                }
                None => (id, name, part, "unknown".to_owned(), None),
            }
        };
        self.parts().into_iter().map(row).collect()
    }

    /// Those that are known by name: members, and those on the way in.
    fn nodes(&self) -> Vec<Introduction> {
        let joining = self.0.catching_up.iter().map(|one| Introduction {
            node: one.node,
            name: one.name.clone(),
            ..Introduction::default()
        });
        self.0.nodes.iter().cloned().chain(joining).collect()
    }
}

impl Document for Members {
    const KIND: &'static str = "members";

    fn json(&self) -> Value {
        let configuration = self.0.configuration.clone().unwrap_or_default();
        json!({
            "group": self.0.summary.clone().unwrap_or_default().name,
            "members": self.items(),
            "change_stage": self.0.change_stage,
            "change_target": self.0.change_target.as_ref().map(|set| {
                let target = Configuration { current: Some(set.clone()), old: None };
                configuration_json(&target, &self.0.nodes)["current"].clone()
            }),
            "catching_up": self.0.catching_up.iter().map(catch_up_json).collect::<Vec<_>>(),
            "configuration": configuration_json(&configuration, &self.0.nodes),
        })
    }

    fn text(&self, _: bool) -> String {
        let rows = self
            .rows()
            .into_iter()
            .map(|(id, name, part, state, index)| {
                let index = index.map_or("-".into(), |index| index.to_string());
                [name, part.to_owned(), state, index, id.to_string()]
            });
        let mut text = table(["NODE", "PART", "STATE", "MATCH", "ID"], rows.collect());
        for line in self.change_lines() {
            text.push_str(&format!("\n{line}"));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        self.rows().into_iter().map(|row| row.1).collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        let item = |(id, name, part, state, index): (u64, String, &str, String, Option<u64>)| {
            json!({
                "id": id_json(id),
                "name": name,
                "part": part,
                "state": state,
                "match_index": index,
            })
        };
        Some(self.rows().into_iter().map(item).collect())
    }
}

/// Asks the leader where the change would lead: it refuses here what it would refuse in earnest.
async fn plan(global: &Global, how: &How, change: Change) -> Result<()> {
    let group = &how.group.group;
    let request = ChangeMembershipRequest {
        group: group.clone(),
        change: Some(change),
        expected: how.expected(),
        dry_run: true,
    };
    let mut answer = global.client().admin().change_membership(request).await?;
    let planned = answer.next().await?.and_then(|message| message.target);
    let after = planned.ok_or_else(|| {
        let message = "the leader says nothing of where the change would lead";
        Failure::new(Exit::Refused, "BAD_REPLY", message)
            .with_hint("is it of an older version? `kontiki node list -o wide`")
    })?;
    let description = described(global, group).await?;
    let members = global.client().members().await;
    let members = members.map_err(|e| Failure::from(e).of_read())?;
    let mut nodes = description.nodes.clone();
    nodes.extend(members.into_iter().map(|member| Introduction {
        node: member.id,
        name: member.name,
        ..Introduction::default()
    }));
    let configuration = description.configuration.clone().unwrap_or_default();
    let before = configuration.current.unwrap_or_default();
    let answering = |id: &u64| {
        let heard = description.peers.iter().any(|peer| peer.node == *id);
        *id == description.node || heard
    };
    let unknown = after
        .voters
        .iter()
        .filter(|id| !answering(id) && !before.voters.contains(id));
    let joining = unknown.map(|id| name_of(*id, &nodes)).collect();
    global.out().print(&Plan {
        group: group.to_owned(),
        before,
        after,
        joining,
        nodes,
    });
    Ok(())
}

struct Plan {
    group: String,
    before: MemberSet,
    after: MemberSet,
    /// New voters that hold nothing of the group yet.
    joining: Vec<String>,
    nodes: Vec<Introduction>,
}

/// Voters needed to commit, and how many may fail.
fn quorum(members: &MemberSet) -> (usize, usize) {
    let needed = members.voters.len() / 2 + 1;
    (
        needed,
        members.voters.len() - needed.min(members.voters.len()),
    )
}

impl Document for Plan {
    const KIND: &'static str = "membership-plan";

    fn json(&self) -> Value {
        let side = |members: &MemberSet| {
            let (needed, spare) = quorum(members);
            let configuration = Configuration {
                current: Some(members.clone()),
                old: None,
            };
            json!({
                "members": configuration_json(&configuration, &self.nodes)["current"],
                "quorum": needed,
                "tolerates": spare,
            })
        };
        json!({
            "group": self.group,
            "before": side(&self.before),
            "after": side(&self.after),
            "joining": self.joining,
        })
    }

    fn text(&self, _: bool) -> String {
        let row = |when: &str, members: &MemberSet| {
            let (needed, spare) = quorum(members);
            [
                when.to_owned(),
                members_text(members, &self.nodes),
                format!("{needed} of {}", members.voters.len()),
                spare.to_string(),
            ]
        };
        let rows = vec![row("now", &self.before), row("after", &self.after)];
        let mut text = table(["", "MEMBERS", "QUORUM", "MAY FAIL"], rows);
        if !self.joining.is_empty() {
            let joining = self.joining.join(", ");
            text.push_str(&format!("\n{joining} must first receive the whole log"));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        let ids = self.after.voters.iter().chain(&self.after.learners);
        ids.map(|id| name_of(*id, &self.nodes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(voters: &[u64], learners: &[u64]) -> MemberSet {
        MemberSet {
            voters: voters.to_vec(),
            learners: learners.to_vec(),
        }
    }

    #[test]
    fn quorums_are_majorities() {
        let sizes = [
            (1, (1, 0)),
            (2, (2, 0)),
            (3, (2, 1)),
            (4, (3, 1)),
            (5, (3, 2)),
        ];
        for (size, expected) in sizes {
            let voters: Vec<u64> = (1..=size).collect();
            assert_eq!(quorum(&set(&voters, &[])), expected);
        }
    }
}
