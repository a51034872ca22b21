//! Files with a format number and checksums.
//!
//! Layout, integers little-endian: the magic `KTKSTATE`, the format as `u32`, then frames. A frame is
//! its length as `u32`, a CRC-32C as `u32`, and that many bytes; a frame of length 0 ends the file.
//! The checksum covers format, number and length of the frame and its bytes, so a frame cannot be
//! changed, moved or left out, and a file cannot be cut short, without being noticed before any of
//! the bytes concerned are handed out.

use crate::crc32c::Crc32c;
use crate::{FileReader, FileWriter};
use std::io::{self, Read, Write};

const MAGIC: [u8; 8] = *b"KTKSTATE";
/// Bytes in a full frame.
const FRAME_BYTES: usize = 64 * 1024;

fn checksum(format: u32, number: u64, bytes: &[u8]) -> u32 {
    Crc32c::new()
        .update(&format.to_le_bytes())
        .update(&number.to_le_bytes())
        .update(&(bytes.len() as u32).to_le_bytes())
        .update(bytes)
        .finish()
}

fn damaged(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// A checked file being written; made by
/// [`SnapshotWriter::create_checked`](crate::SnapshotWriter::create_checked).
#[derive(Debug)]
pub struct CheckedWriter<'a> {
    file: FileWriter<'a>,
    format: u32,
    /// Number of the frame that is being filled.
    number: u64,
    frame: Vec<u8>,
}

impl<'a> CheckedWriter<'a> {
    pub(crate) fn new(mut file: FileWriter<'a>, format: u32) -> io::Result<Self> {
        file.write_all(&MAGIC)?;
        file.write_all(&format.to_le_bytes())?;
        Ok(CheckedWriter {
            file,
            format,
            number: 0,
            frame: Vec::new(),
        })
    }

    /// Ends the file and makes it part of the snapshot; see [`FileWriter::finish`].
    ///
    /// # Errors
    /// If writing fails, as on a full disk.
    pub fn finish(mut self, meta: &[u8]) -> io::Result<()> {
        if !self.frame.is_empty() {
            self.write_frame()?;
        }
        self.write_frame()?;
        self.file.finish(meta)
    }

    fn write_frame(&mut self) -> io::Result<()> {
        let length = self.frame.len() as u32;
        self.file.write_all(&length.to_le_bytes())?;
        let checksum = checksum(self.format, self.number, &self.frame);
        self.file.write_all(&checksum.to_le_bytes())?;
        self.file.write_all(&self.frame)?;
        self.frame.clear();
        self.number += 1;
        Ok(())
    }
}

impl Write for CheckedWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(FRAME_BYTES - self.frame.len());
        self.frame.extend_from_slice(&bytes[..taken]);
        if self.frame.len() == FRAME_BYTES {
            self.write_frame()?;
        }
        Ok(taken)
    }

    /// Does nothing: a frame is written when it is full or the file is finished, so that equal
    /// contents make equal files.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A checked file being read; made by
/// [`SnapshotReader::open_checked`](crate::SnapshotReader::open_checked). It never hands out a byte
/// whose checksum it has not seen to be right.
#[derive(Debug)]
pub struct CheckedReader {
    file: FileReader,
    format: u32,
    /// Number of the next frame.
    number: u64,
    frame: Vec<u8>,
    /// How much of `frame` was handed out.
    taken: usize,
    ended: bool,
}

impl CheckedReader {
    pub(crate) fn new(mut file: FileReader) -> io::Result<Self> {
        let magic: [u8; 8] = read_array(&mut file)?;
        if magic != MAGIC {
            return Err(damaged("does not begin as a checked file of a snapshot"));
        }
        let format = u32::from_le_bytes(read_array(&mut file)?);
        Ok(CheckedReader {
            file,
            format,
            number: 0,
            frame: Vec::new(),
            taken: 0,
            ended: false,
        })
    }

    /// The format number it was written with. Its checksum is verified with the first read.
    pub fn format(&self) -> u32 {
        self.format
    }

    /// Confirms that everything was read and the file ends where its writer ended it.
    ///
    /// # Errors
    /// If bytes are left over, or the end is missing or damaged.
    pub fn finish(mut self) -> io::Result<()> {
        if self.fill()? {
            return Err(damaged("more in the file than its format allows"));
        }
        Ok(())
    }

    /// Has the next bytes ready; false at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        if self.taken == self.frame.len() && !self.ended {
            self.read_frame()?;
        }
        Ok(self.taken < self.frame.len())
    }

    fn read_frame(&mut self) -> io::Result<()> {
        let length = u32::from_le_bytes(read_array(&mut self.file)?) as usize;
        let expected = u32::from_le_bytes(read_array(&mut self.file)?);
        if length > FRAME_BYTES {
            return Err(damaged(format!(
                "frame {} is too long: {length} bytes",
                self.number
            )));
        }
        self.frame.resize(length, 0);
        self.taken = 0;
        read_all(&mut self.file, &mut self.frame)?;
        if checksum(self.format, self.number, &self.frame) != expected {
            self.frame.clear();
            return Err(damaged(format!(
                "checksum of frame {} does not match",
                self.number
            )));
        }
        self.number += 1;
        if length == 0 {
            self.ended = true;
            self.check_nothing_follows()?;
        }
        Ok(())
    }

    fn check_nothing_follows(&mut self) -> io::Result<()> {
        match self.file.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(damaged("bytes after the end")),
        }
    }
}

impl Read for CheckedReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if !self.fill()? {
            return Ok(0);
        }
        let amount = into.len().min(self.frame.len() - self.taken);
        into[..amount].copy_from_slice(&self.frame[self.taken..self.taken + amount]);
        self.taken += amount;
        Ok(amount)
    }
}

fn read_all(file: &mut FileReader, into: &mut [u8]) -> io::Result<()> {
    file.read_exact(into).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("cut short"),
        _ => error,
    })
}

fn read_array<const N: usize>(file: &mut FileReader) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    read_all(file, &mut bytes)?;
    Ok(bytes)
}
