//! From the tables to the scheduler's words: workers, queues and gangs.

use cluster_state::{Attempt, Job, SavedCheckpoint, Worker};
use scheduler::model::{
    Checkpoint, ClassChoice, EndedBy, Event, GangRequest, Level, Place, Placed, QueueSpec, Quota, Range, RunTime,
    Shape, Spread, UNLIMITED, WorkerIndex, WorkerSpec, WorkerState,
};
use std::collections::BTreeMap;
use types::{AttemptPhase, EndCause, JobPhase, JobSpec, Millis, PlaceLevel, Queue, Timestamp, WorkerId};

/// A change of size waits for a checkpoint that is due within this time.
const CHECKPOINT_WAIT_MAX: Millis = Millis(5 * 60_000);
/// Attempts of a job that are looked through for machines at fault.
const ATTEMPTS_REMEMBERED: usize = 32;
/// Devices that a worker can have in the scheduler's bit sets; those with higher indexes are not used.
const DEVICES_MAX: u32 = 64;

pub(super) fn worker(id: &WorkerId, worker: &Worker) -> WorkerSpec {
    let inventory = &worker.registration.inventory;
    let usable = inventory.devices.iter().filter(|device| device.index < DEVICES_MAX);
    // All devices of a machine are taken for the model of its first one.
    let class = usable.clone().next().map(|device| device.name.clone()).unwrap_or_default();
    let healthy = usable.filter(|device| device.healthy && device.name == class);
    let devices = healthy.fold(0, |bits, device| bits | 1 << device.index);
    let mut islands: BTreeMap<u32, u64> = BTreeMap::new();
    for device in inventory.devices.iter().filter(|device| device.index < DEVICES_MAX) {
        *islands.entry(device.island).or_default() |= 1 << device.index;
    }
    let topology = &worker.registration.topology;
    WorkerSpec {
        id: id.clone(),
        class,
        devices,
        islands: if islands.len() > 1 { islands.into_values().collect() } else { Vec::new() },
        cpus: inventory.cpus,
        memory_bytes: inventory.memory_bytes,
        labels: worker.registration.labels.clone(),
        taints: worker.all_taints(),
        place: Place {
            zone: topology.zone.clone(),
            block: topology.block.clone(),
            rack: topology.rack.clone(),
            switch: topology.switch.clone(),
        },
        state: state(worker),
    }
}

pub(super) fn state(worker: &Worker) -> WorkerState {
    use types::Availability::{Cordoned, Draining, Open};
    match (worker.lost, worker.availability) {
        (true, _) => WorkerState::Lost,
        (false, Open) => WorkerState::Open,
        (false, Cordoned) => WorkerState::Cordoned,
        (false, Draining { deadline }) => WorkerState::Draining { deadline },
    }
}

pub(super) fn queue(queue: &Queue) -> QueueSpec {
    let quota = |quota: &types::QueueQuota| Quota {
        guaranteed: quota.guaranteed,
        ceiling: quota.ceiling.unwrap_or(UNLIMITED),
        lend: quota.lend.unwrap_or(UNLIMITED),
    };
    let quotas = queue.quotas.iter().map(|(class, bounds)| (class.clone(), quota(bounds))).collect();
    QueueSpec { name: queue.name.clone(), weight: queue.weight, quotas }
}

/// The gang of a job, as it waits.
pub(super) fn gang(job: &Job, avoid: Vec<WorkerIndex>) -> GangRequest {
    GangRequest {
        job: job.id,
        queue: job.spec.queue.clone(),
        user: String::new(),
        submitted: job.submitted,
        not_before: job.ready_at,
        shape: shape(&job.spec),
        priority: job.priority,
        preemptible: job.spec.preemptible,
        run: RunTime { estimate: job.spec.estimate, limit: job.spec.timeout, actual: None },
        // Any job may save checkpoints; what it would lose is counted from the last that was recorded.
        checkpoint: Some(Checkpoint { interval: Millis(0), save: Millis(0), restore: Millis(0) }),
        avoid,
    }
}

fn shape(spec: &JobSpec) -> Shape {
    let (gang, constraints) = (&spec.gang, &spec.constraints);
    let ranks = gang.ranks_per_instance;
    let level = |level: PlaceLevel| match level {
        PlaceLevel::Worker => Level::Worker,
        PlaceLevel::Switch => Level::Switch,
        PlaceLevel::Rack => Level::Rack,
        PlaceLevel::Block => Level::Block,
        PlaceLevel::Zone => Level::Zone,
    };
    let class = |name: &String| ClassChoice { class: name.clone(), speed_permille: 1_000 };
    Shape {
        classes: constraints.devices.iter().map(class).collect(),
        members: Range { min: gang.fewest(), max: gang.instances },
        ranks_per_member: ranks,
        devices: ranks.saturating_mul(gang.per_rank.gpus),
        cpus: ranks.saturating_mul(gang.per_rank.cpus),
        memory_bytes: u64::from(ranks).saturating_mul(gang.per_rank.memory_bytes),
        required: constraints.required.map(level),
        preferred: constraints.preferred.map(level),
        spread: gang.spread.map(|apart| Spread { level: level(apart), members_max: 1 }),
        labels: constraints.labels.clone(),
        tolerations: constraints.tolerations.clone(),
        group: constraints.group.clone(),
        away_from: constraints.away_from.clone(),
    }
}

