//! Every error of this node's services, and how it reads on the wire: code, reason, outcome, hints.
//!
//! A failed precondition of the caller's, a lack the caller can wait out, and a fault of the plugin
//! are told apart by reason; whether a command may have been applied by `outcome`. An UNAVAILABLE
//! with these details is always safe to retry; without them the transport made it.

use super::bounded;
use crate::node::context::ReplicaError;
use crate::node::drain::DrainError;
use crate::node::plugins::PluginError;
use crate::node::request::{Failure, Outcome};
use bytes::Bytes;
use kontiki_proto::ERROR_DOMAIN;
use kontiki_proto::v1::Introduction;
use kontiki_raft::{ConfigurationError, NodeId, RejectReason, Term};
use std::collections::HashMap;
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// Declares the reasons with their code, their name on the wire, and after how many milliseconds it
/// is worth trying again (zero: it is not).
macro_rules! reasons {
    ($($reason:ident $code:ident $name:literal $retry_ms:literal,)*) => {
        /// Why a call failed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Reason {
            $($reason,)*
        }

        impl Reason {
            /// Every reason, for tests that hold documents to them.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$reason,)*];

            fn row(self) -> (Code, &'static str, u64) {
                match self {
                    $(Self::$reason => (Code::$code, $name, $retry_ms),)*
                }
            }
        }
    };
}

reasons! {
    NotLeader            Unavailable        "NOT_LEADER" 10,
    NoLeader             Unavailable        "NO_LEADER" 100,
    NoMember             Unavailable        "NO_MEMBER" 100,
    LeaderUnreachable    Unavailable        "LEADER_UNREACHABLE" 100,
    Transferring         Unavailable        "TRANSFERRING" 20,
    ShuttingDown         Unavailable        "SHUTTING_DOWN" 100,
    GroupLoading         Unavailable        "GROUP_LOADING" 100,
    ReplicaFailed        Unavailable        "REPLICA_FAILED" 1_000,
    GroupRecovered       Unavailable        "GROUP_RECOVERED" 1_000,
    DuplicateNode        Unavailable        "DUPLICATE_NODE" 1_000,
    Busy                 ResourceExhausted  "BUSY" 20,
    LeadershipLost       Aborted            "LEADERSHIP_LOST" 0,
    ReplyLost            Aborted            "REPLY_LOST" 0,
    TermMismatch         Aborted            "TERM_MISMATCH" 0,
    DeadlineExceeded     DeadlineExceeded   "DEADLINE_EXCEEDED" 0,
    ReadOnly             FailedPrecondition "READ_ONLY" 0,
    TooLarge             InvalidArgument    "TOO_LARGE" 0,
    InvalidArgument      InvalidArgument    "INVALID_ARGUMENT" 0,
    PluginInvalid        InvalidArgument    "PLUGIN_INVALID" 0,
    SettingInvalid       InvalidArgument    "SETTING_INVALID" 0,
    NotConfirmed         InvalidArgument    "NOT_CONFIRMED" 0,
    LogCompacted         OutOfRange         "LOG_COMPACTED" 0,
    GroupNotFound        NotFound           "GROUP_NOT_FOUND" 0,
    PluginNotFound       NotFound           "PLUGIN_NOT_FOUND" 0,
    NodeNotFound         NotFound           "NODE_NOT_FOUND" 0,
    GroupExists          AlreadyExists      "GROUP_EXISTS" 0,
    GroupEnded           FailedPrecondition "GROUP_ENDED" 0,
    CreationUndecided    FailedPrecondition "CREATION_UNDECIDED" 0,
    GroupIncomplete      FailedPrecondition "GROUP_INCOMPLETE" 0,
    PluginInUse          FailedPrecondition "PLUGIN_IN_USE" 0,
    PluginAmbiguous      FailedPrecondition "PLUGIN_AMBIGUOUS" 0,
    NativeNotAllowed     FailedPrecondition "NATIVE_NOT_ALLOWED" 0,
    MembershipBusy       FailedPrecondition "MEMBERSHIP_BUSY" 0,
    MembershipInvalid    FailedPrecondition "MEMBERSHIP_INVALID" 0,
    MembershipUnexpected FailedPrecondition "MEMBERSHIP_UNEXPECTED" 0,
    LearnerBehind        FailedPrecondition "LEARNER_BEHIND" 0,
    ChangeCancelled      FailedPrecondition "CHANGE_CANCELLED" 0,
    StillMember          FailedPrecondition "STILL_MEMBER" 0,
    MembershipUnsure     FailedPrecondition "MEMBERSHIP_UNSURE" 0,
    OtherEpoch           FailedPrecondition "OTHER_EPOCH" 0,
    NotVoter             FailedPrecondition "NOT_VOTER" 0,
    TransferTimedOut     FailedPrecondition "TRANSFER_TIMED_OUT" 0,
    TargetLags           FailedPrecondition "TARGET_LAGS" 0,
    TransferWentAstray   FailedPrecondition "TRANSFER_WENT_ASTRAY" 0,
    PeerUnreachable      FailedPrecondition "PEER_UNREACHABLE" 0,
    PeerRefused          FailedPrecondition "PEER_REFUSED" 0,
    NodeConnected        FailedPrecondition "NODE_CONNECTED" 0,
    PluginFault          Internal           "PLUGIN_FAULT" 0,
    StorageFailed        Internal           "STORAGE_FAILED" 0,
    Internal             Internal           "INTERNAL" 0,
}

