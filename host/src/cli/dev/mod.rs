//! `kontiki dev`: a cluster of real processes on this machine.

mod control;
mod demo;
mod ports;
pub(crate) mod state;
mod supervisor;

use super::cluster::{Survey, describe};
use super::context::Global;
use super::exit::Exit;
use super::failure::{Failure, Result};
use super::serve::write_whole;
use super::signals::Signals;
use clap::{Args, Subcommand};
use control::{Act, Order};
use kontiki_client::{Client, Options};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use supervisor::{Place, Supervisor};

/// Runs a cluster of real processes on this machine, with the groups `counter` and `atomic`.
///
/// It stays in the foreground; Ctrl-C stops every node. While it runs, all other commands talk to it
/// unless --endpoints or KONTIKI_ENDPOINTS says otherwise. It is for trying things, not for work.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "Examples:
  kontiki dev
  kontiki dev -n 5 --data ./cluster
  kontiki dev kill leader && kontiki call counter add 1")]
pub(crate) struct DevArgs {
    #[command(flatten)]
    start: StartArgs,
    #[command(subcommand)]
    order: Option<DevCommand>,
}

#[derive(Debug, Args)]
struct StartArgs {
    /// Number of nodes
    #[arg(short, long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    nodes: u16,
    /// Keep data and logs in this directory [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// First port; each node takes one for clients and peers and, two above, one for pages, ten
    /// apart; 0 takes free ones [default: 7470, or free ones if those are in use]
    #[arg(long)]
    port: Option<u16>,
    /// Write addresses and process ids into this file, as JSON, when the cluster is up
    #[arg(long, value_name = "PATH")]
    ports_file: Option<PathBuf>,
    /// Make no groups
    #[arg(long)]
    empty: bool,
    /// Further arguments of each `kontiki serve`
    #[arg(last = true, value_name = "SERVE ARGS")]
    serve_args: Vec<String>,
}

/// Fault games on the running dev cluster.
#[derive(Debug, Subcommand)]
enum DevCommand {
    /// Kills a node (SIGKILL)
    Kill(Target),
    /// Pauses a node (SIGSTOP)
    Pause(Target),
    /// Lets a paused node go on (SIGCONT)
    Resume(Target),
    /// Stops a node if it runs, and starts it
    Restart(Target),
    /// Stops the cluster
    Stop,
}

#[derive(Debug, Args)]
struct Target {
    /// Name of the node, or `leader`
    node: String,
    /// Whose leader `leader` is
    #[arg(long, default_value = "counter")]
    group: String,
}

/// Runs `kontiki dev`.
pub(crate) async fn run(global: &Global, args: &DevArgs) -> Result<()> {
    match &args.order {
        None => start(global, &args.start).await,
        Some(DevCommand::Kill(target)) => order(global, Act::Kill, target).await,
        Some(DevCommand::Pause(target)) => order(global, Act::Pause, target).await,
        Some(DevCommand::Resume(target)) => order(global, Act::Resume, target).await,
        Some(DevCommand::Restart(target)) => order(global, Act::Restart, target).await,
        Some(DevCommand::Stop) => stop(global).await,
    }
}

async fn order(global: &Global, act: Act, target: &Target) -> Result<()> {
    let cluster = state::running().ok_or_else(control::not_running)?;
    let node = match target.node.as_str() {
        "leader" => leader(&cluster, &target.group).await?,
        name => name.to_owned(),
    };
    let message = control::send(&Order {
        act,
        node: node.clone(),
    })
    .await?;
    global.out().note(&message);
    if act == Act::Restart {
        wait_for(&cluster, &node).await?;
        global.out().note(&back(global, &node).await);
    }
    Ok(())
}

