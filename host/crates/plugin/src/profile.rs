//! The one way in which plugins are compiled and run.
//!
//! Every method of `wasmtime::Config` that this build has is called here, each with its reason, so
//! that neither a new default of wasmtime nor a Cargo feature that another crate switches on can
//! change what a plugin may do or computes. What is not called cannot matter here: choices of
//! allocators for stacks and code (`with_host_stack`, `with_custom_code_memory`), debugging aids
//! (`emit_clif`, `debug_adapter_modules`), `module_version` (its default is the version of
//! wasmtime), and `detect_host_feature`, whose default looks at the real processor.

use crate::Limits;
use crate::engine::EngineError;
use crate::host::HOST_FUNCTIONS;
use sha2::{Digest as _, Sha256};
use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use wasmparser::WasmFeatures;
use wasmtime::{
    Config, OperatorCost, OptLevel, ProfilingStrategy, RegallocAlgorithm, Strategy,
    VariableOperatorCost, WasmBacktraceDetails,
};

/// Number of the profile: raised with each change of this file that can change what a plugin
/// computes, which plugins are accepted, or how much fuel they use.
pub const PROFILE_NUMBER: u32 = 1;

/// Stack that a thread which calls plugins needs at least: guests may use half of it, host
/// functions have the rest.
pub const THREAD_STACK_SIZE_BYTES_MIN: usize = 2 << 20;

/// Stack for a guest's frames. Deep recursion in interpreters needs more than wasmtime's 512 KiB.
const GUEST_STACK_SIZE_BYTES: usize = 1 << 20;

/// Frames of a guest's stack that a fault shows.
pub(crate) const BACKTRACE_FRAMES_MAX: usize = 20;

/// How plugins are compiled and run on this node.
///
/// Two nodes with the same fingerprint run the same plugin alike: it goes into snapshots and
/// status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    number: u32,
    fingerprint: String,
}

impl Profile {
    pub(crate) fn new(engine: &wasmtime::Engine, limits: &Limits) -> Self {
        let mut hasher = Sha256Hasher(Sha256::new());
        PROFILE_NUMBER.hash(&mut hasher);
        // Covers the version of wasmtime, target, flags, tunables, features and fuel costs.
        engine.precompile_compatibility_hash().hash(&mut hasher);
        // It leaves out what is decided at run time.
        GUEST_STACK_SIZE_BYTES.hash(&mut hasher);
        HOST_FUNCTIONS.hash(&mut hasher);
        // How large a component may be does not change how it runs.
        let running = Limits {
            component_size_bytes_max: 0,
            ..limits.clone()
        };
        running.hash(&mut hasher);
        Self {
            number: PROFILE_NUMBER,
            fingerprint: hex::encode(hasher.0.finalize()),
        }
    }

    /// [`PROFILE_NUMBER`] of the build.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Hash over everything that decides how a plugin runs, as 64 hexadecimal digits: the number,
    /// wasmtime's version and settings, the compiler's target and flags, the fuel costs, the stack
    /// size, the [`Limits`] and the names of the host functions.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }
}

/// Feeds what is hashed into SHA-256, whose result does not depend on the standard library.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let hash: [u8; 32] = self.0.clone().finalize().into();
        u64::from_le_bytes(hash[..8].try_into().expect("8 of 32 bytes"))
    }
}

/// Makes the configuration.
pub(crate) fn config() -> Result<Config, EngineError> {
    let mut config = Config::new();
    language(&mut config);
    target(&mut config)?;
    code(&mut config);
    metering(&mut config);
    memory(&mut config);
    diagnostics(&mut config);
    Ok(config)
}

/// What a component may consist of: what compilers for `wasm32-wasip2` emit, and nothing else.
///
/// A closed list: everything that wasmparser knows and that is not named here is off, so that an
/// update cannot bring in a proposal by its new default.
pub(crate) fn accepted_features() -> WasmFeatures {
    // Rust and LLVM emit these by default. All of them are exact.
    WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        // Brings the long form of `call_indirect` that LLVM writes.
        | WasmFeatures::REFERENCE_TYPES
        // In LLVM's portable set "lime1"; arithmetic on constants only.
        | WasmFeatures::EXTENDED_CONST
        // Floats are the same everywhere once NaN is canonical, see `code`.
        | WasmFeatures::FLOATS
        // Fixed-width SIMD has one result everywhere, unlike the relaxed one.
        | WasmFeatures::SIMD
        | WasmFeatures::COMPONENT_MODEL
}

