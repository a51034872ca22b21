//! Traps of elections, terms and votes.

use crate::support::{Cluster, Image, Outcome, Seen, Setup, Solo, id, image, ms, say, voters};
use kontiki_raft::{
    AppendEntriesReply, Event, HardState, Input, InstallSnapshotReply, LogId, LogIndex,
    MessageBody, NodeId, ReadIndexReply, RejectReason, RequestVoteReply, Role, StopReason, Term,
    Token,
};

/// A leader, and a follower that hears one, refuse pre-votes: a node that cannot hear the leader
/// must not be elected by those that can.
#[test]
fn trap_15_leader_and_followers_refuse_pre_votes_while_the_leader_lives() {
    let mut leader = Solo::leader(voters([1, 2, 3]), 2, &[1]);
    leader.settle();
    let mut follower = Solo::open(voters([1, 2, 3]), image(2, &[1]));
    follower.follow(2, 2);
    for node in [&mut leader, &mut follower] {
        let effects = node.receive(3, 3, say::pre_vote_request(id(9, 99)));
        assert!(!effects.vote_replies()[0].1.granted);
        let effects = node.receive(3, 9, say::vote_request(id(9, 99)));
        assert!(!effects.vote_replies()[0].1.granted);
        assert_eq!(node.term(), 2, "nor does the term move");
    }
}

/// The same as a scenario: 3 hears nobody, but everybody hears 3.
#[test]
fn trap_15_an_asymmetric_partition_does_not_flip_leadership() {
    let mut cluster = Cluster::led_by_1_of(5);
    let term = cluster.term(1);
    for node in [1, 2, 4, 5] {
        cluster.cut_one_way(node, 3);
    }
    cluster.run(ms(60_000));
    assert_eq!((cluster.leader(), cluster.term(1)), (Some(1), term));
    assert_eq!(cluster.leaderships(1), [(term, None)]);
}

/// A node of a high term with a short log, two of a low term with a longer one: the refusals must
/// bring the low ones up to the term of the high one, or nobody is ever elected.
#[test]
fn trap_16_a_group_of_mixed_terms_elects() {
    let members = voters([1, 2, 3]);
    let mut cluster = Cluster::empty(Setup::voters([1, 2, 3]));
    cluster.start_node(1, members.clone(), image(9, &[1]));
    cluster.start_node(2, members.clone(), image(2, &[1, 2]));
    cluster.start_node(3, members, image(2, &[1]));
    // 2 and 3 alone would do, so 3 is the one that is missing.
    cluster.crash(3);
    let leader = cluster.await_leader();
    assert_eq!(leader, 2, "only its log is long enough");
    assert!(cluster.term(2) > 9);
}

/// A refused pre-vote carries the voter's term, and a higher one is adopted.
#[test]
fn trap_16_a_pre_vote_refusal_carries_the_higher_term() {
    let mut voter = Solo::open(voters([1, 2, 3]), image(9, &[1]));
    let effects = voter.receive(2, 3, say::pre_vote_request(id(2, 2)));
    assert!(!effects.vote_replies()[0].1.granted);
    assert_eq!(effects.to(2)[0].term, Term(9));

    let mut asker = Solo::open(voters([1, 2, 3]), image(2, &[1, 2]));
    let asked = asker.wait_for_election();
    let request = asked.vote_requests()[0].1.clone();
    asker.receive(2, 9, say::vote_reply(&request, false));
    assert_eq!((asker.term(), asker.role()), (9, Role::Follower));
}

/// An answer to an earlier pre-vote round, even a yes, says nothing about the present one.
#[test]
fn trap_17_a_stale_pre_vote_does_not_count() {
    let mut node = Solo::open(voters([1, 2, 3, 4, 5]), image(1, &[1]));
    let first = node.wait_for_election();
    let stale = first.vote_requests()[0].1.clone();
    // The round ends without an outcome; another begins.
    node.follow(2, 1);
    node.wait_for_election();
    for voter in [2, 3] {
        node.receive(voter, 1, say::vote_reply(&stale, true));
    }
    assert_eq!((node.role(), node.term()), (Role::PreCandidate, 1));
}

/// A node's own pre-vote for an earlier round is not carried along either: with one fresh yes of
/// five it is not a candidate.
#[test]
fn trap_17_pre_votes_of_two_rounds_do_not_add_up() {
    let mut node = Solo::open(voters([1, 2, 3, 4, 5]), image(1, &[1]));
    let first = node.wait_for_election();
    let request = first.vote_requests()[0].1.clone();
    node.receive(2, 1, say::vote_reply(&request, true));
    node.follow(2, 1);
    let second = node.wait_for_election();
    let request = second.vote_requests()[0].1.clone();
    node.receive(3, 1, say::vote_reply(&request, true));
    assert_eq!(node.role(), Role::PreCandidate);
    node.receive(4, 1, say::vote_reply(&request, true));
    assert_eq!(node.role(), Role::Candidate);
}

