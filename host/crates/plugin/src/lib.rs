//! Loads, checks and calls state machine plugins (WebAssembly components).
//!
//! An [`Engine`] loads a component into a [`Plugin`], which has described itself; a plugin makes
//! instances, and each is a [`Machine`]: it applies batches of log entries, answers queries, and
//! writes and reads snapshots. The contract is the WIT package `kontiki:plugin`.
//!
//! The crate knows nothing of Raft, and it is the only one that names wasmtime. Its duties are:
//!
//! - **Determinism**: one [profile](Profile) compiles and runs every plugin alike on every node.
//! - **Limits**: whatever a plugin does, the process goes on. [`Limits`] lists what is bounded.
//! - **Faults**: each failure of a call says who did it, and where: see [`Fault`].
//!
//! Snapshot files are reached in two ways. The contract hands the guest a directory as a handle,
//! which is worth nothing after the call. Standard libraries that only know paths find the same
//! directory as the preopen `/snapshot/out` or `/snapshot/in`; a preopen means the directory of the
//! running call, and nothing at other times, so that it does not matter that C libraries ask for
//! preopens once.
//!
//! ```no_run
//! use kontiki_plugin::{Answer, Batch, Engine, Limits};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Engine::new(Limits::default())?;
//! let plugin = engine.load(&std::fs::read("counter.wasm")?)?;
//! let mut machine = plugin.instantiate()?;
//! let mut batch = Batch::new();
//! batch.push(1, 0, b"add 5");
//! let answers = machine.apply(&batch)?;
//! assert_eq!(answers.get(0), Some(Answer::Ok(b"0")));
//! # Ok(())
//! # }
//! ```

mod answers;
mod batch;
mod bindings;
mod check;
mod componentize;
mod description;
mod digest;
mod engine;
mod fault;
mod host;
mod instance;
mod limits;
mod machine;
mod outcome;
mod plugin;
mod profile;
#[cfg(test)]
mod proposals_tests;
mod text;
mod trap;
mod wasi;

pub use answers::{ANSWER_TOO_LARGE, Answer, Answers, MalformedAnswers};
pub use batch::{BATCH_ENTRIES_MAX, BATCH_SIZE_BYTES_MAX, Batch};
pub use check::Structure;
pub use componentize::{ComponentizeError, componentize};
pub use description::{Contract, Description, DescriptionError};
pub use digest::{Digest, ParseDigestError};
pub use engine::{Engine, EngineError, LoadError};
pub use fault::{
    EnvironmentCause, EnvironmentFault, Export, Fault, FaultSite, GuestCause, GuestFault,
    ProtocolViolation, SnapshotViolation,
};
pub use limits::Limits;
pub use machine::{ApplyFault, Machine, SnapshotFile, SnapshotInfo};
pub use outcome::OutcomeHash;
pub use plugin::{InstanceOptions, Plugin};
pub use profile::{PROFILE_NUMBER, Profile, THREAD_STACK_SIZE_BYTES_MIN};
pub use text::{REASON_SIZE_BYTES_MAX, clean, clean_bytes, clean_lines};
/// What traps are, inside [`GuestCause::Trap`].
pub use wasmtime::Trap;
