//! Changes of membership against a slow obvious model: what a change leads to or why it is refused,
//! which configuration is in force while a log grows and is cut, and the stages on the way.

use crate::support::{Image, Seen, Solo, configuration, id, say};
use kontiki_raft::{
    Configuration, ConfigurationChange, ConfigurationError, Entry, Input, LogId, MemberSet, NodeId,
    Role,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A membership as a plain table: does the node vote?
type Table = BTreeMap<u64, bool>;

fn set_from(table: &Table) -> MemberSet {
    let of = |voting: bool| table.iter().filter(move |(_, votes)| **votes == voting);
    MemberSet {
        voters: of(true).map(|(&node, _)| NodeId(node)).collect(),
        learners: of(false).map(|(&node, _)| NodeId(node)).collect(),
    }
}

/// What should come of a change.
fn model(table: &Table, change: &ConfigurationChange) -> Result<Table, ConfigurationError> {
    let mut after = table.clone();
    match change {
        ConfigurationChange::AddVoter(node) => {
            after.insert(node.0, true);
        }
        ConfigurationChange::AddLearner(node) => {
            if table.get(&node.0) == Some(&true) {
                return Err(ConfigurationError::IsVoter(*node));
            }
            after.insert(node.0, false);
        }
        ConfigurationChange::Promote(node) | ConfigurationChange::Demote(node) => {
            let votes = after.get_mut(&node.0);
            let votes = votes.ok_or(ConfigurationError::NotMember(*node))?;
            *votes = matches!(change, ConfigurationChange::Promote(_));
        }
        ConfigurationChange::Remove(node) => {
            after
                .remove(&node.0)
                .ok_or(ConfigurationError::NotMember(*node))?;
        }
        ConfigurationChange::Replace(set) => {
            if set.voters.is_empty() {
                return Err(ConfigurationError::NoVoters);
            }
            if let Some(&both) = set.voters.intersection(&set.learners).next() {
                return Err(ConfigurationError::VoterAndLearner(both));
            }
            after = set.voters.iter().map(|node| (node.0, true)).collect();
            after.extend(set.learners.iter().map(|node| (node.0, false)));
        }
    }
    if !after.values().any(|&votes| votes) {
        return Err(ConfigurationError::NoVoters);
    }
    if after == *table {
        return Err(ConfigurationError::NoChange);
    }
    Ok(after)
}

fn node() -> impl Strategy<Value = NodeId> {
    (1_u64..=7).prop_map(NodeId)
}

fn table() -> impl Strategy<Value = Table> {
    prop::collection::btree_map(1_u64..=7, any::<bool>(), 1..6)
        .prop_filter("a voter", |table| table.values().any(|&votes| votes))
}

fn change() -> impl Strategy<Value = ConfigurationChange> {
    let nodes = || prop::collection::btree_set(node(), 0..5);
    // Mostly disjoint sets, sometimes not.
    let set = (nodes(), nodes(), 0..4).prop_map(|(voters, learners, keep): (BTreeSet<_>, _, _)| {
        let learners = match keep {
            0 => learners,
            _ => &learners - &voters,
        };
        MemberSet { voters, learners }
    });
    prop_oneof![
        node().prop_map(ConfigurationChange::AddVoter),
        node().prop_map(ConfigurationChange::AddLearner),
        node().prop_map(ConfigurationChange::Promote),
        node().prop_map(ConfigurationChange::Demote),
        node().prop_map(ConfigurationChange::Remove),
        set.prop_map(ConfigurationChange::Replace),
    ]
}

/// Everybody the leader sends to acknowledges everything, until nothing is left to say.
fn acknowledge_all(node: &mut Solo) {
    for _ in 0..4 {
        for peer in node.status().peers {
            if node.is_leader() {
                // A sequence beyond all that were sent stands for all of them.
                let (term, all) = (node.term(), say::append_ack(u64::MAX >> 1, node.last()));
                node.receive(peer.node.0, term, all);
            }
        }
    }
}

proptest! {
    #![proptest_config(crate::support::cases(2_000))]

    #[test]
    fn a_change_leads_where_the_model_says(table in table(), change in change()) {
        let target = change.target(&set_from(&table));
        prop_assert_eq!(target, model(&table, &change).map(|table| set_from(&table)));
    }

    /// A sequence of changes on a leader: each ends in the model's set, through a joint stage
    /// exactly if more than one voter differs, and a refused one changes nothing.
    #[test]
    fn a_leader_goes_where_the_model_says(
        start in table(),
        changes in prop::collection::vec(change(), 1..6),
    ) {
        let mut now = start;
        now.insert(1, true);
        let mut leader = Solo::leader(set_from(&now), 1, &[]);
        acknowledge_all(&mut leader);
        for change in changes {
            let before = set_from(&now);
            let token = leader.token();
            let change_input =
                Input::ChangeConfiguration { token, change: change.clone(), expected: None };
            let log_before = leader.last();
            let effects = leader.give(change_input);
            let after = match model(&now, &change) {
                Ok(after) => after,
                Err(error) => {
                    prop_assert_eq!(effects.rejection(token), Some(&error.into()));
                    prop_assert_eq!(leader.last(), log_before);
                    continue;
                }
            };
            acknowledge_all(&mut leader);
            let target = set_from(&after);
            let differing = before.voters.symmetric_difference(&target.voters).count();
            let stages = if differing > 1 { 2 } else { 1 };
            prop_assert_eq!(leader.last(), log_before + stages, "{:?} to {:?}", before, target);
            prop_assert_eq!(leader.status().configuration, Configuration::stable(target.clone()));
            prop_assert_eq!(leader.commit(), leader.last());
            now = after;
            if !now.get(&1).is_some_and(|&votes| votes) {
                prop_assert_eq!(leader.role(), Role::Follower, "removed or demoted");
                break;
            }
        }
    }

    /// A follower's log grows and is cut at random, with configurations in it: in force is the last
    /// one in the log, or the initial one; also after a restart.
    #[test]
    fn in_force_is_the_last_configuration_in_the_log(
        steps in prop::collection::vec((0_u64..12, 1_usize..5, any::<u64>()), 1..12),
    ) {
        let initial = configuration([1, 2, 3]);
        let mut follower = Solo::new(initial.current.clone());
        let mut log: Vec<Entry> = Vec::new();
        for (term, (cut, count, bits)) in (1_u64..).zip(steps) {
            log.truncate(usize::try_from(cut).expect("small"));
            let prev = log.last().map_or(LogId::default(), |entry| entry.id);
            let new: Vec<Entry> = (0..count as u64).map(|at| entry(term, prev, at, bits)).collect();
            follower.receive(2, term, say::append_of(prev, new.clone(), 0));
            log.extend(new);
            let expected = last_configuration(&log).unwrap_or_else(|| initial.clone());
            prop_assert_eq!(&follower.status().configuration, &expected);
            let disk: Image = follower.durable().clone();
            let again = Solo::open(initial.current.clone(), disk);
            prop_assert_eq!(again.status().configuration, expected);
        }
    }
}

/// The `at`-th entry after `prev`: a configuration if the bits say so.
fn entry(term: u64, prev: LogId, at: u64, bits: u64) -> Entry {
    let id = id(term, prev.index.0 + 1 + at);
    let bits = bits.rotate_right(u32::try_from(at).expect("small") * 8);
    if bits & 1 == 0 {
        return say::command(id);
    }
    let voters = (2..=5).filter(|node| bits >> node & 1 == 1).map(NodeId);
    let voters = std::iter::once(NodeId(1)).chain(voters);
    say::membership(id, Configuration::stable(MemberSet::of_voters(voters)))
}

fn last_configuration(log: &[Entry]) -> Option<Configuration> {
    log.iter().rev().find_map(|entry| match &entry.kind {
        kontiki_raft::EntryKind::Configuration(configuration) => {
            Some(configuration.as_ref().clone())
        }
        _ => None,
    })
}

/// Compare-and-set: a change that expects another membership is refused, whatever it is.
#[test]
fn a_change_that_expects_another_membership_is_refused() {
    let mut leader = Solo::leader(crate::support::voters([1, 2, 3]), 1, &[]);
    leader.settle();
    for (expected, refused) in [([1, 2, 4], true), ([1, 2, 3], false)] {
        let token = leader.token();
        let expected = Some(crate::support::voters(expected));
        let change = crate::support::change::remove(3);
        let effects = leader.give(Input::ChangeConfiguration {
            token,
            change,
            expected,
        });
        let reason = ConfigurationError::Unexpected.into();
        assert_eq!(effects.rejection(token) == Some(&reason), refused);
    }
}
