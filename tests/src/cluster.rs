//! Real processes.

use crate::network::Network;
use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

static TURN: RwLock<()> = RwLock::new(());

/// Held while the nodes live: two clusters at once would only measure each other, unless both ask
/// for little.
#[derive(Debug)]
enum Turn {
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
    Beside {
        _guard: RwLockReadGuard<'static, ()>,
    },
}

impl Turn {
    fn wait(beside_others: bool) -> Self {
        if beside_others {
            let _guard = TURN.read().unwrap_or_else(PoisonError::into_inner);
            Self::Beside { _guard }
        } else {
            let _guard = TURN.write().unwrap_or_else(PoisonError::into_inner);
            Self::Alone { _guard }
        }
    }
}

/// How a cluster is started.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Number of nodes, named `n1`, `n2`, ….
    pub nodes: usize,
    /// Further arguments of each `kontiki serve`.
    pub serve_args: Vec<String>,
    /// Election timeout.
    pub election_timeout: Duration,
    /// Hosts to run the nodes on, node 1 on host 1 and so on; without, all run on this one.
    pub network: Option<Arc<Network>>,
    /// Whether it asks so little of the machine that others of its kind may run at the same time.
    pub beside_others: bool,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            nodes: 3,
            serve_args: Vec::new(),
            election_timeout: Duration::from_millis(500),
            network: None,
            beside_others: false,
        }
    }
}

impl ClusterOptions {
    /// The IP address of node `index`.
    fn host(&self, index: usize) -> String {
        let network = self.network.as_ref();
        network.map_or("127.0.0.1".to_owned(), |net| net.address(index + 1))
    }
}

/// Nodes on this machine. Dropping it kills them and removes their data.
#[derive(Debug)]
pub struct Cluster {
    _turn: Turn,
    directory: TempDir,
    nodes: Vec<Node>,
    options: ClusterOptions,
}

