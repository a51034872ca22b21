//! Configuration of a node: raw options as they come from flags, environment and file, and the
//! checked form that the node runs on.

use crate::node::settings;
use kontiki_raft::Settings;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Options of a node, each of which may be absent. The same structure is parsed from flags,
/// environment and file; [`NodeOptions::or`] lays one over another.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeOptions {
    /// Name of this node, as people and other nodes call it (required)
    #[arg(long, env = "KONTIKI_NAME")]
    pub name: Option<String>,
    /// Name of the cluster; nodes of different clusters refuse each other [default: kontiki]
    #[arg(long, env = "KONTIKI_CLUSTER")]
    pub cluster: Option<String>,
    /// Data directory, or `memory://` to keep nothing (required)
    #[arg(long, env = "KONTIKI_DATA_DIR", visible_alias = "storage")]
    pub data_dir: Option<String>,
    /// Address to listen on for clients; port 0 takes any [default: 127.0.0.1:7470]
    #[arg(long, env = "KONTIKI_LISTEN", value_name = "HOST:PORT")]
    pub listen: Option<String>,
    /// Address that is told to clients [default: the bound address]
    #[arg(long, env = "KONTIKI_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Address to listen on for other nodes, if not that of clients [default: as `listen`]
    #[arg(long, env = "KONTIKI_PEER_LISTEN", value_name = "HOST:PORT")]
    pub peer_listen: Option<String>,
    /// Address that is told to other nodes [default: the bound address]
    #[arg(long, env = "KONTIKI_PEER_ADVERTISE", value_name = "HOST:PORT")]
    pub peer_advertise: Option<String>,
    /// Address for status pages and metrics, or `off` [default: 127.0.0.1:7472]
    #[arg(long, env = "KONTIKI_HTTP", value_name = "HOST:PORT")]
    pub http: Option<String>,
    /// Another node of the cluster and its peer address; may be repeated
    #[arg(
        long = "peer",
        env = "KONTIKI_PEERS",
        value_delimiter = ',',
        value_name = "NAME=HOST:PORT"
    )]
    pub peers: Vec<String>,
    /// Silence after which a follower starts an election; short for `--set election_timeout=…`
    #[arg(long, env = "KONTIKI_ELECTION_TIMEOUT", value_name = "DURATION")]
    pub election_timeout: Option<String>,
    /// A Raft setting for all groups (see `kontiki settings`); may be repeated
    #[arg(
        long = "set",
        env = "KONTIKI_SET",
        value_delimiter = ',',
        value_name = "SETTING=VALUE"
    )]
    #[serde(deserialize_with = "settings_table")]
    pub settings: Vec<String>,
    /// Commands in flight per group before clients are told to wait [default: 4096]
    #[arg(long, env = "KONTIKI_PROPOSALS_MAX")]
    pub proposals_max: Option<usize>,
    /// Connections at a time, pages included [default: as many as file descriptors allow, at most
    /// 4096]
    #[arg(long, env = "KONTIKI_CONNECTIONS_MAX", value_name = "N")]
    pub connections_max: Option<usize>,
    /// Largest plugin accepted, in bytes [default: 67108864]
    #[arg(long, env = "KONTIKI_PLUGIN_SIZE_BYTES_MAX")]
    pub plugin_size_bytes_max: Option<usize>,
    /// Groups up to which `/metrics` has series by group; above it, and with 0, sums only
    /// [default: 1000]
    #[arg(long, env = "KONTIKI_METRICS_PER_GROUP", value_name = "N")]
    pub metrics_per_group: Option<usize>,
    /// Time to hand over leaderships and finish work after SIGTERM [default: 10s]
    #[arg(long, env = "KONTIKI_SHUTDOWN_GRACE", value_name = "DURATION")]
    pub shutdown_grace: Option<String>,
    /// Offer the built-in native state machines (`native:counter`), for benchmarks
    #[arg(long, env = "KONTIKI_ALLOW_NATIVE_MACHINES", num_args = 0..=1, default_missing_value = "true")]
    pub allow_native_machines: Option<bool>,
}

