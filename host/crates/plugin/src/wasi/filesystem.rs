//! Files of the snapshot directory.
//!
//! Paths are resolved by wasmtime-wasi, which never leaves the directory. This layer adds what it
//! has not: limits on what is written and created, no links, no times and inode numbers of the
//! node, sorted directories, and preopens that mean something only while a snapshot is written or
//! read.

use super::streams::{InputStream, OutputStream, copy};
use crate::host::{Handle, HostState};
use std::io;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::filesystem::{Descriptor, File, OpenMode, WasiFilesystemCtxView};
use wasmtime_wasi::p2::bindings::filesystem::types::ErrorCode;
use wasmtime_wasi::p2::bindings::sync::filesystem::{preopens, types};
use wasmtime_wasi::p2::{
    DynInputStream, DynOutputStream, FsError, FsResult, IoError, ReaddirIterator,
};

/// What is left of a directory's entries, in reverse order of names.
pub(crate) struct DirectoryListing(Vec<types::DirectoryEntry>);

/// wasmtime-wasi's own functions, which do the work.
type Wasi<'a> = WasiFilesystemCtxView<'a>;

impl HostState {
    /// Does something with what a descriptor means now.
    fn with_descriptor<T>(
        &mut self,
        descriptor: &Resource<Descriptor>,
        run: impl FnOnce(&mut Wasi<'_>, Resource<Descriptor>) -> FsResult<T>,
    ) -> FsResult<T> {
        self.charge_call().map_err(FsError::trap)?;
        let rep = self
            .snapshot
            .resolve(descriptor.rep())
            .ok_or(ErrorCode::NoEntry)?;
        let mut wasi = Wasi {
            ctx: &mut self.filesystem,
            table: &mut self.table,
        };
        let result = run(&mut wasi, Resource::new_borrow(rep));
        if let Err(error) = &result {
            self.note_node_failure(error);
        }
        result
    }

    /// Remembers errors that are the node's, since the guest cannot tell them from its own.
    fn note_node_failure(&mut self, error: &FsError) {
        let kind = match error.downcast_ref() {
            Some(ErrorCode::InsufficientSpace) => io::ErrorKind::StorageFull,
            Some(ErrorCode::Quota) => io::ErrorKind::QuotaExceeded,
            Some(ErrorCode::InsufficientMemory) => io::ErrorKind::OutOfMemory,
            Some(ErrorCode::Io) => io::ErrorKind::Other,
            _ => return,
        };
        if let Some(session) = self.snapshot.session() {
            session.note_io_error(kind.into());
        }
    }

    /// Counts bytes before they are written.
    fn charge_written(&mut self, size_bytes: u64) -> FsResult<()> {
        let limit = self.limits.snapshot_size_bytes_max;
        let session = self.snapshot.session().ok_or(ErrorCode::BadDescriptor)?;
        if session.charge_bytes(size_bytes, limit) {
            Ok(())
        } else {
            Err(ErrorCode::Quota.into())
        }
    }

    /// Counts a file or directory before it is created.
    fn charge_created(&mut self) -> FsResult<()> {
        let limit = self.limits.snapshot_files_max;
        let session = self.snapshot.session().ok_or(ErrorCode::NoEntry)?;
        if session.charge_file(limit) {
            Ok(())
        } else {
            Err(ErrorCode::Quota.into())
        }
    }

    /// The file behind a descriptor, if it was opened for `mode`.
    fn opened_file(&mut self, descriptor: &Resource<Descriptor>, mode: OpenMode) -> FsResult<File> {
        self.with_descriptor(descriptor, |wasi, descriptor| {
            match wasi.table.get(&descriptor)? {
                Descriptor::File(file) if file.open_mode.contains(mode) => Ok(file.clone()),
                Descriptor::File(_) => Err(ErrorCode::BadDescriptor.into()),
                Descriptor::Dir(_) => Err(ErrorCode::IsDirectory.into()),
            }
        })
    }

    fn push_output(
        &mut self,
        file: Arc<std::fs::File>,
        position: Option<u64>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let stream = self.table.push(OutputStream::File { file, position })?;
        self.snapshot.track(stream.rep(), Handle::Output);
        Ok(Resource::new_own(stream.rep()))
    }

    /// Gives a file a number that is the same on every node.
    fn number(&mut self, hash: types::MetadataHashValue) -> FsResult<types::MetadataHashValue> {
        let session = self.snapshot.session().ok_or(ErrorCode::BadDescriptor)?;
        let next = session.identities.len() as u64 + 1;
        let lower = *session
            .identities
            .entry((hash.lower, hash.upper))
            .or_insert(next);
        Ok(types::MetadataHashValue { lower, upper: 0 })
    }
}

/// What a guest may know of a file: not when this node wrote it.
fn without_times(stat: types::DescriptorStat) -> types::DescriptorStat {
    types::DescriptorStat {
        link_count: 1,
        data_access_timestamp: None,
        data_modification_timestamp: None,
        status_change_timestamp: None,
        ..stat
    }
}

impl preopens::Host for HostState {
    fn get_directories(&mut self) -> wasmtime::Result<Vec<(Resource<Descriptor>, String)>> {
        self.charge_call()?;
        let preopens = self.snapshot.preopens();
        Ok(preopens
            .map(|(rep, path)| (Resource::new_own(rep), path.to_owned()))
            .into())
    }
}

impl types::Host for HostState {
    fn convert_error_code(&mut self, error: FsError) -> wasmtime::Result<types::ErrorCode> {
        Ok(error.downcast()?.into())
    }

