//! Links that are slow but move bytes, and links that do not.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use std::time::Duration;
use support::narrow::Narrow;
use support::{Cluster, Data, wait_for};
use tonic::Request;

const RATE: u32 = 600 << 10;
const LARGE: usize = 3 << 20;
const LARGE_COMMANDS: u32 = 3;

/// Three nodes that reach each other only by narrow ways.
async fn behind_narrow_ways() -> (Cluster, Vec<Narrow>) {
    let mut cluster = Cluster::prepare(3, Data::Memory);
    let ways: Vec<_> = cluster
        .addresses()
        .iter()
        .map(|address| Narrow::open(address, RATE))
        .collect();
    for index in 0..3 {
        let options = cluster.options(index);
        options.peer_advertise = Some(ways[index].address.clone());
        options.election_timeout = Some("1s".into());
        let others = (0..3).filter(|other| *other != index);
        options.peers = others
            .map(|other| format!("n{}={}", other + 1, ways[other].address))
            .collect();
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    (cluster, ways)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_commands_reach_slow_followers_and_the_leader_stays() {
    let (cluster, _ways) = behind_narrow_ways().await;
    cluster.create_group("counter", "native:counter").await;
    let leader = cluster.leader("counter").await;
    let term = cluster.describe(leader, "counter").await.unwrap().summary;
    let term = term.unwrap().term;
    let apply = |size: usize| {
        let mut request = Request::new(v1::ApplyRequest {
            group: "counter".into(),
            command: format!("add {}1", "0".repeat(size)).into(),
            ..Default::default()
        });
        request.set_timeout(Duration::from_secs(100));
        let mut client = cluster.client(leader);
        async move { client.apply(request).await }
    };
    // Each takes longer to get there than any link may be silent.
    let large = futures_util::future::join_all((0..LARGE_COMMANDS).map(|_| apply(LARGE)));
    for answered in large.await {
        answered.unwrap();
    }
    let answered = apply(1).await.unwrap().into_inner();
    assert_eq!(answered.position.unwrap().term, term);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_behind_a_dead_link_is_found_out() {
    let (cluster, ways) = behind_narrow_ways().await;
    ways[2].block();
    wait_for("the link to end", || async {
        let request = v1::GetNodeRequest {};
        let known = cluster.admin(0).get_node(request).await.ok()?.into_inner();
        let is_up = |peer: &v1::PeerInfo| {
            peer.connected && peer.node.as_ref().is_some_and(|node| node.name == "n3")
        };
        (!known.peers.iter().any(is_up)).then_some(())
    })
    .await;
}
