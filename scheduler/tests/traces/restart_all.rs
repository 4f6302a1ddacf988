//! The policies of Muri's artifact, with its restart rule: at every event all running jobs are taken down, all jobs are
//! sorted anew and placed greedily, and each that ran loses its restart time out of what it did since the last event.
//! Only for comparing with that artifact's numbers; no cluster would do so.

use scheduler::explain::Explanation;
use scheduler::model::{Budget, Decision, EndedBy, Event, Placed, Refused, Scheduler, Stop, WorkerIndex};
use scheduler::simulator::trace::{Trace, TraceJob};
use scheduler::simulator::{FULL_SPEED, Model, Span};
use types::{JobId, Millis, Timestamp, WorkerId};

/// Restart times in seconds by model, for 1, 2, 4, 8, 16 and 32 GPUs.
const RESTART_S: [(&str, [u64; 6]); 8] = [
    ("vgg16", [7, 7, 8, 9, 9, 10]),
    ("vgg19", [7, 7, 8, 9, 10, 10]),
    ("resnet18", [4, 5, 5, 7, 7, 7]),
    ("shufflenet_v2_x1_0", [4, 4, 5, 5, 7, 8]),
    ("bert", [10; 6]),
    ("gpt2", [10; 6]),
    ("a2c", [38, 39, 39, 46, 46, 46]),
    ("dqn", [5, 5, 6, 6, 8, 8]),
];

fn restart(job: &TraceJob) -> u64 {
    let column = (job.devices.ilog2() as usize).min(5);
    let row = RESTART_S.iter().find(|(model, _)| *model == job.name);
    SECOND * row.map_or(10, |(_, seconds)| seconds[column])
}

/// What an interruption costs there.
pub struct RestartRule;

impl Model for RestartRule {
    fn speed(&self, _: &TraceJob, _: &Span<'_>) -> u64 {
        FULL_SPEED
    }

    fn start_cost(&self, _: &TraceJob, _: bool) -> Millis {
        Millis(0)
    }

    fn lost(&self, job: &TraceJob, _: Millis) -> Millis {
        Millis(restart(job))
    }

    fn until_checkpoint(&self, _: Millis) -> Option<Millis> {
        None
    }
}

/// In which order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Shortest remaining time.
    Srtf,
    /// Smallest remaining time × GPUs.
    Srsf,
    /// Three queues by attained GPU time, first come first served in each; places are only counted.
    Las,
}

/// Ticks of these simulations: microseconds, in which all times of that artifact are whole.
pub const SECOND: u64 = 1_000_000;

/// Attained GPU time from which on a job is in the second and third queue.
const LAS_LIMITS: [u64; 2] = [3_250 * SECOND, 7_200 * SECOND];

struct Job {
    index: usize,
    devices: u32,
    restart: u64,
    left: u64,
    /// Time that it held its devices: what a restart lost counts too.
    attained: u64,
    level: usize,
    is_running: bool,
}

/// One of the policies.
pub struct RestartAll<'a> {
    order: Order,
    machines: u32,
    devices: u32,
    trace: &'a Trace,
    jobs: Vec<Job>,
    last: u64,
    is_due: bool,
    wake: Option<u64>,
}

impl<'a> RestartAll<'a> {
    /// For so many machines of so many devices.
    pub fn new(order: Order, machines: u32, devices: u32, trace: &'a Trace) -> Self {
        let jobs = Vec::new();
        Self { order, machines, devices, trace, jobs, last: 0, is_due: false, wake: None }
    }

    fn charge(&mut self, now: u64) {
        let span = now - self.last;
        self.last = now;
        for job in self.jobs.iter_mut().filter(|job| job.is_running) {
            job.left -= span.saturating_sub(job.restart).min(job.left - 1);
            job.attained += span;
        }
    }

    fn sort(&mut self) {
        match self.order {
            Order::Srtf => self.jobs.sort_by_key(|job| job.left),
            Order::Srsf => self.jobs.sort_by_key(|job| job.left * u64::from(job.devices)),
            Order::Las => {
                // A demoted job goes to the end of its new queue, in the order of submission among those of one moment.
                let mut demoted: Vec<Job> = Vec::new();
                let mut at = 0;
                while let Some(job) = self.jobs.get_mut(at) {
                    let service = job.attained * u64::from(job.devices);
                    if LAS_LIMITS.get(job.level).is_some_and(|limit| service >= *limit) {
                        job.level += 1;
                        demoted.push(self.jobs.remove(at));
                    } else {
                        at += 1;
                    }
                }
                demoted.sort_by_key(|job| job.index);
                self.jobs.append(&mut demoted);
                self.jobs.sort_by_key(|job| job.level);
            }
        }
    }

