//! Majorities, single and joint, against a slow obvious model: what is committed given who holds
//! what, and how an election stands given who said what. Node 1 is a real core.

use crate::support::{Seen, Solo, id, image, say};
use kontiki_raft::{Configuration, Input, MemberSet, NodeId, Role};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Entries a leader has in its log, all of its own term.
const ENTRIES: u64 = 6;

fn set_of(bits: u64) -> BTreeSet<u64> {
    (1..=9).filter(|node| bits >> (node - 1) & 1 == 1).collect()
}

fn members(set: &BTreeSet<u64>) -> MemberSet {
    MemberSet::of_voters(set.iter().map(|&node| NodeId(node)))
}

/// By definition: more than half of the set, and never of an empty one.
fn is_majority(of: &BTreeSet<u64>, who: impl Fn(u64) -> bool) -> bool {
    2 * of.iter().filter(|&&node| who(node)).count() > of.len()
}

/// The highest index that a majority of every set holds.
fn committed(sets: &[BTreeSet<u64>], held: &BTreeMap<u64, u64>) -> u64 {
    let holds = |index: u64| move |node: u64| held.get(&node).is_some_and(|&has| has >= index);
    let agreed = |index: &u64| sets.iter().all(|set| is_majority(set, holds(*index)));
    (1..=ENTRIES).filter(agreed).max().unwrap_or(0)
}

/// How an election stands: a majority of yes in every set wins, a set in which yes cannot become a
/// majority any more loses.
fn outcome(sets: &[BTreeSet<u64>], votes: &BTreeMap<u64, bool>) -> Role {
    let yes = |node: u64| votes.get(&node) == Some(&true);
    let not_no = |node: u64| votes.get(&node) != Some(&false);
    if sets.iter().all(|set| is_majority(set, yes)) {
        Role::Leader
    } else if sets.iter().any(|set| !is_majority(set, not_no)) {
        Role::Follower
    } else {
        Role::Candidate
    }
}

/// A candidate whose membership in force is `current`, and `old` if it is joint. Says whom it asked.
fn candidate(current: &BTreeSet<u64>, old: Option<&BTreeSet<u64>>) -> (Solo, Vec<(u64, u64)>) {
    let mut disk = image(1, &[]);
    let configuration = Configuration {
        current: members(current),
        old: old.map(members),
    };
    disk.entries.push(say::membership(id(1, 1), configuration));
    let mut node = Solo::open(MemberSet::default(), disk);
    let token = node.token();
    let effects = node.give(Input::Campaign { token });
    let asked = effects.vote_requests();
    let asked = asked
        .into_iter()
        .map(|(to, request)| (to, request.round))
        .collect();
    (node, asked)
}

fn vote(node: &mut Solo, voter: u64, round: u64, granted: bool) {
    let request = kontiki_raft::RequestVote {
        round,
        ..say::request_vote(id(1, 1))
    };
    let term = node.term();
    node.receive(voter, term, say::vote_reply(&request, granted));
}

/// A leader by the same membership, whose last entry is `ENTRIES`; nobody has acknowledged any.
fn leader(current: &BTreeSet<u64>, old: Option<&BTreeSet<u64>>) -> Solo {
    let (mut node, asked) = candidate(current, old);
    for (voter, round) in asked {
        if node.role() == Role::Candidate {
            vote(&mut node, voter, round, true);
        }
    }
    assert_eq!(node.role(), Role::Leader);
    while node.last() < ENTRIES {
        node.propose("x");
    }
    node
}

/// One set or two, with node 1 in at least one of them.
fn sets() -> impl Strategy<Value = (BTreeSet<u64>, Option<BTreeSet<u64>>)> {
    let set = || (1_u64..512).prop_map(set_of);
    (set(), prop::option::of(set())).prop_map(|(mut current, old)| {
        if !old.as_ref().is_some_and(|old| old.contains(&1)) {
            current.insert(1);
        }
        (current, old)
    })
}

fn in_force(current: &BTreeSet<u64>, old: &Option<BTreeSet<u64>>) -> Vec<BTreeSet<u64>> {
    std::iter::once(current.clone())
        .chain(old.clone())
        .collect()
}

proptest! {
    #![proptest_config(crate::support::cases(2_000))]

    /// Commit, in whatever order the acknowledgements come, also repeated and going back.
    #[test]
    fn commit_equals_the_model(
        (current, old) in sets(),
        acks in prop::collection::vec((2_u64..=9, 0_u64..=ENTRIES), 0..24),
    ) {
        let sets = in_force(&current, &old);
        let mut node = leader(&current, old.as_ref());
        let mut held = BTreeMap::from([(1, ENTRIES)]);
        for (peer, index) in acks {
            if sets.iter().any(|set| set.contains(&peer)) {
                let best = held.entry(peer).or_insert(0);
                *best = index.max(*best);
                node.ack(peer, index);
            }
            // Entry 1 is of an earlier term and goes with the second.
            let expected = match committed(&sets, &held) { 0 | 1 => 0, index => index };
            if old.is_some() && expected > 0 {
                // The joint configuration is committed: the leader goes on by the new set alone,
                // which the model does not follow.
                prop_assert!(node.commit() >= expected);
                break;
            }
            prop_assert_eq!(node.commit(), expected, "{:?}", held);
        }
    }

    /// Elections, in whatever order the votes come; a second answer of one voter changes nothing.
    #[test]
    fn elections_equal_the_model(
        (current, old) in sets(),
        order in Just((2_u64..=9).collect::<Vec<_>>()).prop_shuffle(),
        answers in prop::collection::vec(any::<bool>(), 0..=8),
    ) {
        let sets = in_force(&current, &old);
        let (mut node, asked) = candidate(&current, old.as_ref());
        let rounds: BTreeMap<u64, u64> = asked.into_iter().collect();
        let voters: BTreeSet<u64> = sets.iter().flatten().copied().filter(|&n| n != 1).collect();
        let alone = node.role() == Role::Leader;
        prop_assert!(alone || rounds.keys().copied().collect::<BTreeSet<_>>() == voters);
        let mut votes = BTreeMap::from([(1, true)]);
        prop_assert_eq!(node.role(), outcome(&sets, &votes));
        for (voter, granted) in order.into_iter().zip(answers) {
            if node.role() != Role::Candidate {
                break;
            }
            if rounds.contains_key(&voter) {
                votes.insert(voter, granted);
            }
            // Whoever was not asked is not counted.
            let round = rounds.get(&voter).or(rounds.values().next()).copied().unwrap_or(0);
            vote(&mut node, voter, round, granted);
            if granted {
                vote(&mut node, voter, round, granted);
            }
            prop_assert_eq!(node.role(), outcome(&sets, &votes), "{:?}", votes);
        }
    }
}

/// Sets too large for the core's fast path give the same as small ones.
#[test]
fn large_sets_follow_the_same_rule() {
    for size in [15_u64, 16, 17, 18, 33, 64] {
        let set = MemberSet::of_voters((1..=size).map(NodeId));
        let mut node = Solo::leader(set, 1, &[]);
        for peer in 2..=size {
            node.ack(peer, 1);
            // With the leader's own copy `peer` members hold it.
            assert_eq!(node.commit() == 1, 2 * peer > size, "{peer} of {size}");
        }
    }
}
