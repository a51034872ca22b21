//! Proposals, and what is handed to the state machine.

use crate::support::{Seen, Solo, image, voters};
use bytes::Bytes;
use kontiki_raft::{Effect, EntryKind, Input, LogIndex, Proposal, RejectReason, Token};

/// Proposes a command of this size, and lets everybody acknowledge it.
fn commit(node: &mut Solo, size_bytes: usize) -> Vec<Effect> {
    let token = node.token();
    let mut effects = node.give(Input::Propose(vec![Proposal {
        token,
        expected_term: None,
        time_ns: 0,
        kind: EntryKind::Command(Bytes::from(vec![7; size_bytes])),
    }]));
    effects.extend(node.ack_all());
    effects
}

#[test]
fn proposals_count_as_pending_until_they_are_handed_over() {
    let mut node = Solo::settled(|_| {});
    assert_eq!(node.status().proposals_pending, 0);
    for expected in 1..=3 {
        node.propose("x");
        assert_eq!(node.status().proposals_pending, expected);
    }
    node.settle();
    assert_eq!(node.status().proposals_pending, 0);
}

/// A state machine that lags keeps no more in memory than the cache may hold, and each batch that it
/// reports gives back exactly its own size.
#[test]
fn what_waits_for_the_state_machine_is_bounded_in_bytes() {
    let mut node = Solo::settled(|settings| settings.cache_size_bytes_max = 1_000);
    let first = node.status().applying_index;
    node.give(Input::Applied { index: first });
    for size_bytes in [300, 500] {
        assert!(commit(&mut node, size_bytes).applied().is_some());
    }
    // Some 200 bytes are left: one more is begun, the next must wait.
    assert!(commit(&mut node, 400).applied().is_some());
    assert_eq!(commit(&mut node, 10).applied(), None);
    // Only what the first took is free again; that is enough for the small one.
    let index = first.next();
    let effects = node.give(Input::Applied { index });
    assert_eq!(effects.applied(), Some(LogIndex(first.0 + 4)));
    // And no more than that is free.
    commit(&mut node, 500);
    assert_eq!(commit(&mut node, 10).applied(), None);
}

#[test]
fn what_is_committed_together_is_handed_over_together() {
    let mut node = Solo::open(voters([1]), image(1, &[1, 1, 1, 1]));
    let token = node.token();
    let effects = node.give(Input::Campaign { token });
    let batches =
        |effect: &Effect| matches!(effect, Effect::Apply(batch) if batch.first < batch.last);
    assert!(effects.iter().any(batches), "{effects:?}");
}

#[test]
fn a_backlog_that_is_just_full_is_not_exceeded() {
    // Two entries of this size are in the log when the last one comes; each costs 32 more.
    let limit = 2 * (100 + 32) + 100;
    let sizes = |limit: usize| {
        let mut node = Solo::settled(|settings| settings.uncommitted_size_bytes_max = limit);
        let kind = || EntryKind::Command(Bytes::from(vec![7; 100]));
        let proposals = (1..=3).map(|token| Proposal {
            token: Token(token),
            expected_term: None,
            time_ns: 0,
            kind: kind(),
        });
        let effects = node.give(Input::Propose(proposals.collect()));
        (1..=3)
            .map(|token| effects.rejection(Token(token)).cloned())
            .collect::<Vec<_>>()
    };
    assert_eq!(sizes(limit), [None, None, None]);
    assert_eq!(sizes(limit - 1), [None, None, Some(RejectReason::Busy)]);
    // One is always taken.
    let busy = Some(RejectReason::Busy);
    assert_eq!(sizes(1), [None, busy.clone(), busy]);
}
