//! A compiler for plugins: rustup's `wasm32-wasip2` where it can be had, else the distribution's compiler
//! with the source of its standard library.

use super::machine::Machine;
use super::{Need, failure_note, rustup};
use anyhow::Result;
use kontiki_guest_build::{Error, Toolchain};

/// Packages that make the second way possible; as they are called in Debian 12.
const PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", "lld"];

/// The need and whether it is met.
///
/// # Errors
/// If a compiler is there but cannot be run.
pub(super) fn need(machine: &Machine) -> Result<Need> {
    let name = "WebAssembly toolchain";
    Ok(match Toolchain::find(&machine.programs, None) {
        Ok(toolchain) => {
            let detail = format!("{} with {}", toolchain.way, toolchain.rustc().display());
            Need {
                name,
                present: true,
                detail,
            }
        }
        Err(error @ Error::NoToolchain { .. }) => Need {
            name,
            present: false,
            detail: error.to_string(),
        },
        Err(error) => return Err(error.into()),
    })
}

/// Tries rustup, unless it failed within a day; what was done.
///
/// # Errors
/// If the attempt cannot be remembered.
pub(super) fn through_rustup(machine: &Machine) -> Result<Option<String>> {
    let Some(rustup) = machine.programs.find("rustup") else {
        return Ok(None);
    };
    let note = failure_note::FailureNote::at(machine.cache.join("rustup-failed"));
    if note.is_fresh() {
        return Ok(None);
    }
    eprintln!("setup: rustup target add wasm32-wasip2");
    match rustup::add_target(machine, &rustup)? {
        Ok(()) => {
            note.clear()?;
            Ok(Some("rustup target add wasm32-wasip2".to_owned()))
        }
        Err(reason) => {
            note.write(&reason)?;
            Ok(Some(format!(
                "rustup target add wasm32-wasip2 failed ({reason}); not tried again for a day"
            )))
        }
    }
}

/// Debian packages for the second way, if no way works.
///
/// # Errors
/// If a compiler is there but cannot be run.
pub(super) fn missing_packages(machine: &Machine) -> Result<Vec<&'static str>> {
    Ok(if need(machine)?.present {
        Vec::new()
    } else {
        PACKAGES.to_vec()
    })
}
