//! Where connections come in, until the node shuts down.

use super::ledger::Ledgers;
use super::linger::{Lingering, turn_away};
use super::metrics::Connections;
use super::places::Places;
use super::visitor::{Exits, Visitor};
use futures_util::Stream;
use std::io;
use std::net::TcpListener as Socket;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::transport::server::TcpIncoming;

/// Silence on a connection after which TCP asks whether the other side is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Pause after the system gave no connection, for want of descriptors say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections that are told at a time that there is no place; more are closed without a word.
const TURNED_AWAY_MAX: usize = 64;

/// Shuts the doors of a node's servers.
#[derive(Debug)]
pub(super) struct Doors {
    shut: CancellationToken,
    open: TaskTracker,
    /// Connections that wait for the other side to close.
    lingering: TaskTracker,
    inside: Inside,
}

/// What all connections of a node share. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Inside {
    pub(super) places: Places,
    pub(super) ledgers: Ledgers,
    pub(super) exits: Exits,
}

impl Inside {
    pub(super) fn count(&self) -> Connections {
        Connections {
            taken: self.places.taken(),
            max: self.places.max(),
            refused: self.places.refused(),
            in_hand_size_bytes: self.ledgers.size_bytes(),
        }
    }
}

impl Doors {
    pub(super) fn new(inside: Inside) -> Self {
        Self {
            shut: CancellationToken::new(),
            open: TaskTracker::new(),
            lingering: TaskTracker::new(),
            inside,
        }
    }

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
            pause: None,
            lingering: self.lingering.clone(),
            inside: self.inside.clone(),
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
    /// While the system gives no connections.
    pause: Option<Pin<Box<Sleep>>>,
    lingering: TaskTracker,
    inside: Inside,
}

impl Stream for Door {
    type Item = io::Result<Visitor>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let stream = ready!(self.poll_accept(context));
            let lingering = self.lingering.clone();
            let Inside {
                places,
                ledgers,
                exits,
            } = &self.inside;
            // A connection without an address is gone already.
            let place = stream.peer_addr().ok().map(|from| places.take(from.ip()));
            match place {
                Some(Some(place)) => {
                    let stream = Lingering::new(stream, lingering);
                    let visitor = Visitor::new(stream, place, ledgers.open(), exits);
                    return Poll::Ready(Some(Ok(visitor)));
                }
                Some(None) if lingering.len() < TURNED_AWAY_MAX => turn_away(stream, &lingering),
                _ => drop(stream),
            }
        }
    }
}

impl Door {
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<TcpStream> {
        while let Some(incoming) = &mut self.incoming {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(context).is_pending() {
                    break;
                }
                self.pause = None;
            }
            match Pin::new(incoming).poll_next(context) {
                Poll::Ready(Some(Ok(stream))) => return Poll::Ready(stream),
                // Asked again at once it would say the same.
                Poll::Ready(_) => self.pause = Some(Box::pin(tokio::time::sleep(ACCEPT_PAUSE))),
                Poll::Pending => break,
            }
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
            Ok(stream) => Poll::Ready(stream),
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
    async fn whoever_finds_no_place_is_told() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let doors = Doors::new(Inside {
            places: Places::new(1),
            ledgers: Ledgers::default(),
            exits: Exits::default(),
        });
        let mut door = doors.open(listener).unwrap();
        let mut inside = TcpStream::connect(address).await.unwrap();
        let mut visitor = door.next().await.unwrap().unwrap();
        inside.write_all(&[0; 24]).await.unwrap();
        visitor.read_exact(&mut [0; 24]).await.unwrap();
        let late = async {
            let mut late = TcpStream::connect(address).await.unwrap();
            let mut told = Vec::new();
            late.read_to_end(&mut told).await.unwrap();
            told
        };
        let told = tokio::select! {
            _ = door.next() => panic!("it was let in"),
            told = late => told,
        };
        assert!(told.ends_with(b"too many connections"));
        // Whoever is silent makes room.
        drop(visitor);
        let _silent = TcpStream::connect(address).await.unwrap();
        let mut silent = door.next().await.unwrap().unwrap();
        let _other = TcpStream::connect(address).await.unwrap();
        let _other = door.next().await.unwrap().unwrap();
        let gone = silent.read_u8().await.unwrap_err();
        assert_eq!(gone.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn who_came_before_is_let_in_and_who_comes_after_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let doors = Doors::new(Inside {
            places: Places::new(3),
            ledgers: Ledgers::default(),
            exits: Exits::default(),
        });
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
