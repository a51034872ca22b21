//! Calls of an operator.

use crate::call::{Safety, Sending};
use crate::client::MESSAGE_SIZE_BYTES_MAX;
use crate::failure::Failure;
use crate::proto::admin_client::AdminClient;
use crate::proto::{self, MembershipProgress};
use crate::{Address, Client, Result};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::collections::HashMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

/// What an operator may ask and order, see `admin.proto`. Any node takes any of it.
#[derive(Debug, Clone, Copy)]
pub struct Admin<'a> {
    pub(crate) client: &'a Client,
}

pub(crate) type Answer<T> = BoxFuture<'static, std::result::Result<Response<T>, Status>>;

/// Sends one request; a plain function, so that an attempt holds nothing of the one before.
type Send<Q, A> = fn(AdminClient<Channel>, Request<Q>) -> Answer<A>;

pub(crate) fn admin_service(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
}

impl<'a> Admin<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    async fn ask<Q, A>(
        &self,
        safety: Safety,
        group: Option<&str>,
        request: Q,
        send: Send<Q, A>,
    ) -> Result<(A, Address)>
    where
        Q: Clone + std::marker::Send + Sync + 'static,
        A: 'static,
    {
        let sender = move |to: Sending| {
            send(
                admin_service(to.channel.clone()),
                to.request(request.clone()),
            )
        };
        let answered = self.client.call(safety, group).run(sender).await?;
        Ok((answered.message, answered.address))
    }

    async fn read<Q, A>(&self, group: Option<&str>, request: Q, send: Send<Q, A>) -> Result<A>
    where
        Q: Clone + std::marker::Send + Sync + 'static,
        A: 'static,
    {
        Ok(self.ask(Safety::Read, group, request, send).await?.0)
    }

    async fn write<Q, A>(&self, group: Option<&str>, request: Q, send: Send<Q, A>) -> Result<A>
    where
        Q: Clone + std::marker::Send + Sync + 'static,
        A: 'static,
    {
        Ok(self.ask(Safety::Write, group, request, send).await?.0)
    }

    /// Who the answering node is and whom it knows.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn node(&self) -> Result<proto::GetNodeReply> {
        let request = proto::GetNodeRequest {};
        self.read(None, request, |mut s, r| {
            async move { s.get_node(r).await }.boxed()
        })
        .await
    }

    /// The groups of which the answering node has a replica.
    ///
    /// # Errors
    /// If no node answers.
    pub async fn groups(&self) -> Result<Vec<proto::GroupSummary>> {
        let request = proto::ListGroupsRequest {};
        let reply = self.read(None, request, |mut s, r| {
            async move { s.list_groups(r).await }.boxed()
        });
        Ok(reply.await?.groups)
    }

    /// Everything known of a group: by its leader, or by the answering node's own replica if `local`.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`; or if no node answers.
    pub async fn describe(&self, group: &str, local: bool) -> Result<proto::GroupDescription> {
        let request = proto::DescribeGroupRequest {
            group: group.to_owned(),
            local,
        };
        let route = (!local).then_some(group);
        self.read(route, request, |mut s, r| {
            async move { s.describe_group(r).await }.boxed()
        })
        .await
    }

    /// Creates a group on its members.
    ///
    /// # Errors
    /// If the plugin is unknown, the name taken, a member unreachable; nothing is left behind then.
    pub async fn create_group(
        &self,
        request: proto::CreateGroupRequest,
    ) -> Result<proto::GroupSpec> {
        let name = request.name.clone();
        let reply = self.write(None, request, |mut s, r| {
            async move { s.create_group(r).await }.boxed()
        });
        let reply = reply.await.map_err(|error| error.of_group(Some(&name)))?;
        Ok(reply.group.unwrap_or_default())
    }

    /// Deletes a group everywhere, or says what would be deleted. Repeating it is harmless.
    ///
    /// # Errors
    /// If no node that answers has it, or it is not confirmed.
    pub async fn delete_group(
        &self,
        request: proto::DeleteGroupRequest,
    ) -> Result<proto::DeleteGroupReply> {
        let group = request.group.clone();
        let reply = self.write(None, request, |mut s, r| {
            async move { s.delete_group(r).await }.boxed()
        });
        reply.await.map_err(|error| error.of_group(Some(&group)))
    }

    /// Changes the membership; progress follows until the change is in force.
    ///
    /// # Errors
    /// If the change is refused: impossible, not expected, or another one is under way.
    pub async fn change_membership(
        &self,
        request: proto::ChangeMembershipRequest,
    ) -> Result<Progress> {
        let group = request.group.clone();
        // The stream outlives any deadline of the call that opens it, so none is sent along. Its
        // first message belongs to that call: a refusal may come in its place, and may be worth
        // asking another node.
        let sender = move |to: Sending| -> Answer<_> {
            let mut service = admin_service(to.channel);
            let request = Request::new(request.clone());
            async move {
                let mut messages = service.change_membership(request).await?.into_inner();
                let first = messages.message().await?;
                Ok(Response::new((first, messages)))
            }
            .boxed()
        };
        let answered = self
            .client
            .call(Safety::Write, Some(&group))
            .run(sender)
            .await?;
        let (first, messages) = answered.message;
        Ok(Progress {
            first,
            messages,
            group,
            from: answered.address,
        })
    }

    /// Gives up a membership change that is still catching up.
    ///
    /// # Errors
    /// If none is under way, or it is logged already and will be carried on.
    pub async fn cancel_change(&self, group: &str) -> Result<()> {
        let request = proto::CancelMembershipChangeRequest {
            group: group.to_owned(),
        };
        self.write(Some(group), request, |mut s, r| {
            async move { s.cancel_membership_change(r).await }.boxed()
        })
        .await?;
        Ok(())
    }

    /// Deletes the answering node's replica of a group that it is no member of, or says what would
    /// be deleted; meant for [`Client::at`].
    ///
    /// # Errors
    /// If the node is a member, or nobody can say that it is none.
    pub async fn purge(
        &self,
        request: proto::PurgeReplicaRequest,
    ) -> Result<proto::PurgeReplicaReply> {
        let group = request.group.clone();
        let reply = self.write(None, request, |mut s, r| {
            async move { s.purge_replica(r).await }.boxed()
        });
        reply.await.map_err(|error| error.of_group(Some(&group)))
    }

    /// Hands a group's leadership to `target`, or to the best voter if that is empty.
    ///
    /// # Errors
    /// If the target is no voter, or did not take over in time (the old leader then goes on).
    pub async fn transfer(
        &self,
        group: &str,
        target: &str,
    ) -> Result<proto::TransferLeadershipReply> {
        let request = proto::TransferLeadershipRequest {
            group: group.to_owned(),
            target: target.to_owned(),
        };
        self.write(Some(group), request, |mut s, r| {
            async move { s.transfer_leadership(r).await }.boxed()
        })
        .await
    }

    /// Starts an election of the group on the answering node; meant for [`Client::at`].
    ///
    /// # Errors
    /// If the node is no voter of the group.
    pub async fn campaign(&self, group: &str) -> Result<()> {
        let request = proto::CampaignRequest {
            group: group.to_owned(),
        };
        self.write(None, request, |mut s, r| {
            async move { s.campaign(r).await }.boxed()
        })
        .await?;
        Ok(())
    }

    /// Switches read-only mode of a group on all its members; says who was not reached although the
    /// mode of the group does not depend on them.
    ///
    /// # Errors
    /// `PEER_UNREACHABLE` if too few were reached, or the leader was not when it is switched off.
    pub async fn set_read_only(&self, group: &str, on: bool) -> Result<Vec<String>> {
        let request = proto::SetReadOnlyRequest {
            group: group.to_owned(),
            on,
            local: false,
        };
        // Switching twice is switching once.
        let reply = self.read(Some(group), request, |mut s, r| {
            async move { s.set_read_only(r).await }.boxed()
        });
        Ok(reply.await?.unreached)
    }

    /// Switches read-only mode of the answering node's replica only; meant for [`Client::at`].
    ///
    /// # Errors
    /// If the node has no replica of the group.
    pub async fn set_read_only_here(&self, group: &str, on: bool) -> Result<()> {
        let request = proto::SetReadOnlyRequest {
            group: group.to_owned(),
            on,
            local: true,
        };
        self.read(None, request, |mut s, r| {
            async move { s.set_read_only(r).await }.boxed()
        })
        .await?;
        Ok(())
    }

    /// Forces a membership on the answering node's replica; meant for [`Client::at`] a survivor.
    ///
    /// # Errors
    /// If it is not confirmed, or the node has no replica of the group.
    pub async fn reset_peers(
        &self,
        request: proto::ResetPeersRequest,
    ) -> Result<proto::ResetPeersReply> {
        self.write(None, request, |mut s, r| {
            async move { s.reset_peers(r).await }.boxed()
        })
        .await
    }

    /// Settings of the answering node's replica of `group`, or of the node itself if that is empty.
    ///
    /// # Errors
    /// `GROUP_NOT_FOUND`; or if no node answers.
    pub async fn settings(&self, group: &str) -> Result<Vec<proto::Setting>> {
        let request = proto::GetSettingsRequest {
            group: group.to_owned(),
        };
        let reply = self.read(None, request, |mut s, r| {
            async move { s.get_settings(r).await }.boxed()
        });
        Ok(reply.await?.settings)
    }

    /// Changes settings of the answering node's replica of `group`, or of the node itself. The
    /// answer shows them all; with `dry_run` as they would be, and nothing is changed.
    ///
    /// # Errors
    /// If a name is unknown or a value out of range; then nothing was changed.
    pub async fn set_settings(
        &self,
        group: &str,
        values: HashMap<String, String>,
        dry_run: bool,
    ) -> Result<proto::GetSettingsReply> {
        let request = proto::SetSettingsRequest {
            group: group.to_owned(),
            values,
            dry_run,
        };
        // Setting a value twice is setting it once.
        self.read(None, request, |mut s, r| {
            async move { s.set_settings(r).await }.boxed()
        })
        .await
    }

    /// Undoes what was set on the answering node while it ran, for its replica of `group` or for
    /// the node itself; all of it if no name is given. With `dry_run` changes nothing.
    ///
    /// # Errors
    /// If a name is unknown.
    pub async fn reset_settings(
        &self,
        group: &str,
        names: Vec<String>,
        dry_run: bool,
    ) -> Result<proto::GetSettingsReply> {
        let request = proto::ResetSettingsRequest {
            group: group.to_owned(),
            names,
            dry_run,
        };
        // Undoing twice is undoing once.
        self.read(None, request, |mut s, r| {
            async move { s.reset_settings(r).await }.boxed()
        })
        .await
    }

    /// Moves every leadership off the answering node, or undoes that; meant for [`Client::at`].
    ///
    /// # Errors
    /// If the node does not answer.
    pub async fn drain(&self, undo: bool) -> Result<proto::DrainReply> {
        let request = proto::DrainRequest { undo };
        // Draining twice is draining once.
        self.read(None, request, |mut s, r| {
            async move { s.drain(r).await }.boxed()
        })
        .await
    }

    /// Makes the answering node forget another one, so that a new node may come under its name.
    ///
    /// # Errors
    /// `NODE_CONNECTED` if the answering node is connected to it, unless `force` is set;
    /// `NODE_NOT_FOUND` if it does not know it.
    pub async fn forget_node(&self, name: &str, force: bool) -> Result<()> {
        let request = proto::ForgetNodeRequest {
            name: name.to_owned(),
            force,
        };
        self.write(None, request, |mut s, r| {
            async move { s.forget_node(r).await }.boxed()
        })
        .await?;
        Ok(())
    }

    /// Committed commands of a group from `first_index`, without internal entries.
    ///
    /// # Errors
    /// If the index is compacted away, or beyond the log.
    pub async fn read_log(
        &self,
        group: &str,
        first_index: u64,
        entries_max: u32,
    ) -> Result<proto::ReadLogReply> {
        let request = proto::ReadLogRequest {
            group: group.to_owned(),
            first_index,
            entries_max,
        };
        self.read(None, request, |mut s, r| {
            async move { s.read_log(r).await }.boxed()
        })
        .await
    }
}

/// Messages about a membership change under way.
#[derive(Debug)]
pub struct Progress {
    first: Option<MembershipProgress>,
    messages: Streaming<MembershipProgress>,
    group: String,
    from: Address,
}

impl Progress {
    /// The next message; none after the change is done.
    ///
    /// # Errors
    /// If the change failed, or if the connection broke: the change may then still go on.
    ///
    /// # Cancel safety
    /// Safe; dropping the stream does not stop the change.
    pub async fn next(&mut self) -> Result<Option<MembershipProgress>> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        self.messages.message().await.map_err(|status| {
            let error = Failure::judge(&status, Safety::Write, &self.from).error;
            error.of_group(Some(&self.group))
        })
    }
}
