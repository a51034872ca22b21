//! What a plugin can reach: the contract's own imports here, WASI's stand-ins in [`crate::wasi`].

mod calls;
mod entries;
mod fuel;
mod limiter;
mod log;
mod random;
mod snapshots;

pub(crate) use calls::CallMeter;
pub(crate) use entries::{Entries, start_entry};
pub(crate) use fuel::{FuelMeter, grant, settle};
pub(crate) use limiter::MemoryMeter;
pub(crate) use log::{GuestLog, StandardStream};
pub(crate) use random::RandomStream;
pub(crate) use snapshots::{Access, Handle, Session, SnapshotAccess};
// The generated bindings re-export these two, which takes `pub`; the module itself is private.
#[allow(unreachable_pub, reason = "wanted by the generated bindings")]
pub use snapshots::{Reader, Writer};

use crate::bindings::machine::kontiki::plugin as wit;
use crate::fault::{Export, Stop};
use crate::wasi::Stdio;
use crate::{InstanceOptions, Limits};
use std::sync::Arc;
use wasmtime::component::{HasSelf, Linker, Resource, ResourceTable};
use wasmtime_wasi::filesystem::WasiFilesystemCtx;
use wasmtime_wasi::sockets::WasiSocketsCtx;

/// The interfaces that are offered, in the version that the host has. Part of the profile.
pub(crate) const HOST_FUNCTIONS: &[&str] = &[
    "kontiki:plugin/types@1.0.0",
    "kontiki:plugin/host@1.0.0",
    "kontiki:plugin/snapshots@1.0.0",
    "wasi:cli/environment@0.2.12",
    "wasi:cli/exit@0.2.12",
    "wasi:cli/stdin@0.2.12",
    "wasi:cli/stdout@0.2.12",
    "wasi:cli/stderr@0.2.12",
    "wasi:cli/terminal-input@0.2.12",
    "wasi:cli/terminal-output@0.2.12",
    "wasi:cli/terminal-stdin@0.2.12",
    "wasi:cli/terminal-stdout@0.2.12",
    "wasi:cli/terminal-stderr@0.2.12",
    "wasi:clocks/monotonic-clock@0.2.12",
    "wasi:clocks/wall-clock@0.2.12",
    "wasi:filesystem/preopens@0.2.12",
    "wasi:filesystem/types@0.2.12",
    "wasi:io/error@0.2.12",
    "wasi:io/poll@0.2.12",
    "wasi:io/streams@0.2.12",
    "wasi:random/insecure@0.2.12",
    "wasi:random/insecure-seed@0.2.12",
    "wasi:random/random@0.2.12",
    "wasi:sockets/instance-network@0.2.12",
    "wasi:sockets/ip-name-lookup@0.2.12",
    "wasi:sockets/network@0.2.12",
    "wasi:sockets/tcp@0.2.12",
    "wasi:sockets/tcp-create-socket@0.2.12",
    "wasi:sockets/udp@0.2.12",
    "wasi:sockets/udp-create-socket@0.2.12",
];

/// What one store knows beside the guest's own memory.
pub(crate) struct HostState {
    pub(crate) limits: Arc<Limits>,
    /// The call that is running, or ran last.
    pub(crate) export: Export,
    pub(crate) entries: Entries,
    pub(crate) fuel: FuelMeter,
    pub(crate) memory: MemoryMeter,
    pub(crate) calls: CallMeter,
    pub(crate) random: RandomStream,
    pub(crate) log: GuestLog,
    pub(crate) snapshot: SnapshotAccess,
    /// Everything that guests hold handles to.
    pub(crate) table: ResourceTable,
    pub(crate) stdio: Stdio,
    pub(crate) filesystem: WasiFilesystemCtx,
    pub(crate) sockets: WasiSocketsCtx,
}

impl HostState {
    pub(crate) fn new(
        limits: Arc<Limits>,
        plugin: &str,
        options: InstanceOptions,
    ) -> Result<Self, wasmtime::Error> {
        let (table, stdio, snapshot) = lasting_handles(&limits)?;
        Ok(Self {
            export: Export::Start,
            entries: Entries::default(),
            fuel: FuelMeter::default(),
            memory: MemoryMeter::new(&limits),
            calls: CallMeter::default(),
            random: RandomStream::new(options.seed),
            log: GuestLog::new(plugin, limits.log_lines_per_second),
            snapshot,
            table,
            stdio,
            filesystem: WasiFilesystemCtx::default(),
            sockets: WasiSocketsCtx::default(),
            limits,
        })
    }

    /// Ends the life of every handle that guests got: only the standard streams and the preopens
    /// are the instance's for good. Between calls, and between the entries of a batch, so that it
    /// does not matter how the batch was cut.
    pub(crate) fn end_handles(&mut self) {
        if self.table.iter_mut().count() > LASTING_HANDLES {
            let lasting = lasting_handles(&self.limits);
            // They are at the same places of the new table.
            (self.table, ..) = lasting.expect("as when the instance was made");
        }
    }

    /// A guest drops a handle. What it stood for may have ended before, with the call that made it,
    /// and something else be at its place: dropping late is no fault.
    pub(crate) fn release<T: Send + 'static>(&mut self, rep: u32) {
        if self.table.get(&Resource::<T>::new_borrow(rep)).is_ok() {
            self.snapshot.forget(rep);
            // It is there, as was just seen.
            let _ = self.table.delete(Resource::<T>::new_own(rep));
        }
    }

    /// Prepares the state for a call from the host.
    pub(crate) fn begin(&mut self, export: Export) {
        self.end_handles();
        self.export = export;
        self.entries.clear();
        self.random.restart(export, 0);
        self.calls.refill(match export {
            Export::Save | Export::Load => self.limits.host_calls_per_snapshot,
            _ => self.limits.host_calls_per_entry,
        });
        self.log.begin();
    }

    /// Time that clocks show, in nanoseconds since the Unix epoch: that of the entry that is being
    /// or was last applied, for queries too. Zero while a snapshot is written or read and when the
    /// plugin starts: a replica that was restored could not know better.
    pub(crate) fn time_ns(&self) -> u64 {
        match self.export {
            Export::Apply | Export::Query => self.entries.time_ns(),
            Export::Start | Export::Describe | Export::Save | Export::Load => 0,
        }
    }

    /// Counts one call of a host function.
    pub(crate) fn charge_call(&mut self) -> Result<(), Stop> {
        self.calls.charge()
    }
}

/// Handles that a table begins with.
const LASTING_HANDLES: usize = 6;

/// A table with what lives as long as an instance, always at the same places.
fn lasting_handles(
    limits: &Limits,
) -> Result<(ResourceTable, Stdio, SnapshotAccess), wasmtime::Error> {
    let mut table = ResourceTable::new();
    table.set_max_capacity(limits.handles_max.max(LASTING_HANDLES));
    let stdio = Stdio::new(&mut table)?;
    let snapshot = SnapshotAccess::new(&mut table)?;
    Ok((table, stdio, snapshot))
}

/// Everything that components may import.
pub(crate) fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    wit::types::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
    wit::snapshots::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
    let mut host = linker.instance("kontiki:plugin/host@1.0.0")?;
    host.func_wrap("next-entry", |store, (n,): (u32,)| {
        entries::announce(store, n)
    })?;
    host.func_wrap("log", log::write)?;
    crate::wasi::add_to_linker(&mut linker)?;
    Ok(linker)
}
