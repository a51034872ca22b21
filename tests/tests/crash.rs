//! Acknowledged commands survive the death of processes.

use anyhow::Result;
use kontiki_tests::load::{self, Load, Record};
use kontiki_tests::model::Model;
use kontiki_tests::session::counter_on;
use kontiki_tests::{Cluster, ClusterOptions, check};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Rounds of each test; `KONTIKI_CRASH_ROUNDS` asks for more.
fn rounds(default: usize) -> usize {
    let rounds = std::env::var("KONTIKI_CRASH_ROUNDS").ok();
    rounds.map_or(default, |text| {
        text.parse().expect("KONTIKI_CRASH_ROUNDS is a number")
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_killed_at_once_lose_nothing_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let session = counter_on(&cluster.addresses(), LIMIT).await?;
    // One load runs through all the rounds: its clients live on while the nodes die under them.
    let load = Load::start("counter", &cluster.addresses(), 8, load::counter_commands)?;
    for round in 0..rounds(6) {
        load.wait_for(300, LIMIT).await?;
        // Not always at the same point of the nodes' work.
        tokio::time::sleep(Duration::from_millis(7 * round as u64)).await;
        cluster.kill_all()?;
        for node in 0..3 {
            cluster.start_node(node)?;
        }
    }
    load.wait_for(300, LIMIT).await?;
    let records: Vec<Record> = load.stop().await?;
    let report = check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;
    assert!(report.acknowledged >= 300, "{report:?}");
    eprintln!("{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_killed_one_after_another_lose_nothing_acknowledged() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let session = counter_on(&cluster.addresses(), LIMIT).await?;
    let load = Load::start("counter", &cluster.addresses(), 8, load::counter_commands)?;
    for _ in 0..rounds(4) {
        load.wait_for(300, LIMIT).await?;
        let leader = session.leader(LIMIT).await?;
        cluster.kill_node(leader)?;
        load.wait_for(100, LIMIT).await?;
        cluster.start_node(leader)?;
    }
    load.wait_for(300, LIMIT).await?;
    let records = load.stop().await?;
    let report = check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;
    assert!(report.acknowledged >= 300, "{report:?}");
    Ok(())
}
