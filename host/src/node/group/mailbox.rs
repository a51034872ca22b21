//! What comes in to a group, and in which order it is taken.

use crate::node::apply::ApplyReport;
use crate::node::epoch::EpochId;
use crate::node::request::{Control, Proposed, Query};
use kontiki_raft::{Entry, IoId, Message, NodeId, ReadError, ReadId};
use kontiki_storage::StorageError;
use tokio::sync::mpsc;

/// What comes back from disk and machine. Each answers one effect, so the channel is bounded by
/// the effects under way and needs no limit of its own.
#[derive(Debug)]
pub(crate) enum Completion {
    Persisted(Result<IoId, (IoId, StorageError)>),
    Applied(ApplyReport),
    Read(ReadId, Result<Vec<Entry>, ReadError>),
    EpochKept(Result<(), StorageError>),
}

/// The receiving ends of a group.
pub(crate) struct Mailbox {
    pub(crate) proposals: mpsc::Receiver<Proposed>,
    pub(crate) queries: mpsc::Receiver<Query>,
    pub(crate) messages: mpsc::Receiver<(NodeId, EpochId, Message)>,
    pub(crate) control: mpsc::Receiver<Control>,
    pub(crate) completions: mpsc::UnboundedReceiver<Completion>,
}

/// One thing that came in.
pub(super) enum Incoming {
    Completion(Completion),
    Message(NodeId, EpochId, Message),
    Control(Control),
    Proposed(Proposed),
    Query(Query),
    Tick,
    Closed,
}

impl Mailbox {
    /// The next thing that comes in, completions and orders first; `Tick` at `wake`.
    ///
    /// # Cancel safety
    /// Each branch is; what is not chosen stays queued.
    pub(super) async fn next(
        &mut self,
        wake: tokio::time::Instant,
        takes_commands: bool,
    ) -> Incoming {
        tokio::select! {
            biased;
            Some(completion) = self.completions.recv() => Incoming::Completion(completion),
            control = self.control.recv() => control.map_or(Incoming::Closed, Incoming::Control),
            Some((from, epoch, message)) = self.messages.recv() => Incoming::Message(from, epoch, message),
            Some(query) = self.queries.recv() => Incoming::Query(query),
            Some(proposed) = self.proposals.recv(), if takes_commands => Incoming::Proposed(proposed),
            () = tokio::time::sleep_until(wake) => Incoming::Tick,
        }
    }
}
