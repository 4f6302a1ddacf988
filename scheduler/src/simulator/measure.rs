//! What is measured while a simulation runs: sums over time, and a few numbers of each job.

use super::driver::Inputs;
use super::gangs;
use super::machines::Machines;
use std::collections::BTreeSet;
use types::Millis;

/// What became of one job.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct JobOutcome {
    /// Its first start.
    pub start: Option<u64>,
    /// Its end.
    pub end: Option<u64>,
    /// Time spent waiting, over all attempts.
    pub waited: u64,
    /// The first promise made to it.
    pub promise: Option<Promise>,
    /// Its completion time over the one that it would have had with an equal part of the cluster.
    pub finish_time_ratio: Option<f64>,
    /// Since when it waits.
    waits_since: u64,
    /// When the scheduler was told of it.
    submitted: u64,
    /// The crowd's integral when it was submitted.
    crowd_before: u128,
}

/// A promise, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// When it was made.
    pub made: u64,
    /// The start that was promised.
    pub start_by: u64,
    /// The start that was expected then, if that was asked.
    pub expected: Option<u64>,
    /// A worker was lost or a job ran past its estimate, and a later start was promised since.
    pub is_broken: bool,
    /// The first start after it.
    pub start: Option<u64>,
}

/// Use and queue over time, in at most 2,048 even steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Ticks of one step.
    pub step: u64,
    /// In each step: device-ticks in use, and waiting jobs × ticks.
    pub steps: Vec<(u128, u128)>,
}

/// All that a simulation gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// By the jobs' places in the trace.
    pub jobs: Vec<JobOutcome>,
    /// Use and queue over time.
    pub timeline: Timeline,
    /// Sums.
    pub sums: Sums,
    /// CPU time of each round of decisions, in nanoseconds.
    pub cycles: Vec<u32>,
}

/// Sums over the whole simulation; device-ticks but where said otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// Up.
    pub capacity: u128,
    /// In use.
    pub used: u128,
    /// Up, while somebody waited.
    pub capacity_waited: u128,
    /// Idle, while somebody waited.
    pub idle_waited: u128,
    /// Idle, while somebody waited, on machines with too few for a member of the job that waited longest.
    pub stranded: u128,
    /// Free on machines that are partly used.
    pub broken: u128,
    /// Used by queues below the root beyond what they are guaranteed.
    pub borrowed: u128,
    /// Starts that left a queue beyond its ceiling.
    pub quota_violations: u64,
    /// Work done again.
    pub lost: u128,
    /// Spent on starts.
    pub start_cost: u128,
    /// Stops for others.
    pub preemptions: u64,
    /// Changes of a running gang's members.
    pub resizes: u64,
    /// Attempts that ended with their machine.
    pub failed_attempts: u64,
    /// Starts.
    pub starts: u64,
    /// When all was over.
    pub end: u64,
}

pub(crate) struct Measures {
    pub(crate) jobs: Vec<JobOutcome>,
    pub(crate) ended: usize,
    pub(crate) failed_attempts: u64,
    devices_of: Vec<(u32, u32, u64)>,
    capacity: u64,
    now: u64,
    sums: Sums,
    cycles: Vec<u32>,
    /// Devices of all jobs that are submitted and have not ended.
    crowd: u64,
    /// The larger of crowd and capacity, over time.
    crowd_sum: u128,
    timeline: Timeline,
}

const STEPS_MAX: usize = 2_048;

impl Measures {
    pub(crate) fn new(inputs: &Inputs<'_>) -> Self {
        let largest = inputs.cluster.machines.iter().map(|machine| machine.devices).max().unwrap_or(0);
        let of = |job: &super::trace::TraceJob| (job.devices, gangs::shape(job, largest).devices, job.run.0);
        Self {
            jobs: vec![JobOutcome::default(); inputs.trace.jobs.len()],
            ended: 0,
            failed_attempts: 0,
            devices_of: inputs.trace.jobs.iter().map(of).collect(),
            capacity: inputs.cluster.devices(),
            now: 0,
            sums: Sums::default(),
            cycles: Vec::new(),
            crowd: 0,
            crowd_sum: 0,
            timeline: Timeline { step: 1_000, steps: Vec::new() },
        }
    }

    /// Adds up what was the case since the last instant.
    pub(crate) fn advance(&mut self, now: u64, machines: &Machines, waiting: &BTreeSet<u32>, borrowed: u64) {
        let span = now.saturating_sub(self.now);
        if span == 0 {
            return;
        }
        let ticks = u128::from(span);
        let (up, used) = (machines.devices_up(), machines.devices_used());
        let idle = up.saturating_sub(used);
        self.sums.capacity += u128::from(up) * ticks;
        self.sums.used += u128::from(used) * ticks;
        self.sums.borrowed += u128::from(borrowed) * ticks;
        self.sums.broken += u128::from(machines.devices_broken()) * ticks;
        if let Some(need) = waiting.first().and_then(|first| self.devices_of.get(*first as usize)).map(|of| of.1) {
            self.sums.capacity_waited += u128::from(up) * ticks;
            self.sums.idle_waited += u128::from(idle) * ticks;
            self.sums.stranded += u128::from(machines.devices_stranded(need)) * ticks;
        }
        self.crowd_sum += u128::from(self.crowd.max(self.capacity)) * ticks;
        self.timeline.add(self.now, now, used, waiting.len() as u64);
        self.now = now;
    }

