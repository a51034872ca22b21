use super::HostState;
use crate::bindings::machine::kontiki::plugin::{snapshots as wit, types};
use crate::fault::{EnvironmentCause, GuestCause, SnapshotViolation, Stop};
use crate::wasi::{DirectoryListing, InputStream, OutputStream};
use crate::{SnapshotFile, SnapshotInfo};
use cap_std::fs::Dir;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use wasmtime::component::{Resource, ResourceTable};
use wasmtime_wasi::filesystem::{Descriptor, Dir as WasiDir, FsPerms, OpenMode};

/// Longest name of a file.
const NAME_SIZE_BYTES_MAX: usize = 1024;
/// Longest note about a file.
const META_SIZE_BYTES_MAX: usize = 64 << 10;

/// A snapshot that a guest writes; the state is in [`SnapshotAccess`].
#[allow(unreachable_pub, reason = "wanted by the generated bindings")]
pub struct Writer(());

/// A snapshot that a guest reads; the state is in [`SnapshotAccess`].
#[allow(unreachable_pub, reason = "wanted by the generated bindings")]
pub struct Reader(());

/// What a call may do with the snapshot directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// `save`
    Write,
    /// `load`
    Read,
}

/// What a handle that lives no longer than its call is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handle {
    Descriptor,
    Listing,
    Input,
    Output,
    Writer,
    Reader,
}

/// Stands in the table for a preopened directory: the place is kept as long as the instance
/// lives, since the C library asks for preopens once.
struct Preopen;

/// The snapshot directory, while a call may use it.
pub(crate) struct SnapshotAccess {
    /// Places of the preopens `/snapshot/out` and `/snapshot/in` in the table.
    preopens: [u32; 2],
    session: Option<Session>,
    /// Handles that were made in this session, by their place in the table.
    handles: BTreeMap<u32, Handle>,
}

/// One `save` or `load`.
pub(crate) struct Session {
    pub(crate) access: Access,
    /// To look at what the guest has written.
    directory: Dir,
    /// What the guest works with.
    root: WasiDir,
    /// Place of `root` in the table.
    root_rep: u32,
    info: SnapshotInfo,
    /// Files of the snapshot, with their notes.
    files: BTreeMap<String, Vec<u8>>,
    written_bytes: u64,
    created_files: u64,
    /// First limit that was reached.
    violation: Option<SnapshotViolation>,
    /// First failure of the node's file system. The guest saw it as an error like any other.
    io_error: Option<io::Error>,
    /// Numbers for files in order of first sight, since those of the system differ by node.
    pub(crate) identities: BTreeMap<(u64, u64), u64>,
}

impl SnapshotAccess {
    pub(crate) fn new(table: &mut ResourceTable) -> Result<Self, wasmtime::Error> {
        let preopens = [table.push(Preopen)?.rep(), table.push(Preopen)?.rep()];
        Ok(Self {
            preopens,
            session: None,
            handles: BTreeMap::new(),
        })
    }

    /// Opens the directory for a call.
    pub(crate) fn begin(
        &mut self,
        table: &mut ResourceTable,
        access: Access,
        directory: Dir,
        info: &SnapshotInfo,
        files: &[SnapshotFile],
    ) -> Result<(), Stop> {
        let clone = directory
            .try_clone()
            .map_err(|source| Stop::io("opening the snapshot", source))?;
        let (perms, mode) = match access {
            Access::Write => (FsPerms::ReadWrite, OpenMode::READ | OpenMode::WRITE),
            Access::Read => (FsPerms::ReadOnly, OpenMode::READ),
        };
        // The thread is made for such calls, so file operations may block it.
        let root = WasiDir::new(clone.into_std_file(), perms, mode, true);
        let root_rep = table
            .push(Descriptor::Dir(root.clone()))
            .map_err(|error| Stop::from(GuestCause::Abi(error.to_string())))?
            .rep();
        self.handles.insert(root_rep, Handle::Descriptor);
        self.session = Some(Session {
            access,
            directory,
            root,
            root_rep,
            info: info.clone(),
            files: files
                .iter()
                .map(|file| (file.name.clone(), file.meta.clone()))
                .collect(),
            written_bytes: 0,
            created_files: 0,
            violation: None,
            io_error: None,
            identities: BTreeMap::new(),
        });
        Ok(())
    }

