//! The numbers of one simulation, as in the table and in JSON. Times in seconds, device time in GPU-hours.

use super::measure::Outcome;
use super::trace::{Trace, TraceJob};
use serde::Serialize;

/// One row of the table.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// Name of the policy.
    pub policy: String,
    /// Jobs of the trace.
    pub jobs: usize,
    /// Jobs that ended.
    pub jobs_done: usize,
    /// From submission to end: mean, and of each hundred jobs the 50th, 95th, 99th; longest.
    pub completion_mean_s: f64,
    /// Median.
    pub completion_p50_s: f64,
    /// 95th percentile.
    pub completion_p95_s: f64,
    /// 99th percentile.
    pub completion_p99_s: f64,
    /// Longest.
    pub completion_max_s: f64,
    /// Time waiting, over all attempts of a job: mean.
    pub wait_mean_s: f64,
    /// Median.
    pub wait_p50_s: f64,
    /// 99th percentile.
    pub wait_p99_s: f64,
    /// Longest.
    pub wait_max_s: f64,
    /// By the number of GPUs.
    pub wait_by_size: Vec<SizeClass>,
    /// Completion over run time (at least 10 s), at least 1: mean.
    pub slowdown_mean: f64,
    /// 99th percentile.
    pub slowdown_p99: f64,
    /// From the first submission to the last end.
    pub makespan_s: f64,
    /// GPUs in use, of those up, %.
    pub allocated_percent: f64,
    /// GPUs in use, of those up, while a job waited, %.
    pub allocated_busy_percent: f64,
    /// As `allocated_percent`, without what was lost and what starts cost, %.
    pub useful_percent: f64,
    /// Of GPUs idle while a job waited: on machines with too few for a member of the oldest, %.
    pub fragmentation_percent: f64,
    /// Of idle GPUs: on wholly free machines, %.
    pub idle_whole_percent: f64,
    /// Completion over run time × mean contention: worst (Themis, Shockwave).
    pub finish_time_ratio_worst: f64,
    /// Jobs with a ratio above 1, %.
    pub finish_time_unfair_percent: f64,
    /// Jain's index over queues of run time / completion time.
    pub jain: f64,
    /// Stops for others.
    pub preemptions: u64,
    /// Changes of running gangs' members.
    pub resizes: u64,
    /// Attempts that ended with their machine.
    pub failed_attempts: u64,
    /// Work done again.
    pub lost_gpu_h: f64,
    /// Spent on starts.
    pub start_cost_gpu_h: f64,
    /// Used by queues below the root beyond what they are guaranteed.
    pub borrowed_gpu_h: f64,
    /// Starts that left a queue beyond its ceiling: 0, or the scheduler is at fault.
    pub quota_violations: u64,
    /// Jobs that were promised a start.
    pub promised: usize,
    /// Started later, though nothing had broken the promise.
    pub promised_late: usize,
    /// Broken by a lost machine, or by a job that ran longer than estimated.
    pub promised_broken: usize,
    /// Distance of the promised start from the true one, over the time until then: median, %.
    pub promised_error_percent: f64,
    /// Promises beside which an expected start was asked for.
    pub expected: usize,
    /// Distance of the expected start from the true one, over the true time until then: median, %.
    pub expected_error_percent: f64,
    /// Rounds of decisions.
    pub cycles: usize,
    /// CPU time of a round in microseconds: median.
    pub cycle_p50_us: f64,
    /// 99th percentile.
    pub cycle_p99_us: f64,
    /// 99.9th percentile.
    pub cycle_p999_us: f64,
    /// Longest.
    pub cycle_max_us: f64,
    /// Starts for each second of the scheduler's CPU time.
    pub starts_per_cpu_s: f64,
}

/// Waiting of the jobs of one range of sizes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SizeClass {
    /// Fewest and most GPUs.
    pub gpus: (u32, u32),
    /// Jobs that ended.
    pub jobs: usize,
    /// Mean.
    pub wait_mean_s: f64,
    /// Longest.
    pub wait_max_s: f64,
}

