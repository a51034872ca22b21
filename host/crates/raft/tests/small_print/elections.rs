//! Elections.

use crate::support::{Image, Seen, Solo, id, image, ms, say, voters};
use kontiki_raft::{
    Effect, Input, MessageBody, NodeId, RejectReason, RequestVote, RequestVoteReply, Role,
    Settings, Term,
};

fn three() -> Solo {
    Solo::open(voters([1, 2, 3]), image(1, &[1, 1]))
}

/// Whom the effects ask for a vote or pre-vote.
fn asked(effects: &[Effect]) -> Vec<u64> {
    effects
        .vote_requests()
        .into_iter()
        .map(|(to, _)| to)
        .collect()
}

#[test]
fn a_pre_vote_is_asked_for_again_where_it_is_not_given_yet() {
    let mut node = Solo::open(voters([1, 2, 3, 4, 5]), Image::default());
    let effects = node.wait_for_election();
    let request = effects.vote_requests()[0].1.clone();
    node.receive(2, 0, say::vote_reply(&request, true));
    node.receive(3, 0, say::vote_reply(&request, false));
    let again = node.wait(ms(100));
    assert_eq!(asked(&again), [3, 4, 5]);
}

#[test]
fn a_vote_is_not_asked_for_again_where_it_was_given_or_refused() {
    let mut node = Solo::open(voters([1, 2, 3, 4, 5]), Image::default());
    let effects = node.become_candidate();
    let request = effects.vote_requests()[0].1.clone();
    let term = node.term();
    node.receive(2, term, say::vote_reply(&request, true));
    node.receive(3, term, say::vote_reply(&request, false));
    let again = node.wait(ms(100));
    assert_eq!(asked(&again), [4, 5]);
}

#[test]
fn a_vote_is_asked_for_once_while_the_disk_is_slow() {
    let mut node = three();
    node.hold_disk();
    let mut effects = node.become_candidate();
    effects.extend(node.wait(ms(250)));
    let votes = |effects: &[Effect]| {
        let requests = effects.vote_requests();
        requests.iter().filter(|(_, r)| !r.pre_vote).count()
    };
    assert_eq!(votes(&effects), 0);
    let mut released = Vec::new();
    while node.writes_under_way() > 0 {
        released.extend(node.persist());
    }
    assert_eq!(votes(&released), 2);
}

#[test]
fn a_slow_disk_does_not_keep_a_pre_vote_from_being_repeated() {
    let mut node = three();
    node.hold_disk();
    // The answer to this waits for the disk.
    node.follow(2, 3);
    let first = node.wait_for_election();
    assert_eq!(asked(&first), [2, 3]);
    assert_eq!(asked(&node.wait(ms(100))), [2, 3]);
}

#[test]
fn an_order_to_campaign_while_a_snapshot_is_fetched_is_refused_as_busy() {
    let mut node = three();
    node.follow(2, 1);
    let snapshot = say::snapshot(id(1, 50), say::configuration([1, 2, 3]));
    node.receive(2, 1, say::install(snapshot));
    let token = node.token();
    let effects = node.give(Input::Campaign { token });
    assert_eq!(effects.rejection(token), Some(&RejectReason::Busy));
}

/// Between a quarter and half an election timeout later, whatever is drawn.
#[test]
fn a_lost_pre_vote_is_tried_again_soon_but_not_at_once() {
    for seed in 0..40 {
        let mut node = Solo::seeded(voters([1, 2, 3]), image(1, &[1]), seed);
        let effects = node.wait_for_election();
        for (voter, request) in effects.vote_requests() {
            node.receive(voter, 1, say::vote_reply(request, false));
        }
        assert_eq!(node.role(), Role::Follower);
        let wait = node.core.next_deadline().unwrap().since(node.now);
        assert!((ms(250)..ms(500)).contains(&wait), "{seed}: {wait:?}");
    }
}