    /// Takes back every handle that the call made, whatever the guest did with it.
    pub(crate) fn end(&mut self, table: &mut ResourceTable) -> Option<Session> {
        for (rep, handle) in std::mem::take(&mut self.handles) {
            // Errors say that the guest has dropped it; then it is gone, too.
            match handle {
                Handle::Descriptor => drop(table.delete(Resource::<Descriptor>::new_own(rep))),
                Handle::Listing => drop(table.delete(Resource::<DirectoryListing>::new_own(rep))),
                Handle::Input => drop(table.delete(Resource::<InputStream>::new_own(rep))),
                Handle::Output => drop(table.delete(Resource::<OutputStream>::new_own(rep))),
                Handle::Writer => drop(table.delete(Resource::<Writer>::new_own(rep))),
                Handle::Reader => drop(table.delete(Resource::<Reader>::new_own(rep))),
            }
        }
        self.session.take()
    }

    /// Makes the handle that is passed to `save`.
    pub(crate) fn writer(
        &mut self,
        table: &mut ResourceTable,
    ) -> wasmtime::Result<Resource<Writer>> {
        let writer = table.push(Writer(()))?;
        self.handles.insert(writer.rep(), Handle::Writer);
        Ok(Resource::new_borrow(writer.rep()))
    }

    /// Makes the handle that is passed to `load`.
    pub(crate) fn reader(
        &mut self,
        table: &mut ResourceTable,
    ) -> wasmtime::Result<Resource<Reader>> {
        let reader = table.push(Reader(()))?;
        self.handles.insert(reader.rep(), Handle::Reader);
        Ok(Resource::new_borrow(reader.rep()))
    }

    /// Remembers a handle that must not outlive the call.
    pub(crate) fn track(&mut self, rep: u32, handle: Handle) {
        self.handles.insert(rep, handle);
    }

    /// The guest has dropped a handle.
    pub(crate) fn forget(&mut self, rep: u32) {
        self.handles.remove(&rep);
    }

