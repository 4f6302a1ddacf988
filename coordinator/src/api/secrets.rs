//! `muster.v1.Secrets`: values come in, are sealed before they go anywhere, and are opened for a worker that runs the job.

mod rekey;

use super::{Context, caller};
use cluster_state::{Command, Secret, State};
use identity::{NodeFolder, SealedValue, SealingError, SealingKey, SealingKeys};
use proto::v1;
use proto::v1::secrets_server::Secrets;
use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use types::{Caller, ClusterId, JobId, Limits, Principal, Token};

const SECRETS: &str = "muster.v1.Secrets";

/// Seals and opens by the key in this coordinator's folder, or where the operator holds it.
#[derive(Clone)]
pub(crate) struct Sealer(NodeFolder);

impl Sealer {
    pub(crate) fn new(folder: NodeFolder) -> Self {
        Self(folder)
    }

    /// Read each time: the operator may put them elsewhere or take them away. Blocks on a small file.
    pub(super) fn keys(&self) -> Result<SealingKeys, Status> {
        let keys = self.0.sealing_keys().map_err(|error| Status::unavailable(identity::chain_of(&error)))?;
        keys.ok_or_else(|| Status::unavailable("this coordinator has no key for secrets: ask another"))
    }
}

/// The key under which new values are sealed.
fn present<'a>(state: &State, keys: &'a SealingKeys) -> Result<&'a SealingKey, Status> {
    let key = state.sealing_key().map_or_else(|| keys.oldest(), |id| keys.get(id));
    key.ok_or_else(|| Status::unavailable("this coordinator does not have the new key for secrets yet: ask another"))
}

/// The value of a secret; it leaves no copy in memory.
fn open(
    keys: &SealingKeys,
    cluster: ClusterId,
    secret: &Secret,
) -> Result<impl Deref<Target = Vec<u8>> + use<>, Status> {
    let sealed = secret.sealed.clone();
    let failed = |error: SealingError| Status::failed_precondition(format!("secret {}: {error}", secret.name));
    let key = keys.get(sealed.key).ok_or_else(|| failed(SealingError::OtherKey))?;
    let sealed = SealedValue { key: sealed.key, nonce: sealed.nonce, bytes: sealed.bytes };
    key.open(&scope(&secret.name), &place(cluster, &secret.name, secret.version), sealed).map_err(failed)
}

/// Secrets of jobs.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl Secrets for Service {
    async fn set(&self, request: Request<v1::SetSecretRequest>) -> Result<Response<v1::SecretInfo>, Status> {
        let caller = caller(&request)?;
        let result = set(&self.0, caller, request.into_inner()).await;
        self.0.observe(SECRETS, "Set", result)
    }

    async fn list(
        &self,
        request: Request<v1::ListSecretsRequest>,
    ) -> Result<Response<v1::ListSecretsResponse>, Status> {
        let caller = caller(&request)?;
        let result = self.0.read(false).await.map(|state| list(&self.0, &state, &caller));
        self.0.observe(SECRETS, "List", result)
    }

    async fn share(&self, request: Request<v1::ShareSecretRequest>) -> Result<Response<v1::SecretInfo>, Status> {
        let caller = caller(&request)?;
        let result = share(&self.0, caller, request.into_inner()).await;
        self.0.observe(SECRETS, "Share", result)
    }

    async fn remove(
        &self,
        request: Request<v1::RemoveSecretRequest>,
    ) -> Result<Response<v1::RemoveSecretResponse>, Status> {
        let caller = caller(&request)?;
        let command = Command::RemoveSecret { name: request.into_inner().name };
        let result = self.0.write_as(caller, command).await.map(|_| v1::RemoveSecretResponse {});
        self.0.observe(SECRETS, "Remove", result)
    }

    async fn rekey(
        &self,
        request: Request<v1::RekeySecretsRequest>,
    ) -> Result<Response<v1::RekeySecretsResponse>, Status> {
        let caller = caller(&request)?;
        let result = rekey::rekey(&self.0, caller, request.into_inner()).await;
        self.0.observe(SECRETS, "Rekey", result)
    }

    async fn take(
        &self,
        request: Request<v1::TakeSecretsRequest>,
    ) -> Result<Response<v1::TakeSecretsResponse>, Status> {
        let caller = caller(&request)?;
        let result = take(&self.0, caller, request.into_inner()).await;
        self.0.observe(SECRETS, "Take", result)
    }
}

fn info(secret: &Secret) -> v1::SecretInfo {
    v1::SecretInfo {
        name: secret.name.clone(),
        owner: secret.owner.clone(),
        users: secret.users.iter().cloned().collect(),
        note: secret.note.clone(),
        version: secret.version,
        created_ms: secret.created.0,
        changed_ms: secret.changed.0,
    }
}

/// Whose data key a value is under: its workspace's, or that of users' own.
fn scope(name: &str) -> String {
    types::workspace_of_secret(name).map_or_else(String::new, |workspace| workspace.to_string())
}

/// What a value is bound to.
fn place(cluster: ClusterId, name: &str, version: u64) -> Vec<u8> {
    [b"muster secret\0", cluster.0.as_slice(), &version.to_le_bytes(), name.as_bytes()].concat()
}

