//! Every message survives the wire, and what no core would say is refused.

use super::*;
use prost::Message as _;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(Term(term), LogIndex(index))
}

fn joint() -> Configuration {
    let learners = [NodeId(9)].into();
    let current = MemberSet {
        voters: [NodeId(1), NodeId(2)].into(),
        learners,
    };
    Configuration {
        current,
        old: Some(MemberSet::of_voters([NodeId(u64::MAX)])),
    }
}

fn append() -> AppendEntries {
    let kinds = [
        EntryKind::Command("add 1".into()),
        EntryKind::Configuration(joint().into()),
        EntryKind::Internal {
            tag: 7,
            payload: "x".into(),
        },
    ];
    let entry = |(i, kind)| Entry {
        id: id(3, 5 + i as u64),
        time_ns: u64::MAX,
        kind,
    };
    let entries = kinds.into_iter().enumerate().map(entry).collect();
    AppendEntries {
        prev: id(2, 4),
        entries,
        commit: LogIndex(4),
        sequence: 11,
    }
}

fn every_body() -> Vec<MessageBody> {
    let snapshot = SnapshotMeta {
        last_included: id(2, 9),
        configuration: joint(),
    };
    let request_vote = RequestVote {
        pre_vote: true,
        last: id(1, 2),
        round: 3,
        forced: true,
        disrupted_leader: Some((NodeId(4), Term(5))),
        priority: 6,
        applied: Some(LogIndex(8)),
    };
    let ordinary = RequestVote {
        disrupted_leader: None,
        pre_vote: false,
        applied: None,
        ..request_vote.clone()
    };
    let vote = RequestVoteReply {
        pre_vote: true,
        round: 9,
        granted: false,
        rejected_by_lease: true,
        disrupted: Some(Term(3)),
    };
    let append_reply = AppendEntriesReply {
        sequence: 1,
        index: LogIndex(2),
        conflict: Some(id(1, 1)),
        read_only: true,
        promise: Some(LeasePromise {
            span: Duration::from_micros(5),
            drift: Duration::from_micros(2),
        }),
    };
    let echo = Echo {
        incarnation: u64::MAX,
        at: Instant(u64::MAX),
    };
    let installed = InstallSnapshotReply {
        last_included: id(2, 9),
        installed: true,
    };
    vec![
        MessageBody::RequestVote(request_vote),
        MessageBody::RequestVote(ordinary),
        MessageBody::RequestVoteReply(vote),
        MessageBody::AppendEntries(append()),
        MessageBody::AppendEntriesReply(append_reply),
        MessageBody::Heartbeat(Heartbeat {
            commit: LogIndex(1),
            round: 2,
            horizon: None,
            turn: ElectionTurn::First,
        }),
        MessageBody::Heartbeat(Heartbeat {
            commit: LogIndex(1),
            round: 2,
            horizon: Some(HorizonNews {
                commit: LogIndex(9),
                age: Duration::from_micros(7),
                echo,
            }),
            turn: ElectionTurn::Later,
        }),
        MessageBody::HeartbeatReply(HeartbeatReply {
            round: 2,
            read_only: true,
            echo: Some(echo),
            promise: None,
            standing: Standing {
                priority: 0,
                drained: true,
                applied: Some(LogIndex(u64::MAX)),
            },
        }),
        MessageBody::InstallSnapshot(InstallSnapshot { snapshot }),
        MessageBody::InstallSnapshotReply(installed),
        MessageBody::TimeoutNow(TimeoutNow {
            leader_stepped_down: true,
        }),
        MessageBody::ReadIndexRequest(ReadIndexRequest {
            token: Token(u64::MAX),
            mode: ReadMode::Quorum,
        }),
        MessageBody::ReadIndexRequest(ReadIndexRequest {
            token: Token(1),
            mode: ReadMode::Lease,
        }),
        MessageBody::ReadIndexReply(ReadIndexReply {
            token: Token(1),
            index: None,
            busy: true,
        }),
        MessageBody::ReadIndexReply(ReadIndexReply {
            token: Token(1),
            index: Some(LogIndex(3)),
            busy: false,
        }),
    ]
}

