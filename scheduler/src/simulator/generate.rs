//! Synthetic traces with published distributions, for users who have no trace of their own. The same seed gives the same
//! trace.
//!
//! - Sizes, run times and shares of GPU time: Philly (Jeon et al., ATC'19), from the 82,247 jobs that Pollux' authors
//!   cleaned. The `gangs` mix is ours: like a cluster that trains large models, not measured anywhere.
//! - Arrivals: a Poisson process whose rate follows the hours of the day as in SenseTime's Venus cluster (Helios, SC'21).

use super::random::{self, Stream};
use super::trace::{Trace, TraceJob};
use types::Millis;

/// Which sizes and run times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// 93 % of the jobs want one GPU; half of the GPU time goes to jobs of 8.
    Philly,
    /// Up to 1,024 GPUs, most GPU time in gangs of several machines.
    Gangs,
}

impl Mix {
    /// Every mix with its name.
    pub const ALL: [(Mix, &str); 2] = [(Mix::Philly, "philly"), (Mix::Gangs, "gangs")];
}

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Synthetic {
    /// Sizes and run times.
    pub mix: Mix,
    /// How many.
    pub jobs: usize,
    /// GPU time asked for, over that which so many GPUs have.
    pub load: f64,
    /// GPUs of the cluster that it is for.
    pub devices: u64,
    /// How many queues; the first has most jobs.
    pub queues: u32,
    /// Seed.
    pub seed: u64,
}

/// Jobs in a million, GPUs, and how much longer than a job of one GPU it runs.
type Size = (u64, u32, f64);

/// Measured in the trace; the third number makes shares of GPU time come out as they are there.
const PHILLY: [Size; 9] = [
    (931_800, 1, 1.0),
    (22_100, 2, 4.2),
    (22_700, 4, 15.4),
    (20_000, 8, 31.2),
    (2_500, 16, 28.8),
    (800, 32, 4.0),
    (70, 64, 1.0),
    (20, 128, 0.5),
    (10, 256, 0.5),
];
const GANGS: [Size; 11] = [
    (400_000, 1, 1.0),
    (60_000, 2, 1.0),
    (90_000, 4, 1.0),
    (280_000, 8, 1.0),
    (80_000, 16, 1.0),
    (45_000, 32, 1.0),
    (25_000, 64, 1.0),
    (11_000, 128, 1.0),
    (6_000, 256, 1.0),
    (2_000, 512, 1.0),
    (1_000, 1_024, 1.0),
];

/// Run times in seconds at parts of the jobs; between them the logarithm is even.
const PHILLY_RUN_S: [(f64, f64); 9] = [
    (0.0, 10.0),
    (0.05, 48.0),
    (0.25, 115.0),
    (0.50, 1_144.0),
    (0.75, 2_932.0),
    (0.90, 11_266.0),
    (0.95, 43_648.0),
    (0.99, 254_884.0),
    (1.0, 2_592_000.0),
];
const GANGS_RUN_S: [(f64, f64); 6] =
    [(0.0, 60.0), (0.25, 900.0), (0.5, 3_600.0), (0.75, 14_400.0), (0.95, 86_400.0), (1.0, 604_800.0)];

/// No job runs longer: 60 days.
const RUN_MAX_S: f64 = 5_184_000.0;

/// Of 24,000 GPU jobs of the Venus cluster in six months, those submitted in each hour of the day.
const HOURS: [u64; 24] = [
    897, 658, 600, 384, 268, 205, 187, 224, 374, 796, 1_295, 1_474, 1_164, 1_299, 1_559, 1_656, 1_734, 1_733, 1_282,
    1_313, 1_345, 1_364, 1_149, 1_038,
];

const HOUR_MS: f64 = 3_600_000.0;

#[derive(Clone, Copy)]
enum Draw {
    Size = 11,
    Run = 12,
    Gap = 13,
    Queue = 14,
    User = 15,
    Walltime = 16,
}

impl Synthetic {
    /// Makes it.
    pub fn trace(&self) -> Trace {
        let (sizes, times): (&[Size], &[(f64, f64)]) = match self.mix {
            Mix::Philly => (&PHILLY, &PHILLY_RUN_S),
            Mix::Gangs => (&GANGS, &GANGS_RUN_S),
        };
        let draw = |what: Draw| Stream::new(self.seed, what as u64);
        let mut jobs: Vec<TraceJob> = Vec::with_capacity(self.jobs);
        for n in 0..self.jobs as u64 {
            let (devices, factor) = size(sizes, draw(Draw::Size).below(n, 1_000_000));
            let seconds = (quantile(times, draw(Draw::Run).unit(n)) * factor).clamp(1.0, RUN_MAX_S);
            let run = (seconds * 1_000.0) as u64;
            // Users ask for up to three times of what they need, in whole minutes.
            let walltime = (run as f64 * (1.0 + 2.0 * draw(Draw::Walltime).unit(n)) / 60_000.0).ceil() as u64 * 60_000;
            let queues = u64::from(self.queues.max(1));
            let queue = draw(Draw::Queue).below(n, queues).min(draw(Draw::Queue).below(n + (1 << 40), queues));
            jobs.push(TraceJob {
                run: Millis(run),
                walltime: Some(Millis(walltime)),
                devices,
                devices_min: devices,
                cpus: 1,
                queue: queue as u32,
                user: draw(Draw::User).below(n, USERS) as u32,
                ..TraceJob::default()
            });
        }
        self.arrive(&mut jobs, draw(Draw::Gap));
        Trace {
            jobs,
            queues: (0..self.queues.max(1)).map(|queue| format!("team-{queue}")).collect(),
            users: (0..USERS).map(|user| format!("user-{user}")).collect(),
            left_out: 0,
            ticks_per_second: 1_000,
        }
    }

