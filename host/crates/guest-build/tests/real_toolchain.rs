//! Builds this checkout's own plugins with the toolchain that the machine has (`cargo xtask setup`
//! installs one), here and in a copy elsewhere.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use kontiki_guest_build::{Component, Programs, Project, Toolchain, build};
use std::fs;
use std::path::Path;

/// Kept between runs, so that only the plugins themselves are compiled each time.
const BUILD_DIRECTORY: &str = "{cargo-cache-home}/kontiki-guests/test";

fn checkout() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(3)
        .expect("three above this crate")
}

fn build_in(root: &Path) -> Vec<Component> {
    let toolchain = Toolchain::find(&Programs::of_this_process(), None).unwrap();
    let project = Project::at(root.join("plugins/Cargo.toml"))
        .packages(vec!["counter".to_owned(), "atomic".to_owned()])
        .build_directory(BUILD_DIRECTORY)
        .locked();
    build(&toolchain, &project).unwrap()
}

/// Copies what is needed to build plugins, with links as links.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if kind.is_dir() && entry.file_name() != "target" {
            copy(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

#[test]
fn plugins_are_components_and_the_same_bytes_in_every_checkout() {
    let mut results = Vec::new();
    for _ in 0..2 {
        let elsewhere = tempfile::tempdir().unwrap();
        for part in ["plugins", "guest-sdk", "wit"] {
            copy(&checkout().join(part), &elsewhere.path().join(part));
        }
        results.push(build_in(elsewhere.path()));
    }
    let (first, second) = (&results[0], &results[1]);
    assert_eq!(
        first.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(),
        ["atomic", "counter"]
    );
    for (a, b) in first.iter().zip(second) {
        assert!(
            a.bytes.starts_with(b"\0asm\x0d\0\x01\0"),
            "{} is no component",
            a.name
        );
        let exports = b"kontiki:plugin/machine@1.0.0";
        assert!(
            a.bytes
                .windows(exports.len())
                .any(|window| window == exports),
            "{}",
            a.name
        );
        let here = elsewhere_paths(&a.bytes);
        assert!(
            here.is_empty(),
            "{} tells where it was built: {here}",
            a.name
        );
        assert_eq!(
            a.digest(),
            b.digest(),
            "{} differs between two checkouts",
            a.name
        );
    }
}

/// Paths of this machine that a component should not contain.
fn elsewhere_paths(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let home = std::env::var("HOME").unwrap_or_else(|_| "/nonexistent".to_owned());
    let temporary = std::env::temp_dir().display().to_string();
    let found = [home + "/", temporary + "/"]
        .into_iter()
        .filter(|path| text.contains(path));
    found.collect::<Vec<_>>().join(" ")
}