fn language(config: &mut Config) {
    config.wasm_features(WasmFeatures::all().difference(accepted_features()), false);
    config.wasm_features(accepted_features(), true);
    // The rest says the same for what has a switch of its own beside the feature.

    // Threads and shared memory: the order of accesses is not replicated.
    config.shared_memory(false);
    // The collector decides by heuristics when the heap grows.
    config.gc_support(false);
    // Tasks, streams and futures run in the order in which the host completes them. It also makes
    // each call cheaper by 0.3 to 0.7 microseconds.
    config.concurrency_support(false);
    // Relaxed SIMD is off; should it ever come on, then with one result.
    config.relaxed_simd_deterministic(true);
    // Changes nothing but code layout. Off, so that hints cannot matter.
    config.wasm_branch_hinting(false);
}

/// The processor for which code is made: the same on every node of an architecture, and not what
/// this machine happens to have.
///
/// Naming a target keeps wasmtime from asking the processor.
fn target(config: &mut Config) -> Result<(), EngineError> {
    let triple = host_triple().ok_or(EngineError::UnsupportedHost)?;
    config.target(triple).map_err(EngineError::Runtime)?;
    for flag in baseline_flags() {
        // SAFETY: the flags only say that instructions exist. Wasmtime checks them against the
        // processor before it runs code (`Engine::check_compatible_with_native_host`), and
        // `Engine::new` fails where one is missing.
        unsafe { config.cranelift_flag_enable(flag) };
    }
    Ok(())
}

/// The triple this program was compiled for; wasmtime wants it letter by letter.
fn host_triple() -> Option<&'static str> {
    if cfg!(all(
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "gnu"
    )) {
        Some("x86_64-unknown-linux-gnu")
    } else if cfg!(all(
        target_arch = "x86_64",
        target_os = "linux",
        target_env = "musl"
    )) {
        Some("x86_64-unknown-linux-musl")
    } else if cfg!(all(
        target_arch = "aarch64",
        target_os = "linux",
        target_env = "gnu"
    )) {
        Some("aarch64-unknown-linux-gnu")
    } else if cfg!(all(
        target_arch = "aarch64",
        target_os = "linux",
        target_env = "musl"
    )) {
        Some("aarch64-unknown-linux-musl")
    } else if cfg!(all(target_arch = "x86_64", target_os = "macos")) {
        Some("x86_64-apple-darwin")
    } else if cfg!(all(target_arch = "aarch64", target_os = "macos")) {
        Some("aarch64-apple-darwin")
    } else {
        None
    }
}

/// x86-64-v2, which every server processor since 2009 has and which SIMD code gains from; on other
/// architectures the architecture's own minimum.
fn baseline_flags() -> &'static [&'static str] {
    if cfg!(target_arch = "x86_64") {
        &[
            "has_sse3",
            "has_ssse3",
            "has_cmpxchg16b",
            "has_sse41",
            "has_sse42",
            "has_popcnt",
        ]
    } else {
        &[]
    }
}

fn code(config: &mut Config) {
    // The only compiler that is built in, by name rather than by choice of wasmtime.
    config.strategy(Strategy::Cranelift);
    // These decide the size of frames and so the depth at which a stack overflows.
    config.cranelift_opt_level(OptLevel::Speed);
    config.cranelift_regalloc_algorithm(RegallocAlgorithm::Backtracking);
    config.compiler_inlining(wasmtime::Inlining::No);
    // Else the bits of a NaN depend on the processor, and a guest can see them.
    config.cranelift_nan_canonicalization(true);
    // Checks of the compiler itself, for its developers.
    config.cranelift_debug_verifier(false);
    config.cranelift_wasmtime_debug_checks(false);
    config.metadata_for_internal_asserts(false);
    config.metadata_for_gc_heap_corruption(false);
    config.wmemcheck(false);
    // Faster, and the code does not depend on it.
    config.parallel_compilation(true);
    // Out-of-bounds accesses end in a signal: up to twice as fast as checking each.
    config.signals_based_traps(true);
}

fn metering(config: &mut Config) {
    // Fuel is exact and repeatable. An end by the clock would differ between replicas.
    config.consume_fuel(true);
    config.epoch_interruption(false);
    config.operator_cost(operator_cost());
    // Guests run on the stack of the calling thread. Far above what code needs, since the depth
    // reached depends on the compiler; the same on all nodes all the same.
    config.max_wasm_stack(GUEST_STACK_SIZE_BYTES);
    // For `call_async`, which is not used. Wasmtime wants it not to be less than the other.
    config.async_stack_size(2 * GUEST_STACK_SIZE_BYTES);
    config.async_stack_zeroing(false);
}

/// The price of each instruction: wasmtime's table of version 48, one unit for nearly all, and a
/// price for memory pages, which wasmtime gives away.
///
/// Each number is covered by [`Profile::fingerprint`], and a test pins that.
fn operator_cost() -> OperatorCost {
    OperatorCost {
        // Clearing a page takes as long as thousands of instructions; 255 is the most one can say.
        variable: VariableOperatorCost {
            memory_grow_per_page: 255,
            ..VariableOperatorCost::new()
        },
        ..OperatorCost::new()
    }
}

