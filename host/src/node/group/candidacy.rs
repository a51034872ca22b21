//! How the elections end that a replica starts, told from its role and term.

use crate::metrics::ElectionResult;
use kontiki_raft::{Input, Role, Term};

/// What made the core act, as far as it matters to an election.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Time has passed.
    Time,
    /// A peer spoke, or something was written.
    Others,
    /// An order: of an operator, or of the node that makes or ends the group.
    Order,
}

impl Cause {
    pub(super) fn of(input: &Input) -> Self {
        match input {
            Input::Tick => Self::Time,
            Input::Campaign { .. } | Input::ResetPeers { .. } | Input::Shutdown => Self::Order,
            _ => Self::Others,
        }
    }
}

/// The election under way, by its term. Pre-votes are none: they change nothing.
#[derive(Debug, Default)]
pub(super) struct Candidacy(Option<Term>);

impl Candidacy {
    /// After each input: how the election ended that the input ended, if it did.
    pub(super) fn after(&mut self, cause: Cause, role: Role, term: Term) -> Option<ElectionResult> {
        let running = (role == Role::Candidate).then_some(term);
        let before = std::mem::replace(&mut self.0, running);
        let ended = before.filter(|_| before != running)?;
        Some(match (role, cause) {
            (Role::Leader | Role::Transferring, _) if term == ended => ElectionResult::Won,
            (Role::Stopped, _) | (_, Cause::Order) => ElectionResult::Abandoned,
            (_, Cause::Time) => ElectionResult::TimedOut,
            _ => ElectionResult::Lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The result after a candidacy in term 5.
    fn after(cause: Cause, role: Role, term: u64) -> Option<ElectionResult> {
        let mut candidacy = Candidacy::default();
        assert_eq!(
            candidacy.after(Cause::Time, Role::PreCandidate, Term(4)),
            None
        );
        assert_eq!(
            candidacy.after(Cause::Others, Role::Candidate, Term(5)),
            None
        );
        assert_eq!(
            candidacy.after(Cause::Others, Role::Candidate, Term(5)),
            None
        );
        candidacy.after(cause, role, Term(term))
    }

    #[test]
    fn each_way_to_end_an_election_is_told() {
        use ElectionResult::{Abandoned, Lost, TimedOut, Won};
        let table = [
            (Cause::Others, Role::Leader, 5, Won),
            (Cause::Others, Role::Follower, 5, Lost),
            (Cause::Others, Role::Follower, 6, Lost),
            (Cause::Time, Role::Candidate, 6, TimedOut),
            (Cause::Time, Role::PreCandidate, 5, TimedOut),
            (Cause::Time, Role::Follower, 5, TimedOut),
            (Cause::Order, Role::Candidate, 6, Abandoned),
            (Cause::Others, Role::Stopped, 5, Abandoned),
        ];
        for (cause, role, term, result) in table {
            assert_eq!(after(cause, role, term), Some(result), "{role:?} {term}");
        }
    }

    #[test]
    fn a_replica_that_is_no_candidate_ends_no_election() {
        let mut candidacy = Candidacy::default();
        for (role, term) in [(Role::Follower, 1), (Role::Leader, 2), (Role::Follower, 3)] {
            assert_eq!(candidacy.after(Cause::Others, role, Term(term)), None);
        }
    }
}
