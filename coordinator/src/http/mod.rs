//! Over TLS: `/healthz` (the process runs), `/readyz` (it has a leader and keeps up) for everybody; `/metrics`,
//! `/metrics/workers` (Prometheus text) and `/sd` (where all coordinators are, for Prometheus) for who brings a token whose user may look at the cluster.

use crate::gate::{Gate, bearer};
use crate::observe::{self, Observed, Place};
use crate::raft::{Node, Role};
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use identity::{Incoming, Peer};
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use types::Permission;

/// What this coordinator counts and sees.
const METRICS: &str = "/metrics";
/// What the workers say of their machines, and what they hold; empty but on the leader.
const WORKERS: &str = "/metrics/workers";
/// Where the coordinators answer, as Prometheus's HTTP service discovery takes it.
const TARGETS: &str = "/sd";
/// For the head of a request to come, and for the next one on a connection.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Entries that a ready coordinator may have to catch up with.
const READY_LAG_MAX: u64 = 1_000;

/// What the answers are made of.
#[derive(Clone)]
pub(crate) struct Context {
    pub(crate) node: Node,
    pub(crate) observed: Arc<Observed>,
    pub(crate) gate: Gate,
    pub(crate) place: Place,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(mut incoming: Incoming, context: Context, shutdown: daemon::Shutdown) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route(METRICS, get(metrics))
        .route(WORKERS, get(workers))
        .route(TARGETS, get(targets))
        .with_state(context);
    let mut server = Builder::new(TokioExecutor::new()).http1_only();
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let connections = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            accepted = incoming.next() => accepted,
            () = shutdown.requested() => None,
        };
        let Some(accepted) = accepted else { break };
        let from = From(accepted.peer().clone());
        let served = axum::middleware::from_fn_with_state(from.clone(), serve_one);
        let service = TowerToHyperService::new(router.clone().layer(served).layer(Extension(from)));
        let connection = server.serve_connection(TokioIo::new(accepted), service).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error, "an HTTP connection ended");
            }
        });
    }
    connections.shutdown().await;
    Ok(())
}

async fn ready(State(context): State<Context>) -> Response {
    let status = context.node.status().borrow().clone();
    let lag = status.committed.saturating_sub(status.applied);
    let why = if status.role == Role::Stopped {
        "raft has stopped\n".to_owned()
    } else if status.leader.is_none() {
        "no leader is known\n".to_owned()
    } else if context.node.leads_alone() {
        "no majority answers this leader\n".to_owned()
    } else if lag > READY_LAG_MAX {
        format!("{lag} entries behind\n")
    } else {
        return (StatusCode::OK, "ready\n").into_response();
    };
    (StatusCode::SERVICE_UNAVAILABLE, why).into_response()
}

/// Who is at the other end of a request's connection.
#[derive(Clone)]
struct From(Arc<Peer>);

/// The connection is of use: it stays open for a while.
async fn serve_one(State(From(peer)): State<From>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if response.status().is_success() {
        peer.served();
    }
    response
}

/// Answers with the status of a refusal: 401 to who is not known, 403 to who may not.
async fn allowed(context: &Context, peer: &Peer, headers: &HeaderMap, path: &str) -> Result<(), Response> {
    let admitted = match context.gate.identify(peer, bearer(headers)).await {
        Ok(caller) => context.gate.permit(&caller, Permission::ClusterRead, path),
        Err(status) => Err(status),
    };
    admitted.map_err(|status| {
        let code = match status.code() {
            Code::Unauthenticated => StatusCode::UNAUTHORIZED,
            Code::PermissionDenied => StatusCode::FORBIDDEN,
            Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        (code, format!("{}\n", status.message())).into_response()
    })
}

async fn metrics(
    Extension(From(peer)): Extension<From>,
    State(context): State<Context>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = allowed(&context, &peer, &headers, METRICS).await {
        return refused;
    }
    // A hundred thousand waiting jobs and a slow disk are no reason to hold up anybody else.
    let made = tokio::task::spawn_blocking(move || context.observed.text(&context.node, &context.place));
    exposed(&headers, made.await)
}

async fn workers(
    Extension(From(peer)): Extension<From>,
    State(context): State<Context>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = allowed(&context, &peer, &headers, WORKERS).await {
        return refused;
    }
    let made = tokio::task::spawn_blocking(move || context.observed.workers(&context.node));
    exposed(&headers, made.await)
}

/// In the form that is asked for.
fn exposed(headers: &HeaderMap, made: Result<Result<String, std::fmt::Error>, tokio::task::JoinError>) -> Response {
    let text = match made {
        Ok(Ok(text)) => text,
        Ok(Err(error)) => return failed(&error),
        Err(error) => return failed(&error),
    };
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if observe::wants_open(accept) {
        ([(header::CONTENT_TYPE, observe::OPEN)], text).into_response()
    } else {
        ([(header::CONTENT_TYPE, observe::CLASSIC)], observe::classic(&text)).into_response()
    }
}

fn failed(error: &dyn std::error::Error) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response()
}

async fn targets(
    Extension(From(peer)): Extension<From>,
    State(context): State<Context>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = allowed(&context, &peer, &headers, TARGETS).await {
        return refused;
    }
    let status = context.node.status().borrow().clone();
    let groups = status.members.iter().map(|member| {
        serde_json::json!({
            "targets": [member.addresses.http],
            "labels": {"coordinator": member.id.to_string()},
        })
    });
    let all = serde_json::Value::Array(groups.collect());
    ([(header::CONTENT_TYPE, "application/json")], all.to_string()).into_response()
}
