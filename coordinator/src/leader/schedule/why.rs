//! What people are told of a job: why it waits, when it will start, what would start it now; or how it stands.

use cluster_state::{Job, State, Worker};
use proto::v1;
use scheduler::Core;
use scheduler::explain::{Basis, Explanation, Forecast, Lack, Obstacle, Remedy};
use scheduler::model::{Scheduler, WorkerIndex};
use std::fmt::Write as _;
use types::{AttemptPhase, JobId, JobPhase, Millis, Timestamp};

/// Workers that are listed one by one.
const WORKERS_LISTED_MAX: usize = 20;
/// Jobs ahead that are named.
const AHEAD_NAMED_MAX: usize = 20;
/// Running jobs that are named.
const JOBS_NAMED_MAX: usize = 10;

/// On what an expected start rests, beside that jobs run as long as they say.
pub(crate) const ASSUMPTION: &str = "if running jobs end at their estimates and nothing new arrives";

/// The obstacle of a job that the scheduler does not take.
pub(super) const LEFT_OUT: &str = "left_out";

/// The obstacle of a waiting job.
pub(super) fn word(core: &Core, job: &Job, now: Timestamp) -> &'static str {
    core.explain(now, job.id).map_or("none", |why| kind(&why.obstacle))
}

/// A waiting job. Its expected start is left to a look ahead, but for one that starts now or can never start.
pub(super) fn waiting(core: &Core, state: &State, job: &Job, now: Timestamp) -> v1::Explanation {
    let mut details = vec![shape(job)];
    details.extend(state.workers().take(WORKERS_LISTED_MAX).map(|(_, worker)| worker_line(worker)));
    let more = state.workers().count().saturating_sub(WORKERS_LISTED_MAX);
    if more > 0 {
        details.push(format!("and {more} more workers"));
    }
    if let Some(cause) = job.last_cause() {
        details.push(format!("attempt {} ended: {cause}", job.attempts.len()));
    }
    let base = v1::Explanation {
        phase: job.phase.name().into(),
        details,
        queue: job.spec.queue.clone(),
        ..Default::default()
    };
    let Some(why) = core.explain(now, job.id) else {
        let summary = "it was just given its place and starts at once".to_owned();
        let assumption = ASSUMPTION.into();
        return v1::Explanation {
            summary,
            obstacle: "none".into(),
            expected_start_ms: now.0,
            expected_start_assumption: assumption,
            ..base
        };
    };
    let name = |worker: WorkerIndex| core.worker_id(worker).map(ToString::to_string).unwrap_or_default();
    v1::Explanation {
        summary: summary(state, &why, now, name),
        position: u32::try_from(why.ahead + 1).unwrap_or(u32::MAX),
        ahead: core.ahead(job.id, AHEAD_NAMED_MAX).into_iter().map(|job| job.0).collect(),
        hints: hints(state, &why, core.set_aside(now).count()),
        obstacle: kind(&why.obstacle).into(),
        start_ms: why.start.map_or(0, |start| start.at.0),
        start_basis: why.start.map_or("", |start| basis(start.basis)).into(),
        expected_start_unknown: unknown(&why.obstacle).into(),
        ..base
    }
}

/// Why there is no start to expect, where that needs no look ahead.
fn unknown(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NeverFits(_) => "it cannot start in this cluster as it is",
        Obstacle::OverCeiling { .. } => "its queue may never have as much as it needs",
        _ => "",
    }
}

/// A job that the scheduler refused.
pub(super) fn left_out(job: &Job, fault: &str) -> v1::Explanation {
    v1::Explanation {
        phase: job.phase.name().into(),
        summary: format!("the scheduler does not take it: {fault}"),
        obstacle: LEFT_OUT.into(),
        queue: job.spec.queue.clone(),
        expected_start_unknown: "the scheduler does not take it".into(),
        ..Default::default()
    }
}

