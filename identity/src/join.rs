//! How a node gets its certificate: it asks coordinators, with a join token or in the name of who starts it, and a worker again
//! before the old one ends.

use crate::authority::Authority;
use crate::credentials::Credentials;
use crate::dial::{Dialer, chain_of};
use crate::node::{Material, Node, NodeKey};
use crate::sealing::SealingKeys;
use crate::secret::{Fingerprint, Secret, fingerprint};
use crate::subject::Subject;
use crate::tls::TlsError;
use proto::v1;
use proto::v1::access_client::AccessClient;
use std::time::Duration;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};
use types::{ClusterId, CoordinatorId, WorkerId};

const CONNECT_MAX: Duration = Duration::from_secs(3);
const ANSWER_MAX: Duration = Duration::from_secs(15);

/// By what a node is admitted. No `Debug`: it is a secret.
#[derive(Clone)]
pub enum Admission {
    /// A join token.
    Token(Secret),
    /// A user who may admit nodes, and starts this one.
    User(Credentials),
}

impl Admission {
    fn authority(&self) -> Fingerprint {
        match self {
            Admission::Token(secret) => secret.authority(),
            Admission::User(credentials) => credentials.authority(),
        }
    }
}

/// As whom.
#[derive(Clone, Debug)]
pub enum Joiner {
    /// A coordinator, with the host names and addresses at which clients reach it.
    Coordinator(CoordinatorId, Vec<String>),
    /// A worker.
    Worker(WorkerId),
}

/// Who it is from now on.
pub struct Joined {
    /// Its certificate.
    pub material: Material,
    /// To a coordinator: the authority that it signs with.
    pub authority: Option<Authority>,
    /// To a coordinator, unless the operator holds it: what secrets of jobs are sealed with.
    pub sealing_keys: Option<SealingKeys>,
}

/// Why a node was not admitted.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nobody could answer now: to be tried again.
    #[error("{0}")]
    Again(String),
    /// It will not be admitted like this.
    #[error("not admitted to the cluster: {0}")]
    Refused(String),
    /// Certificates or keys.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Asks each of these coordinators once.
pub async fn join(coordinators: &[String], admission: &Admission, joiner: &Joiner) -> Result<Joined, JoinError> {
    let dialer = Dialer::pinned(&[admission.authority()])?;
    let key = NodeKey::generate()?;
    let (node, hosts) = match joiner {
        Joiner::Coordinator(id, hosts) => (v1::join_request::Node::Coordinator(id.0), hosts.clone()),
        Joiner::Worker(name) => (v1::join_request::Node::Worker(name.to_string()), Vec::new()),
    };
    let token = match admission {
        Admission::Token(secret) => secret.bearer().to_owned(),
        Admission::User(_) => String::new(),
    };
    let wire = v1::JoinRequest { token, node: Some(node), public_key: key.public_key().into(), hosts };
    let asked = ask_each(coordinators, &dialer, |mut client| {
        let mut request = Request::new(wire.clone());
        let authorized = match admission {
            Admission::User(credentials) => credentials.authorize(request.metadata_mut()),
            Admission::Token(_) => Ok(()),
        };
        async move {
            authorized?;
            client.join(request).await
        }
    });
    let answer = asked.await?;
    let (authority, sealing_keys) = (authority_of(&answer)?, SealingKeys::parse(&answer.sealing_key).ok());
    Ok(Joined { material: certified(key, answer, &joiner.expected())?, authority, sealing_keys })
}

/// A node's next certificate, by the one that it has; to a coordinator with the authority that signs now.
pub async fn renew(coordinators: &[String], node: &Node) -> Result<Joined, JoinError> {
    let key = NodeKey::generate()?;
    let wire = v1::RenewRequest { public_key: key.public_key().into() };
    let dialer = Dialer::node(node.clone());
    let asked = ask_each(coordinators, &dialer, |mut client| {
        let request = Request::new(wire.clone());
        async move { client.renew(request).await }
    });
    let expected = node.material().subject.principal();
    let answer = asked.await?;
    let (authority, sealing_keys) = (authority_of(&answer)?, SealingKeys::parse(&answer.sealing_key).ok());
    Ok(Joined { material: certified(key, answer, &expected)?, authority, sealing_keys })
}

impl Joiner {
    fn expected(&self) -> types::Principal {
        match self {
            Joiner::Coordinator(id, _) => types::Principal::Coordinator(*id),
            Joiner::Worker(name) => types::Principal::Worker(name.clone()),
        }
    }
}

type Client = AccessClient<tonic::transport::Channel>;

async fn ask_each<F, Fut>(coordinators: &[String], dialer: &Dialer, send: F) -> Result<v1::JoinResponse, JoinError>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<tonic::Response<v1::JoinResponse>, Status>>,
{
    let mut reasons = Vec::new();
    for address in coordinators {
        match tokio::time::timeout(ANSWER_MAX, ask(address, dialer, &send)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) => match status.code() {
                Code::PermissionDenied
                | Code::Unauthenticated
                | Code::InvalidArgument
                | Code::AlreadyExists
                | Code::FailedPrecondition => return Err(JoinError::Refused(status.message().to_owned())),
                _ => reasons.push(format!("{address}: {}", status.message())),
            },
            Err(_) => reasons.push(format!("{address}: no answer within {ANSWER_MAX:?}")),
        }
    }
    Err(JoinError::Again(reasons.join("; ")))
}

async fn ask<F, Fut>(address: &str, dialer: &Dialer, send: &F) -> Result<v1::JoinResponse, Status>
where
    F: Fn(Client) -> Fut,
    Fut: Future<Output = Result<tonic::Response<v1::JoinResponse>, Status>>,
{
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Status::invalid_argument(format!("address {address:?}: {error}")))?
        .connect_timeout(CONNECT_MAX);
    let channel = dialer.connect(&endpoint).await.map_err(|error| Status::unavailable(chain_of(&error)))?;
    send(AccessClient::new(channel)).await.map(tonic::Response::into_inner)
}

fn certified(key: NodeKey, answer: v1::JoinResponse, expected: &types::Principal) -> Result<Material, JoinError> {
    let cluster = ClusterId::from_slice(&answer.cluster_id);
    let trusted = answer.authorities.into_iter().map(|der| der.to_vec());
    let vouched = (!answer.vouched.is_empty()).then(|| answer.vouched.to_vec());
    let material = key.certified(answer.certificate.to_vec(), trusted, vouched)?;
    let subject: &Subject = &material.subject;
    if subject.principal() != *expected || Some(subject.cluster()) != cluster {
        return Err(JoinError::Refused(format!("the certificate that came is for {subject}")));
    }
    Ok(material)
}

fn authority_of(answer: &v1::JoinResponse) -> Result<Option<Authority>, TlsError> {
    let Some(signing) = answer.authorities.last().filter(|_| !answer.authority_key.is_empty()) else { return Ok(None) };
    Authority::load(signing.to_vec().into(), &answer.authority_key).map(Some)
}

/// The fingerprint of the authority that signs for this node now.
pub fn signing(material: &Material) -> Option<Fingerprint> {
    material.trusted().last().map(fingerprint)
}
