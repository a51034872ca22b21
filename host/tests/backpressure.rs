//! A group that cannot keep up says so, and goes on when it can.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::Linearizable;
use std::time::Duration;
use support::{Cluster, Data, apply, details, query, wait_for};
use tonic::{Code, Request, Status};

const COUNTER: &str = "native:counter";

/// Three nodes, of which only the leader is left running, for as long as the leader does not notice.
async fn stalled(limit: impl Fn(&mut kontiki::config::Limits)) -> (Cluster, usize) {
    let mut cluster = Cluster::prepare(3, Data::Disk);
    for index in 0..3 {
        cluster.options(index).election_timeout = Some("10s".into());
        cluster
            .start_node_with(index, |config| limit(&mut config.limits))
            .await;
    }
    cluster.connected().await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    let (_, answer) = apply(&mut cluster.client(leader), "counter", "add 1")
        .await
        .unwrap();
    assert!(answer.is_ok());
    for index in (0..3).filter(|index| *index != leader) {
        cluster.stop_node(index).await;
    }
    assert_eq!(cluster.leader("counter").await, leader);
    (cluster, leader)
}

/// One command that is given two seconds.
async fn try_apply(cluster: &Cluster, index: usize, command: String) -> Result<(), Status> {
    let mut request = Request::new(v1::ApplyRequest {
        group: "counter".into(),
        command: command.into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(2));
    let reply = cluster.client(index).apply(request).await?.into_inner();
    match reply.result.unwrap() {
        v1::apply_reply::Result::Answer(_) => Ok(()),
        v1::apply_reply::Result::Rejected(why) => panic!("{why}"),
    }
}

/// Sends commands until some are refused as busy; none may be refused otherwise than by running out
/// of time. Then brings the others back, and sees everything that was taken applied.
async fn fills_up_and_recovers(mut cluster: Cluster, leader: usize, count: usize, command: &str) {
    let sent = (0..count).map(|_| try_apply(&cluster, leader, command.to_owned()));
    let (mut busy, mut taken) = (0, 0);
    for refused in join_all(sent).await.into_iter().map(Result::unwrap_err) {
        let (reason, outcome) = details(&refused);
        match reason.as_str() {
            "BUSY" => {
                assert_eq!(refused.code(), Code::ResourceExhausted);
                assert_eq!(outcome, "not_applied");
                busy += 1;
            }
            "DEADLINE_EXCEEDED" => taken += usize::from(outcome == "unknown"),
            other => panic!("{other}: {refused:?}"),
        }
    }
    assert!(
        busy > 0 && taken > 0,
        "{busy} busy, {taken} taken of {count}"
    );
    for index in (0..3).filter(|index| *index != leader) {
        cluster.start_node(index).await;
    }
    let cluster = &cluster;
    let (_, answer) = wait_for("commands to be taken again", || async {
        apply(&mut cluster.client(leader), "counter", "add 1")
            .await
            .ok()
    })
    .await;
    assert!(answer.is_ok());
    let value = query(&mut cluster.client(leader), "counter", "get", Linearizable).await;
    let (value, taken): (usize, usize) = (value.unwrap().parse().unwrap(), taken);
    // The first, the last, and each that was taken; not one that was refused.
    assert_eq!(value, taken + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_commands_are_refused_as_busy_until_the_group_goes_on() {
    let (cluster, leader) = stalled(|limits| limits.proposals_max = 8).await;
    fills_up_and_recovers(cluster, leader, 64, "add 1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_bytes_are_refused_as_busy_until_the_group_goes_on() {
    let (cluster, leader) = stalled(|limits| limits.proposals_size_bytes_max = 1 << 20).await;
    // Padded with spaces, which the counter does not mind.
    let command = format!("add {}1", " ".repeat(200_000));
    fills_up_and_recovers(cluster, leader, 16, &command).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_queries_are_refused_as_busy_until_the_group_goes_on() {
    let (mut cluster, leader) = stalled(|limits| limits.queries_max = 4).await;
    let ask = || async {
        let mut request = Request::new(v1::QueryRequest {
            group: "counter".into(),
            request: "get".into(),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(1));
        cluster.client(leader).query(request).await
    };
    let refused = join_all((0..32).map(|_| ask())).await;
    let reasons: Vec<_> = refused
        .into_iter()
        .map(|refused| details(&refused.unwrap_err()).0)
        .collect();
    let count = |reason: &str| reasons.iter().filter(|r| *r == reason).count();
    assert_eq!(
        count("BUSY") + count("DEADLINE_EXCEEDED"),
        32,
        "{reasons:?}"
    );
    assert!(count("BUSY") >= 24, "{reasons:?}");
    for index in (0..3).filter(|index| *index != leader) {
        cluster.start_node(index).await;
    }
    let cluster = &cluster;
    let value = wait_for("queries to be answered again", || async {
        query(&mut cluster.client(leader), "counter", "get", Linearizable)
            .await
            .ok()
    })
    .await;
    assert_eq!(value, "1");
}
