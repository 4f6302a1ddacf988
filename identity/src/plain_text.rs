//! gRPC without TLS, to measure what TLS costs. Only in a build with the feature `plain-text`, which no release has; and there
//! only where [`VARIABLE`] or [`speak`] asks for it.
//!
//! A node says who it is by showing its certificate, and proves nothing.

use crate::secured::Secured;
use rustls_pki_types::CertificateDer;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Set to anything, a process begins in plain text.
pub const VARIABLE: &str = "MUSTER_PLAIN_TEXT";
/// Longest certificate that is read.
const CERTIFICATE_BYTES_MAX: u16 = 8 << 10;

static PLAIN: LazyLock<AtomicBool> = LazyLock::new(|| AtomicBool::new(daemon::environment::text(VARIABLE).is_some()));

/// From now on connections of this process are made in plain text, or in TLS again.
pub fn speak(plain: bool) {
    PLAIN.store(plain, Ordering::Relaxed);
}

/// Are connections made in plain text?
pub fn is_spoken() -> bool {
    PLAIN.load(Ordering::Relaxed)
}

/// Says who dials: its certificate, or nothing.
pub(crate) async fn dial<T>(mut stream: TcpStream, certificate: Option<&[u8]>) -> io::Result<Secured<T>> {
    let certificate = certificate.unwrap_or_default();
    stream.write_u16(u16::try_from(certificate.len()).map_err(io::Error::other)?).await?;
    stream.write_all(certificate).await?;
    Ok(Secured::Plain(stream))
}

/// What the dialer said.
pub(crate) async fn accept<T>(mut stream: TcpStream) -> io::Result<(Secured<T>, Option<CertificateDer<'static>>)> {
    let length = stream.read_u16().await?;
    if length > CERTIFICATE_BYTES_MAX {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut certificate = vec![0; usize::from(length)];
    stream.read_exact(&mut certificate).await?;
    Ok((Secured::Plain(stream), (length > 0).then(|| certificate.into())))
}
