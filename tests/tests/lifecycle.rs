//! Processes die at every step of creating and deleting a group, under load: nothing acknowledged is
//! lost, what was reported done is done, and repeating an order completes or undoes what was left.

use anyhow::{Context as _, Result, ensure};
use kontiki_tests::load::{self, Load};
use kontiki_tests::model::Model;
use kontiki_tests::session::{Session, counter_on};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, until};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Arguments of a counter's group.
const CREATED: [&str; 2] = ["--timeout", "20s"];

struct Scene {
    cluster: Cluster,
    operator: Operator,
    digest: String,
    /// Nodes by id: the first decides creations on all three.
    order: Vec<usize>,
}

impl Scene {
    async fn set() -> Result<(Self, Session)> {
        let cluster = Cluster::start(ClusterOptions::default())?;
        let session = counter_on(&cluster.addresses(), LIMIT).await?;
        let operator = Operator::of(&cluster);
        let list = operator.reads(&["node", "list"])?;
        let nodes = list["nodes"].as_array().context("nodes")?;
        let mut ids = Vec::new();
        for node in nodes {
            let id: u64 = node["id"].as_str().context("id")?.parse()?;
            ids.push((
                id,
                cluster.position(node["name"].as_str().context("name")?)?,
            ));
        }
        ids.sort_unstable();
        let plugins = operator.reads(&["plugin", "list"])?;
        let digest = plugins["plugins"][0]["digest"].as_str().context("digest")?;
        let scene = Self {
            digest: digest.to_owned(),
            order: ids.into_iter().map(|(_, node)| node).collect(),
            cluster,
            operator,
        };
        Ok((scene, session))
    }

    /// An operator who knows node `index` only.
    fn at(&self, index: usize) -> Operator {
        Operator::at(&[self.cluster.nodes()[index].address.clone()])
    }

    /// Restarts node `victim` so that it dies at `failpoint`.
    fn arm(&mut self, victim: usize, failpoint: &str) -> Result<()> {
        self.cluster.kill_node(victim)?;
        let environment = [("KONTIKI_FAILPOINT", failpoint)];
        self.cluster.start_node_with(victim, &environment)
    }

    /// Waits until the victim has died where it should, and starts it again.
    fn revive(&mut self, victim: usize) -> Result<()> {
        let status = self.cluster.wait_for_end(victim, LIMIT)?;
        ensure!(!status.success(), "the node ended by itself");
        self.cluster.start_node(victim)
    }

    async fn meet(&self) -> Result<()> {
        until("all nodes are connected", LIMIT, async || {
            for index in 0..self.cluster.nodes().len() {
                let node = self.at(index).reads(&["node", "list"])?;
                let nodes = node["nodes"].as_array().context("nodes")?;
                let down = nodes.iter().filter(|node| !is_up(node)).count();
                ensure!(down == 0 && nodes.len() == self.order.len(), "{node}");
            }
            Ok(Some(()))
        })
        .await
    }

    fn creates(&self, by: usize, group: &str) -> Result<bool> {
        let words = ["group", "create", group, "--plugin", &self.digest];
        let words: Vec<&str> = words.into_iter().chain(CREATED).collect();
        let output = self.at(by).types(&words)?;
        let code = output.status.code().context("it has a code")?;
        let said = String::from_utf8_lossy(&output.stderr);
        // Refused and not applied, unreachable, or nobody knows: never a wrong kind of error.
        ensure!(
            [0, 3, 6, 8].contains(&code),
            "create by node {by}: {code}\n{said}"
        );
        Ok(code == 0)
    }

    /// The replicas of a group that answer, by node.
    fn runs_everywhere(&self, group: &str) -> Result<()> {
        for node in self.cluster.nodes() {
            let there = ["group", "describe", group, "--node", &node.name];
            self.operator.reads(&there)?;
        }
        Ok(())
    }

    /// Whatever was left, it can be completed from any node, serves, and can be deleted.
    async fn is_completed(&self, by: usize, group: &str) -> Result<()> {
        until("the group can be created", LIMIT, async || {
            ensure!(self.creates(by, group)?, "not yet");
            Ok(Some(()))
        })
        .await?;
        self.runs_everywhere(group)?;
        self.operator
            .does(&["call", group, "add 1", "--timeout", "20s"])?;
        self.operator
            .does(&["group", "delete", group, "--confirm", group])?;
        self.is_gone(group).await
    }

    async fn is_gone(&self, group: &str) -> Result<()> {
        until("the group is nowhere", LIMIT, async || {
            for index in 0..self.cluster.nodes().len() {
                let list = self.at(index).reads(&["group", "list"])?;
                let groups = list["groups"].as_array().context("groups")?;
                ensure!(groups.iter().all(|it| it["name"] != group), "{list}");
            }
            Ok(Some(()))
        })
        .await
    }
}