    /// The session, if a call may use files.
    pub(crate) fn session(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Preopens and their paths, as places in the table.
    pub(crate) fn preopens(&self) -> [(u32, &'static str); 2] {
        [
            (self.preopens[0], "/snapshot/out"),
            (self.preopens[1], "/snapshot/in"),
        ]
    }

    /// Whether a place in the table belongs to a preopen.
    pub(crate) fn is_preopen(&self, rep: u32) -> bool {
        self.preopens.contains(&rep)
    }

    /// The place in the table of what a descriptor means now. A preopen means the directory of the
    /// running call, and nothing between calls.
    pub(crate) fn resolve(&self, rep: u32) -> Option<u32> {
        let opened_by = match self.preopens.iter().position(|&preopen| preopen == rep) {
            None => return Some(rep),
            Some(0) => Access::Write,
            Some(_) => Access::Read,
        };
        let session = self.session.as_ref()?;
        (session.access == opened_by).then_some(session.root_rep)
    }
}

impl Session {
    /// Counts bytes that the guest is about to write. `false` once it is over the limit.
    pub(crate) fn charge_bytes(&mut self, size_bytes: u64, limit: u64) -> bool {
        self.written_bytes = self.written_bytes.saturating_add(size_bytes);
        if self.written_bytes > limit {
            self.violation
                .get_or_insert(SnapshotViolation::TooLarge { limit });
        }
        self.written_bytes <= limit
    }

    /// Counts a file or directory that the guest is about to create. `false` once there are too
    /// many.
    pub(crate) fn charge_file(&mut self, limit: u64) -> bool {
        self.created_files += 1;
        if self.created_files > limit {
            self.violation
                .get_or_insert(SnapshotViolation::TooManyFiles { limit });
        }
        self.created_files <= limit
    }

    /// Notes that the node's file system failed.
    pub(crate) fn note_io_error(&mut self, error: io::Error) {
        self.io_error.get_or_insert(error);
    }

    /// The node's failure during the call, if there was one.
    pub(crate) fn check_io(&mut self) -> Result<(), Stop> {
        match self.io_error.take() {
            Some(source) => Err(Stop::io("reading or writing the snapshot", source)),
            None => Ok(()),
        }
    }

    /// The limit that was reached during the call, if there was one.
    pub(crate) fn check_limits(&self) -> Result<(), Stop> {
        match &self.violation {
            Some(violation) => Err(violation.clone().into()),
            None => Ok(()),
        }
    }

    /// Names and sizes of the files that the guest has made part of the snapshot, after `save`.
    pub(crate) fn into_files(self, size_limit: u64) -> Result<Vec<SnapshotFile>, Stop> {
        let mut total = 0u64;
        let mut files = Vec::with_capacity(self.files.len());
        for (name, meta) in self.files {
            let size_bytes = regular_file_size(&self.directory, &name)?;
            total = total.saturating_add(size_bytes);
            // A file may have holes that were never written, and never counted.
            if total > size_limit {
                return Err(SnapshotViolation::TooLarge { limit: size_limit }.into());
            }
            files.push(SnapshotFile {
                name,
                meta,
                size_bytes,
            });
        }
        Ok(files)
    }
}

/// Size of a regular file, reached through directories only: no link is followed.
fn regular_file_size(directory: &Dir, name: &str) -> Result<u64, Stop> {
    let not_regular = || SnapshotViolation::NotRegular {
        name: name.to_owned(),
    };
    let look = |path: &Path| match directory.symlink_metadata(path) {
        Ok(metadata) => Ok(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SnapshotViolation::Missing {
            name: name.to_owned(),
        }
        .into()),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => Err(not_regular().into()),
        Err(error) => Err(Stop::io("looking at a snapshot file", error)),
    };
    let path = Path::new(name);
    let parents = path
        .ancestors()
        .skip(1)
        .filter(|parent| !parent.as_os_str().is_empty());
    for parent in parents.collect::<Vec<_>>().into_iter().rev() {
        if !look(parent)?.is_dir() {
            return Err(not_regular().into());
        }
    }
    let metadata = look(path)?;
    if metadata.is_file() {
        Ok(metadata.len())
    } else {
        Err(not_regular().into())
    }
}

/// Checks the form of a name: relative, `/` between parts, no `.` or `..`.
fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > NAME_SIZE_BYTES_MAX {
        return Err(format!("a file name has 1 to {NAME_SIZE_BYTES_MAX} bytes"));
    }
    if name.contains(['\\', '\0']) || name.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(format!(
            "{name:?} is no file name: it is relative to the snapshot directory, with `/` between \
             its parts and no `.` or `..`"
        ));
    }
    Ok(())
}

impl HostState {
    fn open_session(&mut self) -> wasmtime::Result<&mut Session> {
        self.charge_call()?;
        let none = || Stop::from(GuestCause::Abi("no snapshot is open".to_owned()));
        Ok(self.snapshot.session().ok_or_else(none)?)
    }

    fn snapshot_directory(&mut self) -> wasmtime::Result<Resource<Descriptor>> {
        let root = self.open_session()?.root.clone();
        let descriptor = self.table.push(Descriptor::Dir(root))?;
        self.snapshot.track(descriptor.rep(), Handle::Descriptor);
        Ok(descriptor)
    }

    fn snapshot_info(&mut self) -> wasmtime::Result<types::SnapshotInfo> {
        let info = &self.open_session()?.info;
        Ok(types::SnapshotInfo {
            index: info.index,
            term: info.term,
            voters: info.voters.clone(),
            learners: info.learners.clone(),
            format: info.format,
            plugin: info.plugin.clone(),
        })
    }

    fn snapshot_files(&mut self) -> wasmtime::Result<Vec<wit::File>> {
        let files = &self.open_session()?.files;
        let file = |(name, meta): (&String, &Vec<u8>)| wit::File {
            name: name.clone(),
            meta: meta.clone(),
        };
        Ok(files.iter().map(file).collect())
    }
}

impl wit::Host for HostState {}

impl wit::HostWriter for HostState {
    fn directory(&mut self, _: Resource<Writer>) -> wasmtime::Result<Resource<Descriptor>> {
        self.snapshot_directory()
    }

