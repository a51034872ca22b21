//! `cargo xtask plugins`: every plugin of this checkout as a component.

use crate::output::Format;
use crate::{checkout, setup};
use anyhow::Result;
use kontiki_guest_build::{Programs, Project, Toolchain, Way, build, components_directory};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where cargo keeps what is not finished: outside the checkout, apart for each checkout.
const BUILD_DIRECTORY: &str = "{cargo-cache-home}/kontiki-guests/{workspace-path-hash}";

/// Options of the command.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Build this way instead of the best one: wasip2 or build-std.
    #[arg(long)]
    way: Option<Way>,
    /// Build these plugins only.
    #[arg(value_name = "PLUGIN")]
    plugins: Vec<String>,
}

/// What was built.
#[derive(Serialize)]
pub(crate) struct Built {
    /// Name of the plugin.
    pub(crate) name: String,
    /// The component.
    pub(crate) path: PathBuf,
    /// Its size.
    pub(crate) size_bytes: usize,
    /// The name under which a cluster knows it.
    pub(crate) digest: String,
    /// How it was built.
    pub(crate) way: Way,
    /// Whether it differs from what was there before.
    pub(crate) changed: bool,
}

/// Builds them.
///
/// # Errors
/// If the machine lacks something that cannot be installed, or a plugin does not build.
pub(crate) fn run(arguments: &Arguments, format: Format) -> Result<ExitCode> {
    setup::ensure()?;
    let built = build_all(&checkout::root()?, arguments)?;
    format.print(&built, |built| built.iter().for_each(print))?;
    Ok(ExitCode::SUCCESS)
}

/// Builds every plugin for another command, and says so only where something changed.
///
/// # Errors
/// As [`run`].
pub(crate) fn build_quietly() -> Result<()> {
    let all = Arguments {
        way: None,
        plugins: Vec::new(),
    };
    let built = build_all(&checkout::root()?, &all)?;
    for built in built.iter().filter(|built| built.changed) {
        eprintln!("plugins: {} is {}", built.name, built.digest);
    }
    Ok(())
}

fn build_all(checkout: &Path, arguments: &Arguments) -> Result<Vec<Built>> {
    let toolchain = Toolchain::find(&Programs::of_this_process(), arguments.way)?;
    let project = Project::at(checkout.join("plugins/Cargo.toml"))
        .packages(arguments.plugins.clone())
        .build_directory(BUILD_DIRECTORY)
        .locked();
    let directory = components_directory(checkout);
    let mut all = Vec::new();
    for component in build(&toolchain, &project)? {
        let (path, changed) = component.write_into(&directory)?;
        all.push(Built {
            digest: component.digest(),
            size_bytes: component.bytes.len(),
            way: component.way,
            name: component.name,
            path,
            changed,
        });
    }
    Ok(all)
}

fn print(built: &Built) {
    let Built {
        name,
        path,
        size_bytes,
        digest,
        way,
        changed,
    } = built;
    let state = if *changed { "written" } else { "unchanged" };
    println!(
        "{name:<12} {size_bytes:>8} bytes  {digest}  {way}  {state}  {}",
        path.display()
    );
}
