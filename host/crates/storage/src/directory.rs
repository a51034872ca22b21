//! The data directory of a node: who it is, and a lock that keeps everybody else out.
//!
//! ```text
//! identity    who this node is; see `Identity`
//! LOCK        locked by the process that has the directory open, holds its pid
//! db/         the RocksDB of all groups
//! plugins/    components by digest
//! groups/     snapshots
//! ```

use crate::blob::BlobStore;
use crate::codec::crc32c;
use crate::error::StorageError;
use crate::uri::StorageUri;
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions};
use kontiki_raft::NodeId;
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

/// Version of the directory's layout and of the identity file.
const FORMAT: u32 = 1;
const IDENTITY: &str = "identity";
const IDENTITY_NEW: &str = "identity.new";
const LOCK: &str = "LOCK";
/// First line of the identity file.
const TITLE: &str = "Kontiki data directory";
/// The identity file is a few lines; more is none of ours.
const IDENTITY_SIZE_BYTES_MAX: u64 = 64 << 10;
/// Longest name of a node or cluster.
const NAME_SIZE_BYTES_MAX: usize = 255;

/// Who a node is. Recorded when its directory is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Drawn at random by the caller for a new directory, so that a node whose disk was wiped comes
    /// back as a stranger.
    pub node: NodeId,
    /// The node's name in configuration and messages.
    pub name: String,
    /// The cluster it belongs to; empty if it was not told of one.
    pub cluster: String,
}

/// A node's data directory, locked for as long as the value lives.
///
/// The lock is an advisory one (`flock`) of the operating system: it is gone when the process is,
/// however it died.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    dir: Dir,
    identity: Identity,
    /// Holds the lock.
    _lock: File,
}

impl DataDirectory {
    /// Opens the directory at `path` for the node `wanted`, and locks it.
    ///
    /// If nothing is there and `create` is set, it is created, with `wanted` as its identity,
    /// durable on return. If it exists, `wanted.node` does not matter: the recorded id counts; the
    /// name must be the recorded one, and the cluster too if both name one.
    ///
    /// # Errors
    /// `InvalidName`, `NotInitialised` (nothing there and `create` not set), `Foreign`, `InUse`,
    /// `OtherNode`, `OtherCluster`, `NewerFormat`, `DirectoryDamaged`, `NoSpace`, `Io`.
    pub fn open(path: &Path, create: bool, wanted: &Identity) -> Result<Self, StorageError> {
        if create {
            check_names(wanted)?;
            create_directory(path)?;
        }
        let dir = match Dir::open_ambient_dir(path, ambient_authority()) {
            Ok(dir) => dir,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let path = path.to_owned();
                return Err(StorageError::NotInitialised { path });
            }
            Err(error) => return Err(StorageError::io("opening", path, error)),
        };
        // Looked at before the lock file is made: nothing is left behind in a foreign directory.
        refuse_foreign(path, &dir, create)?;
        let lock = lock(path, &dir)?;
        let identity = match read_identity(path, &dir)? {
            Some(identity) => identity,
            None => {
                write_identity(path, &dir, wanted)?;
                wanted.clone()
            }
        };
        let path = path.to_owned();
        check_identity(&path, &identity, wanted)?;
        Ok(Self {
            path,
            dir,
            identity,
            _lock: lock,
        })
    }

    /// Who the node is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is, for messages and for libraries that take nothing but a path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The directory itself; what is below it is opened through this.
    #[must_use]
    pub fn dir(&self) -> &Dir {
        &self.dir
    }

    /// The URI of the database kept in this directory.
    ///
    /// # Errors
    /// `Uri` if the path is not UTF-8.
    pub fn storage_uri(&self) -> Result<StorageUri, StorageError> {
        Ok(StorageUri::rocksdb(&self.path.join("db"))?)
    }

    /// Opens the store of plugins, creating it if there is none.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn blobs(&self) -> Result<BlobStore, StorageError> {
        BlobStore::open(&self.dir, &self.path, "plugins")
    }
}

/// The identity file has one line for each.
fn check_names(wanted: &Identity) -> Result<(), StorageError> {
    for (what, name) in [("node", &wanted.name), ("cluster", &wanted.cluster)] {
        if name.contains(char::is_control) || name.len() > NAME_SIZE_BYTES_MAX {
            let name = name.clone();
            return Err(StorageError::InvalidName { what, name });
        }
    }
    Ok(())
}

/// Makes the directory and what is missing above it, durably.
fn create_directory(path: &Path) -> Result<(), StorageError> {
    if path.is_dir() {
        return Ok(());
    }
    let failed = |error| StorageError::io("creating", path, error);
    std::fs::create_dir_all(path).map_err(failed)?;
    let path = path.canonicalize().map_err(failed)?;
    // Which of the directories above are new is not known; syncing all of them costs little.
    for above in path.ancestors().skip(1) {
        match File::open(above).and_then(|directory| directory.sync_all()) {
            // One that may not be read was not made by us.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => break,
            result => result.map_err(failed)?,
        }
    }
    Ok(())
}

/// Refuses a directory without identity that holds anything but the remains of a creation that was
/// interrupted.
fn refuse_foreign(path: &Path, dir: &Dir, create: bool) -> Result<(), StorageError> {
    if dir.exists(IDENTITY) {
        return Ok(());
    }
    let failed = |error| StorageError::io("listing", path, error);
    for entry in dir.entries().map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        if name != LOCK && name != IDENTITY_NEW && name != "lost+found" {
            return Err(StorageError::Foreign {
                path: path.to_owned(),
                found: name.to_string_lossy().into_owned(),
            });
        }
    }
    match create {
        true => Ok(()),
        false => Err(StorageError::NotInitialised {
            path: path.to_owned(),
        }),
    }
}