    fn info(&mut self, _: Resource<Writer>) -> wasmtime::Result<types::SnapshotInfo> {
        self.snapshot_info()
    }

    fn add_file(
        &mut self,
        _: Resource<Writer>,
        name: String,
        meta: Vec<u8>,
    ) -> wasmtime::Result<Result<(), String>> {
        let limit = self.limits.snapshot_files_max;
        let session = self.open_session()?;
        if let Err(reason) = check_name(&name) {
            return Ok(Err(reason));
        }
        if meta.len() > META_SIZE_BYTES_MAX {
            return Ok(Err(format!(
                "a note has at most {META_SIZE_BYTES_MAX} bytes"
            )));
        }
        if session.files.len() as u64 >= limit && !session.files.contains_key(&name) {
            return Ok(Err(format!("a snapshot has at most {limit} files")));
        }
        match regular_file_size(&session.directory, &name) {
            Ok(_) => {
                session.files.insert(name, meta);
                Ok(Ok(()))
            }
            Err(Stop::Guest(GuestCause::Snapshot(violation))) => Ok(Err(violation.to_string())),
            Err(stop) => Err(stop.into()),
        }
    }

    fn remove_file(&mut self, _: Resource<Writer>, name: String) -> wasmtime::Result<bool> {
        Ok(self.open_session()?.files.remove(&name).is_some())
    }

    fn list_files(&mut self, _: Resource<Writer>) -> wasmtime::Result<Vec<wit::File>> {
        self.snapshot_files()
    }

    fn drop(&mut self, _: Resource<Writer>) -> wasmtime::Result<()> {
        // Guests have it on loan only; it goes with the session.
        Ok(())
    }
}

impl wit::HostReader for HostState {
    fn directory(&mut self, _: Resource<Reader>) -> wasmtime::Result<Resource<Descriptor>> {
        self.snapshot_directory()
    }

    fn info(&mut self, _: Resource<Reader>) -> wasmtime::Result<types::SnapshotInfo> {
        self.snapshot_info()
    }

    fn list_files(&mut self, _: Resource<Reader>) -> wasmtime::Result<Vec<wit::File>> {
        self.snapshot_files()
    }

    fn file_meta(
        &mut self,
        _: Resource<Reader>,
        name: String,
    ) -> wasmtime::Result<Option<Vec<u8>>> {
        Ok(self.open_session()?.files.get(&name).cloned())
    }

    fn drop(&mut self, _: Resource<Reader>) -> wasmtime::Result<()> {
        Ok(())
    }
}

impl types::Host for HostState {}

impl Stop {
    /// A failure of the node's file system.
    pub(crate) fn io(operation: &'static str, source: io::Error) -> Self {
        Self::Environment(EnvironmentCause::Io { operation, source })
    }
}

impl From<SnapshotViolation> for Stop {
    fn from(violation: SnapshotViolation) -> Self {
        Self::Guest(GuestCause::Snapshot(violation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for name in ["state", "a/b/c", "...", "a.b", "ä"] {
            check_name(name).unwrap();
        }
        let long = "n".repeat(NAME_SIZE_BYTES_MAX + 1);
        for name in [
            "", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\0b", &long,
        ] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn only_regular_files_behind_directories_have_a_size() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::write(root.join("a/b/file"), b"123").unwrap();
        std::os::unix::fs::symlink("a/b/file", root.join("link")).unwrap();
        std::os::unix::fs::symlink("a/b", root.join("dirlink")).unwrap();
        let directory = Dir::open_ambient_dir(root, cap_std::ambient_authority()).unwrap();
        assert_eq!(regular_file_size(&directory, "a/b/file").unwrap(), 3);
        for (name, cause) in [
            ("a", "no regular file"),
            ("link", "no regular file"),
            ("dirlink/file", "no regular file"),
            ("a/b/file/x", "no regular file"),
            ("nothing", "no such file"),
            ("a/nothing/x", "no such file"),
        ] {
            let error = regular_file_size(&directory, name).unwrap_err().to_string();
            assert!(error.contains(cause), "{name}: {error}");
        }
    }
}
