//! What can be wrong.

use std::fmt;

/// Whether everything checked was right.
pub type Check = Result<(), Box<Violation>>;

macro_rules! invariants {
    ($($name:ident: $text:literal,)*) => {
        /// What must always hold.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Invariant {
            $(#[doc = $text] $name,)*
        }

        impl Invariant {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The rule in words.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

invariants! {
    ElectionSafety: "at most one leader per term (Raft Figure 3)",
    VoteQuorum: "a leader holds durable votes of a quorum of every set in force",
    LogMatching: "entries of equal index and term are equal, and so is all before them (Raft Figure 3)",
    LeaderCompleteness: "a leader holds every entry committed before its term (Raft Figure 3)",
    StateMachineSafety: "all replicas apply the same entry at an index, and only committed ones",
    CommittedForEver: "a committed entry never changes or vanishes",
    DurableQuorum: "commit only with durable copies on a quorum of every set in force",
    OwnTerm: "only a leader commits first, and only by an entry of its own term (Raft §5.4.2)",
    Monotonic: "term, vote, commit, applied and snapshot index never go back",
    VoteOnce: "one vote per term, also across a crash",
    DurableBeforeReply: "term and vote are durable before a message that shows them leaves",
    AppendAcknowledged: "an append is acknowledged only when durable and equal to the leader's log",
    IndexOrder: "log start <= snapshot <= applied <= commit <= last",
    ConfigurationSafety: "one uncommitted change at a time, consecutive quorums intersect, no removed node leads",
    AppliedConfiguration: "a configuration reported or saved is the one of the log at that index",
    LeaseExclusive: "no two nodes hold a valid lease at one moment, and none while a newer leader leads",
    LeasePromise: "a restarted voter keeps the lease it may have granted before",
    ReadIndex: "a read sees everything completed before it began",
    ReadConfirmed: "a read by quorum is confirmed by answers given after it was asked",
    PreVote: "an unforced candidate was promised a quorum of votes in its last round",
    MatchIndex: "what a leader counts for a follower of its term is durable there, and equal",
    ReadBeforeCommit: "no read before the leader's first commit of its term",
    RealTimeOrder: "a write comes after everything completed before it began",
    SnapshotOrder: "a snapshot below what is applied is never fetched or installed",
    StaleMessage: "an older term's message, an answer to somebody else, or a stranger's answer changes nothing",
    Restart: "what is durable is a log without holes",
    Bounded: "windows, queues and caches stay within their limits",
    AnsweredOnce: "each request is answered exactly once, and by whom it was asked",
    Outcome: "what was refused is never applied, what was applied was applied once",
    LeaderEvents: "starts and stops of leading and following pair, and agree with the role",
    Transfer: "while leadership is handed over no command is taken, and the target holds the whole log",
    ReadOnly: "no command is taken by a read-only leader, nor by one that knows too few writable voters",
    Drained: "a drained node asks for votes only when ordered, or after a long time without a leader",
    Linearizable: "the clients' history is linearizable, judged without indexes",
    Liveness: "with the faults gone there is a leader, and everything asked is done",
    Stability: "with the faults gone the leader stays",
    Rightful: "with the faults gone a member of the highest priority leads, after few takeovers",
    Contract: "effects are as their documentation says",
    Panic: "the core does not panic",
    Determinism: "two runs of one seed are the same",
}

/// A broken invariant and the facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// What was seen.
    pub facts: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { invariant, facts } = self;
        write!(f, "{invariant:?} ({}): {facts}", invariant.text())
    }
}

/// A violation as an error.
#[cold]
pub fn broken(invariant: Invariant, facts: impl Into<String>) -> Check {
    Err(Box::new(Violation {
        invariant,
        facts: facts.into(),
    }))
}

/// Breaks the invariant unless the condition holds; the facts are formatted only then.
#[macro_export]
macro_rules! require {
    ($condition:expr, $invariant:ident, $($facts:tt)*) => {
        if !$condition {
            return $crate::oracle::broken(
                $crate::oracle::Invariant::$invariant,
                format!($($facts)*),
            );
        }
    };
}
