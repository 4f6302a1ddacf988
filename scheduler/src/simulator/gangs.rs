//! From the words of traces to those of the core: jobs become gangs, machines become workers, names become queues.

use super::cluster::Cluster;
use super::machines::mask;
use super::random::{self, Stream};
use super::trace::{Trace, TraceJob};
use super::{Purpose, Settings, Walltimes};
use crate::model::{
    Checkpoint, GangRequest, Level, Place, QueueSpec, Quota, Range, RunTime, Shape, WorkerSpec, WorkerState,
};
use std::collections::{BTreeMap, BTreeSet};
use types::{InvalidName, JobId, Millis, Timestamp, WorkerId};

/// The job's number in the core: its place in the trace, from 1.
pub(crate) fn job_id(index: usize) -> JobId {
    JobId(index as u64 + 1)
}

/// The name of a machine.
pub(crate) fn worker_name(index: usize) -> Result<WorkerId, InvalidName> {
    WorkerId::new(format!("m{index:05}"))
}

/// The machine as a worker.
pub(crate) fn worker(cluster: &Cluster, index: usize) -> Result<Option<WorkerSpec>, InvalidName> {
    let Some(machine) = cluster.machines.get(index) else { return Ok(None) };
    let class = cluster.classes.get(machine.class as usize).cloned().unwrap_or_default();
    Ok(Some(WorkerSpec {
        id: worker_name(index)?,
        class: if machine.devices == 0 { String::new() } else { class },
        devices: mask(machine.devices),
        islands: Vec::new(),
        cpus: machine.cpus,
        memory_bytes: machine.memory_bytes,
        labels: BTreeMap::new(),
        taints: BTreeSet::new(),
        place: Place {
            zone: "zone".into(),
            block: format!("block-{}", machine.block),
            rack: format!("rack-{}", machine.rack),
            switch: String::new(),
        },
        state: WorkerState::Open,
    }))
}

/// The queue's name in the core; jobs without one wait in `default`. A name with `/` is a place in the tree only where there
/// is such a queue.
pub(crate) fn queue_name(trace: &Trace, queue: u32, queues: &[QueueSpec]) -> String {
    let name = trace.queues.get(queue as usize).map_or("", String::as_str);
    match name {
        "" => "default".to_owned(),
        name if queues.iter().any(|queue| queue.name == name) => name.to_owned(),
        name => name.replace('/', "-"),
    }
}

/// The names of all queues that jobs wait in, by their numbers in the trace.
pub(crate) fn queue_names(trace: &Trace, queues: &[QueueSpec]) -> Vec<String> {
    (0..trace.queues.len().max(1)).map(|at| queue_name(trace, at as u32, queues)).collect()
}

/// All queues side by side with equal weights, each with an equal part guaranteed.
pub(crate) fn queues(trace: &Trace, cluster: &Cluster) -> Vec<QueueSpec> {
    let names: BTreeSet<String> = queue_names(trace, &[]).into_iter().collect();
    let count = names.len() as u64;
    let mut devices: BTreeMap<&str, u64> = BTreeMap::new();
    for machine in &cluster.machines {
        let class = cluster.classes.get(machine.class as usize).map_or("", String::as_str);
        *devices.entry(class).or_default() += u64::from(machine.devices);
    }
    let quota = |all: u64| Quota { guaranteed: all / count, ..Quota::default() };
    let quotas: BTreeMap<String, Quota> =
        devices.iter().map(|(class, all)| ((*class).to_owned(), quota(*all))).collect();
    names.into_iter().map(|name| QueueSpec { name, weight: 1, quotas: quotas.clone() }).collect()
}

/// Devices of one member, when the job does not say: the largest divisor that a machine holds.
fn devices_per_member(job: &TraceJob, largest: u32) -> u32 {
    let divides = |per: &u32| job.devices.is_multiple_of(*per);
    job.devices_per_member.unwrap_or_else(|| (1..=largest.min(job.devices)).rev().find(divides).unwrap_or(1)).max(1)
}

/// What each member of the job needs. `largest` = devices of the largest machine.
pub(crate) fn shape(job: &TraceJob, largest: u32) -> Shape {
    if job.devices == 0 {
        return Shape { cpus: job.cpus, ..Shape::default() };
    }
    let per_member = devices_per_member(job, largest);
    let members = (job.devices / per_member).max(1);
    Shape {
        members: Range { min: (job.devices_min / per_member).clamp(1, members), max: members },
        ranks_per_member: per_member,
        devices: per_member,
        cpus: job.cpus.saturating_mul(per_member),
        preferred: (members > 1).then_some(Level::Rack),
        ..Shape::default()
    }
}

/// The job as the core is told of it. `queues` = names by the numbers of the trace.
pub(crate) fn request(
    trace: &Trace,
    index: usize,
    largest: u32,
    settings: &Settings,
    queues: &[String],
) -> Option<GangRequest> {
    let job = trace.jobs.get(index)?;
    let estimate = estimate(job.run, index, settings);
    let limit = match settings.walltimes {
        Walltimes::AsInTrace => job.walltime,
        Walltimes::Exact => Some(job.run),
        Walltimes::None => None,
    };
    Some(GangRequest {
        job: job_id(index),
        queue: queues.get(job.queue as usize).cloned().unwrap_or_default(),
        user: trace.users.get(job.user as usize).cloned().unwrap_or_default(),
        submitted: Timestamp(job.submit.0),
        not_before: Timestamp(0),
        shape: shape(job, largest),
        priority: job.priority,
        preemptible: true,
        run: RunTime { estimate, limit, actual: if settings.oracles_err { estimate } else { Some(job.run) } },
        checkpoint: settings.checkpoint.map(|interval| Checkpoint {
            interval,
            save: Millis(0),
            restore: settings.restart,
        }),
        avoid: Vec::new(),
    })
}

/// The truth times e to the power of a normal number with the deviation wanted: half of all are too long, half too short.
fn estimate(run: Millis, index: usize, settings: &Settings) -> Option<Millis> {
    let sigma = settings.estimate_sigma?;
    let error = random::exp(sigma * Stream::new(settings.seed, Purpose::Estimates as u64).normal(index as u64));
    Some(Millis((run.0 as f64 * error).round().max(1.0) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gang(devices: u32, per_member: Option<u32>) -> (u32, u32) {
        let job = TraceJob { devices, devices_min: devices, devices_per_member: per_member, ..TraceJob::default() };
        let shape = shape(&job, 8);
        (shape.members.max, shape.devices)
    }

    #[test]
    fn a_gang_takes_few_machines() {
        let cases = [(1, 1, 1), (4, 1, 4), (8, 1, 8), (16, 2, 8), (12, 2, 6), (13, 13, 1), (128, 16, 8)];
        for (devices, members, each) in cases {
            assert_eq!(gang(devices, None), (members, each), "{devices}");
        }
        assert_eq!(gang(16, Some(4)), (4, 4));
    }

    #[test]
    fn estimates_are_true_without_error_and_spread_with_it() {
        let settings = |sigma| Settings { estimate_sigma: sigma, ..Settings::default() };
        assert_eq!(estimate(Millis(5_000), 3, &settings(Some(0.0))), Some(Millis(5_000)));
        assert_eq!(estimate(Millis(5_000), 3, &settings(None)), None);
        let errors: Vec<f64> = (0..20_000)
            .filter_map(|index| estimate(Millis(1_000_000), index, &settings(Some(0.7))))
            .map(|estimate| (estimate.0 as f64 / 1e6).ln())
            .collect();
        let deviation = (errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64).sqrt();
        assert!((deviation - 0.7).abs() < 0.02, "{deviation}");
    }
}
