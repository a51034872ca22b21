use crate::answers::{self, MalformedAnswers};
use crate::bindings::machine::kontiki::plugin::types as wit;
use crate::bindings::{machine, simple_machine};
use crate::description::{Contract, Description};
use crate::engine::chain;
use crate::fault::{
    EnvironmentCause, EnvironmentFault, Export, Fault, FaultSite, GuestCause, GuestFault, Stop,
};
use crate::host::{self, Access, HostState, start_entry};
use crate::plugin::{InstanceOptions, Plugin, PluginInner};
use crate::{
    Answer, Answers, ApplyFault, BATCH_ENTRIES_MAX, Batch, Machine, REASON_SIZE_BYTES_MAX,
    SnapshotFile, SnapshotInfo, clean, trap,
};
use cap_std::fs::Dir;
use wasmtime::component::InstancePre;
use wasmtime::{AsContextMut, Store};

/// What is linked, and looked up, before an instance is made.
pub(crate) enum ExportsPre {
    Machine(machine::PluginPre<HostState>),
    SimpleMachine(simple_machine::SimplePluginPre<HostState>),
}

/// The exported functions of an instance.
pub(crate) enum Exports {
    Machine(machine::Plugin),
    SimpleMachine(simple_machine::SimplePlugin),
}

impl Exports {
    /// Looks up the functions of a contract, and checks their types.
    pub(crate) fn find(
        contract: Contract,
        pre: InstancePre<HostState>,
    ) -> wasmtime::Result<ExportsPre> {
        Ok(match contract {
            Contract::Machine => ExportsPre::Machine(machine::PluginPre::new(pre)?),
            Contract::SimpleMachine => {
                ExportsPre::SimpleMachine(simple_machine::SimplePluginPre::new(pre)?)
            }
        })
    }
}

impl ExportsPre {
    fn instantiate(&self, store: &mut Store<HostState>) -> wasmtime::Result<Exports> {
        Ok(match self {
            Self::Machine(pre) => Exports::Machine(pre.instantiate(store)?),
            Self::SimpleMachine(pre) => Exports::SimpleMachine(pre.instantiate(store)?),
        })
    }
}

/// A running component: one store, with one instance in it.
pub(crate) struct Instance {
    plugin: Plugin,
    core: Core,
}

/// The instance without its plugin, which does not exist yet when it is asked to describe itself.
struct Core {
    store: Store<HostState>,
    exports: Exports,
    /// Why the instance is of no more use.
    poison: Option<String>,
    /// Whether a call may have changed the state.
    used: bool,
}

impl Instance {
    pub(crate) fn new(plugin: Plugin, options: InstanceOptions) -> Result<Self, Fault> {
        let core = Core::new(plugin.inner(), options)?;
        Ok(Self { plugin, core })
    }

    /// Asks a throw-away instance what it is.
    pub(crate) fn describe(plugin: &PluginInner) -> Result<Description, Fault> {
        let mut core = Core::new(plugin, InstanceOptions::default())?;
        core.store.data_mut().begin(Export::Describe);
        let fuel = plugin.limits.fuel_per_start;
        let description = core.call(
            plugin,
            Export::Describe,
            fuel,
            |exports, store| match exports {
                Exports::Machine(m) => m.kontiki_plugin_machine().call_describe(store),
                Exports::SimpleMachine(m) => m.kontiki_plugin_simple_machine().call_describe(store),
            },
        )?;
        Ok(Description {
            name: description.name,
            version: description.version,
            state_format: description.state_format,
            reads_formats: description.reads_formats,
        })
    }
}

/// The limits of a call that was given this much fuel.
fn applied_limits(plugin: &PluginInner, fuel: u64) -> trap::Applied {
    trap::Applied {
        fuel,
        data: data_size_bytes_max(plugin),
        handles: plugin.limits.handles_max as u64,
    }
}

/// Length of an answer of either kind.
fn size_of(answer: &Result<Vec<u8>, wit::Reject>) -> u64 {
    match answer {
        Ok(bytes) => bytes.len() as u64,
        Err(reject) => reject.reason.len() as u64,
    }
}

/// Most bytes that a guest passes to the host in one call: a whole batch of the longest answers
/// and some room. Whoever applies a batch whose answers exceed it together applies its entries one
/// by one, so that it does not matter how the batch was cut.
fn data_size_bytes_max(plugin: &PluginInner) -> u64 {
    BATCH_ENTRIES_MAX as u64 * (plugin.limits.answer_size_bytes_max + 8) + (16 << 20)
}

