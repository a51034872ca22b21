//! What replicas say about themselves on `/raft_stat`, in more states than the quiet one.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use serde_json::{Value, json};
use std::net::SocketAddr;
use support::{Cluster, Data, apply, details, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Status code, content type and body of a page.
async fn page(address: SocketAddr, path: &str, accept: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    let code = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head.lines().find_map(|line| {
        line.to_ascii_lowercase()
            .strip_prefix("content-type: ")
            .map(str::to_owned)
    });
    (code, kind.unwrap_or_default(), body.to_owned())
}

fn address(cluster: &Cluster, index: usize) -> SocketAddr {
    cluster.node(index).ports().http.unwrap()
}

/// The document of one node's replica.
async fn stat(cluster: &Cluster, index: usize, group: &str) -> Value {
    let accept = "application/json, */*";
    let path = format!("/raft_stat/{group}");
    let (_, kind, body) = page(address(cluster, index), &path, accept).await;
    assert_eq!(kind, "application/json");
    serde_json::from_str(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_and_a_follower_say_what_they_do() {
    let cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", "native:counter").await;
    let leader = cluster.leader("counter").await;
    for _ in 0..5 {
        apply(&mut cluster.client(leader), "counter", "add 1")
            .await
            .unwrap()
            .1
            .unwrap();
    }
    cluster.agree("counter").await;

    let d = stat(&cluster, leader, "counter").await;
    let name = format!("n{}", leader + 1);
    assert_eq!(
        (&d["state"], &d["node_name"]),
        (&json!("leader"), &json!(name))
    );
    assert_eq!(d["leader"]["name"], name);
    assert_eq!(d["peers"]["voters"].as_array().unwrap().len(), 3);
    assert_eq!(d["stepdown_timer"]["state"], "running");
    assert!(d["stepdown_timer"]["left_seconds"].as_f64().unwrap() <= 0.3);
    assert_eq!(d["heartbeat_timer"]["state"], "running");
    assert_eq!(d["election_timer"]["state"], "stopped");
    assert_eq!(d["storage"]["first_index"], 1);
    let last = d["storage"]["last_index"].as_u64().unwrap();
    assert!(last >= 6, "{d}");
    for field in [
        "last_committed_index",
        "known_applied_index",
        "disk_index",
        "applying_index",
    ] {
        assert_eq!(d[field], last, "{field}");
    }
    assert_eq!(
        (&d["pending_queue_size"], &d["pending_index"]),
        (&json!(0), &Value::Null)
    );
    assert!(d["storage"]["table_size_bytes"].is_u64());
    assert_eq!(
        (&d["state_machine"], &d["snapshot_status"]),
        (&json!("idle"), &json!("IDLE"))
    );
    let replicators = d["replicators"].as_array().unwrap();
    assert_eq!(replicators.len(), 2);
    for replicator in replicators {
        assert_eq!(
            (&replicator["state"], &replicator["part"]),
            (&json!("replicate"), &json!("voter"))
        );
        assert_eq!(
            (&replicator["match_index"], &replicator["lag_entries"]),
            (&json!(last), &json!(0))
        );
        assert_eq!(replicator["connected"], true);
        assert!(
            replicator["entries_sent"].as_u64().unwrap() >= 5,
            "{replicator}"
        );
        assert!(
            replicator["appends_sent"].as_u64().unwrap() >= 1,
            "{replicator}"
        );
        assert!(
            replicator["heartbeats_sent"].as_u64().unwrap() >= 1,
            "{replicator}"
        );
        assert!(
            replicator["last_answer_seconds"].as_f64().unwrap() < 5.0,
            "{replicator}"
        );
    }

    let follower = (leader + 1) % 3;
    let d = stat(&cluster, follower, "counter").await;
    assert_eq!(
        (&d["state"], &d["leader"]["name"]),
        (&json!("follower"), &json!(name))
    );
    assert_eq!(d["election_timer"]["state"], "running");
    assert_eq!(d["stepdown_timer"]["state"], "stopped");
    assert!(d["last_msg_to_now_seconds"].as_f64().unwrap() < 5.0, "{d}");
    assert_eq!(
        (&d["replicators"], &d["pending_queue_size"]),
        (&json!([]), &Value::Null)
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_group_and_a_follower_that_is_gone_show() {
    let mut cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", "native:counter").await;
    let leader = cluster.leader("counter").await;
    let request = v1::SetReadOnlyRequest {
        group: "counter".into(),
        on: true,
        local: false,
    };
    cluster.admin(leader).set_read_only(request).await.unwrap();
    let d = stat(&cluster, leader, "counter").await;
    assert_eq!(
        (&d["read_only"], &d["group_read_only"]),
        (&json!(true), &json!(true))
    );
    let problem = &d["problems"][0];
    assert!(
        problem["what"].as_str().unwrap().contains("read-only"),
        "{d}"
    );
    assert!(
        problem["next_step"]
            .as_str()
            .unwrap()
            .contains("read-only GROUP off"),
        "{d}"
    );

    let gone = (leader + 1) % 3;
    cluster.stop_node(gone).await;
    let gone = format!("n{}", gone + 1);
    wait_for("errors of the one that is gone", || async {
        let d = stat(&cluster, leader, "counter").await;
        let replicators = d["replicators"].as_array()?;
        let it = replicators.iter().find(|it| it["node_name"] == gone)?;
        let silent = it["heartbeats_unanswered"].as_u64()? > 3;
        let failed = it["consecutive_errors"].as_u64()? > 0 && it["connected"] == false;
        (silent && failed && it["connection_error"].is_string()).then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transfer_shows_while_it_lasts() {
    let mut cluster = Cluster::prepare(3, Data::Memory);
    for index in 0..3 {
        // Long enough to look: a transfer is given up after an election timeout.
        cluster.options(index).election_timeout = Some("2s".into());
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.create_group("counter", "native:counter").await;
    let leader = cluster.leader("counter").await;
    let target = (leader + 1) % 3;
    wait_for("an answer of the target", || async {
        let d = stat(&cluster, leader, "counter").await;
        let replicators = d["replicators"].as_array()?;
        replicators
            .iter()
            .all(|it| it["state"] == "replicate")
            .then_some(())
    })
    .await;
    cluster.stop_node(target).await;
    let target = format!("n{}", target + 1);
    let request = v1::TransferLeadershipRequest {
        group: "counter".into(),
        target: target.clone(),
    };
    let mut admin = cluster.admin(leader);
    let transfer = tokio::spawn(async move { admin.transfer_leadership(request).await });
    let d = wait_for("a transfer", || async {
        assert!(!transfer.is_finished(), "it was not to succeed");
        let d = stat(&cluster, leader, "counter").await;
        (d["state"] == "transferring").then_some(d)
    })
    .await;
    assert_eq!(d["transfer"]["target"], target);
    assert!(d["transfer"]["elapsed_seconds"].as_f64().unwrap() < 2.0);
    assert_eq!(
        details(&transfer.await.unwrap().unwrap_err()).0,
        "TRANSFER_TIMED_OUT"
    );
    let d = stat(&cluster, leader, "counter").await;
    assert_eq!(d["transfer"], Value::Null);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_opened_is_shown_with_the_reason_and_what_to_do() {
    let mut cluster = Cluster::start(1, Data::Disk).await;
    cluster.create_group("counter", "native:counter").await;
    cluster.stop_node(0).await;
    cluster.options(0).allow_native_machines = None;
    cluster.start_node(0).await;
    let address = address(&cluster, 0);

    let (code, _, body) = page(address, "/raft_stat?format=json", "*/*").await;
    assert_eq!(code, 200);
    let all: Value = serde_json::from_str(&body).unwrap();
    let d = &all["groups"][0];
    assert_eq!(
        (&d["group"], &d["state"]),
        (&json!("counter"), &json!("broken"))
    );
    assert!(
        d["failure"]
            .as_str()
            .unwrap()
            .contains("--allow-native-machines"),
        "{d}"
    );
    assert!(
        d["problems"][0]["next_step"]
            .as_str()
            .unwrap()
            .contains("start this node"),
        "{d}"
    );
    assert_eq!(d["plugin"]["digest"], "native:counter");
    assert_eq!(d.get("term"), None, "nobody knows it");

    let (code, _, text) = page(address, "/raft_stat/counter", "*/*").await;
    assert_eq!(code, 503);
    assert!(
        text.starts_with("[counter]\n") && text.contains("\nstate: broken\n"),
        "{text}"
    );
    let (code, _, text) = page(address, "/readyz", "*/*").await;
    assert_eq!(code, 503);
    assert!(
        text.contains("[-] groups_loaded 0/1, not opened: counter\n"),
        "{text}"
    );

    let listed = cluster.admin(0).list_groups(v1::ListGroupsRequest {}).await;
    let listed = listed.unwrap().into_inner().groups.remove(0);
    assert_eq!(listed.id.to_string(), d["group_id"].as_str().unwrap());
    assert_eq!(listed.role, "broken");
    let here = cluster.describe(0, "counter").await.unwrap();
    assert_eq!(here.failure, listed.problems[0]);
    let request = v1::DescribeGroupRequest {
        group: "counter".into(),
        local: false,
    };
    let elsewhere = cluster.admin(0).describe_group(request).await.unwrap_err();
    assert_eq!(details(&elsewhere).0, "REPLICA_FAILED");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_have_codes_and_come_in_the_format_asked_for() {
    let cluster = Cluster::start(1, Data::Memory).await;
    let address = address(&cluster, 0);
    let (code, kind, body) = page(address, "/raft_stat/nothing", "application/json").await;
    assert_eq!((code, kind.as_str()), (404, "application/json"));
    let failure: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(failure["error"]["code"], "GROUP_NOT_FOUND");
    let (code, kind, _) = page(address, "/raft_stat/nothing", "*/*").await;
    assert_eq!((code, kind.as_str()), (404, "text/plain; charset=utf-8"));
    assert_eq!(page(address, "/raft_stat?format=yaml", "*/*").await.0, 400);
    let (code, _, text) = page(address, "/raft_stat", "*/*").await;
    assert_eq!((code, text.as_str()), (200, "node n1 has no groups\n"));
    cluster.stop().await;
}