/// Turns the file's `[settings]` table into the `NAME=VALUE` form of the flag.
fn settings_table<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<String>, D::Error> {
    let table = BTreeMap::<String, toml::Value>::deserialize(input)?;
    let text = |value: toml::Value| match value {
        toml::Value::String(text) => text,
        other => other.to_string(),
    };
    Ok(table
        .into_iter()
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect())
}

impl NodeOptions {
    /// Parses a configuration file.
    ///
    /// # Errors
    /// Says which key is unknown or of the wrong type, and where.
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::File(Box::new(error)))
    }

    /// These options, and where one is absent, the other's.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let list = |a: Vec<String>, b| if a.is_empty() { b } else { a };
        Self {
            name: self.name.or(other.name),
            cluster: self.cluster.or(other.cluster),
            data_dir: self.data_dir.or(other.data_dir),
            listen: self.listen.or(other.listen),
            advertise: self.advertise.or(other.advertise),
            peer_listen: self.peer_listen.or(other.peer_listen),
            peer_advertise: self.peer_advertise.or(other.peer_advertise),
            http: self.http.or(other.http),
            election_timeout: self.election_timeout.or(other.election_timeout),
            peers: list(self.peers, other.peers),
            settings: merge_settings(self.settings, other.settings),
            proposals_max: self.proposals_max.or(other.proposals_max),
            connections_max: self.connections_max.or(other.connections_max),
            plugin_size_bytes_max: self.plugin_size_bytes_max.or(other.plugin_size_bytes_max),
            metrics_per_group: self.metrics_per_group.or(other.metrics_per_group),
            shutdown_grace: self.shutdown_grace.or(other.shutdown_grace),
            allow_native_machines: self.allow_native_machines.or(other.allow_native_machines),
        }
    }

    /// Checks everything and fills in defaults.
    ///
    /// # Errors
    /// Names the first key that is missing or wrong, and why.
    pub fn check(self) -> Result<NodeConfig, ConfigError> {
        let listen = Address::parse("listen", self.listen.as_deref().unwrap_or("127.0.0.1:7470"))?;
        let peer_listen = self
            .peer_listen
            .as_deref()
            .map(|a| Address::parse("peer_listen", a));
        let peer_listen = peer_listen
            .transpose()?
            .filter(|a| *a != listen || a.port() == 0);
        let advertised = advertise("advertise", self.advertise, &listen)?;
        let peer_advertise = match &peer_listen {
            None if self.peer_advertise.is_none() => advertised.clone(),
            _ => advertise(
                "peer_advertise",
                self.peer_advertise,
                peer_listen.as_ref().unwrap_or(&listen),
            )?,
        };
        let timeout = self
            .election_timeout
            .map(|t| format!("election_timeout={t}"));
        let settings: Vec<_> = self.settings.into_iter().chain(timeout).collect();
        let (raft, raft_named) = raft_settings(&settings)?;
        let grace = self.shutdown_grace.as_deref().unwrap_or("10s");
        let own_name = self.name.clone();
        let config = NodeConfig {
            name: check_name("name", required("name", self.name)?)?,
            cluster: check_name("cluster", self.cluster.unwrap_or_else(|| "kontiki".into()))?,
            data: DataLocation::parse(&required("data_dir", self.data_dir)?)?,
            advertise: advertised,
            listen,
            peer_advertise,
            peer_listen,
            http: http(self.http.as_deref())?,
            peers: peers(&self.peers, own_name.as_deref())?,
            raft,
            raft_named,
            limits: limits(
                self.proposals_max,
                self.plugin_size_bytes_max,
                self.connections_max,
            )?,
            metrics_per_group: self.metrics_per_group.unwrap_or(METRICS_PER_GROUP),
            shutdown_grace: shutdown_grace(grace)?,
            allow_native_machines: self.allow_native_machines.unwrap_or(false),
        };
        Ok(config)
    }
}

/// Settings of the file that the flags do not name stay in force.
fn merge_settings(over: Vec<String>, under: Vec<String>) -> Vec<String> {
    let mut merged: Vec<String> = under;
    merged.extend(over);
    merged
}

