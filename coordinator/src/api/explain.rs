//! `Jobs.Explain`: only the leader's scheduler knows why a job waits, so another coordinator asks it.

use super::{Context, gang};
use crate::leader::{self, Message};
use cluster_state::Job;
use proto::v1;
use proto::v1::jobs_client::JobsClient;
use std::time::Duration;
use tokio::sync::oneshot;
use tonic::Status;
use types::{Caller, JobId};

/// For the leader to answer, here or elsewhere.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) async fn explain(
    context: &Context,
    caller: &Caller,
    request: &v1::ExplainRequest,
) -> Result<v1::Explanation, Status> {
    let state = context.read(false).await?;
    let job = context.job(&state, caller, request.job_id)?;
    let mut explained = why(context, job, request).await?;
    explained.ahead.retain(|job| state.visible_job(&caller.principal, JobId(*job)).is_some());
    Ok(explained)
}

async fn why(context: &Context, job: &Job, request: &v1::ExplainRequest) -> Result<v1::Explanation, Status> {
    if job.phase != types::JobPhase::Queued {
        let mut settled = leader::settled(job);
        if matches!(job.phase, types::JobPhase::Running | types::JobPhase::Failed) {
            gang::add(context, job, &mut settled).await;
        }
        return Ok(settled);
    }
    let (reply, answer) = oneshot::channel();
    context.leader.send(Message::Explain { job: JobId(request.job_id), reply }).await;
    match tokio::time::timeout(ANSWER_TIMEOUT, answer).await {
        Ok(Ok(explained)) => return Ok(context.leader.complete(job.id, explained).await),
        Ok(Err(_)) => {} // it does not lead
        Err(_) => return Err(Status::unavailable("the scheduler gives no answer")),
    }
    let leader = context.node.leader_address().filter(|_| !request.local);
    let leader = leader.ok_or_else(|| Status::unavailable("no leader is known at the moment"))?;
    let mut client = JobsClient::new(context.peers.channel(&leader)?);
    let asked = client.explain(v1::ExplainRequest { job_id: request.job_id, local: true });
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, asked).await;
    let answered = answered.map_err(|_| Status::unavailable(format!("the leader at {leader} gives no answer")))?;
    Ok(answered?.into_inner())
}
