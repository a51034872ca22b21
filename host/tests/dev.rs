//! `kontiki dev` end to end: real nodes, the demonstration plugins, and their death.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail; this also covers its helpers"
)]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LIMIT: Duration = Duration::from_secs(60);

/// A running `kontiki dev` whose state no other can see.
struct Dev {
    directory: TempDir,
    child: Child,
}

impl Dev {
    /// Starts it and does not wait.
    fn launch(more: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = std::fs::File::create(directory.path().join("dev.log")).unwrap();
        let child = command(&directory)
            .args(["dev", "--port", "0"])
            .args(more)
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { directory, child }
    }

    fn start(more: &[&str]) -> Self {
        let dev = Self::launch(more);
        let run = dev.types(&["wait", "--healthy", "--timeout", "60s"]);
        assert!(run.status.success(), "{}{}", stderr(&run), dev.log());
        dev
    }

    fn types(&self, words: &[&str]) -> Output {
        command(&self.directory).args(words).output().unwrap()
    }

    /// Types what must succeed; gives the result.
    fn does(&self, words: &[&str]) -> String {
        let run = self.types(words);
        assert!(
            run.status.success(),
            "{words:?}: {}\n{}",
            stderr(&run),
            self.log()
        );
        String::from_utf8(run.stdout).unwrap().trim_end().to_owned()
    }

