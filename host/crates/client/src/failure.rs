//! What a failed call means: what became of the command, and whether it may be sent again.

use crate::call::Safety;
use crate::error::{Error, Leader, Outcome, Phase, Reason};
use crate::pool::{chain, find_connect_failure};
use crate::unsent::is_unsent;
use crate::{Address, Code};
use kontiki_proto::ERROR_DOMAIN;
use tonic::Status;
use tonic_types::{ErrorInfo, StatusExt as _};

/// A failed attempt, judged.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) phase: Phase,
    /// Sending it again cannot apply it twice, and may help.
    pub(crate) retry: bool,
    /// The connection is of no further use.
    pub(crate) broken: bool,
}

impl Failure {
    /// Judges the status with which `from` (or the transport on the way to it) ended a call.
    pub(crate) fn judge(status: &Status, safety: Safety, from: &Address) -> Self {
        if let Some(info) = status
            .get_details_error_info()
            .filter(|i| i.domain == ERROR_DOMAIN)
        {
            return Self::stated(status, &info, safety);
        }
        if let Some(failure) = find_connect_failure(status) {
            let message = format!("{from}: {}", failure.problem);
            let error = not_applied(Reason::UNREACHABLE, Code::Unavailable, message);
            return Self {
                error,
                phase: failure.phase,
                retry: true,
                broken: true,
            };
        }
        if is_unsent(status) {
            return Self::unsent(status, from);
        }
        Self::guessed(status, safety, from)
    }

    /// A server of ours says what happened.
    fn stated(status: &Status, info: &ErrorInfo, safety: Safety) -> Self {
        let said = info
            .metadata
            .get("outcome")
            .and_then(|word| Outcome::parse(word));
        let outcome = match safety {
            Safety::Read => Outcome::NotApplied,
            Safety::Write => said.unwrap_or(Outcome::Unknown),
        };
        let busy = status.get_details_retry_info().is_some();
        let retry = match status.code() {
            Code::Unavailable => outcome == Outcome::NotApplied,
            Code::ResourceExhausted => busy && outcome == Outcome::NotApplied,
            Code::Aborted => safety == Safety::Read,
            _ => false,
        };
        let reason = Reason::from(info.reason.clone());
        let error = Error::new(reason, status.code(), outcome, status.message())
            .with_leader(leader_hint(info));
        Self {
            error,
            phase: Phase::Wait,
            retry,
            broken: false,
        }
    }

    /// Nobody says what happened: what can be told from the status alone.
    fn guessed(status: &Status, safety: Safety, from: &Address) -> Self {
        let detail = chain(status_cause(status));
        let code = status.code();
        let lost = match safety {
            Safety::Read => Outcome::NotApplied,
            Safety::Write => Outcome::Unknown,
        };
        match code {
            _ if is_other_protocol(&detail) => Self::wrong_server(from, &detail),
            Code::Unimplemented => Self::wrong_server(from, status.message()),
            Code::DeadlineExceeded => Self::late(from, lost),
            Code::Cancelled if status.message() == "Timeout expired" => Self::late(from, lost),
            _ if lost_underway(status) => {
                let message =
                    format!("the connection to {from} broke before the answer came ({detail})");
                let error = Error::new(Reason::CONNECTION_LOST, Code::Unavailable, lost, message);
                Self {
                    error,
                    phase: Phase::Wait,
                    retry: safety == Safety::Read,
                    broken: true,
                }
            }
            _ => {
                let error = not_applied(code_word(code), code, status.message().to_owned());
                Self {
                    error,
                    phase: Phase::Wait,
                    retry: false,
                    broken: false,
                }
            }
        }
    }

    /// The connection went away, or is about to, and the request did not get through.
    fn unsent(status: &Status, from: &Address) -> Self {
        let detail = chain(status_cause(status));
        let message =
            format!("{from} closed the connection before the request was sent ({detail})");
        Self {
            error: not_applied(Reason::UNREACHABLE, Code::Unavailable, message),
            phase: Phase::Send,
            retry: true,
            broken: true,
        }
    }

    fn wrong_server(from: &Address, detail: &str) -> Self {
        let message = format!(
            "{from} does not speak this protocol; is it another port of the node, or an older one? ({detail})"
        );
        let error = not_applied(Reason::WRONG_SERVER, Code::Unimplemented, message);
        Self {
            error,
            phase: Phase::Send,
            retry: false,
            broken: true,
        }
    }

    fn late(from: &Address, outcome: Outcome) -> Self {
        let message = format!("{from} did not answer in time");
        let error = Error::new(
            Reason::DEADLINE_EXCEEDED,
            Code::DeadlineExceeded,
            outcome,
            message,
        );
        Self {
            error,
            phase: Phase::Wait,
            retry: false,
            broken: false,
        }
    }
}