/// A node's checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeConfig {
    /// What people call the node. Pinned in the data directory.
    pub name: String,
    /// Name of the cluster. Pinned in the data directory.
    pub cluster: String,
    /// Where data lies.
    pub data: DataLocation,
    /// Client listener.
    pub listen: Address,
    /// Told to clients; absent: the bound address.
    pub advertise: Option<Address>,
    /// Peer listener; absent: the client listener serves both.
    pub peer_listen: Option<Address>,
    /// Told to other nodes; absent: the bound address.
    pub peer_advertise: Option<Address>,
    /// Listener of status pages and metrics, if any.
    pub http: Option<Address>,
    /// Other nodes, as far as the operator named them.
    pub peers: Vec<PeerAddress>,
    /// Settings of every replica, until changed at run time.
    pub raft: Settings,
    /// The settings that file, environment or flags name.
    pub raft_named: BTreeSet<&'static str>,
    /// Bounds of queues and requests.
    pub limits: Limits,
    /// Groups up to which metrics have series by group.
    pub metrics_per_group: usize,
    /// Time to hand over and finish at shutdown.
    pub shutdown_grace: Duration,
    /// Whether `native:…` machines may be used.
    pub allow_native_machines: bool,
}

/// Bounds of queues and requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands waiting per group; more are refused as busy.
    pub proposals_max: usize,
    /// Bytes of the commands of a group that are not answered; more are refused as busy.
    pub proposals_size_bytes_max: usize,
    /// Queries of a group that are not answered; more are refused as busy.
    pub queries_max: usize,
    /// Their bytes; more are refused as busy.
    pub queries_size_bytes_max: usize,
    /// Peer messages waiting per group; more are dropped and counted.
    pub peer_messages_max: usize,
    /// Messages waiting for one peer; more are dropped and counted.
    pub peer_queue_max: usize,
    /// Bytes of entries waiting for one peer; more are dropped and counted.
    pub peer_queue_size_bytes_max: usize,
    /// Largest plugin.
    pub plugin_size_bytes_max: usize,
    /// Connections at a time; more are refused.
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            proposals_max: 4_096,
            proposals_size_bytes_max: 128 << 20,
            queries_max: 16_384,
            queries_size_bytes_max: 64 << 20,
            peer_messages_max: 4_096,
            peer_queue_max: 16_384,
            peer_queue_size_bytes_max: 64 << 20,
            plugin_size_bytes_max: 64 << 20,
            connections_max: crate::node::descriptors::connections_max(),
        }
    }
}

/// Where a node keeps its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DataLocation {
    /// In this directory.
    Directory(PathBuf),
    /// Nowhere: lost when the node ends. For tests.
    Memory,
}

impl DataLocation {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        match text.split_once("://") {
            None if text.is_empty() => Err(ConfigError::invalid("data_dir", text, "it is empty")),
            None => Ok(Self::Directory(text.into())),
            Some(("memory", "")) => Ok(Self::Memory),
            Some(_) => Err(ConfigError::invalid(
                "data",
                text,
                "write a path, or memory://",
            )),
        }
    }
}

impl fmt::Display for DataLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Memory => f.write_str("memory://"),
        }
    }
}

/// `host:port`, where host is a name or an address; IPv6 in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(String);

impl Address {
    fn parse(key: &'static str, text: &str) -> Result<Self, ConfigError> {
        match address_fault(text) {
            Some(why) => Err(ConfigError::invalid(key, text, why)),
            None => Ok(Self(text.to_owned())),
        }
    }

    /// The text, as for a dialler.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        let port = self.0.rsplit(':').next().and_then(|port| port.parse().ok());
        port.expect("checked when parsed")
    }

    /// Whether nobody can dial it: "every address of this machine".
    fn is_unspecified(&self) -> bool {
        self.0
            .parse::<std::net::SocketAddr>()
            .is_ok_and(|address| address.ip().to_canonical().is_unspecified())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Another node and where it listens for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its name.
    pub name: String,
    /// Its peer address.
    pub address: Address,
}

