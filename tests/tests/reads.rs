//! Queries of leaders and followers while commands come in at a steady rate and leadership moves.

use anyhow::{Context as _, Result, ensure};
use kontiki_proto::v1::Consistency;
use kontiki_tests::load;
use kontiki_tests::model::Model;
use kontiki_tests::open_load::OpenLoad;
use kontiki_tests::session::{Outcome, Read, Session};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, until};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const LIMIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const KINDS: [Consistency; 3] = [
    Consistency::Linearizable,
    Consistency::Lease,
    Consistency::Stale,
];

/// Reads of one kind from one node, one after the other, until told to stop.
struct Reader {
    kind: Consistency,
    node: usize,
    done: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    task: JoinHandle<(Vec<Read>, usize)>,
}

impl Reader {
    fn start(kind: Consistency, node: usize, session: Session) -> Self {
        let (done, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let (count, until) = (Arc::clone(&done), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let (mut reads, mut refused) = (Vec::new(), 0);
            while !until.load(Ordering::Relaxed) {
                match session.read(node, "get", kind).await {
                    Ok(read) => reads.push(read),
                    Err(_) => refused += 1,
                }
                count.store(reads.len() as u64, Ordering::Relaxed);
                // A pace, so that nine readers do not take the machine from the nodes.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            (reads, refused)
        });
        Self {
            kind,
            node,
            done,
            stop,
            task,
        }
    }
}

/// Waits until every reader has made `count` more reads.
async fn more(readers: &[Reader], count: u64) -> Result<()> {
    let made = |reader: &Reader| reader.done.load(Ordering::Relaxed);
    let goals: Vec<u64> = readers.iter().map(|reader| made(reader) + count).collect();
    until("every reader has read more", LIMIT, async || {
        let mut both = readers.iter().zip(&goals);
        Ok(both
            .all(|(reader, goal)| made(reader) >= *goal)
            .then_some(()))
    })
    .await
}

/// The counter after each command, by log index.
fn values(log: &[kontiki_proto::v1::UserEntry]) -> Result<BTreeMap<u64, i64>> {
    let mut sum = 0;
    let mut values = BTreeMap::from([(0, 0)]);
    for entry in log {
        let amount = str::from_utf8(&entry.command)?.strip_prefix("add ");
        sum += amount.context("only adds were sent")?.parse::<i64>()?;
        values.insert(entry.id.context("an id")?.index, sum);
    }
    Ok(values)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_on_every_node_hold_what_they_promise_under_load() -> Result<()> {
    let options = ClusterOptions::default();
    let timeout = options.election_timeout;
    let cluster = Cluster::start(options)?;
    let operator = Operator::of(&cluster);
    operator
        .creates_counter("counter", &["n1", "n2", "n3"])
        .await?;
    let addresses = cluster.addresses();
    let session = Session::new("counter", &addresses, Duration::from_secs(5))?;
    session.leader(LIMIT).await?;
    let load = OpenLoad::start("counter", &addresses, 500, PATIENCE, load::counter_commands)?;
    load.wait_for(200, LIMIT).await?;
    let all_kinds = KINDS
        .into_iter()
        .flat_map(|kind| (0..3).map(move |node| (kind, node)));
    let readers: Vec<Reader> = all_kinds
        .map(|(kind, node)| Reader::start(kind, node, session.clone()))
        .collect();
    more(&readers, 50).await?;
    for target in ["n1", "n2", "n3"] {
        operator.does(&["group", "transfer", "counter", "--to", target])?;
        more(&readers, 50).await?;
    }
    let mut all = Vec::new();
    for reader in readers {
        reader.stop.store(true, Ordering::Relaxed);
        let (reads, refused) = reader.task.await?;
        eprintln!(
            "{:?} on n{}: {} reads, {refused} refused",
            reader.kind,
            reader.node + 1,
            reads.len()
        );
        ensure!(
            refused < reads.len(),
            "more reads were refused than answered"
        );
        all.extend(
            reads
                .into_iter()
                .map(|read| (reader.kind, reader.node, read)),
        );
    }
    let records: Vec<_> = load.stop()?.into_iter().map(|paced| paced.record).collect();
    check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;

    let values = values(&session.log(0).await?)?;
    let mut acknowledged: Vec<(Instant, u64)> = records
        .iter()
        .filter_map(|record| match record.outcome {
            Outcome::Applied { index, .. } => Some((record.end, index)),
            _ => None,
        })
        .collect();
    acknowledged.sort();
    // Highest index acknowledged by then: running maximum over the ends.
    let mut highest = 0;
    for (_, index) in &mut acknowledged {
        highest = highest.max(*index);
        *index = highest;
    }
    let known_at = |time: Instant| {
        let before = acknowledged.partition_point(|(end, _)| *end < time);
        before.checked_sub(1).map_or(0, |at| acknowledged[at].1)
    };
    let mut stalest = Duration::ZERO;
    for (kind, node, read) in &all {
        let (_, value) = values
            .range(..=read.index)
            .next_back()
            .context("a value at every index")?;
        assert_eq!(
            read.answer,
            value.to_string(),
            "n{}: {kind:?} {read:?} is not the state at its index",
            node + 1
        );
        let behind = match kind {
            // Heard from the leader that long ago; what it knew to be committed then may have
            // taken a heartbeat more to arrive.
            Consistency::Stale => {
                stalest = stalest.max(read.staleness.unwrap_or_default());
                read.staleness.unwrap_or_default() + timeout
            }
            _ => Duration::ZERO,
        };
        let known = read.begin.checked_sub(behind).map_or(0, known_at);
        assert!(
            read.index >= known,
            "n{}: {kind:?} {read:?} does not see {known}, acknowledged before",
            node + 1
        );
    }
    eprintln!("{} reads hold; the stalest said {stalest:.1?}", all.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_read_says_how_stale_it_is() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::default())?;
    Operator::of(&cluster)
        .creates_counter("counter", &["n1", "n2", "n3"])
        .await?;
    let mut session = Session::new("counter", &cluster.addresses(), Duration::from_secs(2))?;
    let leader = session.leader(LIMIT).await?;
    session.apply_until("add 7", LIMIT).await?;
    check::converged(&session, &[0, 1, 2], LIMIT).await?;
    let (left, other) = ((leader + 1) % 3, (leader + 2) % 3);
    // It takes a few heartbeats until a follower of a new leader can vouch for anything.
    until("the follower knows how stale it is", LIMIT, async || {
        let read = session.read(left, "get", Consistency::Stale).await?;
        Ok(read.staleness.map(drop))
    })
    .await?;
    let begin = Instant::now();
    cluster.signal(leader, Signal::SIGSTOP)?;
    cluster.signal(other, Signal::SIGSTOP)?;
    let silent = Instant::now();
    until("the staleness has grown", LIMIT, async || {
        let earliest = silent.elapsed();
        let read = session.read(left, "get", Consistency::Stale).await?;
        let latest = begin.elapsed();
        ensure!(read.answer == "7", "{read:?}");
        let said = read.staleness.context("a follower says how stale")?;
        // The leader's last word came about then: it speaks ten times in an election timeout.
        let slack = ClusterOptions::default().election_timeout;
        assert!(
            said + slack >= earliest,
            "{said:?} after {earliest:?} of silence"
        );
        assert!(said <= latest + slack, "{said:?} after {latest:?}");
        Ok((said > Duration::from_secs(2)).then_some(()))
    })
    .await?;
    let refused = session.read(left, "get", Consistency::Linearizable).await;
    assert!(refused.is_err(), "answered without a majority: {refused:?}");
    Ok(())
}
