//! Answers to commands and queries.

use crate::error::{Error, Outcome, Reason, Result};
use crate::{Address, Code, proto};
use bytes::Bytes;
use std::time::Duration;

/// What the group's plugin answered, and where in the log that was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The plugin's answer.
    pub verdict: Verdict,
    /// Log index of the command, or the one up to which a query read.
    pub index: u64,
    /// Term in which it was answered.
    pub term: u64,
    /// `sha256:…` of the plugin that answered.
    pub plugin: String,
    /// The node that answered (it may have forwarded the call).
    pub served_by: Address,
    /// For a stale query: how old the answer may be.
    pub staleness: Option<Staleness>,
}

/// How old the answer to a stale query may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Staleness {
    /// It has everything that was acknowledged longer ago than this.
    AtMost(Duration),
    /// The node cannot tell: it has not heard from a leader with a quorum, or has not applied yet
    /// what was committed then.
    Unknown,
}

/// A plugin's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The command was carried out, or the query answered.
    Answer(Bytes),
    /// The plugin's own "no", with its reason. A rejected command is in the log like any other.
    Rejected(String),
}

/// What a query may miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// Nothing: sees every command acknowledged before the query began.
    #[default]
    Linearizable,
    /// Nothing, resting on the leader's lease where that is enabled: cheaper, but trusts clocks.
    Lease,
    /// Whatever the answering node does not have yet.
    Stale,
}

impl Consistency {
    pub(crate) fn to_proto(self) -> proto::Consistency {
        match self {
            Self::Linearizable => proto::Consistency::Linearizable,
            Self::Lease => proto::Consistency::Lease,
            Self::Stale => proto::Consistency::Stale,
        }
    }
}

impl Reply {
    pub(crate) fn applied(reply: proto::ApplyReply, served_by: Address) -> Result<Self> {
        use proto::apply_reply::Result as Answer;
        let verdict = match reply.result {
            Some(Answer::Answer(answer)) => Verdict::Answer(answer),
            Some(Answer::Rejected(why)) => Verdict::Rejected(why),
            None => return Err(incomplete(Outcome::Applied, &served_by)),
        };
        Self::new(verdict, reply.position, served_by, Outcome::Applied)
    }

    pub(crate) fn queried(reply: proto::QueryReply, served_by: Address) -> Result<Self> {
        use proto::query_reply::{Result as Answer, Staleness as Age};
        let verdict = match reply.result {
            Some(Answer::Answer(answer)) => Verdict::Answer(answer),
            Some(Answer::Rejected(why)) => Verdict::Rejected(why),
            None => return Err(incomplete(Outcome::NotApplied, &served_by)),
        };
        let queried = Self::new(verdict, reply.position, served_by, Outcome::NotApplied)?;
        Ok(Self {
            staleness: reply.staleness.map(|age| match age {
                Age::StalenessUs(us) => Staleness::AtMost(Duration::from_micros(us)),
                Age::StalenessUnknown(_) => Staleness::Unknown,
            }),
            ..queried
        })
    }

    fn new(
        verdict: Verdict,
        position: Option<proto::Position>,
        served_by: Address,
        outcome: Outcome,
    ) -> Result<Self> {
        let position = position.ok_or_else(|| incomplete(outcome, &served_by))?;
        let proto::Position {
            index,
            term,
            plugin,
        } = position;
        Ok(Self {
            verdict,
            index,
            term,
            plugin,
            served_by,
            staleness: None,
        })
    }
}

fn incomplete(outcome: Outcome, from: &Address) -> Error {
    let message = format!("the reply of {from} is incomplete: is it of another version?");
    Error::new(Reason::BAD_REPLY, Code::Internal, outcome, message)
}
