//! Lets rustup add the target, for as long as it makes progress.

use super::machine::Machine;
use anyhow::{Context, Result};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// How often progress is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Adds the target; the inner error says why it did not work.
///
/// # Errors
/// If rustup cannot be started or waited for.
pub(super) fn add_target(machine: &Machine, rustup: &Path) -> Result<Result<(), String>> {
    let mut command = machine.programs.command(rustup);
    command.args(["target", "add", "wasm32-wasip2"]);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("cannot run rustup")?;
    let mut downloaded = 0;
    let mut progressed = Instant::now();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for rustup")? {
            return Ok(if status.success() {
                Ok(())
            } else {
                Err(status.to_string())
            });
        }
        let now_downloaded = machine.rustup_downloads.as_deref().map_or(0, size_of_files);
        if now_downloaded != downloaded {
            (downloaded, progressed) = (now_downloaded, Instant::now());
        }
        if progressed.elapsed() > machine.rustup_patience {
            return Ok(Err(give_up(child, machine.rustup_patience)));
        }
        std::thread::sleep(POLL);
    }
}

fn give_up(mut child: Child, patience: Duration) -> String {
    // It may have ended by itself in between; either way it is gone after the wait.
    let _ = child.kill();
    let _ = child.wait();
    format!("no progress for {} s", patience.as_secs_f32())
}

fn size_of_files(directory: &Path) -> u64 {
    let Ok(entries) = directory.read_dir() else {
        return 0;
    };
    let sizes = entries
        .flatten()
        .filter_map(|entry| Some(entry.metadata().ok()?.len()));
    sizes.sum()
}
