//! TLS 1.3 and nothing older: what a node shows, and whom it and its clients believe.

use crate::secret::{Fingerprint, fingerprint};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use std::sync::Arc;

/// The name that every coordinator's certificate has, whatever its address: what Muster's own processes ask for.
pub const COORDINATOR_NAME: &str = "coordinator.muster.internal";

/// To who dials by a token.
const ANOTHER_AUTHORITY: &str = "the cluster's authority is not the one that the token names: it is another cluster, or its authority \
                                 was replaced; ask for a new token";

/// gRPC.
pub(crate) const ALPN_H2: &[u8] = b"h2";
/// Probes, Prometheus.
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why a certificate or key could not be made or used. Never holds a key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate that is not what it should be.
    #[error("certificate: {0}")]
    Certificate(String),
    /// Made or signed.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Used.
    #[error("cannot use a certificate: {0}")]
    Use(#[from] rustls::Error),
    /// No randomness.
    #[error("cannot draw random bytes")]
    Random(#[source] std::io::Error),
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What a node proves itself with: its certificate first, then the authority that signed it.
pub(crate) struct Shown<'a> {
    pub(crate) chain: &'a [CertificateDer<'static>],
    pub(crate) key: &'a PrivateKeyDer<'static>,
}

fn roots(trusted: &[CertificateDer<'static>]) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone())?;
    }
    Ok(Arc::new(roots))
}

/// For a listener: asks for a certificate and checks one that comes; people come without.
pub(crate) fn server(
    shown: &Shown<'_>,
    trusted: &[CertificateDer<'static>],
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(trusted)?, provider()).allow_unauthenticated();
    let verifier = verifier.build().map_err(|error| TlsError::Certificate(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(shown.chain.to_vec(), shown.key.clone_key())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session would not look at the certificate again, which may have ended meanwhile; connections here live long.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// For a node that dials: shows its own certificate, believes the cluster's authorities.
pub(crate) fn node_client(
    shown: &Shown<'_>,
    trusted: &[CertificateDer<'static>],
) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(trusted)?)
        .with_client_auth_cert(shown.chain.to_vec(), shown.key.clone_key())?;
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// For who knows no more of the cluster than the fingerprints of its authorities.
pub(crate) fn pinned_client(authorities: &[Fingerprint]) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = Arc::new(Pinned { authorities: authorities.to_vec(), provider: provider() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

/// Believes a chain that ends in an authority with a known fingerprint: found in what the server shows, then checked by the
/// library as any root would be.
#[derive(Debug)]
struct Pinned {
    authorities: Vec<Fingerprint>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut roots = RootCertStore::empty();
        for certificate in intermediates.iter().filter(|one| self.authorities.contains(&fingerprint(one))) {
            roots.add(certificate.clone().into_owned())?;
        }
        if roots.is_empty() {
            return Err(rustls::Error::General(ANOTHER_AUTHORITY.into()));
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
