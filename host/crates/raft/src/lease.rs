//! Leases (thesis §6.4.1; braft's leader and follower lease).
//!
//! A follower that heard its leader at `t` refuses every vote until `t` + election timeout + clock
//! drift. A leader whose message, *sent* at `t`, was answered by a quorum may therefore count on
//! being the only one until `t` + election timeout. Both count on their own monotonic clock.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{
    Effect, Effects, Instant, LeaseStatus, LogIndex, NodeId, Recovered, RejectReason, Settings,
    Term, Token,
};
use core::time::Duration;

/// What a follower owes a leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowerLease {
    /// Whose it is; unknown after a restart.
    pub(crate) holder: Option<(NodeId, Term)>,
    /// No vote before this moment.
    pub(crate) until: Instant,
}

impl FollowerLease {
    /// After a restart nobody knows what was promised just before, so a full lease is assumed;
    /// except by a replica that never took part in anything (trap 38, braft's "only if term 1").
    pub(crate) fn after_start(settings: &Settings, recovered: &Recovered, now: Instant) -> Self {
        let is_new = recovered.hard_state.term == Term(0)
            && recovered.last.index == LogIndex(0)
            && recovered.snapshot.is_none();
        let until = if is_new {
            now
        } else {
            now.plus(settings.election_timeout + settings.max_clock_drift)
        };
        Self {
            holder: None,
            until,
        }
    }
}

impl Core {
    /// A leader of the present term has spoken: the lease runs from now.
    pub(crate) fn extend_lease(&mut self, leader: NodeId) {
        let mut span = self.settings.election_timeout + self.settings.max_clock_drift;
        if self.bug(PlantedBug::LeaseWithoutDrift) {
            span = self.settings.election_timeout / 2;
        }
        // Never shortened: the timers may have been changed since an earlier promise.
        let until = self.now.plus(span);
        let same = self.lease.holder == Some((leader, self.hard.term));
        self.lease.until = if same {
            self.lease.until.max(until)
        } else {
            until
        };
        self.lease.holder = Some((leader, self.hard.term));
    }

    /// Whether this node must not vote now. `disrupted` names a leader that is known to have stood
    /// down: what was promised to it is void.
    pub(crate) fn is_bound_by_lease(&self, disrupted: Option<(NodeId, Term)>) -> bool {
        let released = self.lease.holder.is_some() && self.lease.holder == disrupted;
        self.settings.leader_lease && self.now < self.lease.until && !released
    }

    /// State of the leader lease at `now`; looking changes nothing.
    #[must_use]
    pub fn lease_status(&self, now: Instant) -> LeaseStatus {
        if !self.settings.leader_lease {
            return LeaseStatus::Disabled;
        }
        let Some(leading) = self.leading.as_deref() else {
            return LeaseStatus::Expired;
        };
        if leading.transfer.is_some() && !self.bug(PlantedBug::LeaseKeptAcrossTransfer) {
            return LeaseStatus::Expired;
        }
        if !leading.ready {
            return LeaseStatus::NotReady;
        }
        let span = self.settings.election_timeout;
        let agreed = if self.bug(PlantedBug::LeaseFromAckTime) {
            leading.agreed(Some(now), |peer| peer.last_answer).flatten()
        } else {
            leading.quorum_sent_at(now)
        };
        match agreed {
            Some(sent_at) if now < sent_at.plus(span) => LeaseStatus::Valid,
            _ => LeaseStatus::Expired,
        }
    }

    /// Changes the timers of a running replica (braft's `reset_election_timeout_ms` in both
    /// forms). Under leases every member must be changed: the sum first where it grows, last where
    /// it shrinks.
    pub(crate) fn on_set_timeouts(
        &mut self,
        token: Token,
        election_timeout: Duration,
        max_clock_drift: Option<Duration>,
        out: &mut Effects,
    ) {
        let sum = self.settings.election_timeout + self.settings.max_clock_drift;
        let drift = match max_clock_drift {
            Some(drift) => Some(drift),
            None => sum.checked_sub(election_timeout),
        };
        let Some(drift) = drift else {
            let why = "the election timeout exceeds the sum of election timeout and clock drift";
            return Self::reject(token, RejectReason::Invalid(why), out);
        };
        let changed = Settings {
            election_timeout,
            max_clock_drift: drift,
            ..self.settings.clone()
        };
        if changed.check().is_err() || drift > DRIFT_MAX {
            let why =
                "the election timeout must be 20 ms to 10 min, the clock drift at most 10 min";
            return Self::reject(token, RejectReason::Invalid(why), out);
        }
        self.settings = changed;
        self.restart_timers();
        out.push(Effect::Done { token });
    }

    fn restart_timers(&mut self) {
        match self.leading.as_deref_mut() {
            Some(leading) => {
                leading.heartbeat_due = self.now;
                leading.quorum_due = self.now;
            }
            None => self.reset_election_timer(),
        }
    }
}

/// More drift than this is no drift.
const DRIFT_MAX: Duration = Duration::from_secs(600);
