//! Deliberate faults, with which the simulator proves that it would find them.
#![cfg_attr(
    not(feature = "planted-bugs"),
    allow(unreachable_pub, dead_code, reason = "public only with the feature")
)]

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A deliberate fault; the numbers are those of the traps in the design's reference.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PlantedBug {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "planted-bugs")]
        impl PlantedBug {
            /// Every one of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
        }
    };
}

bugs! {
    /// Commits an entry of an older term by counting copies (trap 1).
    CountOldTermEntries,
    /// A follower acknowledges entries before they are durable (trap 20).
    AckBeforeSync,
    /// Vote requests and votes leave before term and vote are durable (trap 20).
    VoteBeforeDurable,
    /// A voter gives its vote to everyone who asks in a term (trap 38).
    VoteTwice,
    /// Voters, and the leader, grant votes while a live leader is known (trap 15).
    NoPreVoteRefusal,
    /// Term and vote are never written (trap 21).
    TermOnlyInMemory,
    /// In a joint configuration the new half alone commits (trap 5).
    CommitByOneHalf,
    /// Learners count for commit (trap 37).
    LearnerCounted,
    /// A second membership change is taken while the first is not committed (trap 2).
    SecondChangeEarly,
    /// Answers of an older term move the match index (trap 24).
    StaleTermReply,
    /// The log's suffix is dropped even where it matches (trap 25).
    TruncateMatching,
    /// What is durable is applied before it is committed (trap 39).
    ApplyBeforeCommit,
    /// A follower takes the leader's commit index for entries it has not compared (trap 25).
    CommitUncapped,
    /// The follower's lease is shorter than the leader's (trap 12).
    LeaseWithoutDrift,
    /// The leader's lease counts from the answer instead of the question (trap 11).
    LeaseFromAckTime,
    /// The lease stays valid while the target of a transfer is told that it is void (trap 13).
    LeaseKeptAcrossTransfer,
    /// A read is confirmed by answers to a round that began before it (trap 9).
    ReadRoundReused,
    /// Reads are served before an entry of the leader's term is committed (trap 8).
    ReadBeforeOwnCommit,
    /// A snapshot older than what is applied is fetched and installed (trap 27).
    OldSnapshotInstalled,
    /// The membership of a log that a snapshot replaced stays in force (trap 26).
    MembershipKeptAfterSnapshot,
    /// A completed write vouches for its last index, even if that was cut meanwhile (trap 22).
    AckByIndexOnly,
    /// The leader counts its own copy before it is durable (trap 23).
    CountOwnBeforeFlush,
    /// Stepping down in the same term forgets the vote (trap 19).
    VoteForgottenOnStepDown,
    /// A pre-vote answer counts for whatever round is running (trap 17).
    StalePreVoteCounts,
    /// What a lost leadership had not committed still counts against the limit (trap 36).
    QuotaKept,
    /// A transfer's target is told to campaign before it holds the whole log (trap 33).
    TransferToLagging,
    /// A leader that removed itself goes on leading (trap 7).
    RemovedLeaderContinues,
    /// A restarted voter forgets the lease it may owe (trap 11).
    LeaseForgottenOnRestart,
    /// The leader's lease lasts for its own election timeout, whatever its followers promised.
    LeaseFromOwnTimeout,
    /// The span promised to a leader is not on record after a restart.
    PromiseNotRecorded,
    /// Read-only needs the leader *and* the majority to be read-only (trap 43).
    ReadOnlyAnd,
    /// The membership may change before an entry of the leader's term is committed (trap 2).
    ChangeBeforeOwnCommit,
    /// Only the leader's own read-only mode counts, not that of too many followers (trap 43).
    ReadOnlyMajorityIgnored,
    /// Appends go on though the bytes in flight exceed their window.
    ByteWindowIgnored,
    /// Entries stay in memory though they are durable and more than the limit.
    CacheNeverEvicted,
    /// Proposals are taken though the backlog is full.
    BacklogUnlimited,
    /// The log begins anew when a snapshot is offered, not when it is there (trap 26).
    ResetBeforeInstall,
    /// A node that is no member can depose the leader by an answer of a higher term.
    StrangerHeeded,
    /// A vote asked for again makes the voter wait anew (trap 18).
    RepeatedVoteEarnsTime,
    /// A drained node campaigns at the first election timeout like any other.
    DrainedCampaigns,
    /// A leader hands over to members of its own priority too.
    TakeoverByEquals,
    /// Nobody looks at how far a member has applied: one that replays may lead.
    LagIgnored,
}

#[cfg(feature = "planted-bugs")]
impl PlantedBug {
    pub(crate) const fn bit(self) -> u64 {
        1 << self as u64
    }
}

#[cfg(feature = "planted-bugs")]
impl crate::Core {
    /// Switches a deliberate fault on, for as long as this value lives. Plant it directly after
    /// [`Core::new`](crate::Core::new), before the first input.
    pub fn plant(&mut self, bug: PlantedBug) {
        self.planted |= bug.bit();
        if bug == PlantedBug::LeaseForgottenOnRestart {
            self.lease.until = self.now;
        }
    }
}
