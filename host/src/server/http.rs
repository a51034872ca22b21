//! HTTP pages: health checks, metrics, `/raft_stat`, `/flags`.

use super::page_listener::PageListener;
use super::raft_stat::{self, Format};
use super::status::Fault;
use super::{Shared, accept, same_origin, settings};
use super::{health, metrics};
use crate::node::overrides::Edit;
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use kontiki_proto::v1::GetSettingsReply;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::Code;
use tracing::error;

type Params = Query<BTreeMap<String, String>>;

/// Serves the pages until the node stops.
pub(crate) fn spawn(shared: Shared, listener: TcpListener) -> JoinHandle<()> {
    let listener = PageListener::new(listener, shared.inside.clone());
    let stop = shared.inside.exits.stop.clone();
    let pages = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/healthz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/raft_stat", get(raft_stat_all))
        .route("/raft_stat/{group}", get(raft_stat_one))
        .route("/flags", get(flags).post(set_flags))
        .route("/flags/{name}", get(flag).post(set_flag))
        .with_state(shared);
    let server = axum::serve(listener, pages).with_graceful_shutdown(stop.cancelled_owned());
    tokio::spawn(async move {
        if let Err(error) = server.await {
            error!(%error, "the HTTP listener failed");
        }
    })
}

/// The process runs and answers. Never depends on a quorum: restarting would not help.
async fn livez() -> &'static str {
    "ok\n"
}

