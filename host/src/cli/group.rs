//! `kontiki group`: groups and their leadership.

use super::cluster::{self, SeenGroup, Survey};
use super::context::{Global, find_member};
use super::delete_group::{self, DeleteArgs};
use super::describe::Described;
use super::election::{self, CampaignArgs};
use super::failure::{Failure, Result};
use super::names::{configuration_text, id_json};
use super::output::{Document, table};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand, ValueEnum};
use kontiki_client::{Outcome, proto};
use serde_json::{Value, json};

/// Groups: each is one replicated state machine.
#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// Creates a group on its members
    Create(CreateArgs),
    /// Deletes a group and its data on every node, in whatever state it is
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Lists the groups of the cluster
    #[command(visible_alias = "ls")]
    List,
    /// Shows everything known of a group, and what to do about its problems
    Describe(DescribeArgs),
    /// Hands leadership to another voter
    Transfer(TransferArgs),
    #[command(visible_alias = "vote")]
    Campaign(CampaignArgs),
    /// Switches read-only mode
    ReadOnly(ReadOnlyArgs),
    /// Shows committed commands
    Log(LogArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki group create orders --plugin counter
  kontiki group create orders --plugin sha256:… --voters n1,n2,n3 --learners n4")]
pub(crate) struct CreateArgs {
    /// Name of the group: letters, digits, `.`, `_`, `-`
    name: String,
    /// Digest of a pushed plugin, or its name if one version of it is stored
    #[arg(long)]
    plugin: String,
    /// Voters, by name or id [default: every known node]
    #[arg(long, value_delimiter = ',', value_name = "NODE,…")]
    voters: Vec<String>,
    /// Learners, by name or id
    #[arg(long, value_delimiter = ',', value_name = "NODE,…")]
    learners: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Name of the group
    group: String,
    /// The replica of this node, instead of the leader's
    #[arg(long)]
    node: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct TransferArgs {
    /// Name of the group
    group: String,
    /// The next leader, by name or id, or `any`: the voter whose log is furthest
    #[arg(long, default_value = "any", value_name = "NODE")]
    to: String,
}

#[derive(Debug, Args)]
pub(crate) struct ReadOnlyArgs {
    /// Name of the group
    group: String,
    /// What to switch it to
    mode: Switch,
    /// This node's replica only, by name or id [default: every replica]
    #[arg(long)]
    node: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// Name of the group
    group: String,
    /// First log index
    #[arg(long, default_value_t = 1, value_name = "INDEX")]
    from: u64,
    /// Commands to show at most
    #[arg(long, default_value_t = 100)]
    limit: u32,
    /// The replica of this node, by name or id
    #[arg(long)]
    node: Option<String>,
}

/// Runs `kontiki group`.
pub(crate) async fn run(global: &Global, command: &GroupCommand) -> Result<()> {
    match command {
        GroupCommand::Create(args) => create(global, args).await,
        GroupCommand::Delete(args) => delete_group::run(global, args).await,
        GroupCommand::List => list(global).await,
        GroupCommand::Describe(args) => describe(global, args).await,
        GroupCommand::Transfer(args) => transfer(global, args).await,
        GroupCommand::Campaign(args) => election::campaign(global, args).await,
        GroupCommand::ReadOnly(args) => read_only(global, args).await,
        GroupCommand::Log(args) => log(global, args).await,
    }
}

async fn create(global: &Global, args: &CreateArgs) -> Result<()> {
    let request = proto::CreateGroupRequest {
        name: args.name.clone(),
        plugin: args.plugin.clone(),
        voters: args.voters.clone(),
        learners: args.learners.clone(),
    };
    let created = global.client().admin().create_group(request).await;
    let spec = created.map_err(|error| match error.outcome() {
        Outcome::Unknown => Failure::from(error).with_hint(
            "`kontiki group list` says whether it is there; creating it again is harmless",
        ),
        _ => Failure::from(error),
    })?;
    global.out().print(&Created(spec));
    Ok(())
}

struct Created(proto::GroupSpec);

impl Document for Created {
    const KIND: &'static str = "group";

    fn json(&self) -> Value {
        let spec = &self.0;
        let members = spec.initial_members.clone().unwrap_or_default();
        let ids = |ids: &[u64]| ids.iter().copied().map(id_json).collect::<Vec<_>>();
        json!({
            "id": id_json(spec.id),
            "name": spec.name,
            "plugin": spec.plugin,
            "voters": ids(&members.voters),
            "learners": ids(&members.learners),
        })
    }

    fn text(&self, _: bool) -> String {
        let members = self.0.initial_members.clone().unwrap_or_default();
        let configuration = proto::Configuration {
            current: Some(members),
            old: None,
        };
        let members = configuration_text(&configuration, &self.0.nodes);
        format!(
            "group {} created on {members}\nplugin {}",
            self.0.name, self.0.plugin
        )
    }

    fn names(&self) -> Vec<String> {
        vec![self.0.name.clone()]
    }
}

async fn list(global: &Global) -> Result<()> {
    let survey = Survey::of(global).await?;
    global.out().print(&Groups(&survey.groups));
    Ok(())
}

/// A list of groups.
pub(crate) struct Groups<'a>(pub(crate) &'a [SeenGroup]);

pub(crate) fn group_json(group: &SeenGroup) -> Value {
    let summary = &group.summary;
    json!({
        "id": id_json(summary.id),
        "name": summary.name,
        "plugin": summary.plugin,
        "plugin_name": summary.plugin_name,
        "leader": summary.leader.map(id_json),
        "leader_name": summary.leader.map(|_| &summary.leader_name),
        "term": summary.term,
        "commit_index": summary.commit_index,
        "applied_index": summary.applied_index,
        "voters": summary.voters,
        "state": group.state(),
        "replicas": group.replicas,
        "missing": group.missing,
        "problems": group.problems(),
    })
}

/// The members; those of which nothing is seen are marked.
fn members(group: &SeenGroup) -> String {
    let missing = group.missing.iter().map(|name| format!("{name} (missing)"));
    let all = group.replicas.iter().cloned().chain(missing);
    all.collect::<Vec<_>>().join(",")
}

impl Document for Groups<'_> {
    const KIND: &'static str = "groups";

    fn json(&self) -> Value {
        json!({ "groups": self.items() })
    }

    fn text(&self, wide: bool) -> String {
        if self.0.is_empty() {
            return "no groups; `kontiki group create NAME --plugin PLUGIN` makes one".to_owned();
        }
        let rows = self.0.iter().map(|group| {
            let it = &group.summary;
            let leader = if group.has_leader() {
                it.leader_name.clone()
            } else {
                "-".into()
            };
            let state = group.state();
            let plugin = if wide { &it.plugin } else { &it.plugin_name };
            [
                it.name.clone(),
                state.to_owned(),
                leader,
                it.term.to_string(),
                it.commit_index.to_string(),
                it.applied_index.to_string(),
                members(group),
                plugin.clone(),
            ]
        });
        let head = [
            "GROUP", "STATE", "LEADER", "TERM", "COMMIT", "APPLIED", "REPLICAS", "PLUGIN",
        ];
        table(head, rows.collect())
    }

    fn names(&self) -> Vec<String> {
        self.0
            .iter()
            .map(|group| group.summary.name.clone())
            .collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        Some(self.0.iter().map(group_json).collect())
    }
}

