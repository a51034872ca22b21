//! Where the cluster of `kontiki dev` is written down, so that other commands find it.

use crate::cli::failure::{Failure, Result};
use crate::cli::serve::write_whole;
use kontiki_client::Address;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The cluster of `kontiki dev`; also what its `--ports-file` holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DevCluster {
    pub(crate) kind: String,
    pub(crate) v: u32,
    /// The process that runs it.
    pub(crate) pid: u32,
    /// Nodes answer and groups have leaders; false while it starts.
    pub(crate) up: bool,
    /// Where its data and logs are.
    pub(crate) directory: PathBuf,
    /// Socket on which it takes orders.
    pub(crate) control: PathBuf,
    pub(crate) nodes: Vec<DevNode>,
}

/// One node of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DevNode {
    pub(crate) name: String,
    /// None while it is dead.
    pub(crate) pid: Option<u32>,
    /// Where clients and other nodes reach it.
    pub(crate) address: String,
    /// Where its pages are.
    pub(crate) http_address: String,
    pub(crate) log: PathBuf,
}

impl DevCluster {
    pub(crate) fn addresses(&self) -> Vec<Address> {
        self.nodes
            .iter()
            .filter_map(|node| node.address.parse().ok())
            .collect()
    }

    pub(crate) fn json(&self) -> String {
        let text = serde_json::to_string_pretty(self).expect("plain data can be written as JSON");
        format!("{text}\n")
    }

    /// Writes it down for other commands.
    pub(crate) fn save(&self) -> Result<()> {
        write_whole(&directory()?.join(FILE), &self.json())
    }
}

const FILE: &str = "dev.json";

/// `$KONTIKI_STATE_DIR`, else `kontiki` in the user's state directory; made if absent.
pub(crate) fn directory() -> Result<PathBuf> {
    let from = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let directory = from("KONTIKI_STATE_DIR")
        .or_else(|| Some(from("XDG_STATE_HOME")?.join("kontiki")))
        .or_else(|| Some(from("HOME")?.join(".local/state/kontiki")))
        .unwrap_or_else(|| std::env::temp_dir().join("kontiki"));
    std::fs::create_dir_all(&directory).map_err(|error| Failure::file(&directory, &error))?;
    Ok(directory)
}

/// The cluster that runs now, if one does. What a dead one left behind does not count.
pub(crate) fn running() -> Option<DevCluster> {
    let text = std::fs::read_to_string(directory().ok()?.join(FILE)).ok()?;
    let cluster: DevCluster = serde_json::from_str(&text).ok()?;
    let listens = std::os::unix::net::UnixStream::connect(&cluster.control).is_ok();
    listens.then_some(cluster)
}

/// Forgets the cluster.
pub(crate) fn remove() {
    if let Ok(directory) = directory() {
        std::fs::remove_file(directory.join(FILE)).ok();
    }
}
