//! One group's loop, with a disk that can be held.

use super::reach::AHEAD_MAX;
use super::*;
use crate::node::apply::ApplierConfig;
use crate::node::budget::Budget;
use crate::node::epoch::Position;
use crate::node::handle::{Consistency, GroupHandle, HandleInner, Pending};
use crate::node::native_machine;
use crate::node::plugins::PluginSource;
use crate::node::request::{Outcome, Problem};
use crate::node::router::Router;
use crate::transport::QueueLimits;
use bytes::Bytes;
use kontiki_proto::v1;
use kontiki_raft::{
    AppendEntries, ElectionTurn, Entry, Heartbeat, HeartbeatReply, LogId, LogIndex, MemberSet,
    MessageBody, Persist, Settings, Standing, Term,
};
use kontiki_storage::{GroupRecord, Options, StorageError, StorageMetrics};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use tokio::time::Instant;

const GROUP: GroupId = GroupId(7);
const ME: NodeId = NodeId(1);
const ORIGINAL: EpochId = EpochId {
    number: 0,
    random: 0,
};
const PATIENCE: Duration = Duration::from_secs(10);

/// Passes writes on only while it is not held.
struct Disk {
    inner: Arc<dyn Storage>,
    held: AtomicBool,
    writes: Mutex<Vec<kontiki_storage::Completion>>,
}

impl Storage for Disk {
    fn groups(&self) -> Result<Vec<GroupRecord>, StorageError> {
        self.inner.groups()
    }

    fn create_group(&self, record: &GroupRecord) -> Result<(), StorageError> {
        self.inner.create_group(record)
    }

    fn update_group(&self, record: &GroupRecord) -> Result<(), StorageError> {
        self.inner.update_group(record)
    }

    fn log_size_bytes(&self, id: GroupId) -> Result<u64, StorageError> {
        self.inner.log_size_bytes(id)
    }

    fn own_record(&self, id: GroupId) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.own_record(id)
    }

    fn put_own_record(&self, id: GroupId, body: &[u8]) -> Result<(), StorageError> {
        self.inner.put_own_record(id, body)
    }

    fn remove_group(&self, id: GroupId) -> Result<(), StorageError> {
        self.inner.remove_group(id)
    }

    fn recover(&self, id: GroupId, max: usize) -> Result<kontiki_raft::Recovered, StorageError> {
        self.inner.recover(id, max)
    }

    fn persist(&self, id: GroupId, write: Persist, done: kontiki_storage::Completion) {
        if self.held.load(Ordering::Acquire) {
            // Never carried out: for the group the disk hangs.
            self.writes.lock().unwrap().push(done);
        } else {
            self.inner.persist(id, write, done);
        }
    }

    fn entries(
        &self,
        id: GroupId,
        first: LogIndex,
        last: LogIndex,
        max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        self.inner.entries(id, first, last, max)
    }

    fn compact(&self, id: GroupId, upto: LogId) {
        self.inner.compact(id, upto);
    }

    fn node_record(&self, key: &str) -> Result<Option<Vec<u8>>, StorageError> {
        self.inner.node_record(key)
    }

    fn put_node_record(&self, key: &str, value: &[u8]) -> Result<(), StorageError> {
        self.inner.put_node_record(key, value)
    }

    fn metrics(&self) -> StorageMetrics {
        self.inner.metrics()
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        self.inner.size_bytes()
    }

    fn close(&self) {
        self.inner.close();
    }
}

struct Bench {
    handle: GroupHandle,
    disk: Arc<Disk>,
}

fn disk() -> Arc<Disk> {
    let uri = "memory://".parse().unwrap();
    let inner = kontiki_storage::open(&uri, &Options::default()).unwrap();
    let record = GroupRecord {
        id: GROUP,
        body: vec![],
    };
    inner.create_group(&record).unwrap();
    Arc::new(Disk {
        inner,
        held: AtomicBool::new(false),
        writes: Mutex::default(),
    })
}

fn transport(storage: Arc<dyn Storage>) -> Transport {
    let me = v1::Introduction {
        node: ME.0,
        name: "n1".into(),
        ..Default::default()
    };
    let limits = QueueLimits {
        messages_max: 16,
        size_bytes_max: 1 << 20,
    };
    Transport::start(me, storage, &[], limits, Router::default()).unwrap()
}

/// Starts the loop of a new replica in a group of these voters.
fn bench(voters: u64) -> Bench {
    bench_on(disk(), voters)
}

