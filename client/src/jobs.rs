//! Jobs: one request, one answer.

use crate::call::{Patience, timed};
use crate::error::Error;
use crate::pool::Client;
use crate::v1;
use proto::convert::wire_job_spec;
use proto::v1::jobs_client::JobsClient;
use std::time::Duration;
use types::{JobId, JobSpec, RequestId};

/// A look ahead at a large cluster takes seconds, and one at a time is made.
const FORESIGHT: Patience = Patience {
    one_try: Duration::from_mins(1),
    in_all: Duration::from_mins(2),
    unreachable: Duration::from_secs(2),
    hedge_after: None,
};

impl Client {
    /// Submits a job exactly once: retries within the call carry one request id. Durable when this returns.
    pub async fn submit(&self, spec: &JobSpec) -> Result<JobId, Error> {
        self.submit_as(new_request_id()?, spec).await
    }

    /// The same for a job that no known worker could host: it waits for one that can.
    pub async fn submit_for_later(&self, spec: &JobSpec) -> Result<JobId, Error> {
        self.send_job(new_request_id()?, spec, true).await
    }

    /// Submits under the caller's own request id: calling again with it answers with the same job.
    pub async fn submit_as(&self, request_id: RequestId, spec: &JobSpec) -> Result<JobId, Error> {
        self.send_job(request_id, spec, false).await
    }

    async fn send_job(&self, request_id: RequestId, spec: &JobSpec, wait_for_workers: bool) -> Result<JobId, Error> {
        let (request_id, spec) = (request_id.0.to_vec().into(), Some(wire_job_spec(spec)));
        let wire = v1::SubmitRequest { request_id, spec, wait_for_workers };
        let answer = self
            .ask(|channel, span| {
                let request = timed(wire.clone(), span);
                async move { JobsClient::new(channel).submit(request).await }
            })
            .await?;
        Ok(JobId(answer.job_id))
    }

    /// One job with its attempts, checkpoints and outputs; up to date.
    pub async fn get(&self, job: JobId) -> Result<v1::Job, Error> {
        self.ask(|channel, span| {
            let request = timed(v1::GetJobRequest { job_id: job.0, stale: false }, span);
            async move { JobsClient::new(channel).get(request).await }
        })
        .await
    }

    /// One page, newest first; `next_before_job` of the answer is `before_job` of the next page.
    pub async fn list(&self, query: v1::ListJobsRequest) -> Result<v1::ListJobsResponse, Error> {
        self.ask(|channel, span| {
            let request = timed(query.clone(), span);
            async move { JobsClient::new(channel).list(request).await }
        })
        .await
    }

    /// Up to `count` jobs over as many pages as it takes, newest first.
    pub async fn list_up_to(&self, mut query: v1::ListJobsRequest, count: usize) -> Result<Vec<v1::JobSummary>, Error> {
        let mut jobs = Vec::new();
        while jobs.len() < count {
            let left = u32::try_from(count - jobs.len()).unwrap_or(u32::MAX);
            query.page_size = left.min(types::Limits::PAGE_MAX);
            let page = self.list(query.clone()).await?;
            jobs.extend(page.jobs);
            // A page that does not lead further back would never end.
            let leads_back = query.before_job == 0 || page.next_before_job < query.before_job;
            if page.next_before_job == 0 || !leads_back {
                break;
            }
            query.before_job = page.next_before_job;
        }
        jobs.truncate(count);
        Ok(jobs)
    }

    /// Asks for the job's end; a job that has ended stays as it is.
    pub async fn cancel(&self, job: JobId) -> Result<v1::JobSummary, Error> {
        let request_id = new_request_id()?;
        self.ask(|channel, span| {
            let wire = v1::CancelJobRequest { job_id: job.0, request_id: request_id.0.to_vec().into() };
            let request = timed(wire, span);
            async move { JobsClient::new(channel).cancel(request).await }
        })
        .await
    }

    /// Moves a job that has not ended in its queue's order.
    pub async fn set_priority(&self, job: JobId, priority: i32) -> Result<v1::JobSummary, Error> {
        self.call(|channel, span| {
            let request = timed(v1::SetPriorityRequest { job_id: job.0, priority }, span);
            async move { JobsClient::new(channel).set_priority(request).await }
        })
        .await
    }

    /// Keeps what the job's ranks wrote from retention, or leaves it to it again.
    pub async fn keep(&self, job: JobId, keep: bool) -> Result<v1::JobSummary, Error> {
        self.call(|channel, span| {
            let request = timed(v1::KeepJobRequest { job_id: job.0, release: !keep }, span);
            async move { JobsClient::new(channel).keep(request).await }
        })
        .await
    }

    /// Why the job waits, or why it ended.
    pub async fn explain(&self, job: JobId) -> Result<v1::Explanation, Error> {
        self.ask(|channel, span| {
            let request = timed(v1::ExplainRequest { job_id: job.0, local: false }, span);
            async move { JobsClient::new(channel).explain(request).await }
        })
        .await
    }

    /// When what waits is expected to start, and what this job would change if it were submitted now.
    pub async fn foresee(&self, spec: Option<&JobSpec>) -> Result<v1::Forecast, Error> {
        let spec = spec.map(wire_job_spec);
        self.call_for(FORESIGHT, |channel, span| {
            let request = timed(v1::ForeseeRequest { spec: spec.clone() }, span);
            async move { JobsClient::new(channel).foresee(request).await }
        })
        .await
    }
}

fn new_request_id() -> Result<RequestId, Error> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::Randomness(error.to_string()))?;
    Ok(RequestId(bytes))
}
