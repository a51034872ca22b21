//! A link that carries packets one way only, between hosts of our own (needs root).

use anyhow::Result;
use kontiki_tests::session::{self, Session};
use kontiki_tests::{Cluster, ClusterOptions, Network, cluster};
use std::sync::Arc;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// How long the link stays cut; the claim is for 60 s.
fn cut_time() -> Duration {
    let seconds = std::env::var("KONTIKI_CUT_SECONDS").ok();
    Duration::from_secs(seconds.map_or(60, |text| text.parse().expect("a number of seconds")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_loss_changes_neither_leader_nor_term() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not run: making network namespaces needs root");
        return Ok(());
    }
    let network = Arc::new(Network::new(3)?);
    let options = ClusterOptions {
        network: Some(Arc::clone(&network)),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::start(options)?;
    let mut session = Session::new("counter", &cluster.addresses(), Duration::from_secs(5))?;
    let component = std::fs::read(cluster::component("counter")?)?;
    session::create_group(&session, "counter", &component).await?;
    let leader = session.leader(LIMIT).await?;
    let follower = (leader + 1) % 3;
    session.apply_until("add 1", LIMIT).await?;

    network.cut(leader + 1, follower + 1)?;
    // "After the first": one change may be on its way when the link is cut.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let leader = session.leader(LIMIT).await?;
    let term = session
        .describe(leader)
        .await?
        .summary
        .unwrap_or_default()
        .term;
    let end = Instant::now() + cut_time();
    let mut commands = 0;
    while Instant::now() < end {
        session.apply_until("add 1", Duration::from_secs(5)).await?;
        commands += 1;
        let summary = session.describe(leader).await?.summary.unwrap_or_default();
        assert_eq!(
            (summary.role.as_str(), summary.term),
            ("leader", term),
            "leadership moved"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    network.heal(follower + 1)?;
    assert!(commands > 100, "only {commands} commands were served");
    let all = [0, 1, 2];
    kontiki_tests::check::converged(&session, &all, LIMIT).await?;
    let summary = session.describe(leader).await?.summary.unwrap_or_default();
    assert_eq!(summary.term, term, "the returning follower raised the term");
    Ok(())
}
