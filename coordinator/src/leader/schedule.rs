//! Between the tables and the pure scheduler: the view in, the plan out as one command.

use cluster_state::{Command, Job, PlannedGang, State, Worker};
use proto::v1;
use scheduler::{Plan, Reason, View, WaitingGang, WorkerView};
use std::fmt::Write as _;
use std::sync::Arc;
use types::{AttemptSecret, JobId, JobPhase, Timestamp, WorkerId};

/// Waiting gangs that one cycle looks at: the first in order; the rest cannot pass them anyway.
const LOOKED_AT_MAX: usize = 1_000;

/// Ranks that one plan starts: keeps its entry within the log's bound.
const PLACED_RANKS_MAX: usize = 512;

/// The cluster as the scheduler sees it.
pub(crate) fn view(state: &State, now: Timestamp) -> View<'_> {
    View {
        now,
        workers: state.workers().map(|(id, worker)| worker_view(id, worker)).collect(),
        waiting: state.waiting().take(LOOKED_AT_MAX).map(|job| waiting(job)).collect(),
    }
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
        devices_total: inventory.devices.iter().filter(|device| device.healthy).count() as u32,
        devices_free: worker.devices_free().collect(),
    }
}

fn waiting(job: &Job) -> WaitingGang<'_> {
    WaitingGang { job: job.id, gang: &job.spec.gang, ready_at: job.ready_at }
}

/// The plan as a command; none when nothing can start. `secret` is asked once a gang.
pub(crate) fn command(
    state: &State,
    now: Timestamp,
    mut secret: impl FnMut() -> std::io::Result<AttemptSecret>,
) -> std::io::Result<Option<Command>> {
    let Plan { placements, .. } = scheduler::plan(&view(state, now), PLACED_RANKS_MAX);
    let mut ranks = 0;
    let mut gangs = Vec::new();
    for (job, placement) in placements {
        ranks += placement.members.iter().map(|member| member.ranks.len()).sum::<usize>();
        // The first gang goes whatever its size.
        if ranks > PLACED_RANKS_MAX && !gangs.is_empty() {
            break;
        }
        gangs.push(PlannedGang { job, placement: Arc::new(placement), secret: secret()? });
    }
    Ok((!gangs.is_empty()).then_some(Command::CommitPlan { based_on: state.applied(), gangs }))
}

/// Why a job waits, or how it stands.
pub(crate) fn explain(state: &State, job: &Job, now: Timestamp) -> v1::Explanation {
    if job.phase != JobPhase::Queued {
        return settled(job);
    }
    let ahead: Vec<u64> = state.waiting().map(|other| other.id.0).take_while(|id| *id != job.id.0).collect();
    let view = view(state, now);
    let plan = scheduler::plan(&view, usize::MAX);
    let (summary, hints) = match plan.reasons.get(&job.id) {
        Some(reason) => (reason.to_string(), hints(reason)),
        None if ahead.len() >= LOOKED_AT_MAX => (Reason::NotLookedAt.to_string(), Vec::new()),
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
            types::AttemptPhase::Ended(cause) | types::AttemptPhase::Stopping(cause) => {
                format!("attempt {}: {cause}", attempt.number)
            }
            types::AttemptPhase::Preparing => format!("attempt {}: prepares", attempt.number),
            types::AttemptPhase::Running => format!("attempt {}: runs", attempt.number),
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
