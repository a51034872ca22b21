//! The demonstration behind `cargo xtask demo`: three nodes, two plugins, and the death of a leader.

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, ValueEnum};
use kontiki_proto::v1::Consistency;
use kontiki_tests::check::{self, Report};
use kontiki_tests::load::{self, Load};
use kontiki_tests::model::Model;
use kontiki_tests::session::{self, Session};
use kontiki_tests::{Cluster, ClusterOptions, cluster};
use serde::Serialize;
use std::time::{Duration, Instant};

/// Starts three nodes, lets them replicate the commands of two plugins, kills their leader, and checks
/// that nothing acknowledged is missing.
#[derive(Parser)]
struct Arguments {
    /// Stop when the check is done, instead of leaving the nodes up to play with.
    #[arg(long)]
    once: bool,
    /// How the summary is printed.
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

#[derive(Serialize)]
struct Summary {
    kind: &'static str,
    v: u32,
    nodes: usize,
    killed_leader: String,
    /// From SIGKILL to the first command acknowledged afterwards, by either group.
    seconds_without_leader: f64,
    seconds_to_catch_up: f64,
    groups: Vec<GroupSummary>,
}

#[derive(Serialize)]
struct GroupSummary {
    name: &'static str,
    plugin: String,
    seconds: f64,
    commands_per_second: f64,
    #[serde(flatten)]
    report: Report,
}

/// A group of the demonstration: its name, what its clients send, and what it must answer.
type Group = (&'static str, load::Generator, fn() -> Model);

const GROUPS: [Group; 2] = [
    ("counter", load::counter_commands, Model::counter),
    ("atomic", load::atomic_commands, Model::atomic),
];
const CLIENTS: usize = 3;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    say(&format!(
        "three nodes are up: {}",
        cluster.addresses().join(", ")
    ));
    let summary = scenario(&mut cluster).await?;
    match arguments.output {
        Format::Json => println!("{}", serde_json::to_string_pretty(&summary)?),
        Format::Text => print(&summary),
    }
    if !arguments.once {
        stay(&cluster).await?;
    }
    for index in 0..cluster.nodes().len() {
        let status = cluster.stop_node(index, Duration::from_secs(30))?;
        ensure!(
            status.success(),
            "{} ended with {status}",
            cluster.nodes()[index].name
        );
    }
    say("all nodes stopped cleanly");
    Ok(())
}

async fn scenario(cluster: &mut Cluster) -> Result<Summary> {
    let addresses = cluster.addresses();
    let mut plugins = Vec::new();
    for (name, ..) in GROUPS {
        plugins.push(create(&addresses, name).await?);
    }
    let begin = Instant::now();
    let loads = GROUPS.map(|(name, commands, _)| Load::start(name, &addresses, CLIENTS, commands));
    let loads = loads.into_iter().collect::<Result<Vec<_>>>()?;
    let commands = |count| wait_for_all(&loads, count);
    commands(500).await?;
    say(&format!(
        "{CLIENTS} clients per group are at work; killing the leader of `counter`"
    ));

    let first = Session::new(GROUPS[0].0, &addresses, Duration::from_secs(5))?;
    let leader = first.leader(LIMIT).await?;
    cluster.kill_node(leader)?;
    let killed_leader = cluster.nodes()[leader].name.clone();
    let pause = commands(1).await?;
    say(&format!(
        "{killed_leader} is dead; the other two went on after {pause:.2?}"
    ));
    commands(500).await?;

    let back = Instant::now();
    cluster.start_node(leader)?;
    commands(500).await?;
    say(&format!("{killed_leader} is back; letting it catch up"));
    let elapsed = begin.elapsed();
    let all: Vec<usize> = (0..addresses.len()).collect();
    let mut groups = Vec::new();
    let mut records = Vec::new();
    for load in loads {
        records.push(load.stop().await?);
    }
    for (name, ..) in GROUPS {
        check::converged(&Session::new(name, &addresses, LIMIT)?, &all, LIMIT).await?;
    }
    let caught_up = back.elapsed();
    for (((name, _, model), records), plugin) in GROUPS.into_iter().zip(records).zip(plugins) {
        let session = Session::new(name, &addresses, LIMIT)?;
        let report = check::history(&session, &all, &records, model()).await?;
        ensure!(
            report.acknowledged > 1_000,
            "{name}: only {} commands",
            report.acknowledged
        );
        let seconds = elapsed.as_secs_f64();
        let commands_per_second = report.acknowledged as f64 / seconds;
        groups.push(GroupSummary {
            name,
            plugin,
            seconds,
            commands_per_second,
            report,
        });
    }
    same_answers(&addresses).await?;
    Ok(Summary {
        kind: "demo",
        v: 1,
        nodes: addresses.len(),
        killed_leader,
        seconds_without_leader: pause.as_secs_f64(),
        seconds_to_catch_up: caught_up.as_secs_f64(),
        groups,
    })
}

async fn create(addresses: &[String], name: &str) -> Result<String> {
    let component = std::fs::read(cluster::component(name)?)?;
    let session = Session::new(name, addresses, Duration::from_secs(30))?;
    let digest = session::create_group(&session, name, &component).await;
    let digest = digest.with_context(|| format!("create group {name}"))?;
    let leader = session.leader(LIMIT).await?;
    say(&format!(
        "group `{name}` runs {}… under n{}",
        &digest[..19],
        leader + 1
    ));
    Ok(digest)
}

/// Waits for `count` more commands of every load; gives the longest wait.
async fn wait_for_all(loads: &[Load], count: u64) -> Result<Duration> {
    let waits = loads.iter().map(|load| load.wait_for(count, LIMIT));
    let waits = futures_util::future::try_join_all(waits).await?;
    Ok(waits.into_iter().max().unwrap_or_default())
}

/// Asks each node for the counter, linearizably, through the public API.
async fn same_answers(addresses: &[String]) -> Result<()> {
    let mut answers = Vec::new();
    for address in addresses {
        let mut session = Session::new("counter", std::slice::from_ref(address), LIMIT)?;
        answers.push(session.query("get", Consistency::Linearizable).await?);
    }
    ensure!(
        answers.iter().all(|answer| *answer == answers[0]),
        "nodes answer {answers:?}"
    );
    Ok(())
}

async fn stay(cluster: &Cluster) -> Result<()> {
    let endpoints = cluster.addresses().join(",");
    say("the nodes stay up; in another terminal:");
    say(&format!("  export KONTIKI_ENDPOINTS={endpoints}"));
    say(&format!("  alias kontiki={}", cluster::binary()?.display()));
    say("  kontiki status; kontiki call counter add 5; kontiki query counter get");
    say("Ctrl-C stops them.");
    tokio::signal::ctrl_c().await?;
    Ok(())
}

fn say(line: &str) {
    eprintln!("demo: {line}");
}

fn print(summary: &Summary) {
    println!();
    for group in &summary.groups {
        let report = &group.report;
        println!(
            "{:8} {:>6} acknowledged, each at its index on all {} replicas ({:.0}/s, sync on)",
            group.name, report.acknowledged, summary.nodes, group.commands_per_second
        );
        println!(
            "         {:>6} certainly not applied, none in the log; {} unknown, {} of them applied",
            report.not_applied, report.unknown, report.unknown_applied
        );
        println!(
            "         one state at index {}: {}",
            report.applied_index, report.outcome_hash
        );
    }
    println!(
        "\nkilled {} under load: {:.2} s until every group went on; back and caught up in {:.2} s",
        summary.killed_leader, summary.seconds_without_leader, summary.seconds_to_catch_up
    );
}
