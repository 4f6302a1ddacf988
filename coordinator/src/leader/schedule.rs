//! Between the tables and the pure scheduler: the view in, the plan out as one command.

use cluster_state::{Command, Job, PlannedGang, State, Worker};
use proto::v1;
use scheduler::{Planner, Reason, View, WaitingGang, WorkerView};
use std::fmt::Write as _;
use std::sync::Arc;
use types::{AttemptPhase, AttemptSecret, EndCause, JobId, JobPhase, Timestamp, WorkerId};

/// Ranks that one plan starts: keeps its entry within the log's bound.
const PLACED_RANKS_MAX: usize = 512;

/// Attempts of a job that are looked through for machines at fault.
const ATTEMPTS_REMEMBERED: usize = 32;

/// The workers as the scheduler sees them.
fn workers(state: &State) -> Vec<WorkerView<'_>> {
    state.workers().map(|(id, worker)| worker_view(id, worker)).collect()
}

fn worker_view<'a>(id: &'a WorkerId, worker: &'a Worker) -> WorkerView<'a> {
    let inventory = &worker.registration.inventory;
    WorkerView {
        id,
        open: worker.is_open(),
        cpus_total: inventory.cpus,
        cpus_free: worker.cpus_free(),
        memory_bytes_total: inventory.memory_bytes,
        memory_bytes_free: worker.memory_bytes_free(),
        devices_total: worker.devices_healthy(),
        devices_free: worker.devices_free().collect(),
    }
}

fn waiting(job: &Job) -> WaitingGang<'_> {
    let mut avoid: Vec<&WorkerId> = Vec::new();
    for attempt in job.attempts.iter().rev().take(ATTEMPTS_REMEMBERED) {
        if let AttemptPhase::Ended(EndCause::NotPrepared { worker, machine_fault: true, .. }) = &attempt.phase
            && !avoid.contains(&worker)
        {
            avoid.push(worker);
        }
    }
    WaitingGang { job: job.id, gang: &job.spec.gang, ready_at: job.ready_at, avoid }
}

/// What one cycle came to.
pub(crate) struct Planned {
    /// None when nothing can start.
    pub(crate) command: Option<Command>,
    /// When a back-off ends and the same tables may give another plan.
    pub(crate) next_ready: Option<Timestamp>,
}

/// The plan as a command. `secret` is asked once a gang.
///
/// It goes through all that wait until nothing more can be placed: those that cannot start for a reason of their own (too
/// large, waiting out a back-off, waiting for machines that others do not need) hide nobody behind them.
pub(crate) fn command(
    state: &State,
    now: Timestamp,
    mut secret: impl FnMut() -> std::io::Result<AttemptSecret>,
) -> std::io::Result<Planned> {
    let workers = workers(state);
    let mut planner = Planner::new(now, &workers);
    let mut ranks = 0;
    let mut gangs = Vec::new();
    for job in state.waiting() {
        if planner.is_spent() {
            break;
        }
        let Ok(placement) = planner.place(&waiting(job)) else { continue };
        ranks += placement.members.iter().map(|member| member.ranks.len()).sum::<usize>();
        // The first gang goes whatever its size.
        if ranks > PLACED_RANKS_MAX && !gangs.is_empty() {
            break;
        }
        gangs.push(PlannedGang { job: job.id, placement: Arc::new(placement), secret: secret()? });
    }
    let command = (!gangs.is_empty()).then_some(Command::CommitPlan { based_on: state.applied(), gangs });
    Ok(Planned { command, next_ready: planner.next_ready() })
}

/// Does any worker take at least one rank more? Each needs a CPU slot, so without one no queue is worth looking at.
pub(crate) fn has_room(state: &State) -> bool {
    state.workers().any(|(_, worker)| worker.is_open() && worker.cpus_free() > 0)
}

