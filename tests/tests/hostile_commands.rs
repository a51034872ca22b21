//! One command, one consequence: what a plugin makes of a command or a query concerns whoever sent
//! it, on every replica alike, and nobody else.

mod guest;

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::Consistency;
use kontiki_raft::{EntryKind, GroupId, IoId, LogIndex, Persist};
use kontiki_tests::load::Load;
use kontiki_tests::{Cluster, ClusterOptions, Operator, Outcome, Session, cluster, session};
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// By its first byte, `apply` answers with 2 MiB (`b`), rejects with 1.1 MB of control characters
/// (`r`), or echoes. `query` traps in a function whose name stands for 164 MB of text and orders to a
/// terminal (`x`), loops (`l`), takes memory and keeps it (`g`), or echoes.
const HOSTILE: &str = r#"(module
  (import "kontiki:plugin/snapshots@1.0.0" "[resource-drop]writer" (func $drop_writer (param i32)))
  (import "kontiki:plugin/snapshots@1.0.0" "[resource-drop]reader" (func $drop_reader (param i32)))
  (memory (export "memory") 80)
  (global $top (mut i32) (i32.const 65536))
  (data (i32.const 256) "hostile") (data (i32.const 264) "1.0.0") (data (i32.const 272) "\01\00\00\00")
  (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $top) (i32.const 15)) (i32.const -16)))
    (global.set $top (i32.add (local.get $at) (local.get 3)))
    (local.get $at))
  (func $answer (param $tag i32) (param $at i32) (param $size i32) (result i32)
    (i32.store8 (i32.const 16) (local.get $tag))
    (i32.store (i32.const 20) (local.get $at)) (i32.store (i32.const 24) (local.get $size))
    (global.set $top (i32.const 65536)) (i32.const 16))
  (func $trap (@name "_Z1f1AIiENAMES") (result i32) (call $ordering))
  (func $ordering (@name "\1b[2J\nERROR forged") (result i32) unreachable)
  (func $is (param $at i32) (param $letter i32) (result i32)
    (i32.eq (i32.load8_u (local.get $at)) (local.get $letter)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#describe") (result i32)
    (i32.store (i32.const 32) (i32.const 256)) (i32.store (i32.const 36) (i32.const 7))
    (i32.store (i32.const 40) (i32.const 264)) (i32.store (i32.const 44) (i32.const 5))
    (i32.store (i32.const 48) (i32.const 1))
    (i32.store (i32.const 52) (i32.const 272)) (i32.store (i32.const 56) (i32.const 1)) (i32.const 32))
  (func (export "kontiki:plugin/simple-machine@1.0.0#apply") (param i32 i32 i64 i64) (result i32)
    (if (call $is (local.get 0) (i32.const 98))
      (then (return (call $answer (i32.const 0) (i32.const 1048576) (i32.const 2097152)))))
    (if (call $is (local.get 0) (i32.const 114))
      (then (memory.fill (i32.const 1048576) (i32.const 1) (i32.const 1100000))
        (return (call $answer (i32.const 1) (i32.const 1048576) (i32.const 1100000)))))
    (call $answer (i32.const 0) (local.get 0) (local.get 1)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#query") (param i32 i32) (result i32)
    (if (call $is (local.get 0) (i32.const 120)) (then (return (call $trap))))
    (if (call $is (local.get 0) (i32.const 108)) (then (loop $l (br $l)) (unreachable)))
    (if (call $is (local.get 0) (i32.const 103)) (then (drop (memory.grow (i32.const 512)))))
    (call $answer (i32.const 0) (local.get 0) (local.get 1)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#save") (param i32) (result i32)
    (call $drop_writer (local.get 0)) (call $answer (i32.const 0) (i32.const 0) (i32.const 0)))
  (func (export "kontiki:plugin/simple-machine@1.0.0#load") (param i32) (result i32)
    (call $drop_reader (local.get 0)) (call $answer (i32.const 0) (i32.const 0) (i32.const 0))))"#;

/// The component of [`HOSTILE`].
fn hostile() -> Result<Vec<u8>> {
    let reference = |n: usize| match n {
        0 => "S_".to_owned(),
        n => format!("S{}_", char::from(b"0123456789ABCDEFGHIJ"[n - 1])),
    };
    let levels = (1..=8).map(|level| format!("S_I{}E", reference(level).repeat(8)));
    guest::component(&HOSTILE.replace("NAMES", &levels.collect::<String>()))
}

async fn hostile_cluster(nodes: usize) -> Result<(Cluster, Session)> {
    let cluster = Cluster::start(ClusterOptions {
        nodes,
        ..ClusterOptions::default()
    })?;
    let session = Session::new("hostile", &cluster.addresses(), Duration::from_secs(10))?;
    session::create_group(&session, "hostile", &hostile()?).await?;
    session.leader(LIMIT).await?;
    Ok((cluster, session))
}

/// Waits until every node has applied the same log, and asserts that all have answered alike.
async fn replicas_agree(session: &Session, nodes: usize) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    loop {
        let mut seen = Vec::new();
        for index in 0..nodes {
            if let Ok(it) = session.describe(index).await {
                let summary = it.summary.unwrap_or_default();
                seen.push((summary.applied_index, summary.commit_index, it.outcome_hash));
            }
        }
        let (first, all) = (seen.first().cloned(), seen.len() == nodes);
        if all
            && seen.iter().all(|(applied, ..)| {
                first
                    .as_ref()
                    .is_some_and(|f| f.0 == *applied && f.1 == *applied)
            })
        {
            ensure!(
                seen.iter().all(|one| Some(one) == first.as_ref()),
                "{seen:?}"
            );
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "never at one index: {seen:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn mixed(client: usize, sequence: u64) -> String {
    let kind = ["b", "r", "plain"][(sequence % 3) as usize];
    format!("{kind} {client} {sequence}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_are_too_long_concern_their_own_commands_while_leaders_die() -> Result<()> {
    let (mut cluster, session) = hostile_cluster(3).await?;
    let load = Load::start("hostile", &cluster.addresses(), 3, mixed)?;
    for _ in 0..2 {
        let before = session.describe(0).await?.summary.unwrap_or_default();
        let deadline = Instant::now() + LIMIT;
        loop {
            for index in 0..3 {
                // Whatever becomes of them, and of whom they are asked.
                let _ = session.read(index, "x", Consistency::Stale).await;
            }
            let now = session.describe(0).await.ok().and_then(|it| it.summary);
            if now.is_some_and(|now| now.applied_index > before.applied_index + 20) {
                break;
            }
            ensure!(Instant::now() < deadline, "the group stands still");
        }
        let leader = session.leader(LIMIT).await?;
        cluster.kill_node(leader)?;
        cluster.start_node(leader)?;
        session.leader(LIMIT).await?;
    }
    let mut kinds = [0; 3];
    for record in load.stop().await? {
        match record.outcome {
            Outcome::Applied { answer, .. } => match record.command.chars().next() {
                Some('p') => {
                    kinds[2] += 1;
                    ensure!(answer.as_ref() == Ok(&record.command), "{answer:?}");
                }
                letter => {
                    kinds[usize::from(letter == Some('r'))] += 1;
                    let reason = answer.err().context("an answer that is too long")?;
                    ensure!(reason.starts_with("ANSWER_TOO_LARGE: "), "{reason}");
                }
            },
            Outcome::NotApplied { reason } | Outcome::Unknown { reason } => {
                ensure!(
                    !reason.contains("PLUGIN_FAULT"),
                    "{}: {reason}",
                    record.command
                );
            }
        }
    }
    ensure!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
    replicas_agree(&session, 3).await?;
    let operator = Operator::of(&cluster);
    operator.does(&["wait", "--nodes", "3", "--timeout", "60s"])?;
    operator.does(&["status"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_command_to_the_counter_is_rejected_in_few_words() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = Session::new("counter", &cluster.addresses(), Duration::from_secs(10))?;
    let component = std::fs::read(cluster::component("counter")?)?;
    session::create_group(&session, "counter", &component).await?;
    session.leader(LIMIT).await?;
    let long = "\u{1}".repeat(220_000);
    let rejected = session
        .apply_until(&long, LIMIT)
        .await
        .expect_err("it is no command");
    let said = rejected.to_string();
    ensure!(
        said.starts_with("rejected: ") && said.len() < 1_000,
        "{said}"
    );
    ensure!(session.apply_until("add 1", LIMIT).await? == "0");
    replicas_agree(&session, 3).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_that_trap_loop_or_grow_cost_no_command() -> Result<()> {
    let (cluster, mut session) = hostile_cluster(1).await?;
    session.apply_until("plain", LIMIT).await?;
    // The text of the trap arrives, and orders nothing.
    let operator = Operator::of(&cluster);
    let output = operator.types(&["query", "hostile", "x"])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(9), "{said}");
    ensure!(
        said.contains("PLUGIN_FAULT") && said.contains("unreachable"),
        "{said}"
    );
    ensure!(!said.contains('\u{1b}') && said.len() < 20_000, "{said:?}");
    ensure!(!said.contains("\nERROR"), "{said}");
    // Loops stand in front of each other, but not in front of a command.
    let (reader, mut loops) = (session.clone(), tokio::task::JoinSet::new());
    for _ in 0..20 {
        let reader = reader.clone();
        loops.spawn(async move {
            reader
                .read(0, "l", Consistency::Linearizable)
                .await
                .is_err()
        });
    }
    for n in 0..20 {
        session.apply_until(&format!("plain {n}"), LIMIT).await?;
    }
    let mut failed = 0;
    while let Some(done) = loops.join_next().await {
        failed += usize::from(done?);
    }
    ensure!(failed == 20, "{failed} of 20 loops failed");
    // Each takes 32 MiB for good, and the limit is 1 GiB.
    let patient = Session::new("hostile", &cluster.addresses(), LIMIT)?;
    for _ in 0..50 {
        let read = patient.read(0, "g", Consistency::Linearizable).await?;
        ensure!(read.answer == "g");
    }
    ensure!(session.apply_until("plain end", LIMIT).await? == "plain end");
    Ok(())
}

/// Changes the payload of the first command in the log of a node that does not run, as a disk or a
/// memory that lies would, and no checksum notices.
fn falsify(data_directory: &Path) -> Result<()> {
    let path = data_directory.join("db");
    let uri = format!("rocksdb://{}", path.display()).parse()?;
    let storage = kontiki_storage::open(&uri, &kontiki_storage::Options::default())?;
    let group = storage.groups()?.first().context("a group")?.id;
    let mut entries = Vec::new();
    for index in 1.. {
        match storage.entries(group, LogIndex(index), LogIndex(index), 1 << 20) {
            Ok(found) => entries.extend(found),
            Err(_) => break,
        }
    }
    let is_command = |entry: &kontiki_raft::Entry| matches!(entry.kind, EntryKind::Command(_));
    let first = entries.iter().position(is_command).context("a command")?;
    let mut changed = entries.split_off(first);
    changed[0].kind = EntryKind::Command("add 1000".into());
    write(&*storage, group, changed)
}

fn write(
    storage: &dyn kontiki_storage::Storage,
    group: GroupId,
    entries: Vec<kontiki_raft::Entry>,
) -> Result<()> {
    let last = entries.last().context("an entry")?.id;
    let write = Persist {
        io: IoId {
            sequence: 1,
            leader_term: last.term,
            last_index: last.index,
        },
        truncate_from: entries.first().map(|entry| entry.id.index),
        entries,
        ..Persist::default()
    };
    let (sender, done) = channel();
    storage.persist(
        group,
        write,
        Box::new(move |result| drop(sender.send(result))),
    );
    done.recv_timeout(LIMIT)??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_has_diverged_is_shown() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = Session::new("counter", &cluster.addresses(), Duration::from_secs(10))?;
    let component = std::fs::read(cluster::component("counter")?)?;
    session::create_group(&session, "counter", &component).await?;
    session.leader(LIMIT).await?;
    for _ in 0..3 {
        session.apply_until("add 1", LIMIT).await?;
    }
    replicas_agree(&session, 3).await?;
    let leader = session.leader(LIMIT).await?;
    let odd = (leader + 1) % 3;
    cluster.stop_node(odd, LIMIT)?;
    falsify(&cluster.nodes()[odd].data_directory)?;
    cluster.start_node(odd)?;
    let operator = Operator::of(&cluster);
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = operator.types(&["status"])?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.code() == Some(5) && said.contains("diverged") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not shown: {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
