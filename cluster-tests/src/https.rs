//! HTTPS as any client does it: the cluster's authority as the only root, the address as the name, a token in the header.

use crate::wait::PATIENCE;
use anyhow::Context as _;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

/// A TLS stream as strangers get one.
pub type Stream = tokio_rustls::client::TlsStream<TcpStream>;

/// One answer, read to the end of the connection; `bearer` is the token that goes along, if any.
pub async fn get(address: &str, authorities: &Path, path: &str, bearer: Option<&str>) -> anyhow::Result<String> {
    let asked = async {
        let mut stream = connect(address, authorities, b"").await?;
        let token = bearer.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        anyhow::Ok(text)
    };
    tokio::time::timeout(PATIENCE, asked).await.context("no answer in time")?
}

/// A connection after its handshake, without a certificate; `protocol` is what is offered, if anything.
pub async fn connect(address: &str, authorities: &Path, protocol: &[u8]) -> anyhow::Result<Stream> {
    Dialer::new(authorities, protocol)?.connect(address, None).await
}

/// Dials as strangers do, again and again.
#[derive(Clone)]
pub struct Dialer(TlsConnector);

impl Dialer {
    /// With these roots; `protocol` is what is offered, if anything.
    pub fn new(authorities: &Path, protocol: &[u8]) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities)? {
            roots.add(certificate?)?;
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        if !protocol.is_empty() {
            config.alpn_protocols = vec![protocol.to_vec()];
        }
        Ok(Self(TlsConnector::from(Arc::new(config))))
    }

    /// From this address of the machine, if it matters which.
    pub async fn connect(&self, address: &str, from: Option<IpAddr>) -> anyhow::Result<Stream> {
        let to: SocketAddr = address.parse()?;
        let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(from) = from {
            socket.bind(SocketAddr::new(from, 0))?;
        }
        let stream = socket.connect(to).await?;
        Ok(self.0.connect(ServerName::IpAddress(to.ip().into()), stream).await?)
    }
}
