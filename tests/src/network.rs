//! Hosts of our own: network namespaces on one bridge, and rules that cut one direction of one link.
//!
//! Needs root, iproute2 and nftables (`cargo xtask setup` installs them). Everything is named after
//! this process and taken away when the value is dropped.

use anyhow::{Context as _, Result, bail};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Whether this process may do what needs root: namespaces, firewalls, mounts. Without root a test
/// fails here, lest it be counted as passed; `KONTIKI_WITHOUT_ROOT=1` leaves it out knowingly, which
/// no automatic run does.
///
/// # Errors
/// Without root, unless told so.
pub fn is_root() -> Result<bool> {
    if nix::unistd::geteuid().is_root() {
        return Ok(true);
    }
    if std::env::var_os("KONTIKI_WITHOUT_ROOT").is_some() && std::env::var_os("CI").is_none() {
        eprintln!("SKIPPED: this test needs root");
        return Ok(false);
    }
    bail!("this test needs root; to run the others without it, set KONTIKI_WITHOUT_ROOT=1")
}

/// Namespaces joined by a bridge, each with one address.
#[derive(Debug)]
pub struct Network {
    tag: String,
    subnet: String,
    hosts: usize,
}

/// Networks of this process so far.
static MADE: AtomicU32 = AtomicU32::new(0);

impl Network {
    /// Makes `hosts` hosts, numbered from 1, and a bridge that this process is on too.
    ///
    /// # Errors
    /// Without root, or if a command fails; says which.
    pub fn new(hosts: usize) -> Result<Self> {
        let number = MADE.fetch_add(1, Ordering::Relaxed) % 16;
        let id = std::process::id();
        let network = Self {
            tag: format!("kt{}x{number:x}", id % 100_000),
            // One of sixteen for each of as many processes as there are numbers for.
            subnet: format!("{}.{}", 64 + id / 15 % 128, id % 15 * 16 + number),
            hosts,
        };
        let bridge = &network.tag;
        ip(&["link", "add", bridge, "type", "bridge"])?;
        ip(&[
            "addr",
            "add",
            &format!("{}/24", network.own_address()),
            "dev",
            bridge,
        ])?;
        ip(&["link", "set", bridge, "up"])?;
        for host in 1..=hosts {
            network.add_host(host)?;
        }
        Ok(network)
    }

    /// The address of host `host`.
    #[must_use]
    pub fn address(&self, host: usize) -> String {
        format!("10.{}.{host}", self.subnet)
    }

    /// The words before a command that runs it on host `host`.
    #[must_use]
    pub fn on(&self, host: usize) -> Vec<String> {
        ["ip", "netns", "exec", &self.host(host)]
            .map(str::to_owned)
            .into()
    }

    /// Drops every packet that `from` sends to `to`; the other direction stays.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn cut(&self, from: usize, to: usize) -> Result<()> {
        let rule = format!(
            "table inet cut {{ chain input {{ type filter hook input priority 0; \
             ip saddr {} drop; }}; }}",
            self.address(from)
        );
        run("ip", &["netns", "exec", &self.host(to), "nft", &rule])
    }

    /// Takes away every cut at `host`.
    ///
    /// # Errors
    /// If `nft` fails.
    pub fn heal(&self, host: usize) -> Result<()> {
        run(
            "ip",
            &["netns", "exec", &self.host(host), "nft", "flush", "ruleset"],
        )
    }

    fn add_host(&self, host: usize) -> Result<()> {
        let (name, outside) = (self.host(host), format!("{}v{host}", self.tag));
        let address = format!("{}/24", self.address(host));
        ip(&["netns", "add", &name])?;
        ip(&[
            "link", "add", &outside, "type", "veth", "peer", "name", "eth0", "netns", &name,
        ])?;
        ip(&["link", "set", &outside, "master", &self.tag, "up"])?;
        ip(&["-n", &name, "addr", "add", &address, "dev", "eth0"])?;
        ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        ip(&["-n", &name, "link", "set", "lo", "up"])
    }

    fn host(&self, host: usize) -> String {
        format!("{}n{host}", self.tag)
    }

    fn own_address(&self) -> String {
        format!("10.{}.254", self.subnet)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // What was never made, or is gone already, cannot be taken away; that is no failure here.
        for host in 1..=self.hosts {
            let _ = ip(&["netns", "del", &self.host(host)]);
        }
        let _ = ip(&["link", "del", &self.tag]);
    }
}

fn ip(words: &[&str]) -> Result<()> {
    run("ip", words)
}

fn run(program: &str, words: &[&str]) -> Result<()> {
    let output = Command::new(program).args(words).output();
    let output = output.with_context(|| format!("run {program}: is it installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", words.join(" "), said.trim());
    }
    Ok(())
}
