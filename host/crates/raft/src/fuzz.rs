//! Random schedules over a small cluster, and random messages at a single replica. Small brothers
//! of the simulator: they find the crude mistakes within a second.

use crate::random::Random;
use crate::testing::{Cluster, DiskImage, members};
use crate::{
    AppendEntries, AppendEntriesReply, Configuration, ConfigurationChange, Core, Echo, Effect,
    Effects, ElectionTurn, Entry, EntryKind, Event, Heartbeat, HeartbeatReply, HorizonNews, Input,
    InstallSnapshot, InstallSnapshotReply, Instant, IoId, LeasePromise, LeaseStatus, LogId,
    LogIndex, MemberSet, Message, MessageBody, NodeId, Proposal, ReadIndexReply, ReadIndexRequest,
    ReadMode, Recovered, RequestVote, RequestVoteReply, Role, Settings, SnapshotMeta, Standing,
    Term, TimeoutNow, Token, TransferTarget,
};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use bytes::Bytes;
use core::time::Duration;

const NODES: u64 = 5;

fn chance(random: &mut Random, percent: u64) -> bool {
    random.next() % 100 < percent
}

/// What must hold for the whole history of a cluster.
#[derive(Default)]
struct Oracle {
    /// Leader of each term.
    leaders: BTreeMap<Term, u64>,
    /// What was ever applied at each index.
    applied: BTreeMap<LogIndex, Entry>,
    seen: BTreeMap<u64, usize>,
    /// Commit index of each node when it was last looked at.
    commits: BTreeMap<u64, LogIndex>,
    /// How often a replica could say how old its state is.
    horizons: usize,
}

impl Oracle {
    fn check(&mut self, cluster: &Cluster) {
        for (&id, node) in &cluster.nodes {
            if matches!(node.core.role(), Role::Leader | Role::Transferring) {
                let first = *self.leaders.entry(node.core.term()).or_insert(id);
                assert_eq!(first, id, "two leaders in term {}", node.core.term());
            }
            let seen = self.seen.entry(id).or_default();
            if *seen > node.applied.len() {
                *seen = 0; // restarted
            }
            for entry in &node.applied[*seen..] {
                let known = self
                    .applied
                    .entry(entry.id.index)
                    .or_insert_with(|| entry.clone());
                assert_eq!(known, entry, "node {id} applied something else");
            }
            *seen = node.applied.len();
            let odd = |event: &&Event| {
                matches!(event, Event::Failed { .. } | Event::Conflict { .. })
                    || matches!(event, Event::SecondLeader { .. })
            };
            assert_eq!(node.events.iter().find(odd), None, "node {id}");
            self.check_commit(cluster, id);
            let status = node.core.status(cluster.now);
            assert!(status.applied_index <= status.applying_index);
            assert!(status.applying_index <= status.commit_index);
            assert!(status.commit_index <= status.last.index);
            assert!(status.log_start.index <= status.applied_index);
            self.horizons += usize::from(cluster.check_horizon(id));
        }
        let leases = cluster
            .nodes
            .values()
            .filter(|node| node.core.status(cluster.now).lease == LeaseStatus::Valid);
        assert!(leases.count() <= 1, "two leases at one time");
    }

    /// What a leader commits is on the disks of a quorum of a configuration it may go by.
    fn check_commit(&mut self, cluster: &Cluster, id: u64) {
        let core = &cluster.node(id).core;
        let commit = core.commit_index();
        let before = self.commits.insert(id, commit).unwrap_or_default();
        let leads = matches!(core.role(), Role::Leader | Role::Transferring);
        if !leads || commit <= before {
            return;
        }
        let disk = &cluster.node(id).disk;
        let term = disk.entries.iter().find(|entry| entry.id.index == commit);
        let Some(at) = term.map(|entry| entry.id) else {
            return; // Committed by the others before it is durable here.
        };
        assert_eq!(
            at.term,
            core.term(),
            "node {id} committed an entry of an older term"
        );
        let last = core.last_log_id().index;
        let held = (commit.0..=last.0).any(|index| {
            let configuration = core.configuration_at(LogIndex(index));
            configuration.is_some_and(|c| cluster.is_held_by_quorum(at, c))
        });
        assert!(held, "node {id} committed {at} without a quorum");
    }
}

