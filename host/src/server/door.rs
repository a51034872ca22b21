//! Where connections come in, until the node shuts down.

use super::linger::Lingering;
use futures_util::Stream;
use std::io;
use std::net::TcpListener as Socket;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::transport::server::TcpIncoming;

/// Silence on a connection after which TCP asks whether the other side is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Shuts the doors of a node's servers.
#[derive(Debug, Default)]
pub(super) struct Doors {
    shut: CancellationToken,
    open: TaskTracker,
    /// Connections that wait for the other side to close.
    lingering: TaskTracker,
}

impl Doors {
    /// Lets in whoever calls at `listener`.
    ///
    /// # Errors
    /// If the socket cannot be duplicated.
    pub(super) fn open(&self, listener: TcpListener) -> io::Result<Door> {
        let rest = Socket::from(listener.as_fd().try_clone_to_owned()?);
        let incoming = TcpIncoming::from(listener)
            .with_nodelay(Some(true))
            .with_keepalive(Some(KEEP_ALIVE));
        Ok(Door {
            incoming: Some(incoming),
            shut: Box::pin(self.shut.clone().cancelled_owned()),
            rest: Some((rest, self.open.token())),
            lingering: self.lingering.clone(),
        })
    }

    /// Refuses connections from now on; waits until those that were made before are let in.
    pub(super) async fn shut(&self) {
        self.shut.cancel();
        self.open.close();
        self.open.wait().await;
    }

    /// Waits until the other sides have read the last words. Each has a limit.
    pub(super) async fn wait_for_last_words(&self) {
        self.lingering.close();
        self.lingering.wait().await;
    }
}

/// The connections that come in at one listener.
///
/// The kernel makes connections before anyone accepts them, and resets those that wait when the
/// listener is closed: whoever had sent a request on one would not know what became of it. So all
/// are accepted, to be told in order that the node goes, and the listener is closed at once then:
/// while calls are finished, new connections are refused, which tells clients that nothing was sent.
pub(super) struct Door {
    /// None once the door is shut.
    incoming: Option<TcpIncoming>,
    shut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The same socket, for what waits when the door is shut; then the socket is closed.
    rest: Option<(Socket, TaskTrackerToken)>,
    lingering: TaskTracker,
}

impl Stream for Door {
    type Item = io::Result<Lingering>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = match &mut self.incoming {
            Some(incoming) => Pin::new(incoming).poll_next(context),
            None => Poll::Pending,
        };
        if let Poll::Ready(next) = next {
            let lingering = self.lingering.clone();
            return Poll::Ready(next.map(|made| made.map(|made| Lingering::new(made, lingering))));
        }
        if self.incoming.is_some() && self.shut.as_mut().poll(context).is_ready() {
            self.incoming = None;
        }
        if self.incoming.is_some() {
            return Poll::Pending;
        }
        let Some((rest, _)) = &self.rest else {
            // The server ends by its own signal.
            return Poll::Pending;
        };
        match accept(rest) {
            Ok(stream) => Poll::Ready(Some(Ok(Lingering::new(stream, self.lingering.clone())))),
            Err(_) => {
                self.rest = None;
                Poll::Pending
            }
        }
    }
}

/// A connection that waits to be accepted; an error if none does.
fn accept(socket: &Socket) -> io::Result<TcpStream> {
    let (stream, _) = socket.accept()?;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    TcpStream::from_std(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt as _, StreamExt as _};

    #[tokio::test]
    async fn who_came_before_is_let_in_and_who_comes_after_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let doors = Doors::default();
        let mut door = doors.open(listener).unwrap();
        // Made by the kernel; the reactor has not looked yet.
        let early: Vec<_> = (0..3)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        let shut = doors.shut();
        tokio::pin!(shut);
        assert!(shut.as_mut().now_or_never().is_none(), "they wait");
        for _ in &early {
            let next = tokio::time::timeout(Duration::from_secs(30), door.next());
            next.await.expect("let in").unwrap().unwrap();
        }
        assert!(door.next().now_or_never().is_none());
        shut.await;
        let late = std::net::TcpStream::connect(address).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::ConnectionRefused);
    }
}
