//! Who is who between processes: the cluster's authority, certificates with a role in them, tokens, and TLS 1.3 round every
//! socket.
//!
//! ```text
//!  authority ── signs ──> node certificate   spiffe://CLUSTER/coordinator/ID | spiffe://CLUSTER/worker/NAME
//!      │ fingerprint
//!      └── in every token and stored credential, so that a client knows the cluster before it sends its secret
//!
//!  listen: TCP ─> a place ─> TLS handshake (bounded in number and time) ─> stream with the peer's role     dial: the same from the other end
//! ```
//!
//! Coordinators prove themselves to everybody, workers to coordinators, both by certificates that live a day. People and
//! programs prove themselves by tokens inside TLS. A private key or secret has no `Debug` form.

mod authority;
mod credentials;
mod dial;
mod files;
pub mod https;
mod join;
mod jwt;
mod listen;
mod node;
mod places;
#[cfg(feature = "plain-text")]
pub mod plain_text;
mod sealing;
mod secret;
mod secured;
mod stream_seal;
mod subject;
mod tls;

#[cfg(test)]
mod tests;

pub use authority::{Authority, CERTIFICATE_LIFE, Request, is_signed_by};
pub use credentials::{Credentials, CredentialsError};
pub use dial::{Authorized, Bearer, Dialer, chain_of};
pub use files::{FilesError, NodeFolder, SECRETS_KEY, SharedFile};
pub use join::{Admission, JoinError, Joined, Joiner, join, renew, signing};
pub use jwt::{Claims, JWT_BYTES_MAX, JwtError, KeySet, is_jwt};
pub use listen::{Accepted, Incoming, Protocol, accept};
pub use node::{Material, Node, NodeKey, NodeRequest};
pub use places::{Bounds, Closed, Places};
pub use sealing::{SealedValue, SealingError, SealingKey, SealingKeys};
pub use secret::{Fingerprint, InvalidSecret, Secret, SecretKind, digest, fingerprint};
pub use stream_seal::{SALT_BYTES, StreamOpener, StreamSealer};
pub use subject::{Peer, Subject};
pub use tls::{COORDINATOR_NAME, TlsError};

/// An X.509 certificate in DER.
pub type Certificate = rustls_pki_types::CertificateDer<'static>;

/// A certificate in DER as PEM text.
pub fn pem_of(der: &[u8]) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", der))
}

/// The time that certificates are stamped and judged by.
pub fn now() -> types::Timestamp {
    daemon::clock::now()
}
