//! Whoever can reach a node's port can send it anything. It stays up and bounded, and serves others
//! meanwhile.
//!
//! Seeds are fixed and counts small; `KONTIKI_HOSTILE_ROUNDS=10` makes ten rounds with other seeds,
//! and `KONTIKI_HOSTILE_SCALE=10` ten times as many connections and streams.

use anyhow::{Context as _, Result, ensure};
use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use kontiki_proto::v1;
use kontiki_proto::v1::client_client::ClientClient;
use kontiki_tests::{Cluster, ClusterOptions, Outcome, Session, cluster, session};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prost::Message as _;
use std::fs;
use std::time::Duration;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tonic::codegen::http::Request as Head;
use tonic::transport::Endpoint;

const LIMIT: Duration = Duration::from_secs(60);
const RESIDENT_SIZE_BYTES_MAX: u64 = 450 << 20;
const APPLY: &str = "kontiki.v1.Client/Apply";
const STREAM: &str = "kontiki.v1.Peer/Stream";

/// Numbers that look random (xorshift), the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        (0..count).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

fn setting(name: &str) -> u64 {
    let given = std::env::var(name).ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// The node under attack.
struct Target {
    cluster: Cluster,
    session: Session,
    applied: i64,
}

impl Target {
    async fn start() -> Result<Self> {
        let cluster = Cluster::start(ClusterOptions {
            nodes: 1,
            ..ClusterOptions::default()
        })?;
        let session = Session::new("counter", &cluster.addresses(), Duration::from_secs(10))?;
        let component = fs::read(cluster::component("counter")?)?;
        session::create_group(&session, "counter", &component).await?;
        session.leader(LIMIT).await?;
        Ok(Self {
            cluster,
            session,
            applied: 0,
        })
    }

    fn address(&self) -> String {
        self.cluster.addresses().remove(0)
    }

    /// It serves, answers are right, and it is no larger than it may be.
    async fn is_well(&mut self, after: &str) -> Result<()> {
        // A newcomer: it must find a place.
        let addresses = self.cluster.addresses();
        let mut newcomer = Session::new("counter", &addresses, Duration::from_secs(10))?;
        for session in [&mut self.session, &mut newcomer] {
            let answer = session.apply_until("add 1", LIMIT).await;
            let before = answer.with_context(|| format!("after {after}"))?;
            ensure!(before == self.applied.to_string(), "{before} after {after}");
            self.applied += 1;
        }
        let pid = self.cluster.pid(0).context("it has ended")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident = resident.and_then(|kib| kib.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        let resident = resident.context("VmRSS")? << 10;
        eprintln!("after {after}: {} MiB", resident >> 20);
        ensure!(
            resident < RESIDENT_SIZE_BYTES_MAX,
            "{resident} bytes after {after}"
        );
        Ok(())
    }
}

async fn connect(address: &str) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A call that goes on.
async fn call(
    client: &SendRequest<Bytes>,
    path: &str,
) -> Result<(ResponseFuture, SendStream<Bytes>)> {
    let head = Head::post(format!("http://node/{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut client = client.clone().ready().await?;
    Ok(client.send_request(head, false)?)
}

/// A message as gRPC frames it, which says that it has `declared` bytes.
fn framed(declared: u32, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(5 + content.len());
    bytes.extend_from_slice(&[0]);
    bytes.extend_from_slice(&declared.to_be_bytes());
    bytes.extend_from_slice(content);
    bytes.freeze()
}

fn message(content: &[u8]) -> Bytes {
    framed(u32::try_from(content.len()).unwrap_or(u32::MAX), content)
}

/// This process needs descriptors too.
fn raise_limit() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}

/// Connections that say nothing, and some that say what is no HTTP/2.
async fn crowd(address: &str, numbers: &mut Numbers, count: u64) -> Vec<TcpStream> {
    let mut crowd = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = TcpStream::connect(address).await else {
            continue;
        };
        if numbers.below(4) == 0 {
            let size = numbers.below(200);
            stream.write_all(&numbers.bytes(size)).await.ok();
        }
        crowd.push(stream);
    }
    crowd
}

/// Calls that never go on: without a body, or in the middle of one.
async fn half_open(address: &str, numbers: &mut Numbers, count: u64) -> Result<()> {
    let mut kept = Vec::new();
    for _ in 0..count.div_ceil(500) {
        let client = connect(address).await?;
        for _ in 0..500 {
            let path = [APPLY, STREAM, "kontiki.v1.Client/ApplyStream"];
            let path = path[usize::try_from(numbers.below(3))?];
            let begun = call(&client, path);
            // Above its limit the node lets calls wait.
            let Ok(begun) = tokio::time::timeout(Duration::from_secs(2), begun).await else {
                break;
            };
            let (answer, mut body) = begun?;
            if numbers.below(2) == 0 {
                let content = numbers.bytes(20);
                body.send_data(framed(1_000, &content), false).ok();
            }
            kept.push((answer, body));
        }
    }
    Ok(())
}

/// Messages that say they are huge.
async fn huge_lengths(address: &str) -> Result<()> {
    let client = connect(address).await?;
    let mut answers = Vec::new();
    for path in [
        APPLY,
        STREAM,
        "kontiki.v1.Client/ApplyStream",
        "kontiki.v1.Peer/Introduce",
    ] {
        for declared in [u32::MAX, 1 << 31, 200 << 20] {
            let (answer, mut body) = call(&client, path).await?;
            body.send_data(framed(declared, b"x"), false).ok();
            answers.push(async move {
                let _body = body;
                answer.await.map(drop)
            });
        }
    }
    let answered = tokio::time::timeout(LIMIT, join_all(answers)).await;
    answered.context("a length that no message may have is not refused")?;
    Ok(())
}

/// Whole commands that are far too large, all at once.
async fn huge_bodies(address: &str) -> Result<()> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect_lazy();
    let command = Bytes::from(vec![b'x'; 200 << 20]);
    let one = || {
        let mut client = ClientClient::new(channel.clone()).max_encoding_message_size(usize::MAX);
        let request = v1::ApplyRequest {
            group: "counter".into(),
            command: command.clone(),
            ..Default::default()
        };
        async move { client.apply(request).await }
    };
    let answers = join_all((0..8).map(|_| one()));
    for answer in tokio::time::timeout(LIMIT, answers).await? {
        ensure!(answer.is_err(), "200 MiB were taken");
    }
    Ok(())
}

/// Sends commands and reads none of the answers.
async fn slow_reader(address: &str) -> Result<SendRequest<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(0)
        .handshake::<_, Bytes>(stream)
        .await?;
    tokio::spawn(connection);
    let command = "x".repeat(8 << 10);
    for _ in 0..64 {
        let Ok((_, mut body)) = call(&client, "kontiki.v1.Client/ApplyStream").await else {
            break;
        };
        for _ in 0..64 {
            let request = v1::ApplyStreamRequest {
                group: "counter".into(),
                command: command.clone().into(),
                expected_term: None,
            };
            // The server may have refused the call by now.
            if body
                .send_data(message(&request.encode_to_vec()), false)
                .is_err()
            {
                break;
            }
        }
    }
    Ok(client)
}