    /// The rate is such that the whole work comes at the load wanted; each hour has its part of it.
    fn arrive(&self, jobs: &mut [TraceJob], gaps: Stream) {
        let work: f64 = jobs.iter().map(|job| job.run.0 as f64 * f64::from(job.devices)).sum();
        let mean = work / (self.devices.max(1) as f64 * self.load.max(1e-6)) / jobs.len().max(1) as f64;
        let mut now = 0.0;
        for (n, job) in jobs.iter_mut().enumerate() {
            let mut left = gaps.exponential(n as u64) * mean;
            // The gap is used up faster in busy hours. Whole days are 24 mean hours, and need no walk.
            let days = (left / (24.0 * HOUR_MS)).floor();
            left -= days * 24.0 * HOUR_MS;
            now += days * 24.0 * HOUR_MS;
            loop {
                let hour = (now / HOUR_MS).floor();
                let rate = HOURS.get((hour % 24.0) as usize).map_or(1.0, |count| *count as f64 / 1_000.0);
                let rest = ((hour + 1.0) * HOUR_MS - now).max(1.0);
                if left <= rest * rate {
                    now += left / rate;
                    break;
                }
                left -= rest * rate;
                now += rest;
            }
            job.submit = Millis(now as u64);
        }
    }
}

const USERS: u64 = 200;

fn size(sizes: &[Size], mut at: u64) -> (u32, f64) {
    for (weight, devices, factor) in sizes {
        if at < *weight {
            return (*devices, *factor);
        }
        at -= weight;
    }
    (1, 1.0)
}

fn quantile(table: &[(f64, f64)], part: f64) -> f64 {
    for pair in table.windows(2) {
        if let [(from, low), (to, high)] = pair
            && part <= *to
        {
            let along = (part - from) / (to - from);
            return random::exp(random::ln(*low) + along * (random::ln(*high) - random::ln(*low)));
        }
    }
    table.last().map_or(0.0, |last| last.1)
}

/// The trace in our own columns.
pub fn to_csv(trace: &Trace) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("submit_s,run_s,gpus,queue,user,walltime_s\n");
    let name = |names: &[String], at: u32| names.get(at as usize).cloned().unwrap_or_default();
    let seconds = |ms: u64| format!("{}.{:03}", ms / 1_000, ms % 1_000);
    for job in &trace.jobs {
        let (queue, user) = (name(&trace.queues, job.queue), name(&trace.users, job.user));
        let walltime = job.walltime.map(|walltime| seconds(walltime.0)).unwrap_or_default();
        let (submit, run) = (seconds(job.submit.0), seconds(job.run.0));
        let _ = writeln!(text, "{submit},{run},{},{queue},{user},{walltime}", job.devices);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulator::trace::{Format, read};

    fn synthetic(mix: Mix, jobs: usize) -> Synthetic {
        Synthetic { mix, jobs, load: 0.9, devices: 2_816, queues: 5, seed: 7 }
    }

    fn share(trace: &Trace, devices: u32) -> f64 {
        let work = |job: &TraceJob| job.run.0 as f64 * f64::from(job.devices);
        let of: f64 = trace.jobs.iter().filter(|job| job.devices == devices).map(work).sum();
        of / trace.jobs.iter().map(work).sum::<f64>()
    }

    #[test]
    fn philly_comes_out_as_published() {
        let trace = synthetic(Mix::Philly, 200_000).trace();
        let ones = trace.jobs.iter().filter(|job| job.devices == 1).count() as f64 / 200_000.0;
        assert!((ones - 0.932).abs() < 0.003, "{ones}");
        // Of GPU time, 8-GPU jobs have 48 %, those of one GPU 18 %.
        assert!((share(&trace, 8) - 0.48).abs() < 0.06, "{}", share(&trace, 8));
        assert!((share(&trace, 1) - 0.18).abs() < 0.06, "{}", share(&trace, 1));
        let mut runs: Vec<u64> =
            trace.jobs.iter().filter(|job| job.devices == 1).map(|job| job.run.0 / 1_000).collect();
        runs.sort_unstable();
        let median = runs[runs.len() / 2];
        assert!((1_000..1_300).contains(&median), "{median}");
    }

    #[test]
    fn the_load_is_as_asked_for_and_days_are_busier_than_nights() {
        let synthetic = synthetic(Mix::Gangs, 100_000);
        let trace = synthetic.trace();
        let span = trace.jobs.last().unwrap().submit.0 as f64 - trace.jobs[0].submit.0 as f64;
        let load = trace.work() as f64 / (span * 2_816.0);
        assert!((load - 0.9).abs() < 0.05, "{load}");
        let hour = |job: &TraceJob| (job.submit.0 / 3_600_000 % 24) as usize;
        let of = |wanted: usize| trace.jobs.iter().filter(|job| hour(job) == wanted).count() as f64;
        let ratio = of(16) / of(6);
        assert!((5.0..15.0).contains(&ratio), "{ratio}");
        assert!(trace.jobs.is_sorted_by_key(|job| job.submit));
    }

    #[test]
    fn a_seed_gives_the_same_trace_also_through_a_file() {
        let trace = synthetic(Mix::Philly, 500).trace();
        assert_eq!(trace, synthetic(Mix::Philly, 500).trace());
        assert_ne!(trace, Synthetic { seed: 8, ..synthetic(Mix::Philly, 500) }.trace());
        let again = read(&to_csv(&trace), Format::Csv).unwrap();
        let first = trace.jobs[0].submit.0;
        for (job, again) in trace.jobs.iter().zip(&again.jobs) {
            assert_eq!((job.submit.0 - first, job.run, job.devices), (again.submit.0, again.run, again.devices));
        }
    }
}
