//! From the replicated tables to `muster.v1` messages; conversions only, no I/O.

use cluster_state::{Attempt, Job, State, Worker};
use proto::v1;
use types::{AttemptPhase, EndCause, JobId, JobPhase, MemberEnd, Principal, RankExit, Timestamp, WorkerId};

/// Who is told.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) state: &'a State,
    pub(crate) principal: &'a Principal,
}

impl Reader<'_> {
    pub(crate) fn sees(&self, job: JobId) -> bool {
        self.state.visible_job(self.principal, job).is_some()
    }

    /// Why an attempt ended; without the number of a job that is not theirs to see.
    pub(crate) fn cause(&self, cause: &EndCause) -> String {
        match cause {
            EndCause::Preempted { by } if !self.sees(*by) => "stopped so that another job could start".into(),
            cause => cause.to_string(),
        }
    }
}

fn hash(hash: types::ContentHash) -> bytes::Bytes {
    hash.0.to_vec().into()
}

fn millis(time: Option<Timestamp>) -> u64 {
    time.map_or(0, |time| time.0)
}

/// The line of a list.
pub(crate) fn summary(job: &Job, reader: Reader<'_>) -> v1::JobSummary {
    let newest = job.attempts.last();
    v1::JobSummary {
        id: job.id.0,
        phase: job.phase.name().into(),
        workspace: job.spec.workspace().to_string(),
        display_name: job.spec.display_name.clone(),
        experiment_name: job.spec.experiment_name.clone(),
        submitted_ms: job.submitted.0,
        started_ms: millis(job.attempts.iter().find_map(|attempt| attempt.running)),
        ended_ms: millis(job.ended),
        attempts: job.attempts.len() as u32,
        world_size: newest.map_or_else(|| job.spec.gang.world_size(), |attempt| attempt.placement.world_size()),
        reason: reason(job, reader),
        priority: job.priority,
        queue: job.spec.queue.clone(),
        workers: newest.map(|attempt| workers(attempt)).unwrap_or_default(),
        kept: job.kept,
        forgotten_ms: millis(job.forgotten),
    }
}

fn workers(attempt: &Attempt) -> Vec<String> {
    let mut names: Vec<String> = attempt.placement.members.iter().map(|m| m.worker.to_string()).collect();
    names.dedup();
    names
}