/// What a peer might say, and what it never would.
fn frame(numbers: &mut Numbers, introduction: Option<v1::Introduction>) -> v1::PeerFrame {
    use v1::raft_message::Body;
    let number = |numbers: &mut Numbers| match numbers.below(4) {
        0 => numbers.below(8),
        1 => u64::MAX - numbers.below(8),
        2 => (1 << 62) - numbers.below(3),
        _ => numbers.next(),
    };
    let message = |numbers: &mut Numbers| v1::GroupMessage {
        group: number(numbers),
        to: number(numbers),
        epoch: (numbers.below(2) == 0).then(|| v1::EpochId {
            number: number(numbers),
            random: number(numbers),
        }),
        message: Some(v1::RaftMessage {
            term: number(numbers),
            body: Some(match numbers.below(2) {
                0 => Body::Heartbeat(v1::Heartbeat {
                    commit: number(numbers),
                    round: number(numbers),
                    ..Default::default()
                }),
                _ => Body::RequestVote(v1::RequestVote {
                    round: number(numbers),
                    forced: true,
                    ..Default::default()
                }),
            }),
        }),
    };
    v1::PeerFrame {
        introduction,
        messages: (0..numbers.below(20)).map(|_| message(numbers)).collect(),
        time_ns: number(numbers),
    }
}

/// Says it is a node, or many, and says what it likes.
async fn forged_peers(address: &str, numbers: &mut Numbers, count: u64) -> Result<()> {
    let client = connect(address).await?;
    let mut kept = Vec::new();
    for number in 0..count {
        let introduction = v1::Introduction {
            cluster: "kontiki".into(),
            node: numbers.next(),
            name: format!("f{}", numbers.below(50)),
            peer_address: format!("127.0.0.1:{}", 1 + numbers.below(1_000)),
            client_address: "127.0.0.1:1".into(),
            protocol: u32::try_from(numbers.below(3))?,
            address_epoch: numbers.next(),
            ..Default::default()
        };
        let (answer, mut body) = call(&client, "kontiki.v1.Peer/Introduce").await?;
        body.send_data(message(&introduction.encode_to_vec()), true)
            .ok();
        kept.push((answer, body));
        let (answer, mut body) = call(&client, STREAM).await?;
        body.send_data(
            message(&frame(numbers, Some(introduction)).encode_to_vec()),
            false,
        )
        .ok();
        for _ in 0..5 {
            let next = match number % 2 {
                0 => frame(numbers, None).encode_to_vec(),
                _ => numbers.bytes(100),
            };
            // It may have been refused by now.
            body.send_data(message(&next), false).ok();
        }
        kept.push((answer, body));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stays_up_and_bounded_and_serves_others() -> Result<()> {
    raise_limit()?;
    let mut target = Target::start().await?;
    let address = target.address();
    let scale = setting("KONTIKI_HOSTILE_SCALE");
    for round in 0..setting("KONTIKI_HOSTILE_ROUNDS") {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ round);
        let crowd = crowd(&address, &mut numbers, 5_000 * scale).await;
        target.is_well("a crowd of connections").await?;
        drop(crowd);
        half_open(&address, &mut numbers, 2_000 * scale).await?;
        target.is_well("streams that do not go on").await?;
        huge_lengths(&address).await?;
        target.is_well("huge declared lengths").await?;
        huge_bodies(&address).await?;
        target.is_well("huge bodies").await?;
        let slow = slow_reader(&address).await?;
        target.is_well("a slow reader").await?;
        drop(slow);
        forged_peers(&address, &mut numbers, 100 * scale).await?;
        target.is_well("forged peers").await?;
    }
    let Outcome::Applied { .. } = target.session.apply("add 1").await else {
        anyhow::bail!("it does not serve");
    };
    Ok(())
}
