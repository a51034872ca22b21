//! What goes wrong, as it is shown to people and programs.

use super::exit::Exit;
use kontiki_client::{Attempt, Error, Leader, Outcome};
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Result of a command of this program.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a command of this program failed.
#[derive(Debug)]
pub(crate) struct Failure(Box<Details>);

#[derive(Debug)]
struct Details {
    exit: Exit,
    reason: String,
    message: String,
    tried: Vec<Attempt>,
    /// None where nothing was to be applied.
    outcome: Option<Outcome>,
    leader: Option<Leader>,
    retryable: bool,
    hint: Option<String>,
    /// Everything was said already; only the exit code remains.
    silent: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            exit,
            reason: reason.to_owned(),
            message: message.into(),
            tried: vec![],
            outcome: None,
            leader: None,
            retryable: false,
            hint: None,
            silent: false,
        }))
    }

    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "USAGE", message)
    }

    /// This machine stands in the way.
    pub(crate) fn local(reason: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Local, reason, message)
    }

    /// Ends the program with a code; what there is to say has been said.
    pub(crate) fn silent(exit: Exit) -> Self {
        let mut failure = Self::new(exit, "", "");
        failure.0.silent = true;
        failure
    }

    /// A file could not be read or written.
    pub(crate) fn file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::local("IO", format!("{}: {error}", path.display()))
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Leaves out the outcome: the call changed nothing anyway.
    #[must_use]
    pub(crate) fn of_read(mut self) -> Self {
        self.0.outcome = None;
        self
    }

    pub(crate) fn exit(&self) -> Exit {
        self.0.exit
    }

    #[cfg(test)]
    pub(crate) fn reason(&self) -> &str {
        &self.0.reason
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.0.silent
    }

    /// The shape for people.
    pub(crate) fn text(&self) -> String {
        let it = &self.0;
        let mut text = format!("error[{}]: {}", it.reason, it.message);
        // The last attempt's trouble is often the message itself.
        let other = |attempt: &&Attempt| attempt.problem != it.message;
        let tried: Vec<String> = it.tried.iter().filter(other).map(attempt_text).collect();
        if !tried.is_empty() {
            write!(text, "\n  tried: {}", tried.join(", ")).ok();
        }
        if let Some(outcome) = it.outcome {
            write!(text, "\n  outcome: {}", outcome_text(outcome)).ok();
        }
        if let Some(leader) = &it.leader {
            write!(text, "\n  leader: {} {}", leader.name, leader.address).ok();
        }
        if let Some(hint) = &it.hint {
            write!(text, "\n  hint: {hint}").ok();
        }
        text
    }

    /// The shape for programs.
    pub(crate) fn json(&self) -> Value {
        let it = &self.0;
        let tried = it.tried.iter().map(attempt_json).collect::<Vec<_>>();
        let leader = it.leader.as_ref().map(|leader| {
            json!({
                "id": leader.id.map(|id| id.to_string()),
                "name": leader.name,
                "address": leader.address.to_string(),
                "term": leader.term,
            })
        });
        json!({
            "kind": "error",
            "v": 1,
            "error": {
                "code": it.reason,
                "message": it.message,
                "hint": it.hint,
                "outcome": it.outcome.map(Outcome::as_str),
                "retryable": it.retryable,
                "exit": it.exit.number(),
                "details": { "tried": tried, "leader": leader },
            },
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let mut failure = Self::new(Exit::of(&error), error.reason().as_str(), error.message());
        failure.0.tried = error.tried().to_vec();
        failure.0.outcome = Some(error.outcome());
        failure.0.leader = error.leader().cloned();
        failure.0.retryable = error.is_retryable();
        failure.0.hint = hint(&error);
        failure
    }
}

/// What to do about a failed call, where that is plain from its reason alone.
fn hint(error: &Error) -> Option<String> {
    let group = error.group().unwrap_or("GROUP");
    let hint = match error.reason().as_str() {
        "UNREACHABLE" => {
            "is a node running? `kontiki dev` starts a cluster; --endpoints says where one is"
                .into()
        }
        "GROUP_NOT_FOUND" => "kontiki group list".into(),
        "GROUP_EXISTS" | "NO_LEADER" | "LEADER_UNREACHABLE" | "MEMBERSHIP_UNSURE" => {
            format!("kontiki group describe {group}")
        }
        "MEMBERSHIP_BUSY" => format!(
            "`kontiki member list --group {group}` shows it; `kontiki member cancel --group \
             {group}` gives it up while it is catching up"
        ),
        "STILL_MEMBER" => format!("kontiki member remove NODE --group {group}"),
        "TRANSFER_WENT_ASTRAY" => format!("kontiki group transfer {group} --to NODE"),
        "MEMBERSHIP_INVALID" | "MEMBERSHIP_UNEXPECTED" => {
            format!("kontiki member list --group {group}")
        }
        "CREATION_UNDECIDED" => {
            "see that that node runs and create the group again, or `kontiki group delete` it"
                .into()
        }
        "GROUP_INCOMPLETE" => "create it again: that completes it, or says what is missing".into(),
        "PLUGIN_IN_USE" => "kontiki group list".into(),
        "PLUGIN_NOT_FOUND" | "PLUGIN_AMBIGUOUS" => "kontiki plugin list".into(),
        "NODE_NOT_FOUND" | "PEER_UNREACHABLE" => "kontiki node list".into(),
        "READ_ONLY" => format!("kontiki group read-only {group} off"),
        "WRONG_SERVER" => "--endpoints takes the address a node listens on for clients".into(),
        "PLUGIN_FAULT" => format!(
            "`kontiki group describe {group}` says how the group is; the node's log has the guest's \
             stack"
        ),
        _ if error.outcome() == Outcome::Unknown => {
            "query the state before you send it again: a second copy may be applied twice".into()
        }
        _ => return None,
    };
    Some(hint)
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Applied => "applied",
        Outcome::NotApplied => "not applied",
        Outcome::Unknown => "unknown",
    }
}

fn attempt_text(attempt: &Attempt) -> String {
    let Attempt {
        address,
        phase,
        problem,
        elapsed,
        times,
    } = attempt;
    let times = if *times > 1 {
        format!(", {times} times")
    } else {
        String::new()
    };
    let elapsed = elapsed.as_secs_f64();
    format!(
        "{address} ({}: {problem}, {elapsed:.3} s{times})",
        phase.as_str()
    )
}

fn attempt_json(attempt: &Attempt) -> Value {
    json!({
        "address": attempt.address.to_string(),
        "phase": attempt.phase.as_str(),
        "problem": attempt.problem,
        "seconds": attempt.elapsed.as_secs_f64(),
        "times": attempt.times,
    })
}
