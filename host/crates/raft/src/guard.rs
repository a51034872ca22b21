//! What no honest peer sends. Such a message is dropped before it can do harm.

use crate::{AppendEntries, EntryKind, LogId, LogIndex, Message, MessageBody};

/// Terms and indexes from here on are refused, so that adding to them cannot overflow.
const POSITION_MAX: u64 = 1 << 62;

/// Whether the message could come from an honest peer, judged by itself alone.
pub(crate) fn is_plausible(message: &Message) -> bool {
    let term = message.term;
    let honest = |id: LogId| in_range(id) && id.term <= term;
    term.0 < POSITION_MAX
        && match &message.body {
            MessageBody::AppendEntries(append) => {
                honest(append.prev) && last_if_consecutive(append).is_some_and(honest)
            }
            MessageBody::RequestVote(request) => in_range(request.last),
            MessageBody::AppendEntriesReply(reply) => {
                reply.index.0 < POSITION_MAX && reply.conflict.is_none_or(in_range)
            }
            MessageBody::InstallSnapshot(install) => {
                honest(install.snapshot.last_included)
                    && install.snapshot.last_included.index.0 > 0
                    && !install.snapshot.configuration.current.voters.is_empty()
            }
            MessageBody::InstallSnapshotReply(reply) => in_range(reply.last_included),
            MessageBody::ReadIndexReply(reply) => reply.index.is_none_or(|i| i.0 < POSITION_MAX),
            MessageBody::Heartbeat(heartbeat) => {
                let told = heartbeat.horizon.map_or(LogIndex(0), |news| news.commit);
                heartbeat.commit.max(told).0 < POSITION_MAX
            }
            MessageBody::RequestVoteReply(_)
            | MessageBody::HeartbeatReply(_)
            | MessageBody::TimeoutNow(_)
            | MessageBody::ReadIndexRequest(_) => true,
        }
}

fn in_range(id: LogId) -> bool {
    id.index.0 < POSITION_MAX && id.term.0 < POSITION_MAX
}

/// The last entry, if all follow `prev` without a hole, in terms that never fall, and no
/// configuration among them is without voters.
fn last_if_consecutive(append: &AppendEntries) -> Option<LogId> {
    let mut last = append.prev;
    for entry in &append.entries {
        let follows = entry.id.index == last.index.next() && entry.id.term >= last.term;
        let voterless = matches!(&entry.kind, EntryKind::Configuration(configuration)
            if configuration.current.voters.is_empty());
        if !follows || voterless {
            return None;
        }
        last = entry.id;
    }
    Some(last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Entry, Term};
    use alloc::vec;
    use alloc::vec::Vec;
    use bytes::Bytes;

    fn append(prev: u64, entries: &[(u64, u64)]) -> Message {
        let entries: Vec<Entry> = entries
            .iter()
            .map(|&(term, index)| Entry {
                id: LogId::new(Term(term), LogIndex(index)),
                time_ns: 0,
                kind: EntryKind::Command(Bytes::new()),
            })
            .collect();
        Message {
            term: Term(5),
            body: MessageBody::AppendEntries(AppendEntries {
                prev: LogId::new(Term(1), LogIndex(prev)),
                entries,
                commit: LogIndex(u64::MAX),
                sequence: 0,
            }),
        }
    }

    #[test]
    fn entries_must_be_consecutive_and_of_rising_terms() {
        assert!(is_plausible(&append(3, &[(1, 4), (5, 5)])));
        let wrong = [
            vec![(1, 5)],
            vec![(1, 4), (1, 6)],
            vec![(2, 4), (1, 5)],
            vec![(6, 4)],
        ];
        for entries in wrong {
            assert!(!is_plausible(&append(3, &entries)), "{entries:?}");
        }
        assert!(!is_plausible(&append(u64::MAX, &[])));
    }
}