#[test]
fn every_message_comes_back_from_the_wire_as_it_was() {
    for body in every_body() {
        let message = Message {
            term: Term(8),
            body,
        };
        let bytes = message_to_wire(message.clone()).encode_to_vec();
        let wire = v1::RaftMessage::decode(bytes.as_slice()).unwrap();
        assert_eq!(message_from_wire(wire), Ok(message));
    }
}

#[test]
fn a_peer_that_says_no_priority_has_the_default_one() {
    let reply = v1::HeartbeatReply::default();
    assert_eq!(standing_from_wire(&reply), Standing::default());
    let heartbeat = v1::Heartbeat {
        turn: 77,
        ..v1::Heartbeat::default()
    };
    assert_eq!(turn_from_wire(heartbeat.turn()), ElectionTurn::Any);
}

fn refused(change: impl FnOnce(&mut v1::AppendEntries)) -> ConvertError {
    let mut append = append_to_wire(append());
    change(&mut append);
    let body = Some(Body::AppendEntries(append));
    message_from_wire(v1::RaftMessage { term: 8, body }).unwrap_err()
}

#[test]
fn hostile_messages_are_refused() {
    use ConvertError::{Missing, NotConsecutive, OutOfRange, VoterAndLearner};
    assert_eq!(
        message_from_wire(v1::RaftMessage::default()),
        Err(Missing("body"))
    );
    assert_eq!(refused(|a| a.prev = None), Missing("prev"));
    assert_eq!(refused(|a| a.entries[0].id = None), Missing("id"));
    assert_eq!(refused(|a| a.entries[0].kind = None), Missing("kind"));
    assert_eq!(refused(|a| a.commit = u64::MAX), OutOfRange("commit"));
    assert_eq!(
        refused(|a| a.prev = Some(v1::LogId { term: 9, index: 4 })),
        NotConsecutive
    );
    assert_eq!(refused(|a| drop(a.entries.remove(1))), NotConsecutive);
    let internal = Kind::Internal(Internal {
        tag: 256,
        payload: "".into(),
    });
    assert_eq!(
        refused(|a| a.entries[2].kind = Some(internal)),
        OutOfRange("tag")
    );
    let both = v1::MemberSet {
        voters: vec![1],
        learners: vec![1],
    };
    assert_eq!(members_from_wire(both), Err(VoterAndLearner(1)));
}

#[test]
fn any_bytes_are_an_error_or_a_message_but_no_panic() {
    let base = message_to_wire(Message {
        term: Term(8),
        body: every_body().remove(3),
    });
    let base = base.encode_to_vec();
    for position in 0..base.len() {
        for bit in 0..8 {
            let mut bytes = base.clone();
            bytes[position] ^= 1 << bit;
            if let Ok(wire) = v1::RaftMessage::decode(bytes.as_slice()) {
                let _ = message_from_wire(wire);
            }
        }
    }
}

/// A receive buffer that tells when nothing of it is held any more.
struct Buffer {
    bytes: Vec<u8>,
    _in_use: std::sync::Arc<()>,
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[test]
fn entries_do_not_keep_the_buffer_they_came_in() {
    let message = Message {
        term: Term(9),
        body: MessageBody::AppendEntries(append()),
    };
    let in_use = std::sync::Arc::new(());
    let encoded = message_to_wire(message.clone()).encode_to_vec();
    let mut received = Bytes::from_owner(Buffer {
        bytes: encoded,
        _in_use: in_use.clone(),
    });
    let wire = v1::RaftMessage::decode(&mut received).unwrap();
    drop(received);
    assert_eq!(std::sync::Arc::strong_count(&in_use), 2, "slices of it");
    let kept = message_from_wire(wire);
    assert_eq!(std::sync::Arc::strong_count(&in_use), 1);
    assert_eq!(kept, Ok(message));
}