impl Reason {
    /// Its name on the wire.
    pub(crate) fn as_str(self) -> &'static str {
        self.row().1
    }

    /// Its code.
    pub(crate) fn code(self) -> Code {
        self.row().0
    }
}

/// A failed call, with everything a client may want to know.
#[derive(Clone, Debug)]
pub(crate) struct Fault(Box<Details>);

#[derive(Clone, Debug)]
struct Details {
    reason: Reason,
    message: String,
    outcome: Outcome,
    group: Option<String>,
    leader: Option<NodeId>,
    leader_name: String,
    leader_address: String,
    term: Option<Term>,
    /// An answer of another node, passed on as it came.
    passed_on: Option<Box<Status>>,
}

impl Fault {
    pub(crate) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            reason,
            message: bounded::message(&message.into()),
            outcome: Outcome::NotApplied,
            group: None,
            leader: None,
            leader_name: String::new(),
            leader_address: String::new(),
            term: None,
            passed_on: None,
        }))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Reason::InvalidArgument, message)
    }

    pub(crate) fn group_not_found(group: &str) -> Self {
        let message = format!("there is no group {group:?} on this node");
        Self::new(Reason::GroupNotFound, message).of_group(group)
    }

    /// The answer of another node, to be passed on unchanged.
    pub(crate) fn pass_on(status: Status) -> Self {
        let details = status.get_error_details();
        let said = details
            .error_info()
            .and_then(|info| info.metadata.get("outcome"));
        let outcome = match said.map(String::as_str) {
            Some("not_applied") => Outcome::NotApplied,
            _ => Outcome::Unknown,
        };
        let mut fault = Self::new(Reason::Internal, status.message()).with_outcome(outcome);
        fault.0.passed_on = Some(Box::new(status));
        fault
    }

    pub(crate) fn of_group(mut self, group: &str) -> Self {
        self.0.group = Some(group.to_owned());
        self
    }

    pub(crate) fn with_outcome(mut self, outcome: Outcome) -> Self {
        self.0.outcome = outcome;
        self
    }

    /// Calls nodes by name where the message has them by id.
    pub(crate) fn with_names(mut self, name: impl Fn(NodeId) -> Option<String>) -> Self {
        self.0.message = with_names(&self.0.message, name);
        self
    }

    /// Adds who leads, as far as `introduction` knows.
    pub(crate) fn with_leader(
        mut self,
        leader: Option<NodeId>,
        introduction: Option<Introduction>,
    ) -> Self {
        self.0.leader = leader;
        if let Some(introduction) = introduction {
            self.0.leader_name = introduction.name;
            self.0.leader_address = introduction.client_address;
        }
        self
    }

    /// Who leads, if that was part of the failure.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.0.leader
    }

    /// Where clients reach the leader; empty if unknown.
    pub(crate) fn leader_address(&self) -> &str {
        &self.0.leader_address
    }

    /// Whether this node found this reason.
    pub(crate) fn is(&self, reason: Reason) -> bool {
        self.0.reason == reason && self.0.passed_on.is_none()
    }

    pub(crate) fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// Its code: the other node's if it was passed on.
    pub(crate) fn code(&self) -> Code {
        match &self.0.passed_on {
            Some(status) => status.code(),
            None => self.0.reason.code(),
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    /// The reason on the wire: the other node's if it was passed on.
    pub(crate) fn reason_name(&self) -> String {
        let details = self
            .0
            .passed_on
            .as_deref()
            .map(|status| status.get_error_details());
        let reason = details.and_then(|d| d.error_info().map(|info| info.reason.clone()));
        reason.unwrap_or_else(|| self.0.reason.as_str().to_owned())
    }

    fn metadata(&self) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        let mut put =
            |key: &str, value: String| metadata.insert(key.to_owned(), bounded::value(&value));
        put("outcome", self.0.outcome.as_str().to_owned());
        if let Some(group) = &self.0.group {
            put("group", group.clone());
        }
        if let Some(leader) = self.0.leader {
            put("leader_id", leader.to_string());
            put("leader_name", self.0.leader_name.clone());
            put("leader_address", self.0.leader_address.clone());
        }
        if let Some(term) = self.0.term {
            put("term", term.to_string());
        }
        metadata
    }
}

