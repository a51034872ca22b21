//! What building RocksDB takes: a C++ compiler, and libclang, which reads RocksDB's headers.

use super::Need;
use super::machine::Machine;
use std::path::{Path, PathBuf};

/// The need and whether it is met.
pub(super) fn need(machine: &Machine) -> Need {
    let (compiler, libclang) = (machine.programs.find("c++"), libclang(machine));
    let missing = missing_packages(machine);
    let detail = match (&compiler, &libclang) {
        (Some(compiler), Some(libclang)) => {
            format!("{}, {}", compiler.display(), libclang.display())
        }
        _ => format!("packages {}", missing.join(" ")),
    };
    Need {
        name: "C++ and libclang",
        present: missing.is_empty(),
        detail,
    }
}

/// Debian packages that would meet the rest of it.
pub(super) fn missing_packages(machine: &Machine) -> Vec<&'static str> {
    let has = |program| machine.programs.find(program).is_some();
    let mut packages = Vec::new();
    if !has("cc") {
        packages.push("gcc");
    }
    if !has("c++") {
        packages.push("g++");
    }
    if !has("make") {
        packages.push("make");
    }
    if libclang(machine).is_none() {
        packages.push("libclang-dev");
    }
    packages
}

fn libclang(machine: &Machine) -> Option<PathBuf> {
    machine
        .library_directories
        .iter()
        .find_map(|directory| libclang_in(directory))
}

/// The names under which bindgen looks for it. `libclang-cpp.so` comes with LLVM itself and is
/// another library: it has the C++ interface only.
fn libclang_in(directory: &Path) -> Option<PathBuf> {
    let entries = directory.read_dir().ok()?;
    let is_libclang = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let named = |start: &str| name.starts_with(start);
        name == "libclang.so"
            || named("libclang.so.")
            || named("libclang-") && !named("libclang-cpp")
    };
    let mut found = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_libclang);
    found.find(|path| path.to_string_lossy().contains(".so") && path.exists())
}
