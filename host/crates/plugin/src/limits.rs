/// What a plugin may use at most.
///
/// Limits are safety nets, far above normal use: a replica that was restored from a snapshot has
/// another heap layout than one that lived through the log, so it may need slightly more or less
/// fuel and memory for the same entry. Reaching one is therefore a [fault](crate::Fault), never an
/// answer. All nodes of a group should have the same limits; they are part of the
/// [profile's fingerprint](crate::Profile::fingerprint).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Size of a component. Default 64 MiB. No part of the profile: a plugin that is loaded runs alike.
    pub component_size_bytes_max: u64,
    /// Size of one function body in a component, since compile time grows faster than it.
    /// Default 1 MiB.
    pub function_size_bytes_max: u64,
    /// Functions in a component, imported ones included. Default 200,000.
    pub functions_max: u32,
    /// Linear memory of an instance, all memories together. Default 1 GiB.
    pub memory_size_bytes_max: u64,
    /// Table elements of an instance, all tables together. Default 1,000,000.
    pub table_elements_max: u64,
    /// Fuel for starting an instance and for `describe`. Default 10^10, some seconds.
    pub fuel_per_start: u64,
    /// Fuel for one log entry; about one unit an instruction. Default 10^10, some seconds.
    pub fuel_per_entry: u64,
    /// Fuel for one query, which holds up those behind it. Default 10^9, less than a second.
    pub fuel_per_query: u64,
    /// Fuel for one `save` or `load`. Default 10^12, some minutes.
    pub fuel_per_snapshot: u64,
    /// Calls of WASI functions during one entry, query or start. Default 1,000,000.
    pub host_calls_per_entry: u64,
    /// Calls of host functions during one `save` or `load`. Default 10^8.
    pub host_calls_per_snapshot: u64,
    /// Handles (files, streams, directories) that an instance holds at a time. All but the standard
    /// streams end with the call, or the entry, that made them. Default 10,000.
    pub handles_max: usize,
    /// Size of the answer to one entry or query. Default 1 MiB.
    pub answer_size_bytes_max: u64,
    /// Bytes that one `save` may write, counting what it writes twice twice. Default 16 GiB.
    pub snapshot_size_bytes_max: u64,
    /// Files and directories that one `save` may create. Default 10,000.
    pub snapshot_files_max: u64,
    /// Log lines that a plugin may write in a second; the rest is counted and dropped.
    /// Default 100. No plugin can notice it.
    pub log_lines_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            component_size_bytes_max: 64 << 20,
            function_size_bytes_max: 1 << 20,
            functions_max: 200_000,
            memory_size_bytes_max: 1 << 30,
            table_elements_max: 1_000_000,
            fuel_per_start: 10_000_000_000,
            fuel_per_entry: 10_000_000_000,
            fuel_per_query: 1_000_000_000,
            fuel_per_snapshot: 1_000_000_000_000,
            host_calls_per_entry: 1_000_000,
            host_calls_per_snapshot: 100_000_000,
            handles_max: 10_000,
            answer_size_bytes_max: 1 << 20,
            snapshot_size_bytes_max: 16 << 30,
            snapshot_files_max: 10_000,
            log_lines_per_second: 100,
        }
    }
}
