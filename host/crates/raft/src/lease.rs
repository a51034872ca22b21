//! Leases (thesis §6.4.1; braft's leader and follower lease).
//!
//! # What is promised
//!
//! A follower with leases on that hears its leader votes for nobody until its *promised span* is
//! over, counted on its own clock from when it heard. The span is its own election timeout `T_f`
//! plus its own clock drift `D_f`. It says both in the answer ([`LeasePromise`]); with leases off
//! it promises nothing and says nothing. An answer without a promise, also one of a peer that does
//! not know the field, counts for no lease: such a leader confirms its reads by rounds.
//!
//! # What a leader counts on
//!
//! Let the leader have sent a message at `s` on its own clock, with timeout `T` and drift `D` in
//! force now. A member that answered it with `(span, D_f)` counts until
//! `s + min(T, span - max(D, D_f))`, the leader itself for as long as it leads. The lease is valid
//! before the latest moment that a majority of each set in force reaches
//! ([`Leading::lease_end`](crate::leading::Leading::lease_end)).
//!
//! # Why no two leases are valid at once
//!
//! *One member.* It heard the message no earlier than `s` in real time, and is bound for `span` on
//! its clock. The leader waits `span - drift` at most on its own, with a drift no shorter than the
//! one that the *promising* node reserves for a span of `T_f`. So the leader's wait is over first
//! as long as each node's drift covers what clocks may differ by within that node's *own* timeout.
//! Nothing is asked of the two nodes' settings together.
//!
//! *A quorum.* A valid lease at `t` means a quorum of each set whose members are bound at `t`.
//! Whoever is elected has a vote of one of them, which was given while bound by nothing: so not
//! before the lease is over. A member bound to a leader that is known to have stood down may vote
//! (`disrupted`); a leader that stood down has no lease.
//!
//! *Changes at run time.* The leader's own `T` and `D` are taken as they are when the lease is
//! looked at, the follower's as they were when it promised, and a promise once given is never
//! shortened ([`Core::extend_lease`]):
//! - the leader's timeout grows: `min` still takes what was promised; it shrinks: less is claimed;
//! - a follower's sum shrinks: it goes on honouring the longer promise, and the leader counts the
//!   shorter; it grows: the leader counts more only from answers given since;
//! - drift: the longer of the two nodes' is taken off, so a leader that was told last of a longer
//!   drift, or first of a shorter one, is bound by the other's word;
//! - leases are switched on at some members only: those off promise nothing, and count for nothing;
//!   switched off at a member that has promised: no new promise, the old one is kept, since what
//!   binds is the promise and not the setting.
//!
//! So settings may differ between members, and change in any order.
//!
//! *Another leader.* A follower that hears a leader of another term forgets what it promised the
//! earlier one: by the argument above that lease was over before this leader was elected.
//!
//! *Joint configurations.* The end is that of the earlier of both sets, as for any quorum there.
//!
//! *Restart.* What was promised is forgotten, so a full promise is assumed from the moment of the
//! restart, by whom is not known. Its length is that of the longest span that may still run: it is
//! durable before the first answer that promises it ([`Persist::promised_span`](crate::Persist)),
//! since the configuration may say less by then. The record shrinks only when every longer promise
//! is over. A leader heard after the restart may be the one that was promised more, so the assumed
//! promise is kept beside what it is promised now.

use crate::core::Core;
use crate::planted::PlantedBug;
use crate::{
    Effect, Effects, Instant, LeasePromise, LeaseStatus, LogIndex, NodeId, Recovered, RejectReason,
    Settings, Term, Token,
};
use core::time::Duration;

/// What a follower owes a leader.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowerLease {
    /// Whose it is; unknown after a restart.
    pub(crate) holder: Option<(NodeId, Term)>,
    /// No vote before this moment.
    pub(crate) until: Instant,
    /// The span on record: no promise that may still run is longer.
    recorded: Duration,
}

impl FollowerLease {
    /// After a restart nobody knows what was promised just before, so the longest promise is
    /// assumed; except by a replica that never took part in anything (trap 38, braft's "only if
    /// term 1").
    pub(crate) fn after_start(settings: &Settings, recovered: &Recovered, now: Instant) -> Self {
        let is_new = recovered.hard_state.term == Term(0)
            && recovered.last.index == LogIndex(0)
            && recovered.snapshot.is_none();
        let recorded = recovered.promised_span.unwrap_or_default();
        // The record is missing if it was an earlier version that promised.
        let configured = settings.lease_promise().filter(|_| !is_new);
        let span = configured.map_or(recorded, |promise| promise.span.max(recorded));
        Self {
            holder: None,
            until: now.plus(span),
            recorded,
        }
    }
}