async fn leader(cluster: &state::DevCluster, group: &str) -> Result<String> {
    let options = Options {
        timeout: Duration::from_secs(5),
        ..Options::default()
    };
    let client = Client::connect(cluster.addresses(), options);
    let began = Instant::now();
    loop {
        // The leader must say so itself: others may believe in one that is dead.
        let described = describe(&client, group).await?;
        if described
            .summary
            .is_some_and(|summary| summary.role == "leader")
        {
            return Ok(described.node_name);
        }
        if began.elapsed() > Duration::from_secs(5) {
            let message = format!("group {group:?} has no leader");
            return Err(Failure::new(Exit::Unreachable, "NO_LEADER", message)
                .with_hint(format!("kontiki group describe {group}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Waits until a node answers as another process than `cluster` knows.
async fn wait_for(cluster: &state::DevCluster, node: &str) -> Result<()> {
    let old = cluster
        .nodes
        .iter()
        .find(|known| known.name == node)
        .and_then(|known| known.pid);
    let began = Instant::now();
    while began.elapsed() < START_LIMIT {
        let now = state::running().ok_or_else(control::not_running)?;
        if let Some(there) = now.nodes.iter().find(|known| known.name == node)
            && there.pid.is_some()
            && there.pid != old
            && answers(&there.address).await
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let message = format!("{node} does not answer after {} s", START_LIMIT.as_secs());
    Err(Failure::new(Exit::Unhealthy, "NOT_HEALTHY", message))
}

/// Waits until the node has caught up as far as its cluster can tell; what there is to say.
async fn back(global: &Global, node: &str) -> String {
    let began = Instant::now();
    loop {
        let problem = match Survey::of(global).await {
            Ok(survey) => match survey.problems().into_iter().next() {
                None => return format!("{node} is back"),
                Some(problem) => problem,
            },
            Err(failure) => failure.message().to_owned(),
        };
        if began.elapsed() > BACK_LIMIT {
            return format!("{node} runs again, but the cluster is not healthy: {problem}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn answers(address: &str) -> bool {
    let Ok(address) = address.parse() else {
        return false;
    };
    let limit = Duration::from_secs(1);
    let options = Options {
        timeout: limit,
        patience: Duration::ZERO,
        ..Options::default()
    };
    Client::connect([address], options)
        .admin()
        .node()
        .await
        .is_ok()
}

async fn stop(global: &Global) -> Result<()> {
    control::send(&Order {
        act: Act::Stop,
        node: String::new(),
    })
    .await?;
    let began = Instant::now();
    while state::running().is_some() {
        if began.elapsed() > START_LIMIT {
            return Err(Failure::new(
                Exit::Unhealthy,
                "STILL_RUNNING",
                "it does not stop",
            ));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    global.out().note("stopped");
    Ok(())
}

/// How long a node may take to come up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long its cluster may then take to be healthy before that is said.
const BACK_LIMIT: Duration = Duration::from_secs(5);

async fn start(global: &Global, args: &StartArgs) -> Result<()> {
    if let Some(cluster) = state::running() {
        let message = format!("a dev cluster runs already, as process {}", cluster.pid);
        return Err(Failure::new(Exit::Conflict, "ALREADY_RUNNING", message)
            .with_hint("stop it with: kontiki dev stop"));
    }
    let mut signals = Signals::listen()?;
    let directory = Directory::open(args.data.as_deref())?;
    let places = ports::places(args.nodes, args.port, directory.path())?;
    let out = global.out();
    let mut supervisor = Supervisor::new(
        places.clone(),
        args.serve_args.clone(),
        directory.path(),
        out,
    )?;
    let began = Instant::now();
    supervisor.start_all()?;
    supervisor.cluster().save()?;
    let up = tokio::select! {
        up = bring_up(&places, args) => up,
        failure = supervisor.ended() => Err(failure),
        which = signals.next() => Err(Failure::silent(which.exit())),
    };
    let missing = match up {
        Ok(missing) => missing,
        Err(failure) => {
            supervisor.stop(&mut signals).await;
            return Err(failure);
        }
    };
    supervisor.announce_up()?;
    if let Some(path) = &args.ports_file {
        write_whole(path, &supervisor.cluster().json())?;
    }
    out.note(&demo::welcome(
        &supervisor.cluster(),
        began.elapsed(),
        &missing,
        args.empty,
    ));
    supervisor.run(&mut signals).await;
    out.note("stopping");
    supervisor.stop(&mut signals).await;
    if let Some(path) = &args.ports_file {
        std::fs::remove_file(path).ok();
    }
    Ok(())
}

/// Waits for the nodes and makes the groups; names of demonstration plugins that are not at hand.
async fn bring_up(places: &[Place], args: &StartArgs) -> Result<Vec<&'static str>> {
    let began = Instant::now();
    for place in places {
        while !answers(&place.address).await {
            if began.elapsed() > START_LIMIT {
                let message = format!("{} does not answer:\n{}", place.name, place.log_tail());
                return Err(Failure::new(Exit::Unhealthy, "NOT_HEALTHY", message));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    if args.empty {
        Ok(vec![])
    } else {
        demo::make_groups(places).await
    }
}

/// Where the nodes keep their data: named by the user, or temporary.
enum Directory {
    Named(PathBuf),
    Temporary(PathBuf),
}

impl Directory {
    fn open(named: Option<&Path>) -> Result<Self> {
        let path = match named {
            Some(path) => std::path::absolute(path).map_err(|e| Failure::file(path, &e))?,
            None => std::env::temp_dir().join(format!("kontiki-dev-{}", std::process::id())),
        };
        std::fs::create_dir_all(&path).map_err(|error| Failure::file(&path, &error))?;
        refuse_foreign(&path)?;
        Ok(if named.is_some() {
            Self::Named(path)
        } else {
            Self::Temporary(path)
        })
    }

    fn path(&self) -> &Path {
        let (Self::Named(path) | Self::Temporary(path)) = self;
        path
    }
}

/// Refuses a directory that holds anything but what an earlier run left: `nN` and `nN.log` of each
/// node. Nothing is written into a foreign one.
fn refuse_foreign(path: &Path) -> Result<()> {
    let failed = |error| Failure::file(path, &error);
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let name = name.to_string_lossy();
        if !is_of_node(&name) && name != "lost+found" {
            let message = format!(
                "{} is not of `kontiki dev`: it holds {name:?}",
                path.display()
            );
            return Err(Failure::local("DATA_FOREIGN", message)
                .with_hint("name a directory that is empty, or does not exist yet"));
        }
    }
    Ok(())
}

fn is_of_node(name: &str) -> bool {
    let node = name.strip_suffix(".log").unwrap_or(name);
    let number = node.strip_prefix('n').unwrap_or_default();
    number.parse::<u16>().is_ok()
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Self::Temporary(path) = self {
            std::fs::remove_dir_all(path).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_directory_of_its_own_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        refuse_foreign(directory.path()).unwrap();
        std::fs::create_dir(directory.path().join("n1")).unwrap();
        std::fs::write(directory.path().join("n1.log"), "").unwrap();
        refuse_foreign(directory.path()).unwrap();
        std::fs::write(directory.path().join("passwd"), "").unwrap();
        let refused = refuse_foreign(directory.path()).unwrap_err();
        assert_eq!(refused.reason(), "DATA_FOREIGN");
        assert!(
            refused.message().contains("passwd"),
            "{}",
            refused.message()
        );
    }
}
