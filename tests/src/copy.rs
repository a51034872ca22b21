//! A second process with a node's identity.

use crate::cluster::{Cluster, binary, free_ports};
use crate::readiness;
use anyhow::{Context as _, Result, bail, ensure};
use std::fs::{self, File};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time for a process to answer.
const LIMIT: Duration = Duration::from_secs(30);
/// Copies that are taken until one can be opened: files change while they are copied.
const TRIES: u32 = 5;

/// A process that runs on a copy of a node's data directory, at other addresses. Dropping it kills
/// it.
#[derive(Debug)]
pub struct Copy {
    /// Where clients and peers reach it.
    pub address: String,
    /// Where its pages are.
    pub http_address: String,
    directory: PathBuf,
    args: Vec<String>,
    child: Option<Child>,
}

impl Copy {
    /// Copies the data of node `index` as it is at this moment, and starts a process on it.
    ///
    /// # Errors
    /// If none of several copies can be opened.
    pub fn start(cluster: &Cluster, index: usize) -> Result<Self> {
        let mut last = None;
        for attempt in 0..TRIES {
            match Self::try_start(cluster, index, attempt) {
                Ok(copy) => return Ok(copy),
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("never tried")?)
    }

    fn try_start(cluster: &Cluster, index: usize, attempt: u32) -> Result<Self> {
        let from = &cluster.nodes()[index].data_directory;
        let name = format!("copy-{}-{attempt}", free_ports(1)?[0]);
        let directory = cluster.directory().join(name);
        copy_directory(from, &directory)?;
        let ports = free_ports(2)?;
        let address = format!("127.0.0.1:{}", ports[0]);
        let http_address = format!("127.0.0.1:{}", ports[1]);
        let mut args = cluster.serve_args(index);
        for (flag, value) in [
            ("--listen", address.clone()),
            ("--http", http_address.clone()),
            ("--data-dir", directory.display().to_string()),
        ] {
            let at = args.iter().position(|word| word == flag).context(flag)?;
            args[at + 1] = value;
        }
        let mut copy = Self {
            address,
            http_address,
            directory,
            args,
            child: None,
        };
        copy.run()?;
        Ok(copy)
    }

    /// Starts it again on the data that it has.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn run(&mut self) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.with_extension("log"))?;
        let mut command = Command::new(binary()?);
        command.arg("serve").args(&self.args).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = self.child.insert(command.spawn()?);
        let deadline = Instant::now() + LIMIT;
        while TcpStream::connect(&self.address).is_err() {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("the copy ended with {status}");
            }
            ensure!(Instant::now() < deadline, "the copy is silent");
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Sends SIGKILL and waits for its end.
    ///
    /// # Errors
    /// If it is not running.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the copy is down")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Its `/readyz?verbose`, status line included.
    ///
    /// # Errors
    /// If it does not answer.
    pub fn readiness(&self) -> Result<String> {
        readiness(&self.http_address)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        // One that has ended already is as dead as wanted.
        let _ = self.kill();
    }
}

/// Copies what is there; files that vanish meanwhile are left out.
fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else if let Err(error) = fs::copy(entry.path(), &target)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| format!("copy {}", entry.path().display()));
        }
    }
    Ok(())
}