impl Settings {
    /// What a follower with these settings promises whatever leader it hears.
    fn lease_promise(&self) -> Option<LeasePromise> {
        self.leader_lease.then(|| LeasePromise {
            span: self.election_timeout + self.max_clock_drift,
            drift: self.max_clock_drift,
        })
    }
}

impl Core {
    /// What is promised with the answer to a message of the leader.
    pub(crate) fn promise(&self) -> Option<LeasePromise> {
        self.settings.lease_promise()
    }

    /// A leader of the present term has spoken: if leases are on, the promise runs from now.
    pub(crate) fn extend_lease(&mut self, leader: NodeId) {
        let Some(LeasePromise { mut span, .. }) = self.promise() else {
            return;
        };
        if self.bug(PlantedBug::LeaseWithoutDrift) {
            span = self.settings.election_timeout / 2;
        }
        let holder = Some((leader, self.hard.term));
        let is_void = self.lease.holder.is_some() && self.lease.holder != holder;
        let standing = if is_void { self.now } else { self.lease.until };
        let until = self.now.plus(span);
        self.record_promise(span, standing <= until);
        self.lease.until = until.max(standing);
        self.lease.holder = holder;
    }

    /// Puts a longer span on record, before the answer that promises it leaves; or a shorter one,
    /// if nothing longer is owed any more.
    fn record_promise(&mut self, span: Duration, longer_are_over: bool) {
        let recorded = self.lease.recorded;
        let changes = span > recorded || span < recorded && longer_are_over;
        if changes && !self.bug(PlantedBug::PromiseNotRecorded) {
            self.lease.recorded = span;
            self.disk.stage_promise(span);
        }
    }

    /// Whether this node must not vote now. `disrupted` names a leader that is known to have stood
    /// down: what was promised to it is void. The setting does not matter: what was promised before
    /// it was switched off is kept.
    pub(crate) fn is_bound_by_lease(&self, disrupted: Option<(NodeId, Term)>) -> bool {
        let released = self.lease.holder.is_some() && self.lease.holder == disrupted;
        self.now < self.lease.until && !released
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
        match self.lease_end(now) {
            Some(end) if now < end => LeaseStatus::Valid,
            _ => LeaseStatus::Expired,
        }
    }

    fn lease_end(&self, now: Instant) -> Option<Instant> {
        let leading = self.leading.as_deref()?;
        let own = self.settings.election_timeout;
        if self.bug(PlantedBug::LeaseFromAckTime) {
            let answered = leading.agreed(Some(now), |peer| peer.last_answer);
            return Some(answered.flatten()?.plus(own));
        }
        if self.bug(PlantedBug::LeaseFromOwnTimeout) {
            let fresh = |at: &Instant| *at >= leading.lease_from;
            let sent = leading.agreed(Some(now), |peer| peer.acked_sent_at.filter(fresh));
            return Some(sent.flatten()?.plus(own));
        }
        leading.lease_end(&self.settings, now)
    }

    /// Changes the timers of a running replica (braft's `reset_election_timeout_ms` in both forms).
    pub(crate) fn on_set_timeouts(
        &mut self,
        token: Token,
        election_timeout: Duration,
        max_clock_drift: Option<Duration>,
        out: &mut Effects,
    ) {
        let changed = self
            .settings
            .with_timeouts(election_timeout, max_clock_drift);
        match changed {
            Ok(settings) => self.on_set_settings(token, settings, out),
            Err(error) => Self::reject(token, RejectReason::Settings(error), out),
        }
    }

    /// Puts these settings in force, all at once or not at all.
    pub(crate) fn on_set_settings(&mut self, token: Token, settings: Settings, out: &mut Effects) {
        if let Err(error) = settings.check() {
            return Self::reject(token, RejectReason::Settings(error), out);
        }
        let timers = |s: &Settings| {
            (
                s.election_timeout,
                s.election_spread_max,
                s.heartbeat_factor,
            )
        };
        let new_timers = timers(&settings) != timers(&self.settings);
        let new_priority = settings.priority != self.settings.priority;
        self.settings = settings;
        if new_priority {
            self.on_new_priority();
        }
        if new_timers {
            self.restart_timers();
        }
        out.push(Effect::Done { token });
    }

    /// Starts all timers anew. Silence counts from now: a leader given a shorter timeout has heard
    /// from nobody within it yet.
    fn restart_timers(&mut self) {
        let (now, timeout) = (self.now, self.settings.election_timeout);
        match self.leading.as_deref_mut() {
            Some(leading) => {
                leading.heartbeat_due = now;
                leading.upkeep_due = now;
                leading.quorum_due = now.plus(timeout);
                leading.silence_from = now;
            }
            None => self.reset_election_timer(),
        }
    }
}