/// Replaces each `node ID` by `node "NAME"` where the name is known.
fn with_names(message: &str, name: impl Fn(NodeId) -> Option<String>) -> String {
    const MARK: &str = "node ";
    let (mut named, mut rest) = (String::new(), message);
    while let Some(at) = rest.find(MARK) {
        let (before, after) = rest.split_at(at + MARK.len());
        named.push_str(before);
        let length = after.find(|c: char| !c.is_ascii_digit());
        let (id, after) = after.split_at(length.unwrap_or(after.len()));
        match id.parse().ok().and_then(|id| name(NodeId(id))) {
            Some(name) => named.push_str(&format!("{name:?}")),
            None => named.push_str(id),
        }
        rest = after;
    }
    named + rest
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        let (code, name, retry_ms) = fault.0.reason.row();
        let mut details = ErrorDetails::with_error_info(name, ERROR_DOMAIN, fault.metadata());
        if let Some(status) = fault.0.passed_on {
            return pass_on(*status);
        }
        if retry_ms > 0 {
            details.set_retry_info(Some(Duration::from_millis(retry_ms)));
        }
        with_details(code, bounded::message(&fault.0.message), details)
    }
}

/// Puts the message into the status only: its place in the details would hold it once more.
fn with_details(code: Code, message: String, details: ErrorDetails) -> Status {
    let details = Status::with_error_details(code, "", details);
    Status::with_details(code, message, Bytes::copy_from_slice(details.details()))
}

/// Another node's words, as they came if they fit.
fn pass_on(status: Status) -> Status {
    let message = bounded::message(status.message());
    if message == status.message() && status.details().len() <= bounded::DETAILS_SIZE_BYTES_MAX {
        return status;
    }
    let said = status.get_error_details();
    let mut details = ErrorDetails::new();
    if let Some(info) = said.error_info() {
        let kept = |(key, value): (&String, &String)| (key.clone(), bounded::value(value));
        let metadata: HashMap<_, _> = info.metadata.iter().take(KEPT_MAX).map(kept).collect();
        details.set_error_info(
            bounded::value(&info.reason),
            bounded::value(&info.domain),
            metadata,
        );
    }
    if let Some(retry) = said.retry_info() {
        details.set_retry_info(retry.retry_delay);
    }
    with_details(status.code(), message, details)
}

/// Values of another node's details that are passed on if they are too many or too long.
const KEPT_MAX: usize = 8;

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let message = failure.to_string();
        let outcome = failure.outcome();
        let (reason, leader, term) = match failure {
            Failure::Refused {
                reason,
                leader,
                term,
            } => (refusal(&reason), leader, Some(term)),
            Failure::NoLeader { term } => (Reason::NoLeader, None, Some(term)),
            Failure::NoMember => (Reason::NoMember, None, None),
            Failure::Busy => (Reason::Busy, None, None),
            Failure::ShuttingDown => (Reason::ShuttingDown, None, None),
            Failure::PluginFault { .. } => (Reason::PluginFault, None, None),
            Failure::LeftBehind { begun_on, .. } => (Reason::GroupRecovered, begun_on, None),
            Failure::ReplicaFailed(_) => (Reason::ReplicaFailed, None, None),
            Failure::Deadline(_) => (Reason::DeadlineExceeded, None, None),
        };
        let mut fault = Self::new(reason, message).with_outcome(outcome);
        fault.0.leader = leader;
        fault.0.term = term;
        fault
    }
}

