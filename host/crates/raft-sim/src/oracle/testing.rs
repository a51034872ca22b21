//! Short ways to lead an oracle to where a test begins.

use super::{Check, Invariant, Oracle, View};
use crate::machine::Write;
use crate::members::{Members, Set, bit};
use kontiki_raft::{
    Configuration, Entry, EntryKind, Event, HardState, HeartbeatReply, IoId, LogId, LogIndex,
    Message, MessageBody, NodeId, Persist, Role, Standing, Term,
};
use std::cell::RefCell;

pub(super) fn members(voters: &[u64]) -> Members {
    let voters = voters.iter().fold(0, |mask, n| mask | bit(NodeId(*n)));
    Members::stable(Set {
        voters,
        learners: 0,
    })
}

/// Five replicas, of which the first three are voters.
pub(super) fn three() -> Oracle {
    let initial = members(&[1, 2, 3]);
    let mut oracle = Oracle::new(initial, true);
    for node in 1..=5 {
        oracle.add_replica(NodeId(node), initial);
    }
    oracle
}

pub(super) fn view(role: Role, term: u64, commit: u64) -> View {
    View {
        role,
        term: Term(term),
        leader: None,
        commit: LogIndex(commit),
    }
}

fn entry(term: u64, index: u64, kind: EntryKind) -> Entry {
    Entry {
        id: LogId::new(Term(term), LogIndex(index)),
        time_ns: 0,
        kind,
    }
}

pub(super) fn command(term: u64, index: u64, token: u64) -> Entry {
    let payload = Write { token, key: 0 }.encode(16);
    entry(term, index, EntryKind::Command(payload))
}

pub(super) fn configuration(term: u64, index: u64, voters: &[u64]) -> Entry {
    let configuration = members(voters).to_configuration();
    entry(
        term,
        index,
        EntryKind::Configuration(Box::new(configuration)),
    )
}

pub(super) fn joint(term: u64, index: u64, new: &[u64], old: &[u64]) -> Entry {
    let configuration = Configuration {
        current: members(new).current.to_member_set(),
        old: Some(members(old).current.to_member_set()),
    };
    entry(
        term,
        index,
        EntryKind::Configuration(Box::new(configuration)),
    )
}

pub(super) fn append(sequence: u64, entries: Vec<Entry>) -> Persist {
    let last_index = entries.last().map_or(LogIndex(0), |entry| entry.id.index);
    Persist {
        io: IoId {
            sequence,
            leader_term: Term(1),
            last_index,
        },
        entries,
        ..Persist::default()
    }
}

pub(super) fn heartbeat_reply(term: u64, read_only: bool) -> Message {
    let reply = HeartbeatReply {
        round: 1,
        read_only,
        echo: None,
        promise: None,
        standing: Standing::default(),
    };
    Message {
        term: Term(term),
        body: MessageBody::HeartbeatReply(reply),
    }
}

/// Node number `n` makes its vote for `candidate` durable.
pub(super) fn vote(oracle: &mut Oracle, n: usize, term: u64, candidate: u64) {
    let hard_state = Some(HardState {
        term: Term(term),
        voted_for: Some(NodeId(candidate)),
    });
    let persist = Persist {
        hard_state,
        ..Persist::default()
    };
    oracle.synced(n, &persist).unwrap();
}

/// Node number `n` wins the votes of the first three and leads.
pub(super) fn lead(oracle: &mut Oracle, n: usize, term: u64) {
    let candidate = oracle.replicas[n].node.0;
    for voter in 0..3 {
        vote(oracle, voter, term, candidate);
    }
    oracle.begin(n, view(Role::Leader, term, 0)).unwrap();
}

pub(super) fn write_everywhere(oracle: &mut Oracle, nodes: &[usize], persist: &Persist) {
    for n in nodes {
        oracle.persisting(*n, persist).unwrap();
        oracle.synced(*n, persist).unwrap();
    }
}

pub(super) fn start_leading(oracle: &mut Oracle, n: usize, term: u64) {
    if oracle.replicas[n].leading.is_none() {
        let event = Event::LeaderStarted {
            term: Term(term),
            lease_epoch: 1,
        };
        oracle.event(n, &event).unwrap();
    }
}

/// The first node leads term 1 and commits a configuration at index 1 with the second.
pub(super) fn commit_one(oracle: &mut Oracle) -> Entry {
    if !oracle.replicas[0].view.leads() {
        lead(oracle, 0, 1);
    }
    let entry = configuration(1, 1, &[1, 2, 3]);
    write_everywhere(oracle, &[0, 1], &append(1, vec![entry.clone()]));
    oracle.begin(0, view(Role::Leader, 1, 1)).unwrap();
    oracle.committing(0).unwrap();
    start_leading(oracle, 0, 1);
    oracle.finish(0).unwrap();
    entry
}

#[track_caller]
pub(crate) fn assert_breaks(check: Check, invariant: Invariant) {
    let violation = check.expect_err("the violation must be found");
    assert_eq!(violation.invariant, invariant, "{violation}");
    BROKEN.with_borrow_mut(|broken| broken.push(invariant));
}

thread_local! {
    /// What tests of this thread broke, for the test that looks at all invariants.
    static BROKEN: RefCell<Vec<Invariant>> = const { RefCell::new(Vec::new()) };
}

/// What was broken since this was asked last.
pub(super) fn take_broken() -> Vec<Invariant> {
    BROKEN.take()
}
