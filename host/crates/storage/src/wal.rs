//! Looks through RocksDB's write-ahead logs before RocksDB does, and cuts off a torn end.
//!
//! After a power cut the last batch may be on disk in part. That is normal, nobody was told of it;
//! but no recovery mode of RocksDB 11.8 tells it from damage. `TolerateCorruptedTailRecords` takes a
//! damaged length in the middle for a torn end and drops the acknowledged batches behind it, skips
//! the rest of a block whose header is zeroed, loops for ever on a type byte that has become that
//! of a recycled record, and refuses a batch of which a page in the middle is missing, as power cuts
//! on ext4 do leave behind. `PointInTime` drops whatever follows any damage. So the decision is made
//! here, and RocksDB runs in the mode that refuses everything unusual.
//!
//! ```text
//! file    blocks of 32 KiB, the last one shorter
//! block   records, then fewer than 7 bytes of padding
//! record  crc u32 LE | length u16 LE | type u8 | data
//!         crc = masked CRC-32C(type | data)
//! ```
//!
//! A batch too large for a block is cut into a first, middle ones and a last. Every batch is synced
//! before the next begins, so what a crash tears is one batch, and no *first* or *full* record can
//! follow it. A broken record is thus
//! - **damage**, if an intact first or full record follows;
//! - **torn**, if none does, and it reaches beyond the end of the file or a sector of 512 bytes of it
//!   is all zeros, since a file is longer than what was written to it only by zeros (etcd's rule);
//! - **damage** of the last batch otherwise, which may have been acknowledged.

use crate::codec::crc32c;
use crate::error::StorageError;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const BLOCK_SIZE_BYTES: u64 = 32 << 10;
const HEADER_SIZE_BYTES: usize = 7;
const SECTOR_SIZE_BYTES: u64 = 512;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
/// Types RocksDB may write at the head of a file: compression, timestamp sizes, the log before.
const AT_HEAD: [u8; 3] = [9, 10, 130];

/// Checks all write-ahead logs of the database at `path`, if there is one, and cuts off torn ends.
/// Nobody else may have it open.
///
/// # Errors
/// `DirectoryDamaged` naming file and offset, `Io`.
pub(crate) fn repair_logs(path: &Path) -> Result<(), StorageError> {
    for log in logs(path)? {
        let mut file = File::open(&log).map_err(|error| io(&log, error))?;
        let scan = scan(&mut file).map_err(|error| io(&log, error))?;
        let end = match (scan.broken, scan.batch) {
            (None, None) => continue,
            // Records are missing at the end of a batch; those that are there are whole.
            (None, Some(batch)) => batch,
            (Some(broken), batch) => {
                refuse_damage(&log, &mut file, &scan, broken)?;
                batch.unwrap_or(broken)
            }
        };
        tracing::info!(file = %log.display(), end, "cutting off a torn write that nobody was told of");
        cut(&log, end).map_err(|error| StorageError::io("shortening", &log, error))?;
    }
    Ok(())
}

fn scan(file: &mut File) -> std::io::Result<Scan> {
    let mut scan = Scan::default();
    loop {
        let mut block = Vec::new();
        file.take(BLOCK_SIZE_BYTES).read_to_end(&mut block)?;
        if block.is_empty() {
            return Ok(scan);
        }
        scan.block(&block);
    }
}

fn refuse_damage(
    log: &Path,
    file: &mut File,
    scan: &Scan,
    broken: u64,
) -> Result<(), StorageError> {
    let found = if scan.followed {
        "intact ones follow it"
    } else if is_torn(file, broken).map_err(|error| io(log, error))? {
        return Ok(());
    } else {
        "it is whole"
    };
    Err(StorageError::DirectoryDamaged {
        path: log.to_owned(),
        why: format!("the record at byte {broken} is damaged, and not torn, since {found}"),
    })
}

