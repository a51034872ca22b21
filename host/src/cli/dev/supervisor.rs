//! The processes of `kontiki dev`.

use super::control::{Act, Answer, Control, Order};
use super::state::{DevCluster, DevNode};
use crate::cli::failure::{Failure, Result};
use crate::cli::output::Output;
use crate::cli::signals::Signals;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::mpsc;

/// A node's places, decided once; its process comes and goes.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) http_address: String,
    pub(crate) directory: PathBuf,
}

impl Place {
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.with_extension("log")
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

/// Runs the nodes until it is told to stop. Dropping it kills them.
pub(crate) struct Supervisor {
    nodes: Vec<Node>,
    /// Further arguments of each node.
    serve_args: Vec<String>,
    exits: (
        mpsc::UnboundedSender<Exited>,
        mpsc::UnboundedReceiver<Exited>,
    ),
    control: Control,
    directory: PathBuf,
    up: bool,
    out: Output,
}

struct Node {
    place: Place,
    pid: Option<Pid>,
    paused: bool,
    /// Start it again when it has ended.
    again: bool,
}

struct Exited {
    index: usize,
    status: std::io::Result<ExitStatus>,
}

/// How long nodes may take to hand over and stop.
const GRACE: Duration = Duration::from_secs(15);

impl Supervisor {
    pub(crate) fn new(
        places: Vec<Place>,
        serve_args: Vec<String>,
        directory: &Path,
        out: Output,
    ) -> Result<Self> {
        let node = |place| Node {
            place,
            pid: None,
            paused: false,
            again: false,
        };
        Ok(Self {
            nodes: places.into_iter().map(node).collect(),
            serve_args,
            exits: mpsc::unbounded_channel(),
            control: Control::listen()?,
            directory: directory.to_owned(),
            up: false,
            out,
        })
    }

    pub(crate) fn start_all(&mut self) -> Result<()> {
        (0..self.nodes.len()).try_for_each(|index| self.start(index))
    }

    /// Starts one node. Must be called on the main thread: a child dies with the thread that made it.
    fn start(&mut self, index: usize) -> Result<()> {
        let program = std::env::current_exe().map_err(|e| Failure::local("IO", e.to_string()))?;
        let place = &self.nodes[index].place;
        let log = File::options()
            .create(true)
            .append(true)
            .open(place.log())
            .map_err(|error| Failure::file(&place.log(), &error))?;
        let mut command = Command::new(program);
        command
            .arg("serve")
            .args(self.arguments(index))
            .args(&self.serve_args);
        // In a process group of its own it does not get the terminal's Ctrl-C: the end is orderly.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        let mut child = command
            .spawn()
            .map_err(|error| Failure::local("IO", format!("cannot start a node: {error}")))?;
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw);
        let exits = self.exits.0.clone();
        tokio::spawn(async move {
            let status = child.wait().await;
            exits.send(Exited { index, status }).ok();
        });
        let node = &mut self.nodes[index];
        (node.pid, node.paused, node.again) = (pid, false, false);
        Ok(())
    }

