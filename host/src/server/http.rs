//! HTTP pages: health checks, metrics, `/raft_stat`, `/flags`.

use super::metrics;
use super::raft_stat::{self, Format};
use super::{Shared, settings};
use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::Ordering;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::error;

type Params = Query<BTreeMap<String, String>>;

/// Serves the pages until `stop`.
pub(crate) fn spawn(
    shared: Shared,
    listener: TcpListener,
    stop: CancellationToken,
) -> JoinHandle<()> {
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
    let context = &shared.context;
    let (opened, broken) = {
        let broken = crate::node::context::lock(&context.broken).len();
        (context.router.all().len(), broken)
    };
    let mut checks = vec![
        ("storage", !context.storage.metrics().failed, String::new()),
        (
            "groups_loaded",
            !context.loading.load(Ordering::Acquire),
            format!("{opened}/{}", opened + broken),
        ),
        ("not_draining", !context.gives_away(), String::new()),
        ("not_stopping", !context.is_stopping(), String::new()),
    ];
    if params.get("require").is_some_and(|what| what == "leader") {
        let led = context.router.all().iter().all(|group| group.is_healthy());
        checks.push(("leader", led, String::new()));
    }
    let ready = checks.iter().all(|(_, ok, _)| *ok);
    let code = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let mut text = String::new();
    if params.contains_key("verbose") || !ready {
        for (name, ok, note) in checks {
            let mark = if ok { "+" } else { "-" };
            let _ = writeln!(text, "[{mark}] {name} {note}");
        }
    }
    text.push_str(if ready { "ok\n" } else { "not ready\n" });
    (code, text).into_response()
}

async fn metrics_page(State(shared): State<Shared>) -> Response {
    let text = metrics::encode(&shared).await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn raft_stat_all(
    State(shared): State<Shared>,
    Query(params): Params,
    headers: HeaderMap,
) -> Response {
    let format = format(&params, &headers);
    let descriptions = raft_stat::all(&shared).await;
    page(format, raft_stat::render(format, &descriptions))
}

async fn raft_stat_one(
    State(shared): State<Shared>,
    Path(group): Path<String>,
    Query(params): Params,
    headers: HeaderMap,
) -> Response {
    let format = format(&params, &headers);
    match raft_stat::one(&shared, &group).await {
        Ok(description) => page(format, raft_stat::render_one(format, &description)),
        Err(fault) => (StatusCode::NOT_FOUND, format!("{}\n", fault.message())).into_response(),
    }
}

fn format(params: &BTreeMap<String, String>, headers: &HeaderMap) -> Format {
    let accept = headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok());
    let asked = params.get("format").map(String::as_str);
    match asked.or(accept) {
        Some("json" | "application/json") => Format::Json,
        _ => Format::Text,
    }
}

fn page(format: Format, text: String) -> Response {
    let kind = match format {
        Format::Text => "text/plain; charset=utf-8",
        Format::Json => "application/json",
    };
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}

async fn flags(State(shared): State<Shared>) -> Response {
    show_flags(&shared, |_| true).await
}

async fn flag(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(params): Params,
) -> Response {
    match params.get("setvalue") {
        Some(value) => change_flags(&shared, [(name, value.clone())].into()).await,
        None => show_flags(&shared, |flag| flag == name).await,
    }
}

async fn set_flag(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    body: String,
) -> Response {
    change_flags(&shared, [(name, body.trim().to_owned())].into()).await
}

/// `NAME=VALUE`, one per line.
async fn set_flags(State(shared): State<Shared>, body: String) -> Response {
    let lines = body.lines().filter(|line| !line.trim().is_empty());
    let pairs: Option<BTreeMap<_, _>> = lines
        .map(|line| {
            let (name, value) = line.split_once('=')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        })
        .collect();
    match pairs {
        Some(pairs) => change_flags(&shared, pairs).await,
        None => (StatusCode::BAD_REQUEST, "write NAME=VALUE, one per line\n").into_response(),
    }
}

async fn show_flags(shared: &Shared, wanted: impl Fn(&str) -> bool) -> Response {
    match settings::get(shared, "").await {
        Ok(reply) => {
            let mut text = String::new();
            for setting in reply
                .settings
                .iter()
                .filter(|setting| wanted(&setting.name))
            {
                let note = if setting.changeable {
                    " (changeable)"
                } else {
                    ""
                };
                let _ = writeln!(
                    text,
                    "{} = {}  # {}; {}{note}",
                    setting.name, setting.value, setting.help, setting.range
                );
            }
            match text.is_empty() {
                true => (StatusCode::NOT_FOUND, "there is no such flag\n").into_response(),
                false => text.into_response(),
            }
        }
        Err(fault) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            fault.message().to_owned(),
        )
            .into_response(),
    }
}

async fn change_flags(shared: &Shared, values: BTreeMap<String, String>) -> Response {
    let names: Vec<_> = values.keys().cloned().collect();
    match settings::change(shared, "", values).await {
        Ok(_) => show_flags(shared, |flag| names.iter().any(|name| name == flag)).await,
        Err(fault) => (StatusCode::BAD_REQUEST, format!("{}\n", fault.message())).into_response(),
    }
}
