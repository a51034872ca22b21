//! Each proposal that is off is refused by both who look at a component: the check before
//! compilation, and wasmtime with the profile's configuration. Each that is on is taken.

use crate::engine::LoadError;
use crate::{Limits, check, profile};
use wasmtime::component::Component;

/// Proposals that must be refused, each with a small core module or component that needs it.
const REFUSED: &[(&str, &str)] = &[
    ("threads: shared memory", "(module (memory 1 1 shared))"),
    (
        "threads: atomics",
        "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
    ),
    ("threads: fence", "(module (func (atomic.fence)))"),
    (
        "shared-everything threads",
        "(module (func) (global (shared i32) (i32.const 0)))",
    ),
    (
        "relaxed SIMD",
        "(module (func (param v128 v128 v128) (result v128)
            (f32x4.relaxed_madd (local.get 0) (local.get 1) (local.get 2))))",
    ),
    ("64-bit memory", "(module (memory i64 1))"),
    ("64-bit table", "(module (table i64 1 funcref))"),
    ("several memories", "(module (memory 1) (memory 1))"),
    ("tail calls", "(module (func $f (return_call $f)))"),
    ("exceptions", "(module (tag $e) (func (throw $e)))"),
    ("exceptions: references", "(module (func (param exnref)))"),
    ("old exceptions", "(module (func try catch_all end))"),
    (
        "collected types: struct",
        "(module (type (struct (field i32))))",
    ),
    ("collected types: array", "(module (type (array i32)))"),
    (
        "collected types: i31",
        "(module (func (drop (ref.i31 (i32.const 0)))))",
    ),
    (
        "references to the host",
        "(module (func (param externref)))",
    ),
    (
        "function references",
        "(module (type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0))))",
    ),
    (
        "stack switching",
        "(module (type $f (func)) (type $c (cont $f)))",
    ),
    ("custom page sizes", "(module (memory 1 (pagesize 1)))"),
    (
        "wide arithmetic",
        "(module (func (param i64 i64 i64 i64) (result i64 i64)
            (i64.add128 (local.get 0) (local.get 1) (local.get 2) (local.get 3))))",
    ),
    (
        "memory control",
        "(module (memory 1) (func (memory.discard (i32.const 0) (i32.const 0))))",
    ),
    (
        "async functions",
        r#"(component (import "f" (func async)))"#,
    ),
    ("streams", "(component (type (stream u8)))"),
    ("futures", "(component (type (future u8)))"),
    (
        "async built-ins",
        "(component (core func (canon task.return)))",
    ),
    (
        "async options",
        r#"(component (import "f" (func $f)) (core func (canon lower (func $f) async)))"#,
    ),
    (
        "component threads",
        "(component (core func (canon thread.index)))",
    ),
    ("error contexts", "(component (type error-context))"),
    ("lists of fixed length", "(component (type (list u8 4)))"),
    ("maps", "(component (type (map string u32)))"),
    (
        "component values",
        r#"(component (import "v" (value string)))"#,
    ),
];

/// What compilers emit, and what must be taken.
const TAKEN: &[(&str, &str)] = &[
    (
        "mutable globals",
        r#"(module (global (export "g") (mut i32) (i32.const 0)))"#,
    ),
    (
        "saturating conversions",
        "(module (func (param f32) (drop (i32.trunc_sat_f32_s (local.get 0)))))",
    ),
    (
        "sign extension",
        "(module (func (param i32) (drop (i32.extend8_s (local.get 0)))))",
    ),
    (
        "several results",
        "(module (func (result i32 i32) (i32.const 1) (i32.const 2)))",
    ),
    (
        "bulk memory",
        "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 0) (i32.const 0))))",
    ),
    (
        "reference types",
        "(module (table 1 funcref) (func (param funcref)))",
    ),
    (
        "constant arithmetic",
        "(module (global i32 (i32.add (i32.const 1) (i32.const 2))))",
    ),
    (
        "floats",
        "(module (func (param f64) (drop (f64.sqrt (local.get 0)))))",
    ),
    (
        "SIMD",
        "(module (func (param v128) (drop (i32x4.add (local.get 0) (local.get 0)))))",
    ),
    (
        "components",
        r#"(component (type (func (param "x" (list u8)) (result string))))"#,
    ),
];

/// The component; a core module is put into one.
fn component(text: &str) -> Vec<u8> {
    let text = match text.strip_prefix("(module") {
        Some(rest) => format!("(component (core module{rest})"),
        None => text.to_owned(),
    };
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn engine() -> wasmtime::Engine {
    wasmtime::Engine::new(&profile::config().unwrap()).unwrap()
}

#[test]
fn proposals_that_are_off_are_refused() {
    let engine = engine();
    for (proposal, text) in REFUSED {
        let bytes = component(text);
        let checked = check::structure(&bytes, &Limits::default());
        assert!(
            matches!(checked, Err(LoadError::Invalid(_))),
            "{proposal}: {checked:?}"
        );
        assert!(
            Component::from_binary(&engine, &bytes).is_err(),
            "{proposal}: compiled"
        );
    }
}

#[test]
fn proposals_that_are_on_are_taken() {
    let engine = engine();
    for (proposal, text) in TAKEN {
        let bytes = component(text);
        check::structure(&bytes, &Limits::default())
            .unwrap_or_else(|error| panic!("{proposal}: {error}"));
        Component::from_binary(&engine, &bytes)
            .unwrap_or_else(|error| panic!("{proposal}: {error:?}"));
    }
}

/// A proposal that wasmparser learns of is off until somebody decides about it here.
#[test]
fn every_feature_that_is_known_is_decided() {
    let accepted = profile::accepted_features();
    let names: Vec<_> = accepted.iter_names().map(|(name, _)| name).collect();
    let expected = [
        "MUTABLE_GLOBAL",
        "SATURATING_FLOAT_TO_INT",
        "SIGN_EXTENSION",
        "REFERENCE_TYPES",
        "MULTI_VALUE",
        "BULK_MEMORY",
        "SIMD",
        "FLOATS",
        "EXTENDED_CONST",
        "COMPONENT_MODEL",
    ];
    assert_eq!(names, expected);
}
