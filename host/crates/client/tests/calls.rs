//! Calls against nodes that misbehave in every way a cluster does.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail; this also covers its helpers"
)]

mod fake;

use fake::{Act, Node};
use futures_util::StreamExt as _;
use kontiki_client::{
    Address, Client, Code, Consistency, Error, Options, Outcome, Phase, Reason, Reply, Verdict,
};
use std::time::{Duration, Instant};

fn client(nodes: &[&Node]) -> Client {
    patient(nodes, Duration::from_secs(5))
}

fn patient(nodes: &[&Node], timeout: Duration) -> Client {
    let options = Options {
        timeout,
        patience: timeout,
        ..Options::default()
    };
    Client::connect(nodes.iter().map(|node| node.address.clone()), options)
}

fn answer(reply: &Reply) -> &[u8] {
    match &reply.verdict {
        Verdict::Answer(answer) => answer,
        Verdict::Rejected(why) => panic!("rejected: {why}"),
    }
}

fn free_address() -> Address {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string().parse().unwrap()
}

async fn apply(client: &Client, command: &str) -> Result<Reply, Error> {
    client.apply("g", command.to_owned()).await
}

#[tokio::test]
async fn not_leader_leads_to_the_leader_and_is_remembered() {
    let leader = Node::start(|_, _| Act::Answer("ok", 3));
    let hint = leader.address.clone();
    let follower = Node::start(move |_, _| Act::not_leader(&hint, 3));
    let client = client(&[&follower, &leader]);
    let reply = apply(&client, "a").await.unwrap();
    assert_eq!(
        (answer(&reply), &reply.served_by),
        (&b"ok"[..], &leader.address)
    );
    apply(&client, "b").await.unwrap();
    assert_eq!(
        follower.seen(),
        ["a"],
        "the second command goes straight to the leader"
    );
    assert_eq!(leader.seen(), ["a", "b"]);
}

#[tokio::test]
async fn a_hint_to_a_member_that_was_not_an_endpoint_is_followed() {
    let leader = Node::start(|_, _| Act::Answer("ok", 3));
    let hint = leader.address.clone();
    let follower = Node::start(move |_, _| Act::not_leader(&hint, 3));
    follower.introduce(&[&leader]);
    let client = client(&[&follower]);
    assert_eq!(apply(&client, "a").await.unwrap().served_by, leader.address);
}

#[tokio::test]
async fn a_hint_to_a_stranger_is_not_followed_but_the_node_forwards() {
    let stranger = Node::start(|_, _| Act::Answer("stolen", 3));
    let hint = stranger.address.clone();
    let follower = Node::start(move |_, no_forward| {
        if no_forward {
            Act::not_leader(&hint, 3)
        } else {
            Act::Answer("forwarded", 3)
        }
    });
    let client = client(&[&follower]);
    assert_eq!(answer(&apply(&client, "a").await.unwrap()), b"forwarded");
    assert_eq!(stranger.seen().len(), 0);
}

#[tokio::test]
async fn two_nodes_that_name_each_other_do_not_trap_a_call() {
    let (first, second) = (free_address(), free_address());
    drop((first, second));
    let a = Node::start(|_, _| Act::no_leader());
    let hint = a.address.clone();
    let b = Node::start(move |_, _| Act::not_leader(&hint, 1));
    let client = patient(&[&b, &a], Duration::from_millis(300));
    let error = apply(&client, "x").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let tries = a.seen().len() + b.seen().len();
    assert!((2..60).contains(&tries), "{tries} attempts in 0.3 s");
}

#[tokio::test]
async fn waits_for_a_leader_to_be_elected() {
    let mut refusals = 3;
    let node = Node::start(move |_, _| {
        refusals -= 1;
        if refusals >= 0 {
            Act::no_leader()
        } else {
            Act::Answer("ok", 4)
        }
    });
    let reply = apply(&client(&[&node]), "a").await.unwrap();
    assert_eq!(reply.term, 4);
    assert_eq!(node.seen().len(), 4);
}

#[tokio::test]
async fn without_a_leader_the_deadline_ends_it_as_not_applied() {
    let node = Node::start(|_, _| Act::no_leader());
    let client = patient(&[&node], Duration::from_millis(400));
    let began = Instant::now();
    let error = apply(&client, "a").await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(1));
    assert_eq!(*error.reason(), Reason::NO_LEADER);
    assert_eq!(
        (error.outcome(), error.code()),
        (Outcome::NotApplied, Code::Unavailable)
    );
    assert!(error.message().contains("tried for 0."), "{error}");
    let [tried] = error.tried() else {
        panic!("{:?}", error.tried())
    };
    assert!(tried.times > 1 && tried.address == node.address && tried.phase == Phase::Wait);
}

