//! `/healthz` (the process runs), `/readyz` (it has a leader and keeps up) and `/metrics` (Prometheus text).

use crate::observe::Observed;
use crate::raft::{Node, Role};
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use std::time::Duration;

/// Entries that a ready coordinator may have to catch up with.
const READY_LAG_MAX: u64 = 1_000;
/// A leader that has not heard of a majority for so long answers neither reads nor writes: dozens of heartbeats.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Context {
    node: Node,
    observed: Arc<Observed>,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    listener: tokio::net::TcpListener,
    node: Node,
    observed: Arc<Observed>,
    shutdown: daemon::Shutdown,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Context { node, observed });
    axum::serve(listener, router).with_graceful_shutdown(async move { shutdown.requested().await }).await
}

async fn ready(State(context): State<Context>) -> Response {
    let status = context.node.status().borrow().clone();
    let lag = status.committed.saturating_sub(status.applied);
    let why = if status.role == Role::Stopped {
        "raft has stopped\n".to_owned()
    } else if status.leader.is_none() {
        "no leader is known\n".to_owned()
    } else if status.role == Role::Leader && context.node.quorum_age().is_none_or(|age| age > QUORUM_AGE_MAX) {
        "no majority answers this leader\n".to_owned()
    } else if lag > READY_LAG_MAX {
        format!("{lag} entries behind\n")
    } else {
        return (StatusCode::OK, "ready\n").into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

async fn metrics(State(context): State<Context>) -> Response {
    match context.observed.text(&context.node) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
