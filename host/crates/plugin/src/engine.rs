use crate::check::{self, Structure};
use crate::description::{Description, DescriptionError};
use crate::fault::Fault;
use crate::host::HostState;
use crate::instance::{Exports, Instance};
use crate::plugin::{Plugin, PluginInner};
use crate::text::{Bounded, NAME_SIZE_BYTES_MAX};
use crate::{Digest, Limits, Profile, REASON_SIZE_BYTES_MAX, clean, profile};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use wasmtime::component::{Component, Linker};

/// Compiles plugins and keeps them.
///
/// Cheap to clone; all clones share what is compiled.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    engine: wasmtime::Engine,
    linker: Linker<HostState>,
    limits: Arc<Limits>,
    profile: Profile,
    plugins: Mutex<Loaded>,
    /// Those that are being compiled, so that nobody compiles one twice.
    compiling: Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>,
    /// Held while compiling a large one, which takes memory and long: one at a time. Small ones go
    /// on beside it.
    compiling_large: Mutex<()>,
}

/// What is compiled.
#[derive(Default)]
struct Loaded {
    plugins: BTreeMap<Digest, Plugin>,
    /// Least recently wanted first.
    order: Vec<Digest>,
}

/// Components above this are compiled one at a time.
const LARGE_SIZE_BYTES: usize = 2 << 20;
/// Plugins kept although nothing runs them: whoever pushes one is about to use it.
const UNUSED_KEPT: usize = 4;

/// No plugin can run on this node.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There is no profile for this architecture and operating system.
    #[error("plugins run on x86-64 and AArch64, on Linux and macOS; this is another system")]
    UnsupportedHost,
    /// A limit makes no sense.
    #[error("the limit {name} is {value}; it must be between {min} and {max}")]
    Limit {
        /// Name of the field of [`Limits`].
        name: &'static str,
        /// Its value.
        value: u64,
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// Wasmtime does not start here: the processor lacks instructions of the baseline (x86-64-v2)
    /// or the system lacks virtual memory.
    #[error("the WebAssembly runtime does not start on this machine: {0:#}")]
    Runtime(wasmtime::Error),
}

/// Bytes are no plugin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// More bytes than a component may have.
    #[error("the component has {size_bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Its size.
        size_bytes: u64,
        /// [`Limits::component_size_bytes_max`].
        limit: u64,
    },
    /// Not WebAssembly at all.
    #[error("this is no WebAssembly file{}", .0.map(|kind| format!(": it looks like {kind}")).unwrap_or_default())]
    NotWasm(Option<&'static str>),
    /// A core module.
    #[error("this is a core module, not a component: build it with `kontiki plugin build`")]
    CoreModule,
    /// Damaged, or it uses a proposal that is not accepted.
    #[error("the component is not valid: {0}")]
    Invalid(String),
    /// Too many or too large functions.
    #[error("the component {0}")]
    Structure(Structure),
    /// No `machine` and no `simple-machine`.
    #[error(
        "the component does not export kontiki:plugin/machine or kontiki:plugin/simple-machine; \
         it exports {}", list(.exports)
    )]
    NoExport {
        /// What it exports instead.
        exports: Vec<String>,
    },
    /// Both of them.
    #[error("the component exports both kontiki:plugin/machine and kontiki:plugin/simple-machine")]
    TwoExports,
    /// An export has not the type that the contract gives it.
    #[error("the component's export is not as in kontiki:plugin@1.0.0: {0}")]
    WrongExport(String),
    /// Imports that no node offers.
    #[error("the component imports {}, which Kontiki does not offer", list(.0))]
    UnknownImports(Vec<String>),
    /// An import has not the type that the host's function has.
    #[error("an import of the component is not as the host offers it: {0}")]
    WrongImport(String),
    /// The compiler failed.
    #[error("the component does not compile: {0}")]
    Compile(String),
    /// The throw-away instance did not start, or `describe` failed.
    #[error("the plugin does not describe itself: {0}")]
    Describe(#[source] Fault),
    /// `describe` breaks the contract.
    #[error("the plugin describes itself wrongly: {0}")]
    Description(DescriptionError),
}

