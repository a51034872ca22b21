//! Arithmetic of majorities, single and joint (Raft §6).

use alloc::vec::Vec;

/// Voters that make a majority of `voters`; more than there are if there are none.
pub(crate) const fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// Voters for which the values fit on the stack.
const STACK_MAX: usize = 16;

/// The greatest value that a majority has reached, if each voter reached the value it reports.
/// Nothing for an empty set: without voters nothing is agreed.
pub(crate) fn agreed<T: Ord + Copy>(values: impl Iterator<Item = T> + Clone) -> Option<T> {
    let first = values.clone().next()?;
    let mut stack = [first; STACK_MAX];
    let mut count = 0;
    for value in values.clone() {
        match stack.get_mut(count) {
            Some(slot) => *slot = value,
            None => return agreed_on_heap(values.collect()),
        }
        count += 1;
    }
    Some(reached_by_majority(&mut stack[..count]))
}

fn agreed_on_heap<T: Ord + Copy>(mut values: Vec<T>) -> Option<T> {
    (!values.is_empty()).then(|| reached_by_majority(&mut values))
}

/// `values` is not empty.
fn reached_by_majority<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() - majority(values.len())]
}

/// What is agreed jointly: the lesser of what each set agreed on, where both exist.
pub(crate) fn agreed_jointly<T: Ord>(current: Option<T>, old: Option<Option<T>>) -> Option<T> {
    match old {
        None => current,
        Some(old) => Some(current?.min(old?)),
    }
}

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Won,
    Lost,
    Open,
}

/// How a vote stands in one set, given its size and how many said yes and no.
pub(crate) fn outcome(voters: usize, yes: usize, no: usize) -> Outcome {
    if yes >= majority(voters) {
        Outcome::Won
    } else if voters - no.min(voters) < majority(voters) {
        Outcome::Lost
    } else {
        Outcome::Open
    }
}

impl Outcome {
    /// Both sets must be won; one lost set loses.
    pub(crate) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Lost, _) | (_, Self::Lost) => Self::Lost,
            (Self::Won, Self::Won) => Self::Won,
            _ => Self::Open,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The slow obvious model: the greatest reported value that at least a majority has reached.
    fn model(values: &[u64]) -> Option<u64> {
        let reached = |v: u64| values.iter().filter(|&&x| x >= v).count();
        values
            .iter()
            .copied()
            .filter(|&v| reached(v) > values.len() / 2)
            .max()
    }

    proptest! {
        #[test]
        fn agreed_equals_the_model(values in prop::collection::vec(0u64..20, 0..24)) {
            prop_assert_eq!(agreed(values.iter().copied()), model(&values));
        }

        #[test]
        fn outcome_never_turns(voters in 1usize..10, yes in 0usize..10, no in 0usize..10) {
            prop_assume!(yes + no <= voters);
            match outcome(voters, yes, no) {
                Outcome::Won => prop_assert!(2 * yes > voters),
                // Even if all the others said yes it would be no majority.
                Outcome::Lost => prop_assert!(2 * (voters - no) <= voters),
                Outcome::Open => prop_assert!(2 * yes <= voters && 2 * (voters - no) > voters),
            }
        }
    }

    #[test]
    fn an_empty_set_agrees_on_nothing() {
        assert_eq!(agreed(core::iter::empty::<u64>()), None);
        assert_eq!(agreed_jointly(Some(3), Some(None)), None);
        assert_eq!(outcome(0, 0, 0), Outcome::Lost);
    }

    #[test]
    fn joint_agreement_is_the_lesser() {
        assert_eq!(agreed_jointly(Some(3), Some(Some(2))), Some(2));
        assert_eq!(agreed_jointly(Some(3), None), Some(3));
    }
}
