//! `/metrics`: its form, its names, and that it counts what happens.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::Linearizable;
use std::collections::BTreeMap;
use support::openmetrics::Exposition;
use support::{Cluster, Data, apply, http, query, wait_for};
use tonic::Request;

const COUNTER: &str = "native:counter";
/// Names, types and labels that operators are told of.
const DOCUMENTED: &str = include_str!("../docs/operations/metrics.md");

async fn scrape(cluster: &Cluster, index: usize) -> Exposition {
    let address = cluster.node(index).ports().http.unwrap();
    let (code, text) = http(address, "GET", "/metrics", "").await;
    assert_eq!(code, 200, "{text}");
    Exposition::parse(&text)
}

async fn add(cluster: &Cluster, index: usize, group: &str, count: usize) {
    for _ in 0..count {
        let answer = apply(&mut cluster.client(index), group, "add 1").await;
        answer.unwrap().1.unwrap();
    }
}

/// A command that is refused before anything is appended.
async fn refused(cluster: &Cluster, group: &str) {
    let request = v1::ApplyRequest {
        group: group.into(),
        command: b"add 1".to_vec().into(),
        expected_term: Some(u64::MAX),
        ..Default::default()
    };
    cluster.client(0).apply(request).await.unwrap_err();
}

/// How far samples have moved between two scrapes.
struct Moved {
    before: Exposition,
    after: Exposition,
}

impl Moved {
    fn by(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.after.sum(name, labels) - self.before.sum(name, labels)
    }
}

/// Rows of the document's tables that begin with a metric: name, type, labels.
fn documented() -> BTreeMap<String, (String, Vec<String>)> {
    let rows = DOCUMENTED.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|').map(str::trim);
        let name = cells.next()?.strip_suffix('`')?.to_owned();
        let kind = cells.next()?.to_owned();
        let mut labels: Vec<_> = cells
            .next()?
            .split(',')
            .map(|label| label.trim_matches([' ', '`', '†']).to_owned())
            .filter(|label| !label.is_empty())
            .collect();
        labels.sort();
        Some((name, (kind, labels)))
    });
    rows.collect()
}

