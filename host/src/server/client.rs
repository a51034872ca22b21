//! The client service: commands and queries.

use super::Shared;
use super::admission::Held;
use super::deadline::deadline;
use super::forward::{failed_hop, hop, may_forward, other_leader, replaced};
use super::ledger::{Charge, Ledger};
use super::status::{Fault, Reason};
use crate::node::handle::{Consistency, GroupHandle, Pending};
use crate::node::request::{Applied, Position};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use kontiki_proto::v1;
use kontiki_proto::v1::client_server::Client;
use kontiki_raft::{ReadMode, RejectReason, Term};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
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
        charge: &mut Charge,
    ) -> Result<v1::ApplyReply, Fault> {
        let group = self.shared.group(&request.group)?;
        if may_forward && let Some(leader) = other_leader(&self.shared.context, &group) {
            return self.forward_apply(&leader, request, deadline).await;
        }
        self.check_size(&group, request.command.len())?;
        let term = request.expected_term.map(Term);
        let pending = group.propose(&request.command, term);
        // What waits for an answer needs its buffer no more.
        drop(request);
        let applied = pending.wait(deadline).await;
        applied
            .map(|applied| answered(&group, applied, charge))
            .map_err(|failure| self.shared.explain(&group, failure))
    }

    /// What a command takes in hand, with its answer.
    fn expected_size_bytes(&self, request: &v1::ApplyRequest) -> usize {
        let group = self.shared.context.router.by_name(&request.group);
        let size_bytes = request.command.len();
        group.map_or(size_bytes, |group| group.expected_size_bytes(size_bytes))
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
        let handle = self.shared.group(&group)?;
        let reply = tokio::select! {
            reply = client.apply(hop(request, deadline)) => reply,
            fault = replaced(&handle, leader) => return Err(fault.of_group(&group)),
        };
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
        let cut = Arc::new(OnceLock::new());
        let rest = until_cut(self.shared.clone(), rest, Arc::clone(&cut));
        let requests = futures_util::stream::iter([first]).chain(rest);
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
        let end = async move { cut.get().cloned().map(Err) };
        let end = end.into_stream().filter_map(std::future::ready);
        Ok(replies.map(explain).chain(end).boxed())
    }
}

/// What is still to be read of a stream of commands, until it fails or the node shuts down; then
/// `cut` says why. What was not read was not taken.
fn until_cut(
    shared: Shared,
    rest: Streaming<v1::ApplyStreamRequest>,
    cut: Arc<OnceLock<Status>>,
) -> impl Stream<Item = v1::ApplyStreamRequest> + Send + 'static {
    futures_util::stream::unfold((shared, rest, cut), |(shared, mut rest, cut)| async move {
        match next_request(&shared, &mut rest).await {
            Ok(next) => Some((next?, (shared, rest, cut))),
            Err(status) => {
                // It is said once.
                let _ = cut.set(status);
                None
            }
        }
    })
}

/// The next command of a stream; none at its end.
///
/// # Errors
/// With what the stream is to end, since no more is read of it.
async fn next_request(
    shared: &Shared,
    rest: &mut Streaming<v1::ApplyStreamRequest>,
) -> Result<Option<v1::ApplyStreamRequest>, Status> {
    tokio::select! {
        message = rest.message() => message,
        () = shared.context.closing.cancelled() => Err(going()),
    }
}

