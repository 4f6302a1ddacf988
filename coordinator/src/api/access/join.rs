//! A node's certificate: for a join token, for a caller who may admit it, or under the certificate that it has.

use super::{Context, Subject, worker_id};
use cluster_state::{Command, JoinToken};
use identity::{Fingerprint, NodeFolder, SecretKind, digest};
use proto::v1;
use std::sync::Arc;
use tonic::Status;
use types::{Admits, Caller, ClusterId, CoordinatorId, Principal, Timestamp};

/// Host names and addresses in one certificate.
const HOSTS_MAX: usize = 16;
const PUBLIC_KEY_BYTES_MAX: usize = 1 << 10;

/// Signs with the authority whose key lies in this coordinator's folder.
#[derive(Clone)]
pub(crate) struct Signer {
    folder: NodeFolder,
    life: std::time::Duration,
}

impl Signer {
    pub(crate) fn new(folder: NodeFolder, life: std::time::Duration) -> Self {
        Self { folder, life }
    }

    /// What another coordinator would need, for a backup.
    pub(crate) fn shared_files(&self) -> Result<Vec<identity::SharedFile>, identity::FilesError> {
        self.folder.shared_files()
    }

    pub(super) fn folder(&self) -> &NodeFolder {
        &self.folder
    }

    /// Of a certificate.
    pub(super) fn life(&self) -> std::time::Duration {
        self.life
    }
}

pub(super) async fn join(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::JoinRequest,
) -> Result<v1::JoinResponse, Status> {
    let cluster = context.node.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let subject = subject(cluster, request.node.as_ref())?;
    if matches!(&subject, Subject::Coordinator { id, .. } if is_member(context, *id)) {
        return Err(Status::already_exists(format!("{subject} is a member already: choose another --id")));
    }
    if request.hosts.len() > HOSTS_MAX || request.public_key.len() > PUBLIC_KEY_BYTES_MAX {
        return Err(Status::invalid_argument(format!(
            "at most {HOSTS_MAX} hosts and {PUBLIC_KEY_BYTES_MAX} bytes of public key"
        )));
    }
    let (digest, made) = if request.token.is_empty() {
        let (made, digest) = admitted_by(context, &caller, &subject)?;
        (digest, Some(Command::CreateJoinToken { token: made }))
    } else {
        (digest(&request.token), None)
    };
    let used = Command::UseJoinToken { digest, as_whom: subject.principal() };
    let commands = made.into_iter().chain([used]);
    let commands = commands.map(|command| Command::As { caller: caller.clone(), command: Box::new(command) });
    context.write_all(commands.collect()).await?;
    let hosts: Vec<String> = request.hosts.iter().filter(|host| is_host(host)).cloned().collect();
    sign(context, &subject, request.public_key.to_vec(), hosts).await
}

pub(super) async fn renew(
    context: &Context,
    caller: &Caller,
    request: v1::RenewRequest,
) -> Result<v1::JoinResponse, Status> {
    let cluster = context.node.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let subject = match &caller.principal {
        Principal::Worker(name) => Subject::Worker { cluster, name: name.clone() },
        // It makes its certificate itself: what it lacks is the key of an authority that another coordinator made.
        Principal::Coordinator(id) => Subject::Coordinator { cluster, id: *id },
        _ => return Err(Status::permission_denied("only nodes renew their certificates")),
    };
    sign(context, &subject, request.public_key.to_vec(), Vec::new()).await
}

fn subject(cluster: ClusterId, node: Option<&v1::join_request::Node>) -> Result<Subject, Status> {
    use v1::join_request::Node;
    match node {
        Some(Node::Worker(name)) => Ok(Subject::Worker { cluster, name: worker_id(name)? }),
        Some(Node::Coordinator(id)) if *id > 0 => Ok(Subject::Coordinator { cluster, id: CoordinatorId(*id) }),
        _ => Err(Status::invalid_argument("no node is named")),
    }
}

fn is_member(context: &Context, id: CoordinatorId) -> bool {
    context.node.status().borrow().members.iter().any(|member| member.id == id)
}

/// A token that is made and used in one entry: the caller's own permission admits this one node.
fn admitted_by(context: &Context, caller: &Caller, subject: &Subject) -> Result<(JoinToken, [u8; 32]), Status> {
    super::over_nodes(context, caller, matches!(subject, Subject::Coordinator { .. }))?;
    let digest = super::secret(&context.node.state(), SecretKind::Join)?.digest();
    let admits = match subject {
        Subject::Coordinator { .. } => Admits::Coordinator,
        Subject::Worker { name, .. } => Admits::Worker(Some(name.clone())),
    };
    let now = daemon::clock::now();
    let made = JoinToken {
        id: super::token_id()?,
        digest,
        admits,
        created_by: caller.principal.to_string(),
        created: now,
        expires: Timestamp(now.0 + 60_000),
        used: None,
        used_by: None,
    };
    Ok((made, digest))
}

/// An address or a host name, as a certificate may have it.
fn is_host(host: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    host.parse::<std::net::IpAddr>().is_ok() || (1..=253).contains(&host.len()) && host.bytes().all(plain)
}

async fn sign(
    context: &Context,
    subject: &Subject,
    public_key: Vec<u8>,
    hosts: Vec<String>,
) -> Result<v1::JoinResponse, Status> {
    let state = context.read(false).await?;
    let authorities: Vec<Vec<u8>> = state.authorities().iter().map(|authority| authority.certificate.clone()).collect();
    let signing = state.authorities().last().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let (vouched, since) = (signing.vouched.clone(), signing.created);
    let signing = Fingerprint(signing.fingerprint);
    // Issued after what was revoked of this name, though this clock be behind that of who wrote that down.
    let revoked = state.revocation(&subject.principal()).map_or(Timestamp(0), |revoked| Timestamp(revoked.at.0 + 1));
    let now = daemon::clock::now().max(revoked).max(since);
    let (signer, subject, to) = (context.signer.clone(), subject.clone(), state.key_exchange().map(|one| one.to));
    let signed = tokio::task::spawn_blocking(move || {
        let authority = signer.folder.authority(signing).map_err(|error| Status::internal(error.to_string()))?;
        let authority = authority.ok_or_else(|| Status::unavailable("this coordinator cannot sign: ask another"))?;
        let request =
            identity::Request { subject: &subject, public_key: &public_key, hosts: &hosts, now, life: signer.life };
        let certificate = authority.sign(&request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let is_coordinator = matches!(subject, Subject::Coordinator { .. });
        let authority_key = if is_coordinator { authority.key_pem() } else { String::new() };
        let sealing = if is_coordinator && !signer.folder.sealing_key_is_held() {
            signer.folder.sealing_keys().map_err(|error| Status::internal(error.to_string()))?
        } else {
            None
        };
        // Who is given the old key alone would have to ask again at once.
        if to.is_some_and(|to| sealing.as_ref().is_some_and(|keys| keys.get(to).is_none())) {
            return Err(Status::unavailable("this coordinator does not have the new key for secrets yet: ask another"));
        }
        Ok::<_, Status>((certificate.to_vec(), subject.cluster(), authority_key, sealing))
    });
    let (certificate, cluster, authority_key, sealing) =
        signed.await.map_err(|error| Status::internal(error.to_string()))??;
    Ok(v1::JoinResponse {
        certificate: certificate.into(),
        authorities: authorities.into_iter().map(Into::into).collect(),
        cluster_id: cluster.0.to_vec().into(),
        authority_key,
        sealing_key: sealing.map(|keys| keys.text().as_str().to_owned()).unwrap_or_default(),
        vouched: vouched.into(),
    })
}
