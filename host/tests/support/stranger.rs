//! A node of no group that says what is not true.

use futures_util::stream::BoxStream;
use kontiki_proto::v1;
use kontiki_proto::v1::GroupStage;
use kontiki_proto::v1::peer_server::{Peer, PeerServer};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

#[derive(Clone)]
pub struct Stranger {
    /// What it says of itself; it stands by every connection.
    pub me: v1::Introduction,
    /// It tells whoever calls that it is the second process of its node.
    refuses: bool,
    /// It tells whoever asks that this group was recovered elsewhere, and of all that they were deleted.
    group: u64,
    pub calls: Arc<AtomicU64>,
    pub questions: Arc<AtomicU64>,
}

impl Stranger {
    /// Begins to serve; `me` gets its address.
    pub async fn start(me: v1::Introduction, refuses: bool, group: u64) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let stranger = Self {
            me: v1::Introduction {
                peer_address: address.clone(),
                client_address: address,
                ..me
            },
            refuses,
            group,
            calls: Arc::default(),
            questions: Arc::default(),
        };
        let server = tonic::transport::Server::builder()
            .add_service(PeerServer::new(stranger.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        stranger
    }
}

fn nothing<T>() -> Result<T, Status> {
    Err(Status::unimplemented("it does nothing for anybody"))
}

#[tonic::async_trait]
impl Peer for Stranger {
    async fn introduce(
        &self,
        _: Request<v1::Introduction>,
    ) -> Result<Response<v1::Introduction>, Status> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let reason = ErrorDetails::with_error_info("DUPLICATE_NODE", "kontiki", HashMap::new());
        match self.refuses {
            true => Err(Status::with_error_details(
                Code::Unavailable,
                "two processes say that they are you",
                reason,
            )),
            false => Ok(Response::new(self.me.clone())),
        }
    }

    async fn confirm(
        &self,
        _: Request<v1::ConfirmRequest>,
    ) -> Result<Response<v1::ConfirmReply>, Status> {
        Ok(Response::new(v1::ConfirmReply {
            introduction: Some(self.me.clone()),
            confirmed: true,
        }))
    }

    async fn exchange_books(
        &self,
        _: Request<v1::AddressBook>,
    ) -> Result<Response<v1::AddressBook>, Status> {
        Ok(Response::new(v1::AddressBook::default()))
    }

    async fn exchange_epochs(
        &self,
        _: Request<v1::Epochs>,
    ) -> Result<Response<v1::Epochs>, Status> {
        let epoch = v1::Epoch {
            id: Some(v1::EpochId {
                number: 9,
                random: 9,
            }),
            first_term: 1_000,
            node: self.me.node,
            last_index: 0,
        };
        let lineage = v1::Lineage {
            epochs: vec![epoch],
            survivors: vec![self.me.node],
        };
        Ok(Response::new(v1::Epochs {
            node: self.me.node,
            groups: vec![v1::GroupEpoch {
                group: self.group,
                latest: Some(lineage),
                left_behind: None,
            }],
        }))
    }

    async fn stream(
        &self,
        request: Request<Streaming<v1::PeerFrame>>,
    ) -> Result<Response<v1::StreamEnd>, Status> {
        let mut frames = request.into_inner();
        while frames.message().await?.is_some() {}
        Ok(Response::new(v1::StreamEnd {}))
    }

    async fn look_up_groups(
        &self,
        request: Request<v1::LookUpGroupsRequest>,
    ) -> Result<Response<v1::LookUpGroupsReply>, Status> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        let deleted = |id| v1::HeldGroup {
            id,
            stage: GroupStage::Deleted.into(),
            ..v1::HeldGroup::default()
        };
        let ids = request.into_inner().ids.into_iter();
        Ok(Response::new(v1::LookUpGroupsReply {
            groups: ids.map(deleted).collect(),
        }))
    }

    async fn create_replica(
        &self,
        _: Request<v1::CreateReplicaRequest>,
    ) -> Result<Response<v1::CreateReplicaReply>, Status> {
        nothing()
    }

    async fn decide_creation(
        &self,
        _: Request<v1::DecideCreationRequest>,
    ) -> Result<Response<v1::DecideCreationReply>, Status> {
        nothing()
    }

    async fn settle(
        &self,
        _: Request<v1::SettleRequest>,
    ) -> Result<Response<v1::SettleReply>, Status> {
        nothing()
    }

    async fn remove_replica(
        &self,
        _: Request<v1::RemoveReplicaRequest>,
    ) -> Result<Response<v1::RemoveReplicaReply>, Status> {
        nothing()
    }

    async fn compare_outcomes(
        &self,
        _: Request<v1::CompareOutcomesRequest>,
    ) -> Result<Response<v1::CompareOutcomesReply>, Status> {
        nothing()
    }

    type FetchPluginStream = BoxStream<'static, Result<v1::PluginChunk, Status>>;

    async fn fetch_plugin(
        &self,
        _: Request<v1::FetchPluginRequest>,
    ) -> Result<Response<Self::FetchPluginStream>, Status> {
        nothing()
    }
}
