//! How a call failed.

use crate::Address;
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;
use tonic::Code;

/// Result of a call.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed call: why, what became of the command, and what was tried.
///
/// A state machine's own "no" is no failure, see [`Verdict`](crate::Verdict).
#[derive(Debug, Clone)]
pub struct Error(Box<Details>);

#[derive(Debug, Clone)]
struct Details {
    reason: Reason,
    code: Code,
    outcome: Outcome,
    message: String,
    leader: Option<Leader>,
    tried: Vec<Attempt>,
    group: Option<String>,
}

impl Error {
    pub(crate) fn new(
        reason: Reason,
        code: Code,
        outcome: Outcome,
        message: impl Into<String>,
    ) -> Self {
        let message = message.into();
        Self(Box::new(Details {
            reason,
            code,
            outcome,
            message,
            leader: None,
            tried: vec![],
            group: None,
        }))
    }

    pub(crate) fn with_leader(mut self, leader: Option<Leader>) -> Self {
        self.0.leader = leader;
        self
    }

    pub(crate) fn with_tried(mut self, tried: Vec<Attempt>) -> Self {
        self.0.tried = tried;
        self
    }

    pub(crate) fn of_group(mut self, group: Option<&str>) -> Self {
        self.0.group = group.map(str::to_owned);
        self
    }

    /// Replaces the message by one that says more.
    pub(crate) fn with_message(mut self, message: String) -> Self {
        self.0.message = message;
        self
    }

    /// The group the call was about, if it was about one.
    pub fn group(&self) -> Option<&str> {
        self.0.group.as_deref()
    }

    /// Why, as a word for programs.
    pub fn reason(&self) -> &Reason {
        &self.0.reason
    }

    /// The gRPC status code that came with it, or the one that fits.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What became of the command.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Why, for people; one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The group's leader, if the answering node knew it.
    pub fn leader(&self) -> Option<&Leader> {
        self.0.leader.as_ref()
    }

    /// What was tried in vain, oldest first; at most the last 16.
    pub fn tried(&self) -> &[Attempt] {
        &self.0.tried
    }

    /// Whether the same call may be made again without any risk of applying it twice.
    pub fn is_retryable(&self) -> bool {
        self.0.outcome == Outcome::NotApplied
            && matches!(self.0.code, Code::Unavailable | Code::ResourceExhausted)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl std::error::Error for Error {}

/// Why a call failed: a word such as `NO_LEADER`, of the server or of this library.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// The answering node does not lead the group, and forwarding was declined.
    pub const NOT_LEADER: Self = Self(Cow::Borrowed("NOT_LEADER"));
    /// The group has no leader at present.
    pub const NO_LEADER: Self = Self(Cow::Borrowed("NO_LEADER"));
    /// No such group.
    pub const GROUP_NOT_FOUND: Self = Self(Cow::Borrowed("GROUP_NOT_FOUND"));
    /// The time allowed was over before an answer came.
    pub const DEADLINE_EXCEEDED: Self = Self(Cow::Borrowed("DEADLINE_EXCEEDED"));
    /// No node could be reached.
    pub const UNREACHABLE: Self = Self(Cow::Borrowed("UNREACHABLE"));
    /// The connection broke after the command was sent and before an answer came.
    pub const CONNECTION_LOST: Self = Self(Cow::Borrowed("CONNECTION_LOST"));
    /// Something answers there that does not speak this protocol.
    pub const WRONG_SERVER: Self = Self(Cow::Borrowed("WRONG_SERVER"));
    /// An answer broke the protocol.
    pub const BAD_REPLY: Self = Self(Cow::Borrowed("BAD_REPLY"));

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<String> for Reason {
    fn from(word: String) -> Self {
        Self(Cow::Owned(word))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What became of a command that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It took effect.
    Applied,
    /// It had no effect and never will.
    NotApplied,
    /// It may have had an effect, or may yet.
    Unknown,
}

impl Outcome {
    /// The word used on the wire and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::NotApplied => "not_applied",
            Self::Unknown => "unknown",
        }
    }

    pub(crate) fn parse(word: &str) -> Option<Self> {
        match word {
            "applied" => Some(Self::Applied),
            "not_applied" => Some(Self::NotApplied),
            "unknown" => Some(Self::Unknown),
            _ => None,
        }
    }
}

/// Who leads a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Node id, if it was said.
    pub id: Option<u64>,
    /// Node name; empty if it was not said.
    pub name: String,
    /// Where it takes calls.
    pub address: Address,
    /// The term it leads, if it was said.
    pub term: Option<u64>,
}

/// One thing tried in vain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Where.
    pub address: Address,
    /// How far it came.
    pub phase: Phase,
    /// What went wrong; a few words.
    pub problem: String,
    /// How long it took.
    pub elapsed: Duration,
    /// How often in a row.
    pub times: u32,
}

/// How far an attempt came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Looking up the host's name.
    Resolve,
    /// Opening the TCP connection.
    Connect,
    /// Agreeing on encryption.
    Tls,
    /// Sending the request.
    Send,
    /// Waiting for the answer.
    Wait,
}

impl Phase {
    /// The word used in messages and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Send => "send",
            Self::Wait => "wait",
        }
    }
}
