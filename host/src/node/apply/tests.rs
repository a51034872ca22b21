//! The machine's thread: order, batches, faults.

use super::cut::is_command;
use super::view::MachineState;
use super::*;
use crate::metrics::Metrics;
use crate::node::native_machine;
use crate::node::request::Applied;
use kontiki_plugin::{
    Answer, Answers, ApplyFault, Batch, Description, Export, Fault, FaultSite, GuestCause,
    GuestFault, Machine, SnapshotFile, SnapshotInfo,
};
use kontiki_raft::{
    Configuration, Entry, EntryKind, HardState, IoId, LogId, MemberSet, NodeId, Persist, Term,
};
use kontiki_storage::{GroupRecord, Options};
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const GROUP: GroupId = GroupId(7);
const PATIENCE: Duration = Duration::from_secs(10);

/// Held by a test, so that a machine stays in its command or query `hold`.
static GATE: Mutex<()> = Mutex::new(());

/// Calls of the command `once` so far, in all machines: the first one reaches a limit.
static TRIES: AtomicU32 = AtomicU32::new(0);
/// What the command `random` answers next.
static RANDOM: AtomicU32 = AtomicU32::new(0);

/// Counts as the native counter does, but traps at the command and the query `trap`. As a Wasm
/// instance it is of no use after that.
struct Fragile {
    description: Description,
    value: i64,
    poisoned: bool,
}

fn fragile() -> Box<dyn Machine> {
    Box::new(Fragile {
        description: native_machine::description(),
        value: 0,
        poisoned: false,
    })
}

impl Fragile {
    fn trap(&mut self, export: Export) -> Fault {
        self.fail(GuestCause::Exit, export)
    }

    fn fail(&mut self, cause: GuestCause, export: Export) -> Fault {
        self.poisoned = true;
        GuestFault {
            cause,
            site: Box::new(FaultSite {
                plugin: kontiki_plugin::Digest::of(b"test"),
                name: None,
                export,
                index: None,
                frames: Vec::new(),
                stderr: String::new(),
            }),
        }
        .into()
    }
}

impl Machine for Fragile {
    fn description(&self) -> &Description {
        &self.description
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        assert!(!self.poisoned, "called after a trap");
        let mut answers = Answers::default();
        for (entry, (_, _, payload)) in batch.iter().enumerate() {
            assert!(payload != b"panic", "as ordered");
            if payload == b"trap" {
                let fault = self.trap(Export::Apply);
                return Err(ApplyFault { entry, fault });
            }
            if payload == b"hold" {
                drop(GATE.lock().unwrap());
            }
            let large = batch.iter().filter(|(.., payload)| *payload == b"large");
            if payload == b"huge" || (payload == b"large" && large.count() > 1) {
                let fault = self.fail(GuestCause::DataTooLong { limit: 1 }, Export::Apply);
                // As in a real machine: noticed when the whole batch is done.
                let entry = batch.len() - 1;
                return Err(ApplyFault { entry, fault });
            }
            if payload == b"once" && TRIES.fetch_add(1, Ordering::Relaxed) == 0 {
                let fault = self.fail(GuestCause::OutOfFuel { limit: 1 }, Export::Apply);
                return Err(ApplyFault { entry, fault });
            }
            if payload == b"random" {
                self.value += i64::from(RANDOM.fetch_add(1, Ordering::Relaxed));
            }
            answers.push(Answer::Ok(self.value.to_string().as_bytes()));
            self.value += 1;
        }
        Ok(answers)
    }

    fn query(&mut self, request: &[u8]) -> Result<Result<Vec<u8>, String>, Fault> {
        assert!(!self.poisoned, "called after a trap");
        if request == b"hold" {
            drop(GATE.lock().unwrap());
        }
        if request == b"change" {
            self.value += 1_000;
        }
        match request {
            b"trap" => Err(self.trap(Export::Query)),
            _ => Ok(Ok(self.value.to_string().into_bytes())),
        }
    }

    fn save(&mut self, _: cap_std::fs::Dir, _: &SnapshotInfo) -> Result<Vec<SnapshotFile>, Fault> {
        Err(self.trap(Export::Save))
    }

    fn load(
        &mut self,
        _: cap_std::fs::Dir,
        _: &SnapshotInfo,
        _: &[SnapshotFile],
    ) -> Result<(), Fault> {
        Err(self.trap(Export::Load))
    }

