//! Connections whose other side is believed in for as long as there is reason to.
//!
//! A ping that is not answered in time says little on a slow link: it waits behind all that was
//! written before it, and a link that is cut for that begins the same transfer anew, for ever. So
//! not the answer to a ping decides but silence: whoever was written to must be heard again after a
//! while, and the more is under way to it the longer that may take. HTTP/2 pings see to it that
//! there is something to be heard.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep};
use tonic::transport::Endpoint;

/// The slowest link that is believed in, in bytes a second.
const RATE_MIN: u32 = 64 << 10;
/// Longest time that is allowed for what is under way. [`SEND_BUFFER_SIZE_BYTES`] at [`RATE_MIN`]
/// take no longer, so that it need not grow with what was sent in all.
const TRANSFER_LIMIT: Duration = Duration::from_secs(8);
/// What the system may hold of a connection that is dialled. As large as it likes it would hold
/// several MiB, which a ping on a slow link waits behind. Systems give twice of it, or up to their
/// own limit.
const SEND_BUFFER_SIZE_BYTES: u32 = 256 << 10;

/// When a connection that is dialled asks whether the other side is there.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// Silence of the other side of such a connection that is borne with nothing much under way. With
/// the interval it makes four seconds for a paused or cut-off node that was silent before.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// Beyond any limit of this module: hyper's own judgement is not wanted.
const NEVER: Duration = Duration::from_secs(3_600);

/// A stream that fails with `TimedOut` once its other side was silent for too long.
#[derive(Debug)]
pub struct Alive<S> {
    stream: S,
    belief: Belief,
    /// Goes off when it is time to look again; armed while something is asked.
    watch: Pin<Box<Sleep>>,
    armed: bool,
}

/// Until when the other side is believed in.
#[derive(Clone, Debug)]
struct Belief {
    silence_limit: Duration,
    /// When something was first written after the other side was last heard.
    asked: Option<Instant>,
    /// When all that was written is through even on the slowest link.
    through: Instant,
    /// What that link needs for all that was under way when it was asked and came since.
    transfer: Duration,
    /// The last write found no room.
    blocked: bool,
    /// When there was room again: the link moves.
    moved: Instant,
}

impl Belief {
    fn new(silence_limit: Duration, now: Instant) -> Self {
        Self {
            silence_limit,
            asked: None,
            through: now,
            transfer: Duration::ZERO,
            blocked: false,
            moved: now,
        }
    }

    fn heard(&mut self) {
        self.asked = None;
    }

    fn wrote(&mut self, size_bytes: usize, now: Instant) {
        if std::mem::take(&mut self.blocked) {
            self.moved = now;
        }
        if self.asked.is_none() {
            self.asked = Some(now);
            self.transfer = self.through.saturating_duration_since(now);
        }
        let size_bytes = u32::try_from(size_bytes).unwrap_or(u32::MAX);
        let takes = Duration::from_secs(1) * size_bytes / RATE_MIN;
        self.transfer = (self.transfer + takes).min(TRANSFER_LIMIT);
        self.through = (self.through.max(now) + takes).min(now + TRANSFER_LIMIT);
    }

    /// None while nothing is to be heard.
    fn until(&self) -> Option<Instant> {
        let asked = self.asked?;
        Some(asked.max(self.moved) + self.transfer + self.silence_limit)
    }
}

impl<S> Alive<S> {
    /// Watches a stream whose other side answers pings. `silence_limit` is what is borne with
    /// nothing much under way; it must leave time for a ping and its answer.
    ///
    /// # Panics
    /// Outside a runtime.
    pub fn new(stream: S, silence_limit: Duration) -> Self {
        let now = Instant::now();
        Self {
            stream,
            belief: Belief::new(silence_limit, now),
            watch: Box::pin(tokio::time::sleep_until(now)),
            armed: false,
        }
    }

    /// The stream inside.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream inside, to be set up; what is read or written past this is not watched.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Whether the other side is to be given up; else the task is woken to look again.
    fn is_silent(&mut self, cx: &mut Context<'_>) -> bool {
        loop {
            if self.armed {
                if self.watch.as_mut().poll(cx).is_pending() {
                    return false;
                }
                self.armed = false;
            }
            let Some(until) = self.belief.until() else {
                return false;
            };
            if until <= Instant::now() {
                return true;
            }
            self.watch.as_mut().reset(until);
            self.armed = true;
        }
    }

