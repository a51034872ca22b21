//! A node that answers as the test says: a real gRPC server on a real port.

use kontiki_client::Address;
use kontiki_proto::v1 as proto;
use kontiki_proto::v1::admin_server::{Admin, AdminServer};
use kontiki_proto::v1::client_server::{Client, ClientServer};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::runtime::Runtime;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// What the node does with one command or query.
pub(crate) enum Act {
    /// Answers in this term.
    Answer(&'static str, u64),
    /// Refuses as a server of ours does.
    Refuse {
        code: Code,
        reason: &'static str,
        outcome: &'static str,
        leader: Option<(Address, u64)>,
    },
    /// Refuses as some proxy would.
    Bare(Code),
    /// Never answers.
    Hang,
    /// Dies with every connection, before it answers.
    Die,
}

impl Act {
    pub(crate) fn not_leader(leader: &Address, term: u64) -> Self {
        let leader = Some((leader.clone(), term));
        Self::Refuse {
            code: Code::Unavailable,
            reason: "NOT_LEADER",
            outcome: "not_applied",
            leader,
        }
    }

    pub(crate) fn no_leader() -> Self {
        let (code, reason) = (Code::Unavailable, "NO_LEADER");
        Self::Refuse {
            code,
            reason,
            outcome: "not_applied",
            leader: None,
        }
    }

    fn error(self) -> Status {
        match self {
            Self::Refuse {
                code,
                reason,
                outcome,
                leader,
            } => {
                let mut facts = HashMap::from([("outcome".to_owned(), outcome.to_owned())]);
                if let Some((address, term)) = leader {
                    facts.insert("leader_address".to_owned(), address.to_string());
                    facts.insert("term".to_owned(), term.to_string());
                }
                let details = ErrorDetails::with_error_info(reason, "kontiki", facts);
                Status::with_error_details(code, format!("said {reason}"), details)
            }
            Self::Bare(code) => Status::new(code, "bare"),
            _ => unreachable!("only for refusals"),
        }
    }
}

/// Decides by the text and whether forwarding was declined.
type Script = Box<dyn FnMut(&str, bool) -> Act + Send>;

pub(crate) struct Node {
    pub(crate) address: Address,
    state: Arc<State>,
    runtime: Arc<Mutex<Option<Runtime>>>,
}

struct State {
    address: Address,
    script: Mutex<Script>,
    seen: Mutex<Vec<String>>,
    peers: Mutex<Vec<Address>>,
    runtime: Arc<Mutex<Option<Runtime>>>,
}

impl Node {
    /// Starts a node on a free port. It runs on threads of its own, so that it can die like one.
    pub(crate) fn start(script: impl FnMut(&str, bool) -> Act + Send + 'static) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let runtime = Arc::new(Mutex::new(None));
        let state = Arc::new(State {
            address: address.clone(),
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
            peers: Mutex::default(),
            runtime: runtime.clone(),
        });
        let threads = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let threads = threads.unwrap();
        let service = Service(state.clone());
        threads.spawn(async move {
            let incoming =
                TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
            tonic::transport::Server::builder()
                .add_service(ClientServer::new(service.clone()))
                .add_service(AdminServer::new(service))
                .serve_with_incoming(incoming)
                .await
                .unwrap();
        });
        *runtime.lock().unwrap() = Some(threads);
        Self {
            address,
            state,
            runtime,
        }
    }

    /// Nodes that this one introduces beside itself.
    pub(crate) fn introduce(&self, others: &[&Node]) {
        *self.state.peers.lock().unwrap() = others.iter().map(|n| n.address.clone()).collect();
    }

    /// Commands and queries that arrived, in order.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.state.seen.lock().unwrap().clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        kill(&self.runtime);
    }
}

fn kill(runtime: &Mutex<Option<Runtime>>) {
    if let Some(runtime) = runtime.lock().unwrap().take() {
        runtime.shutdown_background();
    }
}

impl State {
    async fn act(
        &self,
        text: &[u8],
        no_forward: bool,
    ) -> Result<(String, proto::Position), Status> {
        let text = String::from_utf8(text.to_vec()).unwrap();
        self.seen.lock().unwrap().push(text.clone());
        let act = (self.script.lock().unwrap())(&text, no_forward);
        match act {
            Act::Answer(answer, term) => {
                let position = proto::Position {
                    index: 1,
                    term,
                    plugin: "sha256:00".into(),
                };
                Ok((answer.to_owned(), position))
            }
            Act::Hang => std::future::pending().await,
            Act::Die => {
                kill(&self.runtime);
                std::future::pending().await
            }
            refusal => Err(refusal.error()),
        }
    }
}

#[derive(Clone)]
struct Service(Arc<State>);

type Replies = Pin<Box<dyn Stream<Item = Result<proto::ApplyStreamReply, Status>> + Send>>;

#[tonic::async_trait]
impl Client for Service {
    type ApplyStreamStream = Replies;

    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::ApplyReply>, Status> {
        let request = request.into_inner();
        let (answer, position) = self.0.act(&request.command, request.no_forward).await?;
        Ok(Response::new(applied(answer, position)))
    }