async fn describe(global: &Global, args: &DescribeArgs) -> Result<()> {
    let described = match &args.node {
        Some(node) => {
            let there = global.client_of(node).await?;
            let described = there.admin().describe(&args.group, true).await;
            described.map_err(|error| Failure::from(error).of_read())?
        }
        None => cluster::describe(&global.client(), &args.group).await?,
    };
    global.out().print(&Described(described));
    Ok(())
}

async fn transfer(global: &Global, args: &TransferArgs) -> Result<()> {
    let target = if args.to == "any" { "" } else { &args.to };
    let reply = global
        .client()
        .admin()
        .transfer(&args.group, target)
        .await?;
    global.out().print(&Transferred(&args.group, reply));
    Ok(())
}

struct Transferred<'a>(&'a str, proto::TransferLeadershipReply);

impl Document for Transferred<'_> {
    const KIND: &'static str = "transfer";

    fn json(&self) -> Value {
        json!({
            "group": self.0,
            "leader": id_json(self.1.leader),
            "leader_name": self.1.leader_name,
            "term": self.1.term,
            "seconds": self.1.elapsed_us as f64 / 1e6,
        })
    }

    fn text(&self, _: bool) -> String {
        let proto::TransferLeadershipReply {
            leader_name,
            term,
            elapsed_us,
            ..
        } = &self.1;
        let took = *elapsed_us as f64 / 1e3;
        format!(
            "{leader_name} leads {} in term {term}, after {took:.1} ms",
            self.0
        )
    }

    fn names(&self) -> Vec<String> {
        vec![self.1.leader_name.clone()]
    }
}

