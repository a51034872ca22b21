//! The peer service: what other nodes ask of this one.

use super::Shared;
use super::status::{Fault, Reason};
use crate::node::context::Context;
use crate::node::request::Retirement;
use crate::transport::{Refusal, innermost};
use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use kontiki_proto::v1;
use kontiki_proto::v1::peer_server::Peer;
use kontiki_raft::{GroupId, NodeId, Term};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info};

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
                () = self.context().closing.cancelled() => return Ok(()),
                () = open.over() => return Err(replaced().into()),
                () = transport.stepped_aside() => return Ok(()),
            };
            let Some(frame) = frame else { return Ok(()) };
            for message in frame.messages {
                transport.receive(NodeId(from.node), message);
            }
        }
    }

    async fn create_replica(&self, request: v1::CreateReplicaRequest) -> Result<bool, Fault> {
        let mut spec = request
            .group
            .ok_or_else(|| Fault::invalid("field group is missing"))?;
        if let Some(why) = crate::config::name_fault(&spec.name) {
            return Err(Fault::invalid(format!(
                "{:?} is no group name: {why}",
                spec.name
            )));
        }
        for node in &spec.nodes {
            if node.node != self.context().node().0 {
                self.context().transport.check_known(node)?;
                self.context().transport.hear_of(node.clone());
            }
        }
        if let Some(from) = &request.from {
            fetch_plugin(self.context(), from, &spec.plugin).await?;
        }
        if request.joining {
            // Its leader tells it who the members are; the original ones may be gone.
            spec.initial_members = Some(v1::MemberSet::default());
        }
        Ok(self.context().create_replica(spec).await?)
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

/// Makes sure that this node holds a plugin, fetching it from another if need be.
async fn fetch_plugin(
    context: &Arc<Context>,
    from: &v1::Introduction,
    id: &str,
) -> Result<(), Fault> {
    if holds(context, id).await? {
        return Ok(());
    }
    let failed = |status: Status| {
        let message = format!(
            "plugin {id} cannot be fetched from node {:?}: {}",
            from.name,
            innermost(&status)
        );
        Fault::new(Reason::PeerUnreachable, message)
    };
    let client = context.transport.peer_client(&from.name);
    let mut client = client.ok_or_else(|| {
        Fault::new(
            Reason::NodeNotFound,
            format!("node {:?} is not known", from.name),
        )
    })?;
    let request = v1::FetchPluginRequest {
        digest: id.to_owned(),
    };
    let mut chunks = client
        .fetch_plugin(request)
        .await
        .map_err(failed)?
        .into_inner();
    let mut component = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        context
            .plugins
            .check_size(component.len() + chunk.data.len())?;
        component.extend_from_slice(&chunk.data);
    }
    info!(plugin = id, peer = %from.name, size_bytes = component.len(), "plugin fetched");
    let (context, id) = (Arc::clone(context), id.to_owned());
    tokio::task::spawn_blocking(move || context.plugins.push_expected(&id, &component)).await??;
    Ok(())
}

async fn holds(context: &Arc<Context>, id: &str) -> Result<bool, Fault> {
    let (context, id) = (Arc::clone(context), id.to_owned());
    Ok(tokio::task::spawn_blocking(move || context.plugins.holds(&id)).await??)
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
        let created = self.create_replica(request.into_inner()).await?;
        Ok(Response::new(v1::CreateReplicaReply { created }))
    }

    async fn remove_replica(
        &self,
        request: Request<v1::RemoveReplicaRequest>,
    ) -> Result<Response<v1::RemoveReplicaReply>, Status> {
        let request = request.into_inner();
        let condition = match request.joining_term {
            Some(term) => Retirement::NotJoined(Term(term)),
            None => Retirement::Uncreated,
        };
        self.context()
            .remove_replica(GroupId(request.group), condition)
            .await
            .map_err(Fault::from)?;
        Ok(Response::new(v1::RemoveReplicaReply {}))
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
