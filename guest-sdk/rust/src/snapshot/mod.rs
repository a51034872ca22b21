//! Snapshots as a machine writes and reads them: files in a directory that it is handed.

mod file;
#[cfg(not(target_family = "wasm"))]
mod native;
#[cfg(target_family = "wasm")]
mod wasm;

#[cfg(not(target_family = "wasm"))]
use native as backend;
#[cfg(target_family = "wasm")]
use wasm as backend;

use crate::{CheckedReader, CheckedWriter};
pub(crate) use backend::{ReaderHandle, WriterHandle};
pub use file::{FileReader, FileWriter};
use std::io;

/// Where in the log a snapshot stands, and who wrote it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// Last log index it includes.
    pub index: u64,
    /// Term of that entry.
    pub term: u64,
    /// Ids of the voters at that index, ascending.
    pub voters: Vec<u64>,
    /// Ids of the learners at that index, ascending.
    pub learners: Vec<u64>,
    /// Format in which it is (to be) written.
    pub format: u32,
    /// `sha256:…` of the plugin that wrote it.
    pub plugin: String,
}

/// A file of a snapshot as the manifest knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotFile {
    /// Path relative to the snapshot directory, `/` between parts.
    pub name: String,
    /// The plugin's own note about it.
    pub meta: Vec<u8>,
}

/// A snapshot being written. Files become part of it when they are finished.
///
/// ```
/// use kontiki_guest::{Error, SnapshotWriter};
/// use std::io::Write;
///
/// fn save(snapshot: &SnapshotWriter<'_>, lines: &[String]) -> Result<(), Error> {
///     let mut file = snapshot.create("lines/all.txt")?;
///     for line in lines {
///         writeln!(file, "{line}")?;
///     }
///     file.finish(b"one line each")?;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
pub struct SnapshotWriter<'a>(WriterHandle<'a>);

impl<'a> SnapshotWriter<'a> {
    pub(crate) fn new(handle: impl Into<WriterHandle<'a>>) -> Self {
        SnapshotWriter(handle.into())
    }

    /// Where in the log the snapshot stands.
    pub fn info(&self) -> SnapshotInfo {
        self.0.info()
    }

    /// Creates a file, and the directories above it. Writes are gathered into large ones.
    ///
    /// # Errors
    /// If the name leaves the directory, the file exists, or the directory cannot be written.
    pub fn create(&self, name: &str) -> io::Result<FileWriter<'_>> {
        check_name(name)?;
        Ok(FileWriter::new(self, name, self.0.create(name)?))
    }

    /// Creates a file that carries a format number and checksums, so that a damaged one is noticed
    /// before any of it is believed.
    ///
    /// # Errors
    /// As [`create`](SnapshotWriter::create).
    pub fn create_checked(&self, name: &str, format: u32) -> io::Result<CheckedWriter<'_>> {
        CheckedWriter::new(self.create(name)?, format)
    }

    /// Takes a file out of the snapshot again; true if it was in.
    pub fn remove(&self, name: &str) -> bool {
        self.0.remove_file(name)
    }

    /// The files that are part of the snapshot, by name.
    pub fn files(&self) -> Vec<SnapshotFile> {
        self.0.list_files()
    }

    /// Makes a file part of the snapshot that was written by other means into the directory
    /// (preopened as `/snapshot/out` for code that wants paths).
    ///
    /// # Errors
    /// If it is no regular file of the directory.
    pub fn add(&self, name: &str, meta: &[u8]) -> io::Result<()> {
        check_name(name)?;
        self.0.add_file(name, meta)
    }
}

/// A snapshot being read.
///
/// ```
/// use kontiki_guest::{Error, SnapshotReader};
/// use std::io::BufRead;
///
/// fn load(snapshot: &SnapshotReader<'_>) -> Result<Vec<String>, Error> {
///     let file = snapshot.open("lines/all.txt")?;
///     Ok(file.lines().collect::<Result<_, _>>()?)
/// }
/// ```
#[derive(Debug)]
pub struct SnapshotReader<'a>(ReaderHandle<'a>);

impl<'a> SnapshotReader<'a> {
    pub(crate) fn new(handle: impl Into<ReaderHandle<'a>>) -> Self {
        SnapshotReader(handle.into())
    }

    /// Where in the log the snapshot stands, and who wrote it.
    pub fn info(&self) -> SnapshotInfo {
        self.0.info()
    }

    /// Opens a file. Reads are made in large pieces.
    ///
    /// # Errors
    /// If there is no such file in the directory.
    pub fn open(&self, name: &str) -> io::Result<FileReader> {
        check_name(name)?;
        self.0
            .open(name)
            .map(FileReader::new)
            .map_err(|error| naming(name, &error))
    }

    /// Opens a file that [`create_checked`](SnapshotWriter::create_checked) made.
    ///
    /// # Errors
    /// If there is no such file, or it does not begin like one.
    pub fn open_checked(&self, name: &str) -> io::Result<CheckedReader> {
        CheckedReader::new(self.open(name)?).map_err(|error| naming(name, &error))
    }

    /// The files of the snapshot, by name.
    pub fn files(&self) -> Vec<SnapshotFile> {
        self.0.list_files()
    }

    /// The note about one file.
    pub fn meta(&self, name: &str) -> Option<Vec<u8>> {
        self.0.file_meta(name)
    }
}

fn naming(name: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{name}: {error}"))
}

/// Refuses here what the host would refuse, so that a native test finds it.
fn check_name(name: &str) -> io::Result<()> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    if name.split('/').all(plain) && !name.contains(['\\', '\0']) {
        return Ok(());
    }
    let text = format!("{name:?} is no path inside the snapshot directory");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn names_stay_inside_the_directory() {
        for good in ["state", "a/b.bin", ".hidden", "..."] {
            check_name(good).unwrap();
        }
        for bad in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a//b",
            "a/",
            ".",
            "a\\b",
            "a\0b",
        ] {
            check_name(bad).unwrap_err();
        }
    }
}
