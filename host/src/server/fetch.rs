//! Fetching a plugin from another node.

use super::status::{Fault, Reason};
use crate::node::context::Context;
use crate::transport::innermost;
use kontiki_proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Status};
use tracing::info;

/// Longest time for one node to hand a plugin over.
const FETCH_LIMIT: Duration = Duration::from_secs(30);

/// Makes sure that this node holds a plugin, whole, fetching it from another if need be.
pub(crate) async fn fetch_plugin(
    context: &Arc<Context>,
    from: &v1::Introduction,
    id: &str,
) -> Result<(), Fault> {
    if is_whole(context, id).await? {
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
    let mut request = Request::new(v1::FetchPluginRequest {
        digest: id.to_owned(),
    });
    request.set_timeout(FETCH_LIMIT);
    let chunks = client.fetch_plugin(request).await;
    let mut chunks = chunks.map_err(failed)?.into_inner();
    let mut component = Vec::new();
    while let Some(chunk) = chunks.message().await.map_err(failed)? {
        let size_bytes = component.len() + chunk.data.len();
        context.plugins.check_size(size_bytes)?;
        component.extend_from_slice(&chunk.data);
    }
    info!(plugin = id, peer = %from.name, size_bytes = component.len(), "plugin fetched");
    let (context, id) = (Arc::clone(context), id.to_owned());
    tokio::task::spawn_blocking(move || context.plugins.push_expected(&id, &component)).await??;
    Ok(())
}

/// Whether the plugin is stored here and can be read.
async fn is_whole(context: &Arc<Context>, id: &str) -> Result<bool, Fault> {
    let (context, id) = (Arc::clone(context), id.to_owned());
    let look = move || context.plugins.is_whole(&id);
    Ok(tokio::task::spawn_blocking(look).await??)
}
