//! A peer that stops reading: what waits for it stays within bounds, and nobody else notices.

use super::QueueLimits;
use super::frame::Frames;
use super::queue::tests::{append, heartbeat};
use super::queue::{Lane, Outgoing, Queue};
use futures_util::stream::BoxStream;
use kontiki_proto::v1;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_proto::v1::peer_server::{Peer, PeerServer};
use kontiki_proto::v1::raft_message::Body;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

const LIMITS: QueueLimits = QueueLimits {
    messages_max: 10_000,
    size_bytes_max: 8 << 20,
};
const ENTRY_SIZE_BYTES: usize = 256 << 10;
/// How a connection for log entries is introduced here.
const BULK: &str = "bulk";
const PATIENCE: Duration = Duration::from_secs(20);

/// Takes streams, and reads nothing of those with log entries until it is told to; notes every
/// heartbeat, and how many appends came before it.
#[derive(Clone, Default)]
struct Stalled {
    resume: Arc<Notify>,
    appends: Arc<AtomicUsize>,
    heartbeats: Arc<Mutex<Vec<(u64, usize)>>>,
}

impl Stalled {
    fn note(&self, frame: v1::PeerFrame) {
        let bodies = frame.messages.into_iter().filter_map(|m| m.message?.body);
        for body in bodies {
            match body {
                Body::Heartbeat(beat) => {
                    let before = self.appends.load(Ordering::Acquire);
                    self.heartbeats.lock().unwrap().push((beat.round, before));
                }
                _ => drop(self.appends.fetch_add(1, Ordering::AcqRel)),
            }
        }
    }

    async fn saw_appends(&self, count: usize) -> bool {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while self.appends.load(Ordering::Acquire) < count {
            if tokio::time::Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    async fn saw_heartbeat(&self, round: u64) -> usize {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            let seen = self.heartbeats.lock().unwrap().clone();
            if let Some((_, before)) = seen.iter().find(|(at, _)| *at == round) {
                return *before;
            }
            assert!(tokio::time::Instant::now() < deadline, "no heartbeat came");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tonic::async_trait]
impl Peer for Stalled {
    async fn exchange_epochs(
        &self,
        _: Request<v1::Epochs>,
    ) -> Result<Response<v1::Epochs>, Status> {
        Ok(Response::new(v1::Epochs::default()))
    }

    async fn introduce(
        &self,
        request: Request<v1::Introduction>,
    ) -> Result<Response<v1::Introduction>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn confirm(
        &self,
        _: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn exchange_books(
        &self,
        request: Request<v1::AddressBook>,
    ) -> Result<Response<v1::AddressBook>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn stream(
        &self,
        request: Request<Streaming<v1::PeerFrame>>,
    ) -> Result<Response<v1::StreamEnd>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.unwrap();
        if first.introduction.unwrap().name == BULK {
            self.resume.notified().await;
        }
        while let Some(frame) = frames.message().await? {
            self.note(frame);
        }
        Ok(Response::new(v1::StreamEnd {}))
    }

    async fn create_replica(
        &self,
        _: Request<v1::CreateReplicaRequest>,
    ) -> Result<Response<v1::CreateReplicaReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn decide_creation(
        &self,
        _: Request<v1::DecideCreationRequest>,
    ) -> Result<Response<v1::DecideCreationReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn look_up_groups(
        &self,
        _: Request<v1::LookUpGroupsRequest>,
    ) -> Result<Response<v1::LookUpGroupsReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn settle(
        &self,
        _: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn remove_replica(
        &self,
        _: Request<v1::RemoveReplicaRequest>,
    ) -> Result<Response<v1::RemoveReplicaReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    async fn compare_outcomes(
        &self,
        _: Request<v1::CompareOutcomesRequest>,
    ) -> Result<Response<v1::CompareOutcomesReply>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }

    type FetchPluginStream = BoxStream<'static, Result<v1::PluginChunk, Status>>;

    async fn fetch_plugin(
        &self,
        _: Request<v1::FetchPluginRequest>,
    ) -> Result<Response<Self::FetchPluginStream>, Status> {
        Err(Status::unimplemented("no test asks for it"))
    }
}

/// Serves `peer` on a port of its own and streams `queue` to it.
async fn stream_to(peer: Stalled, queue: Arc<Queue>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = tonic::transport::Server::builder()
        .add_service(PeerServer::new(peer).max_decoding_message_size(64 << 20))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(server);
    for (lane, name) in [(Lane::Urgent, "urgent"), (Lane::Bulk, BULK)] {
        let channel = super::dial::now(&address).await.unwrap();
        let mut client = PeerClient::new(channel).max_encoding_message_size(64 << 20);
        let me = v1::Introduction {
            name: name.into(),
            ..v1::Introduction::default()
        };
        let queue = (Arc::clone(&queue), lane);
        let frames = Frames::new(me, queue, Arc::default(), CancellationToken::new());
        tokio::spawn(async move { client.stream(frames).await });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_for_a_peer_that_reads_nothing_is_bounded() {
    let (peer, queue) = (Stalled::default(), Arc::new(Queue::new(LIMITS)));
    stream_to(peer.clone(), Arc::clone(&queue)).await;
    let (mut taken, mut dropped) = (0, 0);
    // Far more than the connection's own buffers and the queue hold: 1 GiB.
    for _ in 0..4_096 {
        match queue.push(append(ENTRY_SIZE_BYTES)) {
            true => taken += 1,
            false => dropped += 1,
        }
        assert!(queue.bulk_size_bytes() <= LIMITS.size_bytes_max);
        tokio::task::yield_now().await;
    }
    let taken_size_bytes = taken * ENTRY_SIZE_BYTES;
    assert!(
        dropped > 0 && taken_size_bytes < 256 << 20,
        "{taken_size_bytes} bytes were taken"
    );
    // Votes and heartbeats still find room, and wait for nothing of it.
    assert!(queue.push(heartbeat(7)));
    assert_eq!(peer.saw_heartbeat(7).await, 0);
    peer.resume.notify_one();
    assert!(peer.saw_appends(taken).await);
}

/// What is dropped is gone: the queue keeps no trace of it, and takes the next at once when there is
/// room.
#[test]
fn room_comes_back_as_it_is_taken() {
    let queue = Queue::new(LIMITS);
    let fill = || {
        (0..)
            .take_while(|_| queue.push(append(ENTRY_SIZE_BYTES)))
            .count()
    };
    let first = fill();
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(taken) = queue.poll_take(Lane::Bulk, &mut cx) else {
        panic!("there is something");
    };
    assert_eq!(fill(), taken.len());
    let all: Vec<Outgoing> = std::iter::from_fn(|| match queue.poll_take(Lane::Bulk, &mut cx) {
        std::task::Poll::Ready(taken) => Some(taken),
        std::task::Poll::Pending => None,
    })
    .flatten()
    .collect();
    assert_eq!(all.len(), first);
    assert_eq!(queue.bulk_size_bytes(), 0);
}
