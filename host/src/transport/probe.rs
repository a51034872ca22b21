//! Asking whoever listens at an address who it is, and whether a session is its own.

use super::{dial, innermost};
use futures_util::future::join_all;
use kontiki_proto::v1::peer_client::PeerClient;
use kontiki_proto::v1::{ConfirmReply, ConfirmRequest, Introduction};
use std::fmt;
use std::time::Duration;

/// Time for a connection, and then for the answer.
const LIMIT: Duration = Duration::from_millis(1_500);
/// An introduction is short.
const REPLY_SIZE_BYTES_MAX: usize = 64 << 10;

/// What was found at an address.
#[derive(Clone, Debug)]
pub(crate) struct Sighting {
    pub(crate) address: String,
    /// Who answered, or why nobody did.
    pub(crate) answer: Result<ConfirmReply, NoAnswer>,
}

/// Why nobody said who listens at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoAnswer {
    /// Somebody lets connections in and says nothing: too busy, or paused.
    Silent,
    /// Nobody is there, or nobody who speaks the protocol.
    Nobody(String),
}

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => write!(
                f,
                "somebody listens there, but says nothing within {LIMIT:?}"
            ),
            Self::Nobody(why) => f.write_str(why),
        }
    }
}

impl Sighting {
    /// What whoever was called at `address` said of itself.
    pub(crate) fn called(address: &str, introduction: Introduction) -> Self {
        Self {
            address: address.to_owned(),
            answer: Ok(ConfirmReply {
                introduction: Some(introduction),
                confirmed: true,
            }),
        }
    }

    /// Whether the process that `claim` comes from listens there and stands by it.
    pub(crate) fn confirms(&self, claim: &Introduction) -> bool {
        self.node(claim)
            .is_some_and(|(there, confirmed)| confirmed && there.incarnation == claim.incarnation)
    }

    /// Whether the process that `claim` names listens there.
    pub(crate) fn is_process(&self, claim: &Introduction) -> bool {
        self.node(claim)
            .is_some_and(|(there, _)| there.incarnation == claim.incarnation)
    }

    /// Whether another process listens there as the node of `claim`. One that was set aside gives way
    /// to the process in whose favour that was done, but not where it is the one that `counted`: what
    /// was acknowledged by it here, the other may lack.
    pub(crate) fn contradicts(&self, claim: &Introduction, counted: Option<u64>) -> bool {
        self.node(claim).is_some_and(|(there, _)| {
            there.incarnation != claim.incarnation
                && (!there.set_aside || counted == Some(there.incarnation))
        })
    }

    /// Whether somebody listens there of whom nothing is known.
    pub(crate) fn is_silent(&self) -> bool {
        self.answer == Err(NoAnswer::Silent)
    }

    /// Why it does not confirm, in words.
    pub(crate) fn why_not(&self, claim: &Introduction) -> String {
        match &self.answer {
            Err(why) => why.to_string(),
            Ok(reply) => {
                let there = reply.introduction.clone().unwrap_or_default();
                match there.name == claim.name && there.node == claim.node {
                    false => format!("node {:?} with id {} answers", there.name, there.node),
                    true => "it does not know of this connection".to_owned(),
                }
            }
        }
    }

    fn node(&self, claim: &Introduction) -> Option<(&Introduction, bool)> {
        let reply = self.answer.as_ref().ok()?;
        let there = reply.introduction.as_ref()?;
        let same =
            (&there.cluster, &there.name, there.node) == (&claim.cluster, &claim.name, claim.node);
        same.then_some((there, reply.confirmed))
    }
}

/// Asks at each of these addresses at once, on connections of their own.
pub(crate) async fn ask_all(addresses: Vec<String>, request: &ConfirmRequest) -> Vec<Sighting> {
    let one = |address: String| async move {
        let answer = ask(&address, request.clone()).await;
        Sighting { address, answer }
    };
    join_all(addresses.into_iter().map(one)).await
}

async fn ask(address: &str, request: ConfirmRequest) -> Result<ConfirmReply, NoAnswer> {
    let nobody = |error: &dyn std::error::Error| NoAnswer::Nobody(innermost(error));
    let connecting = tokio::time::timeout(LIMIT, dial::now(address)).await;
    let channel = connecting.map_err(|_| {
        let why = format!("no connection within {LIMIT:?}");
        NoAnswer::Nobody(why)
    })?;
    let channel = channel.map_err(|error| nobody(&error))?;
    let mut client = PeerClient::new(channel).max_decoding_message_size(REPLY_SIZE_BYTES_MAX);
    let asking = tokio::time::timeout(LIMIT, client.confirm(request)).await;
    let reply = asking.map_err(|_| NoAnswer::Silent)?;
    Ok(reply.map_err(|status| nobody(&status))?.into_inner())
}
