//! Accepts a job; the request id makes a retry harmless (`JOB-1`).

use super::At;
use crate::secrets::user_of;
use crate::{JOBS_WAITING_MAX, Job, Outcome, Refusal, State};
use std::sync::Arc;
use types::{Caller, JobId, JobPhase, JobSpec, RequestId, Timestamp};

pub(super) fn apply(
    state: &mut State,
    at: At,
    caller: Option<&Caller>,
    request: RequestId,
    spec: &Arc<JobSpec>,
) -> Result<Outcome, Refusal> {
    if let Some(job) = state.requests.get(&request).and_then(|id| state.jobs.get(id)) {
        if job.spec != *spec {
            return Err(Refusal::RequestReused(request, job.id));
        }
        return Ok(Outcome::Submitted { job: job.id, repeated: true });
    }
    state.may_submit(caller, spec.workspace())?;
    if state.queue(&spec.queue).is_none() || !state.is_leaf(&spec.queue) {
        return Err(state.unknown_queue(&spec.queue));
    }
    let submitter = user_of(caller);
    let denied = state.secrets_denied(submitter, spec.workspace(), spec.secrets.values());
    if !denied.is_empty() {
        return Err(Refusal::SecretsDenied(denied));
    }
    if let Some(user) = submitter {
        let max = state.user(user).and_then(|user| user.waiting_max).unwrap_or(JOBS_WAITING_MAX);
        if state.waiting_of(user) >= u64::from(max) {
            return Err(Refusal::TooManyWait { user: user.to_owned(), max });
        }
    }
    let id = JobId(state.jobs_ever + 1);
    state.insert_job(Job {
        id,
        request,
        submitter: submitter.map(Arc::from),
        spec: spec.clone(),
        phase: JobPhase::Queued,
        priority: spec.priority,
        submitted: at.time,
        ended: None,
        ready_at: Timestamp(0),
        promise: None,
        failures: 0,
        interruptions: 0,
        attempts: Vec::new(),
        checkpoints: Vec::new(),
        outputs: Vec::new(),
        kept: false,
        forgotten: None,
        sealed: None,
        changed: at.index,
    });
    Ok(Outcome::Submitted { job: id, repeated: false })
}