    fn filesystem_error_code(
        &mut self,
        error: Resource<IoError>,
    ) -> wasmtime::Result<Option<types::ErrorCode>> {
        self.charge_call()?;
        let error = self.table.get(&error)?;
        let Some(error) = error.downcast_ref::<io::Error>() else {
            return Ok(None);
        };
        if error.kind() == io::ErrorKind::QuotaExceeded {
            return Ok(Some(types::ErrorCode::Quota));
        }
        Ok(Some(FsError::from(copy(error)).downcast()?.into()))
    }
}

impl types::HostDescriptor for HostState {
    fn read_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        position: u64,
    ) -> FsResult<Resource<DynInputStream>> {
        let file = self.opened_file(&fd, OpenMode::READ)?.file;
        let stream = self.table.push(InputStream::File { file, position })?;
        self.snapshot.track(stream.rep(), Handle::Input);
        Ok(Resource::new_own(stream.rep()))
    }

    fn write_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
        position: u64,
    ) -> FsResult<Resource<DynOutputStream>> {
        let file = self.opened_file(&fd, OpenMode::WRITE)?.file;
        self.push_output(file, Some(position))
    }

    fn append_via_stream(
        &mut self,
        fd: Resource<Descriptor>,
    ) -> FsResult<Resource<DynOutputStream>> {
        let file = self.opened_file(&fd, OpenMode::WRITE)?.file;
        self.push_output(file, None)
    }

    /// Advice changes nothing that a guest can see.
    fn advise(
        &mut self,
        fd: Resource<Descriptor>,
        _: u64,
        _: u64,
        _: types::Advice,
    ) -> FsResult<()> {
        self.opened_file(&fd, OpenMode::empty()).map(drop)
    }

    /// The host makes a snapshot durable as a whole, later.
    fn sync_data(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.with_descriptor(&fd, |wasi, fd| Ok(wasi.table.get(&fd).map(drop)?))
    }

    /// The host makes a snapshot durable as a whole, later.
    fn sync(&mut self, fd: Resource<Descriptor>) -> FsResult<()> {
        self.sync_data(fd)
    }

    fn get_flags(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorFlags> {
        if self.snapshot.is_preopen(fd.rep()) && self.snapshot.resolve(fd.rep()).is_none() {
            self.charge_call().map_err(FsError::trap)?;
            return Ok(types::DescriptorFlags::READ);
        }
        self.with_descriptor(&fd, |wasi, fd| types::HostDescriptor::get_flags(wasi, fd))
    }

    fn get_type(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorType> {
        // C libraries look at the preopens when they start.
        if self.snapshot.is_preopen(fd.rep()) {
            self.charge_call().map_err(FsError::trap)?;
            return Ok(types::DescriptorType::Directory);
        }
        self.with_descriptor(&fd, |wasi, fd| types::HostDescriptor::get_type(wasi, fd))
    }

    fn set_size(&mut self, fd: Resource<Descriptor>, size: u64) -> FsResult<()> {
        let file = self.opened_file(&fd, OpenMode::WRITE)?.file;
        let current = file.metadata().map_err(FsError::from)?.len();
        self.charge_written(size.saturating_sub(current))?;
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::set_size(wasi, fd, size)
        })
    }

    /// Files have no times here.
    fn set_times(
        &mut self,
        fd: Resource<Descriptor>,
        _: types::NewTimestamp,
        _: types::NewTimestamp,
    ) -> FsResult<()> {
        self.sync_data(fd)
    }

    fn read(
        &mut self,
        fd: Resource<Descriptor>,
        len: u64,
        offset: u64,
    ) -> FsResult<(Vec<u8>, bool)> {
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::read(wasi, fd, len, offset)
        })
    }

    fn write(&mut self, fd: Resource<Descriptor>, buffer: Vec<u8>, offset: u64) -> FsResult<u64> {
        self.charge_written(buffer.len() as u64)?;
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::write(wasi, fd, buffer, offset)
        })
    }

    fn read_directory(&mut self, fd: Resource<Descriptor>) -> FsResult<Resource<ReaddirIterator>> {
        let mut entries = self.with_descriptor(&fd, |wasi, fd| {
            let listing = types::HostDescriptor::read_directory(wasi, fd)?;
            let listing = wasi.table.delete(listing)?;
            let entries: FsResult<Vec<_>> = listing.into_iter().collect();
            Ok(entries?
                .into_iter()
                .map(types::DirectoryEntry::from)
                .collect::<Vec<_>>())
        })?;
        entries.sort_by(|one, other| other.name.cmp(&one.name));
        let listing = self.table.push(DirectoryListing(entries))?;
        self.snapshot.track(listing.rep(), Handle::Listing);
        Ok(Resource::new_own(listing.rep()))
    }

    fn create_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.charge_created()?;
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::create_directory_at(wasi, fd, path)
        })
    }

    fn stat(&mut self, fd: Resource<Descriptor>) -> FsResult<types::DescriptorStat> {
        self.with_descriptor(&fd, |wasi, fd| types::HostDescriptor::stat(wasi, fd))
            .map(without_times)
    }

    fn stat_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::DescriptorStat> {
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::stat_at(wasi, fd, flags, path)
        })
        .map(without_times)
    }

    /// Files have no times here.
    fn set_times_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
        _: types::NewTimestamp,
        _: types::NewTimestamp,
    ) -> FsResult<()> {
        self.stat_at(fd, flags, path).map(drop)
    }

    /// A snapshot has no links.
    fn link_at(
        &mut self,
        fd: Resource<Descriptor>,
        _: types::PathFlags,
        _: String,
        _: Resource<Descriptor>,
        _: String,
    ) -> FsResult<()> {
        self.with_descriptor(&fd, |_, _| Err(ErrorCode::NotPermitted.into()))
    }

    fn open_at(
        &mut self,
        fd: Resource<Descriptor>,
        path_flags: types::PathFlags,
        path: String,
        open_flags: types::OpenFlags,
        flags: types::DescriptorFlags,
    ) -> FsResult<Resource<Descriptor>> {
        if open_flags.contains(types::OpenFlags::CREATE)
            && self
                .stat_at(Resource::new_borrow(fd.rep()), path_flags, path.clone())
                .is_err_and(|error| matches!(error.downcast_ref(), Some(ErrorCode::NoEntry)))
        {
            self.charge_created()?;
        }
        let opened = self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::open_at(wasi, fd, path_flags, path, open_flags, flags)
        })?;
        self.snapshot.track(opened.rep(), Handle::Descriptor);
        Ok(opened)
    }

    fn readlink_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<String> {
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::readlink_at(wasi, fd, path)
        })
    }

    fn remove_directory_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::remove_directory_at(wasi, fd, path)
        })
    }

    fn rename_at(
        &mut self,
        fd: Resource<Descriptor>,
        old_path: String,
        new_fd: Resource<Descriptor>,
        new_path: String,
    ) -> FsResult<()> {
        let new = self
            .snapshot
            .resolve(new_fd.rep())
            .ok_or(ErrorCode::NoEntry)?;
        self.with_descriptor(&fd, |wasi, fd| {
            let new = Resource::new_borrow(new);
            types::HostDescriptor::rename_at(wasi, fd, old_path, new, new_path)
        })
    }

    /// A snapshot has no links.
    fn symlink_at(&mut self, fd: Resource<Descriptor>, _: String, _: String) -> FsResult<()> {
        self.with_descriptor(&fd, |_, _| Err(ErrorCode::NotPermitted.into()))
    }

    fn unlink_file_at(&mut self, fd: Resource<Descriptor>, path: String) -> FsResult<()> {
        self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::unlink_file_at(wasi, fd, path)
        })
    }

    fn is_same_object(
        &mut self,
        one: Resource<Descriptor>,
        other: Resource<Descriptor>,
    ) -> wasmtime::Result<bool> {
        self.charge_call()?;
        let (one, other) = (
            self.snapshot.resolve(one.rep()),
            self.snapshot.resolve(other.rep()),
        );
        let (Some(one), Some(other)) = (one, other) else {
            return Ok(false);
        };
        let mut wasi = Wasi {
            ctx: &mut self.filesystem,
            table: &mut self.table,
        };
        let (one, other) = (Resource::new_borrow(one), Resource::new_borrow(other));
        types::HostDescriptor::is_same_object(&mut wasi, one, other)
    }

    fn metadata_hash(&mut self, fd: Resource<Descriptor>) -> FsResult<types::MetadataHashValue> {
        let hash = self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::metadata_hash(wasi, fd)
        })?;
        self.number(hash)
    }

    fn metadata_hash_at(
        &mut self,
        fd: Resource<Descriptor>,
        flags: types::PathFlags,
        path: String,
    ) -> FsResult<types::MetadataHashValue> {
        let hash = self.with_descriptor(&fd, |wasi, fd| {
            types::HostDescriptor::metadata_hash_at(wasi, fd, flags, path)
        })?;
        self.number(hash)
    }

    fn drop(&mut self, fd: Resource<Descriptor>) -> wasmtime::Result<()> {
        // Preopens stay: the guest may ask for them again.
        if !self.snapshot.is_preopen(fd.rep()) {
            self.release::<Descriptor>(fd.rep());
        }
        Ok(())
    }
}

impl types::HostDirectoryEntryStream for HostState {
    fn read_directory_entry(
        &mut self,
        listing: Resource<ReaddirIterator>,
    ) -> FsResult<Option<types::DirectoryEntry>> {
        self.charge_call().map_err(FsError::trap)?;
        let listing = Resource::<DirectoryListing>::new_borrow(listing.rep());
        Ok(self.table.get_mut(&listing)?.0.pop())
    }

    fn drop(&mut self, listing: Resource<ReaddirIterator>) -> wasmtime::Result<()> {
        self.release::<DirectoryListing>(listing.rep());
        Ok(())
    }
}
