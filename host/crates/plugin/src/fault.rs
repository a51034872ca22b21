use crate::Digest;
use crate::answers::MalformedAnswers;
use std::fmt;

/// A call into a plugin failed.
///
/// The plugin's own no to a command is none of these: it is an [answer](crate::Answer::Reject).
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The plugin did it, and would do it again.
    #[error(transparent)]
    Guest(#[from] GuestFault),
    /// This node did it; another one may well succeed.
    #[error(transparent)]
    Environment(#[from] EnvironmentFault),
}

impl Fault {
    /// Whether the guest reached a limit of what it may use, which depends on what its instance has
    /// used up before: a fresh instance may well carry out the same.
    pub fn is_limit(&self) -> bool {
        let Self::Guest(fault) = self else {
            return matches!(self, Self::Environment(_));
        };
        matches!(
            fault.cause,
            GuestCause::OutOfFuel { .. }
                | GuestCause::Memory { .. }
                | GuestCause::Table { .. }
                | GuestCause::HostCalls { .. }
                | GuestCause::Handles { .. }
                | GuestCause::DataTooLong { .. }
        )
    }

    /// What happened and where, in one line; [`Display`](fmt::Display) adds what the guest wrote and
    /// its stack.
    pub fn headline(&self) -> String {
        match self {
            Self::Guest(fault) => format!("{}: {}", fault.site, fault.cause),
            Self::Environment(fault) => {
                let EnvironmentFault { cause, site } = fault;
                format!("{site}: this node failed, not the plugin: {cause}")
            }
        }
    }

    /// Where it happened.
    pub fn site(&self) -> &FaultSite {
        match self {
            Self::Guest(fault) => &fault.site,
            Self::Environment(fault) => &fault.site,
        }
    }
}

/// The plugin did what it must not do, or failed by itself.
#[derive(Debug)]
pub struct GuestFault {
    /// What it did.
    pub cause: GuestCause,
    /// Where.
    pub site: Box<FaultSite>,
}

/// The node could not run the plugin.
#[derive(Debug)]
pub struct EnvironmentFault {
    /// Why.
    pub cause: EnvironmentCause,
    /// Where.
    pub site: Box<FaultSite>,
}

impl fmt::Display for GuestFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}{}", self.site, self.cause, Trace(&self.site))
    }
}

impl fmt::Display for EnvironmentFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: this node failed, not the plugin: ", self.site)?;
        write!(f, "{}{}", self.cause, Trace(&self.site))
    }
}

impl std::error::Error for GuestFault {}

impl std::error::Error for EnvironmentFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.cause {
            EnvironmentCause::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// A call that the host makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export {
    /// Instantiation: the component's own start code.
    Start,
    /// `describe`.
    Describe,
    /// `apply`.
    Apply,
    /// `query`.
    Query,
    /// `save`.
    Save,
    /// `load`.
    Load,
}

impl fmt::Display for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Describe => "describe",
            Self::Apply => "apply",
            Self::Query => "query",
            Self::Save => "save",
            Self::Load => "load",
        })
    }
}

/// Where a fault happened. For people and evidence; no part of it may reach a replicated result.
#[derive(Debug, Clone)]
pub struct FaultSite {
    /// The plugin.
    pub plugin: Digest,
    /// Its name, if it has told it yet.
    pub name: Option<String>,
    /// The call.
    pub export: Export,
    /// Log index of the entry that was running, in `apply`.
    pub index: Option<u64>,
    /// The guest's stack, innermost first. Names are demangled as far as they stay short, and
    /// [cleaned](crate::clean).
    pub frames: Vec<String>,
    /// What the guest last wrote to its standard error, as a panic message: the end of it, cleaned.
    pub stderr: String,
}

impl fmt::Display for FaultSite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("plugin ")?;
        if let Some(name) = &self.name {
            write!(f, "{name} ")?;
        }
        write!(f, "{} failed in {}", self.plugin, self.export)?;
        if let Some(index) = self.index {
            write!(f, " at log index {index}")?;
        }
        Ok(())
    }
}

/// The lines that follow a fault's message.
struct Trace<'a>(&'a FaultSite);

impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.stderr.is_empty() {
            write!(f, "\n  it wrote: {}", self.0.stderr.trim())?;
        }
        for frame in &self.0.frames {
            write!(f, "\n  {frame}")?;
        }
        Ok(())
    }
}

