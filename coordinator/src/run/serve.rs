//! The two listeners: gRPC with health and reflection, and HTTP; both end with the process's end or tell why they failed.

use super::Error;
use crate::gate::GuardLayer;
use crate::observe::Place;
use crate::{api, http, raft};
use daemon::Shutdown;
use identity::Protocol;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::{InterceptorLayer, Routes};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// What health is told of: the server as a whole, and the services of clients.
const SERVICES: [&str; 7] = [
    "",
    "muster.v1.Jobs",
    "muster.v1.Cluster",
    "muster.v1.Access",
    "muster.v1.Lineage",
    "muster.v1.Blobs",
    "muster.v1.Telemetry",
];

/// The servers under way.
pub(super) struct Served {
    pub(super) grpc: SocketAddr,
    pub(super) http: SocketAddr,
    servers: [JoinHandle<()>; 2],
    failed: watch::Receiver<Option<String>>,
}

/// Serves until `ending`.
pub(super) fn serve(
    context: api::Context,
    place: Place,
    grpc: TcpListener,
    http: TcpListener,
    ending: &Shutdown,
) -> Result<Served, Error> {
    let bound = |listener: &TcpListener| {
        listener.local_addr().map_err(|source| Error::Io { what: "ask for a listener's address".into(), source })
    };
    let (grpc_at, http_at) = (bound(&grpc)?, bound(&http)?);
    let (reporter, health) = tonic_health::server::health_reporter();
    tokio::spawn(report_health(reporter, context.node.clone()));
    let routes = api::services(&context, reflection(Routes::new(health))?);
    let (failure, failed) = watch::channel(None);
    let accepting = |listener, protocol| {
        identity::accept(listener, place.own.clone(), protocol, &place.connections)
            .map_err(|source| Error::Io { what: "listen".into(), source })
    };
    let (incoming, web_incoming) = (accepting(grpc, Protocol::Grpc)?, accepting(http, Protocol::Http)?);
    let gate = context.gate.clone();
    let seen = http::Context {
        node: context.node.clone(),
        observed: context.observed.clone(),
        gate: gate.clone(),
        place: place.clone(),
    };
    let web = http::serve(web_incoming, seen, ending.clone());
    let ended = ending.clone();
    let calls = raft::tuned_server()
        .layer(InterceptorLayer::new(api::version::check))
        .layer(GuardLayer(gate))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, async move { ended.requested().await });
    let failure_of_web = failure.clone();
    let servers = [
        tokio::spawn(async move {
            if let Err(error) = calls.await {
                failure.send_replace(Some(format!("gRPC: {error}")));
            }
        }),
        tokio::spawn(async move {
            if let Err(error) = web.await {
                failure_of_web.send_replace(Some(format!("HTTP: {error}")));
            }
        }),
    ];
    Ok(Served { grpc: grpc_at, http: http_at, servers, failed })
}

impl Served {
    /// Returns, with the reason, when a server ended by itself.
    pub(super) async fn failed(&self) -> String {
        let mut failed = self.failed.clone();
        let why = match failed.wait_for(Option::is_some).await {
            Ok(why) => why.clone(),
            Err(_) => None,
        };
        match why {
            Some(why) => why,
            // Both ended in order.
            None => std::future::pending().await,
        }
    }

    /// Waits for open calls to end, at most so long.
    pub(super) async fn ended(&mut self, timeout: Duration) {
        let both = async {
            for server in self.servers.iter_mut().filter(|server| !server.is_finished()) {
                let _ = server.await;
            }
        };
        // What is still open then is for the caller to decide.
        let _ = tokio::time::timeout(timeout, both).await;
    }

    /// Takes nothing more, whatever is still open.
    pub(super) fn abort(&self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

fn reflection(routes: Routes) -> Result<Routes, Error> {
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let wrap = |error: tonic_reflection::server::Error| Error::Failed(format!("reflection: {error}"));
    let (v1, v1alpha) = (builder().build_v1().map_err(wrap)?, builder().build_v1alpha().map_err(wrap)?);
    Ok(routes.add_service(v1).add_service(v1alpha))
}

/// Serving while a leader is known: without one, neither reads nor writes are answered.
async fn report_health(reporter: HealthReporter, node: raft::Node) {
    let mut leadership = node.leadership();
    drop(node);
    loop {
        let known = leadership.borrow_and_update().leader.is_some();
        let status = if known { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}
