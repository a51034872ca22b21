//! Operating groups on real nodes: members, leaders, modes, recovery.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::Linearizable;
use kontiki_proto::v1::change_membership_request::Change;
use support::{Cluster, Data, apply, details, free_address, query, wait_for};
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

const COUNTER: &str = "native:counter";

async fn add(cluster: &Cluster, index: usize, count: usize) {
    for _ in 0..count {
        let answer = apply(&mut cluster.client(index), "counter", "add 1")
            .await
            .unwrap()
            .1;
        assert!(answer.is_ok(), "{answer:?}");
    }
}

/// Changes the membership by way of node `index`; the last report.
async fn change(
    cluster: &Cluster,
    index: usize,
    change: Change,
) -> Result<v1::MembershipProgress, Status> {
    let request = v1::ChangeMembershipRequest {
        group: "counter".into(),
        change: Some(change),
        expected: None,
        dry_run: false,
    };
    let mut reports = cluster
        .admin(index)
        .change_membership(request)
        .await?
        .into_inner();
    let mut last = None;
    while let Some(report) = reports.next().await {
        last = Some(report?);
    }
    Ok(last.unwrap())
}

fn members(progress: &v1::MembershipProgress) -> (usize, usize) {
    let set = progress.configuration.clone().unwrap().current.unwrap();
    (set.voters.len(), set.learners.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_come_and_go_while_commands_are_applied() {
    let cluster = Cluster::start(4, Data::Disk).await;
    cluster
        .try_create_group("counter", COUNTER, &["n1"])
        .await
        .unwrap();
    add(&cluster, 0, 20).await;
    let added = change(&cluster, 0, Change::AddVoter("n2".into()))
        .await
        .unwrap();
    assert_eq!((added.stage.as_str(), members(&added)), ("done", (2, 0)));
    let learner = change(&cluster, 0, Change::AddLearner("n3".into()))
        .await
        .unwrap();
    assert_eq!(members(&learner), (2, 1));
    let promoted = change(&cluster, 1, Change::AddVoter("n3".into()))
        .await
        .unwrap();
    assert_eq!(members(&promoted), (3, 0));
    add(&cluster, 2, 5).await;
    let three = ["n2", "n3", "n4"].map(str::to_owned).to_vec();
    let replace = Change::Replace(v1::NamedMembers {
        voters: three,
        learners: vec![],
    });
    let replaced = change(&cluster, 1, replace).await.unwrap();
    assert_eq!(members(&replaced), (3, 0));
    let leader = cluster.leader("counter").await;
    assert_ne!(leader, 0, "the removed leader must have handed over");
    let value = query(&mut cluster.client(3), "counter", "get", Linearizable)
        .await
        .unwrap();
    assert_eq!(value, "25");
    let refused = change(&cluster, 1, Change::Remove("n1".into()))
        .await
        .unwrap_err();
    assert_eq!(details(&refused).0, "MEMBERSHIP_INVALID");
    let refused = change(&cluster, 1, Change::AddVoter("n9".into()))
        .await
        .unwrap_err();
    assert_eq!(details(&refused).0, "NODE_NOT_FOUND");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_refused_unless_the_membership_is_the_expected_one() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let request = v1::ChangeMembershipRequest {
        group: "counter".into(),
        change: Some(Change::Remove("n3".into())),
        expected: Some(v1::NamedMembers {
            voters: vec!["n1".into(), "n2".into()],
            learners: vec![],
        }),
        dry_run: false,
    };
    let leader = cluster.leader("counter").await;
    add(&cluster, leader, 1).await;
    let refused = cluster.admin(leader).change_membership(request).await;
    assert_eq!(details(&refused.unwrap_err()).0, "MEMBERSHIP_UNEXPECTED");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_on_order_and_off_a_drained_node() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 3).await;
    let leader = cluster.leader("counter").await;
    let target = (leader + 1) % 3;
    let request = v1::TransferLeadershipRequest {
        group: "counter".into(),
        target: format!("n{}", target + 1),
    };
    // Asked of a third node, which passes it on.
    let third = (leader + 2) % 3;
    let reply = cluster
        .admin(third)
        .transfer_leadership(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.leader_name, format!("n{}", target + 1));
    assert_eq!(cluster.leader("counter").await, target);
    add(&cluster, third, 1).await;

    let drain = |undo| v1::DrainRequest { undo };
    let reply = cluster
        .admin(target)
        .drain(drain(false))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (reply.moved, reply.stayed),
        (vec!["counter".to_owned()], vec![])
    );
    assert_ne!(cluster.leader("counter").await, target);
    let node = cluster
        .admin(target)
        .get_node(v1::GetNodeRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(node.draining);
    cluster.admin(target).drain(drain(true)).await.unwrap();
    add(&cluster, target, 1).await;
    cluster.agree("counter").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_group_answers_queries_and_refuses_commands() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 2).await;
    let set = |on| v1::SetReadOnlyRequest {
        group: "counter".into(),
        on,
        local: false,
    };
    cluster.admin(1).set_read_only(set(true)).await.unwrap();
    let refused = apply(&mut cluster.client(0), "counter", "add 1")
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        details(&refused),
        ("READ_ONLY".into(), "not_applied".into())
    );
    let value = query(&mut cluster.client(2), "counter", "get", Linearizable)
        .await
        .unwrap();
    assert_eq!(value, "2");
    cluster.admin(2).set_read_only(set(false)).await.unwrap();
    let answer = wait_for("the group to take commands again", || async {
        apply(&mut cluster.client(0), "counter", "add 1").await.ok()
    })
    .await;
    assert!(answer.1.is_ok());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_survivor_of_a_lost_majority_goes_on_alone() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 7).await;
    cluster.agree("counter").await;
    cluster.stop_node(1).await;
    cluster.stop_node(2).await;
    let request = |dry_run, confirm: &str| v1::ResetPeersRequest {
        group: "counter".into(),
        members: Some(v1::NamedMembers {
            voters: vec!["n1".into()],
            learners: vec![],
        }),
        dry_run,
        confirm: confirm.into(),
    };
    let mut admin = cluster.admin(0);
    let rehearsal = admin
        .reset_peers(request(true, ""))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(rehearsal.before.unwrap().current.unwrap().voters.len(), 3);
    assert!(
        rehearsal
            .warnings
            .iter()
            .any(|warning| warning.contains("n2, n3") || warning.contains("n3, n2"))
    );
    let refused = admin.reset_peers(request(false, "yes")).await.unwrap_err();
    assert_eq!(details(&refused).0, "NOT_CONFIRMED");
    admin.reset_peers(request(false, "counter")).await.unwrap();
    let answer = wait_for("the survivor to lead", || async {
        apply(&mut cluster.client(0), "counter", "add 1").await.ok()
    })
    .await;
    assert!(answer.1.is_ok());
    cluster.stop_node(0).await;
    cluster.start_node(0).await;
    let answer = wait_for("the survivor to lead after a restart", || async {
        apply(&mut cluster.client(0), "counter", "add 1").await.ok()
    })
    .await;
    assert!(answer.1.is_ok());
    let value = query(&mut cluster.client(0), "counter", "get", Linearizable)
        .await
        .unwrap();
    assert_eq!(value, "9");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_made_on_all_members_or_on_none() {
    let mut cluster = Cluster::prepare(3, Data::Disk);
    // One node takes no native machines, so the group cannot be made there.
    cluster.options(2).allow_native_machines = Some(false);
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    let refused = cluster
        .try_create_group("counter", COUNTER, &[])
        .await
        .unwrap_err();
    assert_eq!(details(&refused).0, "NATIVE_NOT_ALLOWED");
    for index in 0..3 {
        let groups = cluster
            .admin(index)
            .list_groups(v1::ListGroupsRequest {})
            .await
            .unwrap();
        assert_eq!(groups.into_inner().groups, vec![]);
    }
    let spec = cluster
        .try_create_group("counter", COUNTER, &["n1", "n2"])
        .await
        .unwrap();
    let again = cluster
        .try_create_group("counter", COUNTER, &["n2", "n1"])
        .await
        .unwrap();
    assert_eq!(again.id, spec.id, "asking for what is there is fine");
    let other = cluster
        .try_create_group("counter", COUNTER, &["n1"])
        .await
        .unwrap_err();
    assert_eq!(
        (other.code(), details(&other).0.as_str()),
        (Code::AlreadyExists, "GROUP_EXISTS")
    );
    let unknown = cluster
        .try_create_group("x", "nothing", &[])
        .await
        .unwrap_err();
    assert_eq!(details(&unknown).0, "PLUGIN_NOT_FOUND");
    let named = cluster
        .try_create_group("../x", COUNTER, &["n1"])
        .await
        .unwrap_err();
    assert_eq!(details(&named).0, "INVALID_ARGUMENT");
    cluster.stop_node(2).await;
    let away = cluster
        .try_create_group("y", COUNTER, &["n1", "n3"])
        .await
        .unwrap_err();
    assert_eq!(details(&away).0, "PEER_UNREACHABLE");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_refused_under_its_old_name_until_it_is_forgotten() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 3).await;
    cluster.stop_node(2).await;
    std::fs::remove_dir_all(cluster.directory.path().join("n3")).unwrap();
    cluster.start_node(2).await;
    let error = wait_for("the wiped node to be refused", || async {
        let node = cluster
            .admin(0)
            .get_node(v1::GetNodeRequest {})
            .await
            .ok()?
            .into_inner();
        let n3 = node
            .peers
            .into_iter()
            .find(|peer| peer.node.as_ref().unwrap().name == "n3")?;
        n3.error.contains("was known with id").then_some(n3.error)
    })
    .await;
    assert!(error.contains("kontiki node forget n3"), "{error}");
    add(&cluster, 0, 1).await;
    for index in 0..2 {
        let request = v1::ForgetNodeRequest {
            name: "n3".into(),
            force: false,
        };
        cluster.admin(index).forget_node(request).await.unwrap();
    }
    cluster.connected().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_move_at_once_find_each_other_by_way_of_one_that_stays() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    add(&cluster, 0, 3).await;
    cluster.stop_node(0).await;
    cluster.stop_node(1).await;
    for index in [0, 1] {
        cluster.options(index).listen = Some(free_address());
        cluster.start_node(index).await;
    }
    // Neither is told where the other is; their configurations name the old addresses.
    cluster.connected().await;
    cluster.leader("counter").await;
    let answered = wait_for("a command by way of one that moved", || async {
        apply(&mut cluster.client(1), "counter", "add 1").await.ok()
    });
    assert!(answered.await.1.is_ok());
    cluster.agree("counter").await;

    // The one that stayed is not needed for that any more.
    cluster.stop_node(2).await;
    cluster.stop_node(0).await;
    cluster.start_node(0).await;
    cluster.connected().await;
    let answered = wait_for("a command by the two that moved", || async {
        apply(&mut cluster.client(0), "counter", "add 1").await.ok()
    });
    assert!(answered.await.1.is_ok());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_change_while_the_node_runs() {
    let cluster = Cluster::start(1, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let request = |group: &str, name: &str, value: &str| v1::SetSettingsRequest {
        group: group.into(),
        values: [(name.to_owned(), value.to_owned())].into(),
        dry_run: false,
    };
    let mut admin = cluster.admin(0);
    let reply = admin
        .set_settings(request("counter", "election_timeout", "400ms"))
        .await
        .unwrap();
    let settings = reply.into_inner().settings;
    let timeout = settings
        .iter()
        .find(|setting| setting.name == "election_timeout")
        .unwrap();
    assert_eq!(
        (timeout.value.as_str(), timeout.braft_name.as_str()),
        ("400ms", "election_timeout_ms")
    );
    let description = cluster.describe(0, "counter").await.unwrap();
    assert_eq!(description.election_timeout_us, 400_000);
    for (name, value, reason) in [
        ("election_timeout", "1ms", "SETTING_INVALID"),
        ("no_such", "1", "SETTING_INVALID"),
        ("heartbeat_factor", "1", "SETTING_INVALID"),
    ] {
        let refused = admin
            .set_settings(request("", name, value))
            .await
            .unwrap_err();
        assert_eq!(details(&refused).0, reason, "{name}");
    }
    cluster.stop().await;
}

async fn set_read_only(
    cluster: &Cluster,
    index: usize,
    on: bool,
    local: bool,
) -> Result<Vec<String>, Status> {
    let request = v1::SetReadOnlyRequest {
        group: "counter".into(),
        on,
        local,
    };
    let reply = cluster.admin(index).set_read_only(request).await?;
    Ok(reply.into_inner().unreached)
}

async fn is_read_only(cluster: &Cluster, index: usize) -> bool {
    let status = cluster.describe(index, "counter").await.unwrap();
    status.read_only
}

/// braft's rule: the leader's own mode, or that of a majority.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_read_only_replica_is_one_and_a_majority_of_them_is_the_group() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    let others: Vec<_> = (0..3).filter(|index| *index != leader).collect();
    add(&cluster, leader, 1).await;
    set_read_only(&cluster, others[0], true, true)
        .await
        .unwrap();
    assert!(is_read_only(&cluster, others[0]).await);
    assert!(!is_read_only(&cluster, leader).await && !is_read_only(&cluster, others[1]).await);
    // The leader has heard of it when it has heard of the second, and still takes commands.
    add(&cluster, leader, 1).await;
    set_read_only(&cluster, others[1], true, true)
        .await
        .unwrap();
    let refused = wait_for("the leader to hear of both", || async {
        apply(&mut cluster.client(leader), "counter", "add 1")
            .await
            .err()
    })
    .await;
    assert_eq!(details(&refused).0, "READ_ONLY");
    assert!(
        !is_read_only(&cluster, leader).await,
        "its own mode is another matter"
    );
    set_read_only(&cluster, others[0], false, true)
        .await
        .unwrap();
    let (_, answer) = wait_for("the group to take commands again", || async {
        apply(&mut cluster.client(leader), "counter", "add 1")
            .await
            .ok()
    })
    .await;
    assert!(answer.is_ok());
    assert!(
        is_read_only(&cluster, others[1]).await,
        "the other one keeps its mode"
    );
    assert!(
        set_read_only(&cluster, others[0], false, false)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(!is_read_only(&cluster, others[1]).await);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switching_a_mode_says_who_was_not_reached() {
    let mut cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    let (down, up) = ((leader + 1) % 3, (leader + 2) % 3);
    add(&cluster, leader, 1).await;
    cluster.stop_node(down).await;
    for on in [true, false] {
        let unreached = set_read_only(&cluster, up, on, false).await.unwrap();
        assert_eq!(unreached.len(), 1);
        assert!(
            unreached[0].starts_with(&format!("n{}", down + 1)),
            "{unreached:?}"
        );
    }
    cluster.stop_node(leader).await;
    let refused = set_read_only(&cluster, up, false, false).await.unwrap_err();
    assert_eq!(details(&refused).0, "PEER_UNREACHABLE");
    assert!(refused.message().contains(&format!("n{}", leader + 1)));
    cluster.stop().await;
}