fn is_up(node: &Value) -> bool {
    node["state"] == "up"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_may_die_at_every_step_of_creating_and_deleting() -> Result<()> {
    let (mut scene, session) = Scene::set().await?;
    let addresses = scene.cluster.addresses();
    let load = Load::start("counter", &addresses, 2, load::counter_commands)?;
    let (decider, other) = (scene.order[0], scene.order[1]);
    // Who dies, where, and who creates.
    let creations = [
        (other, "create.after_first", other),
        (other, "create.after_prepared", other),
        (other, "create.after_decided", other),
        (decider, "create.prepared", other),
        (decider, "create.before_confirm", other),
        (decider, "create.confirmed", other),
        (other, "create.prepared", decider),
        (other, "create.confirmed", decider),
    ];
    for (victim, failpoint, by) in creations {
        eprintln!("{failpoint} on node {victim}, created by node {by}");
        scene.arm(victim, failpoint)?;
        scene.meet().await?;
        if scene.creates(by, "new")? {
            // The one that died runs it too, as soon as it is back.
            scene.revive(victim)?;
            until("the dead one runs it", LIMIT, async || {
                scene.runs_everywhere("new").map(Some)
            })
            .await?;
        } else {
            scene.revive(victim)?;
        }
        scene.meet().await?;
        scene.is_completed(scene.order[2], "new").await?;
    }
    for (victim, failpoint, by) in [
        (other, "delete.after_first", other),
        (other, "end.noted", decider),
        (decider, "end.noted", decider),
    ] {
        eprintln!("{failpoint} on node {victim}, deleted by node {by}");
        scene.arm(victim, failpoint)?;
        scene.meet().await?;
        scene.is_completed_until_deleted(by)?;
        scene.revive(victim)?;
        // The deletion was recorded somewhere, so nothing of the group comes back.
        scene.is_gone("new").await?;
    }
    load.wait_for(50, LIMIT).await?;
    let records = load.stop().await?;
    let report = check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;
    eprintln!("{report:?}");
    Ok(())
}

impl Scene {
    /// Creates a group and orders its deletion, in which a node dies.
    fn is_completed_until_deleted(&self, by: usize) -> Result<()> {
        ensure!(self.creates(by, "new")?, "nothing is in the way of it");
        let words = ["group", "delete", "new", "--confirm", "new"];
        self.at(by).types(&words)?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_plugin_is_fetched_and_a_used_one_is_kept() -> Result<()> {
    let (mut scene, _) = Scene::set().await?;
    let digest = scene.digest.clone();
    scene
        .operator
        .is_refused(&["plugin", "rm", &digest], 6, "PLUGIN_IN_USE")?;
    scene.cluster.kill_node(0)?;
    let file = format!("{}.wasm", digest.replacen(':', "-", 1));
    let directory = scene.cluster.nodes()[0].data_directory.clone();
    let blob = walk(&directory, &file)?.context("the plugin's file")?;
    std::fs::write(&blob, b"damaged")?;
    scene.cluster.start_node(0)?;
    until("n1 has fetched it and runs", LIMIT, async || {
        let there = ["group", "describe", "counter", "--node", "n1"];
        let there = scene.operator.reads(&there)?;
        ensure!(there["role"] != "broken", "{there}");
        ensure!(std::fs::read(&blob)? != b"damaged", "still damaged");
        Ok(Some(()))
    })
    .await?;
    scene
        .operator
        .does(&["group", "delete", "counter", "--confirm", "counter"])?;
    scene.operator.does(&["plugin", "rm", &digest])?;
    let plugins = scene.operator.reads(&["plugin", "list"])?;
    ensure!(plugins["plugins"] == Value::Array(vec![]), "{plugins}");
    Ok(())
}

/// The file of that name below a directory.
fn walk(directory: &std::path::Path, name: &str) -> Result<Option<std::path::PathBuf>> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if let Some(found) = walk(&path, name)? {
                return Ok(Some(found));
            }
        } else if path.file_name().is_some_and(|it| it == name) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_former_member_is_added_as_soon_as_it_listens_again() -> Result<()> {
    let (mut scene, _) = Scene::set().await?;
    let member = ["n3", "--group", "counter", "--timeout", "20s"];
    let words = |verb: &'static str| {
        let words = ["member", verb].into_iter().chain(member);
        words.collect::<Vec<_>>()
    };
    scene.operator.does(&words("remove"))?;
    let position = scene.cluster.position("n3")?;
    for _ in 0..3 {
        scene.cluster.kill_node(position)?;
        scene.cluster.start_node(position)?;
        // At once: its groups may still be opening. Only that it is not connected may be said.
        until("n3 is added", LIMIT, async || {
            let output = scene.operator.types(&words("add"))?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(!said.contains("STORAGE_FAILED"), "{said}");
            ensure!(output.status.success(), "{said}");
            Ok(Some(()))
        })
        .await?;
        scene.operator.does(&words("remove"))?;
    }
    Ok(())
}

/// Sets how much address space a process may have from now on: bytes, or `unlimited`.
fn limit_address_space(pid: u32, limit: &str) -> Result<()> {
    let status = std::process::Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--as={limit}:")])
        .status()
        .context("run prlimit, of util-linux")?;
    ensure!(status.success(), "prlimit: {status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_one_member_cannot_run_is_not_created() -> Result<()> {
    let (scene, _) = Scene::set().await?;
    let pid = scene.cluster.pid(1).context("it runs")?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let size = status.lines().find(|line| line.starts_with("VmSize:"));
    let size = size.and_then(|line| line.split_whitespace().nth(1));
    let size_kib: u64 = size.context("VmSize")?.parse()?;
    // Room for threads and small things, not for the memory that an instance reserves.
    let limit = (size_kib + (400 << 10)) << 10;
    limit_address_space(pid, &limit.to_string())?;
    let words = ["group", "create", "new", "--plugin", &scene.digest];
    scene.operator.is_refused(&words, 9, "cannot be made")?;
    scene.is_gone("new").await?;
    limit_address_space(pid, "unlimited")?;
    scene.operator.does(&words)?;
    scene.runs_everywhere("new")
}
