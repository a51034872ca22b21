use super::streams::AlwaysReady;
use crate::host::HostState;
use wasmtime::component::Resource;
use wasmtime_wasi::p2::DynPollable;
use wasmtime_wasi::p2::bindings::clocks::{monotonic_clock, wall_clock};

const NS_PER_SECOND: u64 = 1_000_000_000;

impl wall_clock::Host for HostState {
    fn now(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        self.charge_call()?;
        let time_ns = self.time_ns();
        Ok(wall_clock::Datetime {
            seconds: time_ns / NS_PER_SECOND,
            nanoseconds: (time_ns % NS_PER_SECOND) as u32,
        })
    }

    fn resolution(&mut self) -> wasmtime::Result<wall_clock::Datetime> {
        self.charge_call()?;
        Ok(wall_clock::Datetime {
            seconds: 0,
            nanoseconds: 1,
        })
    }
}

impl monotonic_clock::Host for HostState {
    /// The same as the wall clock, which never goes back either. It stands still during a call: a
    /// guest that waits for it runs out of fuel.
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.charge_call()?;
        Ok(self.time_ns())
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.charge_call()?;
        Ok(1)
    }

    /// Time does not pass while a guest sleeps.
    fn subscribe_instant(&mut self, _: u64) -> wasmtime::Result<Resource<DynPollable>> {
        AlwaysReady::handle(self)
    }

    fn subscribe_duration(&mut self, _: u64) -> wasmtime::Result<Resource<DynPollable>> {
        AlwaysReady::handle(self)
    }
}
