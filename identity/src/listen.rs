//! Accepting: TCP, then the handshake beside the others' with a deadline, then a stream that knows who is at its other end.

use crate::node::Node;
use crate::secured::Secured;
use crate::subject::{Peer, Subject};
use rustls_pki_types::CertificateDer;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;

/// Who has not proven anything within this is sent away.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Connections at once, handshakes included; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 65_536;
/// Of them from one address; more are closed.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 32_768;
/// Handshakes of one address at once: more wait, within their deadline, and hold up nobody else's.
const HANDSHAKES_PER_ADDRESS_MAX: usize = 64;
/// Addresses that are remembered before those without a connection are forgotten.
const ADDRESSES_MAX: usize = 10_000;
/// After the system refused a connection (no descriptors left), before the next try.
const REFUSED_PAUSE: Duration = Duration::from_millis(50);
/// Connections that stand ready for the server to take.
const READY_MAX: usize = 64;

/// What is spoken inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/2.
    Grpc,
    /// HTTP/1.1.
    Http,
}

/// Accepted connections; ends with the task that accepts, and ends that when it is dropped.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Accepted>,
    local: SocketAddr,
}

/// Accepts on this listener until the result is dropped.
pub fn accept(listener: TcpListener, node: Node, protocol: Protocol) -> io::Result<Incoming> {
    let local = listener.local_addr()?;
    let (sender, ready) = mpsc::channel(READY_MAX);
    tokio::spawn(accept_all(listener, node, protocol, sender));
    Ok(Incoming { ready, local })
}

impl Incoming {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next connection; none when the task has ended.
    pub async fn next(&mut self) -> Option<Accepted> {
        self.ready.recv().await
    }
}

impl Stream for Incoming {
    type Item = io::Result<Accepted>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(cx).map(|accepted| accepted.map(Ok))
    }
}

/// What one address has.
#[derive(Debug)]
struct Address {
    connections: Arc<Semaphore>,
    handshakes: Semaphore,
}

impl Default for Address {
    fn default() -> Self {
        Self {
            connections: Arc::new(Semaphore::new(CONNECTIONS_PER_ADDRESS_MAX)),
            handshakes: Semaphore::new(HANDSHAKES_PER_ADDRESS_MAX),
        }
    }
}

/// A connection's places, given back with it.
#[derive(Debug)]
struct Held {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _address: Arc<Address>,
}

async fn accept_all(listener: TcpListener, node: Node, protocol: Protocol, ready: mpsc::Sender<Accepted>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut addresses: BTreeMap<IpAddr, Arc<Address>> = BTreeMap::new();
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = ready.closed() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(REFUSED_PAUSE).await;
                continue;
            }
        };
        if addresses.len() > ADDRESSES_MAX {
            addresses.retain(|_, address| Arc::strong_count(address) > 1);
        }
        let address = addresses.entry(from.ip()).or_default().clone();
        let Ok(own) = address.connections.clone().try_acquire_owned() else {
            tracing::warn!(%from, "too many connections of one address: this one is closed");
            continue;
        };
        let held = Held { _all: permit, _own: own, _address: address.clone() };
        let (node, ready) = (node.clone(), ready.clone());
        tokio::spawn(async move {
            let shaking = async {
                let _turn = address.handshakes.acquire().await;
                shake(stream, from.ip(), &node, protocol, held).await
            };
            match tokio::time::timeout(HANDSHAKE_MAX, shaking).await {
                Ok(Ok(accepted)) => drop(ready.send(accepted).await),
                Ok(Err(error)) => tracing::debug!(%error, %from, "a connection did not prove itself"),
                Err(_) => tracing::debug!(%from, "a connection proved nothing within {HANDSHAKE_MAX:?}"),
            }
        });
    }
}

async fn shake(stream: TcpStream, from: IpAddr, node: &Node, protocol: Protocol, held: Held) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let (stream, shown) = prove(stream, node, protocol).await?;
    let by = node.clone();
    let node = match shown.as_ref().map(Subject::of).transpose() {
        Ok(read) => read.map(|(subject, issued, _)| (subject, issued)),
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    Ok(Accepted { stream, peer: Arc::new(Peer { from: Some(from), node }), by, _held: held })
}

/// The handshake, and the certificate that was shown in it.
async fn prove(
    stream: TcpStream,
    node: &Node,
    protocol: Protocol,
) -> io::Result<(Secured<TlsStream<TcpStream>>, Option<CertificateDer<'static>>)> {
    #[cfg(feature = "plain-text")]
    if protocol == Protocol::Grpc && crate::plain_text::is_spoken() {
        return crate::plain_text::accept(stream).await;
    }
    let config = node.material().server(protocol == Protocol::Grpc);
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
    Ok((Secured::Tls(stream), shown))
}

/// A connection whose other end has proven itself, or come without a certificate.
#[derive(Debug)]
pub struct Accepted {
    stream: Secured<TlsStream<TcpStream>>,
    peer: Arc<Peer>,
    by: Node,
    _held: Held,
}

impl Accepted {
    /// Refuses to go on under a certificate whose authority was retired: a new connection needs a newer one.
    fn check(&self) -> io::Result<()> {
        match &self.peer.node {
            Some((_, issued)) if !self.by.counts(*issued) => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// Its other end.
    pub fn peer(&self) -> &Arc<Peer> {
        &self.peer
    }
}

impl tonic::transport::server::Connected for Accepted {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        self.peer.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