impl PeerAddress {
    fn parse(text: &str) -> Result<Self, ConfigError> {
        let invalid = || ConfigError::invalid("peers", text, "write NAME=HOST:PORT");
        let (name, address) = text.split_once('=').ok_or_else(invalid)?;
        Ok(Self {
            name: check_name("peers", name.to_owned())?,
            address: Address::parse("peers", address)?,
        })
    }
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not parse.
    #[error("the configuration file is wrong: {0}")]
    File(Box<toml::de::Error>),
    /// A required key is absent.
    #[error(
        "`{key}` is missing: give --{flag}, KONTIKI_{upper} or `{key}` in the file",
        flag = key.replace('_', "-"),
        upper = key.to_uppercase()
    )]
    Missing {
        /// Which.
        key: &'static str,
    },
    /// It listens on every address of the machine, and is not told which of them others may dial.
    #[error(
        "`{key}` is missing: {listen} is every address of this machine, which nobody can dial; say \
         with --{flag}, KONTIKI_{upper} or `{key}` in the file by which others reach this node",
        flag = key.replace('_', "-"),
        upper = key.to_uppercase()
    )]
    Unadvertised {
        /// Which.
        key: &'static str,
        /// Where it listens.
        listen: String,
    },
    /// A value is wrong.
    #[error("`{key}` is wrong: {value:?}: {why}")]
    Invalid {
        /// Which key.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ConfigError {
    fn invalid(key: &'static str, value: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Invalid {
            key,
            value: value.into(),
            why: why.to_string(),
        }
    }
}

fn required(key: &'static str, value: Option<String>) -> Result<String, ConfigError> {
    value.ok_or(ConfigError::Missing { key })
}

/// Why a text is no name; nothing if it is one. Names of nodes, clusters and groups follow one
/// rule: 1 to 64 of `A-Z a-z 0-9 . _ -`, not beginning with `.` or `-`, and not a number (members
/// may be named by id).
#[must_use]
pub fn name_fault(name: &str) -> Option<&'static str> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > 64 {
        Some("a name has 1 to 64 characters")
    } else if !name.chars().all(letter) || name.starts_with(['.', '-']) {
        Some("a name is of letters, digits, '.', '_' and '-', and begins with neither '.' nor '-'")
    } else if name.chars().all(|c| c.is_ascii_digit()) {
        Some("a name is not a number")
    } else {
        None
    }
}

/// Longest host: that of the domain name system.
const HOST_SIZE_BYTES_MAX: usize = 253;

/// Why a text is no `HOST:PORT`; nothing if it is one. A host is a name, an IPv4 address of four
/// numbers, or an IPv6 address in brackets: the shortened forms that some diallers take (`0`,
/// `127.1`) mean other things to others.
#[must_use]
pub fn address_fault(text: &str) -> Option<&'static str> {
    let Some((host, port)) = text.rsplit_once(':') else {
        return Some("write HOST:PORT");
    };
    if port.parse::<u16>().is_err() || !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return Some("the port is no number from 0 to 65535");
    }
    if let Some(bracketed) = host.strip_prefix('[') {
        let address = bracketed.strip_suffix(']').unwrap_or_default();
        let valid = address.parse::<std::net::Ipv6Addr>().is_ok();
        return (!valid).then_some("what is in brackets is no IPv6 address");
    }
    host_fault(host)
}

fn host_fault(host: &str) -> Option<&'static str> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let last = host
        .trim_end_matches('.')
        .rsplit('.')
        .next()
        .unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let number = last.bytes().all(|c| c.is_ascii_digit())
        || hexadecimal.is_some_and(|rest| rest.bytes().all(|c| c.is_ascii_hexdigit()));
    if host.is_empty() || host.contains(':') {
        Some("write HOST:PORT, an IPv6 host in brackets")
    } else if host.len() > HOST_SIZE_BYTES_MAX {
        Some("the host is longer than 253 characters")
    } else if !host.chars().all(letter) {
        Some("a host is of letters, digits, '.', '-' and '_'")
    } else if number && host.parse::<std::net::Ipv4Addr>().is_err() {
        Some("the host ends in a number and is no IPv4 address; write all four numbers")
    } else {
        None
    }
}

fn check_name(key: &'static str, name: String) -> Result<String, ConfigError> {
    match name_fault(&name) {
        Some(why) => Err(ConfigError::invalid(key, name, why)),
        None => Ok(name),
    }
}

const UNDIALLABLE: &str =
    "nobody can dial this address; write the host and port by which others reach this node";