    fn place(&self, free: &mut [u32], devices: u32) -> Option<Vec<Placed>> {
        let all = self.devices;
        let placed = |worker: usize, free: u32, count: u32| {
            let used = all - free;
            Placed { worker: WorkerIndex(worker as u32), devices: ((1_u64 << count) - 1) << used }
        };
        if devices <= all {
            let worker = free.iter().position(|free| *free >= devices)?;
            let member = placed(worker, free[worker], devices);
            free[worker] -= devices;
            return Some(vec![member]);
        }
        let count = (devices / all) as usize;
        let whole: Vec<usize> = (0..free.len()).filter(|worker| free[*worker] == all).take(count).collect();
        (whole.len() == count).then(|| {
            let members = whole.iter().map(|worker| placed(*worker, all, all)).collect();
            for worker in &whole {
                free[*worker] = 0;
            }
            members
        })
    }

    /// The next demotion, if it comes before other events.
    fn demotion(&self, now: u64) -> Option<u64> {
        let jump = |job: &Job| {
            let limit = LAS_LIMITS.get(job.level)?.div_ceil(u64::from(job.devices) * SECOND) * SECOND;
            Some(now + limit.saturating_sub(job.attained).max(1))
        };
        let running = self.jobs.iter().filter(|job| job.is_running);
        if self.order == Order::Las { running.filter_map(jump).min() } else { None }
    }
}

impl Scheduler for RestartAll<'_> {
    fn apply(&mut self, _: Timestamp, event: &Event) -> Result<(), Refused> {
        match event {
            Event::Submitted(request) => {
                let index = request.job.0 as usize - 1;
                let job = &self.trace.jobs[index];
                let (devices, restart, left) = (job.devices, restart(job), job.run.0);
                self.jobs.push(Job { index, devices, restart, left, attained: 0, level: 0, is_running: false });
                self.is_due = true;
            }
            Event::Ended { job, by: EndedBy::Success } => {
                self.jobs.retain(|other| other.index + 1 != job.0 as usize);
                self.is_due = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn decide(&mut self, now: Timestamp, _: Budget) -> Vec<Decision> {
        if !self.is_due && self.wake.is_none_or(|wake| wake > now.0) {
            return Vec::new();
        }
        self.is_due = false;
        self.charge(now.0);
        self.sort();
        let mut free = vec![self.devices; self.machines as usize];
        let mut decisions = Vec::new();
        for at in 0..self.jobs.len() {
            let job = JobId(self.jobs[at].index as u64 + 1);
            let devices = self.jobs[at].devices;
            let members = if self.order == Order::Las {
                let at = free.iter().position(|free| *free > 0).unwrap_or(free.len());
                let fits = free.len() - at >= devices as usize;
                fits.then(|| {
                    free[at..at + devices as usize].fill(0);
                    (at..at + devices as usize).map(|worker| super::support::on(worker as u32)).collect()
                })
            } else {
                self.place(&mut free, devices)
            };
            let was_running = std::mem::replace(&mut self.jobs[at].is_running, members.is_some());
            decisions.extend(match (members, was_running) {
                (Some(members), true) => Some(Decision::Resize { job, members }),
                (Some(members), false) => Some(Decision::Start { job, members, until: None }),
                (None, true) => Some(Decision::Preempt { job, stop: Stop::Now, to: JobId(0), lost_device_ms: 0 }),
                (None, false) => None,
            });
        }
        if self.order == Order::Las {
            self.jobs.sort_by_key(|job| (job.level, !job.is_running));
        }
        self.wake = self.demotion(now.0);
        decisions
    }

    fn is_pending(&self) -> bool {
        false
    }

    fn next_wake(&self, _: Timestamp) -> Option<Timestamp> {
        self.wake.map(Timestamp)
    }

    fn explain(&self, _: Timestamp, _: JobId) -> Option<Explanation> {
        None
    }

    fn worker_id(&self, _: WorkerIndex) -> Option<&WorkerId> {
        None
    }

    fn worker_index(&self, _: &WorkerId) -> Option<WorkerIndex> {
        None
    }
}
