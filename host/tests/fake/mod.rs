//! A server whose answers the name of the group chooses: every exit code can be had from it.

use kontiki_proto::v1 as proto;
use kontiki_proto::v1::client_server::{Client, ClientServer};
use std::collections::HashMap;
use std::pin::Pin;
use tokio::runtime::Runtime;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Runs until it is dropped.
pub(crate) struct Server {
    pub(crate) address: String,
    _runtime: Runtime,
}

impl Server {
    pub(crate) fn start() -> Self {
        let runtime = Runtime::new().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let server =
                tonic::transport::Server::builder().add_service(ClientServer::new(Service));
            server
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self {
            address,
            _runtime: runtime,
        }
    }
}

struct Service;

/// What the group of that name answers.
fn verdict(group: &str, command: &[u8]) -> Result<proto::ApplyReply, Status> {
    use proto::apply_reply::Result as Answer;
    let refuse = |code, reason, outcome: &str| {
        let facts = HashMap::from([("outcome".to_owned(), outcome.to_owned())]);
        let details = ErrorDetails::with_error_info(reason, "kontiki", facts);
        Err(Status::with_error_details(
            code,
            format!("it is {reason}"),
            details,
        ))
    };
    let answer = match group {
        "echo" => Answer::Answer(command.to_vec().into()),
        "binary" => Answer::Answer(vec![0xff, 0x00].into()),
        "rejecting" => Answer::Rejected("no such number".to_owned()),
        "too-large" => return refuse(Code::InvalidArgument, "TOO_LARGE", "not_applied"),
        "absent" => return refuse(Code::NotFound, "GROUP_NOT_FOUND", "not_applied"),
        "conflicting" => return refuse(Code::FailedPrecondition, "TERM_MISMATCH", "not_applied"),
        "forbidden" => return refuse(Code::PermissionDenied, "READ_ONLY_TOKEN", "not_applied"),
        "deposed" => return refuse(Code::Aborted, "LEADERSHIP_LOST", "unknown"),
        "trapping" => return refuse(Code::Internal, "PLUGIN_FAULT", "not_applied"),
        "leaderless" => return refuse(Code::Unavailable, "NO_LEADER", "not_applied"),
        other => unreachable!("no test uses {other}"),
    };
    let position = proto::Position {
        index: 9,
        term: 2,
        plugin: "sha256:00".to_owned(),
    };
    Ok(proto::ApplyReply {
        position: Some(position),
        result: Some(answer),
    })
}

type Replies = Pin<Box<dyn Stream<Item = Result<proto::ApplyStreamReply, Status>> + Send>>;

#[tonic::async_trait]
impl Client for Service {
    type ApplyStreamStream = Replies;

    async fn apply(
        &self,
        request: Request<proto::ApplyRequest>,
    ) -> Result<Response<proto::ApplyReply>, Status> {
        let request = request.into_inner();
        verdict(&request.group, &request.command).map(Response::new)
    }

    async fn apply_stream(
        &self,
        request: Request<Streaming<proto::ApplyStreamRequest>>,
    ) -> Result<Response<Replies>, Status> {
        use tokio_stream::StreamExt as _;
        let replies = request.into_inner().map(|request| {
            use proto::apply_stream_reply::Outcome;
            let request = request?;
            let outcome = match request.expected_term {
                None | Some(2) => Outcome::Reply(verdict(&request.group, &request.command)?),
                Some(_) => Outcome::Error(proto::ApplyError {
                    reason: "TERM_MISMATCH".to_owned(),
                    outcome: "not_applied".to_owned(),
                    message: "the term is 2, not the expected one".to_owned(),
                    leader_address: String::new(),
                }),
            };
            let outcome = Some(outcome);
            Ok(proto::ApplyStreamReply { outcome })
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn query(
        &self,
        request: Request<proto::QueryRequest>,
    ) -> Result<Response<proto::QueryReply>, Status> {
        use proto::apply_reply::Result as Applied;
        use proto::query_reply::Result as Answer;
        let request = request.into_inner();
        let reply = verdict(&request.group, &request.request)?;
        let result = reply.result.map(|result| match result {
            Applied::Answer(answer) => Answer::Answer(answer),
            Applied::Rejected(why) => Answer::Rejected(why),
        });
        let position = reply.position;
        let staleness = match &*request.request {
            b"unknown" => proto::query_reply::Staleness::StalenessUnknown(true),
            _ => proto::query_reply::Staleness::StalenessUs(1500),
        };
        Ok(Response::new(proto::QueryReply {
            position,
            result,
            staleness: Some(staleness),
        }))
    }
}
