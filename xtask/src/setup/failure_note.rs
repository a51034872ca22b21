//! Remembers for a day that something failed, so that each command need not wait for it again.

use anyhow::{Context, Result};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How long a failure is believed.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// A file whose age is the time since the failure.
#[derive(Debug)]
pub(super) struct FailureNote {
    path: PathBuf,
}

impl FailureNote {
    pub(super) fn at(path: PathBuf) -> Self {
        FailureNote { path }
    }

    /// Whether it failed within a day. A file from the future counts as fresh.
    pub(super) fn is_fresh(&self) -> bool {
        let Ok(modified) = self.path.metadata().and_then(|file| file.modified()) else {
            return false;
        };
        modified.elapsed().map_or(true, |age| age < LIFETIME)
    }

    pub(super) fn write(&self, reason: &str) -> Result<()> {
        let write = || {
            fs::create_dir_all(self.path.parent().unwrap_or(&self.path))?;
            fs::write(&self.path, reason)
        };
        write().with_context(|| format!("cannot write {}", self.path.display()))
    }

    pub(super) fn clear(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }
}
