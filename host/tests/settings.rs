//! Settings and leases on real nodes: what changes while they run, what a restart keeps.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::{Lease, Linearizable};
use kontiki_raft::{GroupId, LogId, LogIndex, NodeId, Term};
use kontiki_storage::{DataDirectory, Identity, Options};
use std::time::{Duration, Instant};
use support::{Cluster, Data, apply, details, query, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tonic::Status;

const COUNTER: &str = "native:counter";

/// `NAME=VALUE NAME=VALUE`.
fn values(text: &str) -> std::collections::HashMap<String, String> {
    let pairs = text.split_whitespace().filter_map(|p| p.split_once('='));
    pairs.map(|(n, v)| (n.into(), v.into())).collect()
}

/// Sets on node `index`, for a group or for the node itself.
async fn set(
    cluster: &Cluster,
    index: usize,
    group: &str,
    text: &str,
) -> Result<v1::GetSettingsReply, Status> {
    let request = v1::SetSettingsRequest {
        group: group.into(),
        values: values(text),
        dry_run: false,
    };
    let reply = cluster.admin(index).set_settings(request).await?;
    Ok(reply.into_inner())
}

async fn reset(cluster: &Cluster, index: usize, group: &str, names: &[&str]) {
    let request = v1::ResetSettingsRequest {
        group: group.into(),
        names: names.iter().map(|name| (*name).into()).collect(),
        dry_run: false,
    };
    cluster.admin(index).reset_settings(request).await.unwrap();
}

/// Value and source of a setting.
async fn setting(cluster: &Cluster, index: usize, group: &str, name: &str) -> (String, String) {
    let request = v1::GetSettingsRequest {
        group: group.into(),
    };
    let reply = cluster.admin(index).get_settings(request).await.unwrap();
    let all = reply.into_inner().settings;
    let found = all
        .into_iter()
        .find(|setting| setting.name == name)
        .unwrap();
    (found.value, found.source)
}

fn is(value: &str, source: &str) -> (String, String) {
    (value.into(), source.into())
}

/// Election timeout and clock drift of the replica itself, in milliseconds.
async fn timers(cluster: &Cluster, index: usize, group: &str) -> (u64, u64) {
    let d = cluster.describe(index, group).await.unwrap();
    (d.election_timeout_us / 1_000, d.max_clock_drift_us / 1_000)
}

async fn lease(cluster: &Cluster, index: usize) -> String {
    cluster.describe(index, "counter").await.unwrap().lease
}

async fn with_leases(data: Data, settings: &str) -> Cluster {
    let mut cluster = Cluster::prepare(3, data);
    for index in 0..3 {
        let all = settings.split_whitespace().chain(["leader_lease=true"]);
        cluster.options(index).settings = all.map(str::to_owned).collect();
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.create_group("counter", COUNTER).await;
    cluster
}

async fn await_lease(cluster: &Cluster) -> usize {
    wait_for("a lease", || async {
        let leader = cluster.leader("counter").await;
        (lease(cluster, leader).await == "valid").then_some(leader)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_by_lease_and_transfers_under_leases() {
    let cluster = with_leases(Data::Memory, "").await;
    let leader = await_lease(&cluster).await;
    for value in 1..=3 {
        let added = apply(&mut cluster.client(leader), "counter", "add 1").await;
        added.unwrap().1.unwrap();
        for index in 0..3 {
            let read = query(&mut cluster.client(index), "counter", "get", Lease).await;
            assert_eq!(read.unwrap(), value.to_string());
        }
    }
    let target = (leader + 1) % 3;
    let request = v1::TransferLeadershipRequest {
        group: "counter".into(),
        target: format!("n{}", target + 1),
    };
    let moved = cluster.admin(leader).transfer_leadership(request).await;
    // The third node honours the old leader's lease for 1.3 s, but is told that it is void.
    let elapsed = Duration::from_micros(moved.unwrap().into_inner().elapsed_us);
    assert!(elapsed < Duration::from_millis(1_000), "{elapsed:?}");
    assert_eq!(await_lease(&cluster).await, target);
    assert_eq!(lease(&cluster, leader).await, "expired");
    let read = query(&mut cluster.client(leader), "counter", "get", Lease).await;
    assert_eq!(read.unwrap(), "3");
    cluster.stop().await;
}

/// The promise was made longer while running; after a restart it is waited for in full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarted_voters_honour_the_lease_they_may_owe() {
    let mut cluster = with_leases(Data::Disk, "max_clock_drift=100ms").await;
    await_lease(&cluster).await;
    for index in 0..3 {
        set(&cluster, index, "", "max_clock_drift=2700ms")
            .await
            .unwrap();
    }
    let leader = await_lease(&cluster).await;
    assert_eq!(timers(&cluster, leader, "counter").await, (300, 2_700));
    let stopping = cluster.nodes.iter_mut().filter_map(Option::take);
    futures_util::future::join_all(stopping.map(|node| node.shutdown())).await;
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    let began = Instant::now();
    cluster.leader("counter").await;
    let waited = began.elapsed();
    assert!(waited >= Duration::from_millis(2_000), "{waited:?}");
    cluster.stop().await;
}

/// Leases are switched on and off while running, member by member.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_switched_while_running() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    assert_eq!(lease(&cluster, leader).await, "disabled");
    set(&cluster, leader, "counter", "leader_lease=true")
        .await
        .unwrap();
    assert_eq!(lease(&cluster, leader).await, "expired", "nobody promises");
    let other = (leader + 1) % 3;
    set(&cluster, other, "counter", "leader_lease=true")
        .await
        .unwrap();
    assert_eq!(await_lease(&cluster).await, leader);
    for index in [other, leader] {
        set(&cluster, index, "counter", "leader_lease=false")
            .await
            .unwrap();
    }
    assert_eq!(lease(&cluster, leader).await, "disabled");
    let read = query(&mut cluster.client(leader), "counter", "get", Linearizable).await;
    assert_eq!(read.unwrap(), "0");
    cluster.stop().await;
}

/// Both of braft's forms, on a node and on a group, which keeps its own; groups made later have the
/// node's; a restart keeps all of it; undone they are as configured.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_node_and_group_lie_over_one_another_and_survive() {
    let mut cluster = Cluster::start(1, Data::Disk).await;
    cluster.create_group("one", COUNTER).await;
    assert_eq!(timers(&cluster, 0, "one").await, (300, 1_000));
    // One argument: the sum stays.
    set(&cluster, 0, "", "election_timeout=400ms")
        .await
        .unwrap();
    assert_eq!(timers(&cluster, 0, "one").await, (400, 900));
    // Two: both as given, for this group.
    let own = "election_timeout=500ms max_clock_drift=100ms";
    set(&cluster, 0, "one", own).await.unwrap();
    assert_eq!(timers(&cluster, 0, "one").await, (500, 100));
    // The node's drift does not touch the group's own timers.
    set(&cluster, 0, "", "max_clock_drift=700ms").await.unwrap();
    cluster.create_group("two", COUNTER).await;
    assert_eq!(timers(&cluster, 0, "one").await, (500, 100));
    assert_eq!(timers(&cluster, 0, "two").await, (400, 700));
    set(&cluster, 0, "two", "inflight_messages_max=3")
        .await
        .unwrap();

    cluster.stop_node(0).await;
    cluster.start_node(0).await;
    assert_eq!(timers(&cluster, 0, "one").await, (500, 100));
    assert_eq!(timers(&cluster, 0, "two").await, (400, 700));
    let seen = setting(&cluster, 0, "two", "inflight_messages_max").await;
    assert_eq!(seen, is("3", "group"));
    let seen = setting(&cluster, 0, "two", "election_timeout").await;
    assert_eq!(seen, is("400ms", "node"));
    let seen = setting(&cluster, 0, "", "priority").await;
    assert_eq!(seen, is("100", "default"));

    reset(&cluster, 0, "", &["election_timeout"]).await;
    let seen = setting(&cluster, 0, "two", "election_timeout").await;
    assert_eq!(seen, is("300ms", "configuration"));
    assert_eq!(timers(&cluster, 0, "two").await, (300, 1_000), "as a pair");
    reset(&cluster, 0, "one", &[]).await;
    assert_eq!(timers(&cluster, 0, "one").await, (300, 1_000));
    cluster.stop().await;
}

/// One group cannot go along: nobody does, and the answer says which.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_made_everywhere_or_nowhere() {
    let cluster = Cluster::start(1, Data::Memory).await;
    cluster.create_group("small", COUNTER).await;
    cluster.create_group("usual", COUNTER).await;
    let own = "entry_size_bytes_max=1000 uncommitted_size_bytes_max=2000";
    set(&cluster, 0, "small", own).await.unwrap();
    set(&cluster, 0, "small", "uncommitted_size_bytes_max=5000000")
        .await
        .unwrap();
    reset(&cluster, 0, "small", &["entry_size_bytes_max"]).await;
    let refused = set(&cluster, 0, "", "priority=7 entry_size_bytes_max=6000000").await;
    let refused = refused.unwrap_err();
    assert_eq!(details(&refused).0, "SETTING_INVALID");
    assert!(
        refused.message().contains("\"small\""),
        "{}",
        refused.message()
    );
    for group in ["", "usual", "small"] {
        let seen = setting(&cluster, 0, group, "priority").await;
        assert_eq!(seen, is("100", "default"));
    }
    let request = v1::SetSettingsRequest {
        group: String::new(),
        values: values("priority=7"),
        dry_run: true,
    };
    let reply = cluster.admin(0).set_settings(request).await.unwrap();
    let would = reply.into_inner().settings;
    let would = would.iter().find(|setting| setting.name == "priority");
    assert_eq!(would.unwrap().value, "7");
    assert_eq!(
        setting(&cluster, 0, "", "priority").await,
        is("100", "default")
    );
    cluster.stop().await;
}

/// A replica that has stopped, and a group that cannot be opened, do not hold up the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_replica_is_passed_over_and_reported() {
    let mut cluster = Cluster::start(1, Data::Disk).await;
    for name in ["faulted", "unreadable", "well"] {
        cluster.create_group(name, COUNTER).await;
        let added = apply(&mut cluster.client(0), name, "add 1").await;
        added.unwrap().1.unwrap();
    }
    let mut ids = Vec::new();
    for name in ["faulted", "unreadable"] {
        let summary = cluster.describe(0, name).await.unwrap().summary.unwrap();
        ids.push(GroupId(summary.id));
    }
    cluster.stop_node(0).await;
    damage(&cluster, ids[0], ids[1]);
    cluster.start_node(0).await;
    let reply = set(&cluster, 0, "", "heartbeat_factor=5").await.unwrap();
    let mut skipped: Vec<_> = reply.skipped.iter().map(|s| s.group.as_str()).collect();
    skipped.sort_unstable();
    assert_eq!(skipped.len(), 2, "{:?}", reply.skipped);
    assert!(skipped.contains(&"faulted"), "{skipped:?}");
    for group in ["", "well", "faulted"] {
        let seen = setting(&cluster, 0, group, "heartbeat_factor").await;
        assert_eq!(seen, is("5", "node"));
    }
    cluster.stop().await;
}

