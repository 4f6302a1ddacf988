//! The exchange of the key for secrets, driven by the coordinator that is asked for it. Each step is in the tables, so that another call
//! goes on where one was cut short, at any coordinator.
//!
//! ```text
//!  new key on this disk ─> BeginKeyExchange ─> each coordinator fetches it, NoteKeyHeld (run/sealing.rs)
//!                                                  │ all members have it; until then nothing is sealed under it
//!                                                  v
//!                        ResealSecrets, until none is left under another ─> EndKeyExchange ─> old keys are thrown away
//! ```

use super::{Context, open, place, present};
use cluster_state::{Command, KeyId, Resealed, Sealed, Secret, State};
use identity::{SealedValue, SealingError, SealingKey, SealingKeys};
use proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Code, Status};
use types::{Caller, ClusterId, CoordinatorId};

/// For the other coordinators to fetch the key, within the time that a client gives one call.
const HELD_MAX: Duration = Duration::from_secs(3);
/// Values in one entry: of the longest ones a few MiB.
const TOGETHER: usize = 64;
/// Values that were set meanwhile are sealed again; somebody who goes on setting them does not hold up the end for ever.
const ROUNDS_MAX: usize = 10;

pub(super) async fn rekey(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::RekeySecretsRequest,
) -> Result<v1::RekeySecretsResponse, Status> {
    let replaces: KeyId =
        request.replaces.as_ref().try_into().map_err(|_| Status::invalid_argument("a key is named by 8 bytes"))?;
    let state = context.read(false).await?;
    let keys = context.sealer.keys()?;
    let now = present(&state, &keys)?.id();
    if now != replaces {
        return if state.sealing_key().is_some() && state.key_exchange().is_none() {
            // The answer to its first arrival was lost.
            Ok(v1::RekeySecretsResponse { key: now.to_vec().into(), secrets: 0 })
        } else {
            Err(Status::failed_precondition("values are sealed under another key than the one to replace"))
        };
    }
    let to = begin(context, &caller, &state, keys).await?;
    held_by_all(context, to).await?;
    let secrets = reseal(context, &caller, to).await?;
    Ok(v1::RekeySecretsResponse { key: to.to_vec().into(), secrets })
}

/// Goes on with what was begun, or begins.
async fn begin(context: &Context, caller: &Arc<Caller>, state: &State, keys: SealingKeys) -> Result<KeyId, Status> {
    if let Some(exchange) = state.key_exchange() {
        if keys.get(exchange.to).is_some() {
            return Ok(exchange.to);
        }
        if state.secrets().any(|secret| secret.sealed.key == exchange.to) {
            return Err(Status::unavailable("this coordinator does not have the new key for secrets yet: ask another"));
        }
    }
    let folder = &context.sealer.0;
    let failed = |error: &dyn std::error::Error| Status::unavailable(error.to_string());
    let key = if folder.sealing_key_is_held() {
        let present = present(state, &keys)?.id();
        keys.newest().filter(|key| key.id() != present).cloned().ok_or_else(|| {
            Status::failed_precondition(
                "the operator holds the key: put a new one on a line of its own, as the last, into the file of --secrets-key of \
                 every coordinator, then run this again",
            )
        })?
    } else {
        SealingKey::generate().map_err(|error| failed(&error))?
    };
    let to = key.id();
    let both = keys.and(&SealingKeys::of(key));
    // Before anybody hears of it: what is sealed under a key that is nowhere is lost.
    folder.store_sealing_keys(&both).map_err(|error| failed(&error))?;
    context.write_as(caller.clone(), Command::BeginKeyExchange { to }).await?;
    // Before the cluster heard of it, it may have been taken for one that an earlier exchange left.
    folder.store_sealing_keys(&both).map_err(|error| failed(&error))?;
    Ok(to)
}

/// Waits until each member has the key.
async fn held_by_all(context: &Context, to: KeyId) -> Result<(), Status> {
    let mut applied = context.node.applied();
    let until = tokio::time::Instant::now() + HELD_MAX;
    loop {
        let missing = missing(context, to)?;
        if missing.is_empty() {
            return Ok(());
        }
        if !matches!(tokio::time::timeout_at(until, applied.changed()).await, Ok(Ok(()))) {
            let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
            return Err(Status::failed_precondition(format!(
                "coordinator {} does not have the new key yet: values stay under the old one; run this again when it is back, or after \
                 `muster cluster remove`",
                names.join(", ")
            )));
        }
    }
}

fn missing(context: &Context, to: KeyId) -> Result<Vec<CoordinatorId>, Status> {
    let members: Vec<CoordinatorId> = context.node.status().borrow().members.iter().map(|member| member.id).collect();
    context.node.look(|state| {
        let exchange = state.key_exchange().filter(|exchange| exchange.to == to);
        let exchange = exchange.ok_or_else(|| Status::aborted("another exchange was begun or ended meanwhile"))?;
        Ok(members.into_iter().filter(|member| !exchange.held_by.contains(member)).collect())
    })
}

/// Seals every value under the new key, and ends the exchange. How many they were.
async fn reseal(context: &Context, caller: &Arc<Caller>, to: KeyId) -> Result<u64, Status> {
    let mut sealed = 0;
    for _ in 0..ROUNDS_MAX {
        let state = context.read(false).await?;
        let cluster = state.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
        let left: Vec<Arc<Secret>> = state.secrets().filter(|secret| secret.sealed.key != to).cloned().collect();
        for part in left.chunks(TOGETHER) {
            let (keys, part) = (context.sealer.keys()?, part.to_vec());
            let again = tokio::task::spawn_blocking(move || {
                part.iter().map(|secret| again(&keys, cluster, secret, to)).collect::<Result<Vec<_>, _>>()
            });
            let secrets = again.await.map_err(|error| Status::internal(error.to_string()))??;
            sealed += secrets.len() as u64;
            context.write_as(caller.clone(), Command::ResealSecrets { to, secrets }).await?;
        }
        match context.write_as(caller.clone(), Command::EndKeyExchange { to }).await {
            Ok(_) => return Ok(sealed),
            // One was set under the old key meanwhile.
            Err(status) if status.code() == Code::FailedPrecondition => {}
            Err(status) => return Err(status),
        }
    }
    Err(Status::unavailable("values are set all the time under the old key: try again"))
}

/// The same value in the same place, under another key.
fn again(keys: &SealingKeys, cluster: ClusterId, secret: &Secret, to: KeyId) -> Result<Resealed, Status> {
    let key = keys.get(to).ok_or_else(|| Status::unavailable("the new key for secrets is not here any more"))?;
    let value = open(keys, cluster, secret)
        .map_err(|status| Status::failed_precondition(format!("{}: set it again or remove it", status.message())))?;
    let sealed = key.seal(&super::scope(&secret.name), &place(cluster, &secret.name, secret.version), &value);
    let sealed = sealed.map_err(|error: SealingError| Status::internal(error.to_string()))?;
    let SealedValue { key, nonce, bytes } = sealed;
    let sealed = Sealed { key, nonce, bytes };
    Ok(Resealed { name: secret.name.clone(), version: secret.version, sealed })
}