    pub(crate) fn submitted(&mut self, now: u64, job: usize) {
        let (Some(state), Some((devices, ..))) = (self.jobs.get_mut(job), self.devices_of.get(job)) else { return };
        (state.waits_since, state.submitted) = (now, now);
        state.crowd_before = self.crowd_sum;
        self.crowd += u64::from(*devices);
    }

    pub(crate) fn started(&mut self, now: u64, job: usize) {
        self.sums.starts += 1;
        if let Some(state) = self.jobs.get_mut(job) {
            state.start.get_or_insert(now);
            if let Some(promise) = &mut state.promise {
                promise.start.get_or_insert(now);
            }
            state.waited += now - state.waits_since;
        }
    }

    pub(crate) fn waits_again(&mut self, now: u64, job: usize) {
        if let Some(state) = self.jobs.get_mut(job) {
            state.waits_since = now;
        }
    }

    pub(crate) fn preempted(&mut self) {
        self.sums.preemptions += 1;
    }

    pub(crate) fn resized(&mut self) {
        self.sums.resizes += 1;
    }

    pub(crate) fn stopped(&mut self, devices: u32, lost: Millis, cost: u64) {
        self.sums.lost += u128::from(devices) * u128::from(lost.0);
        self.sums.start_cost += u128::from(devices) * u128::from(cost);
    }

    pub(crate) fn ended(&mut self, now: u64, job: usize, cost: u64) {
        self.ended += 1;
        let (Some(state), Some(&(devices, _, run))) = (self.jobs.get_mut(job), self.devices_of.get(job)) else {
            return;
        };
        state.end = Some(now);
        let (crowd, whole) = (self.crowd_sum - state.crowd_before, now - state.submitted);
        state.finish_time_ratio = finish_time_ratio(whole, run, crowd, self.capacity);
        self.crowd = self.crowd.saturating_sub(u64::from(devices));
        self.sums.start_cost += u128::from(devices) * u128::from(cost);
    }

    /// The first promise to each job counts; a later one, made because the first could not be kept, marks it.
    pub(crate) fn promised(&mut self, now: u64, job: usize, start_by: u64, is_broken: bool) {
        if let Some(state) = self.jobs.get_mut(job) {
            let first = Promise { made: now, start_by, expected: None, is_broken: false, start: None };
            let promise = state.promise.get_or_insert(first);
            // What is promised for a later attempt is another matter.
            promise.is_broken |= is_broken && promise.start.is_none();
        }
    }

    /// Was it promised a start just now, and never before, and waits for it?
    pub(crate) fn may_expect(&self, now: u64, job: usize) -> bool {
        let promise = self.jobs.get(job).and_then(|state| state.promise);
        promise.is_some_and(|promise| promise.made == now && promise.expected.is_none() && promise.start.is_none())
    }

    pub(crate) fn expected(&mut self, job: usize, expected: Option<u64>) {
        if let Some(promise) = self.jobs.get_mut(job).and_then(|state| state.promise.as_mut()) {
            promise.expected = expected;
        }
    }

    pub(crate) fn cycle(&mut self, nanoseconds: u64) {
        self.cycles.push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
    }

    pub(crate) fn finish(mut self, quota_violations: u64) -> Outcome {
        self.sums.end = self.now;
        self.sums.quota_violations = quota_violations;
        self.sums.failed_attempts = self.failed_attempts;
        Outcome { jobs: self.jobs, timeline: self.timeline, sums: self.sums, cycles: self.cycles }
    }
}

/// Completion time over run time × mean contention while the job was there (Zheng et al., Shockwave, NSDI'23, section 2):
/// contention = devices wanted by all jobs over devices there are, at least 1.
fn finish_time_ratio(whole: u64, run: u64, crowd: u128, capacity: u64) -> Option<f64> {
    let contention = crowd as f64 / (whole as f64 * capacity as f64);
    (whole > 0 && run > 0 && contention > 0.0).then(|| whole as f64 / (run as f64 * contention))
}

impl Timeline {
    /// Adds a stretch of time; steps get twice as long whenever there are too many.
    fn add(&mut self, from: u64, to: u64, used: u64, waiting: u64) {
        while to / self.step >= STEPS_MAX as u64 {
            let pairs = self.steps.chunks(2);
            self.steps =
                pairs.map(|pair| pair.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))).collect();
            self.step *= 2;
        }
        let mut at = from;
        while at < to {
            let index = (at / self.step) as usize;
            let until = ((index as u64 + 1) * self.step).min(to);
            if self.steps.len() <= index {
                self.steps.resize(index + 1, (0, 0));
            }
            if let Some(step) = self.steps.get_mut(index) {
                step.0 += u128::from(used) * u128::from(until - at);
                step.1 += u128::from(waiting) * u128::from(until - at);
            }
            at = until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeline_keeps_its_sums_while_its_steps_grow() {
        let mut timeline = Timeline { step: 10, steps: Vec::new() };
        let mut at = 0;
        for n in 1..=3_000 {
            timeline.add(at, at + n, 3, n);
            at += n;
        }
        assert!(timeline.steps.len() <= STEPS_MAX);
        assert_eq!(timeline.steps.iter().map(|step| step.0).sum::<u128>(), 3 * u128::from(at));
        assert_eq!(timeline.steps.iter().map(|step| step.1).sum::<u128>(), (1..=3_000_u128).map(|n| n * n).sum());
        for (index, step) in timeline.steps.iter().enumerate().take(timeline.steps.len() - 1) {
            assert_eq!(step.0, 3 * u128::from(timeline.step), "{index}");
        }
    }
}