/// Takes the lock and writes our pid beside it, for the message to whoever comes next.
fn lock(path: &Path, dir: &Dir) -> Result<File, StorageError> {
    let lock_path = path.join(LOCK);
    let failed = |error| StorageError::io("locking", &lock_path, error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    let mut file = dir.open_with(LOCK, &options).map_err(failed)?.into_std();
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(StorageError::InUse {
                path: path.to_owned(),
                pid: read_pid(&mut file),
            });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(file)
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn check_identity(path: &Path, found: &Identity, wanted: &Identity) -> Result<(), StorageError> {
    if found.name != wanted.name {
        return Err(StorageError::OtherNode {
            path: path.to_owned(),
            found: found.name.clone(),
            wanted: wanted.name.clone(),
        });
    }
    let named = !found.cluster.is_empty() && !wanted.cluster.is_empty();
    if named && found.cluster != wanted.cluster {
        return Err(StorageError::OtherCluster {
            path: path.to_owned(),
            found: found.cluster.clone(),
            wanted: wanted.cluster.clone(),
        });
    }
    Ok(())
}

/// Writes the identity so that it is there whole or not at all: temporary file, sync, rename, sync
/// of the directory.
fn write_identity(path: &Path, dir: &Dir, identity: &Identity) -> Result<(), StorageError> {
    let write = || {
        let mut file = dir.create(IDENTITY_NEW)?;
        file.write_all(encode(identity).as_bytes())?;
        file.sync_all()?;
        dir.rename(IDENTITY_NEW, dir, IDENTITY)?;
        sync_directory(dir)
    };
    write().map_err(|error| StorageError::io("writing the identity file in", path, error))
}

/// Makes names created, renamed or removed in `dir` durable.
pub(crate) fn sync_directory(dir: &Dir) -> std::io::Result<()> {
    dir.open(".")?.sync_all()
}

fn read_identity(path: &Path, dir: &Dir) -> Result<Option<Identity>, StorageError> {
    let file_path = path.join(IDENTITY);
    let failed = |error| StorageError::io("reading", &file_path, error);
    let file = match dir.open(IDENTITY) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut bytes = Vec::new();
    file.take(IDENTITY_SIZE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    match decode(&bytes) {
        Ok(identity) => Ok(Some(identity)),
        Err(Unreadable::Newer(found)) => Err(StorageError::NewerFormat {
            path: path.to_owned(),
            found,
            supported: FORMAT,
        }),
        Err(Unreadable::Damaged(why)) => Err(StorageError::DirectoryDamaged {
            path: file_path,
            why: why.to_owned(),
        }),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    Newer(u32),
    Damaged(&'static str),
}

/// The identity as text, so that an operator can read it.
///
/// ```text
/// Kontiki data directory
/// format 1
/// node 00000000deadbeef
/// name n1
/// cluster demo
/// crc32c 12345678
/// ```
fn encode(identity: &Identity) -> String {
    let Identity {
        node,
        name,
        cluster,
    } = identity;
    let node = node.0;
    let text =
        format!("{TITLE}\nformat {FORMAT}\nnode {node:016x}\nname {name}\ncluster {cluster}\n");
    let crc = crc32c(text.as_bytes());
    text + &format!("crc32c {crc:08x}\n")
}

fn decode(bytes: &[u8]) -> Result<Identity, Unreadable> {
    use Unreadable::{Damaged, Newer};
    let text = std::str::from_utf8(bytes).map_err(|_| Damaged("it is not text"))?;
    let mut lines = text.split_inclusive('\n');
    let mut field = |name: &str| {
        let line = lines.next()?.strip_suffix('\n')?;
        line.strip_prefix(name)?.strip_prefix(' ')
    };
    if field("Kontiki") != TITLE.strip_prefix("Kontiki ") {
        return Err(Damaged("it does not begin like one"));
    }
    // Before the checksum: a newer format may have it elsewhere.
    let format = field("format").and_then(|format| format.parse().ok());
    match format.ok_or(Damaged("it has no format"))? {
        FORMAT => {}
        newer if newer > FORMAT => return Err(Newer(newer)),
        _ => return Err(Damaged("it has no known format")),
    }
    let node = field("node").and_then(|node| u64::from_str_radix(node, 16).ok());
    let name = field("name").map(str::to_owned);
    let cluster = field("cluster").map(str::to_owned);
    let crc = field("crc32c").and_then(|crc| u32::from_str_radix(crc, 16).ok());
    let last_line = text.rfind("crc32c ").unwrap_or(0);
    // The checksum's own line has one spelling only, so that each of its bytes counts too.
    let spelled = text[last_line..] == format!("crc32c {:08x}\n", crc.unwrap_or(0));
    if !spelled || crc != Some(crc32c(&bytes[..last_line])) || lines.next().is_some() {
        return Err(Damaged("its checksum is wrong"));
    }
    Ok(Identity {
        node: NodeId(node.ok_or(Damaged("it has no node id"))?),
        name: name.ok_or(Damaged("it has no node name"))?,
        cluster: cluster.ok_or(Damaged("it has no cluster"))?,
    })
}
