//! A connection that was let in at a gRPC listener.

use super::ledger::Ledger;
use super::linger::Lingering;
use super::places::Place;
use kontiki_client::Alive;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// Time for a connection's first words.
const FIRST_WORDS_LIMIT: Duration = Duration::from_secs(10);
/// The first words: what every HTTP/2 connection begins with.
const FIRST_WORDS_SIZE_BYTES: usize = 24;
/// Silence after which the other side of a connection is given up, pings included.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);

/// When connections end that would not by themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Exits {
    /// The node takes no more calls: whoever has said nothing goes.
    pub(super) stop: CancellationToken,
    /// Everybody goes.
    pub(super) cut: CancellationToken,
}

/// The connection, its place, and what it has in hand.
pub(super) struct Visitor {
    stream: Alive<Lingering>,
    place: Place,
    ledger: Ledger,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// None once it has said its first words.
    silent: Option<Silent>,
}

/// Before its first words are complete a connection holds nobody up.
struct Silent {
    heard_size_bytes: usize,
    limit: Pin<Box<Sleep>>,
    given_up: Pin<Box<WaitForCancellationFutureOwned>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Visitor {
    pub(super) fn new(stream: Lingering, place: Place, ledger: Ledger, exits: &Exits) -> Self {
        let silent = Silent {
            heard_size_bytes: 0,
            limit: Box::pin(tokio::time::sleep(FIRST_WORDS_LIMIT)),
            given_up: Box::pin(place.given_up().clone().cancelled_owned()),
            stop: Box::pin(exits.stop.clone().cancelled_owned()),
        };
        Self {
            stream: Alive::new(stream, SILENCE_LIMIT),
            place,
            ledger,
            cut: Box::pin(exits.cut.clone().cancelled_owned()),
            silent: Some(silent),
        }
    }

    fn heard(&mut self, size_bytes: usize) {
        if let Some(silent) = &mut self.silent {
            silent.heard_size_bytes += size_bytes;
            if silent.heard_size_bytes >= FIRST_WORDS_SIZE_BYTES {
                self.silent = None;
                self.place.spoke();
            }
        }
    }

    /// Whether it has to go; else the task is woken to look again.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let ended = |why| io::Error::new(io::ErrorKind::TimedOut, why);
        if self.cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(ended("the node has shut down"));
        }
        let Some(silent) = &mut self.silent else {
            return Poll::Pending;
        };
        if silent.given_up.as_mut().poll(cx).is_pending()
            && silent.stop.as_mut().poll(cx).is_pending()
        {
            ready!(silent.limit.as_mut().poll(cx));
        }
        self.stream.get_mut().close_at_once();
        Poll::Ready(ended("it said nothing"))
    }
}

impl Connected for Visitor {
    type ConnectInfo = Ledger;

    fn connect_info(&self) -> Ledger {
        self.ledger.clone()
    }
}

impl AsyncRead for Visitor {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if read.is_ready() {
            this.heard(buffer.filled().len() - before);
            return read;
        }
        this.poll_end(cx).map(Err)
    }
}

impl AsyncWrite for Visitor {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
