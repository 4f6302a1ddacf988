//! A node's own proof of who it is, exchangeable while it runs: each handshake takes what is there then.

use crate::authority::Authority;
use crate::subject::Subject;
use crate::tls::{self, ALPN_H2, ALPN_HTTP1, Shown, TlsError};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::{Arc, PoisonError, RwLock};
use types::Timestamp;

/// What a node shows and believes at one time. No `Debug`: it holds a private key.
pub struct Material {
    /// Who it is.
    pub subject: Subject,
    /// When its certificate was issued.
    pub issued: Timestamp,
    /// When its certificate ends.
    pub ends: Timestamp,
    certificate: CertificateDer<'static>,
    key_pem: String,
    trusted: Vec<CertificateDer<'static>>,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Material {
    /// Of a certificate, the PEM of its key, and the authorities to believe, the one that signs now last.
    pub fn new(
        certificate: CertificateDer<'static>,
        key_pem: String,
        trusted: Vec<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let (subject, issued, ends) = Subject::of(&certificate)?;
        let pair = KeyPair::from_pem(&key_pem)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        // The authorities go along for clients that know them by fingerprint only.
        let chain: Vec<_> = std::iter::once(certificate.clone()).chain(trusted.iter().rev().cloned()).collect();
        let shown = Shown { chain: &chain, key: &key };
        let grpc = tls::server(&shown, &trusted, ALPN_H2)?;
        let http = tls::server(&shown, &trusted, ALPN_HTTP1)?;
        let client = tls::node_client(&shown, &trusted)?;
        Ok(Self { subject, issued, ends, certificate, key_pem, trusted, grpc, http, client })
    }

    /// A new key, signed by the authority at hand.
    pub fn issue(authority: &Authority, request: &NodeRequest<'_>) -> Result<Self, TlsError> {
        let key = NodeKey::generate()?;
        let certificate = authority.sign(&crate::Request {
            subject: request.subject,
            public_key: &key.public_key(),
            hosts: request.hosts,
            now: request.now,
            life: request.life,
        })?;
        Self::new(certificate, key.pem, request.trusted.to_vec())
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its private key in PEM, for its own disk only.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The authorities that it believes, the one that signs now last.
    pub fn trusted(&self) -> &[CertificateDer<'static>] {
        &self.trusted
    }

    /// When to ask for the next certificate: after two thirds of this one's life.
    pub fn renew_at(&self) -> Timestamp {
        Timestamp(self.issued.0 + self.ends.0.saturating_sub(self.issued.0) / 3 * 2)
    }

    pub(crate) fn server(&self, is_grpc: bool) -> Arc<ServerConfig> {
        if is_grpc { self.grpc.clone() } else { self.http.clone() }
    }

    pub(crate) fn client(&self) -> Arc<ClientConfig> {
        self.client.clone()
    }
}

/// What [`Material::issue`] is to make.
pub struct NodeRequest<'a> {
    /// Whose.
    pub subject: &'a Subject,
    /// Where clients that know nothing of Muster may reach it.
    pub hosts: &'a [String],
    /// Authorities to believe.
    pub trusted: &'a [CertificateDer<'static>],
    /// Now.
    pub now: Timestamp,
    /// How long it counts.
    pub life: std::time::Duration,
}

/// A private key whose certificate is still to come.
pub struct NodeKey {
    pem: String,
    public_key: Vec<u8>,
}

impl NodeKey {
    /// A new one.
    pub fn generate() -> Result<Self, TlsError> {
        let pair = KeyPair::generate()?;
        Ok(Self { pem: pair.serialize_pem(), public_key: pair.subject_public_key_info() })
    }

    /// DER of the SubjectPublicKeyInfo that is to be signed.
    pub fn public_key(&self) -> Vec<u8> {
        self.public_key.clone()
    }

    /// With what the authority answered.
    pub fn certified(
        self,
        certificate: Vec<u8>,
        trusted: impl IntoIterator<Item = Vec<u8>>,
    ) -> Result<Material, TlsError> {
        let trusted = trusted.into_iter().map(CertificateDer::from).collect();
        Material::new(certificate.into(), self.pem, trusted)
    }
}

/// A node's current material; clones share it.
#[derive(Clone)]
pub struct Node {
    current: Arc<RwLock<Arc<Material>>>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.material().subject)
    }
}

impl Node {
    /// With this material.
    pub fn new(material: Material) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(material))) }
    }

    /// What it shows and believes now.
    pub fn material(&self) -> Arc<Material> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on; open connections stay as they are.
    pub fn replace(&self, material: Material) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }
}

/// Certificates of a PEM text, in order.
pub(crate) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::Certificate(error.to_string()))
}

/// As PEM text.
pub(crate) fn to_pem<'a>(certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>) -> String {
    let blocks = certificates.into_iter().map(|one| pem::encode(&pem::Pem::new("CERTIFICATE", one.to_vec())));
    blocks.collect()
}