fn memory(config: &mut Config) {
    config.allocation_strategy(wasmtime::InstanceAllocationStrategy::OnDemand);
    // All that 32 bits can address is reserved, with a guard behind: bounds checks then cost
    // nothing, and growth never moves memory, so that it fails only where the system has no more.
    config.memory_reservation(4 << 30);
    config.memory_guard_size(32 << 20);
    config.memory_reservation_for_growth(0);
    config.memory_may_move(false);
    config.guard_before_linear_memory(true);
    // Instances start from shared pages of the compiled file.
    config.memory_init_cow(true);
    config.force_memory_init_memfd(false);
    config.memory_guaranteed_dense_image_size(16 << 20);
    config.table_lazy_init(true);
    // There is no collected heap; said so that it has no other form either.
    config.gc_heap_initial_size(0);
    config.gc_heap_reservation(0);
    config.gc_heap_guard_size(0);
    config.gc_heap_reservation_for_growth(0);
    config.gc_heap_may_move(false);
}

fn diagnostics(config: &mut Config) {
    // Names of the guest's functions in a fault. They never reach a replicated result.
    config.wasm_backtrace_max_frames(NonZeroUsize::new(BACKTRACE_FRAMES_MAX));
    // Debug sections of a guest are not parsed: they are hostile input. Also keeps wasmtime from
    // reading an environment variable.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    // Offsets into the component, with which the author finds the line.
    config.generate_address_map(true);
    // No debugger or profiler looks at guests.
    config.debug_info(false);
    config.debug_symbols(false);
    config.profiler(ProfilingStrategy::None);
    // Only for unwinders of the system, whose registration costs time for each plugin.
    config.native_unwind_info(false);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Engine;

    /// The profile of this build. If it changes, then plugins may run differently: raise
    /// [`PROFILE_NUMBER`] and set it to what the test shows.
    #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    const FINGERPRINT: &str = "04c38b208e18e84ddf6338f393648f6f6995ab7168e1705c2a8710ae71b8cdbf";

    #[cfg(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu"))]
    #[test]
    fn the_profile_changes_only_on_purpose() {
        let engine = Engine::new(Limits::default()).unwrap();
        assert_eq!(
            (engine.profile().number(), engine.profile().fingerprint()),
            (1, FINGERPRINT)
        );
    }

    #[test]
    fn limits_are_part_of_the_fingerprint() {
        let one = Engine::new(Limits::default()).unwrap();
        let limits = Limits {
            fuel_per_entry: 5,
            ..Limits::default()
        };
        let other = Engine::new(limits).unwrap();
        assert_ne!(one.profile(), other.profile());
    }

    #[test]
    fn settings_are_part_of_the_fingerprint() {
        type Change = fn(&mut Config);
        let profile = |change: Change| {
            let mut config = config().unwrap();
            change(&mut config);
            let engine = wasmtime::Engine::new(&config).unwrap();
            Profile::new(&engine, &Limits::default())
                .fingerprint()
                .to_owned()
        };
        let base = profile(|_| {});
        assert_eq!(base, profile(|_| {}));
        let changes: [(&str, Change); 4] = [
            ("fuel costs", |config| {
                config.operator_cost(OperatorCost {
                    I32Add: 2,
                    ..operator_cost()
                });
            }),
            ("NaN", |config| {
                config.cranelift_nan_canonicalization(false);
            }),
            ("features", |config| {
                config.wasm_features(WasmFeatures::TAIL_CALL, true);
            }),
            ("optimisation", |config| {
                config.cranelift_opt_level(OptLevel::None);
            }),
        ];
        for (name, change) in changes {
            assert_ne!(base, profile(change), "{name}");
        }
    }

    /// Without it the sign and payload of a NaN would be the processor's.
    #[test]
    fn nan_is_canonical() {
        let engine = wasmtime::Engine::new(&config().unwrap()).unwrap();
        let text = r#"(module (func (export "f") (param f64 f64) (result i64)
            (i64.reinterpret_f64 (f64.div (local.get 0) (local.get 1)))))"#;
        let module = wasmtime::Module::new(&engine, wat::parse_str(text).unwrap()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_fuel(1_000).unwrap();
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let f = instance
            .get_typed_func::<(f64, f64), i64>(&mut store, "f")
            .unwrap();
        let odd = f64::from_bits(0xfff8_dead_beef_0001);
        for (one, other) in [(0.0, 0.0), (odd, 1.0), (f64::INFINITY, f64::NEG_INFINITY)] {
            assert_eq!(
                f.call(&mut store, (one, other)).unwrap(),
                0x7ff8_0000_0000_0000
            );
        }
    }

    #[test]
    fn senseless_limits_are_refused() {
        let limits = Limits {
            fuel_per_entry: 0,
            ..Limits::default()
        };
        let error = Engine::new(limits).unwrap_err();
        assert!(error.to_string().contains("fuel_per_entry is 0"), "{error}");
    }
}
