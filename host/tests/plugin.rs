//! `kontiki plugin` without a cluster.

#![allow(
    clippy::unwrap_used,
    reason = "a test may fail; this also covers its helpers"
)]

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn kontiki(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_kontiki");
    Command::new(program)
        .arg("plugin")
        .args(arguments)
        .output()
        .unwrap()
}

fn inspect(bytes: &[u8]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("it.wasm");
    std::fs::write(&path, bytes).unwrap();
    kontiki(&["inspect", &path.display().to_string(), "-o", "json"])
}

/// The counter, if plugins have been built.
fn counter() -> Option<PathBuf> {
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let built = checkout.join("plugins/target/components");
    let directory = std::env::var_os("KONTIKI_PLUGINS_DIR").map_or(built, PathBuf::from);
    Some(directory.join("counter.wasm")).filter(|path| path.is_file())
}

#[test]
fn a_file_is_inspected_without_a_cluster() {
    let Some(counter) = counter() else {
        eprintln!("skipped: `cargo xtask plugins` has not been run");
        return;
    };
    let bytes = std::fs::read(&counter).unwrap();
    let output = inspect(&bytes);
    let plugin: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&plugin["name"], &plugin["contract"]),
        (&"counter".into(), &"machine".into())
    );
    assert_eq!(plugin["size_bytes"], bytes.len());
    assert!(plugin["digest"].as_str().unwrap().starts_with("sha256:"));
    let exports = plugin["exports"].as_array().unwrap();
    assert!(
        exports
            .iter()
            .any(|name| name.as_str().unwrap().contains("machine")),
        "{plugin}"
    );
}

#[test]
fn what_is_no_plugin_is_refused_and_says_why() {
    for (bytes, part) in [
        (&b"#!/bin/sh"[..], "no WebAssembly"),
        (b"\0asm\x01\0\0\0", "core module"),
        (
            b"\0asm\x0d\0\x01\0",
            "does not export kontiki:plugin/machine",
        ),
    ] {
        let output = inspect(bytes);
        assert_eq!(output.status.code(), Some(1));
        let error: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["error"]["code"], "PLUGIN_REFUSED");
        assert!(
            error["error"]["message"].as_str().unwrap().contains(part),
            "{error}"
        );
    }
}

#[test]
fn a_missing_file_or_project_is_named() {
    let output = kontiki(&["inspect", "./absent.wasm"]);
    assert_eq!(output.status.code(), Some(10));
    let directory = tempfile::tempdir().unwrap();
    let output = kontiki(&["build", &directory.path().display().to_string()]);
    assert_eq!(output.status.code(), Some(10));
    assert!(String::from_utf8_lossy(&output.stderr).contains("Cargo.toml"));
}