/// It holds what makes it refuse only in favour of itself, so it campaigns soon.
#[test]
fn a_preferred_voter_that_refuses_campaigns_within_a_quarter_timeout() {
    for seed in 0..40 {
        let mut node = Solo::seeded(voters([1, 2, 3]), image(1, &[1]), seed);
        node.follow(2, 1);
        // The leader has just become silent; the own wait is far from over.
        node.now = node.now.plus(ms(1_000));
        let request = RequestVote {
            pre_vote: true,
            priority: 10,
            ..say::request_vote(id(1, 1))
        };
        let effects = node.receive(3, 2, MessageBody::RequestVote(request));
        assert!(!effects.vote_replies()[0].1.granted);
        let wait = node.core.next_deadline().unwrap().since(node.now);
        assert!(wait < ms(250), "{seed}: {wait:?}");
    }
}

#[test]
fn a_leader_counts_as_alive_for_exactly_an_election_timeout() {
    for (silent_ms, granted) in [(999, false), (1_000, true)] {
        let mut node = three();
        node.follow(2, 1);
        node.now = node.now.plus(ms(silent_ms));
        let effects = node.receive(3, 2, say::pre_vote_request(node.last_id()));
        assert_eq!(effects.vote_replies()[0].1.granted, granted, "{silent_ms}");
    }
}

#[test]
fn a_voter_of_a_lower_term_may_grant_a_pre_vote_but_not_a_vote() {
    let mut node = Solo::open(voters([1, 2, 3]), image(3, &[1, 1]));
    let effects = node.wait_for_election();
    let request = effects.vote_requests()[0].1.clone();
    let effects = node.receive(2, 1, say::vote_reply(&request, true));
    assert_eq!(node.role(), Role::Candidate);
    let request = effects.vote_requests()[0].1.clone();
    node.receive(2, 1, say::vote_reply(&request, true));
    assert_eq!(
        node.role(),
        Role::Candidate,
        "no vote of an older term counts"
    );
}

/// A voter bound by a lease has not adopted the candidate's term; that it led once is heard still.
#[test]
fn a_refusal_by_lease_releases_though_it_is_of_an_older_term() {
    let mut node = Solo::open(voters([1, 2, 3]), image(3, &[1, 1]));
    let effects = node.become_candidate();
    let request = effects.vote_requests()[0].1.clone();
    let refusal = |rejected_by_lease| {
        MessageBody::RequestVoteReply(RequestVoteReply {
            pre_vote: false,
            round: request.round,
            granted: false,
            rejected_by_lease,
            disrupted: Some(Term(3)),
        })
    };
    let effects = node.receive(2, 3, refusal(false));
    assert!(effects.vote_requests().is_empty());
    let effects = node.receive(2, 3, refusal(true));
    let (_, again) = effects.vote_requests()[0];
    assert_eq!(again.disrupted_leader, Some((NodeId(2), Term(3))));
}

#[test]
fn an_answer_that_waits_for_the_disk_survives_a_vote_in_the_same_term() {
    let mut node = three();
    node.hold_disk();
    let refused = node.receive(2, 5, say::vote_request(id(0, 0)));
    let granted = node.receive(3, 5, say::vote_request(id(1, 2)));
    assert!(refused.sent().is_empty() && granted.sent().is_empty());
    let mut released = Vec::new();
    while node.writes_under_way() > 0 {
        released.extend(node.persist());
    }
    let answers = released.vote_replies();
    let answers: Vec<(u64, bool)> = answers.iter().map(|(to, r)| (*to, r.granted)).collect();
    assert_eq!(answers, [(2, false), (3, true)]);
}

#[test]
fn the_wait_before_an_election_is_spread_over_the_whole_span() {
    let waits = (0..200).map(|seed| {
        let node = Solo::seeded(voters([1, 2, 3]), Image::default(), seed);
        node.core.next_deadline().unwrap().since(node.now)
    });
    let waits: Vec<_> = waits.collect();
    let (shortest, longest) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
    let settings = Settings::default();
    let longest_max = settings.election_timeout + settings.election_spread_max;
    assert!((settings.election_timeout..ms(1_050)).contains(shortest));
    assert!((ms(1_950)..longest_max).contains(longest));
}

/// There is nobody to leave leadership to.
#[test]
fn the_only_voter_campaigns_at_once_though_it_is_drained() {
    let mut node = Solo::open(voters([1]), image(1, &[1]));
    node.give(Input::SetDrained(true));
    node.tick_within(ms(0)).expect("its time has come");
    assert!(node.is_leader());
}
