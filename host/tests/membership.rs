//! Changes of membership on real nodes, to their end: refused, cancelled, carried on, cleared away.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::change_membership_request::Change;
use std::process::{Command, Output};
use std::time::Duration;
use support::gate::Gate;
use support::{Cluster, Data, apply, details, wait_for};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

const COUNTER: &str = "native:counter";

fn named(voters: &[&str]) -> v1::NamedMembers {
    v1::NamedMembers {
        voters: voters.iter().map(|name| (*name).to_owned()).collect(),
        learners: vec![],
    }
}

/// Changes the membership by way of node `index`; the last report.
async fn change(
    cluster: &Cluster,
    index: usize,
    change: Change,
    expected: Option<v1::NamedMembers>,
) -> Result<v1::MembershipProgress, Status> {
    let request = v1::ChangeMembershipRequest {
        group: "counter".into(),
        change: Some(change),
        expected,
        dry_run: false,
    };
    let reports = cluster.admin(index).change_membership(request).await?;
    let mut reports = reports.into_inner();
    let mut last = None;
    while let Some(report) = reports.next().await {
        last = Some(report?);
    }
    Ok(last.unwrap())
}

/// Names of the groups of which a node has a replica.
async fn replicas(cluster: &Cluster, index: usize) -> Vec<String> {
    let request = v1::ListGroupsRequest {};
    let groups = cluster.admin(index).list_groups(request).await.unwrap();
    let groups = groups.into_inner().groups.into_iter();
    groups.map(|group| group.name).collect()
}

async fn add(cluster: &Cluster, index: usize, count: usize) {
    for _ in 0..count {
        let added = wait_for("a command to be applied", || async {
            apply(&mut cluster.client(index), "counter", "add 1")
                .await
                .ok()
        });
        assert!(added.await.1.is_ok());
    }
}

async fn purge(
    cluster: &Cluster,
    index: usize,
    confirm: Option<&str>,
) -> Result<v1::PurgeReplicaReply, Status> {
    let request = v1::PurgeReplicaRequest {
        group: "counter".into(),
        dry_run: confirm.is_none(),
        confirm: confirm.unwrap_or_default().to_owned(),
    };
    Ok(cluster
        .admin(index)
        .purge_replica(request)
        .await?
        .into_inner())
}