/// What a plugin did wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GuestCause {
    /// It trapped: a panic, an access out of bounds, a division by zero…
    #[error("it trapped: {}", trap_text(.0))]
    Trap(wasmtime::Trap),
    /// It did not come to an end.
    #[error("it ran out of fuel: more than {limit} units")]
    OutOfFuel {
        /// The limit that applied.
        limit: u64,
    },
    /// It asked for too much memory.
    #[error("it asked for {wanted} bytes of memory; the limit is {limit}")]
    Memory {
        /// All its memory, had it been granted.
        wanted: u64,
        /// [`Limits::memory_size_bytes_max`](crate::Limits::memory_size_bytes_max).
        limit: u64,
    },
    /// It asked for too large tables.
    #[error("it asked for {wanted} table elements; the limit is {limit}")]
    Table {
        /// All its table elements, had they been granted.
        wanted: u64,
        /// [`Limits::table_elements_max`](crate::Limits::table_elements_max).
        limit: u64,
    },
    /// It called host functions without end.
    #[error("it called host functions more than {limit} times")]
    HostCalls {
        /// The limit that applied.
        limit: u64,
    },
    /// It made handles (files, streams, things to wait for) without end.
    #[error("it made more handles than the {limit} it may have at a time")]
    Handles {
        /// [`Limits::handles_max`](crate::Limits::handles_max).
        limit: u64,
    },
    /// It passed more data to the host in one call than any call may need.
    #[error("it passed more than {limit} bytes to the host in one call")]
    DataTooLong {
        /// The limit that applied.
        limit: u64,
    },
    /// The answers do not belong to the batch.
    #[error("it {0}")]
    Answers(MalformedAnswers),
    /// It did not announce its entries as the contract says.
    #[error("it broke the batch protocol: {0}")]
    Protocol(ProtocolViolation),
    /// It ended itself as if it were a program.
    #[error("it called exit")]
    Exit,
    /// `save` or `load` said no.
    #[error("it refused: {0}")]
    Refused(String),
    /// A snapshot broke a rule or a limit.
    #[error("its snapshot is not valid: {0}")]
    Snapshot(SnapshotViolation),
    /// It broke a rule of the component model: unknown handles, strings that are no UTF-8…
    #[error("it broke the component model's rules: {0}")]
    Abi(String),
}

fn trap_text(trap: &wasmtime::Trap) -> String {
    let text = trap.to_string();
    text.strip_prefix("wasm trap: ")
        .map(str::to_owned)
        .unwrap_or(text)
}

/// How `next-entry` was misused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolViolation {
    /// Announced another entry than the next one.
    #[error("announced entry {announced} where {expected} was next")]
    OutOfOrder {
        /// What it announced.
        announced: u32,
        /// What was next.
        expected: u32,
    },
    /// Announced more entries than there are.
    #[error("announced entry {announced} of a batch of {entries}")]
    TooMany {
        /// What it announced.
        announced: u32,
        /// Entries of the batch.
        entries: u32,
    },
    /// Returned from `apply` before it had announced all entries.
    #[error("announced {announced} of {entries} entries")]
    TooFew {
        /// How many it announced.
        announced: u32,
        /// Entries of the batch.
        entries: u32,
    },
    /// Announced an entry outside `apply`, or in a simple machine.
    #[error("announced an entry although it was not applying a batch")]
    NotApplying,
}

/// How a snapshot breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotViolation {
    /// Wrote more than it may.
    #[error("it wrote more than {limit} bytes")]
    TooLarge {
        /// [`Limits::snapshot_size_bytes_max`](crate::Limits::snapshot_size_bytes_max).
        limit: u64,
    },
    /// Created more files and directories than it may.
    #[error("it created more than {limit} files and directories")]
    TooManyFiles {
        /// [`Limits::snapshot_files_max`](crate::Limits::snapshot_files_max).
        limit: u64,
    },
    /// Added a file and removed it afterwards.
    #[error("it added {name:?}, but there is no such file")]
    Missing {
        /// The file's name.
        name: String,
    },
    /// Added something else than a regular file.
    #[error("it added {name:?}, which is no regular file")]
    NotRegular {
        /// The file's name.
        name: String,
    },
}

/// Why a node could not run a plugin.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentCause {
    /// Recursion went too deep for the stack. It counts as the node's fault, since the depth
    /// depends on the compiler.
    #[error("the call stack was exhausted")]
    StackOverflow,
    /// The operating system refused memory that the limits allow.
    #[error("the operating system refused memory: {0}")]
    OutOfMemory(String),
    /// An operation on a file or directory failed.
    #[error("{operation} failed")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The instance could not be made.
    #[error("the instance could not be made: {0}")]
    Instantiate(String),
    /// The instance had failed before, and was used again.
    #[error("the instance is of no more use since it failed before: {0}")]
    Poisoned(String),
    /// `load` was called on an instance that had been used.
    #[error("a snapshot can be loaded into a new instance only")]
    NotNew,
    /// The runtime reported something that does not happen under this profile.
    #[error("unexpected trap: {0}")]
    UnexpectedTrap(wasmtime::Trap),
}

/// Raised by host functions to end a guest's call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    #[error("{0}")]
    Guest(GuestCause),
    #[error("{0}")]
    Environment(EnvironmentCause),
}

impl From<GuestCause> for Stop {
    fn from(cause: GuestCause) -> Self {
        Self::Guest(cause)
    }
}

impl From<ProtocolViolation> for Stop {
    fn from(violation: ProtocolViolation) -> Self {
        Self::Guest(GuestCause::Protocol(violation))
    }
}
