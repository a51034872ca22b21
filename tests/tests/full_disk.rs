//! A disk that fills up: nothing acknowledged is lost, and the node says what is wrong (needs root).

use anyhow::{Context as _, Result, ensure};
use kontiki_tests::load::Load;
use kontiki_tests::model::Model;
use kontiki_tests::session::counter_on;
use kontiki_tests::{Cluster, ClusterOptions, check, network};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

/// A small file system of its own in memory; taken away when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, size: &str) -> Result<Self> {
        fs::create_dir_all(at)?;
        let size = format!("size={size}");
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", &size, "kontiki-test"])
            .arg(at);
        ensure!(
            mount.status()?.success(),
            "cannot mount a tmpfs at {}",
            at.display()
        );
        Ok(Self(at.to_owned()))
    }

    /// Writes zeros until nothing more fits; gives the file.
    fn fill(&self) -> Result<PathBuf> {
        let ballast = self.0.join("ballast");
        let mut file = File::create(&ballast)?;
        while file.write_all(&[0; 4096]).is_ok() {}
        Ok(ballast)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // The node is gone by now or is about to be: detach whatever still holds it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// As `load::counter_commands`, padded with spaces. When the disk is full the log goes on in what it
/// has reserved, and may once get that back by closing a file early: up to 70 MiB, for which short
/// commands take over a minute.
fn long_commands(client: usize, sequence: u64) -> String {
    format!("add {:>2048}", (client as u64 + 1) * 10_000_000 + sequence)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_loses_nothing_acknowledged() -> Result<()> {
    if !network::is_root()? {
        return Ok(());
    }
    let options = ClusterOptions {
        nodes: 1,
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::prepare(options)?;
    let disk = SmallDisk::mount(&cluster.nodes()[0].data_directory, "192m")?;
    cluster.start_node(0)?;
    let session = counter_on(&cluster.addresses(), Duration::from_secs(2)).await?;

    let load = Load::start("counter", &cluster.addresses(), 4, long_commands)?;
    load.wait_for(200, LIMIT).await?;
    let ballast = disk.fill()?;
    let deadline = Instant::now() + LIMIT;
    while load.wait_for(1, Duration::from_secs(1)).await.is_ok() {
        ensure!(
            Instant::now() < deadline,
            "the disk is full, and writes go on"
        );
    }
    let problems = session
        .admin(0)
        .get_node(kontiki_proto::v1::GetNodeRequest {})
        .await?;
    let problems = problems.into_inner().problems.join("; ");
    ensure!(
        !problems.is_empty(),
        "a node whose disk is full says that nothing is wrong"
    );
    eprintln!("the node says: {problems}");

    fs::remove_file(ballast).context("make room")?;
    cluster.kill_node(0)?;
    cluster.start_node(0)?;
    load.wait_for(100, LIMIT).await?;
    let records = load.stop().await?;
    let report = check::history(&session, &[0], &records, Model::counter()).await?;
    assert!(report.acknowledged >= 300, "{report:?}");
    drop(cluster);
    Ok(())
}
