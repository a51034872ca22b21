//! Measures gRPC calls on their way through a server.
//!
//! A call's code stands in the trailers, behind the body, or in the head if there is no body: so the
//! response is followed to its end. A call whose response is given up before that was cancelled.

use super::grpc::{Grpc, Method};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tonic::Code;
use tower::{Layer, Service};

/// Measures the calls of the services behind it.
#[derive(Clone, Debug)]
pub(crate) struct GrpcLayer {
    grpc: Arc<Grpc>,
}

impl GrpcLayer {
    pub(super) fn new(grpc: Arc<Grpc>) -> Self {
        Self { grpc }
    }
}

impl<S> Layer<S> for GrpcLayer {
    type Service = Measured<S>;

    fn layer(&self, service: S) -> Measured<S> {
        Measured {
            service,
            grpc: Arc::clone(&self.grpc),
        }
    }
}

/// A service whose calls are measured.
#[derive(Clone, Debug)]
pub(crate) struct Measured<S> {
    service: S,
    grpc: Arc<Grpc>,
}

impl<S, In, Out> Service<Request<In>> for Measured<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
{
    type Response = Response<MeasuredBody<Out>>;
    type Error = S::Error;
    type Future = MeasuredResponse<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<In>) -> Self::Future {
        let method = self.grpc.method(request.uri().path());
        let call = Call::begin(Arc::clone(method));
        MeasuredResponse {
            response: self.service.call(request),
            call: Some(call),
        }
    }
}

/// A call under way; counted when it is dropped.
#[derive(Debug)]
struct Call {
    method: Arc<Method>,
    began: Instant,
    code: Code,
}

impl Call {
    fn begin(method: Arc<Method>) -> Self {
        Self {
            method,
            began: Instant::now(),
            code: Code::Cancelled,
        }
    }

    /// Takes the code from the head or the trailers, if it is there.
    fn read_code(&mut self, headers: &HeaderMap) {
        if let Some(status) = headers.get("grpc-status") {
            self.code = Code::from_bytes(status.as_bytes());
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.method.handled(self.code, self.began.elapsed());
    }
}

pin_project! {
    /// The response of a measured call, to come.
    pub(crate) struct MeasuredResponse<F> {
        #[pin]
        response: F,
        call: Option<Call>,
    }
}

impl<F, Out, E> Future for MeasuredResponse<F>
where
    F: Future<Output = Result<Response<Out>, E>>,
{
    type Output = Result<Response<MeasuredBody<Out>>, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.response.poll(context));
        let mut call = this.call.take();
        if let Some(call) = &mut call {
            match &response {
                Ok(response) => call.read_code(response.headers()),
                Err(_) => call.code = Code::Unknown,
            }
        }
        Poll::Ready(response.map(|head| head.map(|body| MeasuredBody { body, call })))
    }
}

pin_project! {
    /// The body of a measured call's response.
    #[derive(Debug)]
    pub(crate) struct MeasuredBody<B> {
        #[pin]
        body: B,
        call: Option<Call>,
    }
}

impl<B: Body> Body for MeasuredBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let frame = ready!(this.body.poll_frame(context));
        let ok = frame.as_ref().and_then(|frame| frame.as_ref().ok());
        let trailers = ok.and_then(Frame::trailers_ref);
        if let Some((call, trailers)) = this.call.as_mut().zip(trailers) {
            call.read_code(trailers);
        }
        if ok.is_none() || trailers.is_some() {
            *this.call = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