    fn set_replaying(&mut self, _: bool) {}

    fn is_poisoned(&self) -> bool {
        self.poisoned
    }
}

#[test]
fn whoever_makes_a_group_learns_that_its_machine_cannot_be_made() {
    let start = |make: fn() -> Box<dyn Machine>| {
        let (applier, thread) = Applier::start(ApplierConfig {
            group: GROUP,
            storage: storage(&bench(&[]).entries),
            plugin: PluginSource::Test(make),
            replay_until: LogIndex(0),
            metrics: Metrics::new().plugin("counter"),
            report: Box::new(|_| {}),
        })
        .unwrap();
        let made = applier.wait_until_made();
        applier.stop();
        thread.join().unwrap();
        made
    };
    assert_eq!(start(fragile), Ok(()));
    let why = start(|| panic!("the system gives no memory")).unwrap_err();
    assert!(why.contains("panicked"), "{why}");
}

struct Bench {
    applier: Applier,
    reports: Receiver<ApplyReport>,
    entries: Vec<Entry>,
    metrics: Metrics,
}

/// A log of a configuration entry and these commands, and a machine for it.
fn bench(commands: &[&str]) -> Bench {
    bench_replaying(commands, LogIndex(0))
}

/// As [`bench`]; entries up to `replay_until` were there when the node started.
fn bench_replaying(commands: &[&str], replay_until: LogIndex) -> Bench {
    let members = Configuration::stable(MemberSet::of_voters([NodeId(1)]));
    let kinds = [EntryKind::Configuration(members.into())]
        .into_iter()
        .chain(
            commands
                .iter()
                .map(|text| EntryKind::Command(text.to_string().into())),
        );
    let entries: Vec<_> = (1..)
        .zip(kinds)
        .map(|(index, kind)| Entry {
            id: LogId::new(Term(1), LogIndex(index)),
            time_ns: 1,
            kind,
        })
        .collect();
    let storage = storage(&entries);
    let metrics = Metrics::new();
    let (sender, reports) = channel();
    let (applier, _) = Applier::start(ApplierConfig {
        group: GROUP,
        storage,
        plugin: PluginSource::Test(fragile),
        replay_until,
        metrics: metrics.plugin("counter"),
        report: Box::new(move |report| {
            let _ = sender.send(report);
        }),
    })
    .unwrap();
    Bench {
        applier,
        reports,
        entries,
        metrics,
    }
}

fn storage(entries: &[Entry]) -> Arc<dyn Storage> {
    let uri = "memory://".parse().unwrap();
    let storage = kontiki_storage::open(&uri, &Options::default()).unwrap();
    storage
        .create_group(&GroupRecord {
            id: GROUP,
            body: vec![],
        })
        .unwrap();
    let last_index = entries.last().unwrap().id.index;
    let write = Persist {
        io: IoId {
            sequence: 1,
            leader_term: Term(1),
            last_index,
        },
        hard_state: Some(HardState {
            term: Term(1),
            voted_for: None,
        }),
        entries: entries.to_vec(),
        ..Persist::default()
    };
    let (sender, done) = channel();
    storage.persist(
        GROUP,
        write,
        Box::new(move |result| drop(sender.send(result))),
    );
    done.recv_timeout(PATIENCE).unwrap().unwrap();
    storage
}

type Answered = oneshot::Receiver<Result<Applied, Failure>>;

impl Bench {
    /// Hands all entries over, from memory or by way of the log, with a waiting client for each
    /// command.
    fn apply_all(&self, in_memory: bool) -> Vec<Answered> {
        let (taken, answers) = self.try_apply_all(in_memory);
        assert!(taken);
        answers
    }

    fn try_apply_all(&self, in_memory: bool) -> (bool, Vec<Answered>) {
        let last = self.entries.last().unwrap().id.index;
        let mut answers = Vec::new();
        let mut replies = Vec::new();
        for entry in self.entries.iter().filter(|entry| is_command(entry)) {
            let (reply, answer) = CommandReply::new(&self.metrics.proposals, None);
            assert!(reply.claim().take());
            replies.push((entry.id.index, reply));
            answers.push(answer);
        }
        let entries = if in_memory {
            self.entries.clone()
        } else {
            Vec::new()
        };
        let batch = ApplyBatch {
            first: LogIndex(1),
            last,
            entries,
            waiting: Vec::new(),
        };
        (self.applier.apply(batch, replies), answers)
    }

