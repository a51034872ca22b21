//! `kontiki settings` against real nodes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use support::{Cluster, Data};

/// Runs `kontiki` against the first two nodes; the nodes go on meanwhile.
async fn kontiki(cluster: &Cluster, words: &[&str]) -> Output {
    let endpoints = format!("{},{}", cluster.address(0), cluster.address(1));
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command
        .args(["--endpoints", &endpoints, "--timeout", "5s"])
        .args(words);
    let running = tokio::task::spawn_blocking(move || command.output());
    running.await.unwrap().unwrap()
}

async fn json(cluster: &Cluster, words: &[&str]) -> Value {
    let words: Vec<&str> = words.iter().copied().chain(["-o", "json"]).collect();
    let run = kontiki(cluster, &words).await;
    serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{run:?}"))
}

/// Node and result, in the order in which they were changed.
fn results(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let nodes = report["nodes"].as_array().unwrap().iter();
    nodes
        .map(|node| (text(&node["node"]), text(&node["result"])))
        .collect()
}

async fn value(cluster: &Cluster, name: &str) -> (Value, Value) {
    let list = json(cluster, &["settings", "list", "--node", "n1"]).await;
    let all = list["settings"].as_array().unwrap().clone();
    let found = all.into_iter().find(|s| s["name"] == name).unwrap();
    (found["value"].clone(), found["source"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_is_asked_first_then_changed_in_order() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", "native:counter").await;
    let set = ["settings", "set", "election_timeout=400ms"];
    let report = json(&cluster, &[&set[..], &["--dry-run"]].concat()).await;
    assert!(
        results(&report).iter().all(|(_, r)| r == "would change"),
        "{report}"
    );
    assert_eq!(report["nodes"][0]["changes"][1]["name"], "max_clock_drift");
    assert_eq!(value(&cluster, "election_timeout").await.0, "300ms");

    let run = kontiki(&cluster, &set).await;
    assert!(run.status.success(), "{run:?}");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(
        said.contains("max_clock_drift goes from 1s to 900ms"),
        "{said}"
    );
    let (now, source) = value(&cluster, "election_timeout").await;
    assert_eq!((now, source), ("400ms".into(), "node".into()));

    // Of a group: the leader last where the timeout grows, first where it shrinks.
    let group = ["settings", "set", "--group", "counter"];
    for (timers, leader_at) in [("election_timeout=600ms", 2), ("election_timeout=500ms", 0)] {
        let leader = cluster.leader("counter").await;
        let report = json(&cluster, &[&group[..], &[timers]].concat()).await;
        let results = results(&report);
        assert!(results.iter().all(|(_, r)| r == "changed"), "{report}");
        assert_eq!(results[leader_at].0, format!("n{}", leader + 1), "{report}");
    }
    let refused = kontiki(&cluster, &["settings", "set", "election_timeout=1ms"]).await;
    assert!(!refused.status.success());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("20 ms") && said.contains("nothing was changed"),
        "{said}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_is_passed_over_and_told_of() {
    let mut cluster = Cluster::start(3, Data::Memory).await;
    cluster.stop_node(2).await;
    let run = kontiki(&cluster, &["settings", "set", "priority=7", "-o", "json"]).await;
    assert_eq!(run.status.code(), Some(3), "{run:?}");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    let mut results = results(&report);
    results.sort();
    let results: Vec<_> = results
        .iter()
        .map(|(n, r)| (n.as_str(), r.as_str()))
        .collect();
    let expected = [("n1", "changed"), ("n2", "changed"), ("n3", "failed")];
    assert_eq!(results, expected, "{report}");
    assert_eq!(
        value(&cluster, "priority").await,
        ("7".into(), "node".into())
    );
    let reset = ["settings", "reset", "priority", "--node", "n1"];
    let run = kontiki(&cluster, &reset).await;
    assert!(run.status.success(), "{run:?}");
    assert_eq!(
        value(&cluster, "priority").await,
        ("100".into(), "default".into())
    );
    cluster.stop().await;
}
