//! Whose a certificate is: written into it by the authority, read out of what a peer shows.

use crate::places::Standing;
use crate::tls::TlsError;
use rustls_pki_types::CertificateDer;
use std::fmt;
use std::net::IpAddr;
use types::{ClusterId, CoordinatorId, Principal, Timestamp, WorkerId};
use x509_parser::extensions::GeneralName;

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A coordinator.
    Coordinator {
        /// Of this cluster.
        cluster: ClusterId,
        /// Its number.
        id: CoordinatorId,
    },
    /// A worker daemon.
    Worker {
        /// Of this cluster.
        cluster: ClusterId,
        /// Its name.
        name: WorkerId,
    },
}

impl Subject {
    /// As it stands in the certificate: `spiffe://CLUSTER/coordinator/1`.
    pub fn uri(&self) -> String {
        match self {
            Subject::Coordinator { cluster, .. } | Subject::Worker { cluster, .. } => {
                format!("spiffe://{cluster}/{}", self.principal())
            }
        }
    }

    /// Reads `uri`.
    pub fn from_uri(uri: &str) -> Option<Self> {
        let (cluster, node) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let cluster = cluster.parse().ok()?;
        match node.split_once('/')? {
            ("coordinator", id) => Some(Subject::Coordinator { cluster, id: id.parse().ok()? }),
            ("worker", name) => Some(Subject::Worker { cluster, name: WorkerId::new(name).ok()? }),
            _ => None,
        }
    }

    /// Who it is among all callers.
    pub fn principal(&self) -> Principal {
        match self {
            Subject::Coordinator { id, .. } => Principal::Coordinator(*id),
            Subject::Worker { name, .. } => Principal::Worker(name.clone()),
        }
    }

    /// The cluster whose authority signed it.
    pub fn cluster(&self) -> ClusterId {
        match self {
            Subject::Coordinator { cluster, .. } | Subject::Worker { cluster, .. } => *cluster,
        }
    }

    /// Of a certificate, with the time at which it was issued and the end of its life.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<(Self, Timestamp, Timestamp), TlsError> {
        let bad = |what: &str| TlsError::Certificate(what.to_owned());
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        let names = parsed.subject_alternative_name().map_err(|error| TlsError::Certificate(error.to_string()))?;
        let mut uris = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let subject = uris.next().and_then(Self::from_uri).ok_or_else(|| bad("it names no node of a cluster"))?;
        if uris.next().is_some() {
            return Err(bad("it names two nodes"));
        }
        let issued = match parsed.raw_serial() {
            [1, time @ ..] if time.len() == 16 => {
                Timestamp(time[..8].iter().fold(0, |all, byte| all << 8 | u64::from(*byte)))
            }
            _ => return Err(bad("its serial number does not say when it was issued")),
        };
        let ends = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok((subject, issued, Timestamp(ends.saturating_mul(1_000))))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.principal())
    }
}

/// The other end of an accepted connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address.
    pub from: Option<IpAddr>,
    /// What its certificate says, with the time at which that was issued; none without one.
    pub node: Option<(Subject, Timestamp)>,
    pub(crate) standing: Standing,
}

impl Peer {
    /// It has called as somebody who is known: its connection stays open.
    pub fn proved(&self) {
        self.standing.prove();
    }

    /// It was answered without proof, as everybody is who asks for health: its connection stays open for a while.
    pub fn served(&self) {
        self.standing.serve();
    }
}
