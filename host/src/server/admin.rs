//! The admin service. Calls that only the leader can answer are passed on, one hop.

use super::Shared;
use super::deadline::deadline;
use super::describe::{describe, full_summary, role_name};
use super::forward::{failed_hop, hop, may_forward, other_leader};
use super::status::{Fault, Reason};
use super::{create_group, log, membership, recover, settings};
use crate::node::clock::micros;
use crate::node::context::lock;
use crate::node::drain;
use crate::node::handle::GroupHandle;
use crate::node::request::{Control, Failure, Order};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use kontiki_proto::v1;
use kontiki_proto::v1::admin_server::Admin;
use kontiki_raft::{NodeId, Role, TransferTarget};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

pub(crate) struct AdminService {
    shared: Shared,
}

impl AdminService {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    /// The leader to pass this call on to, if it is another node and the caller allows it.
    fn elsewhere(&self, group: &GroupHandle, may_forward: bool) -> Option<v1::Introduction> {
        other_leader(&self.shared.context, group).filter(|_| may_forward)
    }

    fn node_reply(&self) -> v1::GetNodeReply {
        let context = &self.shared.context;
        let groups = context.router.all();
        let leading = groups
            .iter()
            .filter(|group| group.brief().role == Role::Leader)
            .count();
        v1::GetNodeReply {
            node: Some(context.transport.me()),
            peers: context.transport.peers(),
            uptime_us: micros(context.clock.uptime()),
            groups: count(groups.len()),
            leading: count(leading),
            draining: context.gives_away(),
            drained: context.is_drained(),
            storage: context.config.data.to_string(),
            problems: context
                .problems()
                .into_iter()
                .map(|problem| problem.what)
                .collect(),
            http_address: context.http_address.clone(),
        }
    }

