//! Two processes with one node's identity, while commands flow: the copy never counts as the node,
//! whatever is killed and restarted beside it, and nothing acknowledged is lost.

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::{GetNodeReply, GetNodeRequest, PeerInfo};
use kontiki_tests::copy::Copy;
use kontiki_tests::load::{self, Load};
use kontiki_tests::model::Model;
use kontiki_tests::session::{Outcome, Session, counter_on};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, until};
use nix::sys::signal::Signal;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const CLIENTS: usize = 8;

async fn report(session: &Session, node: usize) -> Result<GetNodeReply> {
    let answer = session.admin(node).get_node(GetNodeRequest {}).await?;
    Ok(answer.into_inner())
}

/// What node `node` has of n2.
async fn second(session: &Session, node: usize) -> Result<PeerInfo> {
    let peers = report(session, node).await?.peers.into_iter();
    let mut named = peers.filter(|peer| peer.node.as_ref().is_some_and(|it| it.name == "n2"));
    named.next().context("n2 is not known")
}

/// n1 and n3 know n2 where the original is, and nowhere else.
async fn knows_the_original(session: &Session, original: &str) -> Result<()> {
    for node in [0, 2] {
        let there = second(session, node).await?.node.unwrap_or_default();
        ensure!(
            there.peer_address == original,
            "n2 is at {}",
            there.peer_address
        );
    }
    Ok(())
}

/// The copy knows that it is one, says so, and serves nobody.
async fn stands_aside(copy: &Copy) -> Result<()> {
    let mut there = Session::new("counter", std::slice::from_ref(&copy.address), PATIENCE)?;
    until("the copy stands aside", LIMIT, async || {
        let said = report(&there, 0).await?;
        ensure!(said.node.is_some_and(|node| node.set_aside), "it does not");
        Ok(Some(()))
    })
    .await?;
    let answer = there.apply("add 1").await;
    let refused =
        matches!(&answer, Outcome::NotApplied { .. }) && answer.reason() == Some("DUPLICATE_NODE");
    ensure!(refused, "{answer:?}");
    let ready = copy.readiness()?;
    ensure!(
        ready.starts_with("HTTP/1.1 503") && ready.contains("[-] only_process_of_node"),
        "{ready}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_voter_never_counts_as_it() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let addresses = cluster.addresses();
    let session = counter_on(&addresses, PATIENCE).await?;
    let original = cluster.nodes()[1].address.clone();
    let load = Load::start("counter", &addresses, CLIENTS, load::counter_commands)?;
    load.wait_for(200, LIMIT).await?;

    // Beside the running original.
    let mut copy = Copy::start(&cluster, 1)?;
    stands_aside(&copy).await?;
    let operator = Operator::of(&cluster);
    until("both addresses are shown", LIMIT, async || {
        let shown = operator.types(&["node", "list"])?;
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let named = shown.contains(&copy.address) && shown.contains(&original);
        ensure!(named, "{shown}");
        Ok(Some(()))
    })
    .await?;
    load.wait_for(100, LIMIT).await?;

    // While the original is away, and when it comes back.
    cluster.kill_node(1)?;
    load.wait_for(200, LIMIT).await?;
    knows_the_original(&session, &original).await?;
    ensure!(!second(&session, 0).await?.connected, "the copy is n2");
    cluster.start_node(1)?;
    let acknowledged = load.acknowledged();
    until("the original has caught up", LIMIT, async || {
        let there = session.describe(1).await?.summary.unwrap_or_default();
        Ok((there.applied_index >= acknowledged).then_some(()))
    })
    .await?;

    // While the leader changes.
    let leader = session.leader(LIMIT).await?;
    cluster.kill_node(leader)?;
    load.wait_for(100, LIMIT).await?;
    cluster.start_node(leader)?;
    load.wait_for(100, LIMIT).await?;

    // Another process on the same copy.
    copy.kill()?;
    copy.run()?;
    stands_aside(&copy).await?;
    load.wait_for(100, LIMIT).await?;

    // Yet another, while the original is paused: whether it has moved cannot be told, so it waits.
    cluster.signal(1, Signal::SIGSTOP)?;
    copy.kill()?;
    copy.run()?;
    let there = Session::new("counter", std::slice::from_ref(&copy.address), PATIENCE)?;
    until("the copy is told to wait", LIMIT, async || {
        let said = report(&there, 0).await?;
        let refusals: Vec<_> = said.peers.into_iter().map(|peer| peer.error).collect();
        let waits = |text: &String| {
            text.contains("has not ended yet") || text.contains("does not say who it is")
        };
        ensure!(refusals.iter().any(waits), "{refusals:?}");
        Ok(Some(()))
    })
    .await?;
    knows_the_original(&session, &original).await?;
    cluster.signal(1, Signal::SIGCONT)?;
    stands_aside(&copy).await?;
    load.wait_for(100, LIMIT).await?;

    // Without the copy: the original has been there all the time.
    copy.kill()?;
    load.wait_for(100, LIMIT).await?;
    for node in [0, 2] {
        until("n2 is connected", LIMIT, async || {
            let there = second(&session, node).await?;
            ensure!(there.connected, "{}", there.error);
            Ok(Some(()))
        })
        .await?;
    }
    knows_the_original(&session, &original).await?;
    let records = load.stop().await?;
    let report = check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;
    eprintln!("{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_original_is_gone_is_the_node() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let session = counter_on(&cluster.addresses(), PATIENCE).await?;
    let mut client = session.clone();
    client.apply_until("add 1", LIMIT).await?;
    check::converged(&session, &[0, 1, 2], LIMIT).await?;
    cluster.kill_node(1)?;
    let copy = Copy::start(&cluster, 1)?;
    for node in [0, 2] {
        until("the copy is n2", LIMIT, async || {
            let there = second(&session, node).await?;
            let at = there.node.unwrap_or_default().peer_address;
            ensure!(
                there.connected && at == copy.address,
                "{at}: {}",
                there.error
            );
            Ok(Some(()))
        })
        .await?;
    }
    client.apply_until("add 1", LIMIT).await?;
    let mut addresses = cluster.addresses();
    addresses[1].clone_from(&copy.address);
    let moved = Session::new("counter", &addresses, PATIENCE)?;
    check::converged(&moved, &[0, 1, 2], LIMIT).await?;

    // The first stays: it is the original now that is one too many.
    cluster.start_node(1)?;
    let late = Session::new("counter", &cluster.addresses()[1..2], PATIENCE)?;
    until("the original stands aside", LIMIT, async || {
        let said = report(&late, 0).await?;
        ensure!(said.node.is_some_and(|node| node.set_aside), "it does not");
        Ok(Some(()))
    })
    .await?;
    client.apply_until("add 1", LIMIT).await?;
    check::converged(&moved, &[0, 1, 2], LIMIT).await?;
    Ok(())
}
