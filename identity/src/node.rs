//! A node's own proof of who it is, exchangeable while it runs: each handshake takes what is there then.

use crate::authority::Authority;
use crate::subject::Subject;
use crate::tls::{self, ALPN_H2, ALPN_HTTP1, Shown, TlsError};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::{ClientConfig, ServerConfig};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::sync::atomic::{AtomicU64, Ordering};
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
    vouched: Option<CertificateDer<'static>>,
    grpc: Arc<ServerConfig>,
    http: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Material {
    /// Of a certificate, the PEM of its key, the authorities to believe, the one that signs now last, and the certificate of that
    /// one by the one before it, while both count.
    pub fn new(
        certificate: CertificateDer<'static>,
        key_pem: String,
        trusted: Vec<CertificateDer<'static>>,
        vouched: Option<CertificateDer<'static>>,
    ) -> Result<Self, TlsError> {
        let (subject, issued, ends) = Subject::of(&certificate)?;
        let pair = KeyPair::from_pem(&key_pem)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        // The authorities go along for clients that know them by fingerprint only, and what leads from the new to the old one.
        let above = vouched.iter().chain(trusted.iter().rev()).cloned();
        let chain: Vec<_> = std::iter::once(certificate.clone()).chain(above).collect();
        let shown = Shown { chain: &chain, key: &key };
        let grpc = tls::server(&shown, &trusted, ALPN_H2)?;
        let http = tls::server(&shown, &trusted, ALPN_HTTP1)?;
        let client = tls::node_client(&shown, &trusted)?;
        Ok(Self { subject, issued, ends, certificate, key_pem, trusted, vouched, grpc, http, client })
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
        Self::new(certificate, key.pem, request.trusted.to_vec(), request.vouched.cloned())
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

    /// The certificate of the authority that signs now by the one before it.
    pub fn vouched(&self) -> Option<&CertificateDer<'static>> {
        self.vouched.as_ref()
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
    /// What the one before the last of them says of the last.
    pub vouched: Option<&'a CertificateDer<'static>>,
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
        vouched: Option<Vec<u8>>,
    ) -> Result<Material, TlsError> {
        let trusted = trusted.into_iter().map(CertificateDer::from).collect();
        Material::new(certificate.into(), self.pem, trusted, vouched.map(CertificateDer::from))
    }
}

/// A node's current material; clones share it.
#[derive(Clone)]
pub struct Node {
    current: Arc<RwLock<Arc<Material>>>,
    /// Certificates that were issued before count no more, in milliseconds.
    counts_from: Arc<AtomicU64>,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Node({})", self.material().subject)
    }
}

impl Node {
    /// With this material.
    pub fn new(material: Material) -> Self {
        Self { current: Arc::new(RwLock::new(Arc::new(material))), counts_from: Arc::default() }
    }

    /// What it shows and believes now.
    pub fn material(&self) -> Arc<Material> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on; open connections stay as they are.
    pub fn replace(&self, material: Material) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(material);
    }

    /// Accepted connections under certificates that were issued before this time end as soon as they are used.
    pub fn believe_from(&self, time: Timestamp) {
        self.counts_from.fetch_max(time.0, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self, issued: Timestamp) -> bool {
        issued.0 >= self.counts_from.load(Ordering::Relaxed)
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