#[tokio::test]
async fn a_lost_reply_is_unknown_and_the_command_is_not_sent_again() {
    let dying = Node::start(|_, _| Act::Die);
    let healthy = Node::start(|_, _| Act::Answer("ok", 1));
    let client = client(&[&dying, &healthy]);
    let error = apply(&client, "add 1").await.unwrap_err();
    assert_eq!(*error.reason(), Reason::CONNECTION_LOST);
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(healthy.seen().len(), 0, "sent again after a lost reply");
    apply(&client, "add 2")
        .await
        .expect("the next command goes to the other node");
}

#[tokio::test]
async fn a_query_whose_reply_is_lost_is_asked_elsewhere() {
    let dying = Node::start(|_, _| Act::Die);
    let healthy = Node::start(|_, _| Act::Answer("7", 1));
    let client = client(&[&dying, &healthy]);
    let reply = client
        .query("g", "get", Consistency::Linearizable)
        .await
        .unwrap();
    assert_eq!(answer(&reply), b"7");
    assert_eq!(dying.seen().len(), 1);
}

#[tokio::test]
async fn unavailable_without_our_details_is_unknown_for_a_command() {
    let node = Node::start(|_, _| Act::Bare(Code::Unavailable));
    let error = apply(&client(&[&node]), "a").await.unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(node.seen().len(), 1);
}

#[tokio::test]
async fn a_silent_node_is_unknown_at_the_deadline_for_a_command() {
    let node = Node::start(|_, _| Act::Hang);
    let client = patient(&[&node], Duration::from_millis(300));
    let began = Instant::now();
    let error = apply(&client, "a").await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(2));
    assert_eq!(*error.reason(), Reason::DEADLINE_EXCEEDED);
    assert_eq!(
        (error.outcome(), error.code()),
        (Outcome::Unknown, Code::DeadlineExceeded)
    );
    assert_eq!(error.tried()[0].phase, Phase::Wait);
}

#[tokio::test]
async fn dead_nodes_are_passed_over_and_listed_when_all_are_dead() {
    let (dead, other) = (free_address(), free_address());
    let node = Node::start(|_, _| Act::Answer("ok", 1));
    let endpoints = [dead.clone(), node.address.clone()];
    let client = Client::connect(endpoints, Options::default());
    apply(&client, "a").await.expect("one endpoint is alive");

    let patience = Duration::from_millis(200);
    let options = Options {
        patience,
        ..Options::default()
    };
    let client = Client::connect([dead.clone(), other.clone()], options);
    let began = Instant::now();
    let error = apply(&client, "a").await.unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "patience ends it before the deadline"
    );
    assert_eq!(*error.reason(), Reason::UNREACHABLE);
    assert_eq!(error.outcome(), Outcome::NotApplied);
    let tried: Vec<_> = error
        .tried()
        .iter()
        .map(|a| (&a.address, a.phase, &*a.problem))
        .collect();
    let connect = Phase::Connect;
    assert_eq!(
        tried,
        [(&dead, connect, "refused"), (&other, connect, "refused")]
    );
}

#[tokio::test]
async fn names_that_do_not_resolve_say_so() {
    let nowhere: Address = "no-such-host.invalid:7470".parse().unwrap();
    let patience = Duration::from_millis(100);
    let client = Client::connect(
        [nowhere],
        Options {
            patience,
            ..Options::default()
        },
    );
    let error = apply(&client, "a").await.unwrap_err();
    assert_eq!(error.tried()[0].phase, Phase::Resolve);
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn a_server_of_another_kind_is_named_as_such() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 16];
            stream.read_exact(&mut request).await.ok();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
                .await
                .ok();
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    let client = Client::connect([address], Options::default());
    let error = apply(&client, "a").await.unwrap_err();
    assert_eq!(*error.reason(), Reason::WRONG_SERVER, "{error}");
    assert_eq!(error.outcome(), Outcome::NotApplied);
}

#[tokio::test]
async fn a_group_is_sought_on_every_node_before_it_is_not_found() {
    let not_found = || Act::Refuse {
        code: Code::NotFound,
        reason: "GROUP_NOT_FOUND",
        outcome: "not_applied",
        leader: None,
    };
    let a = Node::start(move |_, _| not_found());
    let b = Node::start(|_, _| Act::Answer("ok", 1));
    apply(&client(&[&a, &b]), "x")
        .await
        .expect("the other node has the group");
    let c = Node::start(move |_, _| not_found());
    let error = apply(&client(&[&a, &c]), "x").await.unwrap_err();
    assert_eq!(*error.reason(), Reason::GROUP_NOT_FOUND);
}

#[tokio::test]
async fn a_pinned_client_talks_to_its_node_only() {
    let other = Node::start(|_, _| Act::Answer("ok", 1));
    let hint = other.address.clone();
    let mut refusals = 3;
    let node = Node::start(move |_, _| {
        if refusals == 0 {
            return Act::Answer("", 1);
        }
        refusals -= 1;
        Act::not_leader(&hint, 1)
    });
    let client = client(&[&node, &other]).at(node.address.clone());
    client.admin().campaign("g").await.unwrap();
    assert_eq!(node.seen().len(), 4);
    assert_eq!(other.seen().len(), 0);
}

