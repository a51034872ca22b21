//! Exit codes, in one place.

use kontiki_client::{Code, Error, Outcome, Reason};
use std::io::Write as _;

/// Ends the process as it stands, for when threads are still at work: nothing that is registered for
/// the exit runs, since that would take from under them what they use.
pub(crate) fn at_once(number: u8) -> ! {
    std::io::stdout().flush().ok();
    signal_hook::low_level::exit(i32::from(number))
}

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// Refused, by the cluster or by the plugin; or anything no other code fits.
    Refused = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No node could be reached, or the group has no leader. Nothing was applied.
    Unreachable = 3,
    /// No such group, node or plugin.
    NotFound = 4,
    /// A check failed, or waiting took too long.
    Unhealthy = 5,
    /// A condition does not hold: something else was expected, or exists already.
    Conflict = 6,
    /// Not allowed.
    Auth = 7,
    /// The command was sent and no answer came: it may have been applied.
    Unknown = 8,
    /// The plugin failed: it trapped, or exceeded a limit.
    Plugin = 9,
    /// This machine: a file, a port, a disk, a checksum.
    Local = 10,
    /// Interrupted (SIGINT).
    Interrupted = 130,
    /// Terminated (SIGTERM).
    Terminated = 143,
}

impl Exit {
    /// Every code, ascending.
    pub(crate) const ALL: [Self; 13] = [
        Self::Ok,
        Self::Refused,
        Self::Usage,
        Self::Unreachable,
        Self::NotFound,
        Self::Unhealthy,
        Self::Conflict,
        Self::Auth,
        Self::Unknown,
        Self::Plugin,
        Self::Local,
        Self::Interrupted,
        Self::Terminated,
    ];

    /// The number the shell sees.
    pub(crate) fn number(self) -> u8 {
        self as u8
    }

    /// What it means, in one line.
    pub(crate) fn meaning(self) -> &'static str {
        match self {
            Self::Ok => "done",
            Self::Refused => "refused by the cluster or the plugin, or a failure of no other kind",
            Self::Usage => "the command line or the configuration is wrong",
            Self::Unreachable => "no node reached, or no leader; nothing was applied",
            Self::NotFound => "no such group, node or plugin",
            Self::Unhealthy => "a check failed, or waiting took too long",
            Self::Conflict => "a condition does not hold: not as expected, or exists already",
            Self::Auth => "not allowed",
            Self::Unknown => "outcome unknown: sent, no answer; it may have been applied",
            Self::Plugin => "the plugin failed (trap, fuel, memory)",
            Self::Local => "this machine: a file, a port, a disk, a checksum",
            Self::Interrupted => "interrupted (SIGINT)",
            Self::Terminated => "terminated (SIGTERM)",
        }
    }

    /// The code for a failed call.
    pub(crate) fn of(error: &Error) -> Self {
        let reason = error.reason();
        if reason.as_str().starts_with("PLUGIN_") && is_plugin_fault(reason) {
            return Self::Plugin;
        }
        match error.code() {
            _ if error.outcome() == Outcome::Unknown => Self::Unknown,
            _ if *reason == Reason::WRONG_SERVER => Self::Unreachable,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unreachable,
            Code::NotFound => Self::NotFound,
            Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => Self::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Self::Auth,
            Code::DataLoss => Self::Local,
            _ => Self::Refused,
        }
    }
}

fn is_plugin_fault(reason: &Reason) -> bool {
    matches!(
        reason.as_str(),
        "PLUGIN_FAULT" | "PLUGIN_TRAP" | "PLUGIN_FAILED"
    )
}

/// The text of `kontiki help exit-codes`.
pub(crate) fn table() -> String {
    let rows = Exit::ALL.map(|exit| format!("{:>4}  {}", exit.number(), exit.meaning()));
    format!("Exit codes:\n{}\n", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_documented() {
        let numbers = Exit::ALL.map(Exit::number);
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 130, 143]);
    }
}