fn refusal(reason: &RejectReason) -> Reason {
    match reason {
        RejectReason::NotLeader { .. } => Reason::NotLeader,
        RejectReason::TermMismatch { .. } => Reason::TermMismatch,
        RejectReason::Busy => Reason::Busy,
        RejectReason::Transferring => Reason::Transferring,
        RejectReason::ReadOnly => Reason::ReadOnly,
        RejectReason::TooLarge { .. } => Reason::TooLarge,
        RejectReason::LeadershipLost => Reason::LeadershipLost,
        RejectReason::Configuration(error) => membership(error),
        RejectReason::CatchUpFailed { .. } => Reason::LearnerBehind,
        RejectReason::ChangeCancelled => Reason::ChangeCancelled,
        RejectReason::NotVoter { .. } => Reason::NotVoter,
        RejectReason::TransferTimedOut { .. } => Reason::TransferTimedOut,
        RejectReason::TargetLags { .. } => Reason::TargetLags,
        RejectReason::PeerUnreachable { .. } => Reason::PeerUnreachable,
        RejectReason::LeaderSilent { .. } => Reason::LeaderUnreachable,
        RejectReason::Invalid(_) => Reason::InvalidArgument,
        RejectReason::Settings(_) => Reason::SettingInvalid,
        RejectReason::Stopping => Reason::ShuttingDown,
    }
}

fn membership(error: &ConfigurationError) -> Reason {
    match error {
        ConfigurationError::InProgress
        | ConfigurationError::CatchingUp
        | ConfigurationError::Logged
        | ConfigurationError::LeaderNotReady => Reason::MembershipBusy,
        ConfigurationError::Unexpected => Reason::MembershipUnexpected,
        ConfigurationError::NoVoters
        | ConfigurationError::VoterAndLearner(_)
        | ConfigurationError::NotMember(_)
        | ConfigurationError::IsVoter(_)
        | ConfigurationError::NoneUnderWay
        | ConfigurationError::WithoutSelf
        | ConfigurationError::NoChange => Reason::MembershipInvalid,
    }
}

