use crate::Limits;
use crate::fault::{EnvironmentCause, GuestCause, Stop};
use wasmtime::ResourceLimiter;

/// Core instances of a component: its modules, and what the component tools put between them.
const INSTANCES_MAX: usize = 64;
/// Linear memories of an instance. Most have one; adapters and composed components have more.
const MEMORIES_MAX: usize = 16;
/// Tables of an instance.
const TABLES_MAX: usize = 64;

/// Grants an instance its memory and tables.
#[derive(Debug)]
pub(crate) struct MemoryMeter {
    memory_limit: u64,
    table_limit: u64,
    /// Size of all linear memories together.
    memory_size_bytes: u64,
    /// Size of all tables together.
    table_elements: u64,
}

impl MemoryMeter {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            memory_limit: limits.memory_size_bytes_max,
            table_limit: limits.table_elements_max,
            memory_size_bytes: 0,
            table_elements: 0,
        }
    }

    /// Size of all linear memories together.
    pub(crate) fn memory_size_bytes(&self) -> u64 {
        self.memory_size_bytes
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        // Beyond its own declared maximum a module gets -1, as the standard says.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.memory_size_bytes + (desired - current) as u64;
        let limit = self.memory_limit;
        if wanted > limit {
            // An error ends the call here, where the cause is visible; -1 would end in whatever
            // the guest makes of it.
            return Err(Stop::from(GuestCause::Memory { wanted, limit }).into());
        }
        self.memory_size_bytes = wanted;
        Ok(true)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        // It was within the limits, so it was the operating system. The guest must not see that.
        Err(Stop::Environment(EnvironmentCause::OutOfMemory(error.to_string())).into())
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        let wanted = self.table_elements + (desired - current) as u64;
        let limit = self.table_limit;
        if wanted > limit {
            return Err(Stop::from(GuestCause::Table { wanted, limit }).into());
        }
        self.table_elements = wanted;
        Ok(true)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::Environment(EnvironmentCause::OutOfMemory(error.to_string())).into())
    }

    fn instances(&self) -> usize {
        INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        TABLES_MAX
    }

    fn memories(&self) -> usize {
        MEMORIES_MAX
    }
}
