//! Proves that the core needs no standard library: it is built where there is none.

use crate::cargo::{cargo, run};
use anyhow::{Context as _, Result};
use kontiki_guest_build::{Programs, Toolchain, Way};
use std::process::Command;

/// A target that has no standard library at all.
const BARE_TARGET: &str = "thumbv7em-none-eabi";

/// Builds `kontiki-raft` with `core` and `alloc` only.
///
/// # Errors
/// If it does not build, or no toolchain can be found for it.
pub(crate) fn check() -> Result<()> {
    let bare_target = Command::new("rustup")
        .args(["target", "add", BARE_TARGET])
        .status();
    if bare_target.is_ok_and(|status| status.success()) {
        return run(&mut cargo([
            "build",
            "--package",
            "kontiki-raft",
            "--target",
            BARE_TARGET,
        ])?);
    }
    let programs = Programs::of_this_process();
    let toolchain = Toolchain::find(&programs, Some(Way::BuildStd))
        .with_context(|| format!("rustup cannot add {BARE_TARGET} either"))?;
    from_source(&toolchain)
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
    let mut other = Command::new(rustc.with_file_name("cargo"));
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
