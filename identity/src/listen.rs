//! Accepting: TCP, then the handshake beside the others' with a deadline, then a stream that knows who is at its other end, and ends
//! when who is there proves nothing.

use crate::node::Node;
use crate::places::{Places, Standing, Unproven};
use crate::secured::Secured;
use crate::subject::{Peer, Subject};
use rustls_pki_types::CertificateDer;
use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use types::Timestamp;

/// Who has not proven anything within this is sent away.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
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

/// Accepts on this listener until the result is dropped, as many as there are places.
pub fn accept(listener: TcpListener, node: Node, protocol: Protocol, places: &Places) -> io::Result<Incoming> {
    let local = listener.local_addr()?;
    let (sender, ready) = mpsc::channel(READY_MAX);
    tokio::spawn(accept_all(listener, node, protocol, places.clone(), sender));
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

async fn accept_all(
    listener: TcpListener,
    node: Node,
    protocol: Protocol,
    places: Places,
    ready: mpsc::Sender<Accepted>,
) {
    loop {
        let Some(place) = places.free().await else { return };
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
        let Some((standing, unproven)) = places.seat(from.ip(), place) else { continue };
        let (node, ready) = (node.clone(), ready.clone());
        tokio::spawn(async move {
            match begin(stream, from, &node, protocol, standing, unproven).await {
                Ok(accepted) => drop(ready.send(accepted).await),
                Err(error) => tracing::debug!(%error, %from, "a connection did not prove itself"),
            }
        });
    }
}

/// A connection after its handshake, if that comes in time.
async fn begin(
    stream: TcpStream,
    from: SocketAddr,
    node: &Node,
    protocol: Protocol,
    standing: Standing,
    mut unproven: Unproven,
) -> io::Result<Accepted> {
    let shaking = async {
        let _turn = unproven.handshakes.acquire().await;
        shake(stream, node, protocol).await
    };
    let (stream, shown) = tokio::select! {
        shaken = tokio::time::timeout(HANDSHAKE_MAX, shaking) => {
            shaken.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "it proved nothing in time"))??
        }
        _ = &mut unproven.ended => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if shown.is_some() {
        standing.prove();
    }
    let unproven = shown.is_none().then_some(unproven);
    let peer = Arc::new(Peer { from: Some(from.ip()), node: shown, standing });
    Ok(Accepted { stream, peer, by: node.clone(), unproven })
}

type Shown = Option<(Subject, Timestamp)>;

async fn shake(
    stream: TcpStream,
    node: &Node,
    protocol: Protocol,
) -> io::Result<(Secured<TlsStream<TcpStream>>, Shown)> {
    stream.set_nodelay(true)?;
    let (stream, shown) = prove(stream, node, protocol).await?;
    match shown.as_ref().map(Subject::of).transpose() {
        Ok(read) => Ok((stream, read.map(|(subject, issued, _)| (subject, issued)))),
        Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    }
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
    /// Until it has proven itself.
    unproven: Option<Unproven>,
}

impl Accepted {
    /// Refuses to go on under a certificate whose authority was retired: a new connection needs a newer one.
    fn check(&self) -> io::Result<()> {
        match &self.peer.node {
            Some((_, issued)) if !self.by.counts(*issued) => Err(io::ErrorKind::ConnectionAborted.into()),
            _ => Ok(()),
        }
    }

    /// Ends who proves nothing: for a newer one, or after too long a silence. Whoever serves it always reads, and so hears of it.
    fn keep(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(unproven) = &mut self.unproven else { return Ok(()) };
        let standing = &self.peer.standing;
        let ended = Pin::new(&mut unproven.ended).poll(cx);
        // Whoever proves itself lets go of the other end without a word.
        if standing.is_proven() || matches!(ended, Poll::Ready(Err(_))) {
            self.unproven = None;
            return Ok(());
        }
        if ended.is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        while unproven.silence.as_mut().poll(cx).is_ready() {
            let at = standing.silent_at();
            if at <= tokio::time::Instant::now() {
                standing.close_silent();
                self.unproven = None;
                return Err(io::ErrorKind::TimedOut.into());
            }
            unproven.silence.as_mut().reset(at);
        }
        Ok(())
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
        self.keep(cx)?;
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
