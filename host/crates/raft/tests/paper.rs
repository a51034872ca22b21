//! One test per claim of the Raft paper (Ongaro and Ousterhout, 2014 extended version), sections
//! 5.1 to 5.4.1. Node 1 is under test; its peers are played by the test.

use crate::support::{Image, Seen, Solo, id, image, ms, say, voters};
use kontiki_raft::{HardState, Input, LogIndex, MessageBody, NodeId, Role, Term};
use std::collections::BTreeSet;
use std::time::Duration;

const ELECTION_TIMEOUT: Duration = ms(1_000);
const HEARTBEAT_INTERVAL: Duration = ms(100);

/// Whoever learns of a higher term follows in it.
fn adopts_a_higher_term(mut node: Solo) {
    let last = node.last_id();
    let higher = node.term() + 3;
    node.receive(2, higher, say::append(last, &[], 0));
    assert_eq!((node.role(), node.term()), (Role::Follower, higher));
    assert_eq!(node.durable().term(), Term(higher), "and remembers it");
}

/// §5.1: if one server's current term is smaller than the other's, it updates its current term.
#[test]
fn a_follower_updates_its_term_from_a_message() {
    adopts_a_higher_term(Solo::open(voters([1, 2, 3]), image(1, &[1])));
}

/// §5.1: if a candidate discovers that its term is out of date, it reverts to follower.
#[test]
fn a_candidate_updates_its_term_from_a_message() {
    let mut node = Solo::new(voters([1, 2, 3]));
    node.become_candidate();
    adopts_a_higher_term(node);
}

/// §5.1: if a leader discovers that its term is out of date, it reverts to follower.
#[test]
fn a_leader_updates_its_term_from_a_message() {
    adopts_a_higher_term(Solo::leader(voters([1, 2, 3]), 2, &[1]));
}

/// §5.1: a request with a stale term is rejected.
#[test]
fn a_message_of_a_stale_term_is_rejected() {
    let mut node = Solo::open(voters([1, 2, 3]), image(4, &[1, 1]));
    let effects = node.receive(2, 3, say::append(id(1, 2), &[3], 3));
    assert_eq!((node.log(), node.commit()), (vec![1, 1], 0));
    let (to, reply) = effects.append_replies()[0];
    assert!(to == 2 && reply.conflict.is_some());
    assert_eq!(
        effects.to(2)[0].term,
        Term(4),
        "the sender learns of the term"
    );

    let effects = node.receive(3, 3, say::vote_request(id(3, 9)));
    assert!(!effects.vote_replies()[0].1.granted);
    assert_eq!(effects.to(3)[0].term, Term(4));
}

/// §5.2: when servers start up, they begin as followers.
#[test]
fn a_server_starts_as_a_follower() {
    for log in [&[][..], &[1, 1, 2]] {
        let node = Solo::open(voters([1, 2, 3]), image(2, log));
        assert_eq!(node.role(), Role::Follower);
    }
}

/// §5.2: a leader sends periodic heartbeats to all followers in order to keep its authority.
#[test]
fn a_leader_sends_heartbeats_to_everybody() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    for _ in 0..5 {
        let effects = node.wait(HEARTBEAT_INTERVAL);
        let to: Vec<u64> = effects.heartbeats().iter().map(|(to, _)| *to).collect();
        assert_eq!(to, [2, 3]);
        let round = effects.heartbeats()[0].1.round;
        for peer in [2, 3] {
            node.receive(peer, 1, say::heartbeat_ack(round));
        }
    }
    assert_eq!(node.role(), Role::Leader);
}

/// A node that asks for votes: higher term, vote for itself, a request to everyone else.
fn asks_for_votes(node: &mut Solo, term: u64) {
    let effects = node.become_candidate();
    assert_eq!(node.term(), term);
    assert_eq!(node.status().voted_for, Some(NodeId(1)));
    let asked: BTreeSet<u64> = effects.vote_requests().iter().map(|(to, _)| *to).collect();
    assert_eq!(asked, BTreeSet::from([2, 3]));
    assert!(
        effects
            .vote_requests()
            .iter()
            .all(|(_, request)| !request.pre_vote)
    );
    assert!(
        effects
            .to(2)
            .iter()
            .all(|message| message.term == Term(term))
    );
}

/// §5.2: a follower that hears nothing over the election timeout begins an election: it
/// increments its term, becomes candidate, votes for itself and asks all others in parallel.
#[test]
fn a_silent_leader_makes_a_follower_start_an_election() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.follow(2, 1);
    asks_for_votes(&mut node, 2);
}

