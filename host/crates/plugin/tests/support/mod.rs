//! Guests written as WebAssembly text, and what tests need around them.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

pub(crate) mod components;
pub(crate) mod native;

use cap_std::fs::Dir;
use kontiki_plugin::{Batch, Engine, Limits, Machine, Plugin, SnapshotInfo, componentize};
use std::path::Path;
use wit_parser::Resolve;

/// A guest's core module, made of text. What is not set does something sensible: `apply` answers
/// each entry with its own payload, `query` with its request, `save` and `load` do nothing.
#[derive(Clone)]
pub(crate) struct Guest {
    /// World of the WIT package.
    pub(crate) world: &'static str,
    /// More definitions: functions, globals, data, a `start`.
    pub(crate) items: String,
    /// Memory and table declarations.
    pub(crate) memory: &'static str,
    pub(crate) describe: String,
    pub(crate) apply: String,
    pub(crate) query: String,
    pub(crate) save: String,
    pub(crate) load: String,
}

/// Where `describe` builds its result. The strings stand behind it.
const DESCRIBE: &str = r#"
    (i32.store (i32.const 64) (i32.const 128)) (i32.store (i32.const 68) (i32.const 4))
    (i32.store (i32.const 72) (i32.const 136)) (i32.store (i32.const 76) (i32.const 5))
    (i32.store (i32.const 80) (i32.const 3))
    (i32.store (i32.const 84) (i32.const 144)) (i32.store (i32.const 88) (i32.const 1))
    (i32.const 64)"#;

/// Announces all entries, then returns the batch's own data and ends, and zeros as codes.
pub(crate) const ECHO: &str = r#"
    (local $n i32)
    (block $done (loop $next
        (br_if $done (i32.ge_u (local.get $n) (local.get $count)))
        (call $next_entry (local.get $n))
        (local.set $n (i32.add (local.get $n) (i32.const 1)))
        (br $next)))
    (call $answers (local.get $data) (local.get $size) (local.get $ends) (local.get $count))"#;

impl Default for Guest {
    fn default() -> Self {
        Self {
            world: "plugin",
            items: String::new(),
            memory: r#"(memory (export "memory") 4)"#,
            describe: DESCRIBE.to_owned(),
            apply: ECHO.to_owned(),
            query: "(call $ok (local.get $request) (local.get $size))".to_owned(),
            save: "(call $ok (i32.const 0) (i32.const 0))".to_owned(),
            load: "(call $ok (i32.const 0) (i32.const 0))".to_owned(),
        }
    }
}

impl Guest {
    /// The guest whose `apply` does `body`.
    pub(crate) fn applying(body: &str) -> Self {
        Self {
            apply: body.to_owned(),
            ..Self::default()
        }
    }

    /// Adds definitions.
    pub(crate) fn with(mut self, items: &str) -> Self {
        self.items.push_str(items);
        self
    }

