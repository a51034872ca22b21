//! The machine as set-up sees it. Tests make one of fake programs and directories.

use crate::checkout;
use anyhow::Result;
use kontiki_guest_build::Programs;
use std::path::PathBuf;
use std::time::Duration;

/// What set-up may look at and use.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) programs: Programs,
    /// Whether this process may install packages itself.
    pub(crate) is_root: bool,
    /// Whether somebody can be asked for a password.
    pub(crate) has_terminal: bool,
    /// Where libclang may lie; patterns are directories, looked through one level deep.
    pub(crate) library_directories: Vec<PathBuf>,
    /// Where this program keeps what it must remember.
    pub(crate) cache: PathBuf,
    /// Where rustup keeps unfinished downloads.
    pub(crate) rustup_downloads: Option<PathBuf>,
    /// How long rustup may make no progress.
    pub(crate) rustup_patience: Duration,
}

impl Machine {
    /// The one this process runs on.
    ///
    /// # Errors
    /// If the user has no home directory.
    pub(crate) fn this() -> Result<Self> {
        use std::io::IsTerminal;

        let home = std::env::var_os("HOME").map(PathBuf::from);
        let rustup_home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
        let rustup_home = rustup_home.or_else(|| Some(home?.join(".rustup")));
        Ok(Machine {
            programs: Programs::of_this_process(),
            is_root: is_root(),
            has_terminal: std::io::stdin().is_terminal(),
            library_directories: library_directories(),
            cache: checkout::cache_directory()?,
            rustup_downloads: rustup_home.map(|home| home.join("downloads")),
            rustup_patience: Duration::from_secs(20),
        })
    }
}

/// The owner of this process's entry in `/proc` is the effective user.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;

    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn library_directories() -> Vec<PathBuf> {
    let mut directories = Vec::new();
    directories.extend(std::env::var_os("LIBCLANG_PATH").map(PathBuf::from));
    for parent in ["/usr/lib", "/usr/lib64", "/usr/local/lib"] {
        directories.push(PathBuf::from(parent));
        let Ok(entries) = std::fs::read_dir(parent) else {
            continue;
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            // Multiarch directories (x86_64-linux-gnu), and Debian's llvm-14/lib.
            directories.push(path.join("lib"));
            directories.push(path);
        }
    }
    directories
}
