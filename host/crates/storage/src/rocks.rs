//! The engine over RocksDB. With `rocks_options.rs` the only place that names it.

use crate::codec::Reader;
use crate::engine::{Batch, Change, Engine, Family, Visit};
use crate::error::StorageError;
use crate::layout::open_record;
use crate::rocks_options::{column_options, database_options};
use crate::uri::Options;
use crate::wal::repair_logs;
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, ErrorKind, IteratorMode, ReadOptions, WriteBatch,
    WriteOptions,
};
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the layout of keys and records.
const FORMAT: u32 = 1;
/// Node record that holds the format. Begins with a byte no key of a caller should begin with.
const FORMAT_KEY: &[u8] = b"\0format";

pub(crate) struct RocksEngine {
    db: DB,
    path: PathBuf,
    write_options: WriteOptions,
}

impl RocksEngine {
    /// Opens the database at `path`, creating it if there is none.
    ///
    /// # Errors
    /// `InUse`, `NewerFormat`, `DirectoryDamaged`, `NoSpace`, `Io`.
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self, StorageError> {
        repair_logs(path)?;
        let families = Family::ALL.map(|family| {
            ColumnFamilyDescriptor::new(family.name(), column_options(family, options))
        });
        let db = DB::open_cf_descriptors(&database_options(options), path, families)
            .map_err(|error| open_error(path, &error))?;
        let mut write_options = WriteOptions::default();
        // Durable means fdatasync, for each batch: this is what an acknowledgement promises.
        write_options.set_sync(true);
        let engine = Self {
            db,
            path: path.to_owned(),
            write_options,
        };
        engine.check_format()?;
        Ok(engine)
    }

    /// Checks the format, or records it in a new database.
    fn check_format(&self) -> Result<(), StorageError> {
        let path = || self.path.clone();
        let Some(record) = self.read(Family::Node, FORMAT_KEY)? else {
            return self.record_format();
        };
        let found = open_record(Family::Node, FORMAT_KEY, &record)
            .and_then(|body| Reader(body).u32())
            .map_err(|error| StorageError::DirectoryDamaged {
                path: path(),
                why: format!("record of the format: {error}"),
            })?;
        if found > FORMAT {
            return Err(StorageError::NewerFormat {
                path: path(),
                found,
                supported: FORMAT,
            });
        }
        Ok(())
    }

    /// A database without a format must be empty: the format is the first thing written.
    fn record_format(&self) -> Result<(), StorageError> {
        for family in Family::ALL {
            let mut iterator = self.db.raw_iterator_cf(self.family(family));
            iterator.seek_to_first();
            if iterator.valid() {
                return Err(StorageError::DirectoryDamaged {
                    path: self.path.clone(),
                    why: "the record of the format is missing".to_owned(),
                });
            }
        }
        let mut batch = Batch::default();
        batch.put(Family::Node, FORMAT_KEY, |out| {
            out.extend(FORMAT.to_le_bytes())
        });
        self.write(&batch)
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db
            .cf_handle(family.name())
            .expect("every family is opened with the database")
    }

    fn visit(
        &self,
        family: Family,
        range: Range<&[u8]>,
        back: bool,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(range);
        // A log is read in runs that are used once: keep the cache for what is used again.
        options.fill_cache(family != Family::Log);
        let mode = match back {
            false => IteratorMode::Start,
            true => IteratorMode::End,
        };
        for item in self.db.iterator_cf_opt(self.family(family), options, mode) {
            let (key, value) = item.map_err(|error| self.error("reading", &error))?;
            if let ControlFlow::Break(()) = visit(&key, &value)? {
                break;
            }
        }
        Ok(())
    }

    fn error(&self, doing: &'static str, error: &rocksdb::Error) -> StorageError {
        convert_error(doing, &self.path, error)
    }
}

impl Engine for RocksEngine {
    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        let mut writes = WriteBatch::with_capacity_bytes(batch.size_bytes() + 64);
        let families = Family::ALL.map(|family| self.family(family));
        for (family, change) in batch.changes() {
            let family = match family {
                Family::Log => families[0],
                Family::State => families[1],
                Family::Node => families[2],
            };
            match change {
                Change::Put { key, value } => writes.put_cf(family, key, value),
                Change::Delete { key } => writes.delete_cf(family, key),
                Change::DeleteRange { from, to } => writes.delete_range_cf(family, from, to),
            }
        }
        self.db
            .write_opt(writes, &self.write_options)
            .map_err(|error| self.error("writing to", &error))
    }

    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.db
            .get_cf(self.family(family), key)
            .map_err(|error| self.error("reading", &error))
    }

    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        self.visit(family, range, false, visit)
    }

    fn scan_back(
        &self,
        family: Family,
        range: Range<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        self.visit(family, range, true, visit)
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// An error while opening: the same words mean other things than later.
fn open_error(path: &Path, error: &rocksdb::Error) -> StorageError {
    let text: &str = error.as_ref();
    let path = || path.to_owned();
    if text.contains("lock file") || text.contains("No locks available") {
        return StorageError::InUse {
            path: path(),
            pid: None,
        };
    }
    match error.kind() {
        ErrorKind::Corruption => StorageError::DirectoryDamaged {
            path: path(),
            why: text.to_owned(),
        },
        ErrorKind::InvalidArgument => StorageError::Foreign {
            path: path(),
            found: text.to_owned(),
        },
        _ => convert_error("opening", &path(), error),
    }
}

/// RocksDB reports errors as text only.
fn convert_error(doing: &'static str, path: &Path, error: &rocksdb::Error) -> StorageError {
    const FULL: [&str; 4] = [
        "No space left on device",
        "Disk quota exceeded",
        "File too large",
        "NoSpace",
    ];
    let text: &str = error.as_ref();
    let path = path.to_owned();
    if FULL.iter().any(|full| text.contains(full)) {
        return StorageError::NoSpace { path };
    }
    let why = text.to_owned();
    match error.kind() {
        ErrorKind::Corruption => StorageError::DirectoryDamaged { path, why },
        _ => StorageError::Io {
            doing,
            path,
            source: Arc::new(io::Error::other(why)),
        },
    }
}
