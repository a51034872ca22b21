//! A day's operations on five nodes under load: nothing acknowledged is lost, and clients see no
//! error but the documented ones.

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::Consistency;
use kontiki_tests::load::{self, Load, Record};
use kontiki_tests::model::Model;
use kontiki_tests::session::{Outcome, Session};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, cluster};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// Reasons a client may meet while members come and go and leadership moves.
const DOCUMENTED: [&str; 6] = [
    "NOT_LEADER",
    "NO_LEADER",
    "LEADERSHIP_LOST",
    "TRANSFERRING",
    "READ_ONLY",
    "BUSY",
];

async fn counter_on(cluster: &Cluster, voters: &[&str]) -> Result<Session> {
    let session = Session::new("counter", &cluster.addresses(), Duration::from_secs(5))?;
    let operator = Operator::of(cluster);
    let component = cluster::component("counter")?;
    let pushed = operator.reads(&["plugin", "push", &component.display().to_string()])?;
    let digest = pushed["digest"]
        .as_str()
        .context("push answers a digest")?
        .to_owned();
    let voters = voters.join(",");
    operator.does(&[
        "group", "create", "counter", "--plugin", &digest, "--voters", &voters,
    ])?;
    session.leader(LIMIT).await?;
    Ok(session)
}

/// Longest time between two acknowledgements of the whole load within `[from, to]`.
fn longest_pause(records: &[Record], from: Instant, to: Instant) -> Duration {
    let mut ends: Vec<_> = records
        .iter()
        .filter(|record| matches!(record.outcome, Outcome::Applied { .. }))
        .map(|record| record.end)
        .filter(|end| (from..=to).contains(end))
        .collect();
    ends.sort();
    ends.windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or(to - from)
}

fn undocumented(records: &[Record]) -> BTreeMap<String, usize> {
    let mut reasons = BTreeMap::new();
    for record in records {
        if let Outcome::NotApplied { reason } | Outcome::Unknown { reason } = &record.outcome
            && !DOCUMENTED.contains(&reason.as_str())
        {
            *reasons.entry(reason.clone()).or_default() += 1;
        }
    }
    reasons
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_under_load_lose_nothing() -> Result<()> {
    let options = ClusterOptions {
        nodes: 5,
        ..ClusterOptions::default()
    };
    let election_timeout = options.election_timeout;
    let cluster = Cluster::start(options)?;
    let operator = Operator::of(&cluster);
    let session = counter_on(&cluster, &["n1", "n2", "n3"]).await?;
    let load = Load::start("counter", &cluster.addresses(), 8, load::counter_commands)?;
    let at_work = || load.wait_for(200, LIMIT);

    at_work().await?;
    operator.does(&["member", "add", "n4", "--group", "counter"])?;
    at_work().await?;
    operator.does(&["member", "add", "n5", "--group", "counter", "--learner"])?;
    operator.does(&["member", "promote", "n5", "--group", "counter"])?;
    at_work().await?;
    operator.does(&["member", "remove", "n1", "--group", "counter"])?;
    at_work().await?;
    operator.does(&[
        "member",
        "change",
        "--group",
        "counter",
        "--voters",
        "n1,n2,n3,n4,n5",
    ])?;
    at_work().await?;

    let begin = Instant::now();
    let mut transfers = Vec::new();
    for target in ["n2", "n4", "n3"] {
        let from = Instant::now();
        operator.does(&["group", "transfer", "counter", "--to", target])?;
        at_work().await?;
        transfers.push((from, Instant::now()));
    }
    operator.does(&["node", "drain", "n3"])?;
    at_work().await?;
    let leader = session.leader(LIMIT).await?;
    assert_ne!(
        cluster.nodes()[leader].name,
        "n3",
        "a drained node still leads"
    );
    operator.does(&["node", "undrain", "n3"])?;
    let moved = begin.elapsed();

    operator.does(&["group", "read-only", "counter", "on"])?;
    let mut alone = Session::new("counter", &cluster.addresses(), Duration::from_secs(5))?;
    let refused = alone.apply("add 1").await;
    assert_eq!(
        refused,
        Outcome::NotApplied {
            reason: "READ_ONLY".to_owned()
        }
    );
    operator.does(&["group", "read-only", "counter", "off"])?;
    at_work().await?;

    let records = load.stop().await?;
    assert_eq!(
        undocumented(&records),
        BTreeMap::new(),
        "errors nobody documented"
    );
    let report = check::history(&session, &[0, 1, 2, 3, 4], &records, Model::counter()).await?;
    let pauses: Vec<_> = transfers
        .iter()
        .map(|&(from, to)| longest_pause(&records, from, to))
        .collect();
    eprintln!("{report:?}\npauses at transfers: {pauses:?} within {moved:?}");
    for pause in pauses {
        assert!(
            pause < election_timeout,
            "writes stood still for {pause:?} at a transfer"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_a_lost_majority_is_recovered() -> Result<()> {
    let mut cluster = Cluster::start(ClusterOptions::default())?;
    let mut session = counter_on(&cluster, &["n1", "n2", "n3"]).await?;
    session.apply_until("add 7", LIMIT).await?;
    check::converged(&session, &[0, 1, 2], LIMIT).await?;
    cluster.kill_node(1)?;
    cluster.kill_node(2)?;
    let operator = Operator::at(&cluster.addresses()[..1]);
    let plan = operator.does(&["recover", "counter", "--survivors", "n1"])?;
    assert!(
        !plan.is_empty(),
        "without --confirm it says what it would do"
    );
    let mut alone = Session::new("counter", &cluster.addresses()[..1], Duration::from_secs(2))?;
    let deadline = Instant::now() + LIMIT;
    while alone.query("get", Consistency::Linearizable).await.is_ok() {
        ensure!(Instant::now() < deadline, "a lone survivor goes on");
    }
    let before = alone.describe(0).await?.configuration.unwrap_or_default();
    assert_eq!(
        before.current.unwrap_or_default().voters.len(),
        3,
        "the dry run changed something"
    );
    operator.does(&[
        "recover",
        "counter",
        "--survivors",
        "n1",
        "--confirm",
        "counter",
    ])?;
    alone.leader(LIMIT).await?;
    assert_eq!(alone.query("get", Consistency::Linearizable).await?, "7");
    Ok(())
}
