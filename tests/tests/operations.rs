//! A day's operations on five nodes while clients send 1,000 commands a second: nothing acknowledged
//! is lost, clients see no error but those documented for what is being done, and writes hardly
//! pause.

use anyhow::{Context as _, Result, ensure};
use kontiki_tests::load;
use kontiki_tests::model::Model;
use kontiki_tests::open_load::{OpenLoad, Paced};
use kontiki_tests::pauses::{Offered, Phase, Refusals, longest_pause, percentile};
use kontiki_tests::session::Session;
use kontiki_tests::{Cluster, ClusterOptions, Operator, check};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// Commands a second to the group that is operated on.
const RATE: u32 = 1_000;
/// What must really have been sent, and, in quiet times, acknowledged.
const RATE_MIN: f64 = 950.0;
/// Time each command has.
const PATIENCE: Duration = Duration::from_secs(5);
/// Groups beside it, with a light load: a drained node gives up all three.
const OTHERS: [&str; 2] = ["second", "third"];
const OTHERS_RATE: u32 = 100;
const NORMAL_PAUSE: Duration = Duration::from_millis(50);

/// Nothing may be refused while members come and go, or leaders stay.
const NOTHING: &[&str] = &[];
/// While leadership moves. What the old leader had appended but not seen committed is unknown. The
/// load asks one node after the other meanwhile, and not all have a replica of every group.
const HAND_OVER: &[&str] = &[
    "TRANSFERRING",
    "NOT_LEADER",
    "NO_LEADER",
    "NO_MEMBER",
    "LEADERSHIP_LOST",
    "GROUP_NOT_FOUND",
];
/// While the group is read-only.
const READ_ONLY: &[&str] = &["READ_ONLY"];

/// An operator at work under load, who keeps a diary.
struct Day {
    operator: Operator,
    load: OpenLoad,
    phases: Vec<Phase>,
}

impl Day {
    /// Types one command, waits until clients are served again, and notes what may have been refused
    /// meanwhile.
    async fn does(&mut self, words: &[&str], documented: &'static [&'static str]) -> Result<()> {
        let from = Instant::now();
        self.operator.does(words)?;
        self.load.wait_for(200, LIMIT).await?;
        self.phases.push(Phase {
            name: words.join(" "),
            from,
            to: Instant::now(),
            documented,
        });
        Ok(())
    }

    /// Two seconds in which nothing is done, and everything is acknowledged at once.
    async fn rests(&mut self) -> Result<()> {
        let from = Instant::now();
        self.load.wait_for(u64::from(2 * RATE), LIMIT).await?;
        self.phases.push(Phase {
            name: "rest".to_owned(),
            from,
            to: Instant::now(),
            documented: NOTHING,
        });
        Ok(())
    }

    async fn changes_members(&mut self) -> Result<()> {
        let group = ["--group", "counter"];
        let member = |words: &[&'static str]| [&["member"], words, &group[..]].concat();
        self.does(&member(&["add", "n4"]), NOTHING).await?;
        self.does(&member(&["add", "n5", "--learner"]), NOTHING)
            .await?;
        self.does(&member(&["promote", "n5"]), NOTHING).await?;
        self.does(&member(&["demote", "n5"]), NOTHING).await?;
        self.does(&member(&["promote", "n5"]), NOTHING).await?;

        let three = ["change", "--voters", "n1,n2,n5", "--expect"];
        let wrong = member(&[&three[..], &["n1,n2,n3"]].concat());
        self.operator
            .is_refused(&wrong, 6, "MEMBERSHIP_UNEXPECTED")?;
        // Whoever leads may be among those that go.
        let right = member(&[&three[..], &["n1,n2,n3,n4,n5"]].concat());
        self.does(&right, HAND_OVER).await?;
        let five = ["change", "--voters", "n1,n2,n3,n4,n5"];
        self.does(&member(&five), NOTHING).await?;

        let to_n1 = ["group", "transfer", "counter", "--to", "n1"];
        self.does(&to_n1, HAND_OVER).await?;
        self.does(&member(&["remove", "n1"]), HAND_OVER).await?;
        self.does(&member(&["add", "n1"]), NOTHING).await
    }

    async fn moves_leaders(&mut self) -> Result<()> {
        for target in ["n2", "n4", "n3", "n5", "n1", "n3", "n2", "n5", "n4"] {
            let transfer = ["group", "transfer", "counter", "--to", target];
            self.does(&transfer, HAND_OVER).await?;
        }
        self.does(&["group", "vote", "counter", "--node", "n1"], HAND_OVER)
            .await
    }

    async fn drains(&mut self, node: &'static str) -> Result<()> {
        for group in ["counter", OTHERS[0], OTHERS[1]] {
            let transfer = ["group", "transfer", group, "--to", node];
            self.does(&transfer, HAND_OVER).await?;
        }
        self.does(&["node", "drain", node], HAND_OVER).await?;
        let survey = self.operator.reads(&["group", "list"])?;
        let groups = survey["groups"].as_array().context("groups")?;
        ensure!(groups.len() == 3, "{survey:#}");
        for group in groups {
            ensure!(group["leader_name"] != node, "{node} still leads {group:#}");
        }
        self.does(&["node", "undrain", node], NOTHING).await
    }

    async fn stops_writes(&mut self) -> Result<()> {
        let from = Instant::now();
        self.operator
            .does(&["group", "read-only", "counter", "on"])?;
        let refused = ["call", "counter", "add", "1"];
        self.operator.is_refused(&refused, 6, "READ_ONLY")?;
        self.operator.does(&["query", "counter", "get"])?;
        self.operator
            .does(&["group", "read-only", "counter", "off"])?;
        self.load.wait_for(200, LIMIT).await?;
        self.phases.push(Phase {
            name: "group read-only counter on, off".to_owned(),
            from,
            to: Instant::now(),
            documented: READ_ONLY,
        });
        Ok(())
    }
}

