//! The client service: commands and queries.

use super::Shared;
use super::deadline::deadline;
use super::forward::{failed_hop, hop, may_forward, other_leader};
use super::status::{Fault, Reason};
use crate::node::handle::{Consistency, GroupHandle, Pending};
use crate::node::request::{Applied, Position};
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt as _};
use kontiki_proto::v1;
use kontiki_proto::v1::client_server::Client;
use kontiki_raft::{ReadMode, RejectReason, Term};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Commands under way on one stream; more wait in the connection.
const STREAM_WINDOW: usize = 1_024;
/// Time allowed to each command of a stream.
const STREAM_COMMAND_LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct ClientService {
    shared: Shared,
}

impl ClientService {
    pub(crate) fn new(shared: Shared) -> Self {
        Self { shared }
    }

    async fn apply_one(
        &self,
        request: v1::ApplyRequest,
        may_forward: bool,
        deadline: Instant,
    ) -> Result<v1::ApplyReply, Fault> {
        let group = self.shared.group(&request.group)?;
        if may_forward && let Some(leader) = other_leader(&self.shared.context, &group) {
            return self.forward_apply(&leader, request, deadline).await;
        }
        self.check_size(&group, request.command.len())?;
        let term = request.expected_term.map(Term);
        let applied = group.propose(&request.command, term).wait(deadline).await;
        applied
            .map(apply_reply)
            .map_err(|failure| self.shared.explain(&group, failure))
    }

    /// Refused before anything is queued, let alone appended.
    fn check_size(&self, group: &GroupHandle, size_bytes: usize) -> Result<(), Fault> {
        check_size(group, size_bytes).map_err(|fault| fault.of_group(group.name()))
    }

    async fn forward_apply(
        &self,
        leader: &v1::Introduction,
        request: v1::ApplyRequest,
        deadline: Instant,
    ) -> Result<v1::ApplyReply, Fault> {
        let group = request.group.clone();
        let mut client = self.shared.forwarder.client(leader)?;
        let reply = client.apply(hop(request, deadline)).await;
        let reply = reply.map_err(|status| failed_hop(leader, status).of_group(&group))?;
        Ok(reply.into_inner())
    }

    async fn query_one(
        &self,
        request: v1::QueryRequest,
        deadline: Instant,
    ) -> Result<v1::QueryReply, Fault> {
        let group = self.shared.group(&request.group)?;
        let consistency = match request.consistency() {
            v1::Consistency::Linearizable => Consistency::Linearizable(ReadMode::Quorum),
            v1::Consistency::Lease => Consistency::Linearizable(ReadMode::Lease),
            v1::Consistency::Stale => Consistency::Stale,
        };
        let limit = super::deadline::left(deadline);
        let answer = group.query(&request.request, consistency, limit).await;
        let applied = answer.map_err(|failure| self.shared.explain(&group, failure))?;
        let staleness = (consistency == Consistency::Stale)
            .then(|| staleness(group.staleness_us(applied.position.id.index)));
        Ok(v1::QueryReply {
            position: Some(position(&applied.position)),
            result: Some(match applied.result {
                Ok(answer) => v1::query_reply::Result::Answer(answer),
                Err(reason) => v1::query_reply::Result::Rejected(reason),
            }),
            staleness,
        })
    }

    /// Passes a whole stream on to the leader.
    async fn forward_stream(
        &self,
        leader: &v1::Introduction,
        first: v1::ApplyStreamRequest,
        rest: Streaming<v1::ApplyStreamRequest>,
    ) -> Result<BoxStream<'static, Result<v1::ApplyStreamReply, Status>>, Fault> {
        let requests = futures_util::stream::iter([first]).chain(
            rest.take_while(|next| std::future::ready(next.is_ok()))
                .filter_map(|next| std::future::ready(next.ok())),
        );
        let mut request = hop(requests, Instant::now());
        // A stream has no deadline of its own.
        request.metadata_mut().remove("grpc-timeout");
        let mut client = self.shared.forwarder.client(leader)?;
        let replies = client.apply_stream(request).await;
        let replies = replies
            .map_err(|status| failed_hop(leader, status))?
            .into_inner();
        let leader = leader.clone();
        let explain = move |reply: Result<_, Status>| {
            reply.map_err(|status| Status::from(failed_hop(&leader, status)))
        };
        Ok(replies.map(explain).boxed())
    }
}

/// Checks a command against the size limit.
fn check_size(group: &GroupHandle, size_bytes: usize) -> Result<(), Fault> {
    let size_bytes_max = group.entry_size_bytes_max();
    if size_bytes <= size_bytes_max {
        return Ok(());
    }
    let reason = RejectReason::TooLarge {
        size_bytes,
        size_bytes_max,
    };
    Err(Fault::new(Reason::TooLarge, reason.to_string()))
}