    async fn apply_stream(
        &self,
        request: Request<Streaming<proto::ApplyStreamRequest>>,
    ) -> Result<Response<Replies>, Status> {
        let (state, mut requests) = (self.0.clone(), request.into_inner());
        let (sender, receiver) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let outcome = match state.act(&request.command, true).await {
                    Ok((answer, position)) => {
                        proto::apply_stream_reply::Outcome::Reply(applied(answer, position))
                    }
                    Err(status) => proto::apply_stream_reply::Outcome::Error(stream_error(&status)),
                };
                let reply = proto::ApplyStreamReply {
                    outcome: Some(outcome),
                };
                if sender.send(Ok(reply)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<proto::QueryReply>, Status> {
        let request = request.into_inner();
        let (answer, position) = self.0.act(&request.request, request.no_forward).await?;
        Ok(Response::new(proto::QueryReply {
            position: Some(position),
            result: Some(proto::query_reply::Result::Answer(answer.into())),
            staleness: None,
        }))
    }
}

fn applied(answer: String, position: proto::Position) -> proto::ApplyReply {
    let result = Some(proto::apply_reply::Result::Answer(answer.into()));
    proto::ApplyReply {
        position: Some(position),
        result,
    }
}

fn stream_error(status: &Status) -> proto::ApplyError {
    let info = status.get_details_error_info().unwrap();
    proto::ApplyError {
        reason: info.reason,
        outcome: info.metadata["outcome"].clone(),
        message: status.message().to_owned(),
        leader_address: info
            .metadata
            .get("leader_address")
            .cloned()
            .unwrap_or_default(),
    }
}

fn introduction(address: &Address) -> proto::Introduction {
    let node = u64::from(address.port());
    proto::Introduction {
        node,
        client_address: address.to_string(),
        ..Default::default()
    }
}

/// Only what the client itself asks for.
#[tonic::async_trait]
impl Admin for Service {
    type ChangeMembershipStream =
        Pin<Box<dyn Stream<Item = Result<proto::MembershipProgress, Status>> + Send>>;

    async fn get_node(
        &self,
        _: Request<proto::GetNodeRequest>,
    ) -> Result<Response<proto::GetNodeReply>, Status> {
        let peers = self.0.peers.lock().unwrap();
        let peer = |address| proto::PeerInfo {
            node: Some(introduction(address)),
            ..Default::default()
        };
        Ok(Response::new(proto::GetNodeReply {
            node: Some(introduction(&self.0.address)),
            peers: peers.iter().map(peer).collect(),
            ..Default::default()
        }))
    }

    async fn campaign(
        &self,
        _: Request<proto::CampaignRequest>,
    ) -> Result<Response<proto::CampaignReply>, Status> {
        self.0.act(b"campaign", false).await?;
        Ok(Response::new(proto::CampaignReply {}))
    }
    async fn create_group(
        &self,
        _: Request<proto::CreateGroupRequest>,
    ) -> Result<Response<proto::CreateGroupReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn delete_group(
        &self,
        _: Request<proto::DeleteGroupRequest>,
    ) -> Result<Response<proto::DeleteGroupReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn list_groups(
        &self,
        _: Request<proto::ListGroupsRequest>,
    ) -> Result<Response<proto::ListGroupsReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn describe_group(
        &self,
        _: Request<proto::DescribeGroupRequest>,
    ) -> Result<Response<proto::GroupDescription>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn change_membership(
        &self,
        _: Request<proto::ChangeMembershipRequest>,
    ) -> Result<Response<Self::ChangeMembershipStream>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn cancel_membership_change(
        &self,
        _: Request<proto::CancelMembershipChangeRequest>,
    ) -> Result<Response<proto::CancelMembershipChangeReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn purge_replica(
        &self,
        _: Request<proto::PurgeReplicaRequest>,
    ) -> Result<Response<proto::PurgeReplicaReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn transfer_leadership(
        &self,
        _: Request<proto::TransferLeadershipRequest>,
    ) -> Result<Response<proto::TransferLeadershipReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn set_read_only(
        &self,
        _: Request<proto::SetReadOnlyRequest>,
    ) -> Result<Response<proto::SetReadOnlyReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn reset_peers(
        &self,
        _: Request<proto::ResetPeersRequest>,
    ) -> Result<Response<proto::ResetPeersReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn get_settings(
        &self,
        _: Request<proto::GetSettingsRequest>,
    ) -> Result<Response<proto::GetSettingsReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn set_settings(
        &self,
        _: Request<proto::SetSettingsRequest>,
    ) -> Result<Response<proto::GetSettingsReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn reset_settings(
        &self,
        _: Request<proto::ResetSettingsRequest>,
    ) -> Result<Response<proto::GetSettingsReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn drain(
        &self,
        _: Request<proto::DrainRequest>,
    ) -> Result<Response<proto::DrainReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn forget_node(
        &self,
        _: Request<proto::ForgetNodeRequest>,
    ) -> Result<Response<proto::ForgetNodeReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn read_log(
        &self,
        _: Request<proto::ReadLogRequest>,
    ) -> Result<Response<proto::ReadLogReply>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }
}
