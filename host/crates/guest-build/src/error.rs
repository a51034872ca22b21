//! What can go wrong while building a guest.

use std::io;
use std::path::PathBuf;

/// Why a guest was not built.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine has neither way; each reason says what one of them lacks.
    #[error("no Rust toolchain here can build for WebAssembly: {}", reasons.join("; "))]
    NoToolchain {
        /// What each way lacks.
        reasons: Vec<String>,
    },
    /// A program could not be started.
    #[error("cannot run {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Cargo failed; what it said has gone to standard error.
    #[error("cargo could not build {} ({status})", manifest.display())]
    Cargo {
        /// The manifest that was being built.
        manifest: PathBuf,
        /// How cargo ended.
        status: std::process::ExitStatus,
    },
    /// Cargo said something this crate does not understand.
    #[error("cargo's {what} cannot be read")]
    CargoOutput {
        /// What was being read.
        what: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// The workspace has nothing that could become a component.
    #[error("{} has no plugin: none of its packages is a library of type cdylib", manifest.display())]
    NoPlugin {
        /// The manifest.
        manifest: PathBuf,
    },
    /// A module that cargo made could not be encoded; the text says why.
    #[error("{name} is no plugin: {reason}")]
    Encode {
        /// Name of the module.
        name: String,
        /// What the encoder found.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("cannot access {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}
