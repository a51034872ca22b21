//! Both ways of building, with programs that only record what they were asked to do. The machine that
//! runs the tests need have neither.

#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use kontiki_guest_build::{Component, Error, Programs, Project, Toolchain, Way, build};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The smallest core module, and how a component begins.
const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";
const COMPONENT_HEADER: &[u8] = b"\0asm\x0d\0\x01\0";
/// A core module that imports function `f` of module `m`.
const IMPORTING_MODULE: &[u8] = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x02\x07\x01\x01m\x01f\0\0";

/// A machine made of scripts in a temporary directory.
struct FakeMachine {
    directory: tempfile::TempDir,
}

impl FakeMachine {
    fn new() -> Self {
        let fake = FakeMachine {
            directory: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(fake.path("bin")).unwrap();
        fake
    }

    fn path(&self, relative: &str) -> PathBuf {
        self.directory.path().join(relative)
    }

    fn programs(&self) -> Programs {
        Programs::on(self.path("bin"))
    }

    fn file(&self, relative: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn script(&self, relative: &str, body: &str) {
        let path = self.file(relative, format!("#!/bin/sh\n{body}\n").as_bytes());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A compiler that answers what it is asked about itself.
    fn rustc(&self) {
        let (library, sysroot) = (self.path("sysroot/wasip2"), self.path("sysroot"));
        self.script(
            "bin/rustc",
            &format!(
                "case \"$*\" in\n  *target-libdir*) echo {} ;;\n  *sysroot*) echo {} ;;\nesac",
                library.display(),
                sysroot.display()
            ),
        );
    }

    /// A cargo that records its calls and claims to have built one plugin, `tally`, as this module.
    fn cargo(&self, module: &[u8]) {
        let module = self.file("target/tally.wasm", module);
        let metadata = self.file("metadata.json", metadata(self.directory.path()).as_bytes());
        let messages = self.file("messages.json", messages(&module).as_bytes());
        self.script(
            "bin/cargo",
            &format!(
                "{{ echo \"$*\"; echo \"RUSTC=$RUSTC BOOTSTRAP=$RUSTC_BOOTSTRAP \
                 LINKER=$CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER FLAGS=$RUSTFLAGS \
                 ENCODED=$CARGO_ENCODED_RUSTFLAGS BUILD_DIR=$CARGO_BUILD_BUILD_DIR\"; }} >> {log}\n\
                 case \"$1\" in\n  metadata) /bin/cat {metadata} ;;\n  build) /bin/cat {messages} ;;\nesac",
                log = self.path("log").display(),
                metadata = metadata.display(),
                messages = messages.display(),
            ),
        );
    }

    fn with_wasip2(&self) {
        self.file("sysroot/wasip2/libstd-0123.rlib", b"");
    }

    fn with_source(&self) {
        self.file("sysroot/lib/rustlib/src/rust/library/std/Cargo.toml", b"");
    }

    fn with_linker(&self) {
        self.file("sysroot/lib/rustlib/some-host/bin/rust-lld", b"");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    fn build(&self, way: Option<Way>) -> Result<Vec<Component>, Error> {
        let toolchain = Toolchain::find(&self.programs(), way)?;
        let project = Project::at(self.path("Cargo.toml"))
            .build_directory("elsewhere")
            .locked();
        build(&toolchain, &project)
    }
}

fn metadata(root: &Path) -> String {
    let root = root.display();
    format!(
        r#"{{"packages": [
            {{"id": "tally-id", "name": "tally", "version": "1.0.0",
              "manifest_path": "{root}/tally/Cargo.toml", "targets": [{{"kind": ["cdylib", "rlib"]}}]}},
            {{"id": "sdk-id", "name": "sdk", "version": "0.1.0",
              "manifest_path": "{root}/sdk/Cargo.toml", "targets": [{{"kind": ["lib"]}}]}}],
          "workspace_members": ["tally-id", "sdk-id"], "workspace_root": "{root}",
          "target_directory": "{root}/target", "build_directory": null}}"#
    )
}

fn messages(module: &Path) -> String {
    let artifact = |id: &str, kind: &str, file: &str| {
        format!(
            r#"{{"reason": "compiler-artifact", "package_id": "{id}", "target": {{"kind": ["{kind}"]}},
             "filenames": ["{file}"], "fresh": true}}"#
        )
        .replace('\n', " ")
    };
    let module = module.display().to_string();
    [
        artifact("sdk-id", "lib", "/build/libsdk.rlib"),
        artifact("tally-id", "cdylib", &module),
        r#"{"reason": "build-finished", "success": true}"#.to_owned(),
    ]
    .join("\n")
}

