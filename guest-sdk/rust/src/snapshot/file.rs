//! One file of a snapshot, gathered into pieces the host takes quickly.

use super::SnapshotWriter;
use super::backend::RawFile;
use std::fmt;
use std::io::{self, BufRead, Read, Write};

/// Bytes written or asked for in one call: between 64 KiB and 1 MiB the calls cost nothing.
const CHUNK_BYTES: usize = 256 * 1024;

/// A file being written; made by [`SnapshotWriter::create`].
pub struct FileWriter<'a> {
    snapshot: &'a SnapshotWriter<'a>,
    name: String,
    file: RawFile,
    /// Written from `offset` on as soon as it has [`CHUNK_BYTES`].
    buffer: Vec<u8>,
    offset: u64,
}

impl<'a> FileWriter<'a> {
    pub(super) fn new(snapshot: &'a SnapshotWriter<'a>, name: &str, file: RawFile) -> Self {
        FileWriter {
            snapshot,
            name: name.to_owned(),
            file,
            buffer: Vec::new(),
            offset: 0,
        }
    }

    /// Writes what is gathered and makes the file part of the snapshot, with a note that a reader
    /// gets beside it. A file that is dropped without this is not part of the snapshot.
    ///
    /// # Errors
    /// If writing fails, as on a full disk.
    pub fn finish(mut self, meta: &[u8]) -> io::Result<()> {
        self.flush()?;
        self.snapshot.add(&self.name, meta)
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let written = self.file.write_at(rest, self.offset)?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.offset += written as u64;
            rest = &rest[written..];
        }
        self.buffer.clear();
        Ok(())
    }
}

impl Write for FileWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == CHUNK_BYTES {
            self.write_buffer()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_buffer()
    }
}

impl fmt::Debug for FileWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWriter")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A file being read; made by [`SnapshotReader::open`](super::SnapshotReader::open).
pub struct FileReader {
    file: RawFile,
    buffer: Vec<u8>,
    /// How much of `buffer` was handed out.
    taken: usize,
    offset: u64,
}

impl FileReader {
    pub(super) fn new(file: RawFile) -> Self {
        FileReader {
            file,
            buffer: Vec::new(),
            taken: 0,
            offset: 0,
        }
    }

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn len_bytes(&self) -> io::Result<u64> {
        self.file.len_bytes()
    }
}

impl BufRead for FileReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.taken == self.buffer.len() {
            self.buffer = self.file.read_at(CHUNK_BYTES, self.offset)?;
            self.offset += self.buffer.len() as u64;
            self.taken = 0;
        }
        Ok(&self.buffer[self.taken..])
    }

    fn consume(&mut self, amount: usize) {
        self.taken += amount;
    }
}

impl Read for FileReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let amount = available.len().min(into.len());
        into[..amount].copy_from_slice(&available[..amount]);
        self.consume(amount);
        Ok(amount)
    }
}

impl fmt::Debug for FileReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileReader")
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
