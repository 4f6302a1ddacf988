//! `muster.v1.Jobs`.

use super::wire::Reader;
use super::{Context, caller, explain, fits, logs, metrics, watch, wire};
use crate::{gate, leader};
use cluster_state::{Command, Job, Outcome, State};
use futures::stream::BoxStream;
use proto::v1;
use proto::v1::jobs_server::Jobs;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};
use types::{Caller, Grant, JobId, JobPhase, Limits, Permission, Principal, RequestId, Workspace};

const JOBS: &str = "muster.v1.Jobs";
const PAGE_DEFAULT: u32 = 50;
/// For the turn to look ahead.
const FORESIGHT_WAIT: Duration = Duration::from_secs(10);

/// Jobs.
pub(crate) struct Service(pub(crate) Context);

/// The job that its reader has just changed.
fn changed(reader: Reader<'_>, id: u64) -> Result<v1::JobSummary, Status> {
    let job = reader.state.job(JobId(id)).ok_or_else(|| Status::aborted(format!("job {id} is gone")))?;
    Ok(wire::summary(job, reader))
}

#[tonic::async_trait]
impl Jobs for Service {
    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let caller = caller(&request)?;
        let result = submit(&self.0, caller, request.into_inner()).await;
        self.0.observe(JOBS, "Submit", result)
    }

    async fn get(&self, request: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let result = match self.0.read(request.stale).await {
            Ok(state) => {
                let reader = Reader { state: &state, principal: &caller.principal };
                self.0.job(&state, &caller, request.job_id).map(|job| wire::job(job, reader))
            }
            Err(status) => Err(status),
        };
        self.0.observe(JOBS, "Get", result)
    }

    async fn list(&self, request: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        let caller = caller(&request)?;
        let result = list(&self.0, caller, request.into_inner()).await;
        self.0.observe(JOBS, "List", result)
    }

    async fn cancel(&self, request: Request<v1::CancelJobRequest>) -> Result<Response<v1::JobSummary>, Status> {
        let caller = caller(&request)?;
        let job = request.into_inner().job_id;
        let result = match self.0.write_as(caller.clone(), Command::CancelJob { job: JobId(job) }).await {
            Ok((_, state)) => changed(Reader { state: &state, principal: &caller.principal }, job),
            Err(status) => Err(status),
        };
        self.0.observe(JOBS, "Cancel", result)
    }

    type WatchStream = BoxStream<'static, Result<v1::JobEvent, Status>>;

    async fn watch(&self, request: Request<v1::WatchJobsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        let result = watch::watch(&self.0, &caller, request.into_inner()).await;
        self.0.observe(JOBS, "Watch", result)
    }

    type LogsStream = BoxStream<'static, Result<v1::LogChunk, Status>>;

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let caller = caller(&request)?;
        let result = logs::logs(&self.0, &caller, request.into_inner()).await;
        self.0.observe(JOBS, "Logs", result)
    }

    type MetricsStream = BoxStream<'static, Result<v1::MetricBatch, Status>>;

    async fn metrics(&self, request: Request<v1::MetricsRequest>) -> Result<Response<Self::MetricsStream>, Status> {
        let caller = caller(&request)?;
        let result = metrics::metrics(&self.0, &caller, request.into_inner()).await;
        self.0.observe(JOBS, "Metrics", result)
    }

    async fn explain(&self, request: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Status> {
        let caller = caller(&request)?;
        let result = explain::explain(&self.0, &caller, &request.into_inner()).await;
        self.0.observe(JOBS, "Explain", result)
    }

    async fn foresee(&self, request: Request<v1::ForeseeRequest>) -> Result<Response<v1::Forecast>, Status> {
        let caller = caller(&request)?;
        let result = foresee(&self.0, caller, request.into_inner()).await;
        self.0.observe(JOBS, "Foresee", result)
    }

    async fn set_priority(&self, request: Request<v1::SetPriorityRequest>) -> Result<Response<v1::JobSummary>, Status> {
        let caller = caller(&request)?;
        let result = set_priority(&self.0, caller, request.into_inner()).await;
        self.0.observe(JOBS, "SetPriority", result)
    }

    async fn keep(&self, request: Request<v1::KeepJobRequest>) -> Result<Response<v1::JobSummary>, Status> {
        let caller = caller(&request)?;
        let v1::KeepJobRequest { job_id, release } = request.into_inner();
        let command = Command::KeepJob { job: JobId(job_id), keep: !release };
        let result = match self.0.write_as(caller.clone(), command).await {
            Ok((_, state)) => changed(Reader { state: &state, principal: &caller.principal }, job_id),
            Err(status) => Err(status),
        };
        self.0.observe(JOBS, "Keep", result)
    }
}