impl Core {
    fn new(plugin: &PluginInner, options: InstanceOptions) -> Result<Self, Fault> {
        let mut store = new_store(plugin, options).map_err(|error| {
            let site = Box::new(bare_site(plugin, Export::Start));
            let cause = EnvironmentCause::Instantiate(chain(&error));
            Fault::Environment(EnvironmentFault { cause, site })
        })?;
        store.data_mut().begin(Export::Start);
        let exports = host::grant(&mut store, plugin.limits.fuel_per_start)
            .and_then(|()| plugin.exports_pre.instantiate(&mut store));
        // Fails only if fuel is off.
        let _ = host::settle(&mut store);
        let exports = exports.map_err(|error| start_fault(plugin, &store, error))?;
        Ok(Self {
            store,
            exports,
            poison: None,
            used: false,
        })
    }

    /// Calls an export, and sorts what goes wrong.
    fn call<T>(
        &mut self,
        plugin: &PluginInner,
        export: Export,
        fuel: u64,
        run: impl FnOnce(&Exports, &mut Store<HostState>) -> wasmtime::Result<T>,
    ) -> Result<T, Fault> {
        self.check_alive(plugin, export)?;
        self.store.data_mut().export = export;
        let result =
            host::grant(&mut self.store, fuel).and_then(|()| run(&self.exports, &mut self.store));
        let limit = self.store.data().fuel.granted();
        // Fails only if fuel is off.
        let _ = host::settle(&mut self.store);
        result.map_err(|error| {
            let frames = trap::frames(&error);
            let stop = trap::classify(error, applied_limits(plugin, limit));
            self.poison(plugin, stop, frames)
        })
    }

    fn check_alive(&self, plugin: &PluginInner, export: Export) -> Result<(), Fault> {
        match &self.poison {
            None => Ok(()),
            Some(poison) => {
                let site = Box::new(bare_site(plugin, export));
                let cause = EnvironmentCause::Poisoned(poison.clone());
                Err(Fault::Environment(EnvironmentFault { cause, site }))
            }
        }
    }

    /// Makes a fault, after which the instance cannot be used.
    fn poison(&mut self, plugin: &PluginInner, stop: Stop, frames: Vec<String>) -> Fault {
        self.poison = Some(stop.to_string());
        self.fault(plugin, stop, frames)
    }

    /// Makes a fault.
    fn fault(&self, plugin: &PluginInner, stop: Stop, frames: Vec<String>) -> Fault {
        let state = self.store.data();
        let site = Box::new(FaultSite {
            index: state.entries.index(state.entries.current()),
            frames,
            stderr: state.log.stderr_tail(),
            ..bare_site(plugin, state.export)
        });
        with_site(stop, site)
    }

    /// Lends the snapshot directory to a call, and takes back whatever the guest made of it.
    fn with_directory<T>(
        &mut self,
        plugin: &PluginInner,
        access: Access,
        (directory, info, files): (Dir, &SnapshotInfo, &[SnapshotFile]),
        run: impl FnOnce(&Exports, &mut Store<HostState>) -> wasmtime::Result<Result<T, String>>,
    ) -> Result<(T, host::Session), Fault> {
        let export = match access {
            Access::Write => Export::Save,
            Access::Read => Export::Load,
        };
        self.check_alive(plugin, export)?;
        let state = self.store.data_mut();
        state.begin(export);
        if let Err(stop) = state
            .snapshot
            .begin(&mut state.table, access, directory, info, files)
        {
            return Err(self.fault(plugin, stop, Vec::new()));
        }
        let result = self.call(plugin, export, plugin.limits.fuel_per_snapshot, run);
        let state = self.store.data_mut();
        let session = state.snapshot.end(&mut state.table);
        let mut session = session.expect("the session was begun above, and only ends here");
        // The node's failure explains whatever the guest made of it, even a trap. If it swallowed
        // it, or a limit, the files are not what it believes.
        if let Err(stop) = session.check_io() {
            return Err(self.fault(plugin, stop, Vec::new()));
        }
        let result = result?;
        let checked = session.check_limits();
        let refused =
            |reason: String| Stop::from(GuestCause::Refused(clean(&reason, REASON_SIZE_BYTES_MAX)));
        match checked.and_then(|()| result.map_err(refused)) {
            Ok(value) => Ok((value, session)),
            Err(stop) => Err(self.fault(plugin, stop, Vec::new())),
        }
    }
}

/// Handles that a guest may forget to drop in its whole life. What they stood for is gone with the
/// call that made them; the guest's own table, which keeps some 24 bytes of each, is out of reach.
const HANDLES_KEPT_MAX: usize = 4 << 20;

fn new_store(plugin: &PluginInner, options: InstanceOptions) -> wasmtime::Result<Store<HostState>> {
    let name = match &plugin.description {
        Some(description) => description.name.clone(),
        None => plugin.digest.to_string(),
    };
    let state = HostState::new(plugin.limits.clone(), &name, options)?;
    let mut store = Store::try_new(&plugin.engine, state)?;
    store.limiter(|state| &mut state.memory);
    store.set_hostcall_fuel(usize::try_from(data_size_bytes_max(plugin)).unwrap_or(usize::MAX));
    store.set_max_component_handles(HANDLES_KEPT_MAX);
    Ok(store)
}

