//! A node that shuts down is held up by nobody, and leaves nobody in doubt.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::Linearizable;
use std::time::Duration;
use support::{Cluster, Data, details, query, wait_for};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Far longer than a test may take.
const GRACE: &str = "10m";
const LIMIT: Duration = Duration::from_secs(30);

async fn cluster(count: usize) -> Cluster {
    let mut cluster = Cluster::prepare(count, Data::Memory);
    for index in 0..count {
        cluster.options(index).shutdown_grace = Some(GRACE.into());
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.create_group("counter", "native:counter").await;
    cluster
}

async fn stops(cluster: &mut Cluster, index: usize) {
    let stopped = tokio::time::timeout(LIMIT, cluster.stop_node(index)).await;
    assert!(stopped.is_ok(), "it waits for somebody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_say_nothing_or_half_of_it_hold_nobody_up() {
    let mut cluster = cluster(1).await;
    let http = cluster.node(0).ports().http.unwrap();
    let _silent = TcpStream::connect(cluster.address(0)).await.unwrap();
    let mut half = TcpStream::connect(http).await.unwrap();
    half.write_all(b"GET /livez HTTP/1.1\r\nhost")
        .await
        .unwrap();
    // Somebody watches, and somebody does not go on with a call.
    let mut health = tonic_health::pb::health_client::HealthClient::new(cluster.channel(0));
    let watched = health
        .watch(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
    let (_never, requests) = mpsc::channel::<v1::PushRequest>(1);
    let mut plugins = v1::plugins_client::PluginsClient::new(cluster.channel(0));
    let push = tokio::spawn(async move { plugins.push(ReceiverStream::new(requests)).await });
    stops(&mut cluster, 0).await;
    drop((watched, half));
    assert!(push.await.unwrap().is_err());
}

/// Sends commands on one stream for as long as it takes them; how many were answered, and how it
/// ended.
async fn stream(cluster: &Cluster, index: usize) -> (u64, Status) {
    let mut client = cluster.client(index);
    let (sender, requests) = mpsc::channel(64);
    tokio::spawn(async move {
        let request = v1::ApplyStreamRequest {
            group: "counter".into(),
            command: "add 1".into(),
            expected_term: None,
        };
        while sender.send(request.clone()).await.is_ok() {}
    });
    let replies = client.apply_stream(ReceiverStream::new(requests)).await;
    let mut replies = replies.unwrap().into_inner();
    let mut applied = 0;
    while let Some(reply) = replies.next().await {
        match reply.map(|reply| reply.outcome.unwrap()) {
            Ok(v1::apply_stream_reply::Outcome::Reply(_)) => applied += 1,
            Ok(v1::apply_stream_reply::Outcome::Error(error)) => {
                assert_eq!(error.outcome, "not_applied", "{error:?}");
            }
            Err(status) => return (applied, status),
        }
    }
    panic!("the stream ended as if nothing were left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_every_command_answered_or_certainly_not_applied() {
    for stopping_leader in [true, false] {
        let mut cluster = cluster(3).await;
        let leader = cluster.leader("counter").await;
        wait_for("the leader to be known", || async {
            let known = cluster.describe((leader + 1) % 3, "counter").await?;
            known.summary?.leader.map(drop)
        })
        .await;
        let at = if stopping_leader {
            leader
        } else {
            (leader + 1) % 3
        };
        let node = cluster.nodes[at].take().unwrap();
        let (streamed, ()) = tokio::join!(stream(&cluster, at), async {
            wait_for("commands to be applied", || async {
                let applied = cluster
                    .describe(at, "counter")
                    .await?
                    .summary?
                    .applied_index;
                (applied > 100).then_some(())
            })
            .await;
            let stopped = tokio::time::timeout(LIMIT, node.shutdown()).await;
            assert!(stopped.is_ok(), "it waits for the stream");
        });
        let (applied, end) = streamed;
        let (reason, outcome) = details(&end);
        assert_eq!(outcome, "not_applied", "{reason}: {end:?}");
        cluster.leader("counter").await;
        let other = (at + 1) % 3;
        let counted = query(&mut cluster.client(other), "counter", "get", Linearizable).await;
        assert_eq!(counted.unwrap(), applied.to_string());
        cluster.stop().await;
    }
}
