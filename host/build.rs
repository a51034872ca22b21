//! Puts the demonstration plugins into the binary, if they have been built.
//!
//! Looks in `$KONTIKI_PLUGINS_DIR`, else where `cargo xtask plugins` leaves them. Without them the
//! binary is whole but for the groups that `kontiki dev` makes.

use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = ["counter", "atomic"];

fn main() {
    println!("cargo::rerun-if-env-changed=KONTIKI_PLUGINS_DIR");
    println!("cargo::rerun-if-changed=build.rs");
    let directory = directory();
    let mut source = String::from("&[\n");
    for name in NAMES {
        let path = directory.join(format!("{name}.wasm"));
        // A path that is absent must not be watched: cargo would build the package again each time.
        match path.canonicalize() {
            Ok(path) => {
                println!("cargo::rerun-if-changed={}", path.display());
                source += &format!("    ({name:?}, include_bytes!({path:?})),\n");
            }
            Err(error) => {
                println!(
                    "cargo::warning=no demonstration plugin {}: {error}",
                    path.display()
                );
            }
        }
    }
    source += "]\n";
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(out.join("demo_plugins.rs"), source).expect("OUT_DIR can be written");
}

fn directory() -> PathBuf {
    match std::env::var_os("KONTIKI_PLUGINS_DIR") {
        Some(directory) => directory.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins/target/components"),
    }
}
