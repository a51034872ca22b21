//! Who is believed to be which node: what is said in a node's name by somebody else changes nothing.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use futures_util::stream;
use kontiki_proto::PEER_PROTOCOL;
use kontiki_proto::v1;
use kontiki_proto::v1::change_membership_request::Change;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_proto::v1::raft_message::Body;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use support::gate::Gate;
use support::stranger::Stranger;
use support::{Cluster, Data, apply, details, wait_for};
use tonic::transport::Channel;
use tonic::{Code, Status};

const COUNTER: &str = "native:counter";

async fn peer(cluster: &Cluster, index: usize) -> PeerClient<Channel> {
    let address = cluster.node(index).ports().peer;
    PeerClient::connect(format!("http://{address}"))
        .await
        .unwrap()
}

async fn node(cluster: &Cluster, index: usize) -> v1::GetNodeReply {
    let request = v1::GetNodeRequest {};
    let node = cluster.admin(index).get_node(request).await.unwrap();
    node.into_inner()
}

/// What node `index` knows of the node called `name`.
async fn known(cluster: &Cluster, index: usize, name: &str) -> Option<v1::PeerInfo> {
    let peers = node(cluster, index).await.peers.into_iter();
    let mut named = peers.filter(|peer| peer.node.as_ref().unwrap().name == name);
    named.next()
}

/// An introduction that nobody stands by.
fn forged(name: &str, node: u64, address: &str) -> v1::Introduction {
    v1::Introduction {
        cluster: "test".into(),
        node,
        name: name.into(),
        peer_address: address.into(),
        client_address: address.into(),
        protocol: PEER_PROTOCOL,
        incarnation: 7,
        session: vec![7; 16].into(),
        address_epoch: 1_000,
        ..v1::Introduction::default()
    }
}

/// Streams one heartbeat of that term in the name of `from`.
async fn stream_as(
    cluster: &Cluster,
    from: &v1::Introduction,
    group: u64,
    term: u64,
) -> Result<(), Status> {
    let to: u64 = cluster.node(0).ports().node.parse().unwrap();
    let heartbeat = Body::Heartbeat(v1::Heartbeat::default());
    let message = v1::GroupMessage {
        group,
        to,
        epoch: None,
        message: Some(v1::RaftMessage {
            term,
            body: Some(heartbeat),
        }),
    };
    let frame = |introduction, messages| v1::PeerFrame {
        introduction,
        messages,
        time_ns: 0,
    };
    let frames = [
        frame(Some(from.clone()), vec![]),
        frame(None, vec![message]),
    ];
    let sent = peer(cluster, 0).await.stream(stream::iter(frames)).await;
    sent.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_speaks_in_anothers_name_is_not_heard_and_leaves_no_trace() {
    let cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let before = cluster.describe(0, "counter").await.unwrap();
    let group = before.summary.clone().unwrap().id;
    let id: u64 = cluster.node(1).ports().node.parse().unwrap();
    let there = known(&cluster, 0, "n2").await.unwrap();
    let own = there.node.clone().unwrap();
    // As the node that it is, where it is; as if it had moved; as one that nobody knows.
    let lies = [
        forged("n2", id, &own.peer_address),
        forged("n2", id, "127.0.0.1:1"),
        forged("n9", 9, "127.0.0.1:1"),
        forged("n9", 9, &own.peer_address),
    ];
    for lie in &lies {
        let refused = peer(&cluster, 0).await.introduce(lie.clone()).await;
        assert_eq!(refused.unwrap_err().code(), refusal(&lie.name), "{lie:?}");
        let refused = stream_as(&cluster, lie, group, (1 << 62) - 1).await;
        assert_eq!(refused.unwrap_err().code(), refusal(&lie.name), "{lie:?}");
    }
    // Hearsay is looked into, and nobody is found there.
    let mut peer = peer(&cluster, 0).await;
    let heard = v1::AddressBook {
        nodes: lies.to_vec(),
        forgotten: vec![v1::ForgottenNode {
            name: "n2".into(),
            node: id,
        }],
    };
    peer.exchange_books(heard).await.unwrap();

    let added = apply(&mut cluster.client(0), "counter", "add 1").await;
    assert!(added.unwrap().1.is_ok());
    let after = cluster.describe(0, "counter").await.unwrap();
    assert_eq!(term(&after), term(&before), "no election was needed");
    let now = known(&cluster, 0, "n2").await.unwrap();
    assert!(now.connected, "{}", now.error);
    assert_eq!(now.node.unwrap(), own);
    assert_eq!(known(&cluster, 0, "n9").await, None);
    cluster.stop().await;
}

/// A second process of a node that runs, or one that is not found.
fn refusal(name: &str) -> Code {
    match name {
        "n2" => Code::Unavailable,
        _ => Code::FailedPrecondition,
    }
}

fn term(of: &v1::GroupDescription) -> u64 {
    of.summary.as_ref().unwrap().term
}

/// Anybody can make names up; none of them costs a connection that is dialled for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn made_up_nodes_are_neither_kept_nor_dialled() {
    let cluster = Cluster::start(1, Data::Memory).await;
    let mut peer = peer(&cluster, 0).await;
    for node in 100..140 {
        let made_up = forged(&format!("x{node}"), node, "127.0.0.1:1");
        let refused = peer.introduce(made_up).await.unwrap_err();
        assert_eq!(details(&refused).0, "PEER_REFUSED", "{refused}");
    }
    assert_eq!(node(&cluster, 0).await.peers, []);
    cluster.stop().await;
}