/// An election ordered by a transfer asks for votes at once; a pre-vote would be refused.
#[test]
fn trap_17_a_transfer_needs_no_pre_vote() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.follow(2, 1);
    let effects = node.receive(2, 1, say::timeout_now());
    assert_eq!(node.role(), Role::Candidate);
    assert!(
        effects
            .vote_requests()
            .iter()
            .all(|(_, r)| r.forced && !r.pre_vote)
    );
    assert_eq!(effects.vote_requests().len(), 2);
}

/// A candidate whose vote did not finish gives it up and pre-votes again, without another term.
#[test]
fn trap_18_an_unfinished_vote_is_given_up() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.become_candidate();
    node.wait_for_election();
    assert_eq!((node.role(), node.term()), (Role::PreCandidate, 2));
}

/// Two halves that split their votes again and again still come to a leader.
#[test]
fn trap_18_split_votes_are_resolved() {
    for _ in 0..3 {
        let mut cluster = Cluster::of(4);
        for node in 1..=4 {
            cluster.campaign(node);
        }
        let before = cluster.now;
        cluster.await_leader();
        assert!(cluster.now.since(before) < ms(10_000));
    }
}

/// A leader that steps down in its own term has voted in it: for itself.
#[test]
fn trap_19_stepping_down_keeps_the_vote() {
    let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1]);
    node.settle();
    node.wait(ms(3_000));
    assert_ne!(node.role(), Role::Leader, "a quorum was silent");
    assert_eq!((node.term(), node.status().voted_for), (2, Some(NodeId(1))));
    let effects = node.receive(3, 2, say::vote_request(id(2, 9)));
    assert!(!effects.vote_replies()[0].1.granted);
    let expected = HardState {
        term: Term(2),
        voted_for: Some(NodeId(1)),
    };
    assert_eq!(node.durable().hard_state, expected, "also after a restart");
}

/// A candidate that hears of the term's leader keeps its vote too.
#[test]
fn trap_19_a_candidate_that_falls_back_keeps_its_vote() {
    let mut node = Solo::new(voters([1, 2, 3]));
    node.become_candidate();
    node.follow(2, 1);
    node.wait(ms(1_000));
    let effects = node.receive(3, 1, say::vote_request(id(0, 0)));
    assert!(!effects.vote_replies()[0].1.granted);
    assert_eq!(node.status().voted_for, Some(NodeId(1)));
}

/// Neither a vote request nor a vote leaves before term and vote are on disk, and both travel in
/// one write.
#[test]
fn trap_20_term_and_vote_are_durable_before_anything_leaves() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    let token = node.token();
    let effects = node.give(Input::Campaign { token });
    assert!(effects.sent().is_empty());
    let expected = HardState {
        term: Term(2),
        voted_for: Some(NodeId(1)),
    };
    assert_eq!(effects.writes()[0].hard_state, Some(expected));
    assert_eq!(node.persist().vote_requests().len(), 2);

    let effects = node.receive(2, 3, say::vote_request(id(1, 1)));
    assert!(effects.sent().is_empty());
    let expected = HardState {
        term: Term(3),
        voted_for: Some(NodeId(2)),
    };
    assert_eq!(effects.writes()[0].hard_state, Some(expected));
    assert!(node.persist().vote_replies()[0].1.granted);
}

/// By the time a vote request leaves, the log that it was written behind is durable too, and all of
/// it is claimed: an order to take over comes while entries are under way.
#[test]
fn trap_20_a_vote_request_claims_what_is_durable_when_it_leaves() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    node.receive(2, 1, say::append(id(1, 1), &[1, 1], 0));
    node.receive(2, 1, say::timeout_now());
    assert!(node.persist().vote_requests().is_empty(), "too early");
    let effects = node.persist();
    let claimed: Vec<_> = effects.vote_requests().iter().map(|r| r.1.last).collect();
    assert_eq!(claimed, [id(1, 3), id(1, 3)]);
}

/// The candidate's own vote counts only once it is durable.
#[test]
fn trap_20_the_own_vote_counts_when_it_is_durable() {
    let mut node = Solo::new(voters([1]));
    node.hold_disk();
    let token = node.token();
    node.give(Input::Campaign { token });
    assert_eq!(node.role(), Role::Candidate);
    node.persist();
    assert_eq!(node.role(), Role::Leader);
}

