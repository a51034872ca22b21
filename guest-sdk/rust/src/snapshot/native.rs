//! Snapshots in a directory of this machine, for tests without Wasm.

use super::{SnapshotFile, SnapshotInfo};
use crate::testing::Snapshot;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A snapshot being written.
#[derive(Debug)]
pub(crate) struct WriterHandle<'a> {
    directory: PathBuf,
    info: SnapshotInfo,
    files: &'a RefCell<BTreeMap<String, Vec<u8>>>,
}

impl<'a>
    From<(
        PathBuf,
        SnapshotInfo,
        &'a RefCell<BTreeMap<String, Vec<u8>>>,
    )> for WriterHandle<'a>
{
    fn from(
        (directory, info, files): (
            PathBuf,
            SnapshotInfo,
            &'a RefCell<BTreeMap<String, Vec<u8>>>,
        ),
    ) -> Self {
        WriterHandle {
            directory,
            info,
            files,
        }
    }
}

impl WriterHandle<'_> {
    pub(super) fn info(&self) -> SnapshotInfo {
        self.info.clone()
    }

    pub(super) fn create(&self, name: &str) -> io::Result<RawFile> {
        let path = self.directory.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map(RawFile)
    }

    pub(super) fn add_file(&self, name: &str, meta: &[u8]) -> io::Result<()> {
        if !fs::symlink_metadata(self.directory.join(name))?.is_file() {
            let text = format!("{name} is no regular file");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        self.files
            .borrow_mut()
            .insert(name.to_owned(), meta.to_owned());
        Ok(())
    }

    pub(super) fn remove_file(&self, name: &str) -> bool {
        self.files.borrow_mut().remove(name).is_some()
    }

    pub(super) fn list_files(&self) -> Vec<SnapshotFile> {
        listing(&self.files.borrow())
    }
}

/// A snapshot being read.
#[derive(Debug)]
pub(crate) struct ReaderHandle<'a>(&'a Snapshot);

impl<'a> From<&'a Snapshot> for ReaderHandle<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        ReaderHandle(snapshot)
    }
}

impl ReaderHandle<'_> {
    pub(super) fn info(&self) -> SnapshotInfo {
        self.0.info().clone()
    }

    pub(super) fn open(&self, name: &str) -> io::Result<RawFile> {
        File::open(self.0.directory().join(name)).map(RawFile)
    }

    pub(super) fn list_files(&self) -> Vec<SnapshotFile> {
        listing(self.0.files())
    }

    pub(super) fn file_meta(&self, name: &str) -> Option<Vec<u8>> {
        self.0.files().get(name).cloned()
    }
}

/// An open file without a buffer.
#[derive(Debug)]
pub(super) struct RawFile(File);

impl RawFile {
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0.write_at(bytes, offset)
    }

    pub(super) fn read_at(&self, length_max: usize, offset: u64) -> io::Result<Vec<u8>> {
        // As the host does: one call never gives more than 64 KiB.
        let mut bytes = vec![0; length_max.min(64 * 1024)];
        let read = self.0.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes)
    }

    pub(super) fn len_bytes(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }
}

fn listing(files: &BTreeMap<String, Vec<u8>>) -> Vec<SnapshotFile> {
    let file = |(name, meta): (&String, &Vec<u8>)| SnapshotFile {
        name: name.clone(),
        meta: meta.clone(),
    };
    files.iter().map(file).collect()
}
