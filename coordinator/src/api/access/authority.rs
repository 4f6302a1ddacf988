//! The cluster's certificate authority replaced by another one, while both count, and the old one retired.

use super::Context;
use super::join::Signer;
use cluster_state::{Command, State};
use identity::{Authority, Fingerprint};
use proto::v1;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;
use types::{Caller, Timestamp};

pub(super) fn list(state: &State, signer: &Signer) -> v1::AuthoritiesResponse {
    let all = state.authorities();
    let wire = |(index, one): (usize, &Arc<cluster_state::Authority>)| v1::Authority {
        certificate: one.certificate.clone().into(),
        fingerprint: one.fingerprint.to_vec().into(),
        created_ms: one.created.0,
        retire_ms: all.get(index + 1).map_or(0, |next| retirable(next, signer).0),
    };
    v1::AuthoritiesResponse { authorities: all.iter().enumerate().map(wire).collect() }
}

/// When the last certificate that was signed by the one before has ended.
fn retirable(next: &cluster_state::Authority, signer: &Signer) -> Timestamp {
    Timestamp(next.created.0.saturating_add(u64::try_from(signer.life().as_millis()).unwrap_or(u64::MAX)))
}

/// Makes the next one here, where its key stays; the other coordinators fetch it as soon as they see its certificate.
pub(super) async fn rotate(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::RotateAuthorityRequest,
) -> Result<v1::AuthoritiesResponse, Status> {
    let state = context.read(false).await?;
    let old = match state.authorities() {
        [] => return Err(Status::unavailable("the cluster is being formed")),
        [one] if *request.replaces == one.fingerprint => Fingerprint(one.fingerprint),
        // Its first answer was lost.
        [one, _] if *request.replaces == one.fingerprint => return Ok(list(&state, &context.signer)),
        [_] => return Err(Status::failed_precondition("the authority to replace is not the one that signs now")),
        [..] => {
            return Err(Status::failed_precondition(
                "an older authority still counts beside the one that signs now: retire it first",
            ));
        }
    };
    let cluster = context.node.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let signer = context.signer.clone();
    let made = tokio::task::spawn_blocking(move || {
        let failed = |error: &dyn std::error::Error| Status::internal(error.to_string());
        let old = signer.folder().authority(old).map_err(|error| failed(&error))?;
        let old = old.ok_or_else(|| Status::unavailable("this coordinator cannot sign: ask another"))?;
        let now = daemon::clock::now();
        let new = Authority::create(cluster, now).map_err(|error| failed(&error))?;
        let vouched = old.vouch(&new, now).map_err(|error| failed(&error))?;
        // Before anybody hears of it: a certificate without its key could sign nothing.
        signer.folder().store_authority(&new).map_err(|error| failed(&error))?;
        Ok::<_, Status>((new.certificate().to_vec(), vouched.to_vec()))
    });
    let (certificate, vouched) = made.await.map_err(|error| Status::internal(error.to_string()))??;
    let (_, state) = context.write_as(caller, Command::AddAuthority { certificate, vouched }).await?;
    Ok(list(&state, &context.signer))
}

pub(super) async fn retire(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::RetireAuthorityRequest,
) -> Result<v1::AuthoritiesResponse, Status> {
    let fingerprint: [u8; 32] =
        request.fingerprint.as_ref().try_into().map_err(|_| Status::invalid_argument("a fingerprint has 32 bytes"))?;
    let state = context.read(false).await?;
    let all = state.authorities();
    let Some(place) = all.iter().position(|one| one.fingerprint == fingerprint) else {
        return Err(Status::not_found("there is no such authority: it may be retired already"));
    };
    if !request.now {
        let next = all.get(place + 1).ok_or_else(|| Status::failed_precondition("it signs now: rotate first"))?;
        let (now, from) = (daemon::clock::now(), retirable(next, &context.signer));
        if now < from {
            let left = Duration::from_secs((from.0 - now.0).div_ceil(1_000));
            return Err(Status::failed_precondition(format!(
                "nodes may live by it for another {left:?}; with `now` (--now) those that have not renewed their certificate \
                 since are shut out and must join again"
            )));
        }
    }
    let (_, state) = context.write_as(caller, Command::RetireAuthority { fingerprint }).await?;
    Ok(list(&state, &context.signer))
}
