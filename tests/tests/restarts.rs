//! Nodes that stop in order, move to another address, or come back without their data.

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::{Consistency, GetNodeRequest};
use kontiki_tests::load;
use kontiki_tests::model::Model;
use kontiki_tests::open_load::{OpenLoad, Paced};
use kontiki_tests::pauses::{Offered, Phase, Refusals, longest_pause};
use kontiki_tests::session::{Outcome, Session, counter_on};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, until};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const RATE: u32 = 1_000;
const RATE_MIN: f64 = 950.0;
const PATIENCE: Duration = Duration::from_secs(5);

/// What clients may be told while a leader hands over and its process ends. All but
/// `LEADERSHIP_LOST` say that the command was certainly not applied: a node that goes down in order
/// answers whatever it has taken.
const STOPPING: &[&str] = &[
    "TRANSFERRING",
    "NOT_LEADER",
    "NO_LEADER",
    "LEADERSHIP_LOST",
    "SHUTTING_DOWN",
    "LEADER_UNREACHABLE",
    "UNREACHABLE",
];

/// Id and address of every node, by name, as `kontiki node list` shows them.
fn nodes(operator: &Operator) -> Result<BTreeMap<String, (String, String)>> {
    let list = operator.reads(&["node", "list"])?;
    let nodes = list["nodes"].as_array().context("nodes")?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    nodes
        .iter()
        .map(|node| {
            let facts = text(&node["name"]).zip(text(&node["id"]).zip(text(&node["address"])));
            facts.with_context(|| format!("{node:#}"))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_asked_to_stop_hand_over_first() -> Result<()> {
    let options = ClusterOptions::default();
    let election_timeout = options.election_timeout;
    let mut cluster = Cluster::start(options)?;
    let session = counter_on(&cluster.addresses(), PATIENCE).await?;
    let addresses = cluster.addresses();
    let load = OpenLoad::start(
        "counter",
        &addresses,
        RATE,
        PATIENCE,
        load::counter_commands,
    )?;
    load.wait_for(500, LIMIT).await?;
    let begin = Instant::now();
    let mut phases = Vec::new();
    for _ in 0..3 {
        let leader = session.leader(LIMIT).await?;
        let from = Instant::now();
        let status = cluster.stop_node(leader, Duration::from_secs(20))?;
        assert_eq!(status.code(), Some(0), "{status}");
        load.wait_for(200, LIMIT).await?;
        phases.push(Phase {
            name: format!("SIGTERM to n{}", leader + 1),
            from,
            to: Instant::now(),
            documented: STOPPING,
        });
        cluster.start_node(leader)?;
        // The next one to stop must find a successor that is up to date.
        until("the node has caught up", LIMIT, async || {
            let there = session.describe(leader).await?.summary;
            let applied = there.unwrap_or_default().applied_index;
            Ok((applied >= load.acknowledged()).then_some(()))
        })
        .await?;
    }
    let end = Instant::now();
    let all = load.stop()?;
    let offered = Offered::within(&all, begin, end);
    eprintln!("{offered:.1?}");
    offered.ensure_rate(RATE_MIN)?;
    // A client still tries a node that was just down now and then.
    let whole = Phase {
        name: "all".to_owned(),
        from: begin,
        to: end,
        documented: &["UNREACHABLE"],
    };
    let sorted: Vec<Phase> = phases.iter().cloned().chain([whole]).collect();
    let refusals = Refusals::sort(&all, &sorted)?;
    eprintln!("{:#?}", refusals.documented);
    let in_doubt = |paced: &&Paced| matches!(&paced.record.outcome, Outcome::Unknown { reason } if reason != "LEADERSHIP_LOST");
    for paced in all.iter().filter(in_doubt) {
        let since = |at: Instant| at.saturating_duration_since(begin);
        eprintln!(
            "at {:.1?} to {:.1?}: {paced:?}",
            since(paced.record.begin),
            since(paced.record.end)
        );
    }
    assert_eq!(refusals.others, BTreeMap::new(), "errors nobody documented");
    for phase in &phases {
        let pause = longest_pause(&all, phase.from, phase.to);
        eprintln!("{pause:.1?} pause: {}", phase.name);
        assert!(pause < election_timeout, "{}: {pause:?}", phase.name);
    }
    let unknown = all.iter().filter_map(|paced| match &paced.record.outcome {
        Outcome::Unknown { reason } => Some(reason.as_str()),
        _ => None,
    });
    let others: Vec<&str> = unknown.filter(|why| *why != "LEADERSHIP_LOST").collect();
    assert!(others.is_empty(), "left in doubt: {others:?}");
    let records: Vec<_> = all.into_iter().map(|paced| paced.record).collect();
    let report = check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;
    eprintln!("{report:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_move_to_other_addresses_stay_who_they_are() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    counter_on(&cluster.addresses(), PATIENCE)
        .await?
        .apply_until("add 1", LIMIT)
        .await?;
    let before = nodes(&Operator::of(&cluster))?;
    // One after the other, the leader too; nobody edits the others' flags.
    for moving in 0..3 {
        cluster.stop_node(moving, Duration::from_secs(20))?;
        cluster.move_node(moving)?;
        cluster.start_node(moving)?;
        let mut session = Session::new("counter", &cluster.addresses(), Duration::from_secs(5))?;
        check::converged(&session, &[0, 1, 2], LIMIT).await?;
        session.apply_until("add 1", LIMIT).await?;
        check::converged(&session, &[0, 1, 2], LIMIT).await?;
        let (name, address) = {
            let node = &cluster.nodes()[moving];
            (node.name.clone(), node.address.clone())
        };
        // Every node tells clients the new address.
        for other in 0..3 {
            let there = Operator::at(&cluster.addresses()[other..=other]);
            until("the new address is known", LIMIT, async || {
                let known = nodes(&there)?;
                let (id, at) = known.get(&name).context("not listed")?;
                ensure!(*id == before[&name].0, "{name} has become {id}");
                Ok((*at == address).then_some(()))
            })
            .await?;
        }
    }
    let after = nodes(&Operator::of(&cluster))?;
    for (name, (id, address)) in &before {
        assert_eq!(after[name].0, *id, "{name} is another");
        assert_ne!(after[name].1, *address, "{name} has not moved");
    }
    let session = Session::new("counter", &cluster.addresses(), Duration::from_secs(5))?;
    for node in 0..3 {
        let read = session.read(node, "get", Consistency::Linearizable).await?;
        assert_eq!(read.answer, "4");
    }
    Ok(())
}

/// What node `node` has of n3: its id, whether they are connected, and if not, why.
async fn third(session: &Session, node: usize) -> Result<(String, bool, String)> {
    let request = GetNodeRequest {};
    let answer = session.admin(node).get_node(request).await?.into_inner();
    for peer in answer.peers {
        let introduction = peer.node.unwrap_or_default();
        if introduction.name == "n3" {
            return Ok((introduction.node.to_string(), peer.connected, peer.error));
        }
    }
    anyhow::bail!("n3 is not known")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_a_stranger_until_it_is_added_anew() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = counter_on(&cluster.addresses(), PATIENCE).await?;
    session.apply_until("add 1", LIMIT).await?;
    let operator = Operator::of(&cluster);
    let old = nodes(&operator)?["n3"].0.clone();
    cluster.kill_node(2)?;
    cluster.wipe_node(2)?;
    cluster.start_node(2)?;
    until("n1 refuses the stranger", LIMIT, async || {
        let (_, _, error) = third(&session, 0).await?;
        ensure!(error.contains("kontiki node forget n3"), "{error}");
        Ok(Some(()))
    })
    .await?;
    session.apply_until("add 1", LIMIT).await?;

    // With one of the other two gone there is no majority: the stranger's vote does not count.
    cluster.kill_node(1)?;
    let mut first = Session::new("counter", &cluster.addresses()[..1], Duration::from_secs(2))?;
    until("n1 says that there is no leader", LIMIT, async || {
        Ok(match first.apply("add 100").await {
            Outcome::NotApplied { reason } => (reason == "NO_LEADER").then_some(()),
            // It may have been appended before the loss was noticed.
            Outcome::Unknown { .. } => None,
            applied @ Outcome::Applied { .. } => anyhow::bail!("acknowledged: {applied:?}"),
        })
    })
    .await?;
    let three = 3 * ClusterOptions::default().election_timeout;
    let begin = Instant::now();
    until("three election timeouts have passed", LIMIT, async || {
        let role = first.describe(0).await?.summary.unwrap_or_default().role;
        assert_ne!(role, "leader", "the stranger voted");
        Ok((begin.elapsed() > three).then_some(()))
    })
    .await?;
    cluster.start_node(1)?;
    session.leader(LIMIT).await?;

    // As the page on failures says: remove the old id, forget it, add the node as new.
    operator.does(&["member", "remove", &old, "--group", "counter"])?;
    operator.does(&["node", "forget", "n3"])?;
    for node in [0, 1] {
        until("n3 is known again", LIMIT, async || {
            let (id, connected, error) = third(&session, node).await?;
            ensure!(connected && id != old, "{id}: {error}");
            Ok(Some(()))
        })
        .await?;
    }
    operator.does(&["member", "add", "n3", "--group", "counter"])?;
    session.apply_until("add 1", LIMIT).await?;
    check::converged(&session, &[0, 1, 2], LIMIT).await?;
    Ok(())
}