async fn read_only(global: &Global, args: &ReadOnlyArgs) -> Result<()> {
    let client = global.client();
    let (out, on) = (global.out(), args.mode == Switch::On);
    let mode = if on { "read-only" } else { "writable" };
    let Some(node) = &args.node else {
        let unreached = client.admin().set_read_only(&args.group, on).await?;
        out.note(&format!("{} is {mode}", args.group));
        for member in unreached {
            out.note(&format!("not told: {member}"));
        }
        return Ok(());
    };
    let member = find_member(&client, node).await?;
    let at = client.at(member.address.clone());
    at.admin().set_read_only_here(&args.group, on).await?;
    out.note(&format!(
        "the replica of {} on {} is {mode}",
        args.group, member.name
    ));
    Ok(())
}

async fn log(global: &Global, args: &LogArgs) -> Result<()> {
    let client = cluster::replica(global, &args.group, args.node.as_deref()).await?;
    let (mut from, mut entries) = (args.from, Vec::new());
    loop {
        let left = args
            .limit
            .saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX));
        if left == 0 {
            break;
        }
        let reply = client
            .admin()
            .read_log(&args.group, from, left)
            .await
            .map_err(|error| Failure::from(error).of_read())?;
        entries.extend(reply.entries);
        match reply.next_index {
            Some(next) if next > from => from = next,
            _ => break,
        }
    }
    if entries.is_empty() && !global.out().format.is_json() {
        global.out().note("no commands there");
        return Ok(());
    }
    global.out().print(&Log(&args.group, entries));
    Ok(())
}

struct Log<'a>(&'a str, Vec<proto::UserEntry>);

impl Document for Log<'_> {
    const KIND: &'static str = "log";

    fn json(&self) -> Value {
        json!({ "group": self.0, "entries": self.items() })
    }

    fn text(&self, wide: bool) -> String {
        let rows = self.1.iter().map(|entry| {
            let id = entry.id.unwrap_or_default();
            let time = if wide {
                time_text(entry.time_ns)
            } else {
                short_time(entry.time_ns)
            };
            [
                id.index.to_string(),
                id.term.to_string(),
                time,
                command_text(&entry.command),
            ]
        });
        table(["INDEX", "TERM", "TIME", "COMMAND"], rows.collect())
    }

    fn names(&self) -> Vec<String> {
        self.1
            .iter()
            .map(|entry| entry.id.unwrap_or_default().index.to_string())
            .collect()
    }

    fn items(&self) -> Option<Vec<Value>> {
        let item = |entry: &proto::UserEntry| {
            let id = entry.id.unwrap_or_default();
            json!({
                "index": id.index,
                "term": id.term,
                "time": time_text(entry.time_ns),
                "command": std::str::from_utf8(&entry.command).ok(),
                "command_base64": STANDARD.encode(&entry.command),
            })
        };
        Some(self.1.iter().map(item).collect())
    }
}

fn command_text(command: &[u8]) -> String {
    match std::str::from_utf8(command) {
        Ok(text) => text.escape_debug().to_string(),
        Err(_) => format!("0x{}", hex::encode(command)),
    }
}

fn time(time_ns: u64) -> std::time::SystemTime {
    std::time::UNIX_EPOCH + std::time::Duration::from_nanos(time_ns)
}

fn time_text(time_ns: u64) -> String {
    humantime::format_rfc3339_nanos(time(time_ns)).to_string()
}

fn short_time(time_ns: u64) -> String {
    humantime::format_rfc3339_millis(time(time_ns)).to_string()
}
