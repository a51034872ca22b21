//! What is looked at before a component is compiled and linked.

use crate::description::Contract;
use crate::engine::LoadError;
use crate::host::HOST_FUNCTIONS;
use crate::{Limits, REASON_SIZE_BYTES_MAX, clean, profile};
use std::fmt;
use wasmparser::{Encoding, Parser, Payload, Validator};
use wasmtime::component::Component;

/// Package of the contract.
const PACKAGE: &str = "kontiki:plugin";

/// A component is too much for the compiler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Structure {
    /// Too many functions.
    Functions {
        /// How many it has.
        count: u64,
        /// [`Limits::functions_max`].
        limit: u32,
    },
    /// A function is too large.
    FunctionSize {
        /// Its size.
        size_bytes: u64,
        /// [`Limits::function_size_bytes_max`].
        limit: u64,
    },
}

impl fmt::Display for Structure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Functions { count, limit } => {
                write!(f, "has {count} functions; the limit is {limit}")
            }
            Self::FunctionSize { size_bytes, limit } => {
                write!(
                    f,
                    "has a function of {size_bytes} bytes; the limit is {limit}"
                )
            }
        }
    }
}

/// Checks the size, before anything is computed over the bytes.
pub(crate) fn size(bytes: &[u8], limits: &Limits) -> Result<(), LoadError> {
    let size_bytes = bytes.len() as u64;
    let limit = limits.component_size_bytes_max;
    if size_bytes > limit {
        Err(LoadError::TooLarge { size_bytes, limit })
    } else {
        Ok(())
    }
}

/// Checks that the bytes are a valid component of the accepted language, and small enough in all
/// its parts to be compiled.
pub(crate) fn structure(bytes: &[u8], limits: &Limits) -> Result<(), LoadError> {
    if !bytes.starts_with(b"\0asm") {
        return Err(LoadError::NotWasm(guess(bytes)));
    }
    if Parser::is_core_wasm(bytes) {
        return Err(LoadError::CoreModule);
    }
    let invalid = |error: wasmparser::BinaryReaderError| {
        LoadError::Invalid(clean(&error.to_string(), REASON_SIZE_BYTES_MAX))
    };
    let mut functions = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(invalid)? {
            Payload::Version {
                encoding: Encoding::Component,
                ..
            } => {}
            Payload::FunctionSection(section) => {
                functions += u64::from(section.count());
                check_functions(functions, limits)?;
            }
            Payload::CodeSectionEntry(body) => {
                check_function_size(body.range().len() as u64, limits)?;
            }
            _ => {}
        }
    }
    let mut validator = Validator::new_with_features(profile::accepted_features());
    validator.validate_all(bytes).map_err(invalid)?;
    Ok(())
}

fn check_functions(count: u64, limits: &Limits) -> Result<(), LoadError> {
    let limit = limits.functions_max;
    if count <= u64::from(limit) {
        return Ok(());
    }
    Err(LoadError::Structure(Structure::Functions { count, limit }))
}

fn check_function_size(size_bytes: u64, limits: &Limits) -> Result<(), LoadError> {
    let limit = limits.function_size_bytes_max;
    if size_bytes <= limit {
        return Ok(());
    }
    Err(LoadError::Structure(Structure::FunctionSize {
        size_bytes,
        limit,
    }))
}

/// What people most often pass instead of a component.
fn guess(bytes: &[u8]) -> Option<&'static str> {
    let text = bytes.trim_ascii_start();
    if bytes.is_empty() {
        Some("an empty file")
    } else if text.starts_with(b"(module") || text.starts_with(b"(component") {
        Some("WebAssembly text")
    } else if bytes.starts_with(b"\x7fELF") {
        Some("a native program or library")
    } else if bytes.starts_with(b"!<arch>") {
        Some("a static library")
    } else if bytes.starts_with(b"\x1f\x8b") {
        Some("a gzip archive")
    } else {
        None
    }
}

/// Names of the component's imports.
pub(crate) fn imports(engine: &wasmtime::Engine, component: &Component) -> Vec<String> {
    component
        .component_type()
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Names of the component's exports.
pub(crate) fn exports(engine: &wasmtime::Engine, component: &Component) -> Vec<String> {
    component
        .component_type()
        .exports(engine)
        .map(|(name, _)| name.to_owned())
        .collect()
}

/// Checks that each import is an interface that the host has, in a compatible version.
pub(crate) fn known_imports(imports: &[String]) -> Result<(), LoadError> {
    let unknown: Vec<_> = imports
        .iter()
        .filter(|name| !is_offered(name))
        .cloned()
        .collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(LoadError::UnknownImports(unknown))
    }
}

/// Whether an interface of this name and a compatible version is offered. Versions that only add
/// are compatible with those before: the plugin may have been built for an older one, and, as long
/// as it uses nothing new, for a newer one; the linker has the last word.
fn is_offered(import: &str) -> bool {
    let Some((interface, version)) = import.split_once('@') else {
        return false;
    };
    HOST_FUNCTIONS.iter().any(|offered| {
        offered
            .split_once('@')
            .is_some_and(|(name, has)| name == interface && compatible(version, has))
    })
}

/// Semantic versions with the same first number that is not zero; pre-releases only with
/// themselves.
fn compatible(version: &str, has: &str) -> bool {
    let track = |version: &str| -> Option<(usize, u64)> {
        if version.contains(['-', '+']) {
            return None;
        }
        let numbers: Option<Vec<u64>> = version.split('.').map(|n| n.parse().ok()).collect();
        numbers?
            .into_iter()
            .enumerate()
            .find(|&(_, number)| number != 0)
    };
    version == has || (track(version).is_some() && track(version) == track(has))
}

/// Finds out which of the two interfaces is exported.
pub(crate) fn contract(exports: &[String]) -> Result<Contract, LoadError> {
    let has = |contract: Contract| {
        let prefix = format!("{PACKAGE}/{contract}@");
        exports.iter().any(|name| {
            name.strip_prefix(&prefix)
                .is_some_and(|version| compatible(version, "1.0.0"))
        })
    };
    match (has(Contract::Machine), has(Contract::SimpleMachine)) {
        (true, true) => Err(LoadError::TwoExports),
        (true, false) => Ok(Contract::Machine),
        (false, true) => Ok(Contract::SimpleMachine),
        (false, false) => Err(LoadError::NoExport {
            exports: exports.to_vec(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compatible_within_a_track() {
        for (version, has) in [("1.0.0", "1.0.0"), ("1.2.3", "1.0.0"), ("0.2.0", "0.2.12")] {
            assert!(compatible(version, has), "{version} {has}");
        }
        for (version, has) in [
            ("2.0.0", "1.0.0"),
            ("0.3.0", "0.2.12"),
            ("1.0.0-rc", "1.0.0"),
            ("x", "1.0.0"),
        ] {
            assert!(!compatible(version, has), "{version} {has}");
        }
    }

    #[test]
    fn offered_are_only_interfaces_of_the_list() {
        assert!(is_offered("wasi:filesystem/types@0.2.0"));
        assert!(is_offered("kontiki:plugin/host@1.0.0"));
        assert!(!is_offered("wasi:http/types@0.2.0"));
        assert!(!is_offered("kontiki:plugin/host@2.0.0"));
        assert!(!is_offered("kontiki:plugin/host"));
    }
}
