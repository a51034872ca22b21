//! Events must pair and agree with the role.

use super::{Check, Oracle};
use crate::members::Members;
use crate::require;
use kontiki_raft::{Event, Role};

impl Oracle {
    /// A replica reports an event.
    ///
    /// # Errors
    /// It does not pair with the one before, or is not true.
    pub fn event(&mut self, n: usize, event: &Event) -> Check {
        match event {
            Event::LeaderStarted { term, lease_epoch } => {
                let replica = &mut self.replicas[n];
                let (view, epoch) = (replica.view, replica.lease_epoch);
                require!(
                    replica.leading.is_none() && view.term == *term && *lease_epoch > epoch,
                    LeaderEvents,
                    "node {} starts to lead {term} (epoch {lease_epoch}) after epoch {epoch}, leading {:?}, at {view:?}",
                    replica.node,
                    replica.leading
                );
                replica.leading = Some((*term, *lease_epoch));
                replica.lease_epoch = *lease_epoch;
                require!(
                    replica.written.term_at(view.commit) == Some(*term),
                    LeaderEvents,
                    "node {} starts to lead {term} before an entry of its term is committed",
                    replica.node
                );
                Ok(())
            }
            Event::LeaderStopped { term, .. } => {
                let replica = &mut self.replicas[n];
                let leading = replica.leading.take();
                require!(
                    leading.is_some_and(|(started, _)| started == *term),
                    LeaderEvents,
                    "node {} stops to lead {term}, but it started {leading:?}",
                    replica.node
                );
                Ok(())
            }
            Event::StartedFollowing { leader, term } => {
                let replica = &mut self.replicas[n];
                let following = replica.following.replace((*leader, *term));
                // Whoever led before it is void by now, else this one had not been elected.
                replica.bound_until = 0;
                require!(
                    following.is_none() && *leader != replica.node,
                    LeaderEvents,
                    "node {} starts to follow {leader} of {term} while following {following:?}",
                    replica.node
                );
                Ok(())
            }
            Event::StoppedFollowing { leader, term, .. } => {
                let replica = &mut self.replicas[n];
                let following = replica.following.take();
                require!(
                    following == Some((*leader, *term)),
                    LeaderEvents,
                    "node {} stops to follow {leader} of {term}, but it followed {following:?}",
                    replica.node
                );
                Ok(())
            }
            Event::ConfigurationCommitted {
                index,
                configuration,
            } => {
                // What a forced membership overrides is committed all the same.
                if *index <= self.replicas[n].forced_upto {
                    return Ok(());
                }
                let known = self.replicas[n].members_at(*index);
                require!(
                    known == Members::of(configuration) && known.old.is_none(),
                    AppliedConfiguration,
                    "node {} reports {configuration:?} as committed at {index}, its log says {known:?}",
                    self.replicas[n].node
                );
                Ok(())
            }
            Event::SecondLeader { other, term } => {
                require!(
                    false,
                    ElectionSafety,
                    "node {} saw {other} lead in its own term {term}",
                    self.replicas[n].node
                );
                Ok(())
            }
            Event::Conflict { from, index } => {
                require!(
                    false,
                    CommittedForEver,
                    "node {}: {from} contradicts what is committed at {index}",
                    self.replicas[n].node
                );
                Ok(())
            }
            Event::TakeoverStarted { .. } | Event::Removed | Event::Failed { .. } => Ok(()),
        }
    }

    pub(super) fn check_roles(&self, n: usize) -> Check {
        let replica = &self.replicas[n];
        let view = replica.view;
        let started = replica.leading.map(|(term, _)| term);
        require!(
            started.is_none() || (view.role == Role::Leader && started == Some(view.term)),
            LeaderEvents,
            "node {} started to lead {started:?} and did not stop, but is {:?} of {}",
            replica.node,
            view.role,
            view.term
        );
        require!(
            view.role != Role::Leader
                || started.is_some()
                || replica.written.term_at(view.commit) != Some(view.term),
            LeaderEvents,
            "node {} leads {} and has committed {}, but did not report that it started",
            replica.node,
            view.term,
            view.commit
        );
        if let Some((leader, term)) = replica.following {
            require!(
                view.role == Role::Follower && view.leader == Some(leader) && view.term == term,
                LeaderEvents,
                "node {} follows {leader} of {term} by its events, but shows {view:?}",
                replica.node
            );
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Invariant;
    use super::super::testing::*;
    use super::*;
    use kontiki_raft::{LogIndex, NodeId, StopReason, Term};

    fn started(term: u64, lease_epoch: u64) -> Event {
        Event::LeaderStarted {
            term: Term(term),
            lease_epoch,
        }
    }

    #[test]
    fn leading_starts_once_and_only_after_a_commit() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        assert_breaks(oracle.event(0, &started(1, 1)), Invariant::LeaderEvents);
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        oracle.event(0, &started(1, 2)).unwrap_err();
    }

    #[test]
    pub(in crate::oracle) fn a_stop_without_a_start_is_found() {
        let mut oracle = three();
        let stopped = Event::LeaderStopped {
            term: Term(1),
            reason: StopReason::HigherTerm,
        };
        assert_breaks(oracle.event(0, &stopped), Invariant::LeaderEvents);
        let stopped = Event::StoppedFollowing {
            leader: NodeId(2),
            term: Term(1),
            reason: StopReason::HigherTerm,
        };
        assert_breaks(oracle.event(0, &stopped), Invariant::LeaderEvents);
    }

    #[test]
    fn a_start_that_is_not_stopped_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        oracle.begin(0, view(Role::Follower, 2, 1)).unwrap();
        let left = oracle.finish(0);
        assert_breaks(left, Invariant::LeaderEvents);
    }

    #[test]
    pub(in crate::oracle) fn a_configuration_the_log_does_not_hold_is_found() {
        let mut oracle = three();
        lead(&mut oracle, 0, 1);
        commit_one(&mut oracle);
        let event = Event::ConfigurationCommitted {
            index: LogIndex(1),
            configuration: members(&[1, 2]).to_configuration(),
        };
        assert_breaks(oracle.event(0, &event), Invariant::AppliedConfiguration);
    }
}