fn disturb(cluster: &mut Cluster, random: &mut Random) {
    let ids: Vec<u64> = cluster.nodes.keys().copied().collect();
    let id = ids[random.next() as usize % ids.len()];
    let other = ids[random.next() as usize % ids.len()];
    match random.next() % 24 {
        0 => cluster.crash(id),
        1 => {
            cluster.cut.insert((id, other));
        }
        2 => cluster.isolate(id),
        3 | 4 => cluster.heal(),
        5 => cluster.node_mut(id).hold_disk ^= true,
        6 => {
            let token = cluster.token();
            cluster.give_later(id, Input::Campaign { token });
        }
        7 => {
            let token = cluster.token();
            let target = TransferTarget::Best;
            cluster.give_later(id, Input::TransferLeadership { token, target });
        }
        8 => {
            let change = match random.next() % 6 {
                0 => ConfigurationChange::AddVoter(NodeId(other)),
                1 => ConfigurationChange::AddLearner(NodeId(other)),
                2 => ConfigurationChange::Remove(NodeId(other)),
                3 => ConfigurationChange::Promote(NodeId(other)),
                4 => ConfigurationChange::Demote(NodeId(other)),
                _ => {
                    let wanted = (1..=NODES)
                        .filter(|_| chance(random, 60))
                        .collect::<Vec<_>>();
                    ConfigurationChange::Replace(members(wanted))
                }
            };
            let token = cluster.token();
            let expected = None;
            cluster.give_later(
                id,
                Input::ChangeConfiguration {
                    token,
                    change,
                    expected,
                },
            );
        }
        9 => cluster.give_later(
            id,
            Input::PeerUnreachable {
                peer: NodeId(other),
            },
        ),
        10 => {
            let mode = ReadMode::Quorum;
            let token = cluster.token();
            cluster.give_later(id, Input::ReadIndex { token, mode });
        }
        11 => cluster.try_save_snapshot(id),
        _ => {
            let token = cluster.token();
            let payload = Bytes::copy_from_slice(&token.0.to_be_bytes());
            let proposal = Proposal {
                token,
                expected_term: None,
                time_ns: 0,
                kind: EntryKind::Command(payload),
            };
            let leader = cluster.leader().unwrap_or(id);
            cluster.give_later(leader, Input::Propose(Vec::from([proposal])));
        }
    }
}

fn run(seed: u64) -> Oracle {
    run_with(seed, |_| {})
}

fn run_with(seed: u64, prepare: impl Fn(&mut Cluster)) -> Oracle {
    let mut random = Random::new(seed);
    let settings = Settings {
        leader_lease: chance(&mut random, 30),
        cache_size_bytes_max: if chance(&mut random, 50) {
            300
        } else {
            1 << 20
        },
        append_entries_max: 1 + random.next() as usize % 4,
        inflight_messages_max: 1 + random.next() as usize % 4,
        apply_inflight_entries_max: 1 + random.next() as usize % 8,
        catch_up_timeout: Duration::from_millis(3_000),
        ..Settings::default()
    };
    let mut cluster = Cluster::with(3, settings);
    prepare(&mut cluster);
    for id in 1..=3 {
        cluster.restart(id);
    }
    for id in 4..=NODES {
        cluster.open(id, DiskImage::default());
    }
    let mut oracle = Oracle::default();
    let loss = [0, 0, 5, 20][random.next() as usize % 4];
    let trouble = 1 + random.next() % 20;
    for _ in 0..3_000 {
        if chance(&mut random, trouble) {
            disturb(&mut cluster, &mut random);
        }
        cluster.random_step(&mut random, loss);
        oracle.check(&cluster);
    }
    recover(&mut cluster, &mut oracle, seed);
    oracle
}

/// When the trouble is over everybody agrees and commands go through again.
fn recover(cluster: &mut Cluster, oracle: &mut Oracle, seed: u64) {
    cluster.heal();
    for node in cluster.nodes.values_mut() {
        node.hold_disk = false;
    }
    cluster.settle();
    cluster.run_ms(30_000);
    oracle.check(cluster);
    let leader = cluster
        .leader()
        .unwrap_or_else(|| panic!("seed {seed}: no leader"));
    let token = cluster.propose(leader, b"after");
    cluster.run_ms(5_000);
    oracle.check(cluster);
    assert!(
        cluster.node(leader).answered.contains(&token),
        "seed {seed}: not applied"
    );
    let status = cluster.node(leader).core.status(cluster.now);
    for member in status.configuration.members() {
        let other = cluster.node(member.0).core.status(cluster.now);
        assert_eq!(
            other.applied_index, status.applied_index,
            "seed {seed}: node {member}"
        );
    }
}

