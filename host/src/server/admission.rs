//! What is let in of a call before anybody decodes it, and how long a call counts as under way.
//!
//! Messages are assembled in memory, so their size is judged by the length they declare, before the
//! first byte of them is kept; and what is kept counts in the connection's [`Ledger`]. A request that
//! stops half-way is given up after a while, and soon when the node shuts down.

use super::ledger::{Charge, Ledger};
use super::status::{Fault, Reason};
use crate::node::context::Context as Node;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// What a client's message may have beside the command or query: names and the like. A command of a
/// size between the group's limit and this is refused by the group, with more to say about it.
const SLACK_SIZE_BYTES: usize = 1 << 20;
/// Silence in the middle of a message after which it is given up.
const STALL_LIMIT: Duration = Duration::from_secs(20);
/// Silence of a request that is borne when the node shuts down.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
/// Bytes before each message: a flag and a length.
const HEAD_SIZE_BYTES: usize = 5;

/// Lets calls in. Cheap to clone.
#[derive(Clone)]
pub(super) struct Admission {
    node: Arc<Node>,
    /// Calls of clients and operators that are under way, answers included.
    calls: TaskTracker,
}

/// What a response keeps in hand until its client has taken it; an extension of the response.
#[derive(Clone, Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Charge>);

impl Held {
    pub(super) fn new(charge: Charge) -> Self {
        Self(Arc::new(charge))
    }
}

impl Admission {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        Self {
            node: Arc::clone(node),
            calls: TaskTracker::new(),
        }
    }

    /// Waits until no call of a client or operator is under way.
    pub(super) async fn wait_for_calls(&self) {
        self.calls.close();
        self.calls.wait().await;
    }
}

impl<S> Layer<S> for Admission {
    type Service = Admitting<S>;

    fn layer(&self, service: S) -> Admitting<S> {
        Admitting {
            service,
            admission: self.clone(),
        }
    }
}

/// A service whose calls are let in.
#[derive(Clone)]
pub(super) struct Admitting<S> {
    service: S,
    admission: Admission,
}

/// What a call is, as far as its path says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Of a client: carries a command or a query.
    Client,
    /// The stream of a peer, which lasts as long as the connection.
    Peer,
    /// Of an operator or a peer. Its service limits it.
    Order,
    /// Of a service that is not ours, such as one that watches the health.
    Other,
}

impl Kind {
    fn of(path: &str) -> Self {
        match path.strip_prefix("/kontiki.v1.") {
            Some("Peer/Stream") => Self::Peer,
            Some(ours) if ours.starts_with("Client/") => Self::Client,
            Some(_) => Self::Order,
            None => Self::Other,
        }
    }
}

impl<S, Out> Service<Request<Body>> for Admitting<S>
where
    S: Service<Request<Body>, Response = Response<Out>>,
{
    type Response = Response<Answering<Out>>;
    type Error = S::Error;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kind = Kind::of(request.uri().path());
        let ledger = request.extensions().get::<Ledger>().cloned();
        let node = Arc::clone(&self.admission.node);
        let under_way = match kind {
            Kind::Client | Kind::Order => Some(self.admission.calls.token()),
            Kind::Peer | Kind::Other => None,
        };
        let gate = Gate::new(node, kind, ledger);
        let request = request.map(|body| Body::new(Admitted { body, gate }));
        Call {
            response: self.service.call(request),
            under_way,
        }
    }
}

pin_project! {
    /// The response of a call, to come.
    pub(super) struct Call<F> {
        #[pin]
        response: F,
        under_way: Option<TaskTrackerToken>,
    }
}

impl<F, Out, E> Future for Call<F>
where
    F: Future<Output = Result<Response<Out>, E>>,
{
    type Output = Result<Response<Answering<Out>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.response.poll(cx));
        let under_way = this.under_way.take();
        Poll::Ready(response.map(|mut response| {
            let held = response.extensions_mut().remove::<Held>();
            response.map(|body| Answering {
                body,
                _held: held,
                _under_way: under_way,
            })
        }))
    }
}

pin_project! {
    /// The body of a response: while it is there, the call is under way.
    pub(super) struct Answering<B> {
        #[pin]
        body: B,
        _held: Option<Held>,
        _under_way: Option<TaskTrackerToken>,
    }
}

impl<B: http_body::Body> http_body::Body for Answering<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

