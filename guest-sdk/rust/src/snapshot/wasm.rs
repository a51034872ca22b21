//! Snapshots behind the handles of the WIT package.

use super::{SnapshotFile, SnapshotInfo};
use crate::wit::kontiki::plugin::snapshots::{File, Reader, Writer};
use crate::wit::kontiki::plugin::types;
use crate::wit::wasi::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags,
};
use std::io;

/// The host's side of a snapshot being written.
#[derive(Debug)]
pub(crate) struct WriterHandle<'a> {
    writer: &'a Writer,
    directory: Descriptor,
}

impl<'a> From<&'a Writer> for WriterHandle<'a> {
    fn from(writer: &'a Writer) -> Self {
        WriterHandle {
            writer,
            directory: writer.directory(),
        }
    }
}

impl WriterHandle<'_> {
    pub(super) fn info(&self) -> SnapshotInfo {
        info(self.writer.info())
    }

    pub(super) fn create(&self, name: &str) -> io::Result<RawFile> {
        for (slash, _) in name.match_indices('/') {
            match self.directory.create_directory_at(&name[..slash]) {
                Ok(()) | Err(ErrorCode::Exist) => {}
                Err(code) => return Err(error(code)),
            }
        }
        let create = OpenFlags::CREATE | OpenFlags::EXCLUSIVE;
        open(&self.directory, name, create, DescriptorFlags::WRITE)
    }

    pub(super) fn add_file(&self, name: &str, meta: &[u8]) -> io::Result<()> {
        self.writer.add_file(name, meta).map_err(io::Error::other)
    }

    pub(super) fn remove_file(&self, name: &str) -> bool {
        self.writer.remove_file(name)
    }

    pub(super) fn list_files(&self) -> Vec<SnapshotFile> {
        files(self.writer.list_files())
    }
}

/// The host's side of a snapshot being read.
#[derive(Debug)]
pub(crate) struct ReaderHandle<'a> {
    reader: &'a Reader,
    directory: Descriptor,
}

impl<'a> From<&'a Reader> for ReaderHandle<'a> {
    fn from(reader: &'a Reader) -> Self {
        ReaderHandle {
            reader,
            directory: reader.directory(),
        }
    }
}

impl ReaderHandle<'_> {
    pub(super) fn info(&self) -> SnapshotInfo {
        info(self.reader.info())
    }

    pub(super) fn open(&self, name: &str) -> io::Result<RawFile> {
        open(
            &self.directory,
            name,
            OpenFlags::empty(),
            DescriptorFlags::READ,
        )
    }

    pub(super) fn list_files(&self) -> Vec<SnapshotFile> {
        files(self.reader.list_files())
    }

    pub(super) fn file_meta(&self, name: &str) -> Option<Vec<u8>> {
        self.reader.file_meta(name)
    }
}

/// An open file without a buffer.
#[derive(Debug)]
pub(super) struct RawFile(Descriptor);

impl RawFile {
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.0
            .write(bytes, offset)
            .map(|written| written as usize)
            .map_err(error)
    }

    pub(super) fn read_at(&self, length_max: usize, offset: u64) -> io::Result<Vec<u8>> {
        self.0
            .read(length_max as u64, offset)
            .map(|(bytes, _at_end)| bytes)
            .map_err(error)
    }

    pub(super) fn len_bytes(&self) -> io::Result<u64> {
        self.0.stat().map(|stat| stat.size).map_err(error)
    }
}

fn open(
    directory: &Descriptor,
    name: &str,
    how: OpenFlags,
    flags: DescriptorFlags,
) -> io::Result<RawFile> {
    // No path flag: a link in the last place is not followed.
    directory
        .open_at(PathFlags::empty(), name, how, flags)
        .map(RawFile)
        .map_err(error)
}

fn info(info: types::SnapshotInfo) -> SnapshotInfo {
    SnapshotInfo {
        index: info.index,
        term: info.term,
        voters: info.voters,
        learners: info.learners,
        format: info.format,
        plugin: info.plugin,
    }
}

fn files(files: Vec<File>) -> Vec<SnapshotFile> {
    files
        .into_iter()
        .map(|file| SnapshotFile {
            name: file.name,
            meta: file.meta,
        })
        .collect()
}

fn error(code: ErrorCode) -> io::Error {
    let kind = match code {
        ErrorCode::NoEntry => io::ErrorKind::NotFound,
        ErrorCode::Exist => io::ErrorKind::AlreadyExists,
        ErrorCode::Access | ErrorCode::NotPermitted => io::ErrorKind::PermissionDenied,
        ErrorCode::InsufficientSpace => io::ErrorKind::StorageFull,
        ErrorCode::Quota => io::ErrorKind::QuotaExceeded,
        ErrorCode::FileTooLarge => io::ErrorKind::FileTooLarge,
        ErrorCode::IsDirectory => io::ErrorKind::IsADirectory,
        ErrorCode::NotDirectory => io::ErrorKind::NotADirectory,
        ErrorCode::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
        ErrorCode::Invalid => io::ErrorKind::InvalidInput,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, code.message())
}
