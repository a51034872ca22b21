use crate::fault::{GuestCause, Stop};
use crate::host::{HostState, StandardStream};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, StreamError, StreamResult};

/// Most bytes that go through a stream in one call.
const CHUNK_SIZE_BYTES_MAX: u64 = 64 << 10;

// The types of the generated bindings name what wasmtime-wasi keeps in its table. The table here
// holds the types of this file at the places that the handles name.

/// What a guest reads from.
pub(crate) enum InputStream {
    /// At its end from the beginning.
    Empty,
    /// A file, from a position on.
    File { file: Arc<File>, position: u64 },
}

/// What a guest writes to.
pub(crate) enum OutputStream {
    /// The plugin's log.
    Log(StandardStream),
    /// A file, from a position on, or at its end.
    File {
        file: Arc<File>,
        position: Option<u64>,
    },
}

/// Something to wait for that never makes one wait.
pub(crate) struct AlwaysReady;

impl AlwaysReady {
    /// A pollable: another handle of the guest's to the one there is.
    pub(crate) fn handle(state: &mut HostState) -> wasmtime::Result<Resource<DynPollable>> {
        state.charge_call()?;
        Ok(Resource::new_own(state.stdio.ready))
    }
}

impl poll::Host for HostState {
    fn poll(&mut self, pollables: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        self.charge_call()?;
        if pollables.is_empty() {
            return Err(Stop::from(GuestCause::Abi("polled an empty list".to_owned())).into());
        }
        for pollable in &pollables {
            self.table
                .get(&Resource::<AlwaysReady>::new_borrow(pollable.rep()))?;
        }
        Ok((0..pollables.len() as u32).collect())
    }
}