    fn reads(&self, words: &[&str]) -> Value {
        let json: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.does(&json)).unwrap()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("dev.log")).unwrap_or_default()
    }

    fn state(&self) -> Option<Value> {
        let text = std::fs::read_to_string(self.directory.path().join("state/dev.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn node_pids(&self) -> Vec<i32> {
        let nodes = self.state().unwrap()["nodes"].as_array().unwrap().clone();
        nodes
            .iter()
            .filter_map(|node| node["pid"].as_i64())
            .map(|pid| pid as i32)
            .collect()
    }

    fn signal(&self, signal: Signal) {
        kill(
            Pid::from_raw(i32::try_from(self.child.id()).unwrap()),
            signal,
        )
        .unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Its nodes die with it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(directory: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command
        .env_clear()
        .env("KONTIKI_STATE_DIR", directory.path().join("state"));
    command.env("KONTIKI_PLUGINS_DIR", plugins());
    command
}

fn plugins() -> PathBuf {
    let checkout = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../plugins/target/components");
    let directory = std::env::var_os("KONTIKI_PLUGINS_DIR").map_or(checkout, PathBuf::from);
    assert!(
        directory.join("counter.wasm").is_file(),
        "run `cargo xtask plugins` first"
    );
    directory
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Neither gone nor a zombie that nobody has reaped yet.
fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

#[test]
fn the_tour_is_true() {
    let dev = Dev::start(&[]);
    assert_eq!(dev.does(&["call", "counter", "add", "5"]), "0");
    assert_eq!(dev.does(&["query", "counter", "get"]), "5");
    assert_eq!(
        dev.does(&["call", "atomic", "cas", "x", "0", "7"]),
        "ok old=0 new=7"
    );
    dev.does(&["dev", "kill", "leader"]);
    assert_eq!(dev.does(&["call", "counter", "add", "1"]), "5");
    let status = dev.types(&["status", "-o", "json"]);
    assert_eq!(status.status.code(), Some(5), "a dead node is not healthy");
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let nodes = status["nodes"].as_array().unwrap();
    let dead: Vec<&Value> = nodes
        .iter()
        .filter(|node| node["state"] == "down")
        .collect();
    let [dead] = dead[..] else {
        panic!("{status:#}")
    };
    dev.does(&["dev", "restart", dead["name"].as_str().unwrap()]);
    dev.does(&["wait", "--healthy", "--nodes", "3", "--timeout", "30s"]);
    assert_eq!(dev.does(&["query", "counter", "get"]), "6");
}

#[test]
fn a_paused_leader_leaves_the_outcome_unknown_and_is_replaced() {
    let dev = Dev::start(&[]);
    dev.does(&["call", "counter", "add", "1"]);
    let leader = dev.reads(&["group", "describe", "counter"])["node_name"].clone();
    let leader = leader.as_str().unwrap();
    dev.does(&["dev", "pause", leader]);
    let sent = dev.types(&[
        "call",
        "counter",
        "add",
        "1",
        "--endpoints",
        &address(&dev, leader),
    ]);
    assert_ne!(sent.status.code(), Some(0), "a paused node answered");
    wait_for("another leader", || {
        let asked = dev.types(&["query", "counter", "get", "--timeout", "5s"]);
        asked.status.success()
    });
    dev.does(&["dev", "resume", leader]);
    dev.does(&["wait", "--healthy", "--timeout", "30s"]);
}

fn address(dev: &Dev, name: &str) -> String {
    let state = dev.state().unwrap();
    let nodes = state["nodes"].as_array().unwrap();
    let node = nodes.iter().find(|node| node["name"] == name).unwrap();
    node["address"].as_str().unwrap().to_owned()
}

#[test]
fn a_signal_stops_every_node_and_the_data_stays_if_it_was_named() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().display().to_string();
    let ports = data.path().join("ports.json");
    let ports_text = ports.display().to_string();
    let mut dev = Dev::start(&["--data", &path, "--ports-file", &ports_text]);
    let document: Value = serde_json::from_str(&std::fs::read_to_string(&ports).unwrap()).unwrap();
    assert_eq!(
        (&document["kind"], &document["up"]),
        (&"dev-cluster".into(), &true.into())
    );
    assert_eq!(document["nodes"].as_array().unwrap().len(), 3);
    dev.does(&["call", "counter", "add", "42"]);
    let pids = dev.node_pids();
    dev.signal(Signal::SIGINT);
    assert_eq!(dev.child.wait().unwrap().code(), Some(0), "{}", dev.log());
    assert!(!pids.into_iter().any(is_running), "a node outlived it");
    assert!(
        dev.state().is_none() && !ports.exists(),
        "it left its state behind"
    );
    let again = Dev::start(&["--data", &path]);
    assert_eq!(again.does(&["query", "counter", "get"]), "42");
}

#[test]
fn nodes_die_with_their_parent() {
    let mut dev = Dev::start(&["-n", "1"]);
    let pids = dev.node_pids();
    assert!(pids.len() == 1 && is_running(pids[0]));
    dev.signal(Signal::SIGKILL);
    dev.child.wait().unwrap();
    wait_for("the node's end", || !is_running(pids[0]));
    assert_eq!(
        dev.types(&["dev", "stop"]).status.code(),
        Some(4),
        "what is left behind is stale"
    );
}

#[test]
fn only_one_runs_and_it_can_be_stopped_by_another_command() {
    let mut dev = Dev::start(&["-n", "1", "--empty"]);
    let second = dev.types(&["dev"]);
    assert_eq!(second.status.code(), Some(6));
    assert!(stderr(&second).contains("dev stop"), "{}", stderr(&second));
    assert_eq!(
        dev.reads(&["group", "list"])["groups"],
        serde_json::json!([])
    );
    dev.does(&["dev", "stop"]);
    assert_eq!(dev.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_node_that_does_not_start_is_shown_with_its_words() {
    let directory = tempfile::tempdir().unwrap();
    let words = ["dev", "--port", "0", "--", "--set", "nonsense=1"];
    let run = command(&directory).args(words).output().unwrap();
    assert_eq!(run.status.code(), Some(10));
    assert!(stderr(&run).contains("nonsense"), "{}", stderr(&run));
}

#[test]
fn the_bench_counts_what_was_acknowledged() {
    let dev = Dev::start(&[]);
    let words = [
        "bench",
        "--clients",
        "1,8",
        "--payload",
        "16",
        "-d",
        "500ms",
        "--warmup",
        "100ms",
    ];
    let report = dev.reads(&words);
    let rows = report["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert!(row["commands_per_second"].as_f64().unwrap() > 0.0);
        assert_eq!(row["adds_up"], true, "{row:#}");
        assert_eq!(row["counted"], row["acknowledged"], "{row:#}");
        let latency = &row["latency_seconds"];
        assert!(latency["p50"].as_f64().unwrap() <= latency["max"].as_f64().unwrap());
    }
    let run = dev.types(&["bench", "--payload", "2"]);
    assert_eq!(run.status.code(), Some(2));
    let run = dev.types(&["bench", "--command", "nonsense", "-d", "100ms"]);
    assert_eq!(
        run.status.code(),
        Some(1),
        "what the plugin rejects is no throughput"
    );
}

#[test]
fn an_operators_day() {
    let dev = Dev::start(&["-n", "4"]);
    let component = plugins().join("counter.wasm");
    let pushed = dev.reads(&["plugin", "push", component.to_str().unwrap()]);
    let digest = pushed["digest"].as_str().unwrap().to_owned();
    dev.does(&[
        "group", "create", "orders", "--plugin", &digest, "--voters", "n1,n2,n3",
    ]);
    dev.does(&["wait", "--healthy"]);
    assert_eq!(dev.does(&["call", "orders", "add", "10"]), "0");

    let plan = dev.reads(&["member", "add", "n4", "-g", "orders", "--plan"]);
    assert_eq!(
        (&plan["before"]["quorum"], &plan["after"]["quorum"]),
        (&2.into(), &3.into())
    );
    assert_eq!(
        dev.does(&["member", "list", "-g", "orders", "-o", "name"])
            .lines()
            .count(),
        3
    );
    let refused = dev.types(&["member", "add", "n4", "-g", "orders", "--expect", "n1,n2"]);
    assert_eq!(refused.status.code(), Some(6), "{}", stderr(&refused));
    dev.does(&["member", "add", "n4", "-g", "orders", "--learner"]);
    dev.does(&["member", "promote", "n4", "-g", "orders"]);
    let changed = dev.reads(&["member", "change", "-g", "orders", "--voters", "n2,n3,n4"]);
    assert_eq!(
        changed["configuration"]["current"]["voters"]
            .as_array()
            .unwrap()
            .len(),
        3
    );

    let moved = dev.reads(&["group", "transfer", "orders", "--to", "n4"]);
    assert_eq!(moved["leader_name"], "n4");
    dev.does(&["node", "drain", "n4"]);
    assert_ne!(
        dev.reads(&["group", "describe", "orders"])["node_name"],
        "n4"
    );
    dev.does(&["node", "undrain", "n4"]);

    dev.does(&["group", "read-only", "orders", "on"]);
    let refused = dev.types(&["call", "orders", "add", "1"]);
    assert_eq!(refused.status.code(), Some(6), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("group read-only orders off"),
        "{}",
        stderr(&refused)
    );
    dev.does(&["group", "read-only", "orders", "off"]);
    assert_eq!(dev.does(&["call", "orders", "add", "1"]), "10");

    dev.does(&["settings", "set", "-g", "orders", "election_timeout=700ms"]);
    let settings = dev.reads(&["settings", "list", "-g", "orders"]);
    let settings = settings["settings"].as_array().unwrap().clone();
    let timeout = settings
        .iter()
        .find(|setting| setting["name"] == "election_timeout")
        .unwrap();
    assert_eq!(timeout["value"], "700ms");
    let log = dev.reads(&["group", "log", "orders"]);
    let commands: Vec<&Value> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["command"])
        .collect();
    assert_eq!(commands, ["add 10", "add 1"]);
}

#[test]
fn a_lost_majority_is_recovered_offline_and_online() {
    let data = tempfile::tempdir().unwrap();
    let path = data.path().display().to_string();
    let n1 = data.path().join("n1").display().to_string();
    let mut dev = Dev::start(&["--data", &path]);
    dev.does(&["call", "counter", "add", "7"]);
    dev.does(&["call", "atomic", "exchange", "x", "5"]);
    let offline = ["recover", "counter", "--survivors", "n1", "--data-dir", &n1];
    let busy = dev.types(&offline);
    assert_eq!(busy.status.code(), Some(10), "{}", stderr(&busy));
    assert!(stderr(&busy).contains("DATA_IN_USE"), "{}", stderr(&busy));
    dev.does(&["dev", "stop"]);
    dev.child.wait().unwrap();

    let plan = dev.reads(&offline);
    let voters = |set: &Value| set["current"]["voters"].as_array().unwrap().len();
    assert_eq!(
        (voters(&plan["before"]), voters(&plan["after"])),
        (3, 1),
        "{plan:#}"
    );
    assert_eq!(plan["done"], false);
    assert_eq!(
        dev.reads(&offline)["before"],
        plan["before"],
        "the rehearsal changed something"
    );
    let absent = ["recover", "nothing", "--survivors", "n1", "--data-dir", &n1];
    assert_eq!(dev.types(&absent).status.code(), Some(4));
    let another = ["recover", "counter", "--survivors", "n2", "--data-dir", &n1];
    assert_eq!(dev.types(&another).status.code(), Some(10));
    let confirmed: Vec<&str> = offline
        .into_iter()
        .chain(["--confirm", "counter"])
        .collect();
    assert_eq!(dev.reads(&confirmed)["done"], true);
    assert_eq!(
        voters(&dev.reads(&offline)["before"]),
        1,
        "it is not in force"
    );

    // The other two are gone: their data with them.
    std::fs::remove_dir_all(data.path().join("n2")).unwrap();
    std::fs::remove_dir_all(data.path().join("n3")).unwrap();
    let alone = Dev::launch(&["-n", "1", "--data", &path, "--empty"]);
    wait_for("the survivor leads", || {
        let asked = alone.types(&["query", "counter", "get", "--timeout", "2s"]);
        asked.status.success() && asked.stdout == b"7\n"
    });
    let lost = alone.types(&["call", "atomic", "exchange", "x", "6", "--timeout", "500ms"]);
    assert_eq!(lost.status.code(), Some(3), "{}", stderr(&lost));
    alone.does(&[
        "recover",
        "atomic",
        "--survivors",
        "n1",
        "--confirm",
        "atomic",
    ]);
    let set = alone.does(&["call", "atomic", "exchange", "x", "6"]);
    assert_eq!(set, "ok old=5 new=6");
}