/// Which process is a node is told to whoever asks, so naming it proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_names_a_process_that_runs_neither_takes_its_place_nor_has_it_refused() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let group = cluster.agree("counter").await.summary.unwrap().id;
    let mut second = peer(&cluster, 1).await;
    let told = second.confirm(v1::ConfirmRequest::default()).await.unwrap();
    let own = told.into_inner().introduction.unwrap();
    for set_aside in [false, true] {
        let claim = v1::Introduction {
            incarnation: own.incarnation,
            set_aside,
            ..forged("n2", own.node, "")
        };
        let liar = Stranger::start(claim, false, group).await;
        let refused = peer(&cluster, 0).await.introduce(liar.me.clone()).await;
        let refused = refused.unwrap_err();
        assert_eq!(details(&refused).0, "PEER_REFUSED", "{refused}");
        let refused = stream_as(&cluster, &liar.me, group, 1 << 20).await;
        let refused = refused.unwrap_err();
        assert_eq!(details(&refused).0, "PEER_REFUSED", "{refused}");
    }
    let there = known(&cluster, 0, "n2").await.unwrap().node.unwrap();
    assert_eq!(there.peer_address, own.peer_address);
    let problems = node(&cluster, 0).await.problems;
    assert!(
        problems.iter().all(|it| !it.contains("two processes")),
        "{problems:?}"
    );
    cluster.stop().await;
}

