//! The plugin service: components by digest.

use super::Shared;
use super::forward::failed_hop;
use super::peer::CHUNK_SIZE_BYTES;
use super::remove_plugin;
use super::status::Fault;
use crate::node::context::Context;
use crate::node::plugins::{PluginError, info_of};
use bytes::Bytes;
use futures_util::future::join_all;
use kontiki_client::publication_limit;
use kontiki_proto::v1;
use kontiki_proto::v1::plugins_client::PluginsClient;
use kontiki_proto::v1::plugins_server::Plugins;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

pub(crate) struct PluginsService {
    shared: Shared,
}

impl PluginsService {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    async fn collect(
        &self,
        mut chunks: Streaming<v1::PushRequest>,
    ) -> Result<(Vec<u8>, bool), Status> {
        let mut component = Vec::new();
        let mut local_only = false;
        while let Some(chunk) = chunks.message().await? {
            local_only |= chunk.local_only;
            let size_bytes = component.len() + chunk.data.len();
            self.shared
                .context
                .plugins
                .check_size(size_bytes)
                .map_err(Fault::from)?;
            component.extend_from_slice(&chunk.data);
        }
        Ok((component, local_only))
    }

    /// Sends a component to every other node that is known.
    async fn spread(&self, component: &Bytes, info: &mut v1::PluginInfo) {
        let known = self.shared.context.transport.peers();
        let one = |peer: v1::PeerInfo| async move {
            let node = peer.node.unwrap_or_default();
            let sent = match peer.connected {
                true => self
                    .send(&node, component)
                    .await
                    .map_err(|f| f.message().to_owned()),
                false => Err(peer.error),
            };
            (node.name, sent)
        };
        for (name, sent) in join_all(known.into_iter().map(one)).await {
            match sent {
                Ok(()) => info.nodes.push(name),
                Err(why) => info.failed_nodes.push(format!("{name}: {why}")),
            }
        }
    }

    async fn send(&self, to: &v1::Introduction, component: &Bytes) -> Result<(), Fault> {
        let component = component.clone();
        let starts = (0..component.len()).step_by(CHUNK_SIZE_BYTES);
        let chunks: Vec<_> = starts
            .map(|start| v1::PushRequest {
                data: component.slice(start..component.len().min(start + CHUNK_SIZE_BYTES)),
                local_only: true,
            })
            .collect();
        let mut client = PluginsClient::new(self.shared.forwarder.channel(to)?);
        let mut request = Request::new(futures_util::stream::iter(chunks));
        request.set_timeout(publication_limit(component.len()));
        client
            .push(request)
            .await
            .map_err(|status| failed_hop(to, status))?;
        Ok(())
    }
}

/// Runs something that reads files or compiles, where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    context: &Arc<Context>,
    work: impl FnOnce(&Context) -> Result<T, PluginError> + Send + 'static,
) -> Result<T, Fault> {
    let context = Arc::clone(context);
    Ok(tokio::task::spawn_blocking(move || work(&context)).await??)
}

#[tonic::async_trait]
impl Plugins for PluginsService {
    async fn push(
        &self,
        request: Request<Streaming<v1::PushRequest>>,
    ) -> Result<Response<v1::PluginInfo>, Status> {
        let (component, local_only) = self.collect(request.into_inner()).await?;
        let component = Bytes::from(component);
        let context = &self.shared.context;
        let bytes = component.clone();
        let plugin = blocking(context, move |context| context.plugins.push(&bytes)).await?;
        let mut info = info_of(&plugin);
        info.nodes.push(context.config.name.clone());
        if !local_only {
            self.spread(&component, &mut info).await;
        }
        Ok(Response::new(info))
    }

    async fn list(
        &self,
        _: Request<v1::ListPluginsRequest>,
    ) -> Result<Response<v1::ListPluginsReply>, Status> {
        let plugins = blocking(&self.shared.context, |context| context.plugins.list()).await?;
        Ok(Response::new(v1::ListPluginsReply { plugins }))
    }

    async fn inspect(
        &self,
        request: Request<v1::InspectPluginRequest>,
    ) -> Result<Response<v1::PluginInfo>, Status> {
        let name = request.into_inner().plugin;
        let info = blocking(&self.shared.context, move |context| {
            let digest = context.plugins.resolve(&name)?;
            context.plugins.info(&digest)
        })
        .await?;
        Ok(Response::new(info))
    }

    async fn remove(
        &self,
        request: Request<v1::RemovePluginRequest>,
    ) -> Result<Response<v1::RemovePluginReply>, Status> {
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let removing = async move { remove_plugin::remove(&shared, request).await };
        let removed = self.shared.context.to_the_end(removing).await;
        Ok(Response::new(removed.map_err(Fault::from)??))
    }
}
