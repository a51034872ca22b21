//! A leader dies in the middle of a change of members: the next one finishes what was logged, and
//! knows nothing of what was not. `kontiki member list` says which.

use anyhow::{Context as _, Result, ensure};
use kontiki_tests::load;
use kontiki_tests::model::Model;
use kontiki_tests::open_load::{OpenLoad, Paced};
use kontiki_tests::session::Session;
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, until};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);

/// A group on n1, n2 and n3, led by n1, with learners beside it, under load.
struct Scene {
    cluster: Cluster,
    operator: Operator,
    session: Session,
    load: OpenLoad,
}

impl Scene {
    async fn set(nodes: usize, learners: &[&str], rate: u32) -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            nodes,
            ..ClusterOptions::default()
        })?;
        let operator = Operator::of(&cluster);
        operator
            .creates_counter("counter", &["n1", "n2", "n3"])
            .await?;
        let addresses = cluster.addresses();
        let session = Session::new("counter", &addresses, Duration::from_secs(5))?;
        session.leader(LIMIT).await?;
        for learner in learners {
            operator.does(&["member", "add", learner, "--learner", "--group", "counter"])?;
        }
        operator.does(&["group", "transfer", "counter", "--to", "n1"])?;
        let load = OpenLoad::start(
            "counter",
            &addresses,
            rate,
            PATIENCE,
            load::counter_commands,
        )?;
        load.wait_for(100, LIMIT).await?;
        let scene = Self {
            cluster,
            operator,
            session,
            load,
        };
        scene.leads(0).await?;
        Ok(scene)
    }

    async fn leads(&self, node: usize) -> Result<()> {
        let leader = self.session.leader(LIMIT).await?;
        ensure!(leader == node, "n{} leads", leader + 1);
        Ok(())
    }

    async fn stage(&self, node: usize) -> Result<String> {
        Ok(self.session.describe(node).await?.change_stage)
    }

    /// Voters, learners and the stage of a change under way, as `kontiki member list` shows them.
    fn members(&self) -> Result<(String, String, String)> {
        let list = self
            .operator
            .reads(&["member", "list", "--group", "counter"])?;
        let members = list["members"].as_array().context("members")?;
        let part = |part: &str| {
            let of = members.iter().filter(|member| member["part"] == part);
            let names: BTreeSet<&str> = of.filter_map(|member| member["name"].as_str()).collect();
            names.into_iter().collect::<Vec<_>>().join(",")
        };
        let stage = match list["change_stage"].as_str() {
            Some("none") if !list["configuration"]["old"].is_null() => "joint, and nobody goes on",
            stage => stage.context("change_stage")?,
        };
        Ok((part("voter"), part("learner"), stage.to_owned()))
    }

    async fn settles(&self, voters: &str, learners: &str) -> Result<()> {
        let wanted = (voters.to_owned(), learners.to_owned(), "none".to_owned());
        let what = format!("`member list` shows {wanted:?}");
        until(&what, LIMIT, async || {
            let members = self.members()?;
            ensure!(members == wanted, "it shows {members:?}");
            Ok(Some(()))
        })
        .await
    }

    /// Ends the load and holds what it saw against these nodes.
    async fn ends(self, nodes: &[usize]) -> Result<()> {
        let all: Vec<Paced> = self.load.stop()?;
        let records: Vec<_> = all.into_iter().map(|paced| paced.record).collect();
        let report = check::history(&self.session, nodes, &records, Model::counter()).await?;
        eprintln!("{report:?}");
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_its_joint_stage_is_finished_by_the_next_leader() -> Result<()> {
    let mut scene = Scene::set(5, &["n4", "n5"], 200).await?;
    // They hold everything and then fall silent: the change passes its catch-up and stays joint,
    // for want of a majority of the new members.
    for silent in [3, 4] {
        scene.cluster.signal(silent, Signal::SIGSTOP)?;
    }
    scene.operator.does(&[
        "member",
        "change",
        "--voters",
        "n3,n4,n5",
        "--group",
        "counter",
        "--no-wait",
    ])?;
    until("the followers know of the change", LIMIT, async || {
        for follower in [1, 2] {
            let there = scene.session.describe(follower).await?.configuration;
            ensure!(
                there.unwrap_or_default().old.is_some(),
                "n{} does not",
                follower + 1
            );
        }
        Ok(Some(()))
    })
    .await?;
    assert_eq!(scene.stage(0).await?, "joint");
    scene.cluster.kill_node(0)?;
    for silent in [3, 4] {
        scene.cluster.signal(silent, Signal::SIGCONT)?;
    }
    scene.settles("n3,n4,n5", "").await?;
    scene.load.wait_for(200, LIMIT).await?;

    // The old leader comes back to a group that it is no longer in, and disturbs nobody.
    let leader = scene.session.leader(LIMIT).await?;
    let term = |there: kontiki_proto::v1::GroupDescription| there.summary.unwrap_or_default().term;
    let before = term(scene.session.describe(leader).await?);
    scene.cluster.start_node(0)?;
    until(
        "n1 campaigns, or learns that it is out",
        LIMIT,
        async || {
            let there = scene.session.describe(0).await?;
            let summary = there.summary.unwrap_or_default();
            let problems = summary.problems.join("; ");
            let knows = summary.role != "follower" || problems.contains("no member of the group");
            ensure!(knows, "{}, {problems}", summary.role);
            Ok(Some(()))
        },
    )
    .await?;
    scene.load.wait_for(200, LIMIT).await?;
    assert_eq!(term(scene.session.describe(leader).await?), before);
    scene.settles("n3,n4,n5", "").await?;
    scene.ends(&[2, 3, 4]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_its_catch_up_stage_is_gone_with_its_leader() -> Result<()> {
    let mut scene = Scene::set(4, &["n4"], 1_000).await?;
    // It falls behind by more than the margin, so that its promotion waits for it.
    scene.cluster.signal(3, Signal::SIGSTOP)?;
    scene.load.wait_for(2_000, LIMIT).await?;
    scene
        .operator
        .does(&["member", "promote", "n4", "--group", "counter", "--no-wait"])?;
    assert_eq!(scene.stage(0).await?, "catch-up");
    let (voters, learners, stage) = scene.members()?;
    assert_eq!(
        (voters.as_str(), learners.as_str(), stage.as_str()),
        ("n1,n2,n3", "n4", "catch-up")
    );
    scene.cluster.kill_node(0)?;
    scene.load.wait_for(200, LIMIT).await?;
    scene.settles("n1,n2,n3", "n4").await?;

    scene.cluster.signal(3, Signal::SIGCONT)?;
    scene
        .operator
        .does(&["member", "promote", "n4", "--group", "counter"])?;
    scene.settles("n1,n2,n3,n4", "").await?;
    scene.cluster.start_node(0)?;
    scene.load.wait_for(200, LIMIT).await?;
    scene.ends(&[0, 1, 2, 3]).await
}