/// A job that does not wait.
pub(crate) fn settled(job: &Job) -> v1::Explanation {
    let summary = match job.last_cause() {
        Some(cause) => cause.to_string(),
        None if job.phase == JobPhase::Starting => {
            "its members prepare; all start together when the last is ready".into()
        }
        None if job.phase == JobPhase::Running => "it runs".into(),
        None => format!("it is {}", job.phase),
    };
    let details = job.attempts.iter().map(|attempt| {
        let mut line = match &attempt.phase {
            AttemptPhase::Ended(cause) | AttemptPhase::Stopping(cause) => {
                format!("attempt {}: {cause}", attempt.number)
            }
            AttemptPhase::Preparing => format!("attempt {}: prepares", attempt.number),
            AttemptPhase::Running => format!("attempt {}: runs", attempt.number),
        };
        if attempt.lost_device_ms > 0 {
            let _ = write!(line, "; work lost: {} x devices", Millis(attempt.lost_device_ms));
        }
        line
    });
    v1::Explanation {
        phase: job.phase.name().into(),
        summary,
        details: details.collect(),
        queue: job.spec.queue.clone(),
        ..Default::default()
    }
}

fn summary(state: &State, why: &Explanation, now: Timestamp, name: impl Fn(WorkerIndex) -> String) -> String {
    let mut text = obstacle(state, &why.obstacle, now, name);
    if let Some(Forecast { at, basis: Basis::Promised }) = why.start {
        let _ = write!(text, "; a start within {} is promised", at.since(now));
    }
    text
}

fn obstacle(state: &State, obstacle: &Obstacle, now: Timestamp, name: impl Fn(WorkerIndex) -> String) -> String {
    match obstacle {
        Obstacle::NeverFits(lack) => never(state, lack),
        Obstacle::OverCeiling { queue, class, need, limit } => {
            format!("needs {need} {}; queue {queue} may never have more than {limit}", devices(class))
        }
        Obstacle::NotBefore { left, .. } => format!("waits {left} before its next attempt"),
        Obstacle::QuotaUsed { queue, class, need, used, limit } => {
            let what = devices(class);
            format!("needs {need} {what}; queue {queue} uses {used} of the {limit} that it may have now")
        }
        Obstacle::NoCapacity { need, fit } => {
            let mut text = format!("needs {need} instances at once; room for {fit} now, others hold the rest");
            let holders: Vec<JobId> = state.live().take(JOBS_NAMED_MAX + 1).map(|job| job.id).collect();
            if !holders.is_empty() {
                let _ = write!(text, " (running: {})", named(&holders));
            }
            text
        }
        Obstacle::Fragmented { level, best, need, fit, fit_in_all } => format!(
            "needs {need} instances within one {level}; {best} has room for {fit} now, all places together for {fit_in_all}"
        ),
        Obstacle::HeldFor { job, until } => {
            format!("free room is kept for job {job}, which waited longer, and starts within {}", until.since(now))
        }
        Obstacle::Closing { worker, at } => {
            format!("worker {} closes in {}, before the job would end", name(*worker), at.since(now))
        }
        Obstacle::VictimsLeaving { jobs } => format!("{} stop to make room for it", named(jobs)),
        Obstacle::Behind { job } => format!("job {job} is ahead of it, and the policy lets nobody pass"),
        Obstacle::None => "it fits now and starts with the next scheduling cycle".to_owned(),
    }
}

fn never(state: &State, lack: &Lack) -> String {
    let workers = state.workers().count();
    if workers == 0 {
        return "no worker has joined the cluster".to_owned();
    }
    if state.workers().all(|(_, worker)| worker.lost) {
        return format!("all {workers} workers are lost");
    }
    format!("it cannot start in this cluster as it is: {lack}")
}

fn named(jobs: &[JobId]) -> String {
    let names: Vec<String> = jobs.iter().take(JOBS_NAMED_MAX).map(|job| format!("job {job}")).collect();
    let more = if jobs.len() > JOBS_NAMED_MAX { " and more" } else { "" };
    format!("{}{more}", names.join(", "))
}

fn devices(class: &str) -> String {
    if class.is_empty() { "CPU slots".to_owned() } else { format!("{class} devices") }
}

