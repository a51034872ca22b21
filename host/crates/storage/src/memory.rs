//! Storage in memory, for tests. Nothing survives the process; within it, a named one
//! (`memory://name`) survives being closed and opened again.

use crate::engine::{Batch, Change, Engine, Family, Span, Visit};
use crate::error::StorageError;
use std::collections::{BTreeMap, HashMap};
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, RwLock};

type Table = BTreeMap<Vec<u8>, Vec<u8>>;
type Tables = RwLock<[Table; 3]>;

/// Content of the named ones. An entry whose content is held elsewhere too is in use.
static NAMED: LazyLock<Mutex<HashMap<String, Arc<Tables>>>> = LazyLock::new(Mutex::default);

pub(crate) struct MemoryEngine {
    tables: Arc<Tables>,
    path: PathBuf,
}

impl MemoryEngine {
    /// An empty store, or with a name the store of that name.
    ///
    /// # Errors
    /// `InUse` if the named one is open.
    pub(crate) fn open(name: &str) -> Result<Self, StorageError> {
        let path = PathBuf::from(format!("memory://{name}"));
        if name.is_empty() {
            let tables = Arc::default();
            return Ok(Self { tables, path });
        }
        let tables = Arc::clone(lock_named().entry(name.to_owned()).or_default());
        // One for the table of names, one for us.
        if Arc::strong_count(&tables) > 2 {
            let pid = Some(std::process::id());
            return Err(StorageError::InUse { path, pid });
        }
        Ok(Self { tables, path })
    }

    fn visit<'a>(
        entries: impl Iterator<Item = (&'a Vec<u8>, &'a Vec<u8>)>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        for (key, value) in entries {
            if let ControlFlow::Break(()) = visit(key, value)? {
                break;
            }
        }
        Ok(())
    }
}

fn lock_named() -> MutexGuard<'static, HashMap<String, Arc<Tables>>> {
    NAMED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn slot(family: Family) -> usize {
    match family {
        Family::Log => 0,
        Family::State => 1,
        Family::Node => 2,
    }
}

impl Engine for MemoryEngine {
    fn write(&self, batch: &Batch) -> Result<(), StorageError> {
        let mut tables = self.tables.write().unwrap_or_else(PoisonError::into_inner);
        for (family, change) in batch.changes() {
            let table = &mut tables[slot(family)];
            match change {
                Change::Put { key, value } => {
                    table.insert(key.to_vec(), value.to_vec());
                }
                Change::Delete { key } => {
                    table.remove(key);
                }
                Change::DeleteRange { from, to } => {
                    let range = from.to_vec()..to.to_vec();
                    let doomed: Vec<_> = table.range(range).map(|(key, _)| key.clone()).collect();
                    doomed.iter().for_each(|key| drop(table.remove(key)));
                }
            }
        }
        Ok(())
    }

    fn read(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        Ok(tables[slot(family)].get(key).cloned())
    }

    fn scan(
        &self,
        family: Family,
        range: Range<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let range = range.start.to_vec()..range.end.to_vec();
        Self::visit(tables[slot(family)].range(range), visit)
    }

    fn scan_back(
        &self,
        family: Family,
        range: Range<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), StorageError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let range = range.start.to_vec()..range.end.to_vec();
        Self::visit(tables[slot(family)].range(range).rev(), visit)
    }

    /// There are no files.
    fn range_size_bytes(&self, _: Family, _: Range<&[u8]>) -> u64 {
        0
    }

    fn files_within(&self, _: Family, _: Range<&[u8]>) -> Result<Vec<Span>, StorageError> {
        Ok(Vec::new())
    }

    fn remove_file(&self, _: Family, _: &Span) -> Result<(), StorageError> {
        Ok(())
    }

    fn size_bytes(&self) -> Result<u64, StorageError> {
        let tables = self.tables.read().unwrap_or_else(PoisonError::into_inner);
        let sizes = tables.iter().flatten();
        Ok(sizes
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