fn bench_on(disk: Arc<Disk>, voters: u64) -> Bench {
    let spec = v1::GroupSpec {
        id: GROUP.0,
        ..Default::default()
    };
    let epochs = Epochs::load(&*disk, &spec).unwrap();
    let storage: Arc<dyn Storage> = disk.clone();
    let clock = Clock::new();
    let initial = MemberSet::of_voters((1..=voters).map(NodeId));
    let recovered = storage.recover(GROUP, 1 << 20).unwrap();
    let core = Core::new(ME, Settings::default(), initial, recovered, clock.now(), 7);
    let (completed, completions) = mpsc::unbounded_channel();
    let reports = completed.clone();
    let metrics = Arc::new(Metrics::new());
    let (applier, _) = Applier::start(ApplierConfig {
        group: GROUP,
        storage: Arc::clone(&storage),
        plugin: PluginSource::NativeCounter,
        replay_until: LogIndex(0),
        metrics: metrics.plugin("counter"),
        report: Box::new(move |report| drop(reports.send(Completion::Applied(report)))),
    })
    .unwrap();
    let (proposals, proposed) = mpsc::channel(64);
    let (queries, queried) = mpsc::channel(64);
    let (messages, received) = mpsc::channel(1_024);
    let (control, controlled) = mpsc::channel(8);
    let (brief, watched) = watch::channel(Brief::default());
    let shared = Arc::new(GroupShared::new(
        ME,
        epochs.clone(),
        core.configuration().clone(),
    ));
    let group = Group {
        id: GROUP,
        name: "orders".into(),
        epochs,
        core,
        clock,
        transport: transport(Arc::clone(&storage)),
        storage,
        applier: applier.clone(),
        mailbox: Mailbox {
            proposals: proposed,
            queries: queried,
            messages: received,
            control: controlled,
            completions,
        },
        completed,
        shared: Arc::clone(&shared),
        metrics: Arc::clone(&metrics),
        brief,
        proposals_max: 64,
        state: State::default(),
    };
    tokio::spawn(group.run());
    let inner = HandleInner {
        id: GROUP,
        spec: v1::GroupSpec::default(),
        description: native_machine::description(),
        clock,
        proposals,
        queries,
        messages,
        control,
        applier,
        shared,
        metrics,
        brief: watched,
        commands_budget: Budget::new(64, 1 << 20),
        queries_budget: Budget::new(64, 1 << 20),
        own: Mutex::default(),
        changing: tokio::sync::Mutex::default(),
    };
    Bench {
        handle: GroupHandle {
            inner: Arc::new(inner),
        },
        disk,
    }
}

impl Bench {
    async fn becomes(&self, role: Role) {
        let mut brief = self.handle.watch();
        let reached = brief.wait_for(|now| now.role == role);
        let reached = tokio::time::timeout(PATIENCE, reached).await;
        assert!(reached.is_ok(), "never {role:?}");
    }

    fn hold_disk(&self) {
        self.disk.held.store(true, Ordering::Release);
    }

