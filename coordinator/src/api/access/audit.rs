//! The audit trail as it is kept in the tables: what is there, and then what comes.

use super::Context;
use cluster_state::{AuditRecord, SignedHead, State};
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use std::sync::Arc;
use tonic::Status;
use types::{ClusterId, Principal};

/// Records read from the tables at once.
const BATCH: usize = 256;

type Records = BoxStream<'static, Result<v1::AuditRecord, Status>>;

pub(super) async fn audit(context: &Context, request: v1::AuditRequest) -> Result<Records, Status> {
    let state = context.read(false).await?;
    let last = state.audit_head().0;
    let read = |state: &State, after| {
        let found: Vec<_> = state.audit_after(after).take(BATCH).cloned().collect();
        let newest = found.last()?.number;
        Some((newest, wire(state.audit_before(found[0].number), &found)))
    };
    Ok(follow(context, request.after, (!request.follow).then_some(last), read))
}

/// The heads that the cluster signed by itself.
pub(super) async fn heads(
    context: &Context,
    request: v1::AuditHeadsRequest,
) -> Result<BoxStream<'static, Result<v1::SignedAuditHead, Status>>, Status> {
    let state = context.read(false).await?;
    let cluster = state.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let last = state.audit_heads().next_back().map_or(0, |head| head.number);
    let read = move |state: &State, after| {
        let found: Vec<_> = state.audit_heads().filter(|head| head.number > after).collect();
        let newest = found.last()?.number;
        Some((newest, found.into_iter().map(|head| Ok(signed(cluster, head))).collect()))
    };
    Ok(follow(context, request.after, (!request.follow).then_some(last), read))
}

/// A kept head as it is told.
pub(crate) fn signed(cluster: ClusterId, head: &SignedHead) -> v1::SignedAuditHead {
    v1::SignedAuditHead {
        cluster: cluster.to_string(),
        number: head.number,
        hash: head.hash.to_vec().into(),
        time_ms: head.time.0,
        authority: head.authority.clone().into(),
        signature: head.signature.clone().into(),
    }
}

/// What `read` finds of a state past a number, and of the states that come; to the end where one is given.
fn follow<T: Send + 'static>(
    context: &Context,
    after: u64,
    last: Option<u64>,
    read: impl Fn(&State, u64) -> Option<(u64, Vec<Result<T, Status>>)> + Clone + Send + 'static,
) -> BoxStream<'static, Result<T, Status>> {
    let (node, shutdown) = (context.node.clone(), context.shutdown.clone());
    let begin = (after, node.applied());
    let found = futures::stream::unfold(begin, move |(after, mut applied)| {
        let (node, shutdown, read) = (node.clone(), shutdown.clone(), read.clone());
        async move {
            loop {
                if let Some((newest, found)) = read(&node.state(), after) {
                    return Some((found, (newest, applied)));
                }
                if last.is_some_and(|last| after >= last) {
                    return None;
                }
                tokio::select! {
                    changed = applied.changed() => changed.ok()?,
                    () = shutdown.requested() => return None,
                }
            }
        }
    });
    found.flat_map(futures::stream::iter).boxed()
}

/// The newest record of a state that is surely recent, signed by the authority that signs now.
pub(super) async fn head(context: &Context) -> Result<v1::SignedAuditHead, Status> {
    let state = context.read(false).await?;
    let (cluster, head) = sign(context, &state).await?;
    Ok(signed(cluster, &head))
}

/// Where the trail of that state ends, signed by the authority that signs now. Blocks nowhere; reads a small file.
pub(crate) async fn sign(context: &Context, state: &State) -> Result<(ClusterId, SignedHead), Status> {
    let (number, hash) = state.audit_head();
    let cluster = state.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let signing = state.authorities().last().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let folder = context.signer.folder().clone();
    let fingerprint = identity::Fingerprint(signing.fingerprint);
    let found = tokio::task::spawn_blocking(move || folder.authority(fingerprint)).await;
    let found = found.map_err(|error| Status::internal(error.to_string()))?;
    let authority = found.map_err(|error| Status::unavailable(error.to_string()))?;
    let authority = authority.ok_or_else(|| Status::unavailable("the authority's key is not here yet"))?;
    let certificate = authority.certificate().to_vec();
    let mut head =
        SignedHead { number, hash, time: daemon::clock::now(), authority: certificate, signature: Vec::new() };
    let signature = authority.sign_text(proto::audit_head_text(&signed(cluster, &head)).as_bytes());
    head.signature = signature.map_err(|error| Status::internal(error.to_string()))?;
    Ok((cluster, head))
}

fn wire(mut previous: [u8; 32], records: &[Arc<AuditRecord>]) -> Vec<Result<v1::AuditRecord, Status>> {
    let one = |record: &Arc<AuditRecord>| {
        let token_id = match &record.caller.principal {
            Principal::User { token, .. } => token.clone(),
            _ => String::new(),
        };
        let before = std::mem::replace(&mut previous, record.hash);
        Ok(v1::AuditRecord {
            number: record.number,
            time_ms: record.time.0,
            who: record.caller.principal.to_string(),
            token_id,
            from: record.caller.from.clone(),
            action: record.action.clone(),
            object: record.object.clone(),
            result: record.result.clone(),
            times: record.times,
            hash: record.hash.to_vec().into(),
            previous: before.to_vec().into(),
            body: record.body().into(),
        })
    };
    records.iter().map(one).collect()
}
