//! HTTP pages, health and shutdown.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use std::time::Duration;
use support::{Cluster, Data, apply, http, wait_for};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_say_how_the_node_is() {
    let cluster = Cluster::start(1, Data::Disk).await;
    cluster.create_group("counter", "native:counter").await;
    apply(&mut cluster.client(0), "counter", "add 1")
        .await
        .unwrap()
        .1
        .unwrap();
    let address = cluster.node(0).ports().http.unwrap();
    let get = |path: &'static str| http(address, "GET", path, "");

    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    let (code, text) = get("/readyz?verbose").await;
    assert_eq!(code, 200);
    assert!(
        text.contains("[+] storage") && text.contains("[+] groups_loaded 1/1"),
        "{text}"
    );
    assert_eq!(get("/readyz?require=leader").await.0, 200);

    let (code, text) = get("/raft_stat/counter").await;
    assert_eq!(code, 200);
    assert!(text.contains("state: leader\n"), "{text}");
    let (_, text) = get("/raft_stat?format=json").await;
    let document: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["groups"][0]["group"], "counter");
    assert_eq!(document["groups"][0]["plugin"]["name"], "counter");
    assert_eq!(get("/raft_stat/nothing").await.0, 404);

    let (code, text) = get("/metrics").await;
    assert_eq!(code, 200);
    for line in [
        "kontiki_groups{role=\"leader\"} 1",
        "kontiki_group_has_leader{group=\"counter\"} 1",
        "kontiki_proposals_total{outcome=\"applied\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_are_shown_and_changed_within_their_range() {
    let cluster = Cluster::start(1, Data::Memory).await;
    let address = cluster.node(0).ports().http.unwrap();
    let (_, text) = http(address, "GET", "/flags", "").await;
    assert!(text.contains("election_timeout = 300ms"), "{text}");
    let change = "/flags/election_timeout?setvalue=350ms";
    let (code, text) = http(address, "GET", change, "").await;
    assert_eq!(code, 405, "{text}");
    let (_, text) = http(address, "GET", "/flags", "").await;
    assert!(
        text.contains("election_timeout = 300ms"),
        "changed by GET: {text}"
    );
    let (code, text) = http(address, "POST", change, "").await;
    assert_eq!(code, 200);
    assert!(text.contains("election_timeout = 350ms"), "{text}");
    assert_eq!(http(address, "POST", "/flags", "priority=5\n").await.0, 200);
    let (code, text) = http(address, "POST", "/flags/heartbeat_factor", "1").await;
    assert_eq!(code, 400);
    assert!(text.contains("2 to 100"), "{text}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_is_reported_for_the_process_and_each_group() {
    let cluster = Cluster::start(1, Data::Memory).await;
    cluster.create_group("counter", "native:counter").await;
    for service in ["", "group/counter"] {
        wait_for("health", || async {
            let request = HealthCheckRequest {
                service: service.into(),
            };
            let reply = HealthClient::new(cluster.channel(0))
                .check(request)
                .await
                .ok()?;
            (reply.into_inner().status() == ServingStatus::Serving).then_some(())
        })
        .await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_shuts_down_ends_within_its_grace_and_hands_over() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", "native:counter").await;
    apply(&mut cluster.client(0), "counter", "add 1")
        .await
        .unwrap()
        .1
        .unwrap();
    let leader = cluster.leader("counter").await;
    let before = cluster
        .describe(leader, "counter")
        .await
        .unwrap()
        .summary
        .unwrap()
        .term;
    let start = tokio::time::Instant::now();
    cluster.stop_node(leader).await;
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let next = cluster.leader("counter").await;
    let summary = cluster
        .describe(next, "counter")
        .await
        .unwrap()
        .summary
        .unwrap();
    assert_eq!(
        summary.term,
        before + 1,
        "handed over at once, not elected after a silence"
    );
    let request = v1::GetNodeRequest {};
    assert!(cluster.admin(leader).get_node(request).await.is_err());
    cluster.stop().await;
}
