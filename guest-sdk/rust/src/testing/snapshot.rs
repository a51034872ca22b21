//! A saved snapshot in a directory of this machine.

use crate::SnapshotInfo;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fs, io, process};

/// A saved snapshot. A test may look at its files, and damage them.
#[derive(Debug)]
pub struct Snapshot {
    directory: PathBuf,
    temporary: bool,
    info: SnapshotInfo,
    files: BTreeMap<String, Vec<u8>>,
}

impl Snapshot {
    pub(super) fn temporary() -> io::Result<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kontiki-guest-{}-{count}", process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory)?;
        let mut snapshot = Snapshot::in_directory(&directory);
        snapshot.temporary = true;
        Ok(snapshot)
    }

    pub(super) fn in_directory(directory: &Path) -> Self {
        Snapshot {
            directory: directory.to_owned(),
            temporary: false,
            info: SnapshotInfo::default(),
            files: BTreeMap::new(),
        }
    }

    pub(super) fn set_info(&mut self, info: SnapshotInfo) {
        self.info = info;
    }

    pub(super) fn set_files(&mut self, files: BTreeMap<String, Vec<u8>>) {
        self.files = files;
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Where in the log it stands.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }

    /// Its files by name, each with its note.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// The bytes of each file by name, to compare two snapshots.
    ///
    /// # Errors
    /// If a listed file cannot be read.
    pub fn contents(&self) -> io::Result<BTreeMap<String, Vec<u8>>> {
        let read = |name: &String| Ok((name.clone(), fs::read(self.directory.join(name))?));
        self.files.keys().map(read).collect()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if self.temporary {
            // What stays behind in the temporary directory is not worth failing a test for.
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}