/// Names that a message lists.
const NAMES_LISTED_MAX: usize = 16;

fn list(names: &[String]) -> String {
    if names.is_empty() {
        return "nothing".to_owned();
    }
    let shown = names.iter().take(NAMES_LISTED_MAX);
    let mut shown: Vec<_> = shown.map(|name| clean(name, NAME_SIZE_BYTES_MAX)).collect();
    if let Some(more) = names.len().checked_sub(NAMES_LISTED_MAX + 1) {
        shown.push(format!("and {} more", more + 1));
    }
    shown.join(", ")
}

impl Engine {
    /// Starts the runtime.
    ///
    /// # Errors
    ///
    /// [`EngineError`] if this machine cannot run plugins, or a limit makes no sense.
    pub fn new(limits: Limits) -> Result<Self, EngineError> {
        check_limits(&limits)?;
        let engine = wasmtime::Engine::new(&profile::config()?).map_err(EngineError::Runtime)?;
        let linker = crate::host::linker(&engine).map_err(EngineError::Runtime)?;
        let profile = Profile::new(&engine, &limits);
        let inner = Inner {
            engine,
            linker,
            limits: Arc::new(limits),
            profile,
            plugins: Mutex::default(),
            compiling: Mutex::default(),
            compiling_large: Mutex::default(),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// How plugins are compiled and run.
    pub fn profile(&self) -> &Profile {
        &self.inner.profile
    }

    /// What plugins may use.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// Checks and compiles a component, and asks it in a throw-away instance what it is. Takes
    /// 0.1 to some seconds; a component that was loaded before is returned at once.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says why the bytes are no plugin.
    pub fn load(&self, bytes: &[u8]) -> Result<Plugin, LoadError> {
        check::size(bytes, &self.inner.limits)?;
        let digest = Digest::of(bytes);
        if let Some(plugin) = self.plugin(&digest) {
            return Ok(plugin);
        }
        let turn = Arc::clone(lock(&self.inner.compiling).entry(digest).or_default());
        let loaded = {
            let _compiling = lock(&turn);
            self.load_in_turn(digest, bytes)
        };
        let mut compiling = lock(&self.inner.compiling);
        // Whoever waits has a clone, and goes on with the same.
        if Arc::strong_count(&turn) == 2 {
            compiling.remove(&digest);
        }
        loaded
    }

    fn load_in_turn(&self, digest: Digest, bytes: &[u8]) -> Result<Plugin, LoadError> {
        if let Some(plugin) = self.plugin(&digest) {
            return Ok(plugin);
        }
        let large = bytes.len() > LARGE_SIZE_BYTES;
        let _one_at_a_time = large.then(|| lock(&self.inner.compiling_large));
        let plugin = self.compile(digest, bytes)?;
        let mut loaded = lock(&self.inner.plugins);
        loaded.plugins.insert(digest, plugin.clone());
        loaded.want(digest);
        loaded.trim();
        Ok(plugin)
    }

    /// The plugin of that digest, if it is loaded.
    pub fn plugin(&self, digest: &Digest) -> Option<Plugin> {
        let mut loaded = lock(&self.inner.plugins);
        let plugin = loaded.plugins.get(digest).cloned()?;
        loaded.want(*digest);
        Some(plugin)
    }

    /// How many plugins are loaded. Those that nothing runs any more are let go when another is
    /// loaded, but for the few wanted last.
    pub fn loaded(&self) -> usize {
        lock(&self.inner.plugins).plugins.len()
    }

    /// Forgets a plugin. Its instances and clones go on; the memory is free when they are gone.
    pub fn unload(&self, digest: &Digest) {
        let mut loaded = lock(&self.inner.plugins);
        loaded.plugins.remove(digest);
        loaded.order.retain(|other| other != digest);
    }

    fn compile(&self, digest: Digest, bytes: &[u8]) -> Result<Plugin, LoadError> {
        let inner = &self.inner;
        check::structure(bytes, &inner.limits)?;
        let component = Component::from_binary(&inner.engine, bytes)
            .map_err(|error| LoadError::Compile(chain(&error)))?;
        let imports = check::imports(&inner.engine, &component);
        let exports = check::exports(&inner.engine, &component);
        check::known_imports(&imports)?;
        let contract = check::contract(&exports)?;
        let pre = inner
            .linker
            .instantiate_pre(&component)
            .map_err(|error| LoadError::WrongImport(chain(&error)))?;
        let exports_pre =
            Exports::find(contract, pre).map_err(|error| LoadError::WrongExport(chain(&error)))?;
        let mut plugin = PluginInner {
            digest,
            size_bytes: bytes.len() as u64,
            contract,
            imports,
            exports,
            description: None,
            engine: inner.engine.clone(),
            exports_pre,
            limits: inner.limits.clone(),
        };
        plugin.description = Some(describe(&plugin)?);
        Ok(Plugin::new(plugin))
    }
}

impl Loaded {
    /// Moves a plugin to the end of those that may be let go.
    fn want(&mut self, digest: Digest) {
        self.order.retain(|other| *other != digest);
        self.order.push(digest);
    }

    /// Lets go of plugins that nothing runs, but for those wanted last.
    fn trim(&mut self) {
        let unused = |digest: &&Digest| {
            let plugin = self.plugins.get(digest);
            plugin.is_some_and(|plugin| !plugin.is_in_use())
        };
        let unused: Vec<_> = self.order.iter().filter(unused).copied().collect();
        let surplus = unused.len().saturating_sub(UNUSED_KEPT);
        for digest in &unused[..surplus] {
            self.plugins.remove(digest);
            self.order.retain(|other| other != digest);
        }
    }
}

fn describe(plugin: &PluginInner) -> Result<Description, LoadError> {
    let description = Instance::describe(plugin).map_err(LoadError::Describe)?;
    description.check().map_err(LoadError::Description)
}

/// An error and its causes on one line, cleaned. Not for errors with a backtrace of the guest's,
/// which would write out all names.
pub(crate) fn chain(error: &wasmtime::Error) -> String {
    let mut text = Bounded::new(REASON_SIZE_BYTES_MAX);
    // Once it is full, the rest is not wanted.
    let _ = write!(text, "{error:#}");
    clean(&text.into_text().replace('\n', " "), REASON_SIZE_BYTES_MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing is left half done under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check_limits(limits: &Limits) -> Result<(), EngineError> {
    let check = |name, value, min, max| {
        if (min..=max).contains(&value) {
            Ok(())
        } else {
            Err(EngineError::Limit {
                name,
                value,
                min,
                max,
            })
        }
    };
    // Wasm counts fuel in signed 64 bits, and 32 bits address 4 GiB.
    let fuel_max = i64::MAX as u64;
    check("fuel_per_start", limits.fuel_per_start, 1, fuel_max)?;
    check("fuel_per_entry", limits.fuel_per_entry, 1, fuel_max)?;
    check("fuel_per_query", limits.fuel_per_query, 1, fuel_max)?;
    check("fuel_per_snapshot", limits.fuel_per_snapshot, 1, fuel_max)?;
    check(
        "memory_size_bytes_max",
        limits.memory_size_bytes_max,
        1 << 16,
        4 << 30,
    )?;
    // A whole batch of the longest answers has to fit into 32 bits.
    check(
        "answer_size_bytes_max",
        limits.answer_size_bytes_max,
        1,
        15 << 20,
    )
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("profile", &self.inner.profile)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It is refused, but only when it has its turn.
    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_small_component_has_its_turn_while_others_compile() {
        let engine = Engine::new(Limits::default()).unwrap();
        let _large = lock(&engine.inner.compiling_large);
        let another = Arc::new(Mutex::new(()));
        lock(&engine.inner.compiling).insert(Digest::of(b"another"), Arc::clone(&another));
        let _another = lock(&another);
        let refused = engine.load(EMPTY_COMPONENT);
        assert!(matches!(refused, Err(LoadError::NoExport { .. })));
        assert_eq!(lock(&engine.inner.compiling).len(), 1, "its turn is over");
    }
}