fn kind(obstacle: &Obstacle) -> &'static str {
    match obstacle {
        Obstacle::NeverFits(_) => "never_fits",
        Obstacle::OverCeiling { .. } => "over_ceiling",
        Obstacle::NotBefore { .. } => "not_before",
        Obstacle::QuotaUsed { .. } => "quota_used",
        Obstacle::NoCapacity { .. } => "no_capacity",
        Obstacle::Fragmented { .. } => "fragmented",
        Obstacle::HeldFor { .. } => "held_for",
        Obstacle::Closing { .. } => "closing",
        Obstacle::VictimsLeaving { .. } => "victims_leaving",
        Obstacle::Behind { .. } => "behind",
        Obstacle::None => "none",
    }
}

fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Promised => "promised",
        Basis::Releases => "releases",
        Basis::Backlog => "backlog",
    }
}

fn hints(state: &State, why: &Explanation, aside: usize) -> Vec<String> {
    let mut hints: Vec<String> = why.remedies.iter().map(remedy).collect();
    let closed = state.workers().filter(|(_, worker)| !worker.lost && !worker.is_open()).count();
    match &why.obstacle {
        Obstacle::NeverFits(_) if state.workers().next().is_none() => {
            hints.push("start a worker: muster worker --name NAME --coordinators ADDRESS".to_owned());
        }
        Obstacle::NeverFits(_) => hints.push("add workers that have it, or ask for less".to_owned()),
        Obstacle::OverCeiling { queue, .. } | Obstacle::QuotaUsed { queue, .. } => {
            hints.push(format!(
                "muster queues show {queue} tells its quota and use; muster queues update {queue} changes it"
            ));
        }
        Obstacle::NoCapacity { .. } | Obstacle::Fragmented { .. } | Obstacle::Closing { .. } if closed > 0 => {
            hints.push(format!("{closed} workers are cordoned or draining; muster workers uncordon NAME opens one"));
        }
        Obstacle::NoCapacity { .. } | Obstacle::Fragmented { .. } if aside > 0 => {
            hints.push(format!(
                "{aside} workers are set aside because they failed several jobs: muster workers list tells which; restart one \
                 that is mended, or cordon and uncordon it"
            ));
        }
        _ => {}
    }
    hints
}

fn remedy(remedy: &Remedy) -> String {
    match remedy {
        Remedy::Widen { level } => format!("it would start now if its instances might lie anywhere in one {level}"),
        Remedy::OtherClass { class } => format!("it would start now on {} (x-muster.devices)", devices(class)),
        Remedy::Fewer { members } => format!("it would start now with {members} instances"),
        Remedy::Shorter { limit } => format!("it would start now with limits.timeout of at most {limit}"),
        Remedy::HigherPriority => "a higher priority moves it ahead: muster jobs priority".to_owned(),
    }
}

fn shape(job: &Job) -> String {
    let gang = &job.spec.gang;
    let fewest = if gang.is_elastic() { format!("{} to ", gang.fewest()) } else { String::new() };
    let mut text = format!(
        "asks for {fewest}{} instances of {} ranks; each rank {} CPU slots",
        gang.instances, gang.ranks_per_instance, gang.per_rank.cpus
    );
    if gang.per_rank.memory_bytes > 0 {
        let _ = write!(text, ", {} bytes of memory", gang.per_rank.memory_bytes);
    }
    if gang.per_rank.gpus > 0 {
        let _ = write!(text, ", {} GPUs", gang.per_rank.gpus);
    }
    if let Some(level) = job.spec.constraints.required {
        let _ = write!(text, "; all within one {}", level.name());
    }
    if let Some(level) = gang.spread {
        let _ = write!(text, "; no two within one {}", level.name());
    }
    if !job.spec.constraints.away_from.is_empty() {
        let _ = write!(text, "; not where jobs of the group {} are", job.spec.constraints.away_from);
    }
    text
}

fn worker_line(worker: &Worker) -> String {
    let inventory = &worker.registration.inventory;
    format!(
        "{}: {}; free {} of {} CPU slots, {} of {} bytes of memory, {} of {} GPUs",
        worker.registration.worker,
        worker.state_name(),
        worker.cpus_free(),
        inventory.cpus,
        worker.memory_bytes_free(),
        inventory.memory_bytes,
        worker.devices_free().count(),
        worker.devices_healthy()
    )
}