#[test]
fn random_schedules_keep_every_promise() {
    let (mut entries, mut elections, mut horizons) = (0, 0, 0);
    for seed in 0..seeds(150) {
        let oracle = run(seed);
        entries += oracle.applied.len();
        elections += oracle.leaders.len();
        horizons += oracle.horizons;
    }
    assert!(
        horizons > 100_000,
        "too little happened: {horizons} horizons"
    );
    assert!(entries > 1_500, "too little happened: {entries} entries");
    assert!(
        elections > 300,
        "too little happened: {elections} elections"
    );
}

fn id(random: &mut Random) -> LogId {
    LogId::new(Term(small(random)), LogIndex(small(random)))
}

fn echo(random: &mut Random) -> Echo {
    Echo {
        incarnation: small(random),
        at: Instant(small(random)),
    }
}

/// Mostly small, sometimes absurd.
fn small(random: &mut Random) -> u64 {
    match random.next() % 40 {
        0 => u64::MAX,
        1 => 1 << 62,
        2 => (1 << 62) - 1,
        _ => random.next() % 12,
    }
}

fn entry(random: &mut Random, at: LogId) -> Entry {
    let kind = if chance(random, 20) {
        EntryKind::Configuration(Configuration::stable(members(1..=random.next() % 5)).into())
    } else {
        EntryKind::Command(Bytes::from_static(b"x"))
    };
    Entry {
        id: at,
        time_ns: 0,
        kind,
    }
}

fn entries(random: &mut Random, prev: LogId) -> Vec<Entry> {
    let mut at = prev;
    let mut entries = Vec::new();
    for _ in 0..random.next() % 4 {
        at.index = LogIndex(at.index.0.wrapping_add(1));
        at.term = Term(at.term.0.wrapping_add(random.next() % 2));
        if chance(random, 3) {
            at = id(random);
        }
        entries.push(entry(random, at));
    }
    entries
}

fn promise(random: &mut Random) -> Option<LeasePromise> {
    let span = random.below(Duration::from_secs(3));
    let drift = random.below(Duration::from_secs(2));
    chance(random, 50).then_some(LeasePromise { span, drift })
}

fn snapshot(random: &mut Random) -> SnapshotMeta {
    SnapshotMeta {
        last_included: id(random),
        configuration: Configuration::stable(members(1..=random.next() % 4)),
    }
}

fn body(random: &mut Random) -> MessageBody {
    match random.next() % 11 {
        0 => MessageBody::RequestVote(RequestVote {
            pre_vote: chance(random, 50),
            last: id(random),
            round: small(random),
            forced: chance(random, 50),
            disrupted_leader: chance(random, 30).then(|| (NodeId(2), Term(small(random)))),
            priority: 1,
            applied: chance(random, 50).then(|| LogIndex(small(random))),
        }),
        1 => MessageBody::RequestVoteReply(RequestVoteReply {
            pre_vote: chance(random, 50),
            round: small(random),
            granted: chance(random, 50),
            rejected_by_lease: chance(random, 50),
            disrupted: None,
        }),
        2 | 3 => {
            let prev = id(random);
            MessageBody::AppendEntries(AppendEntries {
                prev,
                entries: entries(random, prev),
                commit: LogIndex(small(random)),
                sequence: small(random),
            })
        }
        4 => MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence: small(random),
            index: LogIndex(small(random)),
            conflict: chance(random, 50).then(|| id(random)),
            read_only: chance(random, 50),
            promise: promise(random),
        }),
        5 => MessageBody::Heartbeat(Heartbeat {
            commit: LogIndex(small(random)),
            round: small(random),
            horizon: chance(random, 50).then(|| HorizonNews {
                commit: LogIndex(small(random)),
                age: Duration::from_micros(small(random)),
                echo: echo(random),
            }),
            turn: ElectionTurn::Later,
        }),
        6 => MessageBody::HeartbeatReply(HeartbeatReply {
            round: small(random),
            read_only: chance(random, 50),
            echo: chance(random, 50).then(|| echo(random)),
            promise: promise(random),
            standing: Standing {
                priority: small(random) as u32,
                drained: chance(random, 50),
                applied: chance(random, 50).then(|| LogIndex(small(random))),
            },
        }),
        7 => MessageBody::InstallSnapshot(InstallSnapshot {
            snapshot: snapshot(random),
        }),
        8 => MessageBody::InstallSnapshotReply(InstallSnapshotReply {
            last_included: id(random),
            installed: chance(random, 50),
        }),
        9 => MessageBody::TimeoutNow(TimeoutNow {
            leader_stepped_down: chance(random, 50),
        }),
        _ if chance(random, 50) => MessageBody::ReadIndexRequest(ReadIndexRequest {
            token: Token(small(random)),
            mode: ReadMode::Lease,
        }),
        _ => MessageBody::ReadIndexReply(ReadIndexReply {
            token: Token(small(random)),
            index: chance(random, 70).then(|| LogIndex(small(random))),
            busy: chance(random, 20),
        }),
    }
}