async fn submit(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::SubmitRequest,
) -> Result<v1::SubmitResponse, Status> {
    let begun = daemon::clock::now();
    let request_id = RequestId::from_slice(&request.request_id).ok_or_else(|| {
        Status::invalid_argument(format!(
            "request_id has {} bytes; 16 random ones are needed",
            request.request_id.len()
        ))
    })?;
    let spec = request.spec.ok_or_else(|| Status::invalid_argument("spec is missing"))?;
    let mut spec = proto::convert::job_spec(spec).map_err(|faults| Status::invalid_argument(faults.to_string()))?;
    if spec.workspace.is_none() {
        spec.workspace = context.node.look(|state| workspace_of(state, &caller.principal, Permission::JobsSubmit));
    }
    if !request.wait_for_workers {
        check_fit(context, &spec).await?;
    }
    let command = Box::new(Command::SubmitJob { request: request_id, spec: Arc::new(spec) });
    let committed = context.node.propose(vec![Command::As { caller, command }]).await;
    let committed = committed.map_err(|error| {
        context.observed.proposal("unavailable");
        super::unproposed(&error)
    })?;
    match committed.outcomes.into_iter().next() {
        Some(Outcome::Submitted { job, .. }) => {
            context.observed.proposal("applied");
            context.observed.export().submitted(context.node.cluster(), job, begun);
            Ok(v1::SubmitResponse { job_id: job.0 })
        }
        Some(Outcome::Refused(refusal)) => {
            context.observed.proposal("refused");
            Err(super::refused(&refusal))
        }
        other => Err(Status::internal(format!("unexpected outcome {other:?}"))),
    }
}

/// Where a user does this who names no workspace: the default one, unless there is another, and one only, where it may.
pub(super) fn workspace_of(state: &State, caller: &Principal, permission: Permission) -> Option<Workspace> {
    let gives = |grant: &&Grant| grant.role.gives(permission);
    let mut grants = gate::roles(state, caller).filter(gives);
    match (grants.next(), grants.next()) {
        (Some(Grant { workspace, .. }), None) => workspace.clone(),
        _ => None,
    }
}

/// On a copy of the tables, off the threads that serve others.
async fn foresee(context: &Context, caller: Arc<Caller>, request: v1::ForeseeRequest) -> Result<v1::Forecast, Status> {
    let spec = request.spec.map(proto::convert::job_spec).transpose();
    let spec = spec.map_err(|faults| Status::invalid_argument(faults.to_string()))?.map(Arc::new);
    let turn = tokio::time::timeout(FORESIGHT_WAIT, context.leader.foresights().acquire_owned()).await;
    let turn = turn.map_err(|_| Status::unavailable("other looks ahead are under way here"))?;
    let turn = turn.map_err(|error| Status::internal(error.to_string()))?;
    let (state, policy, now) = (context.read(false).await?, context.leader.policy(), daemon::clock::now());
    let made = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        let mut forecast = leader::forecast(&policy, &state, spec, now)?;
        let is_seen = |job: u64| state.visible_job(&caller.principal, JobId(job)).is_some();
        forecast.starts.retain(|start| is_seen(start.job_id));
        forecast.stopped.retain(|job| is_seen(*job));
        if let Some(explanation) = &mut forecast.explanation {
            explanation.ahead.retain(|job| is_seen(*job));
        }
        Ok::<_, String>(forecast)
    });
    made.await.map_err(|error| Status::internal(error.to_string()))?.map_err(Status::failed_precondition)
}