/// Sizes of jobs that fare differently: parts of a machine, a machine, some, many.
const SIZES: [(u32, u32); 6] = [(0, 1), (2, 7), (8, 8), (9, 64), (65, 256), (257, u32::MAX)];

/// Run times below this do not make a slowdown (Feitelson's bounded slowdown).
const SLOWDOWN_BOUND_S: f64 = 10.0;

impl Outcome {
    /// The numbers.
    pub fn report(&self, policy: &str, trace: &Trace) -> Report {
        let mut report = Report { policy: policy.to_owned(), jobs: trace.jobs.len(), ..Report::default() };
        self.completion(&mut report, trace);
        self.waiting(&mut report, trace);
        self.fairness(&mut report, trace);
        self.use_of_devices(&mut report, trace);
        self.promises(&mut report);
        self.decisions(&mut report);
        report
    }

    /// The job, its end and its waiting time, of each job that ended.
    fn ended<'a>(&'a self, trace: &'a Trace) -> impl Iterator<Item = (&'a TraceJob, f64, f64)> {
        let second = trace.ticks_per_second;
        let both = trace.jobs.iter().zip(&self.jobs);
        both.filter_map(move |(job, outcome)| {
            let end = outcome.end?;
            Some((job, seconds(end - job.submit.0, second), seconds(outcome.waited, second)))
        })
    }

    fn completion(&self, report: &mut Report, trace: &Trace) {
        let times = sorted(self.ended(trace).map(|(_, completion, _)| completion));
        report.jobs_done = times.len();
        report.completion_mean_s = mean(&times);
        report.completion_p50_s = percentile(&times, 0.50);
        report.completion_p95_s = percentile(&times, 0.95);
        report.completion_p99_s = percentile(&times, 0.99);
        report.completion_max_s = times.last().copied().unwrap_or(0.0);
        let slowdown = |(job, completion, _): (&TraceJob, f64, f64)| {
            (completion / seconds(job.run.0, trace.ticks_per_second).max(SLOWDOWN_BOUND_S)).max(1.0)
        };
        let slowdowns = sorted(self.ended(trace).map(slowdown));
        report.slowdown_mean = mean(&slowdowns);
        report.slowdown_p99 = percentile(&slowdowns, 0.99);
        report.makespan_s =
            seconds(self.jobs.iter().filter_map(|job| job.end).max().unwrap_or(0), trace.ticks_per_second);
    }

    fn waiting(&self, report: &mut Report, trace: &Trace) {
        let waits = sorted(self.ended(trace).map(|(_, _, wait)| wait));
        report.wait_mean_s = mean(&waits);
        report.wait_p50_s = percentile(&waits, 0.50);
        report.wait_p99_s = percentile(&waits, 0.99);
        report.wait_max_s = waits.last().copied().unwrap_or(0.0);
        for gpus in SIZES {
            let of_size =
                |(job, _, wait): (&TraceJob, f64, f64)| (gpus.0..=gpus.1).contains(&job.devices).then_some(wait);
            let waits = sorted(self.ended(trace).filter_map(of_size));
            let wait_max_s = waits.last().copied().unwrap_or(0.0);
            report.wait_by_size.push(SizeClass { gpus, jobs: waits.len(), wait_mean_s: mean(&waits), wait_max_s });
        }
    }

    fn fairness(&self, report: &mut Report, trace: &Trace) {
        let ratios = sorted(self.jobs.iter().filter_map(|job| job.finish_time_ratio));
        report.finish_time_ratio_worst = ratios.last().copied().unwrap_or(0.0);
        let unfair = ratios.iter().filter(|ratio| **ratio > 1.0 + 1e-9).count();
        report.finish_time_unfair_percent = percent(unfair as f64, ratios.len() as f64);
        let mut by_queue = vec![(0.0, 0.0); trace.queues.len().max(1)];
        for (job, completion, _) in self.ended(trace) {
            if let Some(sums) = by_queue.get_mut(job.queue as usize) {
                *sums = (sums.0 + seconds(job.run.0, trace.ticks_per_second), sums.1 + completion);
            }
        }
        let parts: Vec<f64> = by_queue.iter().filter(|sums| sums.1 > 0.0).map(|sums| sums.0 / sums.1).collect();
        let (sum, squares) = (parts.iter().sum::<f64>(), parts.iter().map(|part| part * part).sum::<f64>());
        report.jain = if squares > 0.0 { sum * sum / (parts.len() as f64 * squares) } else { 1.0 };
    }

    fn use_of_devices(&self, report: &mut Report, trace: &Trace) {
        let sums = &self.sums;
        let (capacity, used) = (sums.capacity as f64, sums.used as f64);
        report.allocated_percent = percent(used, capacity);
        report.useful_percent = percent(used - sums.lost as f64 - sums.start_cost as f64, capacity);
        let (up, idle) = (sums.capacity_waited as f64, sums.idle_waited as f64);
        report.allocated_busy_percent = percent(up - idle, up);
        report.fragmentation_percent = percent(sums.stranded as f64, sums.idle_waited as f64);
        report.idle_whole_percent = percent(capacity - used - sums.broken as f64, capacity - used);
        report.preemptions = sums.preemptions;
        report.resizes = sums.resizes;
        report.failed_attempts = sums.failed_attempts;
        report.lost_gpu_h = hours(sums.lost, trace.ticks_per_second);
        report.start_cost_gpu_h = hours(sums.start_cost, trace.ticks_per_second);
        report.borrowed_gpu_h = hours(sums.borrowed, trace.ticks_per_second);
        report.quota_violations = sums.quota_violations;
    }

    fn promises(&self, report: &mut Report) {
        let kept = self.jobs.iter().filter_map(|job| Some((job.promise?, job.promise?.start?)));
        let (mut errors, mut expected) = (Vec::new(), Vec::new());
        for (promise, start) in kept {
            let wait = (start.saturating_sub(promise.made) as f64).max(1_000.0);
            expected.extend(promise.expected.map(|at| percent(start.abs_diff(at) as f64, wait)));
            report.promised += 1;
            report.promised_broken += usize::from(promise.is_broken);
            report.promised_late += usize::from(!promise.is_broken && start > promise.start_by);
            let (distance, wait) = (start.abs_diff(promise.start_by), promise.start_by.saturating_sub(promise.made));
            errors.push(percent(distance as f64, (wait as f64).max(1.0)));
        }
        report.promised_error_percent = percentile(&sorted(errors.into_iter()), 0.5);
        report.expected = expected.len();
        report.expected_error_percent = percentile(&sorted(expected.into_iter()), 0.5);
    }

    fn decisions(&self, report: &mut Report) {
        let times = sorted(self.cycles.iter().map(|nanoseconds| f64::from(*nanoseconds) / 1_000.0));
        report.cycles = times.len();
        report.cycle_p50_us = percentile(&times, 0.50);
        report.cycle_p99_us = percentile(&times, 0.99);
        report.cycle_p999_us = percentile(&times, 0.999);
        report.cycle_max_us = times.last().copied().unwrap_or(0.0);
        let total = times.iter().sum::<f64>() / 1e6;
        report.starts_per_cpu_s = if total > 0.0 { self.sums.starts as f64 / total } else { 0.0 };
    }
}

fn seconds(ticks: u64, ticks_per_second: u64) -> f64 {
    ticks as f64 / ticks_per_second.max(1) as f64
}

fn hours(device_ticks: u128, ticks_per_second: u64) -> f64 {
    device_ticks as f64 / ticks_per_second.max(1) as f64 / 3_600.0
}

fn percent(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { 100.0 * part / whole } else { 0.0 }
}

fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The value at place ⌊part × count⌋, as Muri's artifact counts; 0 of nothing.
fn percentile(sorted: &[f64], part: f64) -> f64 {
    let at = (part * sorted.len() as f64) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}