fn exported(page: &Exposition) -> BTreeMap<String, (String, Vec<String>)> {
    let families = page.families.iter().map(|(name, family)| {
        let suffix = match family.kind.as_str() {
            "counter" => "_total",
            _ => "",
        };
        let labels = family.label_keys().into_iter().collect();
        (format!("{name}{suffix}"), (family.kind.clone(), labels))
    });
    families.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_what_is_documented() {
    let cluster = Cluster::start(2, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    add(&cluster, leader, "counter", 1).await;
    let page = scrape(&cluster, leader).await;
    let (documented, exported) = (documented(), exported(&page));
    for (name, row) in &exported {
        assert_eq!(documented.get(name), Some(row), "the document on {name}");
    }
    for name in documented.keys() {
        assert!(exported.contains_key(name), "{name} is not exported");
    }
    assert!(page.sum("kontiki_wal_bytes", &[]) > 0.0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_move_by_exactly_what_was_done() {
    let cluster = Cluster::start(1, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, "counter", 1).await;
    let before = scrape(&cluster, 0).await;
    add(&cluster, 0, "counter", 7).await;
    for _ in 0..3 {
        let client = &mut cluster.client(0);
        let value = query(client, "counter", "get", Linearizable).await;
        assert_eq!(value.unwrap(), "8");
    }
    refused(&cluster, "counter").await;
    let after = scrape(&cluster, 0).await;
    let moved = Moved { before, after };

    let outcome = |outcome| moved.by("kontiki_proposals_total", &[("outcome", outcome)]);
    assert_eq!(outcome("applied"), 7.0);
    assert_eq!(outcome("not_applied"), 1.0);
    assert_eq!(outcome("unknown"), 0.0);
    for (histogram, count) in [
        ("kontiki_proposal_duration_seconds_count", 7.0),
        ("kontiki_commit_duration_seconds_count", 7.0),
        ("kontiki_read_index_duration_seconds_count", 3.0),
        // One at a time, so each is a batch and a sync of its own.
        ("kontiki_apply_duration_seconds_count", 7.0),
        ("kontiki_wal_entries_total", 7.0),
    ] {
        assert_eq!(moved.by(histogram, &[]), count, "{histogram}");
    }
    let calls = |export| {
        let labels = [("plugin", "counter"), ("export", export), ("result", "ok")];
        moved.by("kontiki_plugin_calls_total", &labels)
    };
    // The first query starts the instance that queries run on; what it is fed is counted nowhere.
    assert_eq!(
        [calls("apply"), calls("query"), calls("start")],
        [7.0, 3.0, 1.0]
    );
    let method = ("method", "kontiki.v1.Client/Apply");
    let handled = |code| moved.by("kontiki_grpc_handled_total", &[method, ("code", code)]);
    assert_eq!([handled("OK"), handled("ABORTED")], [7.0, 1.0]);
    assert_eq!(
        moved.by("kontiki_grpc_duration_seconds_count", &[method]),
        8.0
    );
    assert_eq!(moved.by("kontiki_leader_changes_total", &[]), 0.0);
    // The one ordered when the group is made may find another under way, and end it. None is lost.
    let elections = |result| {
        let labels = [("result", result)];
        moved.after.sum("kontiki_elections_total", &labels)
    };
    assert_eq!(["won", "lost"].map(elections), [1.0, 0.0]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_of_no_method_makes_no_series_of_its_own() {
    let cluster = Cluster::start(1, Data::Memory).await;
    for path in ["/kontiki.v1.Client/Nothing", "/x/y", "/kontiki.v1.Client"] {
        let mut client = tonic::client::Grpc::new(cluster.channel(0));
        client.ready().await.unwrap();
        let codec = tonic_prost::ProstCodec::<v1::ApplyRequest, v1::ApplyReply>::default();
        let request = Request::new(v1::ApplyRequest::default());
        let path = path.parse().unwrap();
        client.unary(request, path, codec).await.unwrap_err();
    }
    let page = scrape(&cluster, 0).await;
    let other = [("method", "other"), ("code", "UNIMPLEMENTED")];
    assert_eq!(page.sum("kontiki_grpc_handled_total", &other), 3.0);
    let methods = page.label_values("method").into_iter();
    let strange: Vec<_> = methods
        .filter(|name| name.contains("Nothing") || name.starts_with('x'))
        .collect();
    assert!(strange.is_empty(), "{strange:?}");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_leaves_takes_its_series_and_nothing_else() {
    let cluster = Cluster::start(1, Data::Memory).await;
    cluster.create_group("stays", COUNTER).await;
    let spec = cluster.try_create_group("leaves", COUNTER, &[]).await;
    add(&cluster, 0, "stays", 2).await;
    wait_for("a leader", || async {
        let page = scrape(&cluster, 0).await;
        (page.sum("kontiki_group_has_leader", &[]) == 2.0).then_some(())
    })
    .await;
    refused(&cluster, "leaves").await;
    let before = scrape(&cluster, 0).await;
    assert!(before.label_values("group").contains("leaves"));

    let request = v1::DeleteGroupRequest {
        group: spec.unwrap().name,
        dry_run: false,
        confirm: "leaves".into(),
    };
    cluster.admin(0).delete_group(request).await.unwrap();
    let after = scrape(&cluster, 0).await;
    let groups: Vec<_> = after.label_values("group").into_iter().collect();
    assert_eq!(groups, ["stays"]);
    assert_eq!(after.sum("kontiki_groups", &[]), 1.0);
    let counters = before.families.iter().filter(|(_, f)| f.kind != "gauge");
    for sample in counters.flat_map(|(_, family)| &family.samples) {
        let same = after
            .samples(&sample.name)
            .find(|now| now.labels == sample.labels);
        let now = same.unwrap_or_else(|| panic!("{sample:?} is gone")).value;
        assert!(now >= sample.value, "{sample:?} fell to {now}");
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_cannot_be_opened_is_counted() {
    let mut cluster = Cluster::start(1, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    cluster.stop_node(0).await;
    cluster.options(0).allow_native_machines = Some(false);
    cluster.start_node(0).await;
    let page = scrape(&cluster, 0).await;
    let of_role = |role| page.sum("kontiki_groups", &[("role", role)]);
    assert_eq!([of_role("broken"), of_role("leader")], [1.0, 0.0]);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_the_number_of_groups_there_are_sums_only() {
    let mut cluster = Cluster::prepare(2, Data::Memory);
    for index in 0..2 {
        cluster.options(index).metrics_per_group = Some(1);
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.create_group("one", COUNTER).await;
    let few = scrape(&cluster, 0).await;
    assert_eq!(
        few.label_values("group").into_iter().collect::<Vec<_>>(),
        ["one"]
    );
    cluster.create_group("two", COUNTER).await;
    let leader = cluster.leader("two").await;
    add(&cluster, leader, "one", 3).await;
    add(&cluster, leader, "two", 4).await;
    let page = scrape(&cluster, leader).await;
    assert!(page.label_values("group").is_empty(), "{page:?}");
    for name in [
        "kontiki_apply_lag_entries",
        "kontiki_proposals_pending",
        "kontiki_requests_waiting",
        "kontiki_plugin_memory_bytes",
        "kontiki_groups_without_leader",
    ] {
        assert_eq!(page.samples(name).count(), 1, "{name}");
    }
    let info: Vec<_> = page.samples("kontiki_plugin_info").collect();
    assert_eq!((info.len(), info[0].value), (1, 1.0));
    let peer = format!("n{}", 2 - leader);
    let lag = page.samples("kontiki_replication_lag_entries");
    assert_eq!(
        lag.map(|lag| &lag.labels["peer"]).collect::<Vec<_>>(),
        [&peer]
    );
    let applied = [("outcome", "applied")];
    let other = scrape(&cluster, 1 - leader).await;
    let sum = |page: &Exposition| page.sum("kontiki_proposals_total", &applied);
    assert_eq!(sum(&page) + sum(&other), 7.0);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_forgotten_leaves_no_series_and_no_problem() {
    let mut cluster = Cluster::prepare(3, Data::Memory);
    // The first node is not told of the third: it learns of it when that comes.
    cluster
        .options(0)
        .peers
        .retain(|peer| !peer.starts_with("n3="));
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.stop_node(2).await;
    let problems = async |cluster: &Cluster| {
        let request = v1::GetNodeRequest {};
        let reply = cluster.admin(0).get_node(request).await.unwrap();
        reply.into_inner().problems.join("\n")
    };
    wait_for("the first node to miss the third", || async {
        problems(&cluster).await.contains("n3").then_some(())
    })
    .await;
    let named = |page: &Exposition| page.label_values("peer").contains("n3");
    assert!(named(&scrape(&cluster, 0).await));
    for index in 0..2 {
        let request = v1::ForgetNodeRequest {
            name: "n3".into(),
            force: false,
        };
        cluster.admin(index).forget_node(request).await.unwrap();
    }
    let page = scrape(&cluster, 0).await;
    assert!(!named(&page), "{page:?}");
    assert_eq!(problems(&cluster).await, "");
    // The second node's operator says where the third is to be found: it goes on looking there.
    assert!(named(&scrape(&cluster, 1).await));
    cluster.start_node(2).await;
    cluster.connected().await;
    cluster.stop().await;
}