    fn arguments(&self, index: usize) -> Vec<String> {
        let place = &self.nodes[index].place;
        let mut arguments: Vec<String> = [
            ("--parent", std::process::id().to_string()),
            ("--cluster", "dev".to_owned()),
            ("--name", place.name.clone()),
            ("--listen", place.address.clone()),
            ("--http", place.http_address.clone()),
            ("--data-dir", place.directory.display().to_string()),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        for other in self
            .nodes
            .iter()
            .filter(|other| other.place.name != place.name)
        {
            let peer = format!("{}={}", other.place.name, other.place.address);
            arguments.extend(["--peer".to_owned(), peer]);
        }
        arguments
    }

    /// Says that everything is there now, in the state file too.
    pub(crate) fn announce_up(&mut self) -> Result<()> {
        self.up = true;
        self.cluster().save()
    }

    pub(crate) fn cluster(&self) -> DevCluster {
        let node = |node: &Node| DevNode {
            name: node.place.name.clone(),
            pid: node.pid.and_then(|pid| u32::try_from(pid.as_raw()).ok()),
            address: node.place.address.clone(),
            http_address: node.place.http_address.clone(),
            log: node.place.log(),
        };
        DevCluster {
            kind: "dev-cluster".to_owned(),
            v: 1,
            pid: std::process::id(),
            up: self.up,
            directory: self.directory.clone(),
            control: self.control.path(),
            nodes: self.nodes.iter().map(node).collect(),
        }
    }

    /// Waits until a node ends by itself; its name and the end of its log.
    ///
    /// # Cancel safety
    /// Safe: an end that came is kept.
    pub(crate) async fn ended(&mut self) -> Failure {
        let Some(exited) = self.exits.1.recv().await else {
            return Failure::local("START", "no node runs");
        };
        let node = &mut self.nodes[exited.index];
        node.pid = None;
        let how = how_it_ended(&exited.status);
        let message = format!("{} {how}:\n{}", node.place.name, node.place.log_tail());
        Failure::local("START", message)
    }

    /// Runs until it is told to stop: by a signal, or by `kontiki dev stop`.
    pub(crate) async fn run(&mut self, signals: &mut Signals) {
        loop {
            tokio::select! {
                _ = signals.next() => return,
                Some(exited) = self.exits.1.recv() => self.note_exit(&exited),
                visit = self.control.next() => {
                    let stop = visit.order.act == Act::Stop;
                    let answer = self.obey(&visit.order);
                    visit.answer(answer).await;
                    if stop {
                        return;
                    }
                }
            }
            if let Err(failure) = self.cluster().save() {
                self.out.note(&failure.text());
            }
        }
    }

    fn note_exit(&mut self, exited: &Exited) {
        let node = &mut self.nodes[exited.index];
        node.pid = None;
        let name = node.place.name.clone();
        let how = how_it_ended(&exited.status);
        if !node.again {
            self.out.note(&format!(
                "{name} {how}; back with: kontiki dev restart {name}"
            ));
            return;
        }
        match self.start(exited.index) {
            Ok(()) => self.out.note(&format!("{name} starts again")),
            Err(failure) => self.out.note(&failure.text()),
        }
    }

    fn obey(&mut self, order: &Order) -> Answer {
        let done = |message: String| Answer {
            done: true,
            message,
        };
        if order.act == Act::Stop {
            return done("stopping".to_owned());
        }
        let Some(index) = self
            .nodes
            .iter()
            .position(|node| node.place.name == order.node)
        else {
            let names: Vec<&str> = self
                .nodes
                .iter()
                .map(|node| node.place.name.as_str())
                .collect();
            let message = format!(
                "no node is called {:?}; there are {}",
                order.node,
                names.join(", ")
            );
            return Answer {
                done: false,
                message,
            };
        };
        match self.act(index, order.act) {
            Ok(message) => {
                self.out.note(&message);
                done(message)
            }
            Err(message) => Answer {
                done: false,
                message,
            },
        }
    }

    fn act(&mut self, index: usize, act: Act) -> std::result::Result<String, String> {
        let node = &mut self.nodes[index];
        let name = node.place.name.clone();
        let Some(pid) = node.pid else {
            if act == Act::Restart {
                self.start(index)
                    .map_err(|failure| failure.message().to_owned())?;
                return Ok(format!("{name} starts"));
            }
            return Err(format!(
                "{name} is dead; back with: kontiki dev restart {name}"
            ));
        };
        let (signal, message) = match act {
            Act::Kill => (Signal::SIGKILL, "killed with SIGKILL"),
            Act::Pause => (Signal::SIGSTOP, "is paused"),
            Act::Resume => (Signal::SIGCONT, "goes on"),
            // A paused process does not see SIGTERM.
            Act::Restart if node.paused => (Signal::SIGKILL, "is killed and starts again"),
            Act::Restart | Act::Stop => (Signal::SIGTERM, "stops and starts again"),
        };
        kill(pid, signal).map_err(|error| format!("{name}: {error}"))?;
        node.again = act == Act::Restart;
        node.paused = act == Act::Pause;
        Ok(format!("{name} {message}"))
    }

    /// Stops every node in order; kills those that are still there after a while or a second signal.
    pub(crate) async fn stop(mut self, signals: &mut Signals) {
        for node in &mut self.nodes {
            if let Some(pid) = node.pid {
                kill(pid, Signal::SIGTERM).ok();
                kill(pid, Signal::SIGCONT).ok();
            }
        }
        let deadline = tokio::time::sleep(GRACE);
        tokio::pin!(deadline);
        while self.nodes.iter().any(|node| node.pid.is_some()) {
            tokio::select! {
                Some(exited) = self.exits.1.recv() => self.nodes[exited.index].pid = None,
                _ = signals.next() => return,
                () = &mut deadline => return,
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for pid in self.nodes.iter().filter_map(|node| node.pid) {
            kill(pid, Signal::SIGKILL).ok();
        }
        super::state::remove();
    }
}

fn how_it_ended(status: &std::io::Result<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (_, Some(9)) => "was killed".to_owned(),
            (_, Some(signal)) => format!("ended by signal {signal}"),
            (Some(0), None) => "stopped".to_owned(),
            (Some(code), None) => format!("ended with exit code {code}"),
            (None, None) => "ended".to_owned(),
        },
        Err(error) => format!("is lost: {error}"),
    }
}