fn staleness(age_us: Option<u64>) -> v1::query_reply::Staleness {
    use v1::query_reply::Staleness::{StalenessUnknown, StalenessUs};
    age_us.map_or(StalenessUnknown(true), StalenessUs)
}

fn position(position: &Position) -> v1::Position {
    v1::Position {
        index: position.id.index.0,
        term: position.id.term.0,
        plugin: position.plugin.to_string(),
    }
}

fn apply_reply(applied: Applied) -> v1::ApplyReply {
    v1::ApplyReply {
        position: Some(position(&applied.position)),
        result: Some(match applied.result {
            Ok(answer) => v1::apply_reply::Result::Answer(answer),
            Err(reason) => v1::apply_reply::Result::Rejected(reason),
        }),
    }
}

/// Takes commands off a stream, puts each into the group's queue at once, and hands what is to be
/// awaited on, in order.
async fn pump(
    shared: Shared,
    group: GroupHandle,
    first: v1::ApplyStreamRequest,
    mut rest: Streaming<v1::ApplyStreamRequest>,
    pending: mpsc::Sender<Result<(Pending, Instant), Fault>>,
) {
    let mut next = Some(first);
    while let Some(request) = next {
        let deadline = Instant::now() + STREAM_COMMAND_LIMIT;
        let checked = check_size(&group, request.command.len());
        let term = request.expected_term.map(Term);
        let one = checked.map(|()| (group.propose(&request.command, term), deadline));
        if pending.send(one).await.is_err() {
            return;
        }
        next = tokio::select! {
            message = rest.message() => message.unwrap_or_default(),
            () = shared.context.closing.cancelled() => None,
        };
    }
}

fn stream_reply(result: Result<v1::ApplyReply, Fault>) -> v1::ApplyStreamReply {
    use v1::apply_stream_reply::Outcome;
    v1::ApplyStreamReply {
        outcome: Some(match result {
            Ok(reply) => Outcome::Reply(reply),
            Err(fault) => Outcome::Error(v1::ApplyError {
                reason: fault.reason_name(),
                outcome: fault.outcome().as_str().to_owned(),
                message: fault.message().to_owned(),
                leader_address: fault.leader_address().to_owned(),
            }),
        }),
    }
}

fn local_stream(
    shared: Shared,
    group: GroupHandle,
    first: v1::ApplyStreamRequest,
    rest: Streaming<v1::ApplyStreamRequest>,
) -> impl Stream<Item = Result<v1::ApplyStreamReply, Status>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(STREAM_WINDOW);
    tokio::spawn(pump(shared.clone(), group.clone(), first, rest, sender));
    ReceiverStream::new(receiver).then(move |one| {
        let (shared, group) = (shared.clone(), group.clone());
        async move {
            let result = match one {
                Ok((pending, deadline)) => {
                    let applied = pending.wait(deadline).await;
                    applied
                        .map(apply_reply)
                        .map_err(|failure| shared.explain(&group, failure))
                }
                Err(fault) => Err(fault.of_group(group.name())),
            };
            Ok(stream_reply(result))
        }
    })
}

#[tonic::async_trait]
impl Client for ClientService {
    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyReply>, Status> {
        let deadline = deadline(&request);
        let forward = may_forward(&request) && !request.get_ref().no_forward;
        let reply = self
            .apply_one(request.into_inner(), forward, deadline)
            .await?;
        Ok(Response::new(reply))
    }

    type ApplyStreamStream = BoxStream<'static, Result<v1::ApplyStreamReply, Status>>;

    async fn apply_stream(
        &self,
        request: Request<Streaming<v1::ApplyStreamRequest>>,
    ) -> Result<Response<Self::ApplyStreamStream>, Status> {
        let forward = may_forward(&request);
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Ok(Response::new(futures_util::stream::empty().boxed()));
        };
        let group = self.shared.group(&first.group)?;
        if forward && let Some(leader) = other_leader(&self.shared.context, &group) {
            let replies = self.forward_stream(&leader, first, requests).await?;
            return Ok(Response::new(replies));
        }
        let replies = local_stream(self.shared.clone(), group, first, requests);
        Ok(Response::new(replies.boxed()))
    }

    async fn query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<v1::QueryReply>, Status> {
        let deadline = deadline(&request);
        let reply = self.query_one(request.into_inner(), deadline).await?;
        Ok(Response::new(reply))
    }
}