fn bare_site(plugin: &PluginInner, export: Export) -> FaultSite {
    FaultSite {
        plugin: plugin.digest,
        name: plugin
            .description
            .as_ref()
            .map(|description| description.name.clone()),
        export,
        index: None,
        frames: Vec::new(),
        stderr: String::new(),
    }
}

fn with_site(stop: Stop, site: Box<FaultSite>) -> Fault {
    match stop {
        Stop::Guest(cause) => Fault::Guest(GuestFault { cause, site }),
        Stop::Environment(cause) => Fault::Environment(EnvironmentFault { cause, site }),
    }
}

/// Sorts a failure to instantiate: what wasmtime says in words only is here the node's.
fn start_fault(plugin: &PluginInner, store: &Store<HostState>, error: wasmtime::Error) -> Fault {
    let frames = trap::frames(&error);
    // With a backtrace the error writes all names out, demangled without limit.
    let text = match frames.is_empty() {
        true => chain(&error),
        false => clean(&error.root_cause().to_string(), REASON_SIZE_BYTES_MAX),
    };
    let limit = plugin.limits.fuel_per_start;
    let stop = match trap::classify(error, applied_limits(plugin, limit)) {
        Stop::Guest(GuestCause::Abi(_)) => Stop::Environment(EnvironmentCause::Instantiate(text)),
        stop => stop,
    };
    let stderr = store.data().log.stderr_tail();
    let site = FaultSite {
        frames,
        stderr,
        ..bare_site(plugin, Export::Start)
    };
    with_site(stop, Box::new(site))
}

impl Machine for Instance {
    fn description(&self) -> &Description {
        self.plugin.description()
    }

    fn apply(&mut self, batch: &Batch<'_>) -> Result<Answers, ApplyFault> {
        if batch.is_empty() {
            return Ok(Answers::default());
        }
        let plugin = self.plugin.inner();
        self.core.used = true;
        match plugin.contract {
            Contract::Machine => self.core.apply_batch(plugin, batch),
            Contract::SimpleMachine => self.core.apply_each(plugin, batch),
        }
    }

    fn query(&mut self, request: &[u8]) -> Result<Result<Vec<u8>, String>, Fault> {
        let plugin = self.plugin.inner();
        self.core.used = true;
        self.core.store.data_mut().begin(Export::Query);
        let fuel = plugin.limits.fuel_per_query;
        let answer = self.core.call(
            plugin,
            Export::Query,
            fuel,
            |exports, store| match exports {
                Exports::Machine(m) => m.kontiki_plugin_machine().call_query(store, request),
                Exports::SimpleMachine(m) => {
                    m.kontiki_plugin_simple_machine().call_query(store, request)
                }
            },
        )?;
        let (size_bytes, limit) = (size_of(&answer), plugin.limits.answer_size_bytes_max);
        if size_bytes > limit {
            return Ok(Err(answers::too_large(size_bytes, limit)));
        }
        Ok(answer.map_err(|reject| clean(&reject.reason, REASON_SIZE_BYTES_MAX)))
    }

    fn save(&mut self, directory: Dir, info: &SnapshotInfo) -> Result<Vec<SnapshotFile>, Fault> {
        let plugin = self.plugin.inner();
        let snapshot = (directory, info, [].as_slice());
        let ((), session) =
            self.core
                .with_directory(plugin, Access::Write, snapshot, |exports, store| {
                    let state = store.data_mut();
                    let writer = state.snapshot.writer(&mut state.table)?;
                    match exports {
                        Exports::Machine(m) => m.kontiki_plugin_machine().call_save(store, writer),
                        Exports::SimpleMachine(m) => {
                            m.kontiki_plugin_simple_machine().call_save(store, writer)
                        }
                    }
                })?;
        session
            .into_files(plugin.limits.snapshot_size_bytes_max)
            .map_err(|stop| self.core.fault(plugin, stop, Vec::new()))
    }

