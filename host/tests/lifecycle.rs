//! Groups that come and go: what a late or forged message may do, creations that race or are left
//! half-way, deletions that a member misses.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::Linearizable;
use kontiki_proto::v1::GroupStage;
use kontiki_proto::v1::peer_client::PeerClient;
use std::collections::BTreeSet;
use support::{Cluster, Data, apply, details, query, wait_for};
use tonic::Status;
use tonic::transport::Channel;

const COUNTER: &str = "native:counter";

fn peer(cluster: &Cluster, index: usize) -> PeerClient<Channel> {
    PeerClient::new(cluster.channel(index))
}

async fn introduction(cluster: &Cluster, index: usize) -> v1::Introduction {
    let asked = cluster.admin(index).get_node(v1::GetNodeRequest {}).await;
    asked.unwrap().into_inner().node.unwrap()
}

/// How the group of that id stands on node `index`; none while it cannot be asked.
async fn stage(cluster: &Cluster, index: usize, id: u64) -> Option<GroupStage> {
    let request = v1::LookUpGroupsRequest {
        ids: vec![id],
        name: String::new(),
    };
    let reply = peer(cluster, index).look_up_groups(request).await.ok()?;
    Some(reply.into_inner().groups[0].stage())
}

async fn stands(cluster: &Cluster, index: usize, id: u64, wanted: GroupStage) {
    wait_for(&format!("n{} has {wanted:?}", index + 1), || async {
        (stage(cluster, index, id).await == Some(wanted)).then_some(())
    })
    .await;
}

async fn delete(
    cluster: &Cluster,
    index: usize,
    group: &str,
    confirm: Option<&str>,
) -> Result<v1::DeleteGroupReply, Status> {
    let request = v1::DeleteGroupRequest {
        group: group.into(),
        dry_run: confirm.is_none(),
        confirm: confirm.unwrap_or_default().into(),
    };
    let reply = cluster.admin(index).delete_group(request).await?;
    Ok(reply.into_inner())
}

/// A group that nobody created: prepared by hand, as if `coordinator` had been creating it.
async fn prepared_by_hand(
    cluster: &Cluster,
    id: u64,
    coordinator: usize,
    on: &[usize],
) -> v1::GroupSpec {
    let mut nodes = Vec::new();
    for index in 0..cluster.nodes.len() {
        nodes.push(introduction(cluster, index).await);
    }
    let ids: BTreeSet<u64> = nodes.iter().map(|node| node.node).collect();
    let spec = v1::GroupSpec {
        id,
        name: "counter".into(),
        plugin: COUNTER.into(),
        initial_members: Some(v1::MemberSet {
            voters: ids.into_iter().collect(),
            learners: vec![],
        }),
        nodes: nodes.clone(),
        lineage: None,
    };
    for index in on {
        let request = v1::CreateReplicaRequest {
            group: Some(spec.clone()),
            from: Some(nodes[coordinator].clone()),
            joining: false,
        };
        let made = peer(cluster, *index).create_replica(request).await.unwrap();
        assert!(made.into_inner().created);
    }
    spec
}