    /// Waits until the disk holds a write.
    async fn write_hangs(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.disk.writes.lock().unwrap().is_empty() {
            assert!(Instant::now() < deadline, "nothing was written");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn propose(&self) -> Pending {
        self.handle.propose(b"add 1", None)
    }
}

async fn failure(pending: Pending) -> Failure {
    pending.wait(Instant::now() + PATIENCE).await.unwrap_err()
}

fn append(term: u64) -> Message {
    let entry = Entry {
        id: LogId::new(Term(term), LogIndex(1)),
        time_ns: 0,
        kind: EntryKind::Command(Bytes::from_static(b"add 1")),
    };
    Message {
        term: Term(term),
        body: MessageBody::AppendEntries(AppendEntries {
            prev: LogId::default(),
            entries: vec![entry],
            commit: LogIndex(0),
            sequence: 1,
        }),
    }
}

fn heartbeat(term: u64) -> Message {
    Message {
        term: Term(term),
        body: MessageBody::Heartbeat(Heartbeat {
            commit: LogIndex(0),
            round: 1,
            horizon: None,
            turn: ElectionTurn::Any,
        }),
    }
}

async fn reaches_term(bench: &Bench, term: u64) -> Vec<Problem> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = bench.handle.status().await.unwrap();
        if status.core.term.0 == term {
            return status.problems;
        }
        assert!(Instant::now() < deadline, "stays in {}", status.core.term);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Sends a heartbeat of that term and waits until it is seen to be refused.
async fn refuses(bench: &Bench, lie: u64) {
    bench.handle.deliver(NodeId(2), ORIGINAL, heartbeat(lie));
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = bench.handle.status().await.unwrap();
        assert_eq!(status.core.term.0, 0, "{lie} was adopted");
        let said = format!("speaks in term {lie},");
        if status.problems.iter().any(|it| it.what.contains(&said)) {
            return;
        }
        assert!(Instant::now() < deadline, "{lie} was not refused");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// One lying message near the end of the range would leave the group without a leader for ever.
#[tokio::test]
async fn a_term_that_no_elections_lead_to_is_not_adopted() {
    let bench = bench(3);
    // The disk holds every write: if a lie were adopted, it would show.
    bench.hold_disk();
    for lie in [(1 << 62) - 1, 1 << 40, AHEAD_MAX + 1] {
        refuses(&bench, lie).await;
    }
    assert!(bench.disk.writes.lock().unwrap().is_empty());
    // Whoever is only late is believed, and that says that all is well again.
    bench
        .handle
        .deliver(NodeId(2), ORIGINAL, heartbeat(AHEAD_MAX));
    let problems = reaches_term(&bench, AHEAD_MAX).await;
    let refused = problems.iter().any(|it| it.what.contains("speaks in term"));
    assert!(!refused, "{problems:?}");
    // Terms that fall cost nothing.
    bench.write_hangs().await;
    let writes = bench.disk.writes.lock().unwrap().len();
    for fallen in (0..1_000).rev() {
        bench.handle.deliver(NodeId(2), ORIGINAL, heartbeat(fallen));
    }
    bench
        .handle
        .deliver(NodeId(2), ORIGINAL, heartbeat(AHEAD_MAX + 1));
    reaches_term(&bench, AHEAD_MAX + 1).await;
    let more = bench.disk.writes.lock().unwrap().len() - writes;
    assert!(more <= 1, "{more} writes");
}

/// A replica that waits for its membership cannot know how many elections it has missed.
#[tokio::test]
async fn a_replica_that_joins_believes_a_far_term_but_not_the_last() {
    let bench = bench(0);
    refuses(&bench, (1 << 62) - 1).await;
    bench
        .handle
        .deliver(NodeId(2), ORIGINAL, heartbeat(1 << 40));
    reaches_term(&bench, 1 << 40).await;
}

/// A leader that lost its leadership because its disk hangs must send clients away.
#[tokio::test]
async fn a_replica_that_does_not_lead_answers_commands_while_its_disk_hangs() {
    let bench = bench(3);
    bench.hold_disk();
    bench.handle.deliver(NodeId(2), ORIGINAL, append(1));
    bench.write_hangs().await;
    let refused = tokio::time::timeout(PATIENCE / 2, failure(bench.propose())).await;
    let expected = Failure::Refused {
        reason: RejectReason::NotLeader {
            leader: Some(NodeId(2)),
        },
        leader: Some(NodeId(2)),
        term: Term(1),
    };
    assert_eq!(refused.unwrap(), expected);
}

#[tokio::test]
async fn commands_in_the_queue_of_a_group_that_stops_are_certainly_not_applied() {
    let bench = bench(1);
    bench.becomes(Role::Leader).await;
    bench.hold_disk();
    let under_way = bench.propose();
    bench.write_hangs().await;
    let queued = [bench.propose(), bench.propose()];
    bench.handle.control(Control::Stop).await.unwrap();
    for pending in queued {
        assert_eq!(failure(pending).await, Failure::ShuttingDown);
    }
    assert_eq!(failure(under_way).await.outcome(), Outcome::Unknown);
}

#[tokio::test]
async fn a_group_whose_machine_has_ended_leads_no_more() {
    let bench = bench(1);
    bench.becomes(Role::Leader).await;
    bench.handle.inner.applier.stop();
    let lost = failure(bench.propose()).await;
    assert_eq!(lost.outcome(), Outcome::Unknown);
    // What is queued while the thread ends is lost with it: only what comes after tells the group.
    let deadline = Instant::now() + PATIENCE;
    while failure(bench.propose()).await.outcome() == Outcome::Unknown {
        assert!(Instant::now() < deadline, "goes on");
    }
    bench.becomes(Role::Stopped).await;
}

/// A mailbox that is never empty must not stop the clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_messages_does_not_keep_the_group_from_its_timers() {
    let bench = bench(1);
    bench.becomes(Role::Leader).await;
    let (handle, over) = (bench.handle.clone(), Arc::new(AtomicBool::new(false)));
    let stop = Arc::clone(&over);
    let flood = std::thread::spawn(move || {
        // From a stranger, so that nothing comes of it.
        let message = Message {
            term: Term(0),
            body: MessageBody::HeartbeatReply(HeartbeatReply {
                round: 1,
                read_only: false,
                echo: None,
                promise: None,
                standing: Standing::default(),
            }),
        };
        while !stop.load(Ordering::Acquire) {
            handle.deliver(NodeId(9), ORIGINAL, message.clone());
        }
    });
    // A leader confirms itself with every heartbeat, a tenth of a second apart.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let staleness_us = bench.handle.staleness_us(LogIndex(u64::MAX)).unwrap();
    over.store(true, Ordering::Release);
    flood.join().unwrap();
    assert!(staleness_us < 1_000_000, "{staleness_us} µs without a tick");
}

/// What a node says that recovered the group with these survivors, when its log ended at 10 in term 3.
fn recovered(survivors: &[u64]) -> v1::GroupEpoch {
    let epoch = v1::Epoch {
        id: Some(v1::EpochId {
            number: 1,
            random: 5,
        }),
        first_term: 4,
        node: 2,
        last_index: 10,
    };
    v1::GroupEpoch {
        group: GROUP.0,
        latest: Some(v1::Lineage {
            epochs: vec![epoch],
            survivors: survivors.to_vec(),
        }),
        left_behind: None,
    }
}

async fn is_in_epoch(bench: &Bench, number: u64, left_behind: bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let epochs = bench.handle.status().await.unwrap().epochs;
        if (epochs.id().number, epochs.newer().is_some()) == (number, left_behind) {
            return;
        }
        assert!(Instant::now() < deadline, "{epochs:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_leader_that_a_recovery_left_behind_answers_nobody_and_says_why() {
    let bench = bench(1);
    bench.becomes(Role::Leader).await;
    bench.handle.hear_epoch(NodeId(2), recovered(&[2])).await;
    is_in_epoch(&bench, 0, true).await;
    let refused = failure(bench.propose()).await;
    assert!(matches!(refused, Failure::LeftBehind { .. }), "{refused}");
    assert_eq!(refused.outcome(), Outcome::NotApplied);
    let quorum = Consistency::Linearizable(ReadMode::Quorum);
    for consistency in [Consistency::Stale, quorum] {
        let asked = bench.handle.query(b"", consistency, PATIENCE);
        let refused = asked.await.unwrap_err();
        assert!(matches!(refused, Failure::LeftBehind { .. }), "{refused}");
    }
    let status = bench.handle.status().await.unwrap();
    assert_eq!(status.core.role, Role::Follower);
    let problem = &status.problems[0];
    assert!(
        problem.what.contains("left behind in epoch 0"),
        "{problem:?}"
    );
    assert!(problem.next_step.contains("member purge"), "{problem:?}");
    // Durable: it is so after a restart.
    let spec = v1::GroupSpec {
        id: GROUP.0,
        ..Default::default()
    };
    assert!(Epochs::load(&*bench.disk, &spec).unwrap().newer().is_some());
}

#[tokio::test]
async fn a_survivor_goes_over_and_takes_in_only_what_is_of_the_new_epoch() {
    let bench = bench(3);
    bench.handle.hear_epoch(NodeId(2), recovered(&[1, 2])).await;
    is_in_epoch(&bench, 1, false).await;
    bench.handle.deliver(NodeId(3), ORIGINAL, heartbeat(9));
    let deadline = Instant::now() + PATIENCE;
    let problems = loop {
        let status = bench.handle.status().await.unwrap();
        assert!(
            status.core.term < Term(9),
            "a message of another epoch counted"
        );
        if !status.problems.is_empty() && status.problems[0].what.contains("holds data of epoch 0")
        {
            break status.problems;
        }
        assert!(Instant::now() < deadline, "{:?}", status.problems);
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    assert!(problems[0].what.starts_with("node \"3\""), "{problems:?}");
    let new = EpochId {
        number: 1,
        random: 5,
    };
    bench.handle.deliver(NodeId(2), new, heartbeat(9));
    reaches_term(&bench, 9).await;
}

#[tokio::test]
async fn a_recovery_begins_an_epoch_and_one_that_was_cut_off_is_carried_out() {
    let bench = bench(3);
    let alone = MemberSet::of_voters([ME]);
    let order = Order::ResetPeers(alone.clone());
    bench.handle.order(order).await.unwrap();
    is_in_epoch(&bench, 1, false).await;
    bench.becomes(Role::Leader).await;
    // The epoch is durable, the membership is not: the node ended in between.
    let disk = disk();
    let me = Position {
        node: ME,
        last: LogId::default(),
        commit: LogIndex(0),
    };
    let begun = Epochs::default().begun_here(me, Term(1), &alone.voters, 5);
    begun.keep(&*disk, GROUP).unwrap();
    let bench = bench_on(disk, 3);
    bench.becomes(Role::Leader).await;
    let members = bench
        .handle
        .status()
        .await
        .unwrap()
        .core
        .configuration
        .current;
    assert_eq!(members, alone);
}
