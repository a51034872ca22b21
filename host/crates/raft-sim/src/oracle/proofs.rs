//! Every invariant can be broken, and a test shows that it is found: an invariant that nothing
//! breaks may be one that nothing checks.

use super::testing::take_broken;
use super::{Invariant, commit, election, events, log, messages, requests};
use crate::{run, witness, world};

/// A test that breaks the invariant.
fn proof(invariant: Invariant) -> fn() {
    match invariant {
        Invariant::ElectionSafety => election::tests::two_leaders_of_one_term_are_found,
        Invariant::VoteQuorum => election::tests::a_leader_without_durable_votes_is_found,
        Invariant::LogMatching => log::tests::log_matching_finds_two_entries_of_one_position,
        Invariant::LeaderCompleteness => {
            election::tests::a_leader_that_lacks_a_committed_entry_is_found
        }
        Invariant::StateMachineSafety => commit::tests::replicas_whose_states_differ_are_found,
        Invariant::CommittedForEver => log::tests::a_committed_entry_may_not_be_truncated,
        Invariant::DurableQuorum => commit::tests::a_commit_without_durable_copies_is_found,
        Invariant::OwnTerm => commit::tests::a_commit_by_counting_an_older_term_is_found,
        Invariant::Monotonic => election::tests::a_term_or_commit_index_that_goes_back_is_found,
        Invariant::VoteOnce => log::tests::a_second_vote_is_found_on_disk_after_a_crash,
        Invariant::DurableBeforeReply => messages::tests::a_term_that_is_not_durable_is_found,
        Invariant::AppendAcknowledged => messages::tests::an_acknowledgement_before_sync_is_found,
        Invariant::IndexOrder => log::tests::a_reset_before_the_snapshot_is_there_is_found,
        Invariant::ConfigurationSafety => log::tests::two_voters_at_once_need_a_joint_stage,
        Invariant::AppliedConfiguration => {
            events::tests::a_configuration_the_log_does_not_hold_is_found
        }
        Invariant::LeaseExclusive => {
            election::tests::a_lease_that_outlives_the_next_election_is_found
        }
        Invariant::LeasePromise => {
            messages::tests::a_vote_soon_after_a_restart_under_leases_is_found
        }
        Invariant::ReadIndex => requests::tests::a_stale_read_is_found,
        Invariant::ReadConfirmed => {
            requests::tests::a_read_confirmed_by_answers_from_before_it_is_found
        }
        Invariant::PreVote => messages::tests::a_promise_of_an_older_round_does_not_count,
        Invariant::MatchIndex => log::tests::a_copy_that_is_counted_but_not_there_is_found,
        Invariant::ReadBeforeCommit => {
            messages::tests::a_read_index_before_the_first_own_commit_is_found
        }
        Invariant::RealTimeOrder => {
            requests::tests::a_write_that_comes_before_what_was_completed_is_found
        }
        Invariant::SnapshotOrder => commit::tests::a_snapshot_that_goes_back_or_lies_is_found,
        Invariant::StaleMessage => world::tests::a_late_message_that_raises_the_term_is_found,
        Invariant::Restart => log::tests::a_hole_on_disk_is_found,
        Invariant::Bounded => world::tests::every_limit_that_is_exceeded_is_found,
        Invariant::AnsweredOnce => requests::tests::a_second_answer_is_found,
        Invariant::Outcome => requests::tests::a_refused_write_that_is_committed_is_found,
        Invariant::LeaderEvents => events::tests::a_stop_without_a_start_is_found,
        Invariant::Transfer => messages::tests::a_transfer_to_a_node_that_lags_is_found,
        Invariant::ReadOnly => {
            log::tests::a_command_taken_while_too_few_voters_are_writable_is_found
        }
        Invariant::Drained => {
            messages::tests::a_drained_node_that_campaigns_while_others_may_is_found
        }
        Invariant::Rightful => world::tests::leadership_that_goes_back_and_forth_is_found,
        Invariant::Linearizable => world::tests::a_stale_value_is_found_by_values_and_times_alone,
        Invariant::Liveness => world::tests::a_core_that_cannot_talk_is_not_live,
        Invariant::Stability => world::tests::a_leader_that_is_deposed_afterwards_is_found,
        Invariant::Contract => log::tests::writes_are_numbered_and_entries_consecutive,
        Invariant::Panic => run::tests::a_panic_is_found,
        Invariant::Determinism => witness::tests::another_hash_or_none_is_found,
    }
}

#[test]
fn every_invariant_is_broken_by_a_test() {
    for invariant in Invariant::ALL.iter().copied() {
        take_broken();
        proof(invariant)();
        let broken = take_broken();
        assert!(
            broken.contains(&invariant),
            "the test of {invariant:?} breaks {broken:?}"
        );
    }
}
