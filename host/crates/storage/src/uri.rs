//! Choosing a storage by URI.

use crate::error::{StorageError, UriError};
use crate::memory::MemoryEngine;
use crate::rocks::RocksEngine;
use crate::storage::Storage;
use crate::store::Store;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

/// Where and how a storage is kept: `rocksdb://<path>` on disk, `memory://` in memory (`memory://name`
/// outlives being closed, within the process), or what an embedding program has added to a
/// [`Registry`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StorageUri {
    scheme: String,
    rest: String,
}

impl StorageUri {
    /// The URI of a RocksDB at `path`.
    ///
    /// # Errors
    /// `NoPath` if it is empty or not UTF-8.
    pub fn rocksdb(path: &Path) -> Result<Self, UriError> {
        format!("rocksdb://{}", path.to_str().unwrap_or_default()).parse()
    }

    /// What stands before `://`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What stands after `://`, literally.
    #[must_use]
    pub fn rest(&self) -> &str {
        &self.rest
    }
}

impl FromStr for StorageUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(UriError::NoScheme(text.to_owned()));
        };
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "+-.".contains(c);
        if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.chars().all(allowed) {
            return Err(UriError::InvalidScheme(text.to_owned()));
        }
        if scheme == "rocksdb" && rest.is_empty() {
            return Err(UriError::NoPath(text.to_owned()));
        }
        Ok(Self {
            scheme: scheme.to_owned(),
            rest: rest.to_owned(),
        })
    }
}

impl fmt::Display for StorageUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.rest)
    }
}

/// Settings of a storage.
#[derive(Clone, Debug)]
pub struct Options {
    /// The writer stops gathering when a batch has this many bytes. Bounds the memory of a batch
    /// and the time of a sync. Default 8 MiB.
    pub batch_size_bytes_max: usize,
    /// Log entries are kept in memory up to this size before they go to a table file; twice as much
    /// may be in use while one is being written. Entries compacted before that never cost a
    /// second write. Default 64 MiB.
    pub memtable_size_bytes: usize,
    /// Write-ahead logs are kept below this size, which bounds the time a restart takes to read
    /// them. Default 256 MiB.
    pub wal_size_bytes_max: u64,
    /// Table files that are kept open; the others are opened when they are needed. Default 512.
    pub open_files_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            batch_size_bytes_max: 8 << 20,
            memtable_size_bytes: 64 << 20,
            wal_size_bytes_max: 256 << 20,
            open_files_max: 512,
        }
    }
}

/// Opens a storage for a URI of its scheme.
pub type Opener =
    Arc<dyn Fn(&StorageUri, &Options) -> Result<Arc<dyn Storage>, StorageError> + Send + Sync>;

/// Which schemes there are. Begins with `rocksdb` and `memory`.
#[derive(Clone)]
pub struct Registry {
    openers: BTreeMap<String, Opener>,
}

impl Default for Registry {
    fn default() -> Self {
        let mut registry = Self {
            openers: BTreeMap::new(),
        };
        registry.register("rocksdb", Arc::new(open_rocksdb));
        registry.register("memory", Arc::new(open_memory));
        registry
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.openers.keys()).finish()
    }
}

impl Registry {
    /// Adds a scheme, or replaces what it stands for.
    pub fn register(&mut self, scheme: &str, opener: Opener) {
        self.openers.insert(scheme.to_owned(), opener);
    }

    /// Opens the storage at `uri`, creating it if nothing is there.
    ///
    /// # Errors
    /// `Uri` for an unknown scheme, else what opening reports: `InUse`, `NewerFormat`,
    /// `DirectoryDamaged`, `NoSpace`, `Io`.
    pub fn open(
        &self,
        uri: &StorageUri,
        options: &Options,
    ) -> Result<Arc<dyn Storage>, StorageError> {
        let opener = self.openers.get(uri.scheme()).ok_or_else(|| {
            let known: Vec<_> = self.openers.keys().map(String::as_str).collect();
            UriError::UnknownScheme {
                scheme: uri.scheme().to_owned(),
                known: known.join(", "),
            }
        })?;
        opener(uri, options)
    }
}

/// Opens a storage of one of the schemes built in, creating it if nothing is there.
///
/// # Errors
/// As [`Registry::open`].
pub fn open(uri: &StorageUri, options: &Options) -> Result<Arc<dyn Storage>, StorageError> {
    Registry::default().open(uri, options)
}

fn open_rocksdb(uri: &StorageUri, options: &Options) -> Result<Arc<dyn Storage>, StorageError> {
    let engine = RocksEngine::open(&PathBuf::from(uri.rest()), options)?;
    Ok(Arc::new(Store::start(Arc::new(engine), options)?))
}

fn open_memory(uri: &StorageUri, options: &Options) -> Result<Arc<dyn Storage>, StorageError> {
    let engine = MemoryEngine::open(uri.rest())?;
    Ok(Arc::new(Store::start(Arc::new(engine), options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_are_parsed_or_refused_with_what_is_wrong() {
        let good = [
            "rocksdb:///var/lib/x",
            "rocksdb://db",
            "memory://",
            "memory://a",
            "s3+x://b/c",
        ];
        for text in good {
            assert_eq!(text.parse::<StorageUri>().unwrap().to_string(), text);
        }
        let bad = [
            ("/var/lib/x", "lacks \"://\""),
            ("rocksdb:/var", "lacks \"://\""),
            ("", "lacks \"://\""),
            ("://x", "invalid scheme"),
            ("Rocks://x", "invalid scheme"),
            ("1x://x", "invalid scheme"),
            ("rocksdb://", "lacks a path"),
        ];
        for (text, expected) in bad {
            let error = text.parse::<StorageUri>().unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn unknown_scheme_names_the_known_ones() {
        let uri = "floppy://a".parse().unwrap();
        let error = open(&uri, &Options::default()).err().unwrap().to_string();
        assert!(
            error.contains("floppy") && error.contains("memory, rocksdb"),
            "{error}"
        );
    }

    #[test]
    fn a_program_can_add_schemes() {
        let mut registry = Registry::default();
        let opener = |uri: &StorageUri, options: &Options| {
            assert_eq!(uri.rest(), "elsewhere");
            open(&"memory://".parse()?, options)
        };
        registry.register("mine", Arc::new(opener));
        let uri = "mine://elsewhere".parse().unwrap();
        let storage = registry.open(&uri, &Options::default()).unwrap();
        assert!(storage.groups().unwrap().is_empty());
    }
}
