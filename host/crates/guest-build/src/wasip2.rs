//! The way through `wasm32-wasip2`, as `rustup target add wasm32-wasip2` makes it possible.

use crate::{Error, Programs, Toolchain, Way};
use std::path::Path;

/// The toolchain, or what is missing.
pub(crate) fn find(programs: &Programs) -> Result<Result<Toolchain, String>, Error> {
    let (Some(cargo), Some(rustc)) = (programs.find("cargo"), programs.find("rustc")) else {
        return Ok(Err("cargo and rustc are not on the PATH".to_owned()));
    };
    let mut ask = programs.command(&rustc);
    ask.args(["--print", "target-libdir", "--target", Way::Wasip2.target()]);
    let has_library = match programs.output(&mut ask)? {
        Some(directory) => has_standard_library(Path::new(&directory)),
        None => false,
    };
    if !has_library {
        return Ok(Err(format!(
            "{} has no standard library for {} (rustup target add {})",
            rustc.display(),
            Way::Wasip2.target(),
            Way::Wasip2.target()
        )));
    }
    let programs = programs.clone();
    Ok(Ok(Toolchain {
        way: Way::Wasip2,
        programs,
        cargo,
        rustc,
        from_source: None,
    }))
}

/// The directory is printed for every target the compiler knows, installed or not.
fn has_standard_library(directory: &Path) -> bool {
    let Ok(entries) = directory.read_dir() else {
        return false;
    };
    entries
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}