/// Anybody can come to be known and be called, and what is said then is an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_is_called_ends_neither_a_process_nor_a_replica() {
    let cluster = Cluster::start(3, Data::Memory).await;
    cluster.create_group("counter", COUNTER).await;
    let group = cluster.agree("counter").await.summary.unwrap().id;
    let refuses = Stranger::start(forged("x1", 901, ""), true, group).await;
    let lies = Stranger::start(forged("x2", 902, ""), false, group).await;
    for stranger in [&refuses, &lies] {
        wait_for("the stranger to be known", || async {
            let mut peer = peer(&cluster, 0).await;
            peer.introduce(stranger.me.clone()).await.ok()
        })
        .await;
    }
    wait_for("both to have been heard", || async {
        let calls = refuses.calls.load(Ordering::Relaxed);
        // It is asked for groups after it was asked for epochs.
        let questions = lies.questions.load(Ordering::Relaxed);
        (calls > 6 && questions > 0).then_some(())
    })
    .await;
    for index in 0..3 {
        let mut peer = peer(&cluster, index).await;
        let settled = peer.settle(v1::SettleRequest { group }).await.unwrap();
        assert_eq!(settled.into_inner().stage(), v1::GroupStage::Running);
        assert!(!stands_aside(&cluster, index).await);
        let there = cluster.describe(index, "counter").await.unwrap();
        assert!(!there.summary.unwrap().left_behind);
    }
    // Nor does it have others believe what was never there.
    let mut peer = peer(&cluster, 0).await;
    let settled = peer.settle(v1::SettleRequest { group: 77 }).await.unwrap();
    assert_eq!(settled.into_inner().stage(), v1::GroupStage::Absent);
    let added = apply(&mut cluster.client(0), "counter", "add 1").await;
    assert!(added.unwrap().1.is_ok());
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_is_learned_by_all_and_added_by_any() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let joining = cluster.add_node(&[2]);
    cluster.start_node(joining).await;
    for index in 0..3 {
        wait_for("the new node to be known", || async {
            known(&cluster, index, "n4").await?.connected.then_some(())
        })
        .await;
    }
    wait_for("it to know the others", || async {
        let peers = node(&cluster, joining).await.peers;
        let connected = peers.iter().filter(|peer| peer.connected).count();
        (connected == 3).then_some(())
    })
    .await;
    // An order that is refused is refused as a plan too, and a plan changes nothing.
    let plan = |index: usize, change, dry_run| {
        let request = v1::ChangeMembershipRequest {
            group: "counter".into(),
            change: Some(change),
            expected: None,
            dry_run,
        };
        let mut admin = cluster.admin(index);
        async move {
            admin
                .change_membership(request)
                .await?
                .into_inner()
                .message()
                .await
        }
    };
    for dry_run in [true, false] {
        // On a busy machine there may be no leader for a moment.
        wait_for("it to be said that nobody knows the node", || async {
            let nobody = plan(0, Change::AddVoter("n9".into()), dry_run).await;
            (details(&nobody.unwrap_err()).0 == "NODE_NOT_FOUND").then_some(())
        })
        .await;
    }
    for index in 0..3 {
        let planned = wait_for("the plan", || async {
            let planned = plan(index, Change::AddVoter("n4".into()), true).await;
            planned.ok()
        });
        let target = planned.await.unwrap().target.unwrap();
        assert_eq!(target.voters.len(), 4);
    }
    let members = cluster.describe(0, "counter").await.unwrap().configuration;
    assert_eq!(members.unwrap().current.unwrap().voters.len(), 3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_runs_is_not_forgotten_and_one_that_is_gone_by_all() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    let forget = |index: usize| {
        let request = v1::ForgetNodeRequest {
            name: "n3".into(),
            force: false,
        };
        let mut admin = cluster.admin(index);
        async move { admin.forget_node(request).await }
    };
    let refused = forget(0).await.unwrap_err();
    assert_eq!(details(&refused).0, "NODE_CONNECTED", "{refused}");
    assert!(known(&cluster, 0, "n3").await.unwrap().connected);
    cluster
        .options(1)
        .peers
        .retain(|peer| !peer.starts_with("n3"));
    cluster
        .options(0)
        .peers
        .retain(|peer| !peer.starts_with("n3"));
    for index in [1, 0, 2] {
        cluster.stop_node(index).await;
    }
    // One is told, the other is away, and hears of it when it is back.
    cluster.start_node(0).await;
    let request = v1::ForgetNodeRequest {
        name: "n3".into(),
        force: false,
    };
    cluster.admin(0).forget_node(request).await.unwrap();
    cluster.start_node(1).await;
    for index in [0, 1] {
        wait_for("the node to be forgotten", || async {
            let others = node(&cluster, index).await.peers;
            let connected = others.iter().all(|peer| peer.connected);
            (connected && others.len() == 1).then_some(())
        })
        .await;
    }
    // By itself it comes back.
    cluster.start_node(2).await;
    cluster.connected().await;
    cluster.stop().await;
}

/// Lays out a second process of n2, at another address. A clean copy: n2 is down while it is taken.
async fn prepare_copy(cluster: &mut Cluster) -> usize {
    cluster.stop_node(1).await;
    let directory = cluster.directory.path().to_owned();
    copy_directory(&directory.join("n2"), &directory.join("copy"));
    cluster.start_node(1).await;
    cluster.connected().await;
    let copy = cluster.add_node(&[0, 2]);
    let options = cluster.options(copy);
    options.name = Some("n2".into());
    options.data_dir = Some(directory.join("copy").display().to_string());
    copy
}

