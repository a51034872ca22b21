//! Orders to a running `kontiki dev`: one line of JSON each way over a Unix socket.

use super::state;
use crate::cli::exit::Exit;
use crate::cli::failure::{Failure, Result};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// What to do to a node, or to all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Act {
    Kill,
    Pause,
    Resume,
    Restart,
    Stop,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) act: Act,
    /// Name of the node; empty for all.
    pub(crate) node: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) done: bool,
    /// What was done, or why not.
    pub(crate) message: String,
}

/// An order, and the connection on which its answer is awaited.
pub(crate) struct Visit {
    pub(crate) order: Order,
    stream: UnixStream,
}

/// The end that takes orders. Its socket is removed with it.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    pub(crate) fn listen() -> Result<Self> {
        let path = state::directory()?.join("dev.sock");
        // Left behind by one that was killed; a live one was looked for before.
        std::fs::remove_file(&path).ok();
        let listener = UnixListener::bind(&path).map_err(|error| Failure::file(&path, &error))?;
        Ok(Self { listener, path })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    /// The next order. Who only connects, to see whether anybody listens, is passed over.
    ///
    /// # Cancel safety
    /// An order that was not read whole is dropped with its connection.
    pub(crate) async fn next(&self) -> Visit {
        loop {
            let Ok((stream, _)) = self.listener.accept().await else {
                continue;
            };
            let mut reader = BufReader::new(stream);
            let mut line = String::new();
            let read = tokio::time::timeout(PATIENCE, reader.read_line(&mut line)).await;
            if let (Ok(Ok(_)), Ok(order)) = (read, serde_json::from_str(&line)) {
                return Visit {
                    order,
                    stream: reader.into_inner(),
                };
            }
        }
    }
}

/// How long a visitor may take to say what it wants.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

impl Drop for Control {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

impl Visit {
    /// Answers and hangs up. A visitor that went away does not hear it.
    pub(crate) async fn answer(mut self, answer: Answer) {
        let line = serde_json::to_string(&answer).expect("plain data can be written as JSON");
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .await
            .ok();
    }
}

/// Sends an order to the running cluster; what was done.
pub(crate) async fn send(order: &Order) -> Result<String> {
    let cluster = state::running().ok_or_else(not_running)?;
    let talk = async {
        let mut stream = BufReader::new(UnixStream::connect(&cluster.control).await?);
        let line = serde_json::to_string(order).expect("plain data can be written as JSON");
        stream.write_all(format!("{line}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_line(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    let line = talk
        .await
        .map_err(|error| Failure::file(&cluster.control, &error))?;
    let answer: Answer = serde_json::from_str(&line)
        .map_err(|_| Failure::local("IO", "the dev cluster went away"))?;
    match answer.done {
        true => Ok(answer.message),
        false => Err(Failure::new(Exit::Refused, "REFUSED", answer.message)),
    }
}

pub(crate) fn not_running() -> Failure {
    Failure::new(Exit::NotFound, "NO_DEV_CLUSTER", "no dev cluster runs")
        .with_hint("start one with: kontiki dev")
}
