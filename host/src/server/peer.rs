//! The peer service: what other nodes ask of this one.

use super::Shared;
use super::status::{Fault, Reason};
use super::{holdings, replicas, settle};
use crate::node::context::Context;
use crate::transport::Refusal;
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kontiki_proto::v1;
use kontiki_proto::v1::peer_server::Peer;
use kontiki_raft::{GroupId, NodeId, Term};
use std::future::Future;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

/// Bytes of a plugin in one message.
pub(crate) const CHUNK_SIZE_BYTES: usize = 256 << 10;

pub(crate) struct PeerService {
    shared: Shared,
}

impl PeerService {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    fn context(&self) -> &Arc<Context> {
        &self.shared.context
    }

    /// Passes the messages of one stream on to their groups until it ends.
    async fn receive(
        &self,
        from: &v1::Introduction,
        mut frames: Streaming<v1::PeerFrame>,
    ) -> Result<(), Status> {
        let transport = &self.context().transport;
        let replaced = || Fault::new(Reason::PeerRefused, "another process is this node now");
        let open = transport.open_stream(from).ok_or_else(replaced)?;
        loop {
            let frame = tokio::select! {
                frame = frames.message() => frame?,
                () = self.context().peers_closing.cancelled() => return Ok(()),
                () = open.over() => return Err(replaced().into()),
                () = transport.stepped_aside() => return Ok(()),
            };
            let Some(frame) = frame else { return Ok(()) };
            transport.note_time(NodeId(from.node), frame.time_ns);
            for message in frame.messages {
                transport.receive(NodeId(from.node), message);
            }
        }
    }

    /// Carries a call out to its end, whatever becomes of the caller.
    async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Fault>> + Send + 'static,
    ) -> Result<Response<T>, Status> {
        let done = self.context().to_the_end(work).await;
        Ok(Response::new(done.map_err(Fault::from)??))
    }
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let reason = match refusal.is_duplicate() {
            true => Reason::DuplicateNode,
            false => Reason::PeerRefused,
        };
        Self::new(reason, refusal.to_string())
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn introduce(
        &self,
        request: Request<v1::Introduction>,
    ) -> Result<Response<v1::Introduction>, Status> {
        let transport = &self.context().transport;
        let admitted = transport.admit(request.get_ref()).await;
        // Whoever calls a process that was set aside is told so.
        if !transport.is_set_aside() {
            admitted.map_err(Fault::from)?;
        }
        Ok(Response::new(transport.me()))
    }

    async fn confirm(
        &self,
        request: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmReply>, Status> {
        let transport = &self.context().transport;
        Ok(Response::new(transport.confirm(request.get_ref())))
    }

    async fn exchange_books(
        &self,
        request: Request<v1::AddressBook>,
    ) -> Result<Response<v1::AddressBook>, Status> {
        let transport = &self.context().transport;
        transport.take_hints(request.into_inner());
        Ok(Response::new(transport.address_book()))
    }

    async fn exchange_epochs(
        &self,
        request: Request<v1::Epochs>,
    ) -> Result<Response<v1::Epochs>, Status> {
        let transport = &self.context().transport;
        transport.hear_epochs(request.get_ref());
        Ok(Response::new(transport.epochs()))
    }

    async fn stream(
        &self,
        request: Request<Streaming<v1::PeerFrame>>,
    ) -> Result<Response<v1::StreamEnd>, Status> {
        let mut frames = request.into_inner();
        let first = frames.message().await?.and_then(|frame| frame.introduction);
        let from = first.ok_or_else(|| Fault::invalid("the first frame must introduce"))?;
        let admitted = self.context().transport.admit(&from).await;
        admitted.map_err(Fault::from)?;
        debug!(peer = from.node, name = %from.name, "a peer streams");
        self.receive(&from, frames).await?;
        Ok(Response::new(v1::StreamEnd {}))
    }

    async fn create_replica(
        &self,
        request: Request<v1::CreateReplicaRequest>,
    ) -> Result<Response<v1::CreateReplicaReply>, Status> {
        let shared = self.shared.clone();
        let work = async move {
            let created = replicas::create_here(&shared, request.into_inner()).await?;
            Ok(v1::CreateReplicaReply { created })
        };
        self.to_the_end(work).await
    }

    async fn decide_creation(
        &self,
        request: Request<v1::DecideCreationRequest>,
    ) -> Result<Response<v1::DecideCreationReply>, Status> {
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let work = async move {
            let id = GroupId(request.group);
            let stage = settle::decide(&shared, id, request.complete).await?;
            Ok(v1::DecideCreationReply {
                stage: stage.into(),
            })
        };
        self.to_the_end(work).await
    }

    async fn look_up_groups(
        &self,
        request: Request<v1::LookUpGroupsRequest>,
    ) -> Result<Response<v1::LookUpGroupsReply>, Status> {
        let reply = holdings::here(self.context(), request.get_ref()).await?;
        Ok(Response::new(reply))
    }

    async fn settle(
        &self,
        request: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleReply>, Status> {
        let (shared, id) = (self.shared.clone(), GroupId(request.into_inner().group));
        let work = async move { Ok(settle::settle(&shared, id).await?.into()) };
        self.to_the_end(work).await
    }

    async fn remove_replica(
        &self,
        request: Request<v1::RemoveReplicaRequest>,
    ) -> Result<Response<v1::RemoveReplicaReply>, Status> {
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let work = async move {
            let (id, term) = (GroupId(request.group), Term(request.joining_term));
            replicas::take_back_here(&shared, id, term).await?;
            Ok(v1::RemoveReplicaReply {})
        };
        self.to_the_end(work).await
    }

    async fn compare_outcomes(
        &self,
        request: Request<v1::CompareOutcomesRequest>,
    ) -> Result<Response<v1::CompareOutcomesReply>, Status> {
        super::witness::hear(self.context(), request.get_ref());
        Ok(Response::new(v1::CompareOutcomesReply {}))
    }

    type FetchPluginStream = BoxStream<'static, Result<v1::PluginChunk, Status>>;

    async fn fetch_plugin(
        &self,
        request: Request<v1::FetchPluginRequest>,
    ) -> Result<Response<Self::FetchPluginStream>, Status> {
        let digest = request.into_inner().digest;
        let context = Arc::clone(self.context());
        let component = tokio::task::spawn_blocking(move || context.plugins.component(&digest));
        let component = component.await.map_err(Fault::from)?.map_err(Fault::from)?;
        let component = bytes::Bytes::from(component);
        let starts = (0..component.len()).step_by(CHUNK_SIZE_BYTES);
        let chunks: Vec<_> = starts
            .map(|start| {
                let end = component.len().min(start + CHUNK_SIZE_BYTES);
                Ok(v1::PluginChunk {
                    data: component.slice(start..end),
                })
            })
            .collect();
        Ok(Response::new(futures_util::stream::iter(chunks).boxed()))
    }
}
