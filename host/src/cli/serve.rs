//! `kontiki serve`: one node, in the foreground.

use super::exit::{self, Exit};
use super::failure::{Failure, Result};
use super::logging::{self, LogFormat};
use super::signals::Signals;
use clap::Args;
use kontiki::config::{ConfigError, NodeConfig, NodeOptions};
use kontiki::node::{Node, RunningNode, StartError, descriptors};
use kontiki_storage::StorageError;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Runs one node until it is told to stop.
///
/// Flags win over KONTIKI_* variables, those over the file, that over defaults; per key. SIGTERM and
/// SIGINT hand leaderships over, finish what is under way and exit with 0; a second one exits at once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  kontiki serve --name n1 --data-dir /var/lib/kontiki
  kontiki serve --name n1 --data-dir d1 --listen 10.0.0.1:7470 \\
      --peer n2=10.0.0.2:7470 --peer n3=10.0.0.3:7470
  kontiki serve --config /etc/kontiki.toml --log-format json")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Write the addresses and ids that came about into this file, as JSON, when the node listens
    #[arg(long, value_name = "PATH")]
    ports_file: Option<PathBuf>,
    /// Form of the log, on standard error
    #[arg(long, env = "KONTIKI_LOG_FORMAT", value_enum, default_value_t)]
    log_format: LogFormat,
    /// What is logged: a level, or directives such as `info,kontiki=debug`
    #[arg(
        long,
        env = "KONTIKI_LOG",
        default_value = "info",
        value_name = "LEVEL",
        value_parser = logging::level
    )]
    log_level: String,
    /// End when this process ends
    #[arg(long, hide = true, value_name = "PID")]
    parent: Option<u32>,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file (TOML); its keys are the names of these flags with `_` for `-`
    #[arg(long, short, env = "KONTIKI_CONFIG", value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) node: NodeOptions,
}

impl ConfigArgs {
    /// What the file says; nothing without one.
    pub(crate) fn file(&self) -> Result<NodeOptions> {
        let Some(path) = &self.config else {
            return Ok(NodeOptions::default());
        };
        let text = std::fs::read_to_string(path).map_err(|error| Failure::file(path, &error))?;
        NodeOptions::from_toml(&text).map_err(|error| {
            Failure::usage(format!("{}: {error}", path.display()).trim_end().to_owned())
        })
    }

    /// The checked configuration.
    pub(crate) fn check(&self) -> Result<NodeConfig> {
        self.node
            .clone()
            .or(self.file()?)
            .check()
            .map_err(|error| config_failure(&error))
    }
}

fn config_failure(error: &ConfigError) -> Failure {
    Failure::new(Exit::Usage, "CONFIG", error.to_string()).with_hint(
        "kontiki serve --help; `kontiki config show --origin` says where values come from",
    )
}

/// Runs the node.
pub(crate) async fn run(args: &ServeArgs) -> Result<()> {
    if let Some(parent) = args.parent {
        die_with(parent)?;
    }
    let config = args.config.check()?;
    logging::start(&args.log_level, args.log_format)?;
    let descriptors = descriptors::raise_limit();
    let mut signals = Signals::listen()?;
    let running = Node::start(config).await.map_err(start_failure)?;
    let written = args
        .ports_file
        .as_deref()
        .map(|path| PortsFile::write(path, &running));
    let ports_file = written.transpose()?;
    announce(&running, descriptors);
    let first = signals.next().await;
    tracing::info!(
        signal = first.name(),
        "draining; a second signal ends at once"
    );
    tokio::select! {
        () = running.shutdown() => tracing::info!("stopped"),
        second = signals.next() => {
            tracing::warn!(signal = second.name(), "ended before everything was handed over");
            logging::flush();
            exit::at_once(second.exit().number());
        }
    }
    drop(ports_file);
    Ok(())
}

fn announce(running: &RunningNode, descriptors: usize) {
    let ports = running.ports();
    let http = ports
        .http
        .map(|address| format!("http://{address}"))
        .unwrap_or_default();
    tracing::info!(
        node = ports.name,
        client = %ports.client,
        peer = %ports.peer,
        http,
        descriptors,
        "listening"
    );
}

/// Asks the kernel to kill this process when its parent ends, so that no node outlives `kontiki dev`.
fn die_with(parent: u32) -> Result<()> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)
        .map_err(|error| Failure::local("IO", format!("cannot watch the parent: {error}")))?;
    // The parent may have ended before the line above took effect.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(Failure::local("IO", "the parent process is gone"))
    }
}

/// A ports file; removed when the node has stopped, so that nobody takes a dead node's for a live one's.
struct PortsFile(PathBuf);

impl PortsFile {
    fn write(path: &Path, running: &RunningNode) -> Result<Self> {
        let json = serde_json::to_string_pretty(running.ports())
            .map_err(|error| Failure::local("IO", error.to_string()))?;
        write_whole(path, &format!("{json}\n"))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PortsFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// Writes a file so that a reader sees all of it or nothing.
pub(crate) fn write_whole(path: &Path, text: &str) -> Result<()> {
    let directory = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty());
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = directory
        .unwrap_or(Path::new("."))
        .join(format!(".{name}.{}", std::process::id()));
    let write = || {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|error| Failure::file(path, &error))
}

/// Says in the terms of the command line what kept a node from starting.
fn start_failure(error: StartError) -> Failure {
    match &error {
        StartError::Listen {
            key,
            address,
            source,
        } if source.kind() == std::io::ErrorKind::AddrInUse => {
            let flag = key.replace('_', "-");
            Failure::local(
                "PORT_IN_USE",
                format!("{address} is in use by another process"),
            )
            .with_hint(format!(
                "choose another address with --{flag}; port 0 takes any"
            ))
        }
        StartError::Storage(storage) => Failure::local(storage_reason(storage), causes(&error)),
        _ => Failure::local("START", causes(&error)),
    }
}

/// The word for what is wrong with a data directory.
fn storage_reason(error: &StorageError) -> &'static str {
    match error {
        StorageError::InUse { .. } => "DATA_IN_USE",
        StorageError::Foreign { .. } => "DATA_FOREIGN",
        StorageError::OtherNode { .. } | StorageError::OtherCluster { .. } => "DATA_OF_ANOTHER",
        StorageError::NewerFormat { .. } => "DATA_NEWER",
        StorageError::NoSpace { .. } => "NO_SPACE",
        StorageError::Damaged { .. }
        | StorageError::NodeRecordDamaged { .. }
        | StorageError::NodeRecordUnreadable { .. }
        | StorageError::DirectoryDamaged { .. } => "DATA_DAMAGED",
        _ => "START",
    }
}

/// An error and its causes, each said once.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    text
}