async fn stands_aside(cluster: &Cluster, index: usize) -> bool {
    node(cluster, index).await.node.unwrap().set_aside
}

fn copy_directory(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_directory(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_beside_the_original_is_refused_for_as_long_as_it_runs() {
    let mut cluster = Cluster::start(3, Data::Disk).await;
    cluster.create_group("counter", COUNTER).await;
    let own = known(&cluster, 0, "n2").await.unwrap().node.unwrap();
    let copy = prepare_copy(&mut cluster).await;
    cluster.start_node(copy).await;
    let came = cluster.node(copy).ports().peer.to_string();

    wait_for("the copy to stand aside", || async {
        let said = node(&cluster, copy).await;
        let refused = said.problems.join("\n");
        let set_aside = said.node.unwrap().set_aside;
        (set_aside && refused.contains(&came) && refused.contains(&own.peer_address)).then_some(())
    })
    .await;
    let answer = apply(&mut cluster.client(copy), "counter", "add 1").await;
    assert_eq!(details(&answer.unwrap_err()).0, "DUPLICATE_NODE");
    wait_for("both addresses to be named by the others", || async {
        let problems = node(&cluster, 0).await.problems.join("\n");
        (problems.contains(&came) && problems.contains(&own.peer_address)).then_some(())
    })
    .await;
    let there = known(&cluster, 0, "n2").await.unwrap();
    assert!(there.connected, "{}", there.error);
    assert_eq!(there.node.unwrap().peer_address, own.peer_address);

    // The original ends; the copy does not take its place, however long it waits.
    cluster.stop_node(1).await;
    wait_for("the original to be missed", || async {
        let there = known(&cluster, 0, "n2").await?;
        (!there.connected).then_some(())
    })
    .await;
    let begin = Instant::now();
    wait_for("several election timeouts to pass", || async {
        let there = known(&cluster, 0, "n2").await?;
        assert!(!there.connected, "the copy was taken in");
        assert_eq!(there.node.unwrap().peer_address, own.peer_address);
        (begin.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    cluster.stop().await;
}

/// Each of the two has acknowledged what the other may lack, so neither may go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_some_count_the_one_and_some_the_other_both_stand_aside() {
    let mut cluster = Cluster::prepare(3, Data::Disk);
    let listens = cluster.options(1).listen.clone().unwrap();
    let gate = Gate::open(listens.parse().unwrap()).await;
    let way = gate.address.clone();
    cluster.options(1).peer_advertise = Some(way.clone());
    for index in [0, 2] {
        for peer in &mut cluster.options(index).peers {
            *peer = peer.replace(&listens, &way);
        }
    }
    for index in 0..3 {
        cluster.start_node(index).await;
    }
    cluster.connected().await;
    cluster.create_group("counter", COUNTER).await;
    let copy = prepare_copy(&mut cluster).await;

    // n1 goes on hearing n2, and n3, restarted, does not find it.
    gate.shut().await;
    cluster.stop_node(2).await;
    cluster.start_node(2).await;
    cluster.start_node(copy).await;
    let came = cluster.node(copy).ports().peer.to_string();
    wait_for("n3 to take the copy in", || async {
        let there = known(&cluster, 2, "n2").await?;
        (there.connected && there.node?.peer_address == came).then_some(())
    })
    .await;
    // n1 does not follow it: the original, told by n3 to stand aside, is still there.
    wait_for("the original to stand aside", || async {
        stands_aside(&cluster, 1).await.then_some(())
    })
    .await;
    let there = known(&cluster, 0, "n2").await.unwrap();
    assert_eq!(there.node.unwrap().peer_address, way);

    let _gate = Gate::open_at(&way, listens.parse().unwrap()).await;
    for index in [1, copy] {
        wait_for("both to stand aside", || async {
            stands_aside(&cluster, index).await.then_some(())
        })
        .await;
    }
    // The other two are a majority.
    wait_for("a command to be applied", || async {
        apply(&mut cluster.client(0), "counter", "add 1").await.ok()
    })
    .await
    .1
    .unwrap();
    cluster.stop().await;
}
