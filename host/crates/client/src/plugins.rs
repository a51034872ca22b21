//! Plugins of a cluster.

use crate::Result;
use crate::admin::{Admin, Answer};
use crate::call::{Safety, Sending};
use crate::client::MESSAGE_SIZE_BYTES_MAX;
use crate::proto::plugins_client::PluginsClient;
use crate::proto::{self, PluginInfo, PushRequest};
use bytes::Bytes;
use futures_util::FutureExt;
use std::time::Duration;
use tonic::transport::Channel;

/// Bytes of a component in one message.
const CHUNK_SIZE_BYTES: usize = 256 << 10;

fn plugins_service(channel: Channel) -> PluginsClient<Channel> {
    PluginsClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
}

impl Admin<'_> {
    /// Stores a component on the answering node and, unless `local_only`, on those it knows.
    ///
    /// # Errors
    /// If it is no component, lacks an export, wants an unknown import, or is too large.
    pub async fn push_plugin(&self, component: Bytes, local_only: bool) -> Result<PluginInfo> {
        let sender = move |to: Sending| -> Answer<PluginInfo> {
            let chunks = chunks(&component, local_only);
            let request = to.request(tokio_stream::iter(chunks));
            async move { plugins_service(to.channel).push(request).await }.boxed()
        };
        // Components are stored by digest, so pushing twice is pushing once.
        Ok(self
            .client
            .call(Safety::Read, None)
            .run(sender)
            .await?
            .message)
    }

    /// Every stored plugin.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn plugins(&self) -> Result<Vec<PluginInfo>> {
        let sender = |to: Sending| -> Answer<proto::ListPluginsReply> {
            let request = to.request(proto::ListPluginsRequest {});
            async move { plugins_service(to.channel).list(request).await }.boxed()
        };
        Ok(self
            .client
            .call(Safety::Read, None)
            .run(sender)
            .await?
            .message
            .plugins)
    }

    /// Removes a plugin from every node that can be reached; with `dry_run` only checks.
    ///
    /// # Errors
    /// `PLUGIN_IN_USE` while a group needs it, `PLUGIN_NOT_FOUND`; or if no node answers.
    pub async fn remove_plugin(
        &self,
        plugin: &str,
        dry_run: bool,
    ) -> Result<proto::RemovePluginReply> {
        let request = proto::RemovePluginRequest {
            plugin: plugin.to_owned(),
            dry_run,
            local_only: false,
        };
        let sender = move |to: Sending| -> Answer<proto::RemovePluginReply> {
            let request = to.request(request.clone());
            async move { plugins_service(to.channel).remove(request).await }.boxed()
        };
        let call = self.client.call(Safety::Write, None);
        Ok(call.run(sender).await?.message)
    }

    /// One plugin, by digest or by a name of which one version is stored.
    ///
    /// # Errors
    /// `PLUGIN_NOT_FOUND`; or if no node answers.
    pub async fn plugin(&self, plugin: &str) -> Result<PluginInfo> {
        let plugin = plugin.to_owned();
        let sender = move |to: Sending| -> Answer<PluginInfo> {
            let request = to.request(proto::InspectPluginRequest {
                plugin: plugin.clone(),
            });
            async move { plugins_service(to.channel).inspect(request).await }.boxed()
        };
        Ok(self
            .client
            .call(Safety::Read, None)
            .run(sender)
            .await?
            .message)
    }
}

/// Time that a node may take to check and compile a component of this size: an interpreter of 10 to
/// 30 MB takes minutes on a small machine.
#[must_use]
pub fn publication_limit(size_bytes: usize) -> Duration {
    let size_mib = u32::try_from(size_bytes >> 20).unwrap_or(u32::MAX);
    Duration::from_secs(60) + Duration::from_secs(20).saturating_mul(size_mib)
}

/// At least one message, so that even an empty file gets its refusal from the server.
fn chunks(component: &Bytes, local_only: bool) -> Vec<PushRequest> {
    let count = component.len().div_ceil(CHUNK_SIZE_BYTES).max(1);
    (0..count)
        .map(|n| {
            let end = ((n + 1) * CHUNK_SIZE_BYTES).min(component.len());
            PushRequest {
                data: component.slice(n * CHUNK_SIZE_BYTES..end),
                local_only,
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_the_component_again() {
        for size in [
            0,
            1,
            CHUNK_SIZE_BYTES,
            CHUNK_SIZE_BYTES + 1,
            3 * CHUNK_SIZE_BYTES,
        ] {
            let component = Bytes::from_iter((0..size).map(|i| u8::try_from(i % 251).unwrap()));
            let parts = chunks(&component, false);
            assert!(!parts.is_empty());
            assert!(parts.iter().all(|part| part.data.len() <= CHUNK_SIZE_BYTES));
            let joined: Vec<u8> = parts.iter().flat_map(|part| part.data.to_vec()).collect();
            assert_eq!(joined, component);
        }
    }
}
