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
    use crate::{
        AppendEntriesReply, Configuration, Echo, ElectionTurn, Entry, Heartbeat, HorizonNews,
        InstallSnapshot, InstallSnapshotReply, Instant, MemberSet, NodeId, ReadIndexReply,
        RequestVote, SnapshotMeta, Term, Token,
    };
    use alloc::vec;
    use alloc::vec::Vec;
    use bytes::Bytes;
    use core::time::Duration;

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

    fn message(term: u64, body: MessageBody) -> Message {
        let term = Term(term);
        Message { term, body }
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId::new(Term(term), LogIndex(index))
    }

    fn install(voters: &[u64], last_included: LogId) -> MessageBody {
        let voters = voters.iter().map(|&node| NodeId(node));
        MessageBody::InstallSnapshot(InstallSnapshot {
            snapshot: SnapshotMeta {
                last_included,
                configuration: Configuration::stable(MemberSet::of_voters(voters)),
            },
        })
    }

    fn append_reply(index: u64, conflict: Option<LogId>) -> MessageBody {
        MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence: 1,
            index: LogIndex(index),
            conflict,
            read_only: false,
            promise: None,
        })
    }

    fn heartbeat(commit: u64, told: u64) -> MessageBody {
        let echo = Echo {
            incarnation: 1,
            at: Instant(1),
        };
        MessageBody::Heartbeat(Heartbeat {
            commit: LogIndex(commit),
            round: 1,
            horizon: Some(HorizonNews {
                commit: LogIndex(told),
                age: Duration::ZERO,
                echo,
            }),
            turn: ElectionTurn::Any,
        })
    }

    fn read_reply(index: u64) -> MessageBody {
        MessageBody::ReadIndexReply(ReadIndexReply {
            token: Token(1),
            index: Some(LogIndex(index)),
            busy: false,
        })
    }

    fn vote_request(last: LogId) -> MessageBody {
        MessageBody::RequestVote(RequestVote {
            pre_vote: false,
            last,
            round: 1,
            forced: false,
            disrupted_leader: None,
            priority: 1,
            applied: None,
        })
    }

    fn installed(last_included: LogId) -> MessageBody {
        MessageBody::InstallSnapshotReply(InstallSnapshotReply {
            last_included,
            installed: true,
        })
    }

    /// Every position a message can name, at the last that is believed and the first that is not.
    #[test]
    fn positions_are_believed_up_to_the_limit_and_not_beyond() {
        const LAST: u64 = POSITION_MAX - 1;
        const OVER: u64 = POSITION_MAX;
        let beyond = [
            (LAST, vote_request(id(1, OVER))),
            (LAST, vote_request(id(OVER, 1))),
            (LAST, install(&[1], id(1, OVER))),
            (LAST, append_reply(OVER, None)),
            (LAST, append_reply(1, Some(id(1, OVER)))),
            (LAST, append_reply(1, Some(id(OVER, 1)))),
            (LAST, heartbeat(OVER, 1)),
            (LAST, heartbeat(1, OVER)),
            (LAST, read_reply(OVER)),
            (LAST, installed(id(1, OVER))),
            (OVER, heartbeat(1, 1)),
        ];
        for (term, body) in beyond {
            assert!(!is_plausible(&message(term, body.clone())), "{body:?}");
        }
        let within = [
            vote_request(id(LAST, LAST)),
            install(&[1], id(LAST, LAST)),
            append_reply(LAST, Some(id(LAST, LAST))),
            heartbeat(LAST, LAST),
            read_reply(LAST),
            installed(id(LAST, LAST)),
        ];
        for body in within {
            assert!(is_plausible(&message(LAST, body.clone())), "{body:?}");
        }
    }

    #[test]
    fn a_snapshot_of_nothing_or_for_nobody_is_not_believed() {
        assert!(is_plausible(&message(1, install(&[1], id(1, 1)))));
        assert!(!is_plausible(&message(1, install(&[1], id(0, 0)))));
        assert!(!is_plausible(&message(1, install(&[], id(1, 1)))));
        let of_a_later_term = install(&[1], id(2, 1));
        assert!(!is_plausible(&message(1, of_a_later_term)));
    }
}
