//! Passing a call on to the leader: one hop, once.

use super::deadline::left;
use super::status::{Fault, Reason};
use crate::node::context::Context;
use crate::node::handle::GroupHandle;
use crate::node::request::Outcome;
use crate::transport::{MESSAGE_SIZE_BYTES_MAX, dial, innermost};
use kontiki_client::is_unsent;
use kontiki_proto::v1::Introduction;
use kontiki_proto::v1::admin_client::AdminClient;
use kontiki_proto::v1::client_client::ClientClient;
use kontiki_raft::NodeId;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

/// Metadata key by which a caller says it wants no forwarding.
pub(crate) const FORWARD_KEY: &str = "kontiki-forward";
/// Its value.
pub(crate) const FORWARD_NEVER: &str = "never";

/// Time for a former leader to answer what it was asked.
const REPLACED_GRACE: Duration = Duration::from_secs(1);

/// Connections to other nodes' client addresses.
#[derive(Default)]
pub(crate) struct Forwarder {
    channels: Mutex<HashMap<NodeId, (String, Channel)>>,
}

/// Whether the caller allows a hop.
pub(crate) fn may_forward<T>(request: &Request<T>) -> bool {
    request
        .metadata()
        .get(FORWARD_KEY)
        .is_none_or(|value| value != FORWARD_NEVER)
}

impl Forwarder {
    /// A channel to a node's client address.
    pub(crate) fn channel(&self, to: &Introduction) -> Result<Channel, Fault> {
        let mut channels = crate::node::context::lock(&self.channels);
        if let Some((address, channel)) = channels.get(&NodeId(to.node))
            && *address == to.client_address
        {
            return Ok(channel.clone());
        }
        let channel = dial::lazily(&to.client_address).map_err(|error| unreachable(to, &error))?;
        channels.insert(
            NodeId(to.node),
            (to.client_address.clone(), channel.clone()),
        );
        Ok(channel)
    }

    /// A client of the client service there.
    pub(crate) fn client(&self, to: &Introduction) -> Result<ClientClient<Channel>, Fault> {
        Ok(ClientClient::new(self.channel(to)?)
            .max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_SIZE_BYTES_MAX))
    }

    /// A client of the admin service there.
    pub(crate) fn admin(&self, to: &Introduction) -> Result<AdminClient<Channel>, Fault> {
        Ok(AdminClient::new(self.channel(to)?).max_decoding_message_size(MESSAGE_SIZE_BYTES_MAX))
    }
}

/// The leader to pass a call on to; none if this node leads or nobody does.
pub(crate) fn other_leader(context: &Context, group: &GroupHandle) -> Option<Introduction> {
    let leader = group
        .brief()
        .leader
        .filter(|leader| *leader != context.node())?;
    context.transport.introduction(leader)
}

/// A request to pass on: with the time that is left, and no further hop.
pub(crate) fn hop<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(left(deadline));
    let never = FORWARD_NEVER.parse().expect("plain ASCII");
    request.metadata_mut().insert(FORWARD_KEY, never);
    request
}

/// What a failed hop means. An answer of the other node stands as it is. Without one the command was
/// certainly not taken if there was no connection or the other node was closing it; else nobody
/// knows, and it is never repeated from here.
pub(crate) fn failed_hop(to: &Introduction, status: Status) -> Fault {
    if status.get_error_details().error_info().is_some() {
        return Fault::pass_on(status);
    }
    if never_connected(&status) || is_unsent(&status) {
        return unreachable(to, &status);
    }
    if matches!(
        status.code(),
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled
    ) {
        let message = format!("node {:?} did not answer within the deadline", to.name);
        return Fault::new(Reason::DeadlineExceeded, message).with_outcome(Outcome::Unknown);
    }
    let message = format!(
        "the answer of node {:?} was lost: {}",
        to.name,
        innermost(&status)
    );
    Fault::new(Reason::ReplyLost, message).with_outcome(Outcome::Unknown)
}

/// Resolves when the group has had another leader for a while: what was passed on to the former one
/// may never be answered, if it is cut off, and nobody knows what became of it.
pub(crate) async fn replaced(group: &GroupHandle, former: &Introduction) -> Fault {
    let mut brief = group.watch();
    let is_other = |leader: Option<NodeId>| leader.is_some_and(|leader| leader.0 != former.node);
    loop {
        if brief.wait_for(|now| is_other(now.leader)).await.is_err() {
            // The replica here ends, which says nothing of the leader.
            return std::future::pending().await;
        }
        // One that hands over answers what it has committed.
        tokio::time::sleep(REPLACED_GRACE).await;
        if is_other(group.brief().leader) {
            break;
        }
    }
    let message = format!(
        "node {:?} did not answer and leads no more; its successor may or may not have the command",
        former.name
    );
    Fault::new(Reason::ReplyLost, message).with_outcome(Outcome::Unknown)
}

fn unreachable(to: &Introduction, error: &dyn std::error::Error) -> Fault {
    let message = format!(
        "the leader, node {:?} at {}, cannot be reached: {}",
        to.name,
        to.client_address,
        innermost(error)
    );
    Fault::new(Reason::LeaderUnreachable, message)
        .with_leader(Some(NodeId(to.node)), Some(to.clone()))
}

fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