/// One line: how it ended, or how its last attempt did.
fn reason(job: &Job, reader: Reader<'_>) -> String {
    match (job.phase, job.last_cause()) {
        (JobPhase::Completed | JobPhase::Failed, Some(cause)) => reader.cause(cause),
        (JobPhase::Queued, Some(cause)) => {
            format!("attempt {} ended: {}", job.attempts.len(), first_line(&reader.cause(cause)))
        }
        (JobPhase::Queued, None) => "waits for placement".into(),
        (_, Some(cause)) => first_line(&reader.cause(cause)).to_owned(),
        (_, None) => String::new(),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Everything about a job.
pub(crate) fn job(job: &Job, reader: Reader<'_>) -> v1::Job {
    v1::Job {
        summary: Some(summary(job, reader)),
        submitted_by: job.submitter.as_deref().unwrap_or_default().to_owned(),
        spec: Some(proto::convert::wire_job_spec(&job.spec)),
        attempts: job.attempts.iter().map(|attempt| self::attempt(attempt, reader)).collect(),
        checkpoints: job
            .checkpoints
            .iter()
            .map(|saved| v1::Checkpoint {
                step: saved.checkpoint.step,
                tree: hash(saved.checkpoint.tree),
                saved_ms: saved.saved.0,
                attempt: saved.attempt.0,
            })
            .collect(),
        outputs: job
            .outputs
            .iter()
            .map(|output| v1::JobOutput {
                name: output.output.name.clone(),
                node_rank: output.node_rank,
                tree: hash(output.output.tree),
                bytes: output.output.bytes,
            })
            .collect(),
        promise: job.promise.as_ref().map(|promise| v1::Promise {
            start_by_ms: promise.start_by.0,
            workers: promise.workers.iter().map(ToString::to_string).collect(),
        }),
    }
}

fn attempt(attempt: &Attempt, reader: Reader<'_>) -> v1::Attempt {
    let (phase, cause) = match &attempt.phase {
        AttemptPhase::Preparing => ("Preparing", None),
        AttemptPhase::Running => ("Running", None),
        AttemptPhase::Stopping(cause) => ("Stopping", Some(cause)),
        AttemptPhase::Ended(cause) => ("Ended", Some(cause)),
    };
    v1::Attempt {
        number: attempt.number.0,
        token: attempt.token.0,
        phase: phase.into(),
        placed_ms: attempt.placed.0,
        running_ms: millis(attempt.running),
        ended_ms: millis(attempt.ended),
        cause_kind: cause.map(|cause| cause.kind().to_owned()).unwrap_or_default(),
        cause: cause.map(|cause| reader.cause(cause)).unwrap_or_default(),
        members: attempt.placement.members.iter().map(member).collect(),
        ranks: ranks(attempt),
        resumed_from_step: attempt.resumed_from.as_ref().map_or(0, |checkpoint| checkpoint.step),
        lost_device_ms: attempt.lost_device_ms,
    }
}

fn member(member: &types::Member) -> v1::AttemptMember {
    v1::AttemptMember {
        node_rank: member.node_rank,
        worker: member.worker.to_string(),
        ranks: member.ranks.iter().map(|rank| rank.rank.0).collect(),
        devices: member.ranks.iter().flat_map(|rank| rank.devices.iter().copied()).collect(),
    }
}

fn ranks(attempt: &Attempt) -> Vec<v1::RankResult> {
    let ended = attempt.placement.members.iter().zip(&attempt.ends);
    ended
        .filter_map(|(member, end)| match end {
            Some(MemberEnd::Exited { ranks, .. }) => Some((member, ranks)),
            _ => None,
        })
        .flat_map(|(member, ranks)| ranks.iter().map(|rank| rank_result(&member.worker, rank)))
        .collect()
}

fn rank_result(worker: &WorkerId, rank: &types::RankEnd) -> v1::RankResult {
    let (exit_code, signal, stopped) = match rank.exit {
        RankExit::Code(code) => (Some(code), None, false),
        RankExit::Signal(signal) => (None, Some(signal), false),
        RankExit::NotStarted | RankExit::Stopped | RankExit::LeaseOver => (None, None, true),
    };
    v1::RankResult {
        rank: rank.rank.0,
        worker: worker.to_string(),
        exit_code,
        signal,
        stopped,
        ended_ms: rank.ended.0,
        final_metrics: rank.final_metrics.iter().cloned().collect(),
    }
}

/// A worker with what is held on it.
pub(crate) fn worker(worker: &Worker) -> v1::Worker {
    let registration = &worker.registration;
    let mut jobs: Vec<u64> = worker.held.members.iter().map(|key| key.job.0).collect();
    jobs.dedup();
    v1::Worker {
        name: registration.worker.to_string(),
        state: worker.state_name().into(),
        cpus_total: registration.inventory.cpus,
        cpus_used: worker.held.cpus,
        memory_bytes_total: registration.inventory.memory_bytes,
        memory_bytes_used: worker.held.memory_bytes,
        devices: registration.inventory.devices.iter().map(|device| self::device(worker, device)).collect(),
        labels: registration.labels.clone(),
        taints: worker.all_taints().into_iter().collect(),
        zone: registration.topology.zone.clone(),
        block: registration.topology.block.clone(),
        rack: registration.topology.rack.clone(),
        switch: registration.topology.switch.clone(),
        data_address: registration.data_address.clone(),
        version: registration.version.clone(),
        jobs,
        jobs_hidden: 0,
        registered_ms: worker.registered.0,
        windows: worker
            .windows
            .iter()
            .map(|window| v1::MaintenanceWindow { from_ms: window.from.0, to_ms: window.to.0 })
            .collect(),
        aside_until_ms: 0,
        driver: registration.inventory.software.driver.clone(),
        cuda: registration.inventory.software.cuda.clone(),
        nccl: registration.inventory.software.nccl.clone(),
        drained_by_ms: worker.drained_by().map_or(0, |deadline| deadline.0),
    }
}

fn device(worker: &Worker, device: &types::Device) -> v1::Device {
    v1::Device {
        index: device.index,
        uuid: device.uuid.clone(),
        name: device.name.clone(),
        memory_bytes: device.memory_bytes,
        healthy: device.healthy,
        island: device.island,
        numa_node: device.numa_node,
        nvlinks: device.nvlinks,
        job: worker.held.devices.get(&device.index).map_or(0, |key| key.job.0),
        held: worker.held.devices.contains_key(&device.index),
    }
}

/// Sums over all workers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) ready: u32,
    pub(crate) lost: u32,
    pub(crate) closed: u32,
    pub(crate) cpus_total: u32,
    pub(crate) cpus_used: u32,
    /// Healthy ones, as the scheduler counts them.
    pub(crate) devices_total: u32,
    /// Held, healthy or not.
    pub(crate) devices_used: u32,
    /// Healthy and held by nobody.
    pub(crate) devices_free: u32,
}

/// Counts workers by state and what they offer; lost ones and devices that are not healthy offer nothing.
pub(crate) fn totals(state: &State) -> Totals {
    let mut totals = Totals::default();
    for (_, worker) in state.workers() {
        if worker.lost {
            totals.lost += 1;
            continue;
        }
        if worker.is_open() {
            totals.ready += 1;
        } else {
            totals.closed += 1;
        }
        totals.cpus_total += worker.registration.inventory.cpus;
        totals.cpus_used += worker.held.cpus;
        totals.devices_total += worker.devices_healthy();
        totals.devices_used += worker.held.devices.len() as u32;
        totals.devices_free += worker.devices_free().count() as u32;
    }
    totals
}