/// Whether the transport made up the status, or a server or proxy that cannot say how far it came.
fn lost_underway(status: &Status) -> bool {
    use Code::{Cancelled, DataLoss, Internal, Unavailable, Unknown};
    std::error::Error::source(status).is_some()
        || matches!(
            status.code(),
            Unavailable | Unknown | Internal | Cancelled | DataLoss
        )
}

fn not_applied(reason: Reason, code: Code, message: String) -> Error {
    Error::new(reason, code, Outcome::NotApplied, message)
}

/// The cause says more than the status made of it.
fn status_cause(status: &Status) -> &(dyn std::error::Error + 'static) {
    std::error::Error::source(status).unwrap_or(status)
}

/// HTTP/1 read as HTTP/2 looks like a frame of absurd size.
fn is_other_protocol(detail: &str) -> bool {
    detail.contains("frame with invalid size") || detail.contains("FRAME_SIZE_ERROR")
}

fn leader_hint(info: &ErrorInfo) -> Option<Leader> {
    let get = |key: &str| info.metadata.get(key).filter(|value| !value.is_empty());
    Some(Leader {
        id: get("leader_id").and_then(|id| id.parse().ok()),
        name: get("leader_name").cloned().unwrap_or_default(),
        address: get("leader_address")?.parse().ok()?,
        term: get("term").and_then(|term| term.parse().ok()),
    })
}

/// `INVALID_ARGUMENT` for `Code::InvalidArgument`.
fn code_word(code: Code) -> Reason {
    let mut word = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !word.is_empty() {
            word.push('_');
        }
        word.push(c.to_ascii_uppercase());
    }
    Reason::from(word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use tonic_types::ErrorDetails;

    fn from() -> Address {
        "127.0.0.1:1".parse().unwrap()
    }

    fn status(code: Code, outcome: &str, busy: bool) -> Status {
        let metadata = HashMap::from([("outcome".to_owned(), outcome.to_owned())]);
        let mut details = ErrorDetails::new();
        details.set_error_info("SOME_REASON", ERROR_DOMAIN, metadata);
        if busy {
            details.set_retry_info(Some(std::time::Duration::ZERO));
        }
        Status::with_error_details(code, "why", details)
    }

    #[test]
    fn only_what_is_surely_not_applied_is_sent_again() {
        use Safety::{Read, Write};
        for (code, outcome, busy, safety, retry) in [
            (Code::Unavailable, "not_applied", false, Write, true),
            (Code::Unavailable, "unknown", false, Write, false),
            (Code::Unavailable, "", false, Write, false),
            (Code::Unavailable, "unknown", false, Read, true),
            (Code::ResourceExhausted, "not_applied", true, Write, true),
            (Code::ResourceExhausted, "not_applied", false, Write, false),
            (Code::Aborted, "unknown", false, Write, false),
            (Code::Aborted, "not_applied", false, Write, false),
            (Code::Aborted, "unknown", false, Read, true),
            (Code::NotFound, "not_applied", false, Read, false),
            (Code::FailedPrecondition, "not_applied", false, Write, false),
        ] {
            let failure = Failure::judge(&status(code, outcome, busy), safety, &from());
            assert_eq!(failure.retry, retry, "{code:?} {outcome} {safety:?}");
        }
    }

    #[test]
    fn a_status_without_details_leaves_a_write_open() {
        for code in [
            Code::Unavailable,
            Code::Unknown,
            Code::Internal,
            Code::Cancelled,
        ] {
            let failure = Failure::judge(&Status::new(code, "eof"), Safety::Write, &from());
            assert_eq!(failure.error.outcome(), Outcome::Unknown, "{code:?}");
            assert!(!failure.retry && failure.broken);
            let failure = Failure::judge(&Status::new(code, "eof"), Safety::Read, &from());
            assert!(failure.retry, "{code:?}");
        }
    }

    #[test]
    fn details_of_another_domain_are_not_believed() {
        let metadata = HashMap::from([("outcome".to_owned(), "not_applied".to_owned())]);
        let details = ErrorDetails::with_error_info("X", "proxy.example", metadata);
        let status = Status::with_error_details(Code::Unavailable, "overloaded", details);
        let failure = Failure::judge(&status, Safety::Write, &from());
        assert_eq!(failure.error.outcome(), Outcome::Unknown);
    }

    #[test]
    fn codes_become_words() {
        assert_eq!(
            code_word(Code::InvalidArgument).as_str(),
            "INVALID_ARGUMENT"
        );
        assert_eq!(code_word(Code::NotFound).as_str(), "NOT_FOUND");
    }
}
