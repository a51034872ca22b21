//! Dependencies point one way: what each crate of the workspace may and may not see.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

type Edges = BTreeMap<String, BTreeSet<String>>;

/// Direct normal dependencies of every workspace member, by package name.
fn edges() -> Edges {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let output = Command::new(cargo)
        .args([
            "metadata",
            "--format-version=1",
            "--no-deps",
            "--manifest-path",
            manifest,
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(package)
        .collect()
}

fn package(package: &serde_json::Value) -> (String, BTreeSet<String>) {
    let dependencies = package["dependencies"].as_array().unwrap();
    let normal = dependencies
        .iter()
        .filter(|dependency| dependency["kind"].is_null());
    let names = normal.map(|dependency| dependency["name"].as_str().unwrap().to_owned());
    (
        package["name"].as_str().unwrap().to_owned(),
        names.collect(),
    )
}

fn ours(dependencies: &BTreeSet<String>) -> BTreeSet<&str> {
    let ours = |name: &&str| name.starts_with("kontiki") || *name == "xtask";
    dependencies
        .iter()
        .map(String::as_str)
        .filter(ours)
        .collect()
}

#[test]
fn crates_see_only_what_the_architecture_allows() {
    let allowed: [(&str, &[&str]); 10] = [
        (
            "kontiki",
            &[
                "kontiki-client",
                "kontiki-guest-build",
                "kontiki-plugin",
                "kontiki-proto",
                "kontiki-raft",
                "kontiki-storage",
            ],
        ),
        ("kontiki-raft", &[]),
        ("kontiki-raft-sim", &["kontiki-raft"]),
        ("kontiki-storage", &["kontiki-raft"]),
        ("kontiki-plugin", &[]),
        ("kontiki-client", &["kontiki-proto"]),
        ("kontiki-proto", &[]),
        ("kontiki-guest-build", &[]),
        ("kontiki-tests", &["kontiki-proto"]),
        ("xtask", &["kontiki-guest-build"]),
    ];
    let allowed: BTreeMap<&str, BTreeSet<&str>> = allowed
        .into_iter()
        .map(|(name, may)| (name, may.iter().copied().collect()))
        .collect();
    for (name, dependencies) in edges() {
        let may = allowed.get(name.as_str()).unwrap_or_else(|| {
            panic!("{name} is new: say here, and in ARCHITECTURE.md, what it may depend on")
        });
        let does = ours(&dependencies);
        assert!(
            does.is_subset(may),
            "{name} depends on {:?}",
            does.difference(may)
        );
    }
}

#[test]
fn heavy_libraries_have_one_door_each() {
    let doors = [
        ("rocksdb", "kontiki-storage"),
        ("wasmtime", "kontiki-plugin"),
        ("wasmtime-wasi", "kontiki-plugin"),
    ];
    let edges = edges();
    for (library, door) in doors {
        let users: Vec<_> = edges
            .iter()
            .filter(|(_, dependencies)| dependencies.contains(library))
            .collect();
        assert_eq!(users.len(), 1, "{library} is named by {users:?}");
        assert_eq!(users[0].0, door, "{library} is named by {}", users[0].0);
    }
}

#[test]
fn the_core_brings_no_runtime_clock_or_codec() {
    let core = &edges()["kontiki-raft"];
    let expected: BTreeSet<String> = ["bytes", "thiserror"].map(str::to_owned).into();
    assert_eq!(
        *core, expected,
        "the core's dependencies are part of its contract"
    );
}
