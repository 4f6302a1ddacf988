//! Dialing a coordinator: TCP, then TLS with this node's certificate, or with the cluster's fingerprint alone.

use crate::credentials::bearer_value;
use crate::node::Node;
use crate::secret::{Fingerprint, Secret};
use crate::secured::Secured;
use crate::tls::{self, COORDINATOR_NAME, TlsError};
use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

/// TCP and handshake together; an endpoint's own connect timeout may be shorter.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// Opens connections to coordinators; clones share what they prove themselves with.
#[derive(Clone)]
pub struct Dialer {
    proof: Proof,
}

#[derive(Clone)]
enum Proof {
    /// A node's certificate, as it is at the time.
    Node(Node),
    /// None: the other end must have one of these authorities, and the call brings a token.
    Pinned(Arc<ClientConfig>),
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.proof {
            Proof::Node(node) => write!(f, "Dialer({node:?})"),
            Proof::Pinned(_) => f.write_str("Dialer(pinned)"),
        }
    }
}

impl Dialer {
    /// As this node.
    pub fn node(node: Node) -> Self {
        Self { proof: Proof::Node(node) }
    }

    /// As nobody, to a cluster whose authority has one of these fingerprints.
    pub fn pinned(authorities: &[Fingerprint]) -> Result<Self, TlsError> {
        Ok(Self { proof: Proof::Pinned(tls::pinned_client(authorities)?) })
    }

    /// A channel that connects when it is first used, and again after a loss.
    pub fn lazy(&self, endpoint: &Endpoint) -> Channel {
        endpoint.connect_with_connector_lazy(self.connector())
    }

    /// Connects now.
    pub async fn connect(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        endpoint.connect_with_connector(self.connector()).await
    }

    fn connector(
        &self,
    ) -> impl tower::Service<Uri, Response = Io, Error = io::Error, Future = Connecting> + Send + use<> {
        let proof = self.proof.clone();
        tower::service_fn(move |uri: Uri| -> Connecting {
            let proof = proof.clone();
            Box::pin(async move {
                let connected = tokio::time::timeout(CONNECT_MAX, open(uri, proof)).await;
                connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            })
        })
    }
}

type Io = TokioIo<Secured<TlsStream<TcpStream>>>;
type Connecting = Pin<Box<dyn Future<Output = io::Result<Io>> + Send>>;

async fn open(uri: Uri, proof: Proof) -> io::Result<Io> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{uri} has no {what}"));
    let host = uri.host().ok_or_else(|| bad("host"))?.trim_matches(['[', ']']);
    let port = uri.port_u16().ok_or_else(|| bad("port"))?;
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    #[cfg(feature = "plain-text")]
    if crate::plain_text::is_spoken() {
        let material = match &proof {
            Proof::Node(node) => Some(node.material()),
            Proof::Pinned(_) => None,
        };
        let certificate = material.as_ref().map(|material| &**material.certificate());
        return Ok(TokioIo::new(crate::plain_text::dial(stream, certificate).await?));
    }
    let config = match proof {
        Proof::Node(node) => node.material().client(),
        Proof::Pinned(config) => config,
    };
    let name = ServerName::try_from(COORDINATOR_NAME).map_err(io::Error::other)?;
    Ok(TokioIo::new(Secured::Tls(TlsConnector::from(config).connect(name, stream).await?)))
}

/// Puts a token on every call, where there is one.
#[derive(Clone)]
pub struct Bearer(Option<AsciiMetadataValue>);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer(..)")
    }
}

impl Bearer {
    /// Of this token.
    pub fn new(token: &Secret) -> Result<Self, Status> {
        bearer_value(token).map(|value| Self(Some(value)))
    }

    /// None: a certificate proves enough.
    pub fn none() -> Self {
        Self(None)
    }
}

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel whose calls bring a token.
pub type Authorized = InterceptedService<Channel, Bearer>;

/// A transport error with its causes: tonic alone says "transport error".
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