    fn load(
        &mut self,
        directory: Dir,
        info: &SnapshotInfo,
        files: &[SnapshotFile],
    ) -> Result<(), Fault> {
        let plugin = self.plugin.inner();
        if std::mem::replace(&mut self.core.used, true) {
            self.core.check_alive(plugin, Export::Load)?;
            let site = Box::new(bare_site(plugin, Export::Load));
            return Err(EnvironmentFault {
                cause: EnvironmentCause::NotNew,
                site,
            }
            .into());
        }
        let snapshot = (directory, info, files);
        let result = self
            .core
            .with_directory(plugin, Access::Read, snapshot, |exports, store| {
                let state = store.data_mut();
                let reader = state.snapshot.reader(&mut state.table)?;
                match exports {
                    Exports::Machine(m) => m.kontiki_plugin_machine().call_load(store, reader),
                    Exports::SimpleMachine(m) => {
                        m.kontiki_plugin_simple_machine().call_load(store, reader)
                    }
                }
            });
        result.map(drop).inspect_err(|fault| {
            self.core.poison.get_or_insert_with(|| fault.to_string());
        })
    }

    fn set_replaying(&mut self, replaying: bool) {
        self.core.store.data_mut().log.set_replaying(replaying);
    }

    fn is_poisoned(&self) -> bool {
        self.core.poison.is_some()
    }

    fn memory_size_bytes(&self) -> u64 {
        self.core.store.data().memory.memory_size_bytes()
    }

    fn fuel_used(&self) -> u64 {
        self.core.store.data().fuel.used()
    }
}

impl Core {
    /// Applies a batch by one call.
    fn apply_batch(
        &mut self,
        plugin: &PluginInner,
        batch: &Batch<'_>,
    ) -> Result<Answers, ApplyFault> {
        let state = self.store.data_mut();
        state.begin(Export::Apply);
        state.entries.begin(batch, true);
        let packed = wit::Batch {
            data: batch.data(),
            ends: batch.ends(),
            indexes: batch.indexes(),
            times: batch.times(),
        };
        let fuel = plugin.limits.fuel_per_entry;
        let answers = self
            .call(
                plugin,
                Export::Apply,
                fuel,
                |exports, store| match exports {
                    Exports::Machine(m) => m.kontiki_plugin_machine().call_apply(store, packed),
                    Exports::SimpleMachine(_) => {
                        unreachable!("the contract is chosen by the exports")
                    }
                },
            )
            .map_err(|fault| self.at_current(fault))?;
        if let Err(violation) = self.store.data().entries.check_complete() {
            let fault = self.poison(plugin, violation.into(), Vec::new());
            return Err(self.at_current(fault));
        }
        let limit = plugin.limits.answer_size_bytes_max;
        Answers::from_parts(
            answers.data,
            answers.ends,
            answers.codes,
            batch.len(),
            limit,
        )
        .map_err(|malformed| self.malformed(plugin, malformed))
    }

    /// Applies a batch entry by entry, for plugins that know no batches.
    fn apply_each(
        &mut self,
        plugin: &PluginInner,
        batch: &Batch<'_>,
    ) -> Result<Answers, ApplyFault> {
        let state = self.store.data_mut();
        state.begin(Export::Apply);
        state.entries.begin(batch, false);
        let mut answers = Answers::default();
        for (n, (index, time_ns, payload)) in batch.iter().enumerate() {
            let answer = self
                .apply_one(plugin, n as u32, payload, index, time_ns)
                .map_err(|fault| ApplyFault { entry: n, fault })?;
            let answer = match &answer {
                Ok(bytes) => Answer::Ok(bytes),
                Err(reject) => Answer::Reject(reject.reason.as_bytes()),
            };
            answers.push_within(answer, plugin.limits.answer_size_bytes_max);
        }
        Ok(answers)
    }

    fn apply_one(
        &mut self,
        plugin: &PluginInner,
        n: u32,
        payload: &[u8],
        index: u64,
        time_ns: u64,
    ) -> Result<Result<Vec<u8>, wit::Reject>, Fault> {
        let fuel = plugin.limits.fuel_per_entry;
        self.call(
            plugin,
            Export::Apply,
            fuel,
            |exports, store| match exports {
                Exports::SimpleMachine(m) => {
                    start_entry(&mut store.as_context_mut(), n)?;
                    let machine = m.kontiki_plugin_simple_machine();
                    machine.call_apply(store, payload, index, time_ns)
                }
                Exports::Machine(_) => unreachable!("the contract is chosen by the exports"),
            },
        )
    }

    /// Blames the entry that was running.
    fn at_current(&self, fault: Fault) -> ApplyFault {
        ApplyFault {
            entry: self.store.data().entries.current(),
            fault,
        }
    }

    /// Blames the entry whose answer is wrong.
    fn malformed(&mut self, plugin: &PluginInner, malformed: MalformedAnswers) -> ApplyFault {
        let entry = malformed.entry();
        let cause = GuestCause::Answers(malformed);
        let mut fault = self.poison(plugin, cause.into(), Vec::new());
        let index = self.store.data().entries.index(entry);
        match &mut fault {
            Fault::Guest(fault) => fault.site.index = index,
            Fault::Environment(fault) => fault.site.index = index,
        }
        ApplyFault { entry, fault }
    }
}