/// Refuses what could never start on the workers that are known. This copy of the tables may lack the newest worker, so
/// before a refusal the leader is asked how far they are.
async fn check_fit(context: &Context, spec: &types::JobSpec) -> Result<(), Status> {
    if fits::fault(&context.node.state(), spec).is_none() {
        return Ok(());
    }
    let Some(fault) = fits::fault(&context.read(false).await?, spec) else { return Ok(()) };
    Err(Status::failed_precondition(format!(
        "the job could never start in this cluster: {fault}. With wait_for_workers (`muster submit --wait-for-workers`) it is \
         taken all the same and waits for workers that can"
    )))
}

async fn list(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::ListJobsRequest,
) -> Result<v1::ListJobsResponse, Status> {
    let mut phases = Vec::new();
    for name in &request.phases {
        phases.push(JobPhase::from_name(name).ok_or_else(|| {
            let known: Vec<&str> = JobPhase::ALL.iter().map(|phase| phase.name()).collect();
            Status::invalid_argument(format!("there is no phase {name:?}: use {}", known.join(", ")))
        })?);
    }
    let size = if request.page_size == 0 { PAGE_DEFAULT } else { request.page_size };
    if size > Limits::PAGE_MAX {
        return Err(Status::invalid_argument(format!("page_size {size} is more than {}", Limits::PAGE_MAX)));
    }
    let state = context.read(request.stale).await?;
    // A filter may look at a million jobs: on a snapshot of its own, off the threads that serve the others.
    let page =
        tokio::task::spawn_blocking(move || page(&state, &caller.principal, &request, &phases, size as usize)).await;
    page.map_err(|error| Status::internal(error.to_string()))
}

fn page(
    state: &State,
    caller: &Principal,
    request: &v1::ListJobsRequest,
    phases: &[JobPhase],
    size: usize,
) -> v1::ListJobsResponse {
    let before = (request.before_job > 0).then_some(JobId(request.before_job));
    let wanted = |job: &Job| {
        (phases.is_empty() || phases.contains(&job.phase))
            && state.may_see(caller, job.spec.workspace())
            && (request.workspace.is_empty() || job.spec.workspace().as_str() == request.workspace)
            && (request.experiment_name.is_empty() || job.spec.experiment_name == request.experiment_name)
            && (request.name_contains.is_empty() || job.spec.display_name.contains(&request.name_contains))
    };
    let mut found = state.jobs_before(before).filter(|job| wanted(job));
    let reader = Reader { state, principal: caller };
    let jobs: Vec<v1::JobSummary> = found.by_ref().take(size).map(|job| wire::summary(job, reader)).collect();
    let more = found.next().is_some();
    let next_before_job = jobs.last().filter(|_| more).map_or(0, |job| job.id);
    v1::ListJobsResponse { jobs, next_before_job }
}

async fn set_priority(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::SetPriorityRequest,
) -> Result<v1::JobSummary, Status> {
    let v1::SetPriorityRequest { job_id, priority } = request;
    if priority.unsigned_abs() > Limits::PRIORITY_MAX {
        let max = Limits::PRIORITY_MAX;
        return Err(Status::invalid_argument(format!("priority {priority} is not within -{max} to {max}")));
    }
    let command = Command::SetPriority { job: JobId(job_id), priority };
    let (_, state) = context.write_as(caller.clone(), command).await?;
    changed(Reader { state: &state, principal: &caller.principal }, job_id)
}