/// A log cut short without a snapshot, and a record of a format nobody knows.
fn damage(cluster: &Cluster, log: GroupId, record: GroupId) {
    let wanted = Identity {
        node: NodeId(1),
        name: "n1".into(),
        cluster: String::new(),
    };
    let path = cluster.directory.path().join("n1");
    let directory = DataDirectory::open(&path, false, &wanted).unwrap();
    let uri = directory.storage_uri().unwrap();
    let storage = kontiki_storage::open(&uri, &Options::default()).unwrap();
    let first = storage.recover(log, 0).unwrap().terms[0];
    storage.compact(log, LogId::new(Term(first.term.0), LogIndex(1)));
    let groups = storage.groups().unwrap();
    let mut unreadable = groups.into_iter().find(|g| g.id == record).unwrap();
    unreadable.body[0] = 99;
    storage.update_group(&unreadable).unwrap();
    storage.close();
}

/// A replica is often made read-only because its disk fills up: a restart does not end that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_mode_survives_a_restart() {
    let mut cluster = Cluster::start(1, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    for on in [true, false] {
        let request = v1::SetReadOnlyRequest {
            group: "counter".into(),
            on,
            local: false,
        };
        cluster.admin(0).set_read_only(request).await.unwrap();
        cluster.stop_node(0).await;
        cluster.start_node(0).await;
        cluster.leader("counter").await;
        assert_eq!(cluster.describe(0, "counter").await.unwrap().read_only, on);
        let added = apply(&mut cluster.client(0), "counter", "add 1").await;
        assert_eq!(added.is_err(), on, "{added:?}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flags_say_where_a_value_comes_from_and_change_it() {
    let mut cluster = Cluster::start(1, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let page = flag(&cluster, "GET", "/flags/election_timeout").await;
    assert!(
        page.contains("300ms") && page.contains("default 1s; from configuration"),
        "{page}"
    );
    let page = flag(&cluster, "POST", "/flags/election_timeout?setvalue=450ms").await;
    assert!(page.contains("election_timeout = 450ms"), "{page}");
    assert_eq!(timers(&cluster, 0, "counter").await, (450, 850));
    cluster.stop_node(0).await;
    cluster.start_node(0).await;
    let page = flag(&cluster, "GET", "/flags/election_timeout").await;
    assert!(
        page.contains("450ms") && page.contains("from node"),
        "{page}"
    );
    cluster.stop().await;
}

async fn flag(cluster: &Cluster, method: &str, path: &str) -> String {
    let address = cluster.node(0).ports().http.unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply.split_once("\r\n\r\n").unwrap().1.to_owned()
}