    /// The core module as text.
    pub(crate) fn text(&self) -> String {
        let Self {
            items,
            memory,
            describe,
            apply,
            query,
            save,
            load,
            ..
        } = self;
        let interface = match self.world {
            "simple-plugin" => "kontiki:plugin/simple-machine@1.0.0",
            _ => "kontiki:plugin/machine@1.0.0",
        };
        let apply_type = match self.world {
            "simple-plugin" => {
                "(param $data i32) (param $size i32) (param $index i64) (param $time i64)"
            }
            _ => {
                "(param $data i32) (param $size i32) (param $ends i32) (param $count i32) \
                 (param $indexes i32) (param i32) (param $times i32) (param i32)"
            }
        };
        format!(
            r#"(module $guest
            (import "kontiki:plugin/host@1.0.0" "next-entry" (func $next_entry (param i32)))
            (import "kontiki:plugin/host@1.0.0" "log" (func $log (param i32 i32 i32)))
            (import "kontiki:plugin/snapshots@1.0.0" "[method]writer.directory"
                (func $writer_directory (param i32) (result i32)))
            (import "kontiki:plugin/snapshots@1.0.0" "[method]writer.add-file"
                (func $writer_add (param i32 i32 i32 i32 i32 i32)))
            (import "kontiki:plugin/snapshots@1.0.0" "[method]reader.directory"
                (func $reader_directory (param i32) (result i32)))
            (import "kontiki:plugin/snapshots@1.0.0" "[resource-drop]writer" (func $drop_writer (param i32)))
            (import "kontiki:plugin/snapshots@1.0.0" "[resource-drop]reader" (func $drop_reader (param i32)))
            (import "wasi:filesystem/types@0.2.12" "[method]descriptor.open-at"
                (func $open_at (param i32 i32 i32 i32 i32 i32 i32)))
            (import "wasi:filesystem/types@0.2.12" "[method]descriptor.write"
                (func $write (param i32 i32 i32 i64 i32)))
            (import "wasi:filesystem/types@0.2.12" "[method]descriptor.set-size"
                (func $set_size (param i32 i64 i32)))
            (import "wasi:filesystem/types@0.2.12" "[method]descriptor.create-directory-at"
                (func $create_directory (param i32 i32 i32 i32)))
            {memory}
            (global $heap (mut i32) (i32.const 65536))
            (data (i32.const 128) "test") (data (i32.const 136) "1.2.3") (data (i32.const 144) "\03\00\00\00")
            ;; Bump allocation that starts anew with each call: nothing is kept.
            (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
                (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
                (global.set $heap (i32.add (local.get $at) (local.get 3)))
                (block $fits
                    (br_if $fits (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
                    (drop (memory.grow (i32.add (i32.const 1) (i32.div_u (local.get 3) (i32.const 65536))))))
                (local.get $at))
            (func $reset (global.set $heap (i32.const 65536)))
            ;; A result whose bytes are ok, or a reject.
            (func $ok (param i32 i32) (result i32)
                (i32.store8 (i32.const 32) (i32.const 0))
                (i32.store (i32.const 36) (local.get 0)) (i32.store (i32.const 40) (local.get 1))
                (call $reset) (i32.const 32))
            (func $no (param i32 i32) (result i32)
                (drop (call $ok (local.get 0) (local.get 1)))
                (i32.store8 (i32.const 32) (i32.const 1)) (i32.const 32))
            ;; Answers whose codes are zeros.
            (func $answers (param $data i32) (param $size i32) (param $ends i32) (param $count i32) (result i32)
                (i32.store (i32.const 0) (local.get $data)) (i32.store (i32.const 4) (local.get $size))
                (i32.store (i32.const 8) (local.get $ends)) (i32.store (i32.const 12) (local.get $count))
                (i32.store (i32.const 16) (i32.const 1024)) (i32.store (i32.const 20) (local.get $count))
                (call $reset) (i32.const 0))
            {items}
            (func $describe (export "{interface}#describe") (result i32) {describe})
            (func $apply (export "{interface}#apply") {apply_type} (result i32) {apply})
            (func $query (export "{interface}#query") (param $request i32) (param $size i32) (result i32) {query})
            (func $save (param $writer i32) (result i32) {save})
            (func $load (param $reader i32) (result i32) {load})
            ;; What is on loan is given back.
            (func (export "{interface}#save") (param i32) (result i32)
                (call $save (local.get 0)) (call $drop_writer (local.get 0)))
            (func (export "{interface}#load") (param i32) (result i32)
                (call $load (local.get 0)) (call $drop_reader (local.get 0)))
        )"#
        )
    }

    /// The component.
    pub(crate) fn component(&self) -> Vec<u8> {
        component(&self.text(), self.world)
    }

    /// The loaded plugin, under limits that make tests short.
    pub(crate) fn plugin(&self) -> Plugin {
        engine(limits()).load(&self.component()).unwrap()
    }

    /// A new instance of it.
    pub(crate) fn machine(&self) -> Box<dyn Machine> {
        self.plugin().instantiate().unwrap()
    }
}

/// Makes a component of a core module's text, for a world of the contract.
pub(crate) fn component(text: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../wit");
    let (package, _) = resolve.push_dir(&wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding).unwrap();
    componentize(&module).unwrap()
}

/// Limits that are reached within a second, with room for what the test guests do.
pub(crate) fn limits() -> Limits {
    Limits {
        memory_size_bytes_max: 64 << 20,
        table_elements_max: 10_000,
        fuel_per_start: 50_000_000,
        fuel_per_entry: 50_000_000,
        fuel_per_query: 50_000_000,
        fuel_per_snapshot: 500_000_000,
        host_calls_per_entry: 10_000,
        host_calls_per_snapshot: 100_000,
        answer_size_bytes_max: 64 << 10,
        snapshot_size_bytes_max: 1 << 20,
        snapshot_files_max: 100,
        ..Limits::default()
    }
}

pub(crate) fn engine(limits: Limits) -> Engine {
    Engine::new(limits).unwrap()
}

/// A batch of these payloads, with indexes from 10 on.
pub(crate) fn batch<'a>(payloads: &[&'a [u8]]) -> Batch<'a> {
    let mut batch = Batch::new();
    for (n, payload) in payloads.iter().enumerate() {
        batch.push(10 + n as u64, 1_000 * (n as u64 + 1), payload);
    }
    batch
}

pub(crate) fn open(directory: &Path) -> Dir {
    Dir::open_ambient_dir(directory, cap_std::ambient_authority()).unwrap()
}

pub(crate) fn info() -> SnapshotInfo {
    SnapshotInfo {
        index: 17,
        term: 4,
        voters: vec![1, 2, 3],
        learners: vec![4],
        format: 3,
        plugin: "sha256:00".to_owned(),
    }
}
