//! Leader leases where processes are killed and stand still.

use anyhow::{Result, ensure};
use kontiki_proto::v1::Consistency;
use kontiki_tests::session::{Session, counter_on};
use kontiki_tests::{Cluster, ClusterOptions, until};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// What a follower promises: election timeout and clock drift.
const PROMISED: Duration = Duration::from_secs(4);

/// Three nodes with leases on, and a group with something in it.
async fn prepare() -> Result<(Cluster, Session)> {
    let election_timeout = Duration::from_millis(500);
    let drift = PROMISED - election_timeout;
    let settings = [
        "leader_lease=true".to_owned(),
        format!("max_clock_drift={}ms", drift.as_millis()),
    ];
    let flags = settings.map(|setting| ["--set".to_owned(), setting]);
    let cluster = Cluster::start(ClusterOptions {
        election_timeout,
        serve_args: flags.into_iter().flatten().collect(),
        ..ClusterOptions::default()
    })?;
    let mut session = counter_on(&cluster.addresses(), Duration::from_secs(20)).await?;
    session.apply_until("add 1", LIMIT).await?;
    Ok((cluster, session))
}

async fn status(session: &Session, node: usize) -> Result<(String, String)> {
    let there = session.describe(node).await?;
    Ok((there.summary.unwrap_or_default().role, there.lease))
}

/// Waits until the leader's lease is valid, and says who leads.
async fn leaseholder(session: &Session) -> Result<usize> {
    let leader = session.leader(LIMIT).await?;
    until("the lease is valid", LIMIT, async || {
        let (_, lease) = status(session, leader).await?;
        Ok((lease == "valid").then_some(()))
    })
    .await?;
    Ok(leader)
}

/// A follower may owe its leader a lease that it cannot remember: killed and started again it votes
/// for nobody until the longest that it can have promised is over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_that_are_killed_and_started_again_keep_what_they_promised() -> Result<()> {
    let (mut cluster, session) = prepare().await?;
    let leader = leaseholder(&session).await?;
    let followers: Vec<usize> = (0..3).filter(|&node| node != leader).collect();
    cluster.kill_at_once(&followers)?;
    // Both must vote, so the one that was opened last decides.
    let mut opened = Instant::now();
    for &follower in &followers {
        opened = Instant::now();
        cluster.start_node(follower)?;
    }
    cluster.kill_node(leader)?;
    until("another leads", LIMIT, async || {
        for &follower in &followers {
            let (role, _) = status(&session, follower).await?;
            if role == "leader" {
                return Ok(Some(()));
            }
        }
        Ok(None)
    })
    .await?;
    let waited = opened.elapsed();
    ensure!(waited >= PROMISED, "elected after {waited:.1?}");
    Ok(())
}

/// A leader that stood still while its lease ran out, and others went on, answers no read from
/// what it has: neither those that came while it slept nor later ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_slept_past_its_lease_does_not_answer_by_it() -> Result<()> {
    let (cluster, session) = prepare().await?;
    let sleeper = leaseholder(&session).await?;
    let read = session.read(sleeper, "get", Consistency::Lease).await?;
    ensure!(read.answer == "1", "{}", read.answer);
    cluster.signal(sleeper, Signal::SIGSTOP)?;
    let addresses = cluster.addresses();
    let awake: Vec<String> = (0..3)
        .filter(|&node| node != sleeper)
        .map(|node| addresses[node].clone())
        .collect();
    let mut others = Session::new("counter", &awake, Duration::from_secs(2))?;
    others.apply_until("add 1", LIMIT).await?;
    // They wait in the sleeper's sockets.
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let session = Session::new("counter", &addresses, Duration::from_secs(20));
            tokio::spawn(async move { session?.read(sleeper, "get", Consistency::Lease).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.signal(sleeper, Signal::SIGCONT)?;
    let mut answers = Vec::new();
    for read in waiting {
        // A refusal is as good: it says that it does not lead.
        answers.extend(read.await?.ok());
    }
    let later = session.read(sleeper, "get", Consistency::Lease).await;
    answers.extend(later.ok());
    for read in &answers {
        ensure!(read.answer == "2", "a read by lease gave {}", read.answer);
    }
    let now = others.read(0, "get", Consistency::Linearizable).await?;
    ensure!(now.answer == "2", "{}", now.answer);
    Ok(())
}