/// Positions of the nodes: the one that decides first, then the others.
async fn by_decider(cluster: &Cluster) -> Vec<usize> {
    let mut ids = Vec::new();
    for index in 0..cluster.nodes.len() {
        ids.push((introduction(cluster, index).await.node, index));
    }
    ids.sort_unstable();
    ids.into_iter().map(|(_, index)| index).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_message_removes_what_may_have_been_acknowledged() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let answer = apply(&mut cluster.client(0), "counter", "add 5").await;
    assert!(answer.unwrap().1.is_ok());
    cluster.agree("counter").await;
    let id = cluster.describe(0, "counter").await.unwrap();
    let id = id.summary.unwrap().id;
    for restarted in [false, true] {
        if restarted {
            cluster.stop_nodes().await;
            for index in 0..3 {
                cluster.start_node(index).await;
            }
        }
        for index in 0..3 {
            let late = v1::RemoveReplicaRequest {
                group: id,
                joining_term: u64::MAX,
            };
            let refused = peer(&cluster, index).remove_replica(late).await;
            assert_eq!(details(&refused.unwrap_err()).0, "GROUP_EXISTS");
            let late = v1::DecideCreationRequest {
                group: id,
                complete: false,
            };
            let decided = peer(&cluster, index).decide_creation(late).await.unwrap();
            assert_eq!(decided.into_inner().stage(), GroupStage::Running);
            let mut peer = peer(&cluster, index);
            let settled = peer.settle(v1::SettleRequest { group: id }).await;
            let settled = settled.unwrap().into_inner();
            assert_eq!(settled.stage(), GroupStage::Running);
        }
    }
    let value = wait_for("an answer", || async {
        let mut client = cluster.client(1);
        let asked = query(&mut client, "counter", "get", Linearizable);
        asked.await.ok()
    });
    assert_eq!(value.await, "5");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_left_half_way_is_undone_and_its_name_is_free() {
    let cluster = Cluster::start(3, Data::Disk).await;
    let order = by_decider(&cluster).await;
    // n2 says that it creates nothing, so it is gone as far as this creation is concerned.
    let spec = prepared_by_hand(&cluster, 77, 1, &order).await;
    let described = cluster.describe(order[0], "counter").await;
    assert!(described.is_none(), "a prepared replica serves nothing");
    let created = cluster.try_create_group("counter", COUNTER, &[]).await;
    let created = created.unwrap();
    assert_ne!(created.id, spec.id);
    for index in 0..3 {
        stands(&cluster, index, spec.id, GroupStage::Aborted).await;
        stands(&cluster, index, created.id, GroupStage::Running).await;
    }
    // What comes late is refused: the creation was given up for good.
    let late = v1::CreateReplicaRequest {
        group: Some(v1::GroupSpec {
            name: "late".into(),
            ..spec
        }),
        from: Some(introduction(&cluster, 1).await),
        joining: true,
    };
    let refused = peer(&cluster, 0).create_replica(late).await.unwrap_err();
    assert_eq!(details(&refused).0, "GROUP_ENDED");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_creation_that_was_decided_is_completed_after_a_restart() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    let order = by_decider(&cluster).await;
    let spec = prepared_by_hand(&cluster, 78, 1, &order).await;
    let decide = v1::DecideCreationRequest {
        group: spec.id,
        complete: true,
    };
    let elsewhere = peer(&cluster, order[1]).decide_creation(decide).await;
    assert_eq!(details(&elsewhere.unwrap_err()).0, "INVALID_ARGUMENT");
    let decided = peer(&cluster, order[0]).decide_creation(decide).await;
    // Unless the nodes were quicker to give it up, which they then have all done.
    let decided = decided.unwrap().into_inner().stage();
    cluster.stop_nodes().await;
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    for index in 0..3 {
        stands(&cluster, index, spec.id, decided).await;
    }
    if decided == GroupStage::Running {
        cluster.leader("counter").await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_creations_that_race_one_wins_and_success_is_true() {
    let cluster = Cluster::start(3, Data::Memory).await;
    for round in 0..6 {
        let name = format!("counter-{round}");
        let create = |index: usize, voters: &'static [&'static str]| {
            let request = v1::CreateGroupRequest {
                name: name.clone(),
                plugin: COUNTER.into(),
                voters: voters.iter().map(|it| (*it).to_owned()).collect(),
                ..Default::default()
            };
            let mut admin = cluster.admin(index);
            async move { admin.create_group(request).await }
        };
        let (same, other): (&[&str], &[&str]) = match round % 2 {
            0 => (&["n1", "n2", "n3"], &["n1", "n2", "n3"]),
            _ => (&["n1", "n2"], &["n3"]),
        };
        let (first, second, third) =
            tokio::join!(create(0, same), create(1, other), create(2, same));
        let mut ids = BTreeSet::new();
        for result in [first, second, third] {
            match result {
                Ok(reply) => drop(ids.insert(reply.into_inner().group.unwrap().id)),
                Err(refused) => assert_eq!(details(&refused).0, "GROUP_EXISTS", "{refused}"),
            }
        }
        assert_eq!(ids.len(), 1, "round {round}: {ids:?}");
        let id = *ids.first().unwrap();
        let mut holder = 0;
        let request = v1::LookUpGroupsRequest {
            ids: vec![],
            name: name.clone(),
        };
        for index in 0..3 {
            let mut peer = peer(&cluster, index);
            let held = peer.look_up_groups(request.clone()).await;
            let held = held.unwrap().into_inner().groups;
            for held in held {
                assert_eq!((held.id, held.stage()), (id, GroupStage::Running));
                holder = index;
            }
        }
        assert!(
            apply(&mut cluster.client(holder), &name, "add 1")
                .await
                .is_ok()
        );
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn success_means_that_every_member_runs_the_group() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    let first = cluster.try_create_group("counter", COUNTER, &[]).await;
    let again = cluster.try_create_group("counter", COUNTER, &[]).await;
    assert_eq!(again.unwrap().id, first.unwrap().id);
    cluster.stop_node(2).await;
    let refused = cluster.try_create_group("counter", COUNTER, &[]).await;
    assert_eq!(details(&refused.unwrap_err()).0, "GROUP_INCOMPLETE");
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_group_is_gone_everywhere_also_where_a_member_was_away() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    assert!(
        apply(&mut cluster.client(0), "counter", "add 1")
            .await
            .is_ok()
    );
    let id = cluster.agree("counter").await.summary.unwrap().id;
    cluster.stop_node(2).await;

    let rehearsed = delete(&cluster, 0, "counter", None).await.unwrap();
    let states = |reply: &v1::DeleteGroupReply| {
        let all = reply.replicas.iter();
        let all = all.map(|it| (it.node.clone(), it.state.clone()));
        all.collect::<BTreeSet<_>>()
    };
    let state = |node: &str, state: &str| (node.to_owned(), state.to_owned());
    let expected = [
        state("n1", "would-delete"),
        state("n2", "would-delete"),
        state("n3", "unreachable"),
    ];
    assert_eq!(states(&rehearsed), BTreeSet::from(expected));
    let unconfirmed = delete(&cluster, 0, "counter", Some("other")).await;
    assert_eq!(details(&unconfirmed.unwrap_err()).0, "NOT_CONFIRMED");
    assert_eq!(stage(&cluster, 0, id).await, Some(GroupStage::Running));

    // By way of a node without any part in it, as far as it can be told: any node will do.
    let deleted = delete(&cluster, 1, "counter", Some("counter")).await;
    let expected = [
        state("n1", "deleted"),
        state("n2", "deleted"),
        state("n3", "unreachable"),
    ];
    assert_eq!(states(&deleted.unwrap()), BTreeSet::from(expected));
    let gone = delete(&cluster, 0, "counter", Some("counter")).await;
    assert_eq!(details(&gone.unwrap_err()).0, "GROUP_NOT_FOUND");

    // The name is free at once, and the member that was away does not get in the way of it.
    let new = cluster.try_create_group("counter", COUNTER, &["n1", "n2"]);
    let new = new.await.unwrap();
    cluster.start_node(2).await;
    stands(&cluster, 2, id, GroupStage::Deleted).await;
    cluster.stop_nodes().await;
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    for index in 0..3 {
        stands(&cluster, index, id, GroupStage::Deleted).await;
    }
    cluster.leader("counter").await;
    let value = wait_for("an answer", || async {
        let mut client = cluster.client(0);
        let asked = query(&mut client, "counter", "get", Linearizable);
        asked.await.ok()
    });
    assert_eq!(value.await, "0", "nothing of the old group is left");
    assert_eq!(stage(&cluster, 0, new.id).await, Some(GroupStage::Running));
    cluster.stop().await;
}

/// Members believe only each other, so whoever is none has a member delete the group.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_is_deleted_by_way_of_a_node_that_its_members_were_not_told_of() {
    let mut cluster = Cluster::start(2, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let id = cluster.agree("counter").await.summary.unwrap().id;
    let joined = cluster.add_node(&[0]);
    cluster.start_node(joined).await;
    cluster.connected().await;
    let deleted = delete(&cluster, joined, "counter", Some("counter")).await;
    let states: Vec<_> = deleted.unwrap().replicas;
    assert!(states.iter().all(|it| it.state == "deleted"), "{states:?}");
    for index in 0..2 {
        stands(&cluster, index, id, GroupStage::Deleted).await;
    }
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_of_a_group_without_majority_can_be_deleted() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    cluster.stop_node(1).await;
    cluster.stop_node(2).await;
    delete(&cluster, 0, "counter", Some("counter"))
        .await
        .unwrap();
    assert!(cluster.describe(0, "counter").await.is_none());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leftover_that_nobody_else_has_is_purged() {
    let cluster = Cluster::start(3, Data::Disk).await;
    let order = by_decider(&cluster).await;
    let alone = order[2];
    let spec = prepared_by_hand(&cluster, 79, 1, &[alone]).await;
    let request = |confirm: &str| v1::PurgeReplicaRequest {
        group: spec.name.clone(),
        dry_run: false,
        confirm: confirm.into(),
    };
    let refused = cluster.admin(alone).purge_replica(request("other")).await;
    assert_eq!(details(&refused.unwrap_err()).0, "NOT_CONFIRMED");
    let purged = cluster.admin(alone).purge_replica(request("counter")).await;
    purged.unwrap();
    stands(&cluster, alone, spec.id, GroupStage::Absent).await;
    cluster.create_group("counter", COUNTER).await;
    cluster.stop().await;
}
