//! The gate as a layer round all services: before a call, and for as long as its answer streams.

use super::Gate;
use super::quotas::Permit;
use http::HeaderMap;
use http_body::Frame;
use identity::Peer;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Sleep;
use tokio_stream::Stream as _;
use tokio_stream::wrappers::WatchStream;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use types::{Caller, Grant};

/// Puts a [`Guard`] round a service.
#[derive(Clone)]
pub(crate) struct GuardLayer(pub(crate) Gate);

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { gate: self.0.clone(), inner }
    }
}

/// Serves whom the gate lets through.
#[derive(Clone)]
pub(crate) struct Guard<S> {
    gate: Gate,
    inner: S,
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> Service<http::Request<Body>> for Guard<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        // The one that is ready goes into the future; its copy is asked again before the next call.
        let spare = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, spare);
        let gate = self.gate.clone();
        Box::pin(async move {
            let call = Call::of(&request);
            let path = call.path.clone();
            let admitted = match admit(&gate, call).await {
                Ok(admitted) => admitted,
                Err(status) => return Ok(status.into_http()),
            };
            request.extensions_mut().insert(admitted.caller.clone());
            let mut grants = if admitted.path.is_some() { gate.grants(&admitted.caller) } else { BTreeSet::new() };
            let begun = tokio::time::Instant::now();
            let response = inner.call(request).await?;
            gate.took(&path, begun.elapsed());
            let Some(path) = admitted.path else { return Ok(response) };
            // The method may have gone by a role that came meanwhile, or by one that is gone already.
            grants.extend(gate.grants(&admitted.caller));
            Ok(response.map(|body| Body::new(Guarded::new(body, gate, path, admitted, grants))))
        })
    }
}

struct Admitted {
    peer: Arc<Peer>,
    caller: Arc<Caller>,
    /// Of a method whose answer is a stream.
    path: Option<&'static str>,
    permit: Option<Permit>,
}

/// What of a call the gate looks at.
struct Call {
    peer: Option<Arc<Peer>>,
    bearer: Option<String>,
    path: String,
}

impl Call {
    fn of(request: &http::Request<Body>) -> Self {
        Self {
            peer: request.extensions().get::<Arc<Peer>>().cloned(),
            bearer: bearer(request.headers()).map(str::to_owned),
            path: request.uri().path().to_owned(),
        }
    }
}

async fn admit(gate: &Gate, call: Call) -> Result<Admitted, Status> {
    let peer = call.peer.ok_or_else(|| Status::internal("the connection does not say who is at its other end"))?;
    let caller = gate.identify(&peer, call.bearer.as_deref()).await?;
    gate.allow(&caller, &call.path)?;
    // A stranger's connection too is kept while it is of use.
    peer.served();
    let path = proto::needs::method(&call.path).filter(|method| method.streams).map(|method| method.path);
    let permit = gate.one_more(&caller, &call.path, path.is_some())?;
    Ok(Admitted { peer, caller: Arc::new(caller), path, permit })
}

/// The token of a call: `authorization: Bearer TOKEN`.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("bearer "))?.trim();
    if identity::is_jwt(token) {
        return Some(token);
    }
    // What people have is the secret with the cluster's fingerprint behind a point.
    Some(token.rsplit_once('.').map_or(token, |(secret, _)| secret))
}

/// An answer that ends when its caller may not have it any more.
struct Guarded {
    inner: Body,
    gate: Gate,
    peer: Arc<Peer>,
    caller: Arc<Caller>,
    /// What its caller could do before and after its method looked.
    grants: BTreeSet<Grant>,
    path: &'static str,
    changes: WatchStream<u64>,
    /// Done when the token ends.
    expiry: Option<Pin<Box<Sleep>>>,
    over: bool,
    /// Given back when it is over.
    _permit: Option<Permit>,
}

impl Guarded {
    fn new(inner: Body, gate: Gate, path: &'static str, admitted: Admitted, grants: BTreeSet<Grant>) -> Self {
        let Admitted { peer, caller, permit, .. } = admitted;
        let changes = WatchStream::from_changes(gate.version.clone());
        let expiry = gate.remaining(&caller).map(|span| Box::pin(tokio::time::sleep(span)));
        Self { inner, gate, peer, caller, grants, path, changes, expiry, over: false, _permit: permit }
    }
}

impl http_body::Body for Guarded {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let mut look = false;
        while let Poll::Ready(Some(_)) = Pin::new(&mut self.changes).poll_next(cx) {
            look = true;
        }
        if self.expiry.as_mut().is_some_and(|expiry| expiry.as_mut().poll(cx).is_ready()) {
            self.expiry = None;
            look = true;
        }
        if look && let Err(status) = self.gate.still(&self.peer, &self.caller, self.path, &self.grants) {
            self.over = true;
            // Whoever fills it learns that nobody reads any more.
            self.inner = Body::empty();
            let mut trailers = HeaderMap::new();
            return Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))));
        }
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.inner.is_end_stream()
    }
}