#[tokio::test]
async fn many_calls_share_one_client() {
    let leader = Node::start(|_, _| Act::Answer("ok", 2));
    let hint = leader.address.clone();
    let follower = Node::start(move |_, _| Act::not_leader(&hint, 2));
    let client = client(&[&follower, &leader]);
    let calls = (0..200).map(|n| {
        let client = client.clone();
        tokio::spawn(async move { apply(&client, &n.to_string()).await.unwrap() })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(leader.seen().len(), 200);
}

async fn stream(client: &Client, count: usize) -> Vec<Result<Reply, Error>> {
    let commands: Vec<bytes::Bytes> = (0..count).map(|n| n.to_string().into()).collect();
    client
        .apply_stream("g", tokio_stream::iter(commands))
        .collect()
        .await
}

#[tokio::test]
async fn a_stream_answers_every_command_in_order() {
    let node = Node::start(|_, _| Act::Answer("ok", 1));
    let replies = stream(&client(&[&node]), 1000).await;
    assert_eq!(replies.len(), 1000);
    assert!(replies.iter().all(Result::is_ok));
    let expected: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    assert_eq!(node.seen(), expected);
}

#[tokio::test]
async fn a_stream_moves_to_the_leader_and_loses_nothing() {
    let leader = Node::start(|_, _| Act::Answer("ok", 2));
    let hint = leader.address.clone();
    let deposed = Node::start(move |text, _| {
        let number: u32 = text.parse().unwrap();
        if number < 100 {
            Act::Answer("ok", 1)
        } else {
            Act::not_leader(&hint, 2)
        }
    });
    let replies = stream(&client(&[&deposed, &leader]), 500).await;
    assert_eq!(replies.len(), 500);
    assert!(replies.iter().all(Result::is_ok));
    let expected: Vec<String> = (100..500).map(|n| n.to_string()).collect();
    assert_eq!(
        leader.seen(),
        expected,
        "each refused command is sent again once, in order"
    );
}

#[tokio::test]
async fn a_stream_that_breaks_leaves_what_was_sent_unknown_and_goes_on() {
    let dying = Node::start(|text, _| {
        if text == "5" {
            Act::Die
        } else {
            Act::Answer("ok", 1)
        }
    });
    let healthy = Node::start(|_, _| Act::Answer("ok", 2));
    let replies = stream(&client(&[&dying, &healthy]), 1000).await;
    assert_eq!(replies.len(), 1000);
    let lost = replies
        .iter()
        .filter_map(|r| r.as_ref().err())
        .collect::<Vec<_>>();
    assert!(!lost.is_empty() && lost.len() <= 256, "{} lost", lost.len());
    assert!(lost.iter().all(|error| error.outcome() == Outcome::Unknown));
    let seen = healthy.seen();
    for (n, reply) in replies.iter().enumerate() {
        let sent_there = seen.contains(&n.to_string());
        assert!(
            !(reply.is_err() && sent_there),
            "{n} is unknown and was sent again"
        );
    }
    assert!(
        replies.last().unwrap().is_ok(),
        "the stream goes on elsewhere"
    );
}

#[tokio::test]
async fn a_stream_gives_each_command_its_deadline() {
    let node = Node::start(|text, _| {
        if text == "1" {
            Act::Hang
        } else {
            Act::Answer("ok", 1)
        }
    });
    let replies = stream(&patient(&[&node], Duration::from_millis(300)), 2).await;
    assert!(replies[0].is_ok());
    let error = replies[1].as_ref().unwrap_err();
    assert_eq!(error.outcome(), Outcome::Unknown);
    assert_eq!(*error.reason(), Reason::DEADLINE_EXCEEDED);
}

#[tokio::test]
async fn a_node_that_lets_a_call_run_out_is_not_asked_first_again() {
    let mut hangs = false;
    let cut_off = Node::start(move |_, _| {
        let act = if hangs {
            Act::Hang
        } else {
            Act::Answer("old", 3)
        };
        hangs = true;
        act
    });
    let next = Node::start(|_, _| Act::Answer("new", 4));
    let client = patient(&[&cut_off, &next], Duration::from_millis(500));
    assert_eq!(answer(&apply(&client, "a").await.unwrap()), b"old");
    let late = apply(&client, "b").await.unwrap_err();
    assert_eq!(*late.reason(), Reason::DEADLINE_EXCEEDED);
    assert_eq!(late.outcome(), Outcome::Unknown);
    for _ in 0..3 {
        assert_eq!(answer(&apply(&client, "c").await.unwrap()), b"new");
    }
    assert_eq!(cut_off.seen(), ["a", "b"]);
}