    async fn transfer(
        &self,
        request: v1::TransferLeadershipRequest,
        may_forward: bool,
        deadline: Instant,
    ) -> Result<v1::TransferLeadershipReply, Fault> {
        let group = self.shared.group(&request.group)?;
        if let Some(leader) = self.elsewhere(&group, may_forward) {
            let mut admin = self.shared.forwarder.admin(&leader)?;
            let reply = admin.transfer_leadership(hop(request, deadline)).await;
            return Ok(reply
                .map_err(|status| failed_hop(&leader, status))?
                .into_inner());
        }
        let target = match request.target.as_str() {
            "" => TransferTarget::Best,
            name => TransferTarget::Node(NodeId(create_group::resolve(&self.shared, name)?.node)),
        };
        let start = Instant::now();
        let before = group.brief();
        let explain = |failure| self.shared.explain(&group, failure);
        group
            .order(Order::Transfer(target))
            .await
            .map_err(explain)?;
        let mut brief = group.watch();
        // A transfer to the leader itself is done at once and changes no term.
        let stays = target == TransferTarget::Node(self.shared.context.node());
        let moved = brief.wait_for(|now| now.leader.is_some() && (stays || now.term > before.term));
        let after = match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(brief)) => *brief,
            _ => group.brief(),
        };
        let leader = after.leader.unwrap_or_default();
        Ok(v1::TransferLeadershipReply {
            leader: leader.0,
            leader_name: self.shared.context.transport.name(leader),
            term: after.term.0,
            elapsed_us: micros(start.elapsed()),
        })
    }

    async fn change(
        &self,
        request: v1::ChangeMembershipRequest,
        may_forward: bool,
    ) -> Result<BoxStream<'static, Result<v1::MembershipProgress, Status>>, Fault> {
        let group = self.shared.group(&request.group)?;
        if let Some(leader) = self.elsewhere(&group, may_forward) {
            let mut admin = self.shared.forwarder.admin(&leader)?;
            let mut onward = hop(request, Instant::now());
            // A change takes as long as its catching up.
            onward.metadata_mut().remove("grpc-timeout");
            let reply = admin.change_membership(onward).await;
            let progress = reply
                .map_err(|status| failed_hop(&leader, status))?
                .into_inner();
            return Ok(progress.boxed());
        }
        // Refused as a call, before the stream begins: whoever calls may then try another node.
        if !matches!(group.brief().role, Role::Leader | Role::Transferring) {
            let failure = Failure::NoLeader {
                term: group.brief().term,
            };
            return Err(self.shared.explain(&group, failure));
        }
        let plan = membership::plan(&self.shared, &request)?;
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(membership::run(self.shared.clone(), group, plan, sender));
        Ok(ReceiverStream::new(receiver).boxed())
    }

    /// Sets the mode here, and on every other member that can be reached unless this call was
    /// passed on already. A group is read-only if its leader or a majority of its voters is.
    async fn set_read_only(
        &self,
        request: &v1::SetReadOnlyRequest,
        everywhere: bool,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let group = self.shared.group(&request.group)?;
        let set_here = group.control(Control::SetReadOnly(request.on)).await;
        set_here.map_err(|failure| self.shared.explain(&group, failure))?;
        if !everywhere {
            return Ok(());
        }
        let status = group
            .status()
            .await
            .map_err(|failure| self.shared.explain(&group, failure))?;
        let transport = &self.shared.context.transport;
        let members = status.core.configuration.members();
        let others = members.iter().filter(|node| **node != transport.node());
        let set = join_all(others.map(|node| async move {
            let introduction = transport.introduction(*node);
            let node = introduction.ok_or_else(|| format!("node {node} is not known"))?;
            let mut admin = self
                .shared
                .forwarder
                .admin(&node)
                .map_err(|fault| fault.message().to_owned())?;
            let answer = admin.set_read_only(hop(request.clone(), deadline)).await;
            answer.map_err(|status| format!("{}: {}", node.name, status.message()))
        }));
        let failed: Vec<_> = set.await.into_iter().filter_map(Result::err).collect();
        let reached = members.len() - failed.len();
        match 2 * reached > members.len() {
            true => Ok(()),
            false => {
                let message = format!("too few members could be told: {}", failed.join("; "));
                Err(Fault::new(Reason::PeerUnreachable, message).of_group(&request.group))
            }
        }
    }

    async fn drain(&self, undo: bool, deadline: Instant) -> Result<v1::DrainReply, Fault> {
        let context = &self.shared.context;
        if undo {
            drain::undrain(context).await?;
            return Ok(v1::DrainReply::default());
        }
        let drained = drain::drain(context, deadline).await?;
        let stayed = drained.stayed.into_iter();
        Ok(v1::DrainReply {
            moved: drained.moved,
            stayed: stayed.map(|(name, why)| format!("{name}: {why}")).collect(),
        })
    }
}