/// Why a job waits, or how it stands.
pub(crate) fn explain(state: &State, job: &Job, now: Timestamp) -> v1::Explanation {
    if job.phase != JobPhase::Queued {
        return settled(job);
    }
    let ahead: Vec<u64> = state.waiting().map(|other| other.id.0).take_while(|id| *id != job.id.0).collect();
    // What is behind it changes nothing for it.
    let up_to_it = state.waiting().take(ahead.len() + 1).map(|job| waiting(job)).collect();
    let view = View { now, workers: workers(state), waiting: up_to_it };
    let (summary, hints) = match scheduler::plan(&view).reasons.get(&job.id) {
        Some(reason) => (reason.to_string(), hints(reason)),
        None => ("it fits now and starts with the next scheduling cycle".to_owned(), Vec::new()),
    };
    let mut details = vec![shape(job)];
    details.extend(view.workers.iter().map(worker_line));
    if let Some(cause) = job.last_cause() {
        details.push(format!("attempt {} ended: {cause}", job.attempts.len()));
    }
    v1::Explanation {
        phase: job.phase.name().into(),
        summary,
        details,
        position: u32::try_from(ahead.len() + 1).unwrap_or(u32::MAX),
        ahead: ahead.into_iter().take(20).collect(),
        hints,
    }
}

fn settled(job: &Job) -> v1::Explanation {
    let summary = match job.last_cause() {
        Some(cause) => cause.to_string(),
        None if job.phase == JobPhase::Starting => {
            "its members prepare; all start together when the last is ready".into()
        }
        None if job.phase == JobPhase::Running => "it runs".into(),
        None => format!("it is {}", job.phase),
    };
    let details = job
        .attempts
        .iter()
        .map(|attempt| match &attempt.phase {
            AttemptPhase::Ended(cause) | AttemptPhase::Stopping(cause) => {
                format!("attempt {}: {cause}", attempt.number)
            }
            AttemptPhase::Preparing => format!("attempt {}: prepares", attempt.number),
            AttemptPhase::Running => format!("attempt {}: runs", attempt.number),
        })
        .collect();
    v1::Explanation { phase: job.phase.name().into(), summary, details, ..Default::default() }
}

fn shape(job: &Job) -> String {
    let gang = &job.spec.gang;
    let mut text = format!(
        "asks for {} instances of {} ranks; each rank {} CPU slots",
        gang.instances, gang.ranks_per_instance, gang.per_rank.cpus
    );
    if gang.per_rank.memory_bytes > 0 {
        let _ = write!(text, ", {} bytes of memory", gang.per_rank.memory_bytes);
    }
    if gang.per_rank.gpus > 0 {
        let _ = write!(text, ", {} GPUs", gang.per_rank.gpus);
    }
    text
}

fn worker_line(worker: &WorkerView<'_>) -> String {
    format!(
        "{}: {}; free {} of {} CPU slots, {} of {} bytes of memory, {} of {} GPUs",
        worker.id,
        if worker.open { "open" } else { "closed (lost, cordoned or draining)" },
        worker.cpus_free,
        worker.cpus_total,
        worker.memory_bytes_free,
        worker.memory_bytes_total,
        worker.devices_free.len(),
        worker.devices_total
    )
}

fn hints(reason: &Reason) -> Vec<String> {
    let hint = match reason {
        Reason::NoWorkers { closed: 0 } => "start a worker: muster worker --name NAME --coordinators ADDRESS",
        Reason::NoWorkers { .. } => "muster workers list shows their state; muster workers uncordon NAME opens one",
        Reason::TooLarge { fit_with_closed, instances, .. } if fit_with_closed >= instances => {
            "it would fit if cordoned workers were opened or lost ones came back"
        }
        Reason::TooLarge { .. } => "add workers that have it, or ask for less",
        Reason::Behind { .. } => "a higher x-muster.priority moves a job ahead",
        Reason::BackOff { .. } | Reason::Busy { .. } | Reason::NotLookedAt => return Vec::new(),
    };
    vec![hint.to_owned()]
}

/// Jobs that a taken plan started, for the queue-wait histogram.
pub(crate) fn started<'a>(state: &'a State, command: &'a Command) -> impl Iterator<Item = (JobId, u64)> + 'a {
    let gangs = match command {
        Command::CommitPlan { gangs, .. } => gangs.as_slice(),
        _ => &[],
    };
    gangs.iter().filter_map(|gang| {
        let job = state.job(gang.job)?;
        let attempt = job.attempts.last()?;
        let since = job.attempts.iter().rev().nth(1).and_then(|previous| previous.ended).unwrap_or(job.submitted);
        Some((gang.job, attempt.placed.since(since).0))
    })
}

#[cfg(test)]
mod tests;
