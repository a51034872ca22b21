//! Who leads on real nodes: preferred nodes, drained ones.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use serde_json::Value;
use std::process::{Command, Output};
use support::{Cluster, Data, apply, wait_for};

const COUNTER: &str = "native:counter";
const GROUP: &str = "counter";

/// Nodes with these priorities.
async fn start(priorities: &[u32], data: Data) -> Cluster {
    let mut cluster = Cluster::prepare(priorities.len(), data);
    for (index, priority) in priorities.iter().enumerate() {
        cluster.options(index).settings = vec![format!("priority={priority}")];
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster
}

async fn wait_for_leader(cluster: &Cluster, index: usize) {
    wait_for(&format!("n{} to lead", index + 1), || async {
        let role = cluster.describe(index, GROUP).await?.summary?.role;
        (role == "leader").then_some(())
    })
    .await;
}

async fn drain(cluster: &Cluster, index: usize, undo: bool) -> v1::DrainReply {
    let request = v1::DrainRequest { undo };
    cluster
        .admin(index)
        .drain(request)
        .await
        .unwrap()
        .into_inner()
}

async fn report(cluster: &Cluster, index: usize) -> v1::GetNodeReply {
    let request = v1::GetNodeRequest {};
    cluster
        .admin(index)
        .get_node(request)
        .await
        .unwrap()
        .into_inner()
}

async fn set_priority(cluster: &Cluster, index: usize, group: &str, priority: u32) {
    let request = v1::SetSettingsRequest {
        group: group.into(),
        values: [("priority".to_owned(), priority.to_string())].into(),
        dry_run: false,
    };
    cluster.admin(index).set_settings(request).await.unwrap();
}

async fn priority(cluster: &Cluster, index: usize) -> u32 {
    cluster.describe(index, GROUP).await.unwrap().priority
}

/// Waits until the leader has heard from everyone what it is, and everyone keeps up.
async fn knows_everyone(cluster: &Cluster, leader: usize, priorities: &[u32]) {
    wait_for("the leader to know its members", || async {
        let peers = cluster.describe(leader, GROUP).await?.peers;
        let mut told: Vec<u32> = peers.iter().map(|peer| peer.priority).collect();
        told.push(priorities[leader]);
        told.sort_unstable();
        let mut all = priorities.to_vec();
        all.sort_unstable();
        let up = peers.iter().all(|peer| peer.state == "replicate");
        (told == all && up).then_some(())
    })
    .await;
    cluster.agree(GROUP).await;
}

/// The next in rank follows the preferred node each time that it is stopped, and gives leadership
/// back each time that it returns.
async fn comes_and_goes(priorities: &[u32], preferred: usize, second: usize) {
    let mut cluster = start(priorities, Data::Disk).await;
    cluster.create_group(GROUP, COUNTER).await;
    for trial in 0..3 {
        wait_for_leader(&cluster, preferred).await;
        apply(&mut cluster.client(0), GROUP, "add 1")
            .await
            .unwrap()
            .1
            .unwrap();
        knows_everyone(&cluster, preferred, priorities).await;
        cluster.stop_node(preferred).await;
        assert_eq!(cluster.leader(GROUP).await, second, "trial {trial}");
        apply(&mut cluster.client(0), GROUP, "add 1")
            .await
            .unwrap()
            .1
            .unwrap();
        cluster.start_node(preferred).await;
    }
    wait_for_leader(&cluster, preferred).await;
    cluster.agree(GROUP).await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preferred_of_three_leads_whenever_it_is_there() {
    comes_and_goes(&[100, 150, 200], 2, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_preferred_of_five_leads_whenever_it_is_there() {
    comes_and_goes(&[100, 100, 100, 200, 150], 3, 4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_outlives_a_restart_until_it_is_undone() {
    let mut cluster = start(&[100, 100, 100], Data::Disk).await;
    cluster.create_group(GROUP, COUNTER).await;
    let drained = cluster.leader(GROUP).await;
    let reply = drain(&cluster, drained, false).await;
    assert_eq!(
        (reply.moved, reply.stayed),
        (vec![GROUP.to_owned()], vec![])
    );
    assert_ne!(cluster.leader(GROUP).await, drained);
    cluster.stop_node(drained).await;
    cluster.start_node(drained).await;
    cluster.connected().await;
    assert!(report(&cluster, drained).await.drained);
    wait_for("the replica to be drained", || async {
        cluster
            .describe(drained, GROUP)
            .await?
            .drained
            .then_some(())
    })
    .await;
    cluster.agree(GROUP).await;
    let leader = cluster.leader(GROUP).await;
    cluster.stop_node(leader).await;
    assert_eq!(cluster.leader(GROUP).await, 3 - leader - drained);
    cluster.start_node(leader).await;
    drain(&cluster, drained, true).await;
    assert!(!report(&cluster, drained).await.drained);
    cluster.stop_node(drained).await;
    cluster.start_node(drained).await;
    assert!(!report(&cluster, drained).await.drained);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_made_by_a_drained_node_is_led_elsewhere() {
    let cluster = start(&[100, 100, 100], Data::Memory).await;
    drain(&cluster, 0, false).await;
    drain(&cluster, 2, false).await;
    cluster.create_group(GROUP, COUNTER).await;
    assert_eq!(cluster.leader(GROUP).await, 1);
    assert!(cluster.describe(0, GROUP).await.unwrap().drained);
    let replies = [report(&cluster, 0).await, report(&cluster, 1).await];
    assert_eq!(replies.map(|reply| reply.leading), [0, 1]);
    cluster.stop().await;
}

/// Drain and priority are different things.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn priorities_neither_undo_a_drain_nor_are_undone_by_it() {
    let cluster = start(&[100, 100, 100], Data::Memory).await;
    cluster.create_group(GROUP, COUNTER).await;
    set_priority(&cluster, 0, GROUP, 70).await;
    drain(&cluster, 0, false).await;
    set_priority(&cluster, 0, "", 300).await;
    assert!(cluster.describe(0, GROUP).await.unwrap().drained);
    assert_ne!(cluster.leader(GROUP).await, 0);
    set_priority(&cluster, 0, GROUP, 70).await;
    drain(&cluster, 0, true).await;
    assert_eq!(priority(&cluster, 0).await, 70);
    assert!(!cluster.describe(0, GROUP).await.unwrap().drained);
    cluster.stop().await;
}

/// What cannot be moved is named with the reason, at once if waiting would not help.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_node_says_what_it_still_leads() {
    let cluster = start(&[100, 100], Data::Memory).await;
    cluster
        .try_create_group(GROUP, COUNTER, &["n1"])
        .await
        .unwrap();
    cluster.leader(GROUP).await;
    let reply = drain(&cluster, 0, false).await;
    assert_eq!(reply.moved, Vec::<String>::new());
    assert_eq!(reply.stayed, ["counter: this node is its only voter"]);
    let report = report(&cluster, 0).await;
    assert_eq!((report.drained, report.leading), (true, 1));
    apply(&mut cluster.client(0), GROUP, "add 1")
        .await
        .unwrap()
        .1
        .unwrap();
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_voters_never_campaign_says_so() {
    let mut cluster = start(&[100, 0, 0], Data::Memory).await;
    cluster.create_group(GROUP, COUNTER).await;
    let told = wait_for("the leader to say that nobody would follow it", || async {
        let problems = cluster.describe(0, GROUP).await?.summary?.problems;
        problems
            .into_iter()
            .find(|problem| problem.contains("priority 0"))
    })
    .await;
    assert!(told.starts_with("every other voter"), "{told}");
    cluster.stop_node(0).await;
    wait_for(
        "the new leader to resign, or the rest to say why there is none",
        || async {
            for index in [1, 2] {
                let d = cluster.describe(index, GROUP).await?;
                let text = d.summary?.problems.join("; ");
                if text.contains("priority 0") {
                    return Some(());
                }
            }
            None
        },
    )
    .await;
    cluster.stop().await;
}

/// `kontiki group campaign` against node `index`.
async fn campaign(cluster: &Cluster, index: usize) -> Output {
    let node = format!("n{}", index + 1);
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command.args(["--endpoints", &cluster.address(index), "--timeout", "2s"]);
    command.args(["group", "campaign", GROUP, "--node", &node, "-o", "json"]);
    let running = tokio::task::spawn_blocking(move || command.output());
    running.await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_by_order_says_who_leads_in_the_end_or_that_nobody_does() {
    let mut cluster = start(&[1, 1, 1], Data::Disk).await;
    cluster.create_group(GROUP, COUNTER).await;
    let leader = cluster.leader(GROUP).await;
    apply(&mut cluster.client(leader), GROUP, "add 1")
        .await
        .unwrap()
        .1
        .unwrap();
    let before = cluster.agree(GROUP).await.summary.unwrap().term;
    let candidate = (leader + 1) % 3;
    // Everybody has the whole log, so whoever is told to campaign wins.
    let run = campaign(&cluster, candidate).await;
    assert!(run.status.success(), "{run:?}");
    let election: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(
        (&election["won"], &election["leader_name"]),
        (&true.into(), &format!("n{}", candidate + 1).into()),
        "{election}"
    );
    assert_eq!(election["term"], before + 1);
    assert_eq!(cluster.leader(GROUP).await, candidate);

    let (last, rest) = (leader, [candidate, (leader + 2) % 3]);
    for index in rest {
        cluster.stop_node(index).await;
    }
    wait_for("the last node to miss its leader", || async {
        let summary = cluster.describe(last, GROUP).await?.summary?;
        summary.leader.is_none().then_some(())
    })
    .await;
    let run = campaign(&cluster, last).await;
    assert_eq!(run.status.code(), Some(5), "{run:?}");
    let failure: Value = serde_json::from_slice(&run.stderr).unwrap();
    assert_eq!(failure["error"]["code"], "ELECTION_UNDECIDED", "{failure}");
}
