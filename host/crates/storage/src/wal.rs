//! Looks through RocksDB's write-ahead logs before RocksDB does.
//!
//! The recovery mode we use accepts a torn end and refuses damage before it, but RocksDB 11.8 cannot
//! always tell the two apart: a damaged length makes the rest of the file look like a torn record
//! and all of it is dropped; a header of zeros makes it skip to the next block of 32 KiB; and a type
//! byte that turns into that of a recycled record makes it loop for ever. So damage that has intact
//! records behind it is found here, where it is refused by name.
//!
//! ```text
//! file    blocks of 32 KiB, the last one shorter
//! block   records, then fewer than 7 bytes of padding
//! record  crc u32 LE | length u16 LE | type u8 | data
//!         crc = masked CRC-32C(type | data)
//! ```
//!
//! A batch too large for a block is cut into a first, middle ones and a last. Every batch is synced
//! before the next begins, so what a crash tears is one batch: no *first* or *full* record can follow
//! it. One that does means that the damage is not a torn end.

use crate::codec::crc32c;
use crate::error::StorageError;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

const BLOCK_SIZE_BYTES: u64 = 32 << 10;
const HEADER_SIZE_BYTES: usize = 7;

const FULL: u8 = 1;
const FIRST: u8 = 2;
const LAST: u8 = 4;
/// Types RocksDB may write at the head of a file: compression, timestamp sizes, the log before.
const AT_HEAD: [u8; 3] = [9, 10, 130];
/// Types only found in recycled files, which we do not have.
const RECYCLED: [u8; 6] = [5, 6, 7, 8, 11, 131];

/// Checks all write-ahead logs of the database at `path`, if there is one.
///
/// # Errors
/// `DirectoryDamaged` naming file and offset, `Io`.
pub(crate) fn check_logs(path: &Path) -> Result<(), StorageError> {
    for log in logs(path)? {
        let mut file = File::open(&log).map_err(|error| io(&log, error))?;
        let mut scan = Scan::default();
        loop {
            let mut block = Vec::new();
            (&mut file)
                .take(BLOCK_SIZE_BYTES)
                .read_to_end(&mut block)
                .map_err(|error| io(&log, error))?;
            if block.is_empty() {
                break;
            }
            scan.block(&block).map_err(|offset| damaged(&log, offset))?;
        }
    }
    Ok(())
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

fn damaged(path: &Path, offset: u64) -> StorageError {
    StorageError::DirectoryDamaged {
        path: path.to_owned(),
        why: format!("the record at byte {offset} is damaged, and intact ones follow it"),
    }
}

/// How far a file was read.
#[derive(Debug, Default)]
struct Scan {
    /// Offset of the next block.
    offset: u64,
    /// First record that is not intact.
    broken: Option<u64>,
}

impl Scan {
    /// Reads the next block. `Err` with the offset of the damage.
    fn block(&mut self, block: &[u8]) -> Result<(), u64> {
        let mut at = match self.broken {
            None => self.intact_records(block)?,
            Some(_) => 0,
        };
        if let Some(broken) = self.broken {
            while let Some(rest) = block.get(at..)
                && rest.len() >= HEADER_SIZE_BYTES
            {
                if begins_batch(rest[6]) && intact_size(rest).is_some() {
                    return Err(broken);
                }
                at += 1;
            }
        }
        self.offset += block.len() as u64;
        Ok(())
    }

    /// Reads records up to the end of the block or the first that is not intact, and gives the
    /// place where a search may go on.
    fn intact_records(&mut self, block: &[u8]) -> Result<usize, u64> {
        let mut at = 0;
        while block.len() - at >= HEADER_SIZE_BYTES {
            let record = &block[at..];
            let Some(size) = intact_size(record) else {
                let offset = self.offset + at as u64;
                self.broken = Some(offset);
                // RocksDB would never come back from it.
                let endless = RECYCLED.contains(&record[6]);
                return if endless { Err(offset) } else { Ok(at + 1) };
            };
            at += size;
        }
        Ok(at)
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
