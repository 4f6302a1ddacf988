//! The audit trail as it is kept in the tables: what is there, and then what comes.

use super::Context;
use cluster_state::AuditRecord;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use std::sync::Arc;
use tonic::Status;
use types::Principal;

/// Records read from the tables at once.
const BATCH: usize = 256;

type Records = BoxStream<'static, Result<v1::AuditRecord, Status>>;

pub(super) async fn audit(context: &Context, request: v1::AuditRequest) -> Result<Records, Status> {
    let state = context.read(false).await?;
    let last = state.audit_head().0;
    let (node, shutdown) = (context.node.clone(), context.shutdown.clone());
    let begin = (request.after, node.applied());
    let records = futures::stream::unfold(begin, move |(after, mut applied)| {
        let (node, shutdown) = (node.clone(), shutdown.clone());
        async move {
            loop {
                let state = node.state();
                let found: Vec<_> = state.audit_after(after).take(BATCH).cloned().collect();
                if let Some(newest) = found.last() {
                    let next = (newest.number, applied);
                    let previous = state.audit_before(found[0].number);
                    return Some((wire(previous, &found), next));
                }
                if !request.follow && after >= last {
                    return None;
                }
                tokio::select! {
                    changed = applied.changed() => changed.ok()?,
                    () = shutdown.requested() => return None,
                }
            }
        }
    });
    Ok(records.flat_map(futures::stream::iter).boxed())
}

/// The newest record of a state that is surely recent, signed by the authority that signs now.
pub(super) async fn head(context: &Context) -> Result<v1::SignedAuditHead, Status> {
    let state = context.read(false).await?;
    let (number, hash) = state.audit_head();
    let cluster = state.cluster().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let signing = state.authorities().last().ok_or_else(|| Status::unavailable("the cluster is being formed"))?;
    let folder = context.signer.folder().clone();
    let fingerprint = identity::Fingerprint(signing.fingerprint);
    let found = tokio::task::spawn_blocking(move || folder.authority(fingerprint)).await;
    let found = found.map_err(|error| Status::internal(error.to_string()))?;
    let authority = found.map_err(|error| Status::unavailable(error.to_string()))?;
    let authority = authority.ok_or_else(|| Status::unavailable("the authority's key is not here yet"))?;
    let mut head = v1::SignedAuditHead {
        cluster: cluster.to_string(),
        number,
        hash: hash.to_vec().into(),
        time_ms: daemon::clock::now().0,
        authority: authority.certificate().to_vec().into(),
        signature: Default::default(),
    };
    let signature = authority.sign_text(proto::audit_head_text(&head).as_bytes());
    head.signature = signature.map_err(|error| Status::internal(error.to_string()))?.into();
    Ok(head)
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