fn pauses<'a>(phases: &'a [Phase], start: &str, all: &[Paced]) -> Vec<(&'a str, Duration)> {
    let of = phases.iter().filter(|phase| phase.name.starts_with(start));
    of.map(|phase| {
        let pause = longest_pause(all, phase.from, phase.to);
        (phase.name.as_str(), pause)
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_at_a_thousand_commands_a_second_lose_nothing() -> Result<()> {
    let options = ClusterOptions {
        nodes: 5,
        ..ClusterOptions::default()
    };
    let election_timeout = options.election_timeout;
    let cluster = Cluster::start(options)?;
    let operator = Operator::of(&cluster);
    let addresses = cluster.addresses();
    operator
        .creates_counter("counter", &["n1", "n2", "n3"])
        .await?;
    for group in OTHERS {
        operator.creates_counter(group, &["n1", "n3", "n5"]).await?;
    }
    let session = |group: &str| Session::new(group, &addresses, Duration::from_secs(5));
    for group in ["counter", OTHERS[0], OTHERS[1]] {
        session(group)?.leader(LIMIT).await?;
    }
    let start = |group: &str, rate| {
        OpenLoad::start(group, &addresses, rate, PATIENCE, load::counter_commands)
    };
    let others = OTHERS.map(|group| start(group, OTHERS_RATE));
    let others: Vec<OpenLoad> = others.into_iter().collect::<Result<_>>()?;
    let mut day = Day {
        operator,
        load: start("counter", RATE)?,
        phases: Vec::new(),
    };
    // Clients connect, and find out which nodes have the group and who leads.
    let first = Instant::now();
    day.load.wait_for(500, LIMIT).await?;
    day.phases.push(Phase {
        name: "first contact".to_owned(),
        from: first,
        to: Instant::now(),
        documented: &["NOT_LEADER", "NO_LEADER", "GROUP_NOT_FOUND"],
    });
    let begin = Instant::now();
    day.rests().await?;
    day.changes_members().await?;
    day.moves_leaders().await?;
    day.drains("n3").await?;
    day.stops_writes().await?;
    day.rests().await?;
    let end = Instant::now();

    let Day { load, phases, .. } = day;
    let all = load.stop()?;
    let offered = Offered::within(&all, begin, end);
    eprintln!("{:.1?} in all: {offered:.1?}", end - begin);
    for phase in &phases {
        let pause = longest_pause(&all, phase.from, phase.to);
        eprintln!(
            "{:6.1?} pause of {:.1?}: {}",
            pause,
            phase.to - phase.from,
            phase.name
        );
    }
    let refusals = Refusals::sort(&all, &phases)?;
    eprintln!("{:#?}", refusals.documented);

    offered.ensure_rate(RATE_MIN)?;
    assert_eq!(
        refusals.others,
        BTreeMap::new(),
        "errors nobody documented there"
    );
    let replicas = [0, 1, 2, 3, 4];
    let records: Vec<_> = all.iter().map(|paced| paced.record.clone()).collect();
    let report =
        check::history(&session("counter")?, &replicas, &records, Model::counter()).await?;
    eprintln!("{report:?}");
    for phase in phases.iter().filter(|phase| phase.name == "rest") {
        let rest = Offered::within(&all, phase.from, phase.to);
        rest.ensure_rate(RATE_MIN)?;
        let rate = rest.acknowledged_per_second;
        assert!(rate >= RATE_MIN, "{rate:.0}/s acknowledged: {rest:?}");
    }
    for (name, pause) in phases.iter().map(|phase| {
        let pause = longest_pause(&all, phase.from, phase.to);
        (&phase.name, pause)
    }) {
        // A forced vote deposes the leader without its help; the candidate may well lack what that
        // has sent others meanwhile, and then the next election follows a whole timeout later.
        let moves = !name.starts_with("group read-only") && !name.starts_with("group vote");
        assert!(
            !moves || pause < election_timeout,
            "writes stood still for {pause:?} at {name}"
        );
    }
    let transfers = pauses(&phases, "group transfer counter", &all);
    let median = percentile(transfers.iter().map(|(_, pause)| *pause).collect(), 0.5);
    eprintln!("{} transfers, median pause {median:.1?}", transfers.len());
    assert!(
        transfers.len() >= 7 && median < NORMAL_PAUSE,
        "{transfers:?}"
    );

    for (group, load) in OTHERS.into_iter().zip(others) {
        let all = load.stop()?;
        for (name, pause) in pauses(&phases, "node drain", &all) {
            eprintln!("{group}: {pause:.1?} pause: {name}");
            assert!(
                pause < election_timeout,
                "{group} stood still for {pause:?}"
            );
        }
        let others = Refusals::sort(&all, &phases)?.others;
        assert_eq!(others, BTreeMap::new(), "{group}");
        let records: Vec<_> = all.into_iter().map(|paced| paced.record).collect();
        check::history(&session(group)?, &[0, 2, 4], &records, Model::counter()).await?;
    }
    Ok(())
}