pin_project! {
    /// The body of a request.
    struct Admitted {
        #[pin]
        body: Body,
        gate: Gate,
    }
}

impl http_body::Body for Admitted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.project();
        this.gate.begin();
        match this.body.poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                let taken = frame.data_ref().map_or(Ok(()), |data| this.gate.take(data));
                Poll::Ready(Some(taken.map(|()| frame).map_err(Status::from)))
            }
            Poll::Ready(other) => Poll::Ready(other),
            Poll::Pending => match this.gate.poll_given_up(cx) {
                Poll::Ready(fault) => Poll::Ready(Some(Err(fault.into()))),
                Poll::Pending => Poll::Pending,
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Follows the messages of one request.
struct Gate {
    node: Arc<Node>,
    kind: Kind,
    charge: Option<Charge>,
    ledger: Option<Ledger>,
    head: Vec<u8>,
    /// What is missing of the message whose head was read.
    missing: usize,
    /// Runs while something is to come; when it has run out, the request is given up.
    stall: Option<Pin<Box<Sleep>>>,
    stopping: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
}

impl Gate {
    fn new(node: Arc<Node>, kind: Kind, ledger: Option<Ledger>) -> Self {
        Self {
            node,
            kind,
            charge: None,
            ledger,
            head: Vec::with_capacity(HEAD_SIZE_BYTES),
            missing: 0,
            stall: None,
            stopping: None,
        }
    }

    fn is_between_messages(&self) -> bool {
        self.missing == 0 && self.head.is_empty()
    }

    /// More is wanted: a message that was whole has been taken out.
    fn begin(&mut self) {
        if self.is_between_messages() {
            self.charge = None;
        }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Fault> {
        self.stall = None;
        if let Some(ledger) = &self.ledger {
            let has_room = ledger.has_room();
            match &mut self.charge {
                Some(charge) => charge.grow(data.len()),
                charge => *charge = Some(ledger.charge(data.len())),
            }
            if self.kind != Kind::Peer && !has_room {
                let message = "this connection has too much in hand that is not answered, or \
                               whose answers it does not read; try again";
                return Err(Fault::new(Reason::Busy, message));
            }
        }
        while !data.is_empty() {
            let body = data.len().min(self.missing);
            self.missing -= body;
            data = &data[body..];
            let head = data.len().min(HEAD_SIZE_BYTES - self.head.len());
            self.head.extend_from_slice(&data[..head]);
            data = &data[head..];
            if let [_, a, b, c, d] = self.head[..] {
                self.head.clear();
                self.missing = u32::from_be_bytes([a, b, c, d]) as usize;
                self.check_size(self.missing)?;
            }
        }
        Ok(())
    }

    /// Refuses what no group here would take. Other services have limits of their own.
    fn check_size(&self, size_bytes: usize) -> Result<(), Fault> {
        if self.kind != Kind::Client || size_bytes <= SLACK_SIZE_BYTES {
            return Ok(());
        }
        let size_bytes_max = self.node.entry_size_bytes_max() + SLACK_SIZE_BYTES;
        if size_bytes <= size_bytes_max {
            return Ok(());
        }
        let message = format!(
            "a message of {size_bytes} bytes is larger than any that a group here takes \
             ({size_bytes_max} bytes)"
        );
        Err(Fault::new(Reason::TooLarge, message))
    }

    /// Whether nothing is to be expected any more; else the task is woken to look again.
    fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        if self.kind == Kind::Peer && self.is_between_messages() {
            return Poll::Pending;
        }
        let stopping = self
            .stopping
            .get_or_insert_with(|| Box::pin(self.node.closing.clone().cancelled_owned()));
        let is_stopping = self.kind != Kind::Peer && stopping.as_mut().poll(cx).is_ready();
        let limit = match is_stopping {
            true => STOP_PATIENCE,
            false if self.is_between_messages() => return Poll::Pending,
            false => STALL_LIMIT,
        };
        let until = Instant::now() + limit;
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if stall.deadline() > until {
            stall.as_mut().reset(until);
        }
        ready!(stall.as_mut().poll(cx));
        Poll::Ready(match is_stopping {
            true => Fault::new(Reason::ShuttingDown, "the node is shutting down"),
            false => {
                let message = "the request stopped in the middle of a message";
                Fault::new(Reason::DeadlineExceeded, message)
            }
        })
    }
}
