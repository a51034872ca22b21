//! Proves that the core needs no standard library: it is built where there is none.

use crate::cargo::{cargo, run};
use anyhow::Result;
use kontiki_guest_build::{Programs, Toolchain, Way};

/// A target that has no standard library at all.
const BARE_TARGET: &str = "thumbv7em-none-eabi";

/// Builds `kontiki-raft` with `core` and `alloc` only.
///
/// # Errors
/// If it does not build, or no toolchain can be found for it.
pub(crate) fn check() -> Result<()> {
    let toolchain = Toolchain::find(&Programs::of_this_process(), None)?;
    match toolchain.way {
        Way::BuildStd => from_source(&toolchain),
        Way::Wasip2 => bare(),
    }
}

/// Builds `core` and `alloc` from the compiler's source, and nothing else to link against.
fn from_source(toolchain: &Toolchain) -> Result<()> {
    let rustc = toolchain.rustc();
    let words = [
        "build",
        "--package",
        "kontiki-raft",
        "--target",
        "wasm32-unknown-unknown",
    ];
    let words = words
        .into_iter()
        .chain(["--quiet", "-Z", "build-std=core,alloc"]);
    let mut command = cargo(words)?;
    let mut other = std::process::Command::new(rustc.with_file_name("cargo"));
    other.args(command.get_args());
    if let Some(directory) = command.get_current_dir() {
        other.current_dir(directory);
    }
    command = other;
    command.env("RUSTC", rustc).env("RUSTC_BOOTSTRAP", "1");
    // Another compiler: its products have a place of their own.
    command.env("CARGO_BUILD_BUILD_DIR", "{cargo-cache-home}/kontiki-no-std");
    command
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .env_remove("RUSTFLAGS");
    run(&mut command)
}

fn bare() -> Result<()> {
    run(std::process::Command::new("rustup").args(["target", "add", BARE_TARGET]))?;
    run(&mut cargo([
        "build",
        "--package",
        "kontiki-raft",
        "--target",
        BARE_TARGET,
    ])?)
}
