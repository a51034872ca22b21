//! Programs on the search path.

use crate::Error;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Finds programs on a search path, and runs them with that path.
#[derive(Clone, Debug)]
pub struct Programs {
    path: OsString,
}

impl Programs {
    /// Those on this process's `PATH`.
    pub fn of_this_process() -> Self {
        Programs {
            path: std::env::var_os("PATH").unwrap_or_default(),
        }
    }

    /// Those in these directories, separated as in `PATH`.
    pub fn on(path: impl Into<OsString>) -> Self {
        Programs { path: path.into() }
    }

    /// The first program of this name.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.find_all(name).next()
    }

    /// Every program of this name, in the order of the path.
    pub fn find_all(&self, name: &str) -> impl Iterator<Item = PathBuf> {
        let directories: Vec<_> = std::env::split_paths(&self.path).collect();
        let name = name.to_owned();
        directories
            .into_iter()
            .map(move |directory| directory.join(&name))
            .filter(|path| {
                path.metadata()
                    .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
            })
    }

    /// A command that sees this search path.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        command.env("PATH", &self.path);
        command
    }

    /// What a command prints, trimmed; nothing if it fails.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn output(&self, command: &mut Command) -> Result<Option<String>, Error> {
        let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output();
        let output = output.map_err(|source| Error::Start {
            program: command.get_program().into(),
            source,
        })?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(output.status.success().then_some(text))
    }
}