    fn query(&self, after: u64, request: &'static str) -> Answered {
        let (reply, answer) = QueryReply::new(None);
        self.applier.query(LogIndex(after), request.into(), reply);
        answer
    }

    /// Waits until the machine's thread is in that state.
    fn reaches(&self, state: MachineState) {
        let deadline = Instant::now() + PATIENCE;
        while self.applier.view().status().state != state {
            assert!(Instant::now() < deadline, "never {state:?}");
            std::thread::yield_now();
        }
    }

    /// What was measured, by the beginning of the name.
    fn measured(&self, name: &str) -> Vec<String> {
        let mut text = String::new();
        self.metrics.encode(&mut text).unwrap();
        let samples = text.lines().filter_map(|line| line.strip_prefix(name));
        let mut moved: Vec<_> = samples
            .filter(|sample| !sample.ends_with(" 0"))
            .map(str::to_owned)
            .collect();
        moved.sort();
        moved
    }

    /// Reports up to and including the first that fails or reaches the end.
    fn last_report(&self) -> ApplyReport {
        let end = ApplyReport::Applied(self.entries.last().unwrap().id.index);
        loop {
            let report = self.reports.recv_timeout(PATIENCE).unwrap();
            if report == end || matches!(report, ApplyReport::Failed(_)) {
                return report;
            }
        }
    }
}

fn text(answer: Answered) -> Result<String, Failure> {
    let applied = answer.blocking_recv().unwrap()?;
    Ok(String::from_utf8(applied.result.unwrap().to_vec()).unwrap())
}