    fn after_write(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.belief.blocked |= written.is_pending();
        let size_bytes = ready!(written)?;
        if size_bytes > 0 {
            self.belief.wrote(size_bytes, Instant::now());
            // Whoever reads next would not know that there is something to be waited for.
            if !self.armed && self.is_silent(cx) {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Ready(Ok(size_bytes))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Alive<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if buffer.filled().len() > before {
                this.belief.heard();
            }
            return Poll::Ready(read);
        }
        match this.is_silent(cx) {
            true => {
                let why = "the other side is silent";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)))
            }
            false => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Alive<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.after_write(written, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.after_write(written, cx)
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

/// Connects to a node and watches it.
///
/// # Errors
/// Those of the system.
///
/// # Cancel safety
/// Safe: the connection is given up.
pub async fn connect(address: std::net::SocketAddr) -> io::Result<Alive<TcpStream>> {
    let socket = match address.is_ipv4() {
        true => TcpSocket::new_v4()?,
        false => TcpSocket::new_v6()?,
    };
    // It works without, only not as well on slow links.
    socket.set_send_buffer_size(SEND_BUFFER_SIZE_BYTES).ok();
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true).ok();
    Ok(Alive::new(stream, SILENCE_LIMIT))
}

/// Lets a connection that [`connect`] made ask often enough, and leaves the judgement to it.
#[must_use]
pub fn ping(endpoint: Endpoint) -> Endpoint {
    endpoint
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(NEVER)
        .keep_alive_while_idle(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    const LIMIT: Duration = Duration::from_secs(3);
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn only_who_is_asked_has_to_answer() {
        let start = Instant::now();
        let mut belief = Belief::new(LIMIT, start);
        assert_eq!(belief.until(), None);
        belief.wrote(17, start + 5 * SECOND);
        let asked_until = belief.until().unwrap();
        assert!(asked_until >= start + 5 * SECOND + LIMIT);
        assert!(asked_until < start + 5 * SECOND + LIMIT + SECOND / 10);
        // A second question gives no more time, but for what it takes to get there.
        belief.wrote(17, start + 7 * SECOND);
        assert!(belief.until().unwrap() - asked_until < SECOND / 10);
        belief.heard();
        assert_eq!(belief.until(), None);
    }

    #[test]
    fn a_link_that_moves_bytes_is_alive() {
        let mut now = Instant::now();
        let mut belief = Belief::new(LIMIT, now);
        // A minute without a word from the other side, on a link of 1 KiB a second.
        for _ in 0..60 {
            belief.wrote(1 << 10, now);
            belief.blocked = true;
            now += SECOND;
            assert!(belief.until().unwrap() > now);
        }
        // Nothing moves any more.
        assert!(belief.until().unwrap() <= now + LIMIT);
    }

    #[test]
    fn what_is_under_way_is_given_time_but_not_for_ever() {
        let now = Instant::now();
        let mut belief = Belief::new(LIMIT, now);
        belief.wrote(2 * RATE_MIN as usize, now);
        assert_eq!(belief.until(), Some(now + 2 * SECOND + LIMIT));
        for _ in 0..100 {
            belief.wrote(16 << 20, now);
        }
        assert_eq!(belief.until(), Some(now + TRANSFER_LIMIT + LIMIT));
    }

    #[tokio::test]
    async fn a_silent_side_fails_whoever_reads_and_nobody_else() {
        let limit = Duration::from_millis(50);
        let (mine, mut theirs) = duplex(1 << 10);
        let mut alive = Alive::new(mine, limit);
        let quiet = tokio::time::timeout(4 * limit, alive.read_u8()).await;
        assert!(quiet.is_err(), "nothing was asked");
        alive.write_all(b"?").await.unwrap();
        theirs.write_all(b"!").await.unwrap();
        assert_eq!(alive.read_u8().await.unwrap(), b'!');
        alive.write_all(b"?").await.unwrap();
        let failed = tokio::time::timeout(100 * LIMIT, alive.read_u8()).await;
        let failed = failed.expect("given up").unwrap_err();
        assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
    }
}
