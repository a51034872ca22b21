//! Plugins by digest, one file each.

use crate::codec::crc32c;
use crate::directory::sync_directory;
use crate::error::StorageError;
use cap_std::fs::Dir;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Ends every file: `length u64 | crc32c u32 | magic`, little-endian, over the content before it.
const TRAILER_SIZE_BYTES: usize = 16;
const MAGIC: [u8; 4] = *b"KTB1";
const TEMPORARY_SUFFIX: &str = ".new";

/// Keeps components under the names `sha256-<64 lower-case hex digits>.wasm`, and what they say of
/// themselves under the same with `.about`.
///
/// A blob is there whole or not at all, whenever the process or the machine stops. Length and
/// checksum are verified when it is read; whether the content has the digest of its name is for the
/// caller to check, who knows where it came from.
#[derive(Debug)]
pub struct BlobStore {
    dir: Dir,
    path: PathBuf,
    /// Tells the temporary files of this process apart.
    temporaries: AtomicU64,
}

impl BlobStore {
    /// Opens the store in the directory `name` of `parent`, creating it if there is none, and
    /// removes what interrupted writes have left. `parent_path` is for messages.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn open(parent: &Dir, parent_path: &Path, name: &str) -> Result<Self, StorageError> {
        let path = parent_path.join(name);
        let open = || {
            match parent.create_dir(name) {
                Ok(()) => sync_directory(parent)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            let dir = parent.open_dir(name)?;
            remove_temporaries(&dir)?;
            Ok(dir)
        };
        let dir = open().map_err(|error| StorageError::io("opening", &path, error))?;
        Ok(Self {
            dir,
            path,
            temporaries: AtomicU64::new(0),
        })
    }

    /// Stores `content`. Durable on return. A blob of this name is replaced.
    ///
    /// # Errors
    /// `BlobName`, `NoSpace`, `Io`.
    pub fn put(&self, name: &str, content: &[u8]) -> Result<(), StorageError> {
        check_name(name)?;
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        let temporary = format!("{name}.{number}{TEMPORARY_SUFFIX}");
        let written = self.write(&temporary, name, content);
        if written.is_err() {
            // What is left of it would take space for nothing; opening tries again.
            drop(self.dir.remove_file(&temporary));
        }
        written.map_err(|error| self.io("writing", name, error))
    }

    fn write(&self, temporary: &str, name: &str, content: &[u8]) -> std::io::Result<()> {
        let mut file = self.dir.create(temporary)?;
        file.write_all(content)?;
        file.write_all(&trailer(content))?;
        file.sync_all()?;
        drop(file);
        self.dir.rename(temporary, &self.dir, name)?;
        sync_directory(&self.dir)
    }

    /// Reads a blob and verifies length and checksum.
    ///
    /// # Errors
    /// `BlobName`, `BlobNotFound`, `BlobDamaged`, `Io`.
    pub fn get(&self, name: &str) -> Result<Vec<u8>, StorageError> {
        check_name(name)?;
        let mut bytes = match self.dir.read(name) {
            Ok(bytes) => bytes,
            Err(error) => return Err(self.io("reading", name, error)),
        };
        let damaged = |why: &str| StorageError::BlobDamaged {
            name: name.to_owned(),
            why: why.to_owned(),
        };
        let length = bytes.len().checked_sub(TRAILER_SIZE_BYTES);
        let length = length.ok_or_else(|| damaged("it is too short"))?;
        let (content, found) = bytes.split_at(length);
        if found != trailer(content) {
            return Err(damaged("its length or checksum is wrong"));
        }
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Whether a blob of this name is there. It is not read.
    ///
    /// # Errors
    /// `BlobName`.
    pub fn contains(&self, name: &str) -> Result<bool, StorageError> {
        check_name(name)?;
        Ok(self.dir.is_file(name))
    }

    /// Names of all blobs, ascending.
    ///
    /// # Errors
    /// `Io`.
    pub fn list(&self) -> Result<Vec<String>, StorageError> {
        let failed = |error| StorageError::io("listing", &self.path, error);
        let mut names = Vec::new();
        for entry in self.dir.entries().map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            names.extend(
                name.to_str()
                    .filter(|name| is_name(name))
                    .map(str::to_owned),
            );
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes a blob. Durable on return.
    ///
    /// # Errors
    /// `BlobName`, `BlobNotFound`, `Io`.
    pub fn remove(&self, name: &str) -> Result<(), StorageError> {
        check_name(name)?;
        let removed = self.dir.remove_file(name);
        removed
            .and_then(|()| sync_directory(&self.dir))
            .map_err(|error| self.io("removing", name, error))
    }

    fn io(&self, doing: &'static str, name: &str, error: std::io::Error) -> StorageError {
        match error.kind() {
            ErrorKind::NotFound => StorageError::BlobNotFound {
                name: name.to_owned(),
            },
            _ => StorageError::io(doing, &self.path.join(name), error),
        }
    }
}

fn trailer(content: &[u8]) -> [u8; TRAILER_SIZE_BYTES] {
    let mut trailer = [0; TRAILER_SIZE_BYTES];
    trailer[..8].copy_from_slice(&(content.len() as u64).to_le_bytes());
    trailer[8..12].copy_from_slice(&crc32c(content).to_le_bytes());
    trailer[12..].copy_from_slice(&MAGIC);
    trailer
}

fn remove_temporaries(dir: &Dir) -> std::io::Result<()> {
    for entry in dir.entries()? {
        let name = entry?.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.ends_with(TEMPORARY_SUFFIX))
        {
            dir.remove_file(&name)?;
        }
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), StorageError> {
    match is_name(name) {
        true => Ok(()),
        false => Err(StorageError::BlobName {
            name: name.to_owned(),
        }),
    }
}

/// The only form a name may have: nothing that comes over the wire becomes part of a path otherwise.
fn is_name(name: &str) -> bool {
    let digest = name
        .strip_prefix("sha256-")
        .and_then(|name| name.strip_suffix(".wasm").or(name.strip_suffix(".about")));
    digest.is_some_and(|digest| {
        digest.len() == 64
            && digest
                .bytes()
                .all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    })
}