/// Whether the file looks as if it were written in part from `broken` on: see the module.
fn is_torn(file: &mut File, broken: u64) -> std::io::Result<bool> {
    file.seek(SeekFrom::Start(broken))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    let beyond = match rest.first_chunk::<HEADER_SIZE_BYTES>() {
        None => true,
        Some(header) => {
            let length = u64::from(u16::from_le_bytes([header[4], header[5]]));
            let reach = HEADER_SIZE_BYTES as u64 + length;
            let block_left = BLOCK_SIZE_BYTES - broken % BLOCK_SIZE_BYTES;
            // A length that does not fit the block was never written: it is no torn record's.
            reach > rest.len() as u64 && reach <= block_left
        }
    };
    let mut left = &rest[..];
    let mut sector_left = SECTOR_SIZE_BYTES - broken % SECTOR_SIZE_BYTES;
    let mut zeros = false;
    while !left.is_empty() {
        let here = left
            .len()
            .min(usize::try_from(sector_left).unwrap_or(left.len()));
        let (sector, rest) = left.split_at(here);
        zeros |= sector.iter().all(|byte| *byte == 0);
        left = rest;
        sector_left = SECTOR_SIZE_BYTES;
    }
    Ok(beyond || zeros)
}

fn cut(log: &Path, end: u64) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).open(log)?;
    file.set_len(end)?;
    file.sync_all()
}

fn logs(path: &Path) -> Result<Vec<PathBuf>, StorageError> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(io(path, error)),
    };
    let mut logs = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| io(path, error))?.path();
        if file.extension().is_some_and(|extension| extension == "log") {
            logs.push(file);
        }
    }
    logs.sort_unstable();
    Ok(logs)
}

fn io(path: &Path, error: std::io::Error) -> StorageError {
    StorageError::io("reading", path, error)
}

/// What was found in a file.
#[derive(Debug, Default)]
struct Scan {
    /// Offset of the next block.
    offset: u64,
    /// Where the batch begins whose last record has not been seen yet.
    batch: Option<u64>,
    /// First record that is not intact.
    broken: Option<u64>,
    /// An intact batch begins after `broken`.
    followed: bool,
}

impl Scan {
    fn block(&mut self, block: &[u8]) {
        let mut at = match self.broken {
            None => self.intact_records(block),
            Some(_) => 0,
        };
        // Behind a broken record nothing says where the next begins.
        while self.broken.is_some()
            && !self.followed
            && let Some(rest) = block.get(at..)
            && rest.len() >= HEADER_SIZE_BYTES
        {
            self.followed = begins_batch(rest[6]) && intact_size(rest).is_some();
            at += 1;
        }
        self.offset += block.len() as u64;
    }

    /// Reads records up to the end of the block or the first that is not intact, and gives the
    /// place where a search may go on.
    fn intact_records(&mut self, block: &[u8]) -> usize {
        let mut at = 0;
        let whole = block.len() as u64 == BLOCK_SIZE_BYTES;
        while at < block.len() {
            let record = &block[at..];
            if whole && record.len() < HEADER_SIZE_BYTES {
                break;
            }
            let offset = self.offset + at as u64;
            let Some(size) = intact_size(record) else {
                self.broken = Some(offset);
                return at + 1;
            };
            match record[6] {
                FIRST => self.batch = Some(offset),
                FULL | LAST => self.batch = None,
                _ => {}
            }
            at += size;
        }
        at
    }
}

fn begins_batch(kind: u8) -> bool {
    kind == FULL || kind == FIRST
}

/// Size of the record at the beginning of `bytes`, if it is intact.
fn intact_size(bytes: &[u8]) -> Option<usize> {
    let (crc, rest) = bytes.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::from(u16::from_le_bytes(*length));
    let kind = *rest.first()?;
    let known = (FULL..=LAST).contains(&kind) || AT_HEAD.contains(&kind);
    let covered = rest.get(..=length)?;
    (known && u32::from_le_bytes(*crc) == masked(crc32c(covered)))
        .then_some(HEADER_SIZE_BYTES + length)
}

/// RocksDB masks checksums, so that a checksum of data that holds checksums stays a good one.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}