impl From<PluginError> for Fault {
    fn from(error: PluginError) -> Self {
        let reason = match &error {
            PluginError::NotFound(_) => Reason::PluginNotFound,
            PluginError::Ambiguous(..) => Reason::PluginAmbiguous,
            PluginError::NoName(_) => Reason::InvalidArgument,
            PluginError::NativeNotAllowed { .. } => Reason::NativeNotAllowed,
            PluginError::TooLarge { .. } => Reason::TooLarge,
            PluginError::Load(_) => Reason::PluginInvalid,
            PluginError::Storage(_) => Reason::StorageFailed,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<ReplicaError> for Fault {
    fn from(error: ReplicaError) -> Self {
        let reason = match error {
            ReplicaError::Plugin(error) => return error.into(),
            ReplicaError::NameTaken { .. } | ReplicaError::Exists(_) | ReplicaError::InUse(_) => {
                Reason::GroupExists
            }
            ReplicaError::Undecided(_) => Reason::CreationUndecided,
            ReplicaError::Ended { .. } => Reason::GroupEnded,
            ReplicaError::Machine(_) => Reason::PluginFault,
            ReplicaError::Loading => Reason::GroupLoading,
            ReplicaError::Members(_) => Reason::InvalidArgument,
            ReplicaError::OtherEpoch { .. } => Reason::OtherEpoch,
            ReplicaError::Storage(_) | ReplicaError::Record(_) | ReplicaError::Epoch(_) => {
                Reason::StorageFailed
            }
            ReplicaError::Thread(_) | ReplicaError::Task(_) => Reason::Internal,
        };
        Self::new(reason, error.to_string())
    }
}

impl From<kontiki_storage::StorageError> for Fault {
    fn from(error: kontiki_storage::StorageError) -> Self {
        Self::new(Reason::StorageFailed, error.to_string())
    }
}

impl From<DrainError> for Fault {
    fn from(error: DrainError) -> Self {
        match error {
            DrainError::Storage(error) => error.into(),
            DrainError::Task(error) => error.into(),
        }
    }
}

impl From<tokio::task::JoinError> for Fault {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::new(Reason::Internal, error.to_string()).with_outcome(Outcome::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(7);

    fn refused(reason: RejectReason) -> Failure {
        Failure::Refused {
            reason,
            leader: Some(NODE),
            term: Term(3),
        }
    }

    fn of(error: ConfigurationError) -> Failure {
        refused(RejectReason::Configuration(error))
    }

    fn fault(outcome: Outcome) -> Failure {
        Failure::PluginFault {
            message: "trap".into(),
            outcome,
        }
    }

    /// What happened, and the code, reason, outcome and "worth retrying" that a client sees.
    #[rustfmt::skip]
    fn table() -> Vec<(Failure, Code, &'static str, &'static str, bool)> {
        use ConfigurationError as C;
        use RejectReason as R;
        let (no, unknown) = ("not_applied", "unknown");
        let node = NODE;
        let lag = kontiki_raft::Lag::default();
        vec![
            (refused(R::NotLeader { leader: Some(node) }), Code::Unavailable, "NOT_LEADER", no, true),
            (Failure::NoLeader { term: Term(3) }, Code::Unavailable, "NO_LEADER", no, true),
            (Failure::NoMember, Code::Unavailable, "NO_MEMBER", no, true),
            (refused(R::Transferring), Code::Unavailable, "TRANSFERRING", no, true),
            (Failure::ShuttingDown, Code::Unavailable, "SHUTTING_DOWN", no, true),
            (refused(R::Stopping), Code::Unavailable, "SHUTTING_DOWN", no, true),
            (Failure::ReplicaFailed("disk".into()), Code::Unavailable, "REPLICA_FAILED", no, true),
            (refused(R::LeaderSilent { leader: node }), Code::Unavailable, "LEADER_UNREACHABLE", no, true),
            (Failure::Busy, Code::ResourceExhausted, "BUSY", no, true),
            (refused(R::Busy), Code::ResourceExhausted, "BUSY", no, true),
            (refused(R::LeadershipLost), Code::Aborted, "LEADERSHIP_LOST", unknown, false),
            (refused(R::TermMismatch { term: Term(3) }), Code::Aborted, "TERM_MISMATCH", no, false),
            (Failure::Deadline(Outcome::Unknown), Code::DeadlineExceeded, "DEADLINE_EXCEEDED", unknown, false),
            (Failure::Deadline(Outcome::NotApplied), Code::DeadlineExceeded, "DEADLINE_EXCEEDED", no, false),
            (refused(R::ReadOnly), Code::FailedPrecondition, "READ_ONLY", no, false),
            (refused(R::TooLarge { size_bytes: 2, size_bytes_max: 1 }), Code::InvalidArgument, "TOO_LARGE", no, false),
            (refused(R::Invalid("x")), Code::InvalidArgument, "INVALID_ARGUMENT", no, false),
            (fault(Outcome::Unknown), Code::Internal, "PLUGIN_FAULT", unknown, false),
            (fault(Outcome::NotApplied), Code::Internal, "PLUGIN_FAULT", no, false),
            (of(C::InProgress), Code::FailedPrecondition, "MEMBERSHIP_BUSY", no, false),
            (of(C::CatchingUp), Code::FailedPrecondition, "MEMBERSHIP_BUSY", no, false),
            (of(C::Logged), Code::FailedPrecondition, "MEMBERSHIP_BUSY", no, false),
            (of(C::WithoutSelf), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (of(C::NoneUnderWay), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (of(C::IsVoter(node)), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (refused(R::ChangeCancelled), Code::FailedPrecondition, "CHANGE_CANCELLED", no, false),
            (refused(R::PeerUnreachable { node }), Code::FailedPrecondition, "PEER_UNREACHABLE", no, false),
            (of(C::LeaderNotReady), Code::FailedPrecondition, "MEMBERSHIP_BUSY", no, false),
            (of(C::Unexpected), Code::FailedPrecondition, "MEMBERSHIP_UNEXPECTED", no, false),
            (of(C::NoVoters), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (of(C::NotMember(node)), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (of(C::NoChange), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (of(C::VoterAndLearner(node)), Code::FailedPrecondition, "MEMBERSHIP_INVALID", no, false),
            (refused(R::CatchUpFailed { node }), Code::FailedPrecondition, "LEARNER_BEHIND", no, false),
            (refused(R::NotVoter { node }), Code::FailedPrecondition, "NOT_VOTER", no, false),
            (refused(R::TransferTimedOut { node, lag }), Code::FailedPrecondition, "TRANSFER_TIMED_OUT", no, false),
            (refused(R::TargetLags { node, lag }), Code::FailedPrecondition, "TARGET_LAGS", no, false),
        ]
    }

    #[test]
    fn every_failure_has_its_code_reason_and_outcome() {
        for (failure, code, reason, outcome, retry) in table() {
            let status = Status::from(Fault::from(failure.clone()).of_group("orders"));
            let details = status.get_error_details();
            let info = details.error_info().unwrap();
            assert_eq!(status.code(), code, "{failure:?}");
            assert_eq!(
                (info.reason.as_str(), info.domain.as_str()),
                (reason, "kontiki")
            );
            assert_eq!(info.metadata["outcome"], outcome, "{failure:?}");
            assert_eq!(info.metadata["group"], "orders");
            assert_eq!(details.retry_info().is_some(), retry, "{failure:?}");
            // What may have been applied is never worth a blind retry.
            assert!(!retry || outcome == "not_applied");
        }
    }

    /// Bytes of the trailers as they are sent.
    fn trailers(status: &Status) -> usize {
        let mut map = tonic::codegen::http::HeaderMap::new();
        status.add_header(&mut map).unwrap();
        let sizes = map
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + 32);
        sizes.sum()
    }

    #[test]
    fn the_longest_errors_fit_into_trailers() {
        let long = "\u{1f30a} a name that demangles\n".repeat(10_000);
        let failure = Failure::PluginFault {
            message: long.clone(),
            outcome: Outcome::NotApplied,
        };
        let leader = Introduction {
            name: long.clone(),
            client_address: long.clone(),
            ..Introduction::default()
        };
        let fault = Fault::from(failure).of_group(&long);
        let status = Status::from(fault.with_leader(Some(NODE), Some(leader)));
        assert!(trailers(&status) < 8 << 10, "{}", trailers(&status));
        assert!(status.message().starts_with("the plugin failed: "));
        assert_eq!(
            status.get_error_details().error_info().unwrap().reason,
            "PLUGIN_FAULT"
        );
        // An older node does not bound what it says.
        let details = ErrorDetails::with_error_info(
            "PLUGIN_FAULT",
            ERROR_DOMAIN,
            HashMap::from([
                ("outcome".to_owned(), "not_applied".to_owned()),
                ("x".to_owned(), long.clone()),
            ]),
        );
        let older = Status::with_error_details(Code::Internal, long, details);
        let passed = Status::from(Fault::pass_on(older));
        assert!(trailers(&passed) < 8 << 10, "{}", trailers(&passed));
        let details = passed.get_error_details();
        assert_eq!(
            details.error_info().unwrap().metadata["outcome"],
            "not_applied"
        );
    }

    #[test]
    fn nodes_go_by_name_in_messages() {
        let name = |node: NodeId| (node == NODE).then(|| "n7".to_owned());
        let named = |message| with_names(message, name);
        assert_eq!(named("node 7 is a voter"), "node \"n7\" is a voter");
        assert_eq!(named("no node 8, node 7"), "no node 8, node \"n7\"");
        assert_eq!(named("this node is away"), "this node is away");
    }

    #[test]
    fn a_leader_is_named_by_id_name_address_and_term() {
        let leader = Introduction {
            name: "n7".into(),
            client_address: "h:1".into(),
            ..Introduction::default()
        };
        let failure = refused(RejectReason::NotLeader { leader: Some(NODE) });
        let status = Status::from(Fault::from(failure).with_leader(Some(NODE), Some(leader)));
        let details = status.get_error_details();
        let metadata = &details.error_info().unwrap().metadata;
        let keys = ["leader_id", "leader_name", "leader_address", "term"];
        assert_eq!(
            keys.map(|key| metadata[key].as_str()),
            ["7", "n7", "h:1", "3"]
        );
    }

    #[test]
    fn another_nodes_answer_is_passed_on_as_it_came() {
        let original = Status::from(Fault::from(Failure::Busy).of_group("orders"));
        let fault = Fault::pass_on(original.clone());
        assert_eq!(
            (fault.outcome(), fault.reason_name()),
            (Outcome::NotApplied, "BUSY".into())
        );
        let status = Status::from(fault);
        assert_eq!(
            (status.code(), status.details()),
            (original.code(), original.details())
        );
        let bare = Fault::pass_on(Status::unavailable("the transport said so"));
        assert_eq!(bare.outcome(), Outcome::Unknown);
    }
}