/// §5.2: a candidate whose election had no outcome starts a new one, with a higher term.
#[test]
fn a_candidate_starts_a_new_election() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    asks_for_votes(&mut node, 2);
    asks_for_votes(&mut node, 3);
}

/// §5.2: a candidate wins if it receives votes from a majority of the servers in one round.
#[test]
fn an_election_is_decided_by_a_majority() {
    #[rustfmt::skip]
    let cases: &[(u64, &[bool], Role)] = &[
        (1, &[], Role::Leader),
        (3, &[true, true], Role::Leader),
        (3, &[true], Role::Leader),
        (5, &[true, true, true, true], Role::Leader),
        (5, &[true, true], Role::Leader),
        (3, &[false, false], Role::Follower),
        (5, &[false, false, false, false], Role::Follower),
        (5, &[true, false, false, false], Role::Follower),
        (3, &[], Role::Candidate),
        (5, &[true], Role::Candidate),
        (5, &[false, false], Role::Candidate),
        (5, &[true, false, false], Role::Candidate),
        (5, &[false, true, true], Role::Leader),
    ];
    for &(size, votes, expected) in cases {
        let members = kontiki_raft::MemberSet::of_voters((1..=size).map(NodeId));
        let mut node = Solo::open(members, image(1, &[1]));
        let token = node.token();
        let asked = node.give(Input::Campaign { token });
        let requests = asked.vote_requests();
        for (&granted, (voter, request)) in votes.iter().zip(requests) {
            node.receive(voter, 2, say::vote_reply(request, granted));
        }
        assert_eq!(node.role(), expected, "{votes:?} of {size}");
        assert_eq!(node.term(), 2);
    }
}

/// §5.2: each server votes for at most one candidate in a term, first come, first served.
#[test]
fn a_follower_votes_once_in_a_term() {
    for (voted_for, candidate, expected) in [
        (None, 2, true),
        (None, 3, true),
        (Some(2), 2, true),
        (Some(3), 3, true),
        (Some(2), 3, false),
        (Some(3), 2, false),
    ] {
        let disk = Image {
            hard_state: HardState {
                term: Term(1),
                voted_for: voted_for.map(NodeId),
            },
            ..Image::default()
        };
        let mut node = Solo::open(voters([1, 2, 3]), disk);
        let effects = node.receive(candidate, 1, say::vote_request(id(0, 0)));
        let (to, reply) = effects.vote_replies()[0];
        assert_eq!((to, reply.granted), (candidate, expected), "{voted_for:?}");
    }
}

/// §5.2: a candidate that hears of a legitimate leader, of its own term or a later one, returns to
/// follower state.
#[test]
fn a_candidate_falls_back_to_a_leader() {
    for term in [1, 2] {
        let mut node = Solo::new(voters([1, 2, 3]));
        node.become_candidate();
        assert_eq!(node.term(), 1);
        node.receive(2, term, say::append(id(0, 0), &[], 0));
        assert_eq!((node.role(), node.term()), (Role::Follower, term));
        assert_eq!(node.status().leader, Some(NodeId(2)));
    }
}

/// Waits before elections, over many restarts with different seeds.
fn election_waits(prepare: impl Fn(u64) -> Solo) -> Vec<Duration> {
    let wait = |seed| {
        let mut node = prepare(seed);
        let from = node.now;
        node.wait_for_election();
        node.now.since(from)
    };
    (0..200).map(wait).collect()
}

fn follower(seed: u64) -> Solo {
    Solo::seeded(voters([1, 2, 3]), image(1, &[1]), seed)
}

/// A candidate whose peers are silent.
fn candidate(seed: u64) -> Solo {
    let mut node = follower(seed);
    node.become_candidate();
    node
}

fn are_spread(waits: &[Duration]) {
    assert!(
        waits
            .iter()
            .all(|w| (ELECTION_TIMEOUT..2 * ELECTION_TIMEOUT).contains(w))
    );
    let tenths: BTreeSet<u128> = waits.iter().map(|wait| wait.as_millis() / 100).collect();
    assert_eq!(tenths.len(), 10, "every tenth of the spread occurs");
}

/// §5.2: election timeouts are chosen randomly from a fixed interval.
#[test]
fn election_timeouts_of_a_follower_are_randomised() {
    are_spread(&election_waits(follower));
}

