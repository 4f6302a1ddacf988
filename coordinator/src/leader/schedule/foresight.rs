//! What becomes of the jobs that wait, and what one more would change: the scheduler on a copy of the tables, ahead of time.
//!
//! Jobs are taken to run as long as they say: the estimate, else the time limit, else an hour.

use super::{ASSUMPTION, Schedule, read};
use cluster_state::{Command, Job, Outcome, State};
use proto::v1;
use scheduler::foresee::{Course, Future, foresee};
use scheduler::policy::Policy;
use std::collections::BTreeMap;
use std::sync::Arc;
use types::{JobId, JobSpec, LogIndex, Millis, RequestId, Timestamp};

/// Instants that are looked at, each with an end or a start: seconds of work at the most.
const TURNS_MAX: u32 = 10_000;
/// For a job that says nothing.
const RUN_DEFAULT: Millis = Millis(3_600_000);
/// A start that moves by less is the same.
const SAME: Millis = Millis(1_000);
/// Jobs that an answer names.
const ROWS_MAX: usize = 1_000;
/// The request of a job that is never submitted.
const NO_REQUEST: RequestId = RequestId([0xff; 16]);

/// The forecast for these tables, with one more job if there is one; why not, else.
pub(crate) fn forecast(
    policy: &Policy,
    state: &State,
    spec: Option<Arc<JobSpec>>,
    now: Timestamp,
) -> Result<v1::Forecast, String> {
    let mut gangs = courses(state);
    let before = ahead(&mut Schedule::new(policy, state, now), &gangs, now)?;
    let base = v1::Forecast {
        now_ms: now.0,
        waiting: gangs.values().filter(|course| course.since.is_none()).count() as u64,
        is_cut: before.is_cut,
        ..Default::default()
    };
    let Some(spec) = spec else {
        let mut starts: Vec<_> = rows(state, &before, &before).collect();
        starts.sort_by_key(|row| (row.start_ms == 0, row.start_ms, row.job_id));
        starts.truncate(ROWS_MAX);
        return Ok(v1::Forecast { starts, ..base });
    };
    let mut with = state.clone();
    let submit = Command::SubmitJob { request: NO_REQUEST, spec };
    let id = match with.apply(LogIndex(state.applied().0 + 1), now, &submit) {
        Outcome::Submitted { job, .. } => job,
        Outcome::Refused(refusal) => return Err(refusal.to_string()),
        other => return Err(format!("unexpected outcome {other:?}")),
    };
    let Some(job) = with.job(id) else { return Err("the job is not in the tables".to_owned()) };
    let mut schedule = Schedule::new(policy, &with, now);
    let mut explanation = schedule.explain(job, now);
    gangs.insert(id, course(job));
    let after = ahead(&mut schedule, &gangs, now)?;
    let mut starts: Vec<_> = rows(state, &before, &after).filter(is_delayed).collect();
    let delayed = starts.len() as u64;
    starts.sort_by_key(|row| (row.start_ms > 0, std::cmp::Reverse(row.start_ms.saturating_sub(row.start_without_ms))));
    starts.truncate(ROWS_MAX);
    let more = |job: &&JobId| after.stops.get(job) > before.stops.get(job) && **job != id;
    let start_ms = after.starts.get(&id).map_or(0, |at| at.0);
    if start_ms > 0 {
        explanation.expected_start_ms = start_ms;
        explanation.expected_start_assumption = ASSUMPTION.into();
    }
    Ok(v1::Forecast {
        start_ms,
        explanation: Some(explanation),
        starts,
        delayed,
        stopped: after.stops.keys().filter(more).map(|job| job.0).take(ROWS_MAX).collect(),
        is_cut: before.is_cut || after.is_cut,
        ..base
    })
}

fn ahead(schedule: &mut Schedule, gangs: &BTreeMap<JobId, Course>, now: Timestamp) -> Result<Future, String> {
    foresee(&mut schedule.core, now, gangs, TURNS_MAX).map_err(|error| format!("the look ahead went astray: {error}"))
}

fn courses(state: &State) -> BTreeMap<JobId, Course> {
    state.waiting().chain(state.live()).map(|job| (job.id, course(job))).collect()
}

fn course(job: &Arc<Job>) -> Course {
    let asked = job.spec.estimate.or(job.spec.timeout).unwrap_or(RUN_DEFAULT);
    let run = if job.spec.estimate.is_some() { read::remaining(job).unwrap_or(asked) } else { asked };
    Course { since: job.live_attempt().map(|attempt| attempt.placed), run }
}

/// Of each job that waits now.
fn rows<'a>(
    state: &'a State,
    before: &'a Future,
    after: &'a Future,
) -> impl Iterator<Item = v1::ForeseenStart> + use<'a> {
    let millis = |future: &Future, job: JobId| future.starts.get(&job).map_or(0, |at| at.0);
    state.waiting().map(move |job| v1::ForeseenStart {
        job_id: job.id.0,
        display_name: job.spec.display_name.clone(),
        queue: job.spec.queue.clone(),
        start_ms: millis(after, job.id),
        start_without_ms: millis(before, job.id),
    })
}

fn is_delayed(row: &v1::ForeseenStart) -> bool {
    row.start_without_ms > 0 && (row.start_ms == 0 || row.start_ms > row.start_without_ms.saturating_add(SAME.0))
}