fn count(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_node(
        &self,
        _: Request<v1::GetNodeRequest>,
    ) -> Result<Response<v1::GetNodeReply>, Status> {
        Ok(Response::new(self.node_reply()))
    }

    async fn create_group(
        &self,
        request: Request<v1::CreateGroupRequest>,
    ) -> Result<Response<v1::CreateGroupReply>, Status> {
        // To the end even if the caller goes away: half a group helps nobody.
        let shared = self.shared.clone();
        let request = request.into_inner();
        let creating = tokio::spawn(async move { create_group::create(&shared, request).await });
        let group = creating.await.map_err(Fault::from)??;
        Ok(Response::new(v1::CreateGroupReply { group: Some(group) }))
    }

    async fn list_groups(
        &self,
        _: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsReply>, Status> {
        let context = &self.shared.context;
        let all = context.router.all();
        let summaries = join_all(all.iter().map(|group| full_summary(context, group))).await;
        // A group that has just ended is no group any more.
        let mut groups: Vec<_> = summaries.into_iter().flatten().collect();
        for (name, error) in lock(&context.broken).iter() {
            groups.push(v1::GroupSummary {
                name: name.clone(),
                role: role_name(Role::Stopped).to_owned(),
                problems: vec![error.clone()],
                ..v1::GroupSummary::default()
            });
        }
        Ok(Response::new(v1::ListGroupsReply { groups }))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::GroupDescription>, Status> {
        let deadline = deadline(&request);
        let may_forward = may_forward(&request) && !request.get_ref().local;
        let request = request.into_inner();
        let group = self.shared.group(&request.group)?;
        if let Some(leader) = self.elsewhere(&group, may_forward) {
            let mut admin = self.shared.forwarder.admin(&leader)?;
            if let Ok(reply) = admin.describe_group(hop(request, deadline)).await {
                return Ok(reply);
            }
            // What this replica knows is better than nothing, and says who it is.
        }
        let description = describe(&self.shared.context, &group).await;
        let description = description.map_err(|failure| self.shared.explain(&group, failure))?;
        Ok(Response::new(description))
    }

    type ChangeMembershipStream = BoxStream<'static, Result<v1::MembershipProgress, Status>>;

    async fn change_membership(
        &self,
        request: Request<v1::ChangeMembershipRequest>,
    ) -> Result<Response<Self::ChangeMembershipStream>, Status> {
        let may_forward = may_forward(&request);
        Ok(Response::new(
            self.change(request.into_inner(), may_forward).await?,
        ))
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipReply>, Status> {
        let (deadline, may_forward) = (deadline(&request), may_forward(&request));
        let reply = self
            .transfer(request.into_inner(), may_forward, deadline)
            .await?;
        Ok(Response::new(reply))
    }

    async fn campaign(
        &self,
        request: Request<v1::CampaignRequest>,
    ) -> Result<Response<v1::CampaignReply>, Status> {
        let group = self.shared.group(&request.into_inner().group)?;
        let ordered = group.order(Order::Campaign).await;
        ordered.map_err(|failure| self.shared.explain(&group, failure))?;
        Ok(Response::new(v1::CampaignReply {}))
    }

    async fn set_read_only(
        &self,
        request: Request<v1::SetReadOnlyRequest>,
    ) -> Result<Response<v1::SetReadOnlyReply>, Status> {
        let (deadline, everywhere) = (deadline(&request), may_forward(&request));
        self.set_read_only(&request.into_inner(), everywhere, deadline)
            .await?;
        Ok(Response::new(v1::SetReadOnlyReply {}))
    }

    async fn reset_peers(
        &self,
        request: Request<v1::ResetPeersRequest>,
    ) -> Result<Response<v1::ResetPeersReply>, Status> {
        let reply = recover::reset_peers(&self.shared, request.into_inner()).await?;
        Ok(Response::new(reply))
    }

    async fn get_settings(
        &self,
        request: Request<v1::GetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsReply>, Status> {
        let reply = settings::get(&self.shared, &request.into_inner().group).await?;
        Ok(Response::new(reply))
    }

    async fn set_settings(
        &self,
        request: Request<v1::SetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsReply>, Status> {
        let request = request.into_inner();
        let values = request.values.into_iter().collect();
        let reply = settings::change(&self.shared, &request.group, values).await?;
        Ok(Response::new(reply))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainReply>, Status> {
        let deadline = deadline(&request);
        // Recorded and told to every group even if the caller goes away.
        let reply = self.drain(request.into_inner().undo, deadline).await?;
        Ok(Response::new(reply))
    }

    async fn forget_node(
        &self,
        request: Request<v1::ForgetNodeRequest>,
    ) -> Result<Response<v1::ForgetNodeReply>, Status> {
        let name = request.into_inner().name;
        let transport = self.shared.context.transport.clone();
        let wanted = name.clone();
        let forgetting = tokio::task::spawn_blocking(move || transport.forget(&wanted));
        match forgetting
            .await
            .map_err(Fault::from)?
            .map_err(Fault::from)?
        {
            true => Ok(Response::new(v1::ForgetNodeReply {})),
            false => {
                let message = format!("node {name:?} is not known here");
                Err(Fault::new(Reason::NodeNotFound, message).into())
            }
        }
    }

    async fn read_log(
        &self,
        request: Request<v1::ReadLogRequest>,
    ) -> Result<Response<v1::ReadLogReply>, Status> {
        Ok(Response::new(
            log::read(&self.shared, request.into_inner()).await?,
        ))
    }
}