/// §5.2: each candidate restarts its randomised election timeout at the start of an election.
#[test]
fn election_timeouts_of_a_candidate_are_randomised() {
    are_spread(&election_waits(candidate));
}

/// How often, of five servers, the two fastest time out within 10 ms of each other.
fn conflicts(waits: &[Duration]) -> usize {
    let is_close = |five: &&[Duration]| {
        let mut five = five.to_vec();
        five.sort();
        five[1] - five[0] < ms(10)
    };
    waits.chunks_exact(5).filter(is_close).count()
}

/// §5.2: in most cases only a single server will time out.
#[test]
fn followers_rarely_time_out_together() {
    assert!(conflicts(&election_waits(follower)) <= 8, "of 40");
}

/// §5.2: randomised timeouts make split votes rare, and resolve them quickly.
#[test]
fn candidates_rarely_time_out_together() {
    assert!(conflicts(&election_waits(candidate)) <= 8, "of 40");
}

/// §5.3: the leader appends the command to its log as a new entry, then sends it to each of the
/// other servers, with index and term of the entry before it.
#[test]
fn a_leader_starts_replication_of_a_command() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    let (_, effects) = node.propose("x");
    assert_eq!((node.last(), node.commit()), (2, 1));
    let receivers: Vec<u64> = effects.appends().iter().map(|(to, _)| *to).collect();
    assert_eq!(receivers, [2, 3]);
    for (_, append) in effects.appends() {
        assert_eq!(append.prev, id(1, 1));
        assert_eq!(append.commit, LogIndex(1));
        assert_eq!(append.entries[0].id, id(1, 2));
    }
    assert_eq!(node.log(), [1, 1], "and it is on its own disk");
}

/// §5.3: when the entry has been safely replicated, the leader applies it; it includes the highest
/// index it knows to be committed in later messages, so that the others learn of it.
#[test]
fn a_leader_commits_an_entry_and_says_so() {
    let mut node = Solo::leader(voters([1, 2, 3]), 1, &[]);
    node.settle();
    node.propose("x");
    let effects = node.ack(2, 2);
    assert_eq!((node.commit(), effects.applied()), (2, Some(LogIndex(2))));
    let told = effects
        .appends()
        .iter()
        .any(|(_, append)| append.commit == LogIndex(2));
    assert!(told, "followers learn of it");
}

/// §5.3: a log entry is committed once the leader that created it has replicated it on a majority.
#[test]
fn an_entry_is_committed_by_a_majority() {
    #[rustfmt::skip]
    let cases: &[(u64, &[u64], bool)] = &[
        (1, &[], true),
        (3, &[], false), (3, &[2], true), (3, &[2, 3], true),
        (5, &[], false), (5, &[2], false), (5, &[2, 3], true), (5, &[2, 3, 4, 5], true),
    ];
    for &(size, acking, expected) in cases {
        let members = kontiki_raft::MemberSet::of_voters((1..=size).map(NodeId));
        let mut node = Solo::leader(members, 1, &[]);
        node.settle();
        node.propose("x");
        for &peer in acking {
            node.ack(peer, 2);
        }
        assert_eq!(node.commit() == 2, expected, "{acking:?} of {size}");
    }
}

/// §5.3: this also commits all preceding entries in the leader's log, including entries created by
/// previous leaders.
#[test]
fn a_commit_includes_all_preceding_entries() {
    for log in [&[][..], &[2], &[1, 2], &[1]] {
        let mut node = Solo::leader(voters([1, 2, 3]), 3, log);
        let effects = node.ack(2, node.last());
        assert_eq!(node.commit(), log.len() as u64 + 1, "{log:?}");
        assert_eq!(effects.applied(), Some(LogIndex(node.last())));
    }
}

/// §5.3: once a follower learns that an entry is committed, it applies it, in log order.
#[test]
fn a_follower_applies_what_is_committed() {
    for commit in 1..=3 {
        let mut node = Solo::new(voters([1, 2, 3]));
        let effects = node.receive(2, 1, say::append(id(0, 0), &[1, 1, 1], commit));
        assert_eq!(
            (node.commit(), effects.applied()),
            (commit, Some(LogIndex(commit)))
        );
    }
}

