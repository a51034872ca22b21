//! The way through `wasm32-unknown-unknown` with the standard library built from source, for machines
//! where rustup has no `wasm32-wasip2`: a distribution's compiler with its source package will do.

use crate::toolchain::FromSource;
use crate::{Error, Programs, Toolchain, Way};
use std::path::{Path, PathBuf};

/// The toolchain, or what is missing.
pub(crate) fn find(programs: &Programs) -> Result<Result<Toolchain, String>, Error> {
    let mut sysroots = Vec::new();
    for rustc in programs.find_all("rustc") {
        let mut ask = programs.command(&rustc);
        if let Some(sysroot) = programs.output(ask.args(["--print", "sysroot"]))? {
            sysroots.push((rustc, PathBuf::from(sysroot)));
        }
    }
    let with_source = sysroots.iter().find_map(|(rustc, sysroot)| {
        let cargo = rustc.with_file_name("cargo");
        let library = sysroot.join("lib/rustlib/src/rust/library");
        let complete = cargo.is_file() && library.join("std/Cargo.toml").is_file();
        complete.then(|| (cargo, rustc.clone(), library))
    });
    let Some((cargo, rustc, library)) = with_source else {
        let reason = "no rustc on the PATH has the source of its standard library \
            (packages rustc-web, cargo-web and rust-web-src on Debian)";
        return Ok(Err(reason.to_owned()));
    };
    let Some(linker) = find_linker(
        programs,
        sysroots.iter().map(|(_, sysroot)| sysroot.as_path()),
    ) else {
        return Ok(Err(
            "no WebAssembly linker: neither rust-lld nor wasm-ld (package lld)".to_owned(),
        ));
    };
    let programs = programs.clone();
    let from_source = Some(FromSource { library, linker });
    Ok(Ok(Toolchain {
        way: Way::BuildStd,
        programs,
        cargo,
        rustc,
        from_source,
    }))
}

/// The linker of any compiler found, else the system's.
fn find_linker<'a>(
    programs: &Programs,
    mut sysroots: impl Iterator<Item = &'a Path>,
) -> Option<PathBuf> {
    sysroots
        .find_map(rust_lld)
        .or_else(|| programs.find("wasm-ld"))
}

fn rust_lld(sysroot: &Path) -> Option<PathBuf> {
    let hosts = sysroot.join("lib/rustlib").read_dir().ok()?;
    let mut linkers = hosts.flatten().map(|host| host.path().join("bin/rust-lld"));
    linkers.find(|linker| linker.is_file())
}
