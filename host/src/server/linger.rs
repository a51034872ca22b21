//! Connections that are closed so that the other side can read the last words.
//!
//! A socket that is closed while bytes wait unread in it resets the connection, and the reset makes
//! the other side drop what it had not read yet: answers, and the word up to which request this
//! server went. A client that was just sending would not know what became of it. So the end is
//! announced, and what still comes is read and dropped until the other side has closed too.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// Longest time for the other side to close.
const LINGER_LIMIT: Duration = Duration::from_secs(1);

/// A connection that lingers when it is dropped.
#[derive(Debug)]
pub(super) struct Lingering {
    /// None only while it is dropped.
    stream: Option<TcpStream>,
    closing: TaskTracker,
    /// Nothing was said to the other side: there are no last words.
    at_once: bool,
}

impl Lingering {
    /// `closing` keeps count of those that are not closed yet.
    pub(super) fn new(stream: TcpStream, closing: TaskTracker) -> Self {
        Self {
            stream: Some(stream),
            closing,
            at_once: false,
        }
    }

    /// Closes it without waiting, when it is dropped.
    pub(super) fn close_at_once(&mut self) {
        self.at_once = true;
    }

    fn stream(&self) -> &TcpStream {
        self.stream.as_ref().expect("there until it is dropped")
    }

    fn pinned(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        let stream = self.get_mut().stream.as_mut();
        Pin::new(stream.expect("there until it is dropped"))
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        if self.at_once {
            return;
        }
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), Handle::try_current()) {
            let closed = tokio::time::timeout(LINGER_LIMIT, close(stream));
            self.closing.spawn_on(closed, &runtime);
        }
    }
}

async fn close(mut stream: TcpStream) {
    // A failure means that the connection is gone: nothing is left to be said.
    if stream.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 4096];
    while stream.read(&mut unread).await.is_ok_and(|size| size > 0) {}
}

/// Settings that say nothing, and the word that no request will be looked at: HTTP/2's
/// `ENHANCE_YOUR_CALM`. Whoever reads it knows that nothing became of what it sent.
const NO_PLACE: &[u8] = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00\
    \x00\x00\x1c\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x0btoo many connections";

/// Tells a connection that there is no place for it, and closes it.
pub(super) fn turn_away(mut stream: TcpStream, closing: &TaskTracker) {
    closing.spawn(tokio::time::timeout(LINGER_LIMIT, async move {
        if stream.write_all(NO_PLACE).await.is_ok() {
            close(stream).await;
        }
    }));
}

impl AsyncRead for Lingering {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.pinned().poll_read(context, buffer)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.pinned().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.pinned().poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.pinned().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// Two ends of a connection; the first is the server's.
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (accepted.unwrap().0, client.unwrap())
    }

    #[tokio::test]
    async fn last_words_arrive_though_something_was_not_read() {
        let (server, mut client) = pair().await;
        client.write_all(b"nobody reads this").await.unwrap();
        let closing = TaskTracker::new();
        let mut server = Lingering::new(server, closing.clone());
        server.stream().readable().await.unwrap();
        server.write_all(b"goodbye").await.unwrap();
        drop(server);
        tokio::task::yield_now().await;
        client.write_all(b"nor this").await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "goodbye");
        assert_eq!(closing.len(), 1, "it waits for the other side");
        drop(client);
        closing.close();
        closing.wait().await;
    }

    #[tokio::test]
    async fn the_other_side_is_not_waited_for_without_end() {
        let (server, client) = pair().await;
        let closing = TaskTracker::new();
        drop(Lingering::new(server, closing.clone()));
        assert_eq!(closing.len(), 1, "it is waited for");
        closing.close();
        let closed = tokio::time::timeout(30 * LINGER_LIMIT, closing.wait()).await;
        closed.expect("given up on");
        drop(client);
    }
}