async fn is_ready_with_leader(cluster: &Cluster, index: usize) -> bool {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = cluster.node(index).ports().http.unwrap();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = "GET /readyz?require=leader HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.unwrap();
    reply.starts_with("HTTP/1.1 200")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_change_makes_no_replica() {
    let cluster = Cluster::start(4, Data::Memory).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1", "n2", "n3"])
        .await
        .unwrap();
    add(&cluster, 0, 1).await;
    let wrong = Some(named(&["n1", "n2"]));
    for newcomer in [
        Change::AddVoter("n4".into()),
        Change::AddLearner("n4".into()),
        Change::Replace(named(&["n1", "n4"])),
    ] {
        let refused = change(&cluster, 0, newcomer, wrong.clone()).await;
        assert_eq!(details(&refused.unwrap_err()).0, "MEMBERSHIP_UNEXPECTED");
    }
    assert_eq!(replicas(&cluster, 3).await, Vec::<String>::new());
    assert!(is_ready_with_leader(&cluster, 3).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_change_wants_the_node_in_the_part_it_names() {
    let cluster = Cluster::start(4, Data::Memory).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1", "n2"])
        .await
        .unwrap();
    add(&cluster, 0, 1).await;
    for (wrong, message) in [
        (Change::Demote("n4".into()), "\"n4\" is not a member"),
        (Change::Promote("n4".into()), "\"n4\" is not a member"),
        (Change::AddLearner("n2".into()), "\"n2\" is a voter already"),
        (Change::Promote("n2".into()), "already has exactly this"),
    ] {
        let refused = change(&cluster, 0, wrong, None).await.unwrap_err();
        assert_eq!(details(&refused).0, "MEMBERSHIP_INVALID");
        assert!(refused.message().contains(message), "{refused}");
    }
    assert_eq!(replicas(&cluster, 3).await, Vec::<String>::new());
    let parts = |done: v1::MembershipProgress| {
        let set = done.configuration.unwrap().current.unwrap();
        (set.voters.len(), set.learners.len())
    };
    for (right, after) in [
        (Change::AddLearner("n3".into()), (2, 1)),
        (Change::Promote("n3".into()), (3, 0)),
        (Change::Demote("n2".into()), (2, 1)),
        (Change::AddVoter("n2".into()), (3, 0)),
    ] {
        let done = change(&cluster, 0, right, None).await.unwrap();
        let target = done.target.clone().unwrap();
        assert_eq!((target.voters.len(), target.learners.len()), after);
        assert_eq!(parts(done), after);
    }
    cluster.stop().await;
}

/// Node 1 leads alone, and the address that it tells others leads to it no more, so that node 2,
/// which knows no other, is reached by it and cannot answer.
async fn cluster_whose_newcomer_cannot_answer() -> Cluster {
    let mut cluster = Cluster::prepare(2, Data::Memory);
    let listens = cluster.options(0).listen.clone().unwrap();
    let gate = Gate::open(listens.parse().unwrap()).await;
    cluster.options(0).peer_advertise = Some(gate.address.clone());
    cluster.options(1).peers = vec![];
    cluster.start_node(0).await;
    cluster.start_node(1).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1"])
        .await
        .unwrap();
    wait_for("node 1 to reach node 2", || async {
        let node = cluster.admin(0).get_node(v1::GetNodeRequest {}).await;
        let peers = node.ok()?.into_inner().peers;
        peers.iter().all(|peer| peer.connected).then_some(())
    })
    .await;
    gate.shut().await;
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_catches_up_is_cancelled_and_leaves_nothing() {
    let cluster = cluster_whose_newcomer_cannot_answer().await;
    add(&cluster, 0, 5).await;
    let cancel = || async {
        let request = v1::CancelMembershipChangeRequest {
            group: "counter".into(),
        };
        cluster.admin(0).cancel_membership_change(request).await
    };
    let none = cancel().await.unwrap_err();
    assert_eq!(details(&none).0, "MEMBERSHIP_INVALID");

    let adding = change(&cluster, 0, Change::AddVoter("n2".into()), None);
    let meanwhile = async {
        let description = wait_for("the change to be under way", || async {
            let description = cluster.describe(0, "counter").await?;
            (description.change_stage == "catch-up").then_some(description)
        })
        .await;
        let target = description.change_target.unwrap();
        assert_eq!(target.voters.len(), 2);
        assert_eq!(description.catching_up[0].name, "n2");
        assert!(description.catching_up[0].size_bytes_left > 0);
        assert_eq!(replicas(&cluster, 1).await, ["counter"]);
        assert!(
            is_ready_with_leader(&cluster, 1).await,
            "a replica that waits to be added needs no leader"
        );
        let second = change(&cluster, 0, Change::Remove("n1".into()), None).await;
        let second = second.unwrap_err();
        assert_eq!(details(&second).0, "MEMBERSHIP_BUSY");
        assert!(second.message().contains("cancel"), "{second}");
        // It waits for the change to end, as long as it may.
        let mut drain = tonic::Request::new(v1::DrainRequest { undo: false });
        drain.set_timeout(Duration::from_secs(2));
        let drained = cluster.admin(0).drain(drain).await.unwrap();
        let stayed = drained.into_inner().stayed;
        assert!(stayed[0].contains("cancel"), "{stayed:?}");
        let cut = purge(&cluster, 1, Some("counter")).await;
        assert!(cut.is_err(), "it is on its way in");
        cancel().await.unwrap();
    };
    let (added, ()) = tokio::join!(adding, meanwhile);
    assert_eq!(details(&added.unwrap_err()).0, "CHANGE_CANCELLED");
    assert_eq!(replicas(&cluster, 1).await, Vec::<String>::new());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_is_purged_and_may_come_back() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 3).await;
    let member = purge(&cluster, 2, Some("counter")).await.unwrap_err();
    assert_eq!(details(&member).0, "STILL_MEMBER");

    // It is away while it is removed, so it takes itself for a member afterwards.
    cluster.stop_node(2).await;
    change(&cluster, 0, Change::Remove("n3".into()), None)
        .await
        .unwrap();
    cluster.start_node(2).await;
    cluster.connected().await;
    let rehearsed = wait_for("the leader to be asked", || async {
        purge(&cluster, 2, None).await.ok()
    })
    .await;
    assert!(["n1", "n2"].contains(&rehearsed.authority.as_str()));
    assert_eq!(replicas(&cluster, 2).await, ["counter"]);
    let refused = purge(&cluster, 2, Some("other")).await.unwrap_err();
    assert_eq!(details(&refused).0, "NOT_CONFIRMED");
    purge(&cluster, 2, Some("counter")).await.unwrap();
    assert_eq!(replicas(&cluster, 2).await, Vec::<String>::new());
    assert!(is_ready_with_leader(&cluster, 2).await);
    cluster.stop_node(2).await;
    cluster.start_node(2).await;
    cluster.connected().await;
    assert_eq!(replicas(&cluster, 2).await, Vec::<String>::new());

    change(&cluster, 0, Change::AddVoter("n3".into()), None)
        .await
        .unwrap();
    add(&cluster, 2, 1).await;
    cluster.agree("counter").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_replica_needs_no_leader_to_be_ready() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 1).await;
    change(&cluster, 0, Change::Remove("n3".into()), None)
        .await
        .unwrap();
    wait_for("the removed replica to forget its leader", || async {
        let summary = cluster.describe(2, "counter").await?.summary?;
        summary.leader.is_none().then_some(())
    })
    .await;
    assert!(is_ready_with_leader(&cluster, 2).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_node_that_is_away_is_refused_at_once() {
    let mut cluster = Cluster::start(4, Data::Memory).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1", "n2", "n3"])
        .await
        .unwrap();
    let leader = cluster.leader("counter").await;
    let away = (leader + 1) % 3;
    cluster.stop_node(away).await;
    cluster.stop_node(3).await;
    wait_for("both to be missed", || async {
        let node = cluster.admin(leader).get_node(v1::GetNodeRequest {}).await;
        let peers = node.ok()?.into_inner().peers;
        let up = peers.iter().filter(|peer| peer.connected).count();
        (up == 1).then_some(())
    })
    .await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let began = Instant::now();
    let request = v1::TransferLeadershipRequest {
        group: "counter".into(),
        target: format!("n{}", away + 1),
    };
    let transfer = cluster.admin(leader).transfer_leadership(request).await;
    let added = change(&cluster, leader, Change::AddVoter("n4".into()), None).await;
    for refused in [transfer.map(drop), added.map(drop)] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert_eq!(details(&refused).0, "PEER_UNREACHABLE");
    }
    assert!(began.elapsed() < Duration::from_secs(2));
    cluster.stop().await;
}

/// The program, in the background.
fn kontiki(cluster: &Cluster, line: &str) -> std::thread::JoinHandle<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kontiki"));
    command
        .env_clear()
        .args(line.split_whitespace())
        .args(["--endpoints", &cluster.addresses().join(",")]);
    std::thread::spawn(move || command.output().unwrap())
}

/// Voters n1, n2, n3, learners n4, n5, led by n1; then n2 and n3 stop, and the program is told to
/// make n1, n4, n5 the voters. These log the joint configuration, which cannot be committed.
async fn cluster_stuck_in_a_joint_change() -> (Cluster, std::thread::JoinHandle<Output>) {
    let mut cluster = Cluster::prepare(5, Data::Disk);
    for index in 0..5 {
        // Long enough for the program to find the leader while it has no majority.
        cluster.options(index).election_timeout = Some("2s".into());
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster
        .try_create_group("counter", COUNTER, &["n1", "n2", "n3"])
        .await
        .unwrap();
    add(&cluster, 0, 1).await;
    for learner in ["n4", "n5"] {
        change(&cluster, 0, Change::AddLearner(learner.into()), None)
            .await
            .unwrap();
    }
    let request = v1::TransferLeadershipRequest {
        group: "counter".into(),
        target: "n1".into(),
    };
    let leader = cluster.leader("counter").await;
    cluster
        .admin(leader)
        .transfer_leadership(request)
        .await
        .unwrap();
    add(&cluster, 0, 1).await;
    cluster.agree("counter").await;
    let (n2, n3) = (cluster.nodes[1].take(), cluster.nodes[2].take());
    tokio::join!(n2.unwrap().shutdown(), n3.unwrap().shutdown());
    let line = "member change --group counter --voters n1,n4,n5 --timeout 20s";
    let changing = kontiki(&cluster, line);
    (cluster, changing)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits for the program and says whether it succeeded, which must be what the group shows.
async fn verdict(cluster: &Cluster, changing: std::thread::JoinHandle<Output>) -> bool {
    let output = tokio::task::spawn_blocking(move || changing.join().unwrap());
    let output = output.await.unwrap();
    let leader = cluster.leader("counter").await;
    let description = cluster.describe(leader, "counter").await.unwrap();
    let members = description.configuration.unwrap();
    let names = |id: &u64| {
        let known = description.nodes.iter().find(|node| node.node == *id);
        known.unwrap().name.clone()
    };
    let mut voters: Vec<_> = members.current.unwrap().voters.iter().map(names).collect();
    voters.sort();
    let done = members.old.is_none() && voters == ["n1", "n4", "n5"];
    let code = output.status.code().unwrap();
    let said = (text(&output.stdout), text(&output.stderr));
    match done {
        true => assert_eq!(code, 0, "{said:?}"),
        false => {
            assert_eq!(code, 6, "{said:?}");
            assert!(said.1.contains("error[CHANGE_LOST]"), "{said:?}");
        }
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_carried_on_by_the_next_leader_is_watched_to_its_end() {
    let (mut cluster, changing) = cluster_stuck_in_a_joint_change().await;
    wait_for("the leader to stand down", || async {
        let description = cluster.describe(0, "counter").await?;
        (description.summary?.role != "leader").then_some(())
    })
    .await;
    // Only those that hold the joint configuration can win, and with node 2 they can finish it.
    cluster.start_node(1).await;
    assert!(verdict(&cluster, changing).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_is_lost_with_its_leader_is_said_to_be_lost() {
    let (mut cluster, changing) = cluster_stuck_in_a_joint_change().await;
    wait_for("the joint configuration to be logged", || async {
        let description = cluster.describe(0, "counter").await?;
        description.configuration?.old.map(drop)
    })
    .await;
    for index in [0, 3, 4] {
        cluster.stop_node(index).await;
    }
    cluster.start_node(1).await;
    cluster.start_node(2).await;
    assert!(!verdict(&cluster, changing).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_membership_is_checked_in_the_rehearsal_and_names_what_it_drops() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1", "n2"])
        .await
        .unwrap();
    add(&cluster, 0, 1).await;
    change(&cluster, 0, Change::AddLearner("n3".into()), None)
        .await
        .unwrap();
    let request = |voter: &str| v1::ResetPeersRequest {
        group: "counter".into(),
        members: Some(named(&[voter])),
        dry_run: true,
        confirm: String::new(),
    };
    let online = cluster.admin(0).reset_peers(request("n1")).await.unwrap();
    let online = online.into_inner();
    let drops = |reply: &v1::ResetPeersReply| {
        let drops = |warning: &String| warning.contains("learners n3 are dropped");
        reply.warnings.iter().any(drops)
    };
    assert!(drops(&online), "{:?}", online.warnings);
    assert!(online.commit_index.is_some());
    let refused = cluster.admin(0).reset_peers(request("n2")).await;
    assert_eq!(details(&refused.unwrap_err()).0, "MEMBERSHIP_INVALID");

    let path = cluster.directory.path().join("n1");
    cluster.stop_nodes().await;
    let rehearse = |voter: &str| {
        kontiki::node::offline::reset_peers(&path, "n1", "counter", &[voter.to_owned()], false)
    };
    let refused = rehearse("n2").unwrap_err();
    assert!(refused.to_string().contains("as a voter"), "{refused}");
    let (offline, _) = rehearse("n1").unwrap();
    assert!(drops(&offline), "{:?}", offline.warnings);
    assert_eq!(offline.commit_index, None, "nobody could know");
}

/// A removed replica hears of no leader; asked to end read-only mode, it still says that this is
/// done only when the leader takes commands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn read_only_mode_ends_by_way_of_a_removed_replica() {
    let cluster = Cluster::start(4, Data::Memory).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1", "n2", "n3"])
        .await
        .unwrap();
    cluster.leader("counter").await;
    let wanted = Change::Replace(named(&["n2", "n3", "n4"]));
    change(&cluster, 0, wanted, None).await.unwrap();
    let leader = wait_for("the first to know no leader", || async {
        let leader = cluster.leader("counter").await;
        let removed = cluster.describe(0, "counter").await?.summary?;
        (leader != 0 && removed.leader.is_none()).then_some(leader)
    })
    .await;
    for _ in 0..5 {
        for on in [true, false] {
            let request = v1::SetReadOnlyRequest {
                group: "counter".into(),
                on,
                local: false,
            };
            cluster.admin(0).set_read_only(request).await.unwrap();
            if on {
                // Else it never comes to know, and need not unlearn it.
                wait_for(
                    "the leader to know that its members are read-only",
                    || async {
                        let there = cluster.describe(leader, "counter").await?;
                        there.peers.iter().all(|peer| peer.read_only).then_some(())
                    },
                )
                .await;
            }
        }
        let applied = apply(&mut cluster.client(leader), "counter", "add 1").await;
        applied.expect("the group takes commands").1.unwrap();
    }
    cluster.stop().await;
}