impl poll::HostPollable for HostState {
    fn ready(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<bool> {
        self.charge_call()?;
        Ok(true)
    }

    fn block(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<()> {
        self.charge_call()?;
        Ok(())
    }

    fn drop(&mut self, _: Resource<DynPollable>) -> wasmtime::Result<()> {
        Ok(())
    }
}

fn trap(error: impl Into<wasmtime::Error>) -> StreamError {
    StreamError::Trap(error.into())
}

impl HostState {
    /// Reads at most `len` bytes; fewer only at the end of the file.
    fn read_stream(&mut self, stream: u32, len: u64) -> StreamResult<Vec<u8>> {
        self.charge_call().map_err(trap)?;
        match self
            .table
            .get_mut(&Resource::<InputStream>::new_borrow(stream))?
        {
            InputStream::Empty => Err(StreamError::Closed),
            InputStream::File { file, position } => {
                let mut bytes = vec![0; len.min(CHUNK_SIZE_BYTES_MAX) as usize];
                let result = read_at_most(file, &mut bytes, *position);
                let size = self.note_stream_error(result)?;
                bytes.truncate(size);
                self.advance(stream, size as u64)?;
                if bytes.is_empty() && len > 0 {
                    Err(StreamError::Closed)
                } else {
                    Ok(bytes)
                }
            }
        }
    }

    fn advance(&mut self, stream: u32, size_bytes: u64) -> StreamResult<()> {
        let stream = Resource::<InputStream>::new_borrow(stream);
        if let InputStream::File { position, .. } = self.table.get_mut(&stream)? {
            *position += size_bytes;
        }
        Ok(())
    }

    fn write_stream(&mut self, stream: u32, bytes: &[u8]) -> StreamResult<()> {
        self.charge_call().map_err(trap)?;
        if bytes.len() as u64 > CHUNK_SIZE_BYTES_MAX {
            let text = format!("wrote more than {CHUNK_SIZE_BYTES_MAX} bytes at once");
            return Err(trap(Stop::from(GuestCause::Abi(text))));
        }
        let limit = self.limits.snapshot_size_bytes_max;
        match self
            .table
            .get_mut(&Resource::<OutputStream>::new_borrow(stream))?
        {
            OutputStream::Log(stream) => self.log.print(*stream, bytes),
            OutputStream::File { file, position } => {
                let session = self.snapshot.session().ok_or(StreamError::Closed)?;
                if !session.charge_bytes(bytes.len() as u64, limit) {
                    return Err(failed(io::ErrorKind::QuotaExceeded.into()));
                }
                let result = write_all(file, position, bytes);
                self.note_stream_error(result)?;
            }
        }
        Ok(())
    }

    /// A failure of the node's file system is remembered beside being told to the guest.
    fn note_stream_error<T>(&mut self, result: io::Result<T>) -> StreamResult<T> {
        result.map_err(|error| {
            if let Some(session) = self.snapshot.session() {
                session.note_io_error(copy(&error));
            }
            failed(error)
        })
    }

    fn check_stream(&mut self, stream: u32) -> StreamResult<u64> {
        self.charge_call().map_err(trap)?;
        self.table
            .get(&Resource::<OutputStream>::new_borrow(stream))?;
        Ok(CHUNK_SIZE_BYTES_MAX)
    }

    fn write_zeroes_to_stream(&mut self, stream: u32, len: u64) -> StreamResult<()> {
        // One byte more is refused as too long.
        let len = len.min(CHUNK_SIZE_BYTES_MAX + 1);
        self.write_stream(stream, &vec![0; len as usize])
    }

    fn splice_streams(&mut self, to: u32, from: u32, len: u64) -> StreamResult<u64> {
        let bytes = self.read_stream(from, len)?;
        self.write_stream(to, &bytes)?;
        Ok(bytes.len() as u64)
    }
}

fn failed(error: io::Error) -> StreamError {
    StreamError::LastOperationFailed(error.into())
}

/// The same error once more; `io::Error` cannot be cloned.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

fn read_at_most(file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], position + done as u64) {
            Ok(0) => break,
            Ok(size) => done += size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

fn write_all(file: &File, position: &mut Option<u64>, bytes: &[u8]) -> io::Result<()> {
    match position {
        Some(position) => {
            file.write_all_at(bytes, *position)?;
            *position += bytes.len() as u64;
            Ok(())
        }
        // Nobody else writes to the file, so its end does not move meanwhile.
        None => file.write_all_at(bytes, file.metadata()?.len()),
    }
}

impl streams::Host for HostState {
    fn convert_stream_error(
        &mut self,
        error: StreamError,
    ) -> wasmtime::Result<streams::StreamError> {
        match error {
            StreamError::Closed => Ok(streams::StreamError::Closed),
            StreamError::LastOperationFailed(error) => Ok(
                streams::StreamError::LastOperationFailed(self.table.push(error)?),
            ),
            StreamError::Trap(error) => Err(error),
        }
    }
}

impl streams::HostInputStream for HostState {
    fn read(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        self.read_stream(stream.rep(), len)
    }

    fn blocking_read(
        &mut self,
        stream: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<Vec<u8>> {
        self.read_stream(stream.rep(), len)
    }

    fn skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        Ok(self.read_stream(stream.rep(), len)?.len() as u64)
    }

    fn blocking_skip(&mut self, stream: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        Ok(self.read_stream(stream.rep(), len)?.len() as u64)
    }

    fn subscribe(
        &mut self,
        _: Resource<DynInputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        AlwaysReady::handle(self)
    }

    fn drop(&mut self, stream: Resource<DynInputStream>) -> wasmtime::Result<()> {
        if !self.stdio.contains(stream.rep()) {
            self.release::<InputStream>(stream.rep());
        }
        Ok(())
    }
}

impl streams::HostOutputStream for HostState {
    fn check_write(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<u64> {
        self.check_stream(stream.rep())
    }

    fn write(&mut self, stream: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        self.write_stream(stream.rep(), &bytes)
    }

    fn blocking_write_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        bytes: Vec<u8>,
    ) -> StreamResult<()> {
        self.write_stream(stream.rep(), &bytes)
    }

    // Nothing is buffered.
    fn flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.check_stream(stream.rep()).map(drop)
    }

    fn blocking_flush(&mut self, stream: Resource<DynOutputStream>) -> StreamResult<()> {
        self.check_stream(stream.rep()).map(drop)
    }

    fn subscribe(
        &mut self,
        _: Resource<DynOutputStream>,
    ) -> wasmtime::Result<Resource<DynPollable>> {
        AlwaysReady::handle(self)
    }

    fn write_zeroes(&mut self, stream: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        self.write_zeroes_to_stream(stream.rep(), len)
    }

    fn blocking_write_zeroes_and_flush(
        &mut self,
        stream: Resource<DynOutputStream>,
        len: u64,
    ) -> StreamResult<()> {
        self.write_zeroes_to_stream(stream.rep(), len)
    }

    fn splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        self.splice_streams(to.rep(), from.rep(), len)
    }

    fn blocking_splice(
        &mut self,
        to: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        self.splice_streams(to.rep(), from.rep(), len)
    }

    fn drop(&mut self, stream: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        if !self.stdio.contains(stream.rep()) {
            self.release::<OutputStream>(stream.rep());
        }
        Ok(())
    }
}
