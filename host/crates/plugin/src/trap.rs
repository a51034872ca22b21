use crate::fault::{EnvironmentCause, GuestCause, Stop};
use crate::profile::BACKTRACE_FRAMES_MAX;
use crate::{REASON_SIZE_BYTES_MAX, clean, text};
use wasmtime::component::ResourceTableError;
use wasmtime::{FrameInfo, Trap};

/// Who is to blame for a trap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// Depends on inputs and state alone.
    Guest,
    /// Ran out of fuel.
    Fuel,
    /// The stack's depth depends on the compiler and its settings.
    Stack,
    /// Cannot happen with this profile, or happened to the instance before: the node's fault.
    Unexpected,
}

/// Sorts a trap. `None` for one this code does not know.
///
/// `Trap` is `non_exhaustive`, so that the compiler cannot ask for new variants here; the test
/// below does, by going through all values that wasmtime knows.
fn blame(trap: Trap) -> Option<Blame> {
    Some(match trap {
        Trap::MemoryOutOfBounds
        | Trap::TableOutOfBounds
        | Trap::IndirectCallToNull
        | Trap::BadSignature
        | Trap::IntegerOverflow
        | Trap::IntegerDivisionByZero
        | Trap::BadConversionToInteger
        | Trap::UnreachableCodeReached
        | Trap::InvalidChar
        | Trap::StringOutOfBounds
        | Trap::ListOutOfBounds
        | Trap::InvalidDiscriminant
        | Trap::UnalignedPointer
        | Trap::CannotLeaveComponent => Blame::Guest,

        Trap::OutOfFuel => Blame::Fuel,

        Trap::StackOverflow => Blame::Stack,

        // Epochs are off.
        Trap::Interrupt
        // The store was used after a trap.
        | Trap::CannotEnterComponent
        // Adapters are built without debug assertions.
        | Trap::DebugAssertStringEncodingFinished
        | Trap::DebugAssertEqualCodeUnits
        | Trap::DebugAssertPointerAligned
        | Trap::DebugAssertUpperBitsUnset
        // There is no Pulley.
        | Trap::DisabledOpcode
        // Threads, garbage collection, exceptions and stack switching are off.
        | Trap::HeapMisaligned
        | Trap::AtomicWaitNonSharedMemory
        | Trap::NullReference
        | Trap::ArrayOutOfBounds
        | Trap::AllocationTooLarge
        | Trap::CastFailure
        | Trap::UnhandledTag
        | Trap::ContinuationAlreadyConsumed
        | Trap::UncaughtException
        // Concurrency support is off.
        | Trap::NoAsyncResult
        | Trap::AsyncDeadlock
        | Trap::CannotBlockSyncTask
        | Trap::TaskCancelNotCancelled
        | Trap::TaskCancelOrReturnTwice
        | Trap::SubtaskCancelAfterTerminal
        | Trap::TaskReturnInvalid
        | Trap::WaitableSetDropHasWaiters
        | Trap::SubtaskDropNotResolved
        | Trap::ThreadNewIndirectInvalidType
        | Trap::ThreadNewIndirectUninitialized
        | Trap::BackpressureOverflow
        | Trap::UnsupportedCallbackCode
        | Trap::CannotResumeThread
        | Trap::ConcurrentFutureStreamOp
        | Trap::ReferenceCountOverflow
        | Trap::StreamOpTooBig
        | Trap::WaitableSyncAndAsync => Blame::Unexpected,

        _ => return None,
    })
}

/// Limits that applied to a call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Applied {
    pub(crate) fuel: u64,
    pub(crate) data: u64,
    pub(crate) handles: u64,
}

/// What ended a call.
pub(crate) fn classify(error: wasmtime::Error, limits: Applied) -> Stop {
    let (fuel_limit, data_limit, handle_limit) = (limits.fuel, limits.data, limits.handles);
    if let Some(&trap) = error.downcast_ref::<Trap>() {
        return match blame(trap) {
            Some(Blame::Guest) => GuestCause::Trap(trap).into(),
            Some(Blame::Fuel) => GuestCause::OutOfFuel { limit: fuel_limit }.into(),
            Some(Blame::Stack) => Stop::Environment(EnvironmentCause::StackOverflow),
            Some(Blame::Unexpected) | None => {
                Stop::Environment(EnvironmentCause::UnexpectedTrap(trap))
            }
        };
    }
    if let Some(ResourceTableError::Full) = error.downcast_ref::<ResourceTableError>() {
        return GuestCause::Handles {
            limit: handle_limit,
        }
        .into();
    }
    match error.downcast::<Stop>() {
        Ok(stop) => stop,
        Err(error) => untyped(&error, data_limit, handle_limit),
    }
}

/// Errors that wasmtime reports as text only: those of the canonical ABI, which are the guest's.
fn untyped(error: &wasmtime::Error, data_limit: u64, handle_limit: u64) -> Stop {
    let text = error.root_cause().to_string();
    if text.contains("store handle limit exceeded") || text.contains("index overflow") {
        return GuestCause::Handles {
            limit: handle_limit,
        }
        .into();
    }
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return GuestCause::DataTooLong { limit: data_limit }.into();
    }
    GuestCause::Abi(clean(&text, REASON_SIZE_BYTES_MAX)).into()
}

/// The guest's frames in an error, innermost first.
pub(crate) fn frames(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() else {
        return Vec::new();
    };
    // Not by its own `Display`, which demangles names into any length.
    let frames = backtrace.frames().iter().take(BACKTRACE_FRAMES_MAX);
    frames.enumerate().map(frame).collect()
}

fn frame((number, frame): (usize, &FrameInfo)) -> String {
    let module = text::function_name(frame.module().name().unwrap_or("<unknown>"));
    let function = match frame.func_name() {
        Some(name) => text::function_name(name),
        None => format!("<wasm function {}>", frame.func_index()),
    };
    match frame.module_offset() {
        Some(offset) => format!("{number}: {offset:#8x} - {module}!{function}"),
        None => format!("{number}: {module}!{function}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trap_that_wasmtime_knows_is_sorted() {
        let known: Vec<_> = (0..=u8::MAX).filter_map(Trap::from_u8).collect();
        assert!(known.len() >= 40, "wasmtime lists its traps");
        for trap in known {
            assert!(
                blame(trap).is_some(),
                "{trap:?} is new: decide who is to blame for it"
            );
        }
    }

    #[test]
    fn stack_overflow_is_no_guest_fault() {
        let limits = Applied {
            fuel: 1,
            data: 1,
            handles: 1,
        };
        let stop = classify(Trap::StackOverflow.into(), limits);
        assert!(matches!(
            stop,
            Stop::Environment(EnvironmentCause::StackOverflow)
        ));
    }
}
