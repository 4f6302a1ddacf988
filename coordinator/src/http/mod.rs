//! Over TLS: `/healthz` (the process runs), `/readyz` (it has a leader and keeps up) for everybody, and `/metrics` (Prometheus
//! text) for who brings a token whose user may look at the cluster.

use crate::gate::{Gate, bearer};
use crate::observe::Observed;
use crate::raft::{Node, Role};
use axum::Router;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::IncomingStream;
use identity::{Accepted, Incoming, Peer};
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use types::Permission;

/// Entries that a ready coordinator may have to catch up with.
const READY_LAG_MAX: u64 = 1_000;
/// A leader that has not heard of a majority for so long answers neither reads nor writes: dozens of heartbeats.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Context {
    node: Node,
    observed: Arc<Observed>,
    gate: Gate,
}

/// Serves until `shutdown`.
pub(crate) async fn serve(
    incoming: Incoming,
    node: Node,
    observed: Arc<Observed>,
    gate: Gate,
    shutdown: daemon::Shutdown,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Context { node, observed, gate })
        .into_make_service_with_connect_info::<From>();
    axum::serve(Listener(incoming), router).with_graceful_shutdown(async move { shutdown.requested().await }).await
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

/// Connections after their handshake, as axum takes them.
struct Listener(Incoming);

impl axum::serve::Listener for Listener {
    type Io = Accepted;
    type Addr = Arc<Peer>;

    async fn accept(&mut self) -> (Accepted, Arc<Peer>) {
        match self.0.next().await {
            Some(accepted) => {
                let peer = accepted.peer().clone();
                (accepted, peer)
            }
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<Arc<Peer>> {
        Ok(Arc::new(Peer { from: Some(self.0.local_addr().ip()), node: None }))
    }
}

/// Who is at the other end of a request's connection.
#[derive(Clone)]
struct From(Arc<Peer>);

impl Connected<IncomingStream<'_, Listener>> for From {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        Self(stream.remote_addr().clone())
    }
}

/// Answers with the status of a refusal: 401 to who is not known, 403 to who may not.
async fn allowed(context: &Context, peer: &Peer, headers: &HeaderMap) -> Result<(), Response> {
    let admitted = match context.gate.identify(peer, bearer(headers)).await {
        Ok(caller) => context.gate.permit(&caller, Permission::ClusterRead, "/metrics"),
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
    ConnectInfo(From(peer)): ConnectInfo<From>,
    State(context): State<Context>,
    headers: HeaderMap,
) -> Response {
    if let Err(refused) = allowed(&context, &peer, &headers).await {
        return refused;
    }
    match context.observed.text(&context.node) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