async fn set(context: &Context, caller: Arc<Caller>, request: v1::SetSecretRequest) -> Result<v1::SecretInfo, Status> {
    let v1::SetSecretRequest { name, value, note } = request;
    let (fewest, most) = (Limits::SECRET_BYTES_MIN, Limits::SECRET_BYTES_MAX);
    if !(fewest..=most).contains(&value.len()) {
        let bytes = value.len();
        return Err(Status::invalid_argument(format!(
            "a secret has {fewest} to {most} bytes, this one {bytes}: a shorter one could not be kept out of logs"
        )));
    }
    if value.contains(&0) {
        return Err(Status::invalid_argument("the secret holds a NUL byte, which no variable can"));
    }
    let state = context.read(false).await?;
    let cluster = state.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let version = state.secret(&name).map_or(0, |known| known.version) + 1;
    let keys = context.sealer.keys()?;
    let sealed = present(&state, &keys)?.seal(&scope(&name), &place(cluster, &name, version), &value);
    let SealedValue { key, nonce, bytes } = sealed.map_err(|error| Status::internal(error.to_string()))?;
    let sealed = cluster_state::Sealed { key, nonce, bytes };
    let (_, state) = context.write_as(caller, Command::SetSecret { name: name.clone(), note, version, sealed }).await?;
    now(&state, &name)
}

/// As it is after a change.
fn now(state: &State, name: &str) -> Result<v1::SecretInfo, Status> {
    state.secret(name).map(|secret| info(secret)).ok_or_else(|| Status::aborted("the secret was removed meanwhile"))
}

fn list(context: &Context, state: &State, caller: &Caller) -> v1::ListSecretsResponse {
    let seen = state.secrets().filter(|secret| state.may_see_secret(caller, secret));
    let keys = context.sealer.keys();
    let key = keys.and_then(|keys| present(state, &keys).map(|key| key.id().to_vec())).unwrap_or_default();
    v1::ListSecretsResponse { secrets: seen.map(|secret| info(secret)).collect(), key: key.into() }
}

async fn share(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::ShareSecretRequest,
) -> Result<v1::SecretInfo, Status> {
    let v1::ShareSecretRequest { name, add, remove } = request;
    if add.len().max(remove.len()) > Limits::SECRET_USERS_MAX {
        let most = Limits::SECRET_USERS_MAX;
        return Err(Status::invalid_argument(format!("at most {most} users at once")));
    }
    let [add, remove] = [add, remove].map(|users| users.into_iter().collect::<BTreeSet<_>>());
    let (_, state) = context.write_as(caller, Command::ShareSecret { name: name.clone(), add, remove }).await?;
    now(&state, &name)
}

/// For a worker with a live member of the job; looked at in a state that is surely recent, so that what was taken back is not
/// given any more. The trail has it before the worker does.
async fn take(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::TakeSecretsRequest,
) -> Result<v1::TakeSecretsResponse, Status> {
    let (job, token) = (JobId(request.job_id), Token(request.token));
    let refuse = |why| match why {
        Denied::Foreign(why) => context.gate.deny(&caller, "secrets/use", &format!("job {job}"), why),
        Denied::TakenBack(why) => Status::failed_precondition(why),
    };
    let names = wanted(&context.read(false).await?, &caller, job, token).map_err(refuse)?;
    if names.is_empty() {
        return Ok(v1::TakeSecretsResponse::default());
    }
    let (_, state) = context.write_as(caller.clone(), Command::NoteSecretsUsed { job, names }).await?;
    wanted(&state, &caller, job, token).map_err(refuse)?;
    open_all(context, &state, job)
}

/// Why a worker is given nothing.
enum Denied {
    /// The job does not run on it.
    Foreign(String),
    /// The job's submitter may not use them any more.
    TakenBack(String),
}

/// Names of the job's secrets, where this worker may have them.
fn wanted(state: &State, caller: &Caller, id: JobId, token: Token) -> Result<Vec<String>, Denied> {
    let foreign = || Denied::Foreign(format!("no live member of job {id} is on this worker"));
    let Principal::Worker(worker) = &caller.principal else { return Err(foreign()) };
    let job = state.job(id).ok_or_else(foreign)?;
    let attempt = job.live_attempt().filter(|attempt| attempt.token == token).ok_or_else(foreign)?;
    if !attempt.placement.members.iter().any(|member| member.worker == *worker) {
        return Err(foreign());
    }
    let names: BTreeSet<&String> = job.spec.secrets.values().collect();
    let denied = state.secrets_denied(job.submitter.as_deref(), job.spec.workspace(), names.iter().copied());
    if !denied.is_empty() {
        let denied = denied.join(", ");
        return Err(Denied::TakenBack(format!("secret {denied} is not there for this job any more")));
    }
    Ok(names.into_iter().cloned().collect())
}

/// Is it under a key that every coordinator gets?
fn is_coming(state: &State, secret: &Secret) -> bool {
    let key = Some(secret.sealed.key);
    state.sealing_key() == key || state.key_exchange().map(|exchange| exchange.to) == key
}

fn open_all(context: &Context, state: &State, job: JobId) -> Result<v1::TakeSecretsResponse, Status> {
    let cluster = state.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let keys = context.sealer.keys()?;
    let mut variables = std::collections::BTreeMap::new();
    for (variable, name) in state.job(job).into_iter().flat_map(|job| &job.spec.secrets) {
        let secret = state.secret(name).ok_or_else(|| Status::aborted("a secret was removed meanwhile"))?;
        // Where it is on its way, it will be there in a moment.
        if keys.get(secret.sealed.key).is_none() && is_coming(state, secret) {
            return Err(Status::unavailable("this coordinator does not have the new key for secrets yet: ask another"));
        }
        let value = open(&keys, cluster, secret)?;
        variables.insert(variable.clone(), value.to_vec().into());
    }
    Ok(v1::TakeSecretsResponse { variables })
}