/// Workers that failed to prepare the job, by name.
pub(super) fn avoided(job: &Job) -> Vec<&WorkerId> {
    let mut avoid: Vec<&WorkerId> = Vec::new();
    for attempt in job.attempts.iter().rev().take(ATTEMPTS_REMEMBERED) {
        if let AttemptPhase::Ended(EndCause::NotPrepared { worker, machine_fault: true, .. }) = &attempt.phase
            && !avoid.contains(&worker)
        {
            avoid.push(worker);
        }
    }
    avoid
}

/// Where the members of an attempt are.
pub(super) fn members(attempt: &Attempt, index: impl Fn(&WorkerId) -> Option<WorkerIndex>) -> Option<Vec<Placed>> {
    let placed = attempt.placement.members.iter().map(|member| {
        let devices = member.ranks.iter().flat_map(|rank| &rank.devices).filter(|device| **device < DEVICES_MAX);
        Some(Placed { worker: index(&member.worker)?, devices: devices.fold(0, |bits, device| bits | 1 << device) })
    });
    placed.collect()
}

/// The failures that were a worker's fault, for a core that was not there.
pub(super) fn strikes<'a>(id: &'a WorkerId, worker: &'a Worker) -> impl Iterator<Item = Event> + 'a {
    worker.strikes.iter().map(|strike| Event::Blamed { worker: id.clone(), job: strike.job, at: strike.at })
}

/// Has the attempt that the core counts ended so that the gang goes on at once with other members?
pub(super) fn goes_on(job: &Job, counted: Option<usize>, has_members: bool) -> bool {
    let is_resized = matches!(job.last_cause(), Some(EndCause::Resized { .. }));
    has_members && is_resized && job.phase == JobPhase::Queued && counted == Some(job.attempts.len())
}

/// The checkpoints of an attempt after step `told`, oldest first: the last two tell all, the time from one to the next with it.
pub(super) fn news<'a>(job: &'a Job, attempt: &Attempt, told: Option<u64>) -> Vec<&'a SavedCheckpoint> {
    let newest = job.checkpoints.iter().rev();
    let mut news: Vec<_> = newest
        .take_while(|saved| saved.attempt == attempt.number && Some(saved.checkpoint.step) > told)
        .take(2)
        .collect();
    news.reverse();
    news
}

/// Before a change of size a gang may save its progress, if it does so soon by what it did so far.
pub(super) fn next_checkpoint(job: &Job, now: Timestamp) -> Option<Timestamp> {
    let attempt = job.live_attempt()?.number;
    let mut saved = job.checkpoints.iter().rev().filter(|saved| saved.attempt == attempt);
    let (last, before) = (saved.next()?.saved, saved.next()?.saved);
    let due = last.plus(last.since(before)).max(now);
    (due.since(now) <= CHECKPOINT_WAIT_MAX).then_some(due)
}

/// Who is to blame for the end of a job's last attempt.
pub(super) fn ended_by(job: &Job) -> EndedBy {
    match job.last_cause() {
        Some(EndCause::Success) | None => EndedBy::Success,
        Some(EndCause::NotPrepared { worker, machine_fault: true, .. }) => EndedBy::Workers(vec![worker.clone()]),
        Some(
            EndCause::Canceled
            | EndCause::Preempted { .. }
            | EndCause::Drained { .. }
            | EndCause::WorkerLost { .. }
            | EndCause::Resized { .. },
        ) => EndedBy::Order,
        Some(_) => EndedBy::Failure,
    }
}

/// What is left to run when the job goes on from its last checkpoint, if it said how long it runs.
pub(super) fn remaining(job: &Job) -> Option<Millis> {
    let estimate = job.spec.estimate?;
    let most = u64::from(job.spec.gang.instances.max(1));
    let mut done = 0;
    for attempt in &job.attempts {
        let saved = job.checkpoints.iter().rev().find(|saved| saved.attempt == attempt.number);
        if let (Some(running), Some(saved)) = (attempt.running, saved) {
            // A smaller gang takes longer for the same.
            done += saved.saved.since(running).0.saturating_mul(attempt.placement.members.len() as u64) / most;
        }
    }
    Some(Millis(estimate.0.saturating_sub(done).max(1_000)))
}
