//! The connections that ask for pages: bounded in number, and in how long they say nothing.

use super::door::Inside;
use super::places::Place;
use axum::serve::Listener;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// Longest time in which nothing is read or written.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// The same when the node shuts down.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
/// Pause after the system gave no connection, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const NO_PLACE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\n\
    content-length: 21\r\n\r\ntoo many connections\n";

/// Lets in whoever finds a place.
pub(super) struct PageListener {
    listener: TcpListener,
    inside: Inside,
}

impl PageListener {
    pub(super) fn new(listener: TcpListener, inside: Inside) -> Self {
        Self { listener, inside }
    }
}

impl Listener for PageListener {
    type Io = Reader;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Reader, SocketAddr) {
        loop {
            let Ok((stream, from)) = self.listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            match self.inside.places.take(from.ip()) {
                Some(place) => return (Reader::new(stream, place, &self.inside), from),
                // Whoever does not take this at once is not waited for.
                None => drop(stream.try_write(NO_PLACE)),
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that asks for pages.
pub(super) struct Reader {
    stream: TcpStream,
    place: Place,
    idle: Pin<Box<Sleep>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    stopping: bool,
}

impl Reader {
    fn new(stream: TcpStream, place: Place, inside: &Inside) -> Self {
        Self {
            stream,
            idle: Box::pin(tokio::time::sleep(IDLE_LIMIT)),
            stop: Box::pin(inside.exits.stop.clone().cancelled_owned()),
            given_up: Box::pin(place.given_up().clone().cancelled_owned()),
            place,
            stopping: false,
        }
    }

    fn moved(&mut self) {
        if !self.stopping {
            self.idle.as_mut().reset(Instant::now() + IDLE_LIMIT);
        }
    }

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !self.stopping && self.stop.as_mut().poll(cx).is_ready() {
            self.stopping = true;
            self.idle.as_mut().reset(Instant::now() + STOP_PATIENCE);
        }
        if self.given_up.as_mut().poll(cx).is_pending() {
            ready!(self.idle.as_mut().poll(cx));
        }
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "nothing moved"))
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_pending() {
            return this.poll_end(cx).map(Err);
        }
        if buffer.filled().len() > before {
            this.place.spoke();
            this.moved();
        }
        read
    }
}

impl AsyncWrite for Reader {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        if written.is_pending() {
            return this.poll_end(cx).map(Err);
        }
        this.moved();
        written
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
