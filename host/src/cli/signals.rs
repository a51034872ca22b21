//! SIGINT and SIGTERM.

use super::exit::Exit;
use super::failure::{Failure, Result};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Both signals, from the moment of [`Signals::listen`].
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

/// Which of them came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Which {
    Interrupt,
    Terminate,
}

impl Which {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        }
    }

    /// How a process that such a signal ended reports it.
    pub(crate) fn exit(self) -> Exit {
        match self {
            Self::Interrupt => Exit::Interrupted,
            Self::Terminate => Exit::Terminated,
        }
    }
}

impl Signals {
    pub(crate) fn listen() -> Result<Self> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::local("IO", format!("cannot catch signals: {error}")))
        };
        let (interrupt, terminate) = (
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
        );
        Ok(Self {
            interrupt,
            terminate,
        })
    }

    /// The next signal.
    ///
    /// # Cancel safety
    /// Safe: a signal that came is kept.
    pub(crate) async fn next(&mut self) -> Which {
        tokio::select! {
            _ = self.interrupt.recv() => Which::Interrupt,
            _ = self.terminate.recv() => Which::Terminate,
        }
    }
}
