//! A majority that was given up comes back after `kontiki recover`, with its data: it serves nobody,
//! is named on both sides, and takes nothing from the recovered group.

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::Consistency;
use kontiki_tests::load;
use kontiki_tests::model::Model;
use kontiki_tests::open_load::{OpenLoad, Paced};
use kontiki_tests::session::{Outcome, Session};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, until};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(5);
const RATE: u32 = 200;
const SURVIVORS: [usize; 2] = [3, 4];
const VICTIMS: [usize; 3] = [0, 1, 2];

struct Scene {
    cluster: Cluster,
    load: OpenLoad,
    /// All nodes, in order.
    all: Session,
    /// An operator who knows the survivors only.
    operator: Operator,
}

impl Scene {
    /// Five nodes under load, of which the first three die.
    async fn lost_majority() -> Result<(Self, Instant)> {
        let mut cluster = Cluster::start(ClusterOptions {
            nodes: 5,
            ..ClusterOptions::default()
        })?;
        let addresses = cluster.addresses();
        let names = ["n1", "n2", "n3", "n4", "n5"];
        let operator = Operator::of(&cluster);
        operator.creates_counter("counter", &names).await?;
        let all = Session::new("counter", &addresses, ANSWER)?;
        all.leader(LIMIT).await?;
        let commands = load::counter_commands;
        let load = OpenLoad::start("counter", &addresses, RATE, ANSWER, commands)?;
        load.wait_for(u64::from(RATE), LIMIT).await?;
        let died = Instant::now();
        cluster.kill_at_once(&VICTIMS)?;
        let scene = Self {
            operator: Operator::at(&addresses[3..]),
            cluster,
            load,
            all,
        };
        Ok((scene, died))
    }

    /// Recovers the survivors, which die at every step of it; gives the last index of their log.
    async fn recover(&mut self) -> Result<u64> {
        let (victim, _) = self.dies_at("recover.begun").await?;
        self.cluster.start_node(victim)?;
        // Nothing has happened yet, so nothing goes on by itself.
        let (victim, last) = self.dies_at("recover.epoch_kept").await?;
        let other = SURVIVORS[0] + SURVIVORS[1] - victim;
        self.restart(other, "recover.gone_over")?;
        // What was begun is carried out without another order.
        self.cluster.start_node(victim)?;
        self.cluster.wait_for_end(other, LIMIT)?;
        self.cluster.start_node(other)?;
        self.load.wait_for(u64::from(RATE), LIMIT).await?;
        Ok(last)
    }

    fn restart(&mut self, node: usize, failpoint: &str) -> Result<()> {
        self.cluster.kill_node(node)?;
        let environment = [("KONTIKI_FAILPOINT", failpoint)];
        self.cluster.start_node_with(node, &environment)
    }

    /// Orders the recovery; the node that it begins on dies there. Which that is, and where its log
    /// ends.
    async fn dies_at(&mut self, failpoint: &str) -> Result<(usize, u64)> {
        for survivor in SURVIVORS {
            self.restart(survivor, failpoint)?;
        }
        let rehearse = ["recover", "counter", "--survivors", "n4,n5"];
        let plan = until("it can be recovered", LIMIT, async || {
            self.operator.reads(&rehearse).map(Some)
        })
        .await?;
        let through = plan["through"].as_str().context("through")?;
        let victim = if through.starts_with("n4") { 3 } else { 4 };
        let confirmed = [&rehearse[..], &["--confirm", "counter"]].concat();
        let output = self.operator.types(&confirmed)?;
        ensure!(!output.status.success(), "it did not die at {failpoint}");
        self.cluster.wait_for_end(victim, LIMIT)?;
        let last = plan["last"]["index"].as_u64().context("a last index")?;
        Ok((victim, last))
    }

    /// Waits until the replica on `node` knows that it was left behind; meanwhile nobody is answered
    /// with another history.
    async fn is_left_behind(&self, node: usize) -> Result<()> {
        until("it knows that it was left behind", LIMIT, async || {
            let there = self.all.describe(node).await?;
            let summary = there.summary.unwrap_or_default();
            ensure!(summary.left_behind, "{summary:?}");
            ensure!(
                summary.problems[0].contains("left behind in epoch 0"),
                "{summary:?}"
            );
            Ok(Some(()))
        })
        .await?;
        for consistency in [Consistency::Stale, Consistency::Linearizable] {
            let refused = self.all.read(node, "get", consistency).await;
            let refused = refused.err().context("it answers")?.to_string();
            ensure!(refused.contains("recovered as epoch 1"), "{refused}");
        }
        Ok(())
    }

    fn status_names(&self, part: &str) -> Result<()> {
        let output = self.operator.types(&["status", "-o", "json"])?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.code() == Some(5), "{}", output.status);
        ensure!(said.contains(part), "no {part:?} in {said}");
        Ok(())
    }
}

/// What was acknowledged by the old majority beyond the survivors' log is lost, as was said.
fn after_recovery(all: Vec<Paced>, last: u64, died: Instant) -> Vec<kontiki_tests::load::Record> {
    let mut records: Vec<_> = all.into_iter().map(|paced| paced.record).collect();
    for record in &mut records {
        if let Outcome::Applied { index, .. } = record.outcome
            && index > last
            && record.begin < died
        {
            let reason = "its index was lost".to_owned();
            record.outcome = Outcome::Unknown { reason };
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_that_comes_back_after_a_recovery_serves_nobody_and_is_named() -> Result<()> {
    let (mut scene, died) = Scene::lost_majority().await?;
    let last = scene.recover().await?;
    for victim in VICTIMS {
        scene.cluster.start_node(victim)?;
    }
    for victim in VICTIMS {
        scene.is_left_behind(victim).await?;
    }
    scene.load.wait_for(u64::from(RATE), LIMIT).await?;
    until("both sides are named", LIMIT, async || {
        for node in ["n1", "n2", "n3"] {
            scene.status_names(&format!("node \\\"{node}\\\" holds data of epoch 0"))?;
        }
        scene.status_names("was left behind in epoch 0")?;
        Ok(Some(()))
    })
    .await?;
    // Nobody adds one with its old data; purged, it is a member like any other, over restarts too.
    let add = ["member", "add", "n1", "--group", "counter"];
    scene.operator.is_refused(&add, 6, "OTHER_EPOCH")?;
    let purge = ["member", "purge", "n1", "--group", "counter"];
    let confirmed = [&purge[..], &["--confirm", "counter"]].concat();
    scene.operator.does(&confirmed)?;
    scene.operator.does(&add)?;
    scene.cluster.kill_at_once(&[0, 1])?;
    scene.cluster.start_node(0)?;
    scene.cluster.start_node(1)?;
    scene.is_left_behind(1).await?;
    scene.load.wait_for(u64::from(RATE), LIMIT).await?;
    let records = after_recovery(scene.load.stop()?, last, died);
    let report = check::history(&scene.all, &[0, 3, 4], &records, Model::counter()).await?;
    eprintln!("{report:?}");
    Ok(())
}
