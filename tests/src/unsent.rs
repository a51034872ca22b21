//! Commands that certainly did not reach a node. The client library decides the same for itself; what
//! tests it must not believe it.

use std::error::Error;
use std::iter::successors;
use tonic::Status;

/// The causes of a status that the transport made, outermost first.
fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    successors(status.source(), |error| (*error).source())
}

/// The same in words.
pub(crate) fn told(status: &Status) -> String {
    causes(status).map(|error| format!(": {error}")).collect()
}

/// Whether no connection was made, it was gone before the command was sent, or the server said that
/// it did not look at it.
pub(crate) fn is_certain(status: &Status) -> bool {
    causes(status).any(|error| {
        let canceled = error.downcast_ref().is_some_and(hyper::Error::is_canceled);
        canceled || error.downcast_ref().is_some_and(is_refused) || is_connect_error(error)
    })
}

/// A stream above the last of a GOAWAY in order, or one refused (RFC 9113 section 8.7).
fn is_refused(error: &h2::Error) -> bool {
    let reason = error.reason();
    let closed = error.is_go_away() && reason == Some(h2::Reason::NO_ERROR);
    let refused = error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (closed || refused)
}

fn is_connect_error(error: &(dyn Error + 'static)) -> bool {
    error.to_string().contains("tcp connect error")
}
