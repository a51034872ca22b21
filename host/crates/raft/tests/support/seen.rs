//! Looking at effects.

use kontiki_raft::{
    AppendEntries, AppendEntriesReply, Effect, Event, Heartbeat, LogIndex, Message, MessageBody,
    Persist, RejectReason, RequestVote, RequestVoteReply, Token,
};

/// Questions to a list of effects.
pub(crate) trait Seen {
    /// Every message, with its receiver.
    fn sent(&self) -> Vec<(u64, &Message)>;
    fn events(&self) -> Vec<&Event>;
    fn writes(&self) -> Vec<&Persist>;
    /// Last index handed to the state machine.
    fn applied(&self) -> Option<LogIndex>;
    fn rejection(&self, token: Token) -> Option<&RejectReason>;
    fn is_done(&self, token: Token) -> bool;
    /// The read index, if a read was confirmed.
    fn read_index(&self, token: Token) -> Option<u64>;

    fn to(&self, node: u64) -> Vec<&Message> {
        let to_it = self.sent().into_iter().filter(|(to, _)| *to == node);
        to_it.map(|(_, message)| message).collect()
    }

    fn vote_requests(&self) -> Vec<(u64, &RequestVote)> {
        let request = |(to, message): (u64, _)| match body(message) {
            MessageBody::RequestVote(request) => Some((to, request)),
            _ => None,
        };
        self.sent().into_iter().filter_map(request).collect()
    }

    fn vote_replies(&self) -> Vec<(u64, &RequestVoteReply)> {
        let reply = |(to, message): (u64, _)| match body(message) {
            MessageBody::RequestVoteReply(reply) => Some((to, reply)),
            _ => None,
        };
        self.sent().into_iter().filter_map(reply).collect()
    }

    fn appends(&self) -> Vec<(u64, &AppendEntries)> {
        let append = |(to, message): (u64, _)| match body(message) {
            MessageBody::AppendEntries(append) => Some((to, append)),
            _ => None,
        };
        self.sent().into_iter().filter_map(append).collect()
    }

    fn append_replies(&self) -> Vec<(u64, &AppendEntriesReply)> {
        let reply = |(to, message): (u64, _)| match body(message) {
            MessageBody::AppendEntriesReply(reply) => Some((to, reply)),
            _ => None,
        };
        self.sent().into_iter().filter_map(reply).collect()
    }

    fn heartbeats(&self) -> Vec<(u64, &Heartbeat)> {
        let heartbeat = |(to, message): (u64, _)| match body(message) {
            MessageBody::Heartbeat(heartbeat) => Some((to, heartbeat)),
            _ => None,
        };
        self.sent().into_iter().filter_map(heartbeat).collect()
    }
}

fn body(message: &Message) -> &MessageBody {
    &message.body
}

impl Seen for [Effect] {
    fn sent(&self) -> Vec<(u64, &Message)> {
        self.iter()
            .filter_map(|effect| match effect {
                Effect::Send { to, message } => Some((to.0, message)),
                _ => None,
            })
            .collect()
    }

    fn events(&self) -> Vec<&Event> {
        self.iter()
            .filter_map(|effect| match effect {
                Effect::Event(event) => Some(event),
                _ => None,
            })
            .collect()
    }

    fn writes(&self) -> Vec<&Persist> {
        self.iter()
            .filter_map(|effect| match effect {
                Effect::Persist(write) => Some(write),
                _ => None,
            })
            .collect()
    }

    fn applied(&self) -> Option<LogIndex> {
        let batch = |effect: &Effect| match effect {
            Effect::Apply(batch) => Some(batch.last),
            _ => None,
        };
        self.iter().filter_map(batch).max()
    }

    fn rejection(&self, wanted: Token) -> Option<&RejectReason> {
        self.iter().find_map(|effect| match effect {
            Effect::Rejected { token, reason } if *token == wanted => Some(reason),
            _ => None,
        })
    }

    fn is_done(&self, wanted: Token) -> bool {
        self.contains(&Effect::Done { token: wanted })
    }

    fn read_index(&self, wanted: Token) -> Option<u64> {
        self.iter().find_map(|effect| match effect {
            Effect::ReadReady { token, index } if *token == wanted => Some(index.0),
            _ => None,
        })
    }
}
