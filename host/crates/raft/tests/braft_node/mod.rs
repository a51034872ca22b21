//! braft's node tests (test/test_node.cpp) by name, re-expressed on the core with a simulated
//! host. Where the original is about files, sockets or threads the same situation is looked at from
//! the core's side; the table in `host/docs/raft-traps.md` says where the rest lives.

mod basics;
mod membership;
mod snapshots;
mod transfer;

use crate::support::Envelope;
use kontiki_raft::MessageBody;

fn is_append(envelope: &Envelope) -> bool {
    matches!(envelope.message.body, MessageBody::AppendEntries(_))
}

fn is_timeout_now(envelope: &Envelope) -> bool {
    matches!(envelope.message.body, MessageBody::TimeoutNow(_))
}