/// The advertised address; required where the listener is on every address of the machine.
fn advertise(
    key: &'static str,
    given: Option<String>,
    listen: &Address,
) -> Result<Option<Address>, ConfigError> {
    match given {
        Some(text) => {
            let address = Address::parse(key, &text)?;
            if address.is_unspecified() || address.port() == 0 {
                return Err(ConfigError::invalid(key, text, UNDIALLABLE));
            }
            Ok(Some(address))
        }
        None if listen.is_unspecified() => Err(ConfigError::Unadvertised {
            key,
            listen: listen.to_string(),
        }),
        None => Ok(None),
    }
}

/// The other nodes. One that is named twice, or is this node itself, is a slip of who wrote the list:
/// which address is meant is not guessed.
fn peers(given: &[String], own_name: Option<&str>) -> Result<Vec<PeerAddress>, ConfigError> {
    let mut peers: Vec<PeerAddress> = Vec::new();
    for text in given {
        let peer = PeerAddress::parse(text)?;
        let invalid = |why| Err(ConfigError::invalid("peers", text, why));
        if own_name == Some(peer.name.as_str()) {
            return invalid("this is the node itself; name only the others");
        }
        if peers.iter().any(|other| other.name == peer.name) {
            return invalid("this node is named twice; give each one once");
        }
        if peer.address.is_unspecified() || peer.address.port() == 0 {
            return invalid(UNDIALLABLE);
        }
        peers.push(peer);
    }
    Ok(peers)
}

/// Longest `shutdown_grace`: whoever asks for more means for ever, which no node may take.
const SHUTDOWN_GRACE_MAX: Duration = Duration::from_secs(24 * 3_600);

fn shutdown_grace(text: &str) -> Result<Duration, ConfigError> {
    let invalid = |why: String| ConfigError::invalid("shutdown_grace", text, why);
    let grace = humantime::parse_duration(text).map_err(|error| invalid(error.to_string()))?;
    match grace <= SHUTDOWN_GRACE_MAX {
        true => Ok(grace),
        false => Err(invalid("at most 24h".to_owned())),
    }
}

fn http(given: Option<&str>) -> Result<Option<Address>, ConfigError> {
    match given.unwrap_or("127.0.0.1:7472") {
        "off" => Ok(None),
        text => Address::parse("http", text).map(Some),
    }
}

fn raft_settings(given: &[String]) -> Result<(Settings, BTreeSet<&'static str>), ConfigError> {
    let mut raft = Settings::default();
    let mut named = BTreeSet::new();
    for text in given {
        let invalid = |why: String| ConfigError::invalid("settings", text, why);
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| invalid("write SETTING=VALUE".into()))?;
        let setting = settings::find(name.trim()).map_err(|e| invalid(e.to_string()))?;
        settings::set(&mut raft, setting.name, value.trim()).map_err(|e| invalid(e.to_string()))?;
        named.insert(setting.name);
    }
    raft.check()
        .map_err(|e| ConfigError::invalid("settings", given.join(","), e))?;
    Ok((raft, named))
}

/// Default of `metrics_per_group`: a page of some ten thousand series.
const METRICS_PER_GROUP: usize = 1_000;