/// One node: its places, and its process while it runs.
#[derive(Debug)]
pub struct Node {
    /// What it is called.
    pub name: String,
    /// Where clients and peers reach it.
    pub address: String,
    /// Where its pages are.
    pub http_address: String,
    /// Its data.
    pub data_directory: PathBuf,
    /// What it printed.
    pub log_file: PathBuf,
    /// Where the other nodes' flags say it is: its first address, for nobody edits them.
    told_address: String,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `options.nodes` nodes and waits until each of them answers.
    ///
    /// # Errors
    /// If the binary is missing or a node does not come up; the message ends with what it printed.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        let mut cluster = Self::prepare(options)?;
        for index in 0..cluster.nodes.len() {
            cluster.start_node(index)?;
        }
        Ok(cluster)
    }

    /// Lays out the nodes' places without starting any.
    ///
    /// # Errors
    /// If no temporary directory or no free port can be had.
    pub fn prepare(options: ClusterOptions) -> Result<Self> {
        let turn = Turn::wait(options.beside_others);
        let directory = tempfile::Builder::new().prefix("kontiki-").tempdir()?;
        let ports = free_ports(2 * options.nodes)?;
        let nodes = ports.chunks(2).enumerate().map(|(i, pair)| {
            let name = format!("n{}", i + 1);
            let host = options.host(i);
            Node {
                told_address: format!("{host}:{}", pair[0]),
                address: format!("{host}:{}", pair[0]),
                http_address: format!("{host}:{}", pair[1]),
                data_directory: directory.path().join(&name),
                log_file: directory.path().join(format!("{name}.log")),
                name,
                child: None,
            }
        });
        Ok(Self {
            _turn: turn,
            nodes: nodes.collect(),
            directory,
            options,
        })
    }

    /// The nodes, in order of name.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The directory that holds everything of this cluster.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Every node's address.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Position of the node called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn position(&self, name: &str) -> Result<usize> {
        let found = self.nodes.iter().position(|node| node.name == name);
        found.with_context(|| format!("no node is called {name}"))
    }

    /// The arguments after `serve` with which node `index` is started.
    #[must_use]
    pub fn serve_args(&self, index: usize) -> Vec<String> {
        let node = &self.nodes[index];
        let timeout = format!("{}ms", self.options.election_timeout.as_millis());
        let mut args: Vec<String> = ["--cluster", "test", "--name", &node.name]
            .into_iter()
            .chain(["--listen", &node.address, "--http", &node.http_address])
            .chain(["--election-timeout", &timeout])
            .map(str::to_owned)
            .collect();
        args.push("--data-dir".to_owned());
        args.push(node.data_directory.display().to_string());
        for peer in self.nodes.iter().filter(|peer| peer.name != node.name) {
            args.push("--peer".to_owned());
            args.push(format!("{}={}", peer.name, peer.told_address));
        }
        args.extend(self.options.serve_args.iter().cloned());
        args
    }

    /// Starts node `index` and waits until it answers.
    ///
    /// # Errors
    /// If it ends or stays silent for 30 s; the message ends with what it printed.
    pub fn start_node(&mut self, index: usize) -> Result<()> {
        self.start_node_with(index, &[])
    }

    /// Starts node `index` with something added to its environment.
    ///
    /// # Errors
    /// As [`start_node`](Self::start_node).
    pub fn start_node_with(&mut self, index: usize, environment: &[(&str, &str)]) -> Result<()> {
        let binary = binary()?;
        let args = self.serve_args(index);
        let node = &mut self.nodes[index];
        ensure!(node.child.is_none(), "{} is running already", node.name);
        let log = File::options()
            .create(true)
            .append(true)
            .open(&node.log_file)?;
        let network = self.options.network.as_ref();
        let mut words = network.map_or_else(Vec::new, |network| network.on(index + 1));
        words.push(binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command
            .args(&words[1..])
            .arg("serve")
            .args(args)
            .envs(environment.iter().copied())
            .stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = command
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        node.child = Some(child);
        node.wait_until_listening(Duration::from_secs(30))
    }

    /// Gives node `index`, which does not run, other addresses. Nobody is told: the others go on
    /// with what they know until it introduces itself.
    ///
    /// # Errors
    /// If it runs, or no port is free.
    pub fn move_node(&mut self, index: usize) -> Result<()> {
        let host = self.options.host(index);
        let node = &mut self.nodes[index];
        ensure!(node.child.is_none(), "{} runs", node.name);
        let ports = free_ports(2)?;
        node.address = format!("{host}:{}", ports[0]);
        node.http_address = format!("{host}:{}", ports[1]);
        Ok(())
    }

    /// Takes the data of node `index`, which does not run: as if its disk had been replaced.
    ///
    /// # Errors
    /// If it runs, or its data cannot be removed.
    pub fn wipe_node(&mut self, index: usize) -> Result<()> {
        let node = &self.nodes[index];
        ensure!(node.child.is_none(), "{} runs", node.name);
        fs::remove_dir_all(&node.data_directory)
            .with_context(|| format!("remove the data of {}", node.name))
    }

    /// Sends SIGKILL to node `index` and waits for its end.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill_node(&mut self, index: usize) -> Result<()> {
        let node = &mut self.nodes[index];
        let mut child = node
            .child
            .take()
            .with_context(|| format!("{} is down", node.name))?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Sends SIGKILL to every running node before waiting for any: as near to one moment as it gets.
    ///
    /// # Errors
    /// If a process cannot be signalled.
    pub fn kill_all(&mut self) -> Result<()> {
        let running: Vec<usize> = (0..self.nodes.len())
            .filter(|index| self.is_running(*index))
            .collect();
        self.kill_at_once(&running)
    }

    /// Sends SIGKILL to each of these nodes before waiting for any.
    ///
    /// # Errors
    /// If one is not running or cannot be signalled.
    pub fn kill_at_once(&mut self, indexes: &[usize]) -> Result<()> {
        for &index in indexes {
            self.signal(index, Signal::SIGKILL)?;
        }
        for &index in indexes {
            let child = self.nodes[index].child.take();
            child.expect("signalled above").wait()?;
        }
        Ok(())
    }

    /// Asks node `index` to stop (SIGTERM) and gives its exit status.
    ///
    /// # Errors
    /// If it is not running or has not ended within `limit`.
    pub fn stop_node(&mut self, index: usize, limit: Duration) -> Result<ExitStatus> {
        self.signal(index, Signal::SIGTERM)?;
        self.wait_for_end(index, limit)
    }

    /// Waits until node `index`, which was told to stop, has ended, and gives its exit status.
    ///
    /// # Errors
    /// If it is not running or has not ended within `limit`.
    pub fn wait_for_end(&mut self, index: usize, limit: Duration) -> Result<ExitStatus> {
        let node = &mut self.nodes[index];
        let child = node
            .child
            .as_mut()
            .with_context(|| format!("{} is down", node.name))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                node.child = None;
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "{} did not stop in {limit:?}",
                node.name
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal to node `index` (SIGSTOP and SIGCONT pause it).
    ///
    /// # Errors
    /// If it is not running.
    pub fn signal(&self, index: usize, signal: Signal) -> Result<()> {
        let node = &self.nodes[index];
        let child = node
            .child
            .as_ref()
            .with_context(|| format!("{} is down", node.name))?;
        kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
        Ok(())
    }

    /// Whether node `index` has a process.
    #[must_use]
    pub fn is_running(&self, index: usize) -> bool {
        self.nodes[index].child.is_some()
    }

    /// The process id of node `index` while it runs.
    #[must_use]
    pub fn pid(&self, index: usize) -> Option<u32> {
        self.nodes[index].child.as_ref().map(Child::id)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().filter_map(|node| node.child.as_mut()) {
            // A child that has ended already is as dead as wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() || std::env::var_os("KONTIKI_KEEP").is_some() {
            self.directory.disable_cleanup(true);
            eprintln!("kept for inspection: {}", self.directory.path().display());
        }
    }
}

impl Node {
    fn wait_until_listening(&mut self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        while std::net::TcpStream::connect(&self.address).is_err() {
            let child = self.child.as_mut().expect("started by the caller");
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("{} ended with {status}:\n{}", self.name, self.log_tail());
            }
            ensure!(
                Instant::now() < deadline,
                "{} is silent:\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The last 4 KiB of what the node printed.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log_file).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4096)..]).into_owned()
    }
}

/// The binary under test: `KONTIKI_BIN`, else the one cargo built beside the tests.
///
/// # Errors
/// If it is not there; says how to build it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("KONTIKI_BIN") {
        return Ok(path.into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| workspace().join("target"));
    let path = target.join("debug").join("kontiki");
    ensure!(
        path.exists(),
        "{} is not built; run `cargo build --package kontiki`, or name a binary in KONTIKI_BIN",
        path.display()
    );
    Ok(path)
}

/// The root of the workspace.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .into()
}

/// Where `cargo xtask plugins` leaves the component called `name`.
///
/// # Errors
/// If it is not built; says how.
pub fn component(name: &str) -> Result<PathBuf> {
    let directory = std::env::var_os("KONTIKI_PLUGINS_DIR").map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| workspace().join("plugins/target/components"));
    let path = directory.join(format!("{name}.wasm"));
    ensure!(
        path.exists(),
        "{} is not built; run `cargo xtask plugins`",
        path.display()
    );
    Ok(path)
}

/// Ports nobody listens on at this moment, all different. They lie below those the system hands out
/// by itself: one of those could be taken by any connection between now and its use.
///
/// # Errors
/// If the machine has none left.
pub fn free_ports(count: usize) -> Result<Vec<u16>> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let start = std::process::id() * 37;
    let mut free = Vec::new();
    for _ in 0..20_000 {
        let port = 10_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 20_000;
        let port = u16::try_from(port)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            free.push(port);
        }
        if free.len() == count {
            return Ok(free);
        }
    }
    bail!("no {count} ports are free on this machine")
}