fn junk(random: &mut Random, term: Term) -> Input {
    match random.next() % 30 {
        0 => Input::Persisted {
            io: IoId {
                sequence: small(random),
                leader_term: Term(small(random)),
                last_index: LogIndex(small(random)),
            },
        },
        1 => Input::Applied {
            index: LogIndex(small(random)),
        },
        2 => Input::SnapshotSaved {
            snapshot: snapshot(random),
        },
        3 => Input::SnapshotFailed {
            snapshot: snapshot(random),
        },
        4 => Input::Tick,
        5 => Input::PeerUnreachable { peer: NodeId(2) },
        6 => Input::ResetPeers {
            token: Token(1),
            members: MemberSet::of_voters([NodeId(1), NodeId(random.next() % 4)]),
        },
        _ => {
            let term = if chance(random, 60) {
                term
            } else {
                Term(small(random))
            };
            Input::Message {
                from: NodeId(random.next() % 5),
                message: Message {
                    term,
                    body: body(random),
                },
            }
        }
    }
}

#[test]
fn no_message_makes_a_replica_panic_or_lose_what_is_committed() {
    for seed in 0..seeds(300) {
        let mut random = Random::new(seed);
        let mut core = Core::new(
            NodeId(1),
            Settings::default(),
            members(1..=3),
            Recovered::default(),
            Instant(0),
            seed,
        );
        let mut effects = Effects::new();
        let mut now = Instant(0);
        let mut commit = LogIndex(0);
        for _ in 0..400 {
            now = now.plus(Duration::from_millis(random.next() % 400));
            let input = junk(&mut random, core.term());
            core.handle(now, input, &mut effects);
            // Honest storage and state machine beneath it.
            for effect in core::mem::take(&mut effects) {
                let follow_up = match effect {
                    Effect::Persist(persist) => Input::Persisted { io: persist.io },
                    Effect::Apply(batch) => Input::Applied { index: batch.last },
                    Effect::FetchSnapshot { snapshot, .. } if chance(&mut random, 30) => {
                        Input::SnapshotInstalled { snapshot }
                    }
                    _ => continue,
                };
                core.handle(now, follow_up, &mut effects);
            }
            assert!(core.commit_index() >= commit, "seed {seed}");
            commit = core.commit_index();
        }
    }
}

/// As many seeds as `KONTIKI_SEEDS` says, or `default`.
fn seeds(default: u64) -> u64 {
    let wanted = std::env::var("KONTIKI_SEEDS").ok();
    wanted
        .and_then(|seeds| seeds.parse().ok())
        .unwrap_or(default)
}

/// Which planted faults these schedules find is only a hint: the simulator is there for that.
#[cfg(feature = "planted-bugs")]
#[test]
#[ignore = "prints a table"]
fn planted_faults_are_found() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    for &bug in crate::PlantedBug::ALL {
        let fails = |seed: &u64| {
            let run = || run_with(*seed, |cluster| cluster.planted = Some(bug));
            catch_unwind(AssertUnwindSafe(run)).is_err()
        };
        let found = (0..seeds(1_000)).find(fails);
        std::println!("FOUND {bug:?}: {found:?}");
    }
}
