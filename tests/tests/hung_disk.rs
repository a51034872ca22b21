//! A disk that hangs: writes and syncs neither succeed nor fail (needs root).

use anyhow::{Context as _, Result, ensure};
use kontiki_tests::load::{self, Load};
use kontiki_tests::model::Model;
use kontiki_tests::session::{Session, counter_on};
use kontiki_tests::{Cluster, ClusterOptions, Operator, check, network, until};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const STALL_TIMEOUT: Duration = Duration::from_secs(1);

/// A file system of its own on a loop device; thawed and taken away when dropped.
struct LoopDisk(PathBuf);

impl LoopDisk {
    fn mount(at: &Path, size_bytes: u64) -> Result<Self> {
        fs::create_dir_all(at)?;
        let image = at.with_extension("ext4");
        File::create(&image)?.set_len(size_bytes)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&image)
            .arg(at))?;
        Ok(Self(at.to_owned()))
    }

    /// From now on whoever writes here waits.
    fn freeze(&self) -> Result<()> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.0))
    }

    fn thaw(&self) -> Result<()> {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0))
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // A failure means that it is not frozen.
        let _ = self.thaw();
        // The node is gone by now or is about to be: detach whatever still holds it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

async fn role(session: &Session, node: usize) -> Result<String> {
    Ok(session
        .describe(node)
        .await?
        .summary
        .unwrap_or_default()
        .role)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_disk_hangs_gives_up_and_comes_back() -> Result<()> {
    if !network::is_root()? {
        return Ok(());
    }
    let stall = format!("disk_stall_timeout={}ms", STALL_TIMEOUT.as_millis());
    let options = ClusterOptions {
        serve_args: vec!["--set".to_owned(), stall],
        ..ClusterOptions::default()
    };
    let mut cluster = Cluster::prepare(options)?;
    let disk = LoopDisk::mount(&cluster.nodes()[0].data_directory, 256 << 20)?;
    for node in 0..3 {
        cluster.start_node(node)?;
    }
    let session = counter_on(&cluster.addresses(), Duration::from_secs(2)).await?;
    let operator = Operator::of(&cluster);
    operator.does(&["group", "transfer", "counter", "--to", "n1"])?;

    let load = Load::start("counter", &cluster.addresses(), 4, load::counter_commands)?;
    load.wait_for(200, LIMIT).await?;
    ensure!(role(&session, 0).await? == "leader", "n1 does not lead");
    disk.freeze()?;
    let frozen = Instant::now();
    // Heartbeats do not touch the disk, so its followers would never notice.
    until("another leads", LIMIT, async || {
        Ok((role(&session, 0).await? != "leader").then_some(()))
    })
    .await?;
    let gave_up = frozen.elapsed();
    ensure!(
        gave_up < 4 * STALL_TIMEOUT,
        "it gave up after {gave_up:.1?}"
    );
    load.wait_for(200, LIMIT).await?;
    let there = session.describe(0).await?.summary.unwrap_or_default();
    let problems = there.problems.join("; ");
    eprintln!("gave up after {gave_up:.1?}; it says: {problems}");
    ensure!(problems.contains("disk"), "it says: {problems}");
    // As long as it hangs it cannot lead, whoever asks.
    operator.is_refused(
        &["group", "transfer", "counter", "--to", "n1"],
        6,
        "PEER_UNREACHABLE",
    )?;
    load.wait_for(200, LIMIT).await?;
    disk.thaw()?;
    let records = load.stop().await?;
    let report = check::history(&session, &[0, 1, 2], &records, Model::counter()).await?;
    eprintln!("{report:?}");
    // Refused for as long as the leader has not heard that n1 has applied what it missed.
    until("n1 leads again", LIMIT, async || {
        let transfer = ["group", "transfer", "counter", "--to", "n1"];
        Ok(operator.does(&transfer).is_ok().then_some(()))
    })
    .await
}
