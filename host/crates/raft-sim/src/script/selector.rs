//! Which messages a command means.

use kontiki_raft::{Message, MessageBody};

/// A message under way.
#[derive(Clone, Debug)]
pub(super) struct Letter {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) message: Message,
}

/// Chooses letters: by link (`1->2`), by one end (`from 1`, `to 2`) and by kind.
#[derive(Debug, Default)]
pub(super) struct Selector {
    from: Option<u64>,
    to: Option<u64>,
    kind: Option<String>,
    /// Only the last one that fits.
    last: bool,
}

impl Selector {
    pub(super) fn parse(words: &[&str]) -> Result<Self, String> {
        let mut selector = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            if let Some((from, to)) = word.split_once("->") {
                selector.from = Some(number(from)?);
                selector.to = Some(number(to)?);
                continue;
            }
            match *word {
                "from" => selector.from = Some(number(words.next().unwrap_or(&""))?),
                "to" => selector.to = Some(number(words.next().unwrap_or(&""))?),
                "last" => selector.last = true,
                kind => selector.kind = Some(kind.to_owned()),
            }
        }
        Ok(selector)
    }

    fn fits(&self, letter: &Letter) -> bool {
        self.from.is_none_or(|from| from == letter.from)
            && self.to.is_none_or(|to| to == letter.to)
            && self
                .kind
                .as_deref()
                .is_none_or(|kind| kind == kind_of(&letter.message))
    }

    /// Takes the chosen letters out.
    pub(super) fn take(&self, letters: &mut Vec<Letter>) -> Vec<Letter> {
        if self.last {
            let at = letters.iter().rposition(|letter| self.fits(letter));
            return at.map(|at| letters.remove(at)).into_iter().collect();
        }
        letters.extract_if(.., |letter| self.fits(letter)).collect()
    }
}

pub(super) fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("'{word}' is no number"))
}

/// The paper's name of a message.
pub(super) fn kind_of(message: &Message) -> &'static str {
    match &message.body {
        MessageBody::RequestVote(request) if request.pre_vote => "PreVote",
        MessageBody::RequestVote(_) => "RequestVote",
        MessageBody::RequestVoteReply(reply) if reply.pre_vote => "PreVoteReply",
        MessageBody::RequestVoteReply(_) => "RequestVoteReply",
        MessageBody::AppendEntries(_) => "AppendEntries",
        MessageBody::AppendEntriesReply(_) => "AppendEntriesReply",
        MessageBody::Heartbeat(_) => "Heartbeat",
        MessageBody::HeartbeatReply(_) => "HeartbeatReply",
        MessageBody::InstallSnapshot(_) => "InstallSnapshot",
        MessageBody::InstallSnapshotReply(_) => "InstallSnapshotReply",
        MessageBody::TimeoutNow(_) => "TimeoutNow",
        MessageBody::ReadIndexRequest(_) => "ReadIndexRequest",
        MessageBody::ReadIndexReply(_) => "ReadIndexReply",
    }
}
