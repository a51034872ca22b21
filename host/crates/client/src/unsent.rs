//! Requests of which the transport says that no server began with them.

use std::error::Error;
use std::iter::successors;

/// Whether a failed call certainly had no effect: its connection went away before the request was
/// sent, or the server said that it did not look at it (RFC 9113 sections 6.8 and 8.7: a stream above
/// the last one of a GOAWAY, or one refused). A server that shuts down in order says one of these to
/// whoever calls while it does.
///
/// `error` is a [`tonic::Status`] or a transport's error; its causes are looked through. "No" says
/// nothing: the call may have been lost at any point.
#[must_use]
pub fn is_unsent(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |error| (*error).source()).any(|cause| {
        let canceled = cause
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled);
        canceled || cause.downcast_ref::<h2::Error>().is_some_and(is_refused)
    })
}

fn is_refused(error: &h2::Error) -> bool {
    let with = |reason| error.reason() == Some(reason);
    let past_the_last = error.is_go_away() && with(h2::Reason::NO_ERROR);
    let refused = error.is_reset() && with(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (past_the_last || refused)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use h2::client::{ResponseFuture, SendRequest};
    use h2::server::{Connection, SendResponse};
    use tokio::io::DuplexStream;
    use tonic::codegen::http::Request;

    /// A client, and a server that goes on only when it is polled.
    async fn connected() -> (SendRequest<Bytes>, Connection<DuplexStream, Bytes>) {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (client, server) =
            tokio::join!(h2::client::handshake(near), h2::server::handshake(far));
        let (client, connection) = client.unwrap();
        tokio::spawn(connection);
        (client, server.unwrap())
    }

    fn send(client: &mut SendRequest<Bytes>) -> ResponseFuture {
        let request = Request::post("http://node/").body(()).unwrap();
        client.send_request(request, true).unwrap().0
    }

    async fn accept(server: &mut Connection<DuplexStream, Bytes>) -> SendResponse<Bytes> {
        server.accept().await.unwrap().unwrap().1
    }

    #[tokio::test]
    async fn what_comes_after_the_servers_last_word_was_not_looked_at() {
        let (mut client, mut server) = connected().await;
        let taken = send(&mut client);
        let kept = accept(&mut server).await;
        server.abrupt_shutdown(h2::Reason::NO_ERROR);
        let late = send(&mut client);
        let goes = tokio::spawn(async move { server.accept().await.is_none() });
        assert!(is_unsent(&late.await.unwrap_err()));
        // What became of this one nobody says.
        drop(kept);
        assert!(goes.await.unwrap());
        assert!(!is_unsent(&taken.await.unwrap_err()));
        let too_late = client.ready().await.unwrap_err();
        assert!(is_unsent(&too_late));
    }

    #[tokio::test]
    async fn of_the_ways_to_end_a_call_only_a_refusal_says_that_nothing_was_done() {
        for (reason, unsent) in [
            (h2::Reason::REFUSED_STREAM, true),
            (h2::Reason::CANCEL, false),
            (h2::Reason::INTERNAL_ERROR, false),
            (h2::Reason::NO_ERROR, false),
        ] {
            let (mut client, mut server) = connected().await;
            let call = send(&mut client);
            let mut answer = accept(&mut server).await;
            answer.send_reset(reason);
            let server = tokio::spawn(async move { server.accept().await.is_none() });
            let error = call.await.unwrap_err();
            assert_eq!(is_unsent(&error), unsent, "{error}");
            drop(client);
            assert!(server.await.unwrap());
        }
    }

    #[tokio::test]
    async fn a_server_that_breaks_off_in_disorder_may_have_begun() {
        let (mut client, mut server) = connected().await;
        let _taken = send(&mut client);
        let kept = accept(&mut server).await;
        server.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
        let late = send(&mut client);
        tokio::spawn(async move { server.accept().await.is_none() });
        assert!(!is_unsent(&late.await.unwrap_err()));
        drop(kept);
    }
}