/// A write that fails stops the replica: what is on disk is no longer known.
#[test]
fn trap_20_a_failed_write_stops_the_replica() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    let effects = node.receive(2, 3, say::vote_request(id(1, 1)));
    let io = effects.writes()[0].io;
    let effects = node.give(Input::PersistFailed { io });
    assert!(matches!(effects.events()[..], [Event::Failed { .. }]));
    assert_eq!(node.role(), Role::Stopped);
    let effects = node.receive(2, 3, say::vote_request(id(1, 1)));
    assert!(effects.sent().is_empty());
}

/// A follower acknowledges entries only once they are durable.
#[test]
fn trap_20_an_acknowledgement_waits_for_the_disk() {
    let mut node = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    node.hold_disk();
    let effects = node.receive(2, 1, say::append(id(1, 1), &[1, 1], 0));
    assert!(effects.append_replies().is_empty());
    let effects = node.persist();
    assert_eq!(effects.append_replies()[0].1.index, LogIndex(3));
}

/// A vote found on disk is no grant of the next election.
#[test]
fn trap_20_a_stored_vote_is_not_counted_again() {
    let disk = Image {
        hard_state: HardState {
            term: Term(3),
            voted_for: Some(NodeId(1)),
        },
        ..Image::default()
    };
    let mut node = Solo::open(voters([1, 2, 3]), disk);
    assert_eq!(node.role(), Role::Follower);
    let request = say::request_vote(id(0, 0));
    for voter in [2, 3] {
        node.receive(voter, 3, say::vote_reply(&request, true));
    }
    assert_eq!((node.role(), node.term()), (Role::Follower, 3));
}

/// A replica that was never initialised (no log, no membership) keeps its term and vote.
#[test]
fn trap_21_a_blank_replica_remembers_term_and_vote() {
    let nobody = kontiki_raft::MemberSet::default();
    let mut node = Solo::new(nobody.clone());
    let effects = node.receive(2, 4, say::vote_request(id(0, 0)));
    assert!(effects.vote_replies()[0].1.granted);
    let disk = node.durable().clone();
    let mut again = Solo::open(nobody, disk);
    assert_eq!(again.term(), 4);
    let effects = again.receive(3, 4, say::vote_request(id(5, 5)));
    assert!(!effects.vote_replies()[0].1.granted);
}

/// A disk that lost the record of term and vote but not the log must not vote in the log's terms.
#[test]
fn trap_21_a_term_below_the_log_is_repaired() {
    let mut disk = image(0, &[1, 4]);
    disk.hard_state = HardState::default();
    let mut node = Solo::open(voters([1, 2, 3]), disk);
    assert_eq!(node.term(), 5);
    let effects = node.receive(3, 4, say::vote_request(id(4, 2)));
    assert!(!effects.vote_replies()[0].1.granted);
}

/// A node answers vote requests whatever its own configuration says: it may be behind. Learners and
/// removed nodes vote when they are asked.
#[test]
fn trap_04_every_node_votes_whatever_it_believes_to_be() {
    let as_learner = crate::support::learner_set(&[2, 3], &[1]);
    for members in [
        as_learner,
        voters([2, 3]),
        kontiki_raft::MemberSet::default(),
    ] {
        let mut node = Solo::open(members, image(1, &[1]));
        let effects = node.receive(2, 2, say::vote_request(id(1, 1)));
        assert!(effects.vote_replies()[0].1.granted);
    }
}

/// The same as a scenario: 4 was promoted, does not know it yet, and its vote is needed.
#[test]
fn trap_04_a_learner_that_does_not_know_of_its_promotion_votes() {
    let mut cluster = Setup::voters([1, 2, 3]).learners(&[4]).start();
    cluster.elect(1);
    // The promotion reaches a majority without 4.
    cluster.isolate(4);
    let token = cluster.change(1, crate::support::change::add(4));
    cluster.run(ms(100));
    assert_ne!(cluster.outcome(token), Outcome::Pending);
    assert!(!cluster.status(4).configuration.is_voter(NodeId(4)));
    // Of the four voters 1 is gone and 3 does not speak: 2 needs the vote of 4.
    cluster.crash(1);
    cluster.heal();
    cluster.drop_messages(|envelope| {
        let is_reply = matches!(envelope.message.body, MessageBody::RequestVoteReply(_));
        envelope.from == NodeId(3) && is_reply && envelope.to == NodeId(2)
    });
    let asked = cluster.sent(|e| e.goes(2, 4));
    cluster.run(ms(5_000));
    assert!(cluster.sent(|e| e.goes(2, 4)) > asked, "it is asked");
    cluster.drop_nothing();
    cluster.await_leader();
}

