//! The engine over RocksDB. With `rocks_options.rs` the only place that names it.

use crate::codec::Reader;
use crate::engine::{Batch, Change, Engine, Family, Span, Visit};
use crate::error::StorageError;
use crate::layout::open_record;
use crate::open_databases::OpenDatabase;
use crate::rocks_options::{column_options, database_options};
use crate::spare::Spare;
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
    spare: Spare,
    /// Below the database, so as to be dropped after it.
    _counted: OpenDatabase,
}

impl RocksEngine {
    /// Opens the database at `path`, creating it if there is none.
    ///
    /// # Errors
    /// `InUse`, `NewerFormat`, `DirectoryDamaged`, `NoSpace`, `Io`.
    pub(crate) fn open(path: &Path, options: &Options) -> Result<Self, StorageError> {
        let counted = OpenDatabase::count();
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
            spare: Spare::new().map_err(|error| StorageError::io("opening", path, error))?,
            _counted: counted,
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
        self.spare.wait();
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

    fn range_size_bytes(&self, family: Family, range: Range<&[u8]>) -> u64 {
        let range = rocksdb::Range::new(range.start, range.end);
        let sizes = self
            .db
            .get_approximate_sizes_cf(self.family(family), &[range]);
        sizes.into_iter().sum()
    }

    fn files_within(&self, family: Family, range: Range<&[u8]>) -> Result<Vec<Span>, StorageError> {
        let files = self
            .db
            .live_files()
            .map_err(|error| self.error("listing", &error))?;
        let spans = files.into_iter().filter_map(|file| {
            // Files of level 0 overlap; RocksDB does not remove them this way.
            let ours = file.column_family_name == family.name() && file.level > 0;
            let span = file.start_key.filter(|_| ours)?..=file.end_key?;
            (range.start <= &span.start()[..] && &span.end()[..] < range.end).then_some(span)
        });
        Ok(spans.collect())
    }

    fn remove_file(&self, family: Family, span: &Span) -> Result<(), StorageError> {
        self.db
            .delete_file_in_range_cf(self.family(family), span.start(), span.end())
            .map_err(|error| self.error("removing a file of", &error))
    }

    /// RocksDB's properties know its table files but not its write-ahead log, which is most of a
    /// young log: so the files are counted, all of them.
    fn size_bytes(&self) -> Result<u64, StorageError> {
        directory_size_bytes(&self.path)
            .map_err(|error| StorageError::io("measuring", &self.path, error))
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

/// Bytes of the files in a directory. Files that go while it looks do not count.
fn directory_size_bytes(path: &Path) -> io::Result<u64> {
    let mut size_bytes = 0;
    for file in std::fs::read_dir(path)? {
        match file?.metadata() {
            Ok(metadata) if metadata.is_file() => size_bytes += metadata.len(),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(size_bytes)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{GROUP_RECORD, log_key, state_key};
    use crate::store::Store;
    use crate::{GroupRecord, Storage};
    use bytes::Bytes;
    use kontiki_raft::{Entry, EntryKind, GroupId, LogId, LogIndex, Persist, Term};
    use std::time::{Duration, Instant};

    fn fill(storage: &dyn Storage, id: GroupId, indexes: std::ops::RangeInclusive<u64>) {
        for index in indexes {
            let write = Persist {
                entries: vec![Entry {
                    id: LogId::new(Term(1), LogIndex(index)),
                    time_ns: 0,
                    kind: EntryKind::Command(Bytes::from(vec![7; 8 << 10])),
                }],
                ..Persist::default()
            };
            storage.persist(id, write, Box::new(|result| assert!(result.is_ok())));
        }
        storage.recover(id, 0).unwrap();
    }

    #[test]
    fn files_of_compacted_entries_are_removed_and_no_others() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            memtable_size_bytes: 256 << 10,
            // A memtable is not cut within a batch.
            batch_size_bytes_max: 64 << 10,
            ..Options::default()
        };
        let engine = Arc::new(RocksEngine::open(directory.path(), &options).unwrap());
        let storage = Store::start(Arc::clone(&engine) as Arc<dyn Engine>, &options).unwrap();
        let groups = [GroupId(1), GroupId(2)];
        for id in groups {
            let body = Vec::new();
            storage.create_group(&GroupRecord { id, body }).unwrap();
            fill(&storage, id, 1..=400);
        }
        engine.db.flush_cf(engine.family(Family::Log)).unwrap();
        engine
            .db
            .compact_range_cf(engine.family(Family::Log), None::<&[u8]>, None::<&[u8]>);
        let files = |id| {
            let (from, to) = (log_key(id, LogIndex(0)), log_key(id, LogIndex(u64::MAX)));
            engine
                .files_within(Family::Log, &from[..]..&to[..])
                .unwrap()
                .len()
        };
        let before = groups.map(files);
        assert!(before[0] >= 8 && before[1] >= 8, "{before:?}");
        for id in groups {
            let size = storage.log_size_bytes(id).unwrap();
            // 400 entries of 8 KiB each.
            assert!((3_000_000..4_000_000).contains(&size), "{size}");
        }
        assert_eq!(storage.log_size_bytes(GroupId(3)).unwrap(), 0);

        storage.compact(GroupId(1), LogId::new(Term(1), LogIndex(390)));
        let deadline = Instant::now() + Duration::from_secs(30);
        while files(GroupId(1)) > 2 {
            assert!(Instant::now() < deadline, "files are still there");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(files(GroupId(2)), before[1]);
        assert!(storage.log_size_bytes(GroupId(1)).unwrap() < 1_000_000);
        let found = storage.recover(GroupId(1), usize::MAX).unwrap();
        assert_eq!(found.tail.len(), 10);
        assert_eq!(
            storage.recover(GroupId(2), usize::MAX).unwrap().tail.len(),
            400
        );
        storage.close();
        // The engine outlives the storage here only because the test holds it.
        let key = state_key(GroupId(1), GROUP_RECORD);
        assert!(engine.read(Family::State, &key).unwrap().is_some());
    }
}
