//! What a group does with and without a majority.

use anyhow::{Result, ensure};
use kontiki_proto::v1::Consistency;
use kontiki_tests::session::{Outcome, Session, counter_on};
use kontiki_tests::{Cluster, ClusterOptions};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_node_alone_is_a_group_of_one() -> Result<()> {
    let options = ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::start(options)?;
    let mut session = counter_on(&cluster.addresses(), Duration::from_secs(5)).await?;
    assert_eq!(session.apply_until("add 5", LIMIT).await?, "0");
    assert_eq!(session.query("get", Consistency::Linearizable).await?, "5");
    cluster.kill_node(0)?;
    cluster.start_node(0)?;
    session.leader(LIMIT).await?;
    assert_eq!(session.apply_until("add 1", LIMIT).await?, "5");
    let status = cluster.stop_node(0, Duration::from_secs(20))?;
    assert_eq!(status.code(), Some(0), "SIGTERM drains and exits 0");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_are_refused_in_time_and_later_resume() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = counter_on(&cluster.addresses(), Duration::from_secs(5)).await?;
    session.apply_until("add 1", LIMIT).await?;
    let survivor = session.leader(LIMIT).await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != survivor).collect();
    for &node in &others {
        cluster.kill_node(node)?;
    }
    let address = cluster.nodes()[survivor].address.clone();
    let mut alone = Session::new("counter", &[address], Duration::from_secs(2))?;
    // The first may still have been appended: unknown. Once the leader has noticed, it says so.
    let deadline = Instant::now() + LIMIT;
    loop {
        let begin = Instant::now();
        let outcome = alone.apply("add 1000").await;
        ensure!(
            begin.elapsed() < Duration::from_secs(4),
            "no answer within the deadline"
        );
        match outcome {
            Outcome::Applied { .. } => panic!("a minority acknowledged a write: {outcome:?}"),
            Outcome::NotApplied { reason } => {
                assert!(
                    ["NO_LEADER", "NOT_LEADER"].contains(&reason.as_str()),
                    "{reason}"
                );
                break;
            }
            Outcome::Unknown { .. } => ensure!(Instant::now() < deadline, "never said no"),
        }
    }
    assert!(
        alone.query("get", Consistency::Linearizable).await.is_err(),
        "a stale answer"
    );
    let stale = alone.query("get", Consistency::Stale).await?;
    assert_eq!(stale, "1", "a stale read needs no majority");
    for &node in &others {
        cluster.start_node(node)?;
    }
    session.leader(LIMIT).await?;
    session.apply_until("add 1", LIMIT).await?;
    Ok(())
}

/// A leader that nobody can succeed takes its time at SIGTERM. Whoever does not want to wait signals
/// again: the process ends at once, in the middle of its work, with the code of that signal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_a_node_that_waits_to_hand_over() -> Result<()> {
    for (second, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let mut cluster = Cluster::start(ClusterOptions {
            election_timeout: Duration::from_secs(5),
            ..ClusterOptions::default()
        })?;
        let mut session = counter_on(&cluster.addresses(), Duration::from_secs(5)).await?;
        session.apply_until("add 1", LIMIT).await?;
        let leader = session.leader(LIMIT).await?;
        let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
        cluster.kill_at_once(&others)?;
        cluster.signal(leader, Signal::SIGTERM)?;
        std::thread::sleep(Duration::from_millis(500));
        let ended = cluster.wait_for_end(leader, Duration::ZERO);
        ensure!(ended.is_err(), "it had nothing to wait for: {ended:?}");
        cluster.signal(leader, second)?;
        let status = cluster.wait_for_end(leader, Duration::from_secs(1))?;
        assert_eq!(status.code(), Some(code), "{status}");
        for node in 0..3 {
            cluster.start_node(node)?;
        }
        assert_eq!(session.apply_until("add 1", LIMIT).await?, "1");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_leader_never_answers_stale() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = counter_on(&cluster.addresses(), Duration::from_secs(5)).await?;
    session.apply_until("add 1", LIMIT).await?;
    let paused = session.leader(LIMIT).await?;
    cluster.signal(paused, Signal::SIGSTOP)?;
    let rest: Vec<String> = (0..3)
        .filter(|node| *node != paused)
        .map(|n| cluster.nodes()[n].address.clone())
        .collect();
    let mut others = Session::new("counter", &rest, Duration::from_secs(2))?;
    others.leader(LIMIT).await?;
    others.apply_until("add 1", LIMIT).await?;
    cluster.signal(paused, Signal::SIGCONT)?;
    // Asked at once, while it may still believe that it leads.
    let old = cluster.nodes()[paused].address.clone();
    let mut old = Session::new("counter", &[old], Duration::from_secs(10))?;
    let deadline = Instant::now() + LIMIT;
    loop {
        match old.query("get", Consistency::Linearizable).await {
            Ok(answer) => {
                assert_eq!(answer, "2", "the paused leader answered from its old state");
                return Ok(());
            }
            Err(error) => ensure!(Instant::now() < deadline, "it never answered: {error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