/// With this a stream ends whose commands are all answered as far as they were taken.
fn going() -> Status {
    let message = "the node is shutting down; what is not answered was not taken";
    Fault::new(Reason::ShuttingDown, message).into()
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

/// What a stream owes its client next.
enum Owed {
    /// The answer to a command, by then. In hand is what the answer may be.
    Answer(Pending, Instant, Charge),
    /// A command was refused.
    Refusal(Fault),
    /// Everything is answered, and no more was taken.
    End(Status),
}

/// Takes commands off a stream, puts each into the group's queue at once, and hands what is to be
/// awaited on, in order. A client that does not read its answers is not read from either.
async fn pump(
    shared: Shared,
    group: GroupHandle,
    first: v1::ApplyStreamRequest,
    mut rest: Streaming<v1::ApplyStreamRequest>,
    (ledger, owed): (Ledger, mpsc::Sender<Owed>),
) {
    let mut next = Some(first);
    while let Some(request) = next {
        tokio::select! {
            () = ledger.room() => {}
            () = shared.context.closing.cancelled() => {
                drop(owed.send(Owed::End(going())).await);
                return;
            }
        }
        let one = match check_size(&group, request.command.len()) {
            Ok(()) => {
                let charge = ledger.charge(group.expected_size_bytes(request.command.len()));
                let term = request.expected_term.map(Term);
                let pending = group.propose(&request.command, term);
                Owed::Answer(pending, Instant::now() + STREAM_COMMAND_LIMIT, charge)
            }
            Err(fault) => Owed::Refusal(fault.of_group(group.name())),
        };
        // What waits for an answer needs its buffer no more.
        drop(request);
        if owed.send(one).await.is_err() {
            return;
        }
        next = match next_request(&shared, &mut rest).await {
            Ok(next) => next,
            Err(status) => {
                drop(owed.send(Owed::End(status)).await);
                return;
            }
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

/// The answers of a stream. Each is in hand until the next is asked for: by then it has left.
struct Answers {
    shared: Shared,
    group: GroupHandle,
    owed: mpsc::Receiver<Owed>,
    leaving: Option<Charge>,
}

impl Answers {
    async fn next(&mut self) -> Option<Result<v1::ApplyStreamReply, Status>> {
        self.leaving = None;
        let result = match self.owed.recv().await? {
            Owed::Answer(pending, deadline, mut charge) => {
                let applied = pending.wait(deadline).await;
                let reply = applied
                    .map(|applied| answered(&self.group, applied, &mut charge))
                    .map_err(|failure| self.shared.explain(&self.group, failure));
                self.leaving = Some(charge);
                reply
            }
            Owed::Refusal(fault) => Err(fault),
            Owed::End(status) => return Some(Err(status)),
        };
        Some(Ok(stream_reply(result)))
    }
}

/// The reply, charged by what it is.
fn answered(group: &GroupHandle, applied: Applied, charge: &mut Charge) -> v1::ApplyReply {
    let size_bytes = match &applied.result {
        Ok(answer) => answer.len(),
        Err(reason) => reason.len(),
    };
    group.note_answer(size_bytes);
    charge.becomes(size_bytes);
    apply_reply(applied)
}

fn local_stream(
    shared: Shared,
    group: GroupHandle,
    first: v1::ApplyStreamRequest,
    rest: Streaming<v1::ApplyStreamRequest>,
    ledger: Ledger,
) -> impl Stream<Item = Result<v1::ApplyStreamReply, Status>> + Send + 'static {
    let (sender, owed) = mpsc::channel(STREAM_WINDOW);
    let pump = pump(shared.clone(), group.clone(), first, rest, (ledger, sender));
    tokio::spawn(pump);
    let answers = Answers {
        shared,
        group,
        owed,
        leaving: None,
    };
    futures_util::stream::unfold(answers, |mut answers| async move {
        let next = answers.next().await?;
        Some((next, answers))
    })
}

/// What the connection of a call has in hand.
fn ledger<T>(request: &Request<T>) -> Ledger {
    let extension = request.extensions().get::<Ledger>();
    extension.expect("every connection is a visitor").clone()
}

/// Waits until the connection may take more in hand.
async fn room(ledger: &Ledger, deadline: Instant) -> Result<(), Fault> {
    let room = tokio::time::timeout_at(deadline, ledger.room()).await;
    room.map_err(|_| {
        let message = "the answers that this connection has not read leave no room for more";
        Fault::new(Reason::DeadlineExceeded, message)
    })
}

#[tonic::async_trait]
impl Client for ClientService {
    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyReply>, Status> {
        let (deadline, ledger) = (deadline(&request), ledger(&request));
        let forward = may_forward(&request) && !request.get_ref().no_forward;
        room(&ledger, deadline).await?;
        let request = request.into_inner();
        let mut charge = ledger.charge(self.expected_size_bytes(&request));
        let reply = self
            .apply_one(request, forward, deadline, &mut charge)
            .await?;
        let mut response = Response::new(reply);
        response.extensions_mut().insert(Held::new(charge));
        Ok(response)
    }

    type ApplyStreamStream = BoxStream<'static, Result<v1::ApplyStreamReply, Status>>;

    async fn apply_stream(
        &self,
        request: Request<Streaming<v1::ApplyStreamRequest>>,
    ) -> Result<Response<Self::ApplyStreamStream>, Status> {
        let (forward, ledger) = (may_forward(&request), ledger(&request));
        let mut requests = request.into_inner();
        let Some(first) = requests.message().await? else {
            return Ok(Response::new(futures_util::stream::empty().boxed()));
        };
        let group = self.shared.group(&first.group)?;
        if forward && let Some(leader) = other_leader(&self.shared.context, &group) {
            let replies = self.forward_stream(&leader, first, requests).await?;
            return Ok(Response::new(replies));
        }
        let replies = local_stream(self.shared.clone(), group, first, requests, ledger);
        Ok(Response::new(replies.boxed()))
    }

    async fn query(
        &self,
        request: Request<v1::QueryRequest>,
    ) -> Result<Response<v1::QueryReply>, Status> {
        let (deadline, ledger) = (deadline(&request), ledger(&request));
        room(&ledger, deadline).await?;
        let mut charge = ledger.charge(request.get_ref().request.len());
        let reply = self.query_one(request.into_inner(), deadline).await?;
        charge.becomes(match &reply.result {
            Some(v1::query_reply::Result::Answer(answer)) => answer.len(),
            Some(v1::query_reply::Result::Rejected(reason)) => reason.len(),
            None => 0,
        });
        let mut response = Response::new(reply);
        response.extensions_mut().insert(Held::new(charge));
        Ok(response)
    }
}
