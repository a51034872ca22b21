//! Where things are.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// The checkout that this program belongs to.
///
/// # Errors
/// If the program is run outside one.
pub(crate) fn root() -> Result<PathBuf> {
    let start = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => std::env::current_dir().context("no current directory")?,
    };
    let is_root = |path: &&Path| path.join("xtask/Cargo.toml").is_file();
    let root = start
        .ancestors()
        .find(is_root)
        .context("not inside a checkout of Kontiki")?;
    Ok(root.to_owned())
}

/// Where small facts are kept between runs: `kontiki` in the user's cache directory.
///
/// # Errors
/// If the user has no home directory.
pub(crate) fn cache_directory() -> Result<PathBuf> {
    let from = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let caches = from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")));
    Ok(caches
        .context("neither XDG_CACHE_HOME nor HOME is set")?
        .join("kontiki"))
}

/// A program of this workspace, as cargo builds it for development.
///
/// # Errors
/// If the program is run outside a checkout.
pub(crate) fn binary(name: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.map_or_else(|| Ok::<_, anyhow::Error>(root()?.join("target")), Ok)?;
    Ok(target.join("debug").join(name))
}
