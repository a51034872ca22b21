//! What a host sees of a replica.

use crate::support::{Image, Seen, Solo, change, id, say, voters};
use kontiki_raft::{
    Core, Effect, HardState, Input, IoId, NodeId, ReadMode, RejectReason, Role, Settings, Term,
    TransferTarget,
};
use std::time::Duration;

fn follower() -> Solo {
    let mut node = Solo::open(voters([1, 2, 3]), Image::default());
    node.follow(2, 1);
    node
}

#[test]
fn a_replica_knows_whether_it_is_in_the_configuration() {
    assert!(follower().core.is_in_configuration());
    let others = voters([2, 3]);
    let (settings, image) = (Settings::default(), Image::default());
    let now = kontiki_raft::Instant(1);
    let waiting = Core::new(NodeId(1), settings, others, image.recovered(&[]), now, 1);
    assert!(!waiting.is_in_configuration());
}

#[test]
fn term_and_vote_are_told() {
    let mut node = follower();
    node.receive(3, 7, say::forced_vote_request(id(6, 99)));
    let expected = HardState {
        term: Term(7),
        voted_for: Some(NodeId(3)),
    };
    assert_eq!(node.core.hard_state(), expected);
}

#[test]
fn a_leader_that_hands_over_says_so() {
    let mut node = Solo::settled(|_| {});
    assert_eq!(node.core.role(), Role::Leader);
    let token = node.token();
    let target = TransferTarget::Node(NodeId(2));
    node.give(Input::TransferLeadership { token, target });
    assert_eq!(node.core.role(), Role::Transferring);
}

#[test]
fn a_failure_names_its_cause_and_a_shutdown_is_none() {
    let mut node = Solo::settled(|_| {});
    assert_eq!(node.core.failure(), None);
    let io = IoId::default();
    node.give(Input::PersistFailed { io });
    assert_eq!(node.core.failure(), Some("a write to the log failed"));
    let mut node = Solo::settled(|_| {});
    node.give(Input::Shutdown);
    assert_eq!(
        (node.core.role(), node.core.failure()),
        (Role::Stopped, None)
    );
}

#[test]
fn what_ends_after_the_replica_stopped_still_counts_as_ended() {
    let mut node = Solo::settled(|_| {});
    node.hold_disk();
    node.propose("x");
    node.ack_all();
    let applying = node.status().applying_index;
    assert_eq!(node.status().writes_pending, 1);
    node.give(Input::Shutdown);
    node.give(Input::Applied { index: applying });
    assert_eq!(node.status().applied_index, applying);
    while node.writes_under_way() > 0 {
        node.persist();
    }
    assert_eq!(node.status().writes_pending, 0);
}

#[test]
fn every_order_to_a_stopped_replica_is_refused() {
    let mut node = Solo::settled(|_| {});
    node.give(Input::Shutdown);
    let (token, effects) = node.propose("x");
    assert_eq!(effects.rejection(token), Some(&RejectReason::Stopping));
    let (token, refused) = node.change(change::remove(3));
    let reason = RejectReason::Stopping;
    assert_eq!(refused, [Effect::Rejected { token, reason }]);
}

#[test]
fn writes_under_way_are_counted() {
    let mut node = Solo::settled(|_| {});
    assert_eq!(node.status().writes_pending, 0);
    node.hold_disk();
    for expected in 1..=3 {
        node.propose("x");
        assert_eq!(node.status().writes_pending, expected);
    }
    node.persist();
    assert_eq!(node.status().writes_pending, 2);
}

/// An answer of a higher term ends a leadership, but not if a stranger gives it.
#[test]
fn a_stranger_cannot_depose_a_leader() {
    let mut node = Solo::settled(|_| {});
    node.receive(9, 5, say::append_ack(1, 1));
    node.receive(9, 5, say::heartbeat_ack(1));
    assert_eq!((node.role(), node.term()), (Role::Leader, 1));
    node.receive(3, 5, say::heartbeat_ack(1));
    assert_eq!((node.role(), node.term()), (Role::Follower, 5));
}

#[test]
fn a_position_is_written_as_term_and_index() {
    assert_eq!(id(3, 17).to_string(), "3.17");
}

#[test]
fn a_configuration_counts_eight_bytes_for_each_member_of_each_set() {
    let current = crate::support::learner_set(&[1, 2, 3], &[4]);
    let mut configuration = kontiki_raft::Configuration::stable(current);
    assert_eq!(configuration.size_bytes(), 32);
    configuration.old = Some(crate::support::learner_set(&[1, 2], &[5, 6, 7]));
    assert_eq!(configuration.size_bytes(), 72);
}

/// A host that sleeps until the next deadline must wake up in time to see that its disk hangs.
#[test]
fn a_leader_that_waits_for_its_disk_wants_to_be_woken_before_it_counts_as_stalled() {
    let mut node = Solo::settled(|settings| {
        settings.election_timeout = Duration::from_secs(60);
        settings.heartbeat_factor = 2;
    });
    let idle = node.core.next_deadline().map(|at| at.since(node.now));
    assert_eq!(idle, Some(Duration::from_secs(30)));
    node.hold_disk();
    node.propose("x");
    let waiting = node.core.next_deadline().map(|at| at.since(node.now));
    assert_eq!(waiting, Some(Settings::default().disk_stall_timeout));
}

#[test]
fn reads_that_a_leader_has_not_confirmed_count_as_pending() {
    let mut node = Solo::settled(|_| {});
    for expected in 1..=3 {
        node.read(ReadMode::Quorum);
        assert_eq!(node.status().reads_pending, expected);
    }
}

#[test]
fn limits_of_bytes_below_one_kibibyte_are_refused() {
    let check = |append: usize, inflight: usize| {
        let settings = Settings {
            append_size_bytes_max: append,
            inflight_size_bytes_max: inflight,
            ..Settings::default()
        };
        settings.check().err().map(|error| error.name)
    };
    assert_eq!(check(1_024, 1_024), None);
    assert_eq!(check(1_023, 1_024), Some("append_size_bytes_max"));
    assert_eq!(check(1_024, 1_023), Some("inflight_size_bytes_max"));
}