/// Whether new work is welcome, check by check with `?verbose`.
async fn readyz(State(shared): State<Shared>, Query(params): Params) -> Response {
    let mut checks = health::checks(&shared);
    if params.get("require").is_some_and(|what| what == "leader") {
        checks.push(health::leaders(&shared));
    }
    let ready = checks.iter().all(|check| check.passed);
    let code = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut text = String::new();
    if params.contains_key("verbose") || !ready {
        for check in &checks {
            let _ = writeln!(text, "{check}");
        }
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    (code, text).into_response()
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    let text = match metrics::encode(&shared).await {
        Ok(text) => text,
        Err(error) => {
            error!(%error, "the metrics cannot be written");
            return StatusCode::INTERNAL_SERVER_ERROR.into_response();
        }
    };
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn raft_stat_all(
    State(shared): State<Shared>,
    Query(params): Params,
    headers: HeaderMap,
) -> Response {
    match format(&params, &headers) {
        Ok(format) => {
            let stat = raft_stat::all(&shared).await;
            page(StatusCode::OK, format, raft_stat::render(format, &stat))
        }
        Err(refused) => refused,
    }
}

async fn raft_stat_one(
    State(shared): State<Shared>,
    Path(group): Path<String>,
    Query(params): Params,
    headers: HeaderMap,
) -> Response {
    let format = match format(&params, &headers) {
        Ok(format) => format,
        Err(refused) => return refused,
    };
    match raft_stat::one(&shared, &group).await {
        Ok(description) => {
            // There is something to say of it, but it serves nothing.
            let code = match crate::raft_stat::is_broken(&description) {
                true => StatusCode::SERVICE_UNAVAILABLE,
                false => StatusCode::OK,
            };
            page(code, format, raft_stat::render_one(format, &description))
        }
        Err(fault) => page(
            http_code(&fault),
            format,
            raft_stat::render_fault(format, &fault),
        ),
    }
}

/// The HTTP code for a failure.
fn http_code(fault: &Fault) -> StatusCode {
    match fault.code() {
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::Unavailable | Code::ResourceExhausted => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::FailedPrecondition | Code::Aborted | Code::AlreadyExists => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The format that is wanted, or the refusal of one that there is not.
#[expect(clippy::result_large_err, reason = "it is handed on at once")]
fn format(params: &BTreeMap<String, String>, headers: &HeaderMap) -> Result<Format, Response> {
    let header = headers.get(header::ACCEPT);
    let accepted = header.and_then(|value| value.to_str().ok());
    let named = params.get("format").map(String::as_str);
    let refusal = "format is `text` or `json`\n";
    accept::format(named, accepted)
        .ok_or_else(|| (StatusCode::BAD_REQUEST, refusal).into_response())
}

fn page(code: StatusCode, format: Format, text: String) -> Response {
    let kind = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => "application/json",
    };
    (code, [(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn flags(State(shared): State<Shared>) -> Response {
    show_flags(&shared, |_| true)
}

/// Reading changes nothing: braft's spelling of a change is taken by POST only.
async fn flag(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(params): Params,
) -> Response {
    if params.contains_key("setvalue") {
        let allow = [(header::ALLOW, "POST")];
        let text = "a flag is changed by POST, with the value as `setvalue` or as the body\n";
        return (StatusCode::METHOD_NOT_ALLOWED, allow, text).into_response();
    }
    show_flags(&shared, |flag| flag == name)
}

async fn set_flag(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(params): Params,
    headers: HeaderMap,
    body: String,
) -> Response {
    let value = params.get("setvalue").cloned();
    let value = value.unwrap_or_else(|| body.trim().to_owned());
    change_flags(&shared, &headers, [(name, value)].into()).await
}

/// `NAME=VALUE`, one per line.
async fn set_flags(State(shared): State<Shared>, headers: HeaderMap, body: String) -> Response {
    let lines = body.lines().filter(|line| !line.trim().is_empty());
    let pairs: Option<BTreeMap<_, _>> = lines
        .map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect();
    match pairs {
        Some(pairs) => change_flags(&shared, &headers, pairs).await,
        None => (StatusCode::BAD_REQUEST, "write NAME=VALUE, one per line\n").into_response(),
    }
}

fn show_flags(shared: &Shared, wanted: impl Fn(&str) -> bool) -> Response {
    match settings::get(shared, "") {
        Ok(reply) => flags_page(&reply, wanted),
        Err(fault) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            fault.message().to_owned(),
        )
            .into_response(),
    }
}

async fn change_flags(
    shared: &Shared,
    headers: &HeaderMap,
    values: BTreeMap<String, String>,
) -> Response {
    if let Err(why) = same_origin::check(headers, &shared.context.config) {
        let text = format!("refused: {why}\n");
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    let names: Vec<_> = values.keys().cloned().collect();
    match settings::change(shared, "", &Edit::Set(values), false).await {
        Ok(reply) => flags_page(&reply, |flag| names.iter().any(|name| name == flag)),
        Err(fault) => (StatusCode::BAD_REQUEST, format!("{}\n", fault.message())).into_response(),
    }
}

fn flags_page(reply: &GetSettingsReply, wanted: impl Fn(&str) -> bool) -> Response {
    let mut text = String::new();
    for s in reply.settings.iter().filter(|s| wanted(&s.name)) {
        let note = if s.changeable { " (changeable)" } else { "" };
        let _ = writeln!(
            text,
            "{} = {}  # {}; {}{note}; default {}; from {}",
            s.name, s.value, s.help, s.range, s.default_value, s.source
        );
    }
    for skipped in &reply.skipped {
        let (group, why) = (&skipped.group, &skipped.why);
        let _ = writeln!(text, "# not yet in force for {group}: {why}");
    }
    match text.is_empty() {
        true => (StatusCode::NOT_FOUND, "there is no such flag\n").into_response(),
        false => text.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::status::Reason;

    #[test]
    fn failures_that_pass_are_503_and_what_is_not_there_404() {
        for (reason, code) in [
            (Reason::GroupNotFound, 404),
            (Reason::ReplicaFailed, 503),
            (Reason::GroupLoading, 503),
            (Reason::ShuttingDown, 503),
            (Reason::Busy, 503),
            (Reason::InvalidArgument, 400),
            (Reason::DeadlineExceeded, 504),
            (Reason::StorageFailed, 500),
        ] {
            let fault = Fault::new(reason, "x");
            assert_eq!(http_code(&fault).as_u16(), code, "{reason:?}");
        }
    }
}