/// §5.3: if the follower does not find an entry with the same index and term in its log, it
/// refuses the new entries.
#[test]
fn a_follower_checks_the_entry_before() {
    for (prev, matches) in [
        (id(0, 0), true),
        (id(1, 1), true),
        (id(2, 2), true),
        (id(1, 2), false),
        (id(3, 3), false),
        (id(1, 3), false),
    ] {
        let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 2]));
        let effects = node.receive(2, 3, say::append(prev, &[], 0));
        let (to, reply) = effects.append_replies()[0];
        assert_eq!((to, reply.conflict.is_none()), (2, matches), "{prev}");
        if !matches {
            assert_eq!(reply.index, prev.index, "names what it refuses");
            assert!(reply.conflict.is_some_and(|hint| hint.index < prev.index));
        }
    }
}

/// §5.3: a conflicting entry and all that follow it are deleted, then the leader's are appended.
#[test]
fn a_follower_overwrites_what_conflicts() {
    let cases: &[(_, &[u64], &[u64])] = &[
        (id(2, 2), &[3], &[1, 2, 3]),
        (id(1, 1), &[3, 4], &[1, 3, 4]),
        (id(0, 0), &[1], &[1, 2]),
        (id(0, 0), &[3], &[3]),
        (id(0, 0), &[1, 2], &[1, 2]),
        (id(1, 1), &[2, 4], &[1, 2, 4]),
    ];
    for &(prev, new, expected) in cases {
        let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1, 2]));
        node.receive(2, 4, say::append(prev, new, 0));
        assert_eq!(node.log(), expected, "after {prev}: {new:?}");
        assert_eq!(node.durable().terms(), expected);
    }
}

/// §5.4.1: a vote request carries the last log entry of the candidate.
#[test]
fn a_vote_request_describes_the_log() {
    for log in [&[1][..], &[1, 2], &[1, 1, 1, 2, 2]] {
        let mut node = Solo::open(voters([1, 2, 3]), image(2, log));
        let effects = node.become_candidate();
        let last = id(log[log.len() - 1], log.len() as u64);
        let requests = effects.vote_requests();
        assert_eq!(
            requests.iter().map(|(to, _)| *to).collect::<Vec<_>>(),
            [2, 3]
        );
        assert!(requests.iter().all(|(_, request)| request.last == last));
    }
}

/// §5.4.1: a voter denies its vote if its own log is more up to date: later last term, or same
/// last term and longer.
#[test]
fn a_voter_refuses_a_log_behind_its_own() {
    let cases: &[(&[u64], _, bool)] = &[
        (&[1], id(1, 1), true),
        (&[1], id(1, 2), true),
        (&[1, 1], id(1, 1), false),
        (&[1], id(2, 1), true),
        (&[1], id(2, 2), true),
        (&[1, 1], id(2, 1), true),
        (&[2], id(1, 1), false),
        (&[2], id(1, 2), false),
        (&[2, 2], id(1, 3), false),
    ];
    for &(log, last, expected) in cases {
        for pre_vote in [false, true] {
            let mut node = Solo::open(voters([1, 2, 3]), image(2, log));
            let request = match pre_vote {
                true => say::pre_vote_request(last),
                false => say::vote_request(last),
            };
            let effects = node.receive(2, 3, request);
            assert_eq!(
                effects.vote_replies()[0].1.granted,
                expected,
                "{log:?} {last}"
            );
        }
    }
}

/// §5.2: a vote is remembered: it is on disk before the answer leaves.
#[test]
fn a_vote_is_durable_before_it_is_given() {
    let mut node = Solo::new(voters([1, 2, 3]));
    node.hold_disk();
    let effects = node.receive(2, 1, say::vote_request(id(0, 0)));
    assert!(effects.sent().is_empty(), "nothing before the disk");
    let effects = node.persist();
    assert!(effects.vote_replies()[0].1.granted);
    let expected = HardState {
        term: Term(1),
        voted_for: Some(NodeId(2)),
    };
    assert_eq!(node.durable().hard_state, expected);
}

/// §5.5: requests are idempotent: the same AppendEntries twice has the effect of once.
#[test]
fn a_repeated_request_changes_nothing() {
    let mut node = Solo::new(voters([1, 2, 3]));
    let message: MessageBody = say::append(id(0, 0), &[1, 1], 1);
    node.receive(2, 1, message.clone());
    let effects = node.receive(2, 1, message);
    assert!(effects.writes().is_empty());
    assert_eq!((node.log(), node.commit()), (vec![1, 1], 1));
    assert!(effects.append_replies()[0].1.conflict.is_none());
}
