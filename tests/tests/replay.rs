//! A node that comes back and has its log to replay: it says so, and nobody waits for it.

mod guest;

use anyhow::{Context as _, Result, ensure};
use kontiki_tests::open_load::{OpenLoad, Paced};
use kontiki_tests::session::{Outcome, Session, create_group};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, readiness, until};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
const PATIENCE: Duration = Duration::from_secs(20);
const RATE: u32 = 50;
/// What n1 spends on the log that it will replay. Time of a processor, not of a clock: so the replay
/// lasts several election timeouts on any machine.
const REPLAY: Duration = Duration::from_secs(3);
/// What `/readyz` says of a replay in the group.
const REPLAYS: &str = "[-] groups_replayed slow: ";

/// Echoes, after ten million steps if the command begins with `s`.
const SLOW: &str = r#"(module
  (import "kontiki:plugin/snapshots@1.0.0" "[resource-drop]writer" (func $drop_writer (param i32)))
  (import "kontiki:plugin/snapshots@1.0.0" "[resource-drop]reader" (func $drop_reader (param i32)))
  (memory (export "memory") 20)
  (global $top (mut i32) (i32.const 65536))
  (data (i32.const 256) "slow") (data (i32.const 264) "1.0.0") (data (i32.const 272) "\01\00\00\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $answer (param $at i32) (param $size i32) (result i32)
    (i32.store8 (i32.const 16) (i32.const 0))
    (i32.store (i32.const 20) (local.get $at)) (i32.store (i32.const 24) (local.get $size))
    (global.set $top (i32.const 65536)) (i32.const 16))
  (func (export "kontiki:plugin/simple-machine@1.0.0#describe") (result i32)
    (i32.store (i32.const 32) (i32.const 256)) (i32.store (i32.const 36) (i32.const 4))
    (i32.store (i32.const 40) (i32.const 264)) (i32.store (i32.const 44) (i32.const 5))
    (i32.store (i32.const 48) (i32.const 1))
    (i32.store (i32.const 52) (i32.const 272)) (i32.store (i32.const 56) (i32.const 1)) (i32.const 32))
  (func (export "kontiki:plugin/simple-machine@1.0.0#apply") (param i32 i32 i64 i64) (result i32)
    (local $left i32)
    (if (i32.eq (i32.load8_u (local.get 0)) (i32.const 115))
      (then (local.set $left (i32.const 10000000))
        (loop $step
          (br_if $step (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
    (call $answer (local.get 0) (local.get 1)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#query") (param i32 i32) (result i32)
    (call $answer (local.get 0) (local.get 1)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#save") (param i32) (result i32)
    (call $drop_writer (local.get 0)) (call $answer (i32.const 0) (i32.const 0)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#load") (param i32) (result i32)
    (call $drop_reader (local.get 0)) (call $answer (i32.const 0) (i32.const 0))))"#;

fn quick(client: usize, sequence: u64) -> String {
    format!("quick {client} {sequence}")
}

/// How long the process has run outside the kernel. Linux counts in hundredths of a second.
fn processor_time(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, after_name) = stat.rsplit_once(')').context("a name")?;
    let ticks = after_name.split_whitespace().nth(11).context("utime")?;
    Ok(Duration::from_millis(10 * ticks.parse::<u64>()?))
}

async fn role(session: &Session, node: usize) -> Result<String> {
    Ok(session
        .describe(node)
        .await?
        .summary
        .unwrap_or_default()
        .role)
}

/// Waits until `node` leads.
async fn leads(session: &Session, node: usize) -> Result<()> {
    until("the preferred node leads", LIMIT, async || {
        let role = role(session, node).await?;
        Ok((role == "leader").then_some(()))
    })
    .await
}

/// Three nodes, and a group that n1 leads by its priority, with a log that takes [`REPLAY`].
async fn prepare() -> Result<(Cluster, Session)> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = Session::new("slow", &cluster.addresses(), PATIENCE)?;
    let operator = Operator::of(&cluster);
    operator.does(&["settings", "set", "--node", "n1", "priority=200"])?;
    create_group(&session, "slow", &guest::component(SLOW)?).await?;
    session.apply_until("quick", LIMIT).await?;
    leads(&session, 0).await?;
    let pid = cluster.pid(0).context("n1 runs")?;
    let (before, deadline) = (processor_time(pid)?, Instant::now() + LIMIT);
    while processor_time(pid)? < before + REPLAY {
        session.apply_until("slow", LIMIT).await?;
        ensure!(Instant::now() < deadline, "too slow to fill the log");
    }
    // Whoever leads next must have applied it.
    check::converged(&session, &[0, 1, 2], LIMIT).await?;
    Ok((cluster, session))
}

/// Looks at n1 from its start until it is ready. Its role is asked first: if it replays after that,
/// it did so while it had that role.
async fn replays_and_follows(session: &Session, pages: &str) -> Result<()> {
    let (mut replayed, deadline) = (false, Instant::now() + LIMIT);
    loop {
        let role = role(session, 0).await.unwrap_or_default();
        if let Ok(said) = readiness(pages) {
            if said.starts_with("HTTP/1.1 200") {
                ensure!(replayed, "n1 was ready before it had replayed");
                return Ok(());
            }
            if said.contains(REPLAYS) {
                replayed = true;
                ensure!(role != "leader", "n1 leads and replays: {said}");
            }
        }
        ensure!(Instant::now() < deadline, "n1 is never ready");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Kills the leader while n1 replays, sees that the third node goes on before n1 has replayed, and
/// says who was killed.
async fn kill_the_leader(cluster: &mut Cluster, session: &Session, pages: &str) -> Result<usize> {
    until("n1 follows and says that it replays", LIMIT, async || {
        let there = session.describe(0).await?.summary.unwrap_or_default();
        let replays = readiness(pages)?.contains(REPLAYS);
        Ok((replays && there.leader.is_some()).then_some(()))
    })
    .await?;
    let leader = session.leader(LIMIT).await?;
    ensure!(leader != 0, "n1 leads before it has replayed");
    cluster.kill_node(leader)?;
    let third = 3 - leader;
    let mut left = Session::new("slow", &cluster.addresses()[third..=third], PATIENCE)?;
    left.apply_until("quick after the kill", LIMIT).await?;
    let said = readiness(pages)?;
    ensure!(said.contains(REPLAYS), "they waited for n1: {said}");
    let line = said.lines().find(|line| line.starts_with(REPLAYS));
    eprintln!("acknowledged meanwhile: {}", line.unwrap_or_default());
    Ok(leader)
}

/// What was acknowledged stands in n1's log, and was answered as the plugin answers.
async fn nothing_is_lost(session: &Session, all: &[Paced]) -> Result<()> {
    let replicas = check::converged(session, &[0, 1, 2], LIMIT).await?;
    let hash = &replicas[0].outcome_hash;
    ensure!(replicas.iter().all(|it| it.outcome_hash == *hash));
    let log: BTreeMap<_, _> = session
        .log(0)
        .await?
        .into_iter()
        .map(|entry| (entry.id.unwrap_or_default().index, entry.command))
        .collect();
    for Paced { record, .. } in all {
        if let Outcome::Applied { index, answer } = &record.outcome {
            ensure!(answer.as_ref() == Ok(&record.command), "{record:?}");
            let there = log.get(index).context("not in the log")?;
            ensure!(*there == record.command.as_bytes(), "{record:?}: {there:?}");
        }
    }
    Ok(())
}

/// A member that replays is not ready and leads nobody, however much it is preferred; the others do
/// not wait for it, also if one of them dies meanwhile. Afterwards it takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preferred_member_that_replays_holds_nobody_up() -> Result<()> {
    let (mut cluster, session) = prepare().await?;
    let load = OpenLoad::start("slow", &cluster.addresses(), RATE, PATIENCE, quick)?;
    load.wait_for(20, LIMIT).await?;
    cluster.stop_node(0, LIMIT)?;
    load.wait_for(20, LIMIT).await?;

    cluster.start_node(0)?;
    let pages = cluster.nodes()[0].http_address.clone();
    let (killed, ()) = tokio::try_join!(
        kill_the_leader(&mut cluster, &session, &pages),
        replays_and_follows(&session, &pages),
    )?;
    leads(&session, 0).await?;
    cluster.start_node(killed)?;
    load.wait_for(20, LIMIT).await?;
    nothing_is_lost(&session, &load.stop()?).await
}
