//! Commands and queries on three nodes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use kontiki_proto::v1;
use kontiki_proto::v1::Consistency::{Lease, Linearizable, Stale};
use std::time::Duration;
use support::{Cluster, Data, apply, details, query, wait_for};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};

const COUNTER: &str = "native:counter";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_replicate_commands_and_answer_queries_everywhere() {
    for data in [Data::Memory, Data::Disk] {
        let cluster = Cluster::start(3, data).await;
        cluster.create_group("counter", COUNTER).await;
        for index in 0..3 {
            let mut client = cluster.client(index);
            let (_, answer) = apply(&mut client, "counter", "add 5").await.unwrap();
            assert_eq!(answer, Ok((5 * index).to_string()));
            let (_, answer) = apply(&mut client, "counter", "nonsense").await.unwrap();
            assert!(answer.unwrap_err().contains("nonsense"));
        }
        for index in 0..3 {
            let mut client = cluster.client(index);
            for consistency in [Linearizable, Lease] {
                let value = query(&mut client, "counter", "get", consistency)
                    .await
                    .unwrap();
                assert_eq!(value, "15");
            }
        }
        cluster.agree("counter").await;
        for index in 0..3 {
            let value = query(&mut cluster.client(index), "counter", "get", Stale)
                .await
                .unwrap();
            assert_eq!(value, "15");
        }
        cluster.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn state_survives_a_restart_of_all_nodes() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let mut client = cluster.client(0);
    for _ in 0..300 {
        let (_, answer) = apply(&mut client, "counter", "add 1").await.unwrap();
        assert!(answer.is_ok());
    }
    let before = cluster.agree("counter").await;
    for index in 0..3 {
        cluster.stop_node(index).await;
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.leader("counter").await;
    let mut client = cluster.client(1);
    assert_eq!(
        query(&mut client, "counter", "get", Linearizable)
            .await
            .unwrap(),
        "300"
    );
    let after = cluster.agree("counter").await;
    assert_eq!(after.outcome_hash, before.outcome_hash);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_answers_in_order_on_leader_and_follower() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let mut expected = 0;
    for index in 0..3 {
        let requests = (0..500).map(|_| v1::ApplyStreamRequest {
            group: "counter".into(),
            command: "add 1".into(),
            ..Default::default()
        });
        let requests = tokio_stream::iter(requests.collect::<Vec<_>>());
        let mut replies = cluster
            .client(index)
            .apply_stream(requests)
            .await
            .unwrap()
            .into_inner();
        while let Some(reply) = replies.next().await {
            let Some(v1::apply_stream_reply::Outcome::Reply(reply)) = reply.unwrap().outcome else {
                panic!("a command failed");
            };
            let answer = v1::apply_reply::Result::Answer(expected.to_string().into());
            assert_eq!(reply.result, Some(answer));
            expected += 1;
        }
    }
    assert_eq!(expected, 1_500);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cluster_goes_on_when_its_leader_is_gone() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let mut total = 0;
    for _ in 0..3 {
        let leader = cluster.leader("counter").await;
        let survivor = (leader + 1) % 3;
        cluster.stop_node(leader).await;
        let mut client = cluster.client(survivor);
        let cluster_ref = &cluster;
        let answer = wait_for("a new leader", || async {
            let answer = apply(&mut cluster_ref.client(survivor), "counter", "add 1").await;
            answer.ok().map(|(_, answer)| answer)
        })
        .await;
        assert_eq!(answer, Ok(total.to_string()));
        total += 1;
        let value = query(&mut client, "counter", "get", Linearizable)
            .await
            .unwrap();
        assert_eq!(value, total.to_string());
        cluster.start_node(leader).await;
        cluster.connected().await;
    }
    cluster.agree("counter").await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_writes_are_refused_with_their_outcome() {
    let mut cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    for index in (0..3).filter(|index| *index != leader) {
        cluster.stop_node(index).await;
    }
    let mut client = cluster.client(leader);
    let mut request = Request::new(v1::ApplyRequest {
        group: "counter".into(),
        command: "add 1".into(),
        ..Default::default()
    });
    request.set_timeout(Duration::from_millis(200));
    let status = client.apply(request).await.unwrap_err();
    let (reason, outcome) = details(&status);
    // Whether the leader has noticed yet decides which.
    match reason.as_str() {
        "DEADLINE_EXCEEDED" | "LEADERSHIP_LOST" => assert_eq!(outcome, "unknown"),
        "NO_LEADER" => assert_eq!(outcome, "not_applied"),
        other => panic!("{other}: {status:?}"),
    }
    let status = wait_for("the leader to notice", || async {
        let mut client = cluster.client(leader);
        let status = apply(&mut client, "counter", "add 1").await.unwrap_err();
        (details(&status).0 == "NO_LEADER").then_some(status)
    })
    .await;
    assert_eq!(
        (status.code(), details(&status).1.as_str()),
        (Code::Unavailable, "not_applied")
    );
    let problems = cluster
        .describe(leader, "counter")
        .await
        .unwrap()
        .summary
        .unwrap()
        .problems;
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("1 of 3 voters")),
        "{problems:?}"
    );
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_are_refused_with_a_reason() {
    let cluster = Cluster::start(1, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let mut client = cluster.client(0);
    let status = apply(&mut client, "nothing", "add 1").await.unwrap_err();
    assert_eq!(
        (status.code(), details(&status).0.as_str()),
        (Code::NotFound, "GROUP_NOT_FOUND")
    );
    let large = "x".repeat((4 << 20) + 1);
    let status = apply(&mut client, "counter", &large).await.unwrap_err();
    assert_eq!(
        (status.code(), details(&status).0.as_str()),
        (Code::InvalidArgument, "TOO_LARGE")
    );
    let mut request = Request::new(v1::ApplyRequest {
        group: "counter".into(),
        command: "add 1".into(),
        expected_term: Some(99),
        ..Default::default()
    });
    request.set_timeout(Duration::from_secs(5));
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(
        details(&status),
        ("TERM_MISMATCH".into(), "not_applied".into())
    );
    let log = v1::ReadLogRequest {
        group: "counter".into(),
        first_index: 1,
        entries_max: 10,
    };
    let entries = cluster
        .admin(0)
        .read_log(log)
        .await
        .unwrap()
        .into_inner()
        .entries;
    assert!(
        entries.is_empty(),
        "a refused command must not be in the log"
    );
    cluster.stop().await;
}

async fn staleness(cluster: &Cluster, index: usize) -> v1::query_reply::Staleness {
    let request = v1::QueryRequest {
        group: "counter".into(),
        request: "get".into(),
        consistency: Stale.into(),
        ..Default::default()
    };
    let reply = cluster.client(index).query(request).await.unwrap();
    reply.into_inner().staleness.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stale_answers_say_how_old_they_may_be() {
    use v1::query_reply::Staleness::{StalenessUnknown, StalenessUs};
    let mut cluster = Cluster::prepare(3, Data::Disk);
    for index in 0..3 {
        cluster.options(index).election_timeout = Some("1s".into());
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    let (_, answer) = apply(&mut cluster.client(leader), "counter", "add 1")
        .await
        .unwrap();
    assert!(answer.is_ok());
    for index in 0..3 {
        wait_for("a fresh state", || async {
            let fresh = |us| us < 600_000;
            matches!(staleness(&cluster, index).await, StalenessUs(us) if fresh(us)).then_some(())
        })
        .await;
    }
    // Alone, a leader knows no better than its followers how old it is.
    let survivor = leader;
    for index in (0..3).filter(|index| *index != survivor) {
        cluster.stop_node(index).await;
    }
    wait_for("the state to grow old", || async {
        let old = |us| us > 1_500_000;
        matches!(staleness(&cluster, survivor).await, StalenessUs(us) if old(us)).then_some(())
    })
    .await;
    // After a restart nobody can tell what happened meanwhile.
    cluster.stop_node(survivor).await;
    cluster.start_node(survivor).await;
    assert_eq!(staleness(&cluster, survivor).await, StalenessUnknown(true));
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_of_a_stream_are_refused_in_another_term_than_expected() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let leader = cluster.leader("counter").await;
    let (first, _) = apply(&mut cluster.client(leader), "counter", "add 1")
        .await
        .unwrap();
    assert!(first > 0);
    let term = cluster
        .describe(leader, "counter")
        .await
        .unwrap()
        .summary
        .unwrap()
        .term;
    let request = |expected_term| v1::ApplyStreamRequest {
        group: "counter".into(),
        command: "add 1".into(),
        expected_term,
    };
    for index in 0..3 {
        let requests = [Some(term), Some(term + 9), None].map(request);
        let replies = cluster
            .client(index)
            .apply_stream(tokio_stream::iter(requests))
            .await;
        let replies: Vec<_> = replies.unwrap().into_inner().collect().await;
        let errors = replies
            .into_iter()
            .map(|reply| match reply.unwrap().outcome.unwrap() {
                v1::apply_stream_reply::Outcome::Reply(_) => None,
                v1::apply_stream_reply::Outcome::Error(error) => {
                    Some((error.reason, error.outcome))
                }
            });
        let mismatch = ("TERM_MISMATCH".to_owned(), "not_applied".to_owned());
        assert_eq!(errors.collect::<Vec<_>>(), [None, Some(mismatch), None]);
    }
    cluster.stop().await;
}
