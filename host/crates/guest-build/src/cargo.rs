//! Runs cargo over a workspace of guests.

use crate::metadata::Metadata;
use crate::{Component, Error, Toolchain, Way};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Settings of a surrounding cargo that must not reach the build of a guest: it would differ between
/// `cargo test`, `cargo clippy` and a shell.
const FOREIGN_VARIABLES: [&str; 14] = [
    "CARGO",
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_RUSTC",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_MAKEFLAGS",
    "CARGO_MANIFEST_DIR",
    "CARGO_TARGET_DIR",
    "MAKEFLAGS",
    "RUSTC",
    "RUSTDOCFLAGS",
    "RUSTFLAGS",
];

/// A package or workspace of guests.
#[derive(Clone, Debug)]
pub struct Project {
    pub(crate) manifest: PathBuf,
    packages: Vec<String>,
    build_directory: Option<OsString>,
    locked: bool,
}

impl Project {
    /// The one with this `Cargo.toml`.
    pub fn at(manifest: impl Into<PathBuf>) -> Self {
        Project {
            manifest: manifest.into(),
            packages: Vec::new(),
            build_directory: None,
            locked: false,
        }
    }

    /// Builds these packages only.
    pub fn packages(mut self, packages: Vec<String>) -> Self {
        self.packages = packages;
        self
    }

    /// Keeps what is not a finished module in this directory, in which cargo's `build.build-dir`
    /// templates work.
    pub fn build_directory(mut self, directory: impl Into<OsString>) -> Self {
        self.build_directory = Some(directory.into());
        self
    }

    /// Fails rather than change the lock file.
    pub fn locked(mut self) -> Self {
        self.locked = true;
        self
    }

    /// A cargo command in the directory of the manifest, free of the surrounding build's settings.
    pub(crate) fn cargo(&self, toolchain: &Toolchain, subcommand: &str) -> Command {
        let mut command = toolchain.programs.command(&toolchain.cargo);
        for name in FOREIGN_VARIABLES {
            command.env_remove(name);
        }
        // An empty wrapper also overrides one that a configuration file names.
        command
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "");
        if let Some(directory) = &self.build_directory {
            command.env("CARGO_BUILD_BUILD_DIR", directory);
        }
        if toolchain.way == Way::BuildStd {
            command
                .env("RUSTC", &toolchain.rustc)
                .env("RUSTC_BOOTSTRAP", "1");
        }
        command
            .arg(subcommand)
            .arg("--manifest-path")
            .arg(&self.manifest);
        if self.locked {
            command.arg("--locked");
        }
        command.stdin(Stdio::null());
        command
    }
}

/// Builds the plugins of a project; cargo does only what changed. Its progress goes to standard error.
///
/// # Errors
/// [`Error::NoPlugin`] if there is nothing to build, [`Error::Cargo`] if cargo fails,
/// [`Error::Encode`] if a module is no plugin.
pub fn build(toolchain: &Toolchain, project: &Project) -> Result<Vec<Component>, Error> {
    let metadata = Metadata::read(toolchain, project)?;
    let mut plugins = metadata.plugins();
    if !project.packages.is_empty() {
        plugins = project.packages.iter().map(String::as_str).collect();
    }
    if plugins.is_empty() {
        return Err(Error::NoPlugin {
            manifest: project.manifest.clone(),
        });
    }
    let command = build_command(toolchain, project, &metadata, &plugins);
    let mut components = Vec::new();
    for (package, module) in run(command, toolchain, project)? {
        // A plugin that a chosen one depends on is built too, but was not asked for.
        if let Some(name) = metadata
            .name_of(&package)
            .filter(|name| plugins.contains(name))
        {
            components.push(Component::from_module(name, &module, toolchain.way)?);
        }
    }
    components.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(components)
}

fn build_command(
    toolchain: &Toolchain,
    project: &Project,
    metadata: &Metadata,
    plugins: &[&str],
) -> Command {
    let mut command = project.cargo(toolchain, "build");
    command.args(["--release", "--target", toolchain.way.target()]);
    command.args(["--message-format", "json-render-diagnostics"]);
    for plugin in plugins {
        command.args(["--package", plugin]);
    }
    let mut mappings = metadata.path_mappings();
    if let Some(from_source) = &toolchain.from_source {
        command.args(["-Z", "build-std=std,panic_abort"]);
        command.env(
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER",
            &from_source.linker,
        );
        mappings.push((from_source.library.clone(), "/rust/library".to_owned()));
        // The source may be reached through a link, which the compiler resolves or not.
        if let Ok(resolved) = from_source.library.canonicalize() {
            mappings.push((resolved, "/rust/library".to_owned()));
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", encode_flags(&mappings));
    command
}

fn encode_flags(mappings: &[(PathBuf, String)]) -> OsString {
    let mut flags = OsString::new();
    for (path, stand_in) in mappings {
        if !flags.is_empty() {
            flags.push("\x1f");
        }
        flags.push("--remap-path-prefix=");
        flags.push(path);
        flags.push("=");
        flags.push(stand_in);
    }
    flags
}

/// A line of cargo's output; only those about an artifact have the later fields.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
}

/// Runs cargo; the modules it made or found fresh, each with its package's id.
fn run(
    mut command: Command,
    toolchain: &Toolchain,
    project: &Project,
) -> Result<Vec<(String, PathBuf)>, Error> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| Error::Start {
            program: toolchain.cargo.clone(),
            source,
        })?;
    if !output.status.success() {
        return Err(Error::Cargo {
            manifest: project.manifest.clone(),
            status: output.status,
        });
    }
    let mut modules = Vec::new();
    for line in output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| line.starts_with(b"{"))
    {
        let message: Message =
            serde_json::from_slice(line).map_err(|source| Error::CargoOutput {
                what: "messages",
                source,
            })?;
        modules.extend(message.module());
    }
    Ok(modules)
}

impl Message {
    /// The module with its package's id, if it tells of one.
    fn module(self) -> Option<(String, PathBuf)> {
        let is_plugin = self
            .target
            .is_some_and(|target| target.kind.iter().any(|k| k == "cdylib"));
        if self.reason != "compiler-artifact" || !is_plugin {
            return None;
        }
        let is_module = |path: &PathBuf| path.extension().is_some_and(|e| e == "wasm");
        let module = self.filenames.into_iter().find(is_module)?;
        Some((self.package_id, module))
    }
}
