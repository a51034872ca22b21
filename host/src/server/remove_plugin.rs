//! Removing a plugin from the nodes that hold it, while no group needs it.

use super::Shared;
use super::forward::failed_hop;
use super::plugins::blocking;
use super::status::{Fault, Reason};
use crate::node::context::ReplicaError;
use futures_util::future::join_all;
use kontiki_proto::v1;
use kontiki_proto::v1::plugins_client::PluginsClient;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tonic::Request;

/// Time for another node to look, or to remove.
const FORWARD_LIMIT: Duration = Duration::from_secs(10);

/// Removes a plugin here, and on every other node unless it is for this one only. Each node is
/// asked first whether a group of its own needs it.
pub(crate) async fn remove(
    shared: &Shared,
    request: v1::RemovePluginRequest,
) -> Result<v1::RemovePluginReply, Fault> {
    if request.local_only {
        return remove_here(shared, &request.plugin, request.dry_run).await;
    }
    let wanted = request.plugin.clone();
    let digest = blocking(&shared.context, move |context| {
        context.plugins.resolve(&wanted)
    })
    .await?;
    let (mut reply, there) = everywhere(shared, &digest, true).await?;
    if !request.dry_run {
        reply.nodes = everywhere(shared, &digest, false).await?.0.nodes;
    }
    reply.failed_nodes = there;
    Ok(reply)
}

/// One pass over all nodes; what was done, and who could not be reached.
async fn everywhere(
    shared: &Shared,
    digest: &str,
    dry_run: bool,
) -> Result<(v1::RemovePluginReply, Vec<String>), Fault> {
    let mut reply = remove_here(shared, digest, dry_run).await?;
    let mut failed = Vec::new();
    let known = shared.context.transport.peers().into_iter();
    let asked = known.map(|peer| async move {
        let node = peer.node.unwrap_or_default();
        match peer.connected {
            true => (
                node.name.clone(),
                remove_there(shared, &node, digest, dry_run).await,
            ),
            false => (node.name, Ok(Err(peer.error))),
        }
    });
    for (name, answer) in join_all(asked).await {
        match answer? {
            Ok(nodes) => reply.nodes.extend(nodes),
            Err(why) => failed.push(format!("{name}: {why}")),
        }
    }
    Ok((reply, failed))
}

/// The inner error is a node that could not be asked; the outer one its refusal.
async fn remove_there(
    shared: &Shared,
    node: &v1::Introduction,
    digest: &str,
    dry_run: bool,
) -> Result<Result<Vec<String>, String>, Fault> {
    let mut client = PluginsClient::new(shared.forwarder.channel(node)?);
    let mut request = Request::new(v1::RemovePluginRequest {
        plugin: digest.to_owned(),
        dry_run,
        local_only: true,
    });
    request.set_timeout(FORWARD_LIMIT);
    match client.remove(request).await {
        Ok(reply) => Ok(Ok(reply.into_inner().nodes)),
        Err(status) => {
            let fault = failed_hop(node, status);
            match fault.reason_name() == Reason::PluginInUse.as_str() {
                true => Err(fault),
                false => Ok(Err(fault.message().to_owned())),
            }
        }
    }
}

async fn remove_here(
    shared: &Shared,
    digest: &str,
    dry_run: bool,
) -> Result<v1::RemovePluginReply, Fault> {
    let context = &shared.context;
    if context.loading.load(Ordering::Acquire) {
        return Err(ReplicaError::Loading.into());
    }
    // No replica that would need it is made meanwhile.
    let _none_is_made = context.nothing_is_made().await;
    let users = context.users_of(digest);
    if !users.is_empty() {
        let message = format!(
            "plugin {digest} is needed on node {:?} by: {}",
            context.config.name,
            users.join(", ")
        );
        return Err(Fault::new(Reason::PluginInUse, message));
    }
    let wanted = digest.to_owned();
    let had = blocking(context, move |context| match dry_run {
        true => context.plugins.holds(&wanted),
        false => context.plugins.remove(&wanted),
    })
    .await?;
    Ok(v1::RemovePluginReply {
        digest: digest.to_owned(),
        nodes: had
            .then(|| context.config.name.clone())
            .into_iter()
            .collect(),
        failed_nodes: Vec::new(),
    })
}