/// Whoever hears of a higher term from a member steps down, whatever kind of answer carries it and
/// whatever it is doing. (braft dead-locked here; there is no lock to hold.)
#[test]
fn trap_41_a_higher_term_in_any_reply_ends_a_leadership() {
    let replies = [
        MessageBody::AppendEntriesReply(AppendEntriesReply {
            sequence: 1,
            index: LogIndex(0),
            conflict: Some(LogId::default()),
            read_only: false,
        }),
        say::heartbeat_ack(1),
        MessageBody::InstallSnapshotReply(InstallSnapshotReply {
            last_included: id(1, 1),
            installed: false,
        }),
        MessageBody::ReadIndexReply(ReadIndexReply {
            token: Token(1),
            index: None,
        }),
        MessageBody::RequestVoteReply(RequestVoteReply {
            pre_vote: false,
            round: 0,
            granted: false,
            rejected_by_lease: false,
            disrupted: None,
        }),
    ];
    for reply in replies {
        let mut node = Solo::leader(voters([1, 2, 3]), 2, &[1]);
        node.settle();
        // In the middle of everything: a proposal, a read, a transfer.
        let (proposal, _) = node.propose("x");
        let (read, _) = node.read(kontiki_raft::ReadMode::Quorum);
        let token = node.token();
        let target = kontiki_raft::TransferTarget::Node(NodeId(2));
        node.give(Input::TransferLeadership { token, target });
        let effects = node.receive(2, 9, reply.clone());
        assert_eq!((node.role(), node.term()), (Role::Follower, 9), "{reply:?}");
        assert_eq!(
            effects.rejection(proposal),
            Some(&RejectReason::LeadershipLost)
        );
        assert!(effects.rejection(read).is_some() && effects.rejection(token).is_some());
    }
}

/// The target of a transfer may be told to campaign at any moment, also when it leads, is a
/// candidate, or follows somebody else.
#[test]
fn trap_41_an_order_to_campaign_is_harmless_at_any_moment() {
    let mut leader = Solo::leader(voters([1, 2, 3]), 2, &[1]);
    let mut candidate = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    candidate.become_candidate();
    let mut follower = Solo::open(voters([1, 2, 3]), image(2, &[1]));
    follower.follow(3, 2);
    for node in [&mut leader, &mut candidate, &mut follower] {
        let (role, term) = (node.role(), node.term());
        node.receive(2, 2, say::timeout_now());
        node.receive(2, 1, say::timeout_now());
        assert_eq!((node.role(), node.term()), (role, term));
    }
}

/// Two leaders in one term: somebody's disk lied. It is reported and both are forced down (braft).
#[test]
fn trap_38_a_second_leader_in_a_term_is_reported() {
    let mut node = Solo::open(voters([1, 2, 3]), image(2, &[1]));
    node.follow(2, 2);
    let effects = node.follow(3, 2);
    let expected = Event::SecondLeader {
        other: NodeId(3),
        term: Term(2),
    };
    assert!(effects.events().contains(&&expected));
    assert_eq!(node.term(), 3);
    for leader in [2, 3] {
        assert_eq!(effects.to(leader)[0].term, Term(3), "node {leader} is told");
    }
}

/// Under one identity a replica votes once in a term, restart or not; a wiped disk is another
/// identity (a node's number is drawn when its directory is made), so it cannot.
#[test]
fn trap_38_a_restarted_replica_does_not_vote_twice() {
    let mut cluster = Cluster::of(3);
    cluster.receive(1, 2, 1, say::vote_request(id(0, 0)));
    cluster.crash(1);
    cluster.restart(1);
    cluster.receive(1, 3, 1, say::vote_request(id(5, 5)));
    let granted = cluster.sent(
        |envelope| matches!(&envelope.message.body, MessageBody::RequestVoteReply(r) if r.granted),
    );
    assert_eq!(granted, 1);
    // The stranger that a wiped node comes back as is no member, and can neither be elected nor
    // be counted.
    let mut leader = Solo::open(voters([1, 2, 3]), image(1, &[1]));
    let token = leader.token();
    let asked = leader.give(Input::Campaign { token });
    let request = asked.vote_requests()[0].1.clone();
    leader.receive(7, 2, say::vote_reply(&request, true));
    assert_eq!(leader.role(), Role::Candidate);
}

/// A leader that hears nothing for an election timeout gives up, rather than serve for ever.
#[test]
fn trap_15_a_leader_without_a_quorum_steps_down() {
    let mut cluster = Cluster::led_by_1_of(3);
    let term = cluster.term(1);
    cluster.isolate(1);
    cluster.run(ms(2_000));
    assert_eq!(
        cluster.leaderships(1),
        [(term, None), (term, Some(StopReason::QuorumLost))]
    );
}