fn limits(
    proposals: Option<usize>,
    plugin: Option<usize>,
    connections: Option<usize>,
) -> Result<Limits, ConfigError> {
    let defaults = Limits::default();
    let limits = Limits {
        proposals_max: proposals.unwrap_or(defaults.proposals_max),
        plugin_size_bytes_max: plugin.unwrap_or(defaults.plugin_size_bytes_max),
        connections_max: connections.unwrap_or(defaults.connections_max),
        ..defaults
    };
    if !(1..=1_000_000).contains(&limits.connections_max) {
        let given = limits.connections_max.to_string();
        return Err(ConfigError::invalid(
            "connections_max",
            given,
            "from 1 to 1000000",
        ));
    }
    match limits.proposals_max {
        1..=1_000_000 => Ok(limits),
        other => Err(ConfigError::invalid(
            "proposals_max",
            other.to_string(),
            "from 1 to 1000000",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> NodeOptions {
        NodeOptions {
            name: Some("n1".into()),
            data_dir: Some("memory://".into()),
            ..NodeOptions::default()
        }
    }

    fn fault(change: impl FnOnce(&mut NodeOptions)) -> String {
        let mut options = minimal();
        change(&mut options);
        options.check().unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_valid() {
        let config = minimal().check().unwrap();
        assert_eq!(config.listen.as_str(), "127.0.0.1:7470");
        assert_eq!(config.data, DataLocation::Memory);
        assert_eq!((config.peer_listen, config.peer_advertise), (None, None));
        assert_eq!(config.metrics_per_group, 1_000);
    }

    #[test]
    fn flags_win_over_the_file_and_settings_add_up() {
        let file = "name = 'n9'\npeers = ['n2=h:1']\nmetrics_per_group = 5\n[settings]\npriority = 7\nleader_lease = true";
        let file = NodeOptions::from_toml(file).unwrap();
        let flags = NodeOptions {
            settings: vec!["priority=9".into()],
            ..minimal()
        };
        let config = flags.or(file).check().unwrap();
        assert_eq!((config.name.as_str(), config.raft.priority), ("n1", 9));
        assert!(config.raft.leader_lease);
        assert_eq!(config.metrics_per_group, 5);
        assert_eq!(config.peers[0].name, "n2");
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = NodeOptions::from_toml("nmae = 'n1'")
            .unwrap_err()
            .to_string();
        assert!(error.contains("nmae"), "{error}");
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        assert!(fault(|o| o.name = None).contains("--name"));
        assert!(fault(|o| o.name = Some("1".into())).contains("not a number"));
        assert!(fault(|o| o.data_dir = Some("ftp://x".into())).contains("memory://"));
        assert!(fault(|o| o.listen = Some("7470".into())).contains("HOST:PORT"));
        assert!(fault(|o| o.listen = Some("0.0.0.0:1".into())).contains("advertise"));
        assert!(fault(|o| o.advertise = Some("0.0.0.0:1".into())).contains("dial"));
        assert!(fault(|o| o.peers = vec!["n2".into()]).contains("NAME=HOST:PORT"));
        let twice = |o: &mut NodeOptions| o.peers = vec!["n2=h:1".into(), "n2=h:2".into()];
        assert!(fault(twice).contains("named twice"));
        assert!(fault(|o| o.peers = vec!["n1=h:1".into()]).contains("the node itself"));
        assert!(fault(|o| o.peers = vec!["n2=[::]:1".into()]).contains("dial"));
        assert!(fault(|o| o.settings = vec!["nothing=1".into()]).contains("nothing"));
        assert!(fault(|o| o.settings = vec!["election_timeout=1ms".into()]).contains("20 ms"));
        assert!(fault(|o| o.election_timeout = Some("1".into())).contains("election_timeout"));
        assert!(fault(|o| o.shutdown_grace = Some("soon".into())).contains("shutdown_grace"));
        assert!(fault(|o| o.shutdown_grace = Some("500years".into())).contains("24h"));
        assert!(fault(|o| o.connections_max = Some(0)).contains("connections_max"));
    }

    #[test]
    fn only_what_every_dialler_understands_is_an_address() {
        for text in [
            "127.0.0.1:7471",
            "[::1]:0",
            "n1.example.:80",
            "host_1:65535",
            "a1:1",
        ] {
            assert_eq!(address_fault(text), None, "{text}");
        }
        for text in [
            "0:7471",
            "127.1:7471",
            "0x7f000001:7471",
            "1.2.3.0x4:1",
            "127.0.0.1/x:7471",
            "user@host:1",
            "host?x:1",
            "[::1:7471",
            "[host]:7471",
            "::1:7471",
            "host:+1",
            "host:65536",
            ":1",
            "host",
        ] {
            assert!(address_fault(text).is_some(), "{text}");
        }
        assert!(address_fault(&format!("{}:1", "h".repeat(254))).is_some());
    }

    #[test]
    fn an_address_that_nobody_can_dial_is_not_told_to_others() {
        for listen in ["0.0.0.0:7471", "[::]:7471", "[::ffff:0.0.0.0]:7471"] {
            let missing = fault(|o| o.listen = Some(listen.into()));
            assert!(missing.contains("--advertise"), "{missing}");
            let given = fault(|o| o.advertise = Some(listen.into()));
            assert!(given.contains("nobody can dial"), "{given}");
        }
        assert!(fault(|o| o.listen = Some("0:7471".into())).contains("all four numbers"));
    }
}
