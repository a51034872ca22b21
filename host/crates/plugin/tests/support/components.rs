//! The project's own plugins, as components.

use std::path::{Path, PathBuf};

/// Reads a component that `cargo xtask plugins` has built.
///
/// # Panics
///
/// If it is not there: a test that needs it must not pass without it.
pub(crate) fn read(name: &str) -> Vec<u8> {
    let path = directory().join(format!("{name}.wasm"));
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}\nrun `cargo xtask plugins` first",
            path.display()
        )
    })
}

fn directory() -> PathBuf {
    match std::env::var_os("KONTIKI_PLUGINS_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../plugins/target/components"),
    }
}