#[test]
fn wasip2_comes_first_and_its_component_is_taken_as_it_is() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(COMPONENT_HEADER);
    fake.with_wasip2();
    fake.with_source();
    fake.with_linker();
    let components = fake.build(None).unwrap();
    assert_eq!(components.len(), 1);
    assert_eq!(
        (components[0].name.as_str(), components[0].way),
        ("tally", Way::Wasip2)
    );
    assert_eq!(components[0].bytes, COMPONENT_HEADER);
    let log = fake.log();
    assert!(log.contains("build --manifest-path"), "{log}");
    assert!(
        log.contains("--locked --release --target wasm32-wasip2"),
        "{log}"
    );
    assert!(log.contains("--package tally"), "{log}");
    assert!(log.contains("RUSTC= BOOTSTRAP= LINKER= FLAGS= "), "{log}");
    assert!(log.contains("BUILD_DIR=elsewhere"), "{log}");
    assert!(!log.contains("build-std"), "{log}");
}

#[test]
fn without_wasip2_the_library_is_built_and_the_module_encoded() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(EMPTY_MODULE);
    fake.with_source();
    fake.with_linker();
    let components = fake.build(None).unwrap();
    assert_eq!(
        (components[0].name.as_str(), components[0].way),
        ("tally", Way::BuildStd)
    );
    assert!(
        components[0].bytes.starts_with(COMPONENT_HEADER),
        "{:?}",
        components[0].bytes
    );
    let log = fake.log();
    assert!(log.contains("--target wasm32-unknown-unknown"), "{log}");
    assert!(log.contains("-Z build-std=std,panic_abort"), "{log}");
    let rustc = format!("RUSTC={} BOOTSTRAP=1", fake.path("bin/rustc").display());
    assert!(log.contains(&rustc), "{log}");
    let linker = fake.path("sysroot/lib/rustlib/some-host/bin/rust-lld");
    assert!(
        log.contains(&format!("LINKER={}", linker.display())),
        "{log}"
    );
}

#[test]
fn the_paths_of_the_machine_are_mapped_away() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(COMPONENT_HEADER);
    fake.with_wasip2();
    fake.build(None).unwrap();
    let expected = format!(
        "--remap-path-prefix={}=/tally-1.0.0",
        fake.path("tally").display()
    );
    assert!(fake.log().contains(&expected), "{}", fake.log());
}

#[test]
fn a_system_linker_will_do() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(EMPTY_MODULE);
    fake.with_source();
    fake.script("bin/wasm-ld", "exit 0");
    fake.build(Some(Way::BuildStd)).unwrap();
    let linker = fake.path("bin/wasm-ld");
    assert!(fake.log().contains(&format!("LINKER={}", linker.display())));
}

#[test]
fn a_machine_with_neither_way_says_what_each_lacks() {
    let fake = FakeMachine::new();
    let error = Toolchain::find(&fake.programs(), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("wasip2: cargo and rustc are not on the PATH"),
        "{error}"
    );

    fake.rustc();
    fake.cargo(EMPTY_MODULE);
    let error = Toolchain::find(&fake.programs(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("rustup target add wasm32-wasip2"), "{error}");
    assert!(
        error.contains("no rustc on the PATH has the source"),
        "{error}"
    );

    fake.with_source();
    let error = Toolchain::find(&fake.programs(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no WebAssembly linker"), "{error}");
}

#[test]
fn a_way_that_was_asked_for_is_not_replaced() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(EMPTY_MODULE);
    fake.with_source();
    fake.with_linker();
    let error = Toolchain::find(&fake.programs(), Some(Way::Wasip2)).unwrap_err();
    assert!(matches!(error, Error::NoToolchain { reasons } if reasons.len() == 1));
}

#[test]
fn a_module_that_is_no_plugin_is_named() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(IMPORTING_MODULE);
    fake.with_source();
    fake.with_linker();
    let error = fake.build(None).unwrap_err();
    assert!(
        matches!(&error, Error::Encode { name, .. } if name == "tally"),
        "{error}"
    );
    assert!(error.to_string().contains("`m`"), "{error}");
}

#[test]
fn a_failing_cargo_is_reported() {
    let fake = FakeMachine::new();
    fake.rustc();
    fake.cargo(EMPTY_MODULE);
    fake.with_wasip2();
    fake.script("bin/cargo", "exit 101");
    assert!(matches!(fake.build(None).unwrap_err(), Error::Cargo { .. }));
}

#[test]
fn a_component_is_written_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut component = Component {
        name: "tally".to_owned(),
        way: Way::Wasip2,
        bytes: COMPONENT_HEADER.to_vec(),
    };
    let (path, written) = component.write_into(directory.path()).unwrap();
    assert!(written);
    assert_eq!(
        component.write_into(directory.path()).unwrap(),
        (path.clone(), false)
    );
    component.bytes.push(0);
    assert!(component.write_into(directory.path()).unwrap().1);
    assert_eq!(fs::read(path).unwrap(), component.bytes);
    let names = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(names, 1, "nothing temporary stays");
}

#[test]
fn a_digest_is_the_sha256_of_the_bytes() {
    let component = Component {
        name: "a".to_owned(),
        way: Way::Wasip2,
        bytes: b"abc".to_vec(),
    };
    assert_eq!(
        component.digest(),
        "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    );
}
