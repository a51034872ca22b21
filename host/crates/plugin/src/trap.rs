use crate::fault::{EnvironmentCause, GuestCause, Stop};
use wasmtime::Trap;

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

/// What ended a call: `fuel_limit` and `data_limit` are those that applied to it.
pub(crate) fn classify(error: wasmtime::Error, fuel_limit: u64, data_limit: u64) -> Stop {
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
    match error.downcast::<Stop>() {
        Ok(stop) => stop,
        Err(error) => untyped(&error, data_limit),
    }
}

/// Errors that wasmtime reports as text only: those of the canonical ABI, which are the guest's.
fn untyped(error: &wasmtime::Error, data_limit: u64) -> Stop {
    let text = error.root_cause().to_string();
    if text.contains("fuel allocated for hostcalls has been exhausted") {
        return GuestCause::DataTooLong { limit: data_limit }.into();
    }
    GuestCause::Abi(text).into()
}

/// The guest's frames in an error, innermost first.
pub(crate) fn frames(error: &wasmtime::Error) -> Vec<String> {
    let Some(backtrace) = error.downcast_ref::<wasmtime::WasmBacktrace>() else {
        return Vec::new();
    };
    // The first line is a headline. Names in the others are demangled.
    let text = backtrace.to_string();
    text.lines()
        .skip(1)
        .map(|line| line.trim().to_owned())
        .collect()
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
        let stop = classify(Trap::StackOverflow.into(), 1, 1);
        assert!(matches!(
            stop,
            Stop::Environment(EnvironmentCause::StackOverflow)
        ));
    }
}