#[test]
fn answers_are_the_same_from_memory_and_from_the_log() {
    let commands: Vec<_> = (0..600).map(|_| "add 1").collect();
    let mut hashes = Vec::new();
    for in_memory in [true, false] {
        let bench = bench(&commands);
        for (expected, answer) in bench.apply_all(in_memory).into_iter().enumerate() {
            assert_eq!(text(answer), Ok(expected.to_string()));
        }
        assert_eq!(bench.last_report(), ApplyReport::Applied(LogIndex(601)));
        hashes.push(bench.applier.view().status().outcome_hash);
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_query_waits_until_its_index_is_applied() {
    let bench = bench(&["add 1", "add 1"]);
    let after = bench.query(3, "get");
    assert_eq!(text(bench.query(0, "get")), Ok("0".to_owned()));
    drop(bench.apply_all(true));
    assert_eq!(text(after), Ok("2".to_owned()));
}

#[test]
fn a_trap_stops_before_its_entry_and_what_came_before_is_answered() {
    let bench = bench(&["add 1", "add 1", "trap", "add 1"]);
    let mut answers = bench.apply_all(true).into_iter();
    assert_eq!(text(answers.next().unwrap()), Ok("0".to_owned()));
    assert_eq!(text(answers.next().unwrap()), Ok("1".to_owned()));
    for answer in answers {
        let failure = text(answer).unwrap_err();
        assert!(
            matches!(failure, Failure::PluginFault { .. }),
            "{failure:?}"
        );
    }
    assert_eq!(bench.last_report(), ApplyReport::Failed(LogIndex(3)));
    assert!(bench.applier.view().fault().unwrap().contains("exit"));
    // What was applied can still be read; what was not never will be.
    assert_eq!(text(bench.query(3, "get")), Ok("2".to_owned()));
    assert!(text(bench.query(4, "get")).is_err());
}

#[test]
fn a_trap_in_a_query_costs_the_query_and_no_state() {
    let bench = bench(&["add 1", "add 1"]);
    drop(bench.apply_all(true));
    assert!(matches!(
        text(bench.query(3, "trap")),
        Err(Failure::PluginFault { .. })
    ));
    assert_eq!(text(bench.query(3, "get")), Ok("2".to_owned()));
    assert!(bench.applier.view().fault().is_none());
}

#[test]
fn the_thread_ends_when_it_is_told_to() {
    let bench = bench(&["add 1"]);
    bench.applier.stop();
    assert!(bench.query(0, "get").blocking_recv().is_err());
}

/// Other replicas apply what is committed, so a retry of the command could apply it twice.
#[test]
fn committed_commands_that_find_no_thread_have_an_unknown_outcome() {
    let bench = bench(&["add 1"]);
    bench.applier.stop();
    assert!(bench.query(0, "get").blocking_recv().is_err());
    let (taken, mut answers) = bench.try_apply_all(true);
    assert!(!taken, "the group must learn of it");
    let failure = text(answers.remove(0)).unwrap_err();
    assert_eq!(failure.outcome(), Outcome::Unknown);
}

#[test]
fn a_panic_stops_the_machine_and_leaves_nobody_without_an_answer() {
    let bench = bench(&["add 1", "panic", "add 1"]);
    let waits = bench.query(4, "get");
    let mut answers = bench.apply_all(true);
    assert_eq!(bench.last_report(), ApplyReport::Failed(LogIndex(0)));
    assert!(bench.applier.view().fault().unwrap().contains("panicked"));
    // Dropped while unwinding: whoever waits for it takes that for unknown.
    assert!(answers.remove(2).blocking_recv().is_err());
    let failure = text(waits).unwrap_err();
    assert!(matches!(failure, Failure::PluginFault { .. }));
    let later = bench.apply_all(true);
    for answer in later {
        assert_eq!(text(answer).unwrap_err().outcome(), Outcome::Unknown);
    }
}

#[test]
fn queries_that_nobody_asks_any_more_are_not_kept() {
    let bench = bench(&["add 1"]);
    let budget = crate::node::budget::Budget::new(10, 100);
    let ask = |after| {
        let (reply, answer) = QueryReply::new(budget.take(1));
        bench.applier.query(LogIndex(after), "get".into(), reply);
        answer
    };
    for _ in 0..10 {
        drop(ask(99));
    }
    assert!(budget.take(1).is_none());
    while budget.take(1).is_none() {
        bench.applier.sweep();
        std::thread::yield_now();
    }
}

#[test]
fn the_thread_says_what_it_is_doing() {
    let bench = bench(&["hold", "trap"]);
    bench.reaches(MachineState::Idle);
    let held = GATE.lock().unwrap();
    let answers = bench.apply_all(true);
    bench.reaches(MachineState::Replaying);
    drop(held);
    drop(answers);
    bench.reaches(MachineState::Faulted);
    bench.applier.stop();
    bench.reaches(MachineState::Ended);
}

#[test]
fn the_log_of_an_earlier_run_is_replayed() {
    let held = GATE.lock().unwrap();
    let bench = bench_replaying(&["hold", "hold"], LogIndex(2));
    let answers = bench.apply_all(true);
    bench.reaches(MachineState::Replaying);
    drop(held);
    for answer in answers {
        assert!(text(answer).is_ok());
    }
    bench.reaches(MachineState::Idle);
    assert_eq!(bench.last_report(), ApplyReport::Applied(LogIndex(3)));
}

#[test]
fn calls_and_outcomes_are_counted_with_who_is_to_blame() {
    let bench = bench(&["add 1", "add 1", "trap", "add 1"]);
    bench
        .apply_all(true)
        .into_iter()
        .for_each(|answer| drop(text(answer)));
    assert!(text(bench.query(3, "trap")).is_err());
    assert!(text(bench.query(3, "get")).is_ok());
    assert_eq!(
        bench.measured("kontiki_proposals_total"),
        ["{outcome=\"applied\"} 2", "{outcome=\"unknown\"} 2"]
    );
    assert_eq!(
        bench.measured("kontiki_proposal_duration_seconds_count"),
        [" 2"]
    );
    let call = |export: &str, result: &str, count: u32| {
        format!("{{plugin=\"counter\",export=\"{export}\",result=\"{result}\"}} {count}")
    };
    // After the trap of the command a new machine is made, and what came before it is applied anew,
    // one by one. The queries have machines of their own, two because of the trap.
    let calls = [
        call("apply", "ok", 2),
        call("apply", "plugin_fault", 1),
        call("query", "ok", 1),
        call("query", "plugin_fault", 1),
        call("start", "ok", 4),
    ];
    assert_eq!(bench.measured("kontiki_plugin_calls_total"), calls);
    assert_eq!(
        bench.measured("kontiki_apply_duration_seconds_count"),
        [" 3"]
    );
}

#[test]
fn a_query_that_does_not_end_holds_no_command() {
    let bench = bench(&["add 1", "add 1"]);
    let held = GATE.lock().unwrap();
    let query = bench.query(0, "hold");
    for answer in bench.apply_all(true) {
        assert!(text(answer).is_ok());
    }
    assert_eq!(bench.last_report(), ApplyReport::Applied(LogIndex(3)));
    drop(held);
    assert!(text(query).is_ok());
}

#[test]
fn what_a_query_changes_reaches_no_answer_and_no_hash_and_is_a_problem() {
    let clean = bench(&["add 1", "add 1"]);
    drop(clean.apply_all(true));
    assert_eq!(text(clean.query(3, "get")), Ok("2".to_owned()));
    let bench = bench(&["add 1", "add 1"]);
    // The first answer of the reader's is that of an empty log.
    assert_eq!(text(bench.query(0, "change")), Ok("1000".to_owned()));
    let answers = bench.apply_all(true);
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| text(answer).unwrap())
        .collect();
    assert_eq!(answers, ["0", "1"]);
    assert_eq!(text(bench.query(3, "get")), Ok("2".to_owned()));
    let problem = bench.applier.view().read_problem().unwrap();
    assert!(problem.contains("queries change"), "{problem}");
    let hash = |bench: &Bench| bench.applier.view().status().outcome_hash;
    assert_eq!(hash(&clean), hash(&bench));
}

#[test]
fn a_command_that_reached_a_limit_is_tried_once_more_in_a_fresh_machine() {
    let bench = bench(&["add 1", "once", "add 1"]);
    let answers = bench.apply_all(true);
    let answers: Vec<_> = answers
        .into_iter()
        .map(|answer| text(answer).unwrap())
        .collect();
    assert_eq!(answers, ["0", "1", "2"]);
    assert_eq!(bench.last_report(), ApplyReport::Applied(LogIndex(4)));
    assert_eq!(TRIES.load(Ordering::Relaxed), 2);
}

/// Together the answers are more than the host takes over in one call, each alone is not.
#[test]
fn answers_that_are_too_much_together_are_the_same_as_one_by_one() {
    let (together, alone) = (
        bench(&["large", "add 1", "large"]),
        bench(&["large", "add 1", "add 1"]),
    );
    let all = |bench: &Bench| -> Vec<_> {
        let answers = bench.apply_all(true).into_iter();
        answers.map(|answer| text(answer).unwrap()).collect()
    };
    assert_eq!(all(&together), ["0", "1", "2"]);
    assert_eq!(all(&alone), ["0", "1", "2"]);
    for bench in [&together, &alone] {
        assert_eq!(bench.last_report(), ApplyReport::Applied(LogIndex(4)));
    }
    let hash = |bench: &Bench| bench.applier.view().status().outcome_hash;
    assert_eq!(hash(&together), hash(&alone));
    assert_eq!(text(together.query(4, "get")), Ok("3".to_owned()));
}

#[test]
fn an_answer_that_is_more_than_the_host_takes_over_is_a_reject_of_its_own_command() {
    let commands = ["add 1", "huge", "add 1"];
    let mut hashes = Vec::new();
    for replay_until in [0, 4] {
        let bench = bench_replaying(&commands, LogIndex(replay_until));
        let mut answers = bench.apply_all(replay_until == 0).into_iter();
        assert_eq!(text(answers.next().unwrap()), Ok("0".to_owned()));
        let rejected = answers.next().unwrap().blocking_recv().unwrap().unwrap();
        let reason = rejected.result.unwrap_err();
        assert!(reason.starts_with("ANSWER_TOO_LARGE: "), "{reason}");
        assert_eq!(text(answers.next().unwrap()), Ok("1".to_owned()));
        assert_eq!(text(bench.query(4, "get")), Ok("2".to_owned()));
        assert_eq!(bench.last_report(), ApplyReport::Applied(LogIndex(4)));
        hashes.push(bench.applier.view().status().outcome_hash);
    }
    assert_eq!(hashes[0], hashes[1]);
}

#[test]
fn a_machine_that_answers_otherwise_when_replayed_serves_no_more() {
    let bench = bench(&["random", "random"]);
    drop(bench.apply_all(true));
    let failure = text(bench.query(3, "get")).unwrap_err();
    assert!(
        failure.to_string().contains("not deterministic"),
        "{failure}"
    );
    assert!(bench.applier.view().read_problem().is_some());
}
