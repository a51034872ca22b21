//! The admin service. Calls that only the leader can answer are passed on, one hop.

use super::Shared;
use super::deadline::deadline;
use super::describe::{broken_summary, describe, describe_broken, full_summary};
use super::forward::{failed_hop, hop, may_forward, other_leader};
use super::status::{Fault, Reason};
use super::{create_group, delete_group, log, membership, purge, read_only, recover, settings};
use crate::node::clock::micros;
use crate::node::context::lock;
use crate::node::drain;
use crate::node::handle::GroupHandle;
use crate::node::overrides::Edit;
use crate::node::request::{Failure, Order, Outcome};
use crate::transport::Transport;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::BoxStream;
use kontiki_proto::v1;
use kontiki_proto::v1::admin_server::Admin;
use kontiki_raft::{NodeId, Role, Term, TransferTarget};
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
        let problems = context.problems();
        v1::GetNodeReply {
            node: Some(context.transport.me()),
            peers: context.transport.peers(),
            uptime_us: micros(context.clock.uptime()),
            groups: count(groups.len()),
            leading: count(leading),
            draining: context.gives_away(),
            drained: context.is_drained(),
            storage: context.config.data.to_string(),
            next_steps: problems.iter().map(|it| it.next_step.clone()).collect(),
            problems: problems.into_iter().map(|problem| problem.what).collect(),
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
            name => {
                let node = create_group::look_up(&self.shared, name).await?;
                TransferTarget::Node(NodeId(node.node))
            }
        };
        let start = Instant::now();
        let (leader, term) = self.hand_over(&group, target, deadline).await?;
        Ok(v1::TransferLeadershipReply {
            leader: leader.0,
            leader_name: self.shared.context.transport.name(leader),
            term: term.0,
            elapsed_us: micros(start.elapsed()),
        })
    }

    /// Hands leadership over; who leads then, which must be the target.
    async fn hand_over(
        &self,
        group: &GroupHandle,
        target: TransferTarget,
        deadline: Instant,
    ) -> Result<(NodeId, Term), Fault> {
        let before = group.brief();
        let ordered = group.order(Order::Transfer(target)).await;
        ordered.map_err(|failure| self.shared.explain(group, failure))?;
        let mut brief = group.watch();
        // A transfer to the leader itself is done at once and changes no term.
        let stays = target == TransferTarget::Node(self.shared.context.node());
        let moved = brief.wait_for(|now| now.leader.is_some() && (stays || now.term > before.term));
        let after = match tokio::time::timeout_at(deadline, moved).await {
            Ok(Ok(brief)) => *brief,
            _ => group.brief(),
        };
        transferred(target, after.leader, &self.shared.context.transport)
            .map(|leader| (leader, after.term))
            .map_err(|fault| self.shared.explain(group, fault))
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
        let plan = membership::plan(&self.shared, &group, &request).await;
        let plan = plan.map_err(|fault| self.shared.explain(&group, fault))?;
        if request.dry_run {
            let planned = futures_util::stream::iter([Ok(plan.preview())]);
            return Ok(planned.boxed());
        }
        let (sender, receiver) = mpsc::channel(4);
        let running = membership::run(self.shared.clone(), group, plan, sender);
        self.shared.context.in_background(running);
        Ok(ReceiverStream::new(receiver).boxed())
    }

    async fn cancel_change(
        &self,
        request: v1::CancelMembershipChangeRequest,
        may_forward: bool,
        deadline: Instant,
    ) -> Result<(), Fault> {
        let group = self.shared.group(&request.group)?;
        if let Some(leader) = self.elsewhere(&group, may_forward) {
            let mut admin = self.shared.forwarder.admin(&leader)?;
            let reply = admin.cancel_membership_change(hop(request, deadline)).await;
            return reply
                .map(drop)
                .map_err(|status| failed_hop(&leader, status));
        }
        let cancelled = group.order(Order::CancelChange).await;
        cancelled.map_err(|failure| self.shared.explain(&group, failure))
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

/// The leader after a transfer. Another than the target may have won the election meanwhile, or
/// nobody yet.
fn transferred(
    target: TransferTarget,
    leader: Option<NodeId>,
    transport: &Transport,
) -> Result<NodeId, Fault> {
    let Some(leader) = leader else {
        let message = "the leader has stood down, but who leads instead is not known yet";
        return Err(Fault::new(Reason::DeadlineExceeded, message).with_outcome(Outcome::Unknown));
    };
    match target {
        TransferTarget::Node(wanted) if wanted != leader => {
            let (wanted, leader) = (transport.name(wanted), transport.name(leader));
            let message = format!("{leader} was elected instead of {wanted}");
            Err(Fault::new(Reason::TransferWentAstray, message))
        }
        _ => Ok(leader),
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
        let (shared, deadline) = (self.shared.clone(), deadline(&request));
        let request = request.into_inner();
        let creating = async move { create_group::create(&shared, request, deadline).await };
        let created = self.shared.context.to_the_end(creating).await;
        let group = created.map_err(Fault::from)??;
        Ok(Response::new(v1::CreateGroupReply { group: Some(group) }))
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupReply>, Status> {
        // To the end even if the caller goes away: the others are to hear of it.
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let deleting = async move { delete_group::delete(&shared, request).await };
        let deleted = self.shared.context.to_the_end(deleting).await;
        Ok(Response::new(deleted.map_err(Fault::from)??))
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
        groups.extend(lock(&context.broken).values().map(broken_summary));
        Ok(Response::new(v1::ListGroupsReply { groups }))
    }

    async fn describe_group(
        &self,
        request: Request<v1::DescribeGroupRequest>,
    ) -> Result<Response<v1::GroupDescription>, Status> {
        let deadline = deadline(&request);
        let may_forward = may_forward(&request) && !request.get_ref().local;
        let request = request.into_inner();
        // Whoever asks for the group rather than for this replica is told to ask another node.
        if request.local
            && let Some(description) = describe_broken(&self.shared.context, &request.group)
        {
            return Ok(Response::new(description));
        }
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

    async fn cancel_membership_change(
        &self,
        request: Request<v1::CancelMembershipChangeRequest>,
    ) -> Result<Response<v1::CancelMembershipChangeReply>, Status> {
        let (deadline, may_forward) = (deadline(&request), may_forward(&request));
        self.cancel_change(request.into_inner(), may_forward, deadline)
            .await?;
        Ok(Response::new(v1::CancelMembershipChangeReply {}))
    }

    async fn purge_replica(
        &self,
        request: Request<v1::PurgeReplicaRequest>,
    ) -> Result<Response<v1::PurgeReplicaReply>, Status> {
        let deadline = deadline(&request);
        // To the end even if the caller goes away: a replica that has ended must be deleted.
        let (shared, request) = (self.shared.clone(), request.into_inner());
        let purging = async move { purge::purge(&shared, request, deadline).await };
        let purged = self.shared.context.to_the_end(purging).await;
        Ok(Response::new(purged.map_err(Fault::from)??))
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
        let deadline = deadline(&request);
        let everywhere = may_forward(&request) && !request.get_ref().local;
        let reply =
            read_only::set(&self.shared, &request.into_inner(), everywhere, deadline).await?;
        Ok(Response::new(reply))
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
        let reply = settings::get(&self.shared, &request.into_inner().group)?;
        Ok(Response::new(reply))
    }

    async fn set_settings(
        &self,
        request: Request<v1::SetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsReply>, Status> {
        let request = request.into_inner();
        let edit = Edit::Set(request.values.into_iter().collect());
        let reply = settings::change(&self.shared, &request.group, &edit, request.dry_run).await?;
        Ok(Response::new(reply))
    }

    async fn reset_settings(
        &self,
        request: Request<v1::ResetSettingsRequest>,
    ) -> Result<Response<v1::GetSettingsReply>, Status> {
        let request = request.into_inner();
        let edit = Edit::Reset(request.names);
        let reply = settings::change(&self.shared, &request.group, &edit, request.dry_run).await?;
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
        let v1::ForgetNodeRequest { name, force } = request.into_inner();
        let transport = self.shared.context.transport.clone();
        let known = transport.find(&name);
        if known.is_some_and(|it| transport.is_connected(NodeId(it.node))) && !force {
            let message = format!(
                "node {name:?} is connected to this one: it runs, and would be known again as soon \
                 as it calls; stop it first"
            );
            return Err(Fault::new(Reason::NodeConnected, message).into());
        }
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
