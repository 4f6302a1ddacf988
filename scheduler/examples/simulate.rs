//! A trace under some policies, as `muster simulate` does, for work on the core: `cargo run --release -p scheduler --features measure --example
//! simulate -- policies=srsf,fair-share cluster=8x8 trace=jobs.csv sigma=0.7 seed=1`, or `jobs=3000 load=0.95` for made-up gangs.
//!
//! Other words: `queues=N`, `philly` for that mix, `walltimes=exact|none`, `erring` tells oracles the estimates; `order`, `stops`,
//! `run_min_s`, `promises`, `wait_min_s`, `reserved`, `age_factor` change parts of the policy;
//! `predictions=N` asks for the expected starts of N gangs with a promise; `digest` prints a number made of all decisions, by
//! which two versions of the core are compared.

#![allow(clippy::expect_used)]

use scheduler::Core;
use scheduler::explain::Explanation;
use scheduler::model::{Budget, Decision, Event, Refused, Scheduler, WorkerIndex};
use scheduler::policy::{Passing, Policy};
use scheduler::simulator::trace::{Format, Trace, read};
use scheduler::simulator::{Cluster, Inputs, Mix, Settings, Standard, Synthetic, Walltimes, equal_queues, simulate};
use std::hash::{DefaultHasher, Hash, Hasher};
use types::{JobId, Millis, Timestamp, WorkerId};

fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// A core whose decisions are counted into one number.
struct Counted {
    core: Core,
    /// Nothing while it is not asked for: to write each decision down costs more than some cycles.
    digest: Option<DefaultHasher>,
}

impl Scheduler for Counted {
    fn apply(&mut self, now: Timestamp, event: &Event) -> Result<(), Refused> {
        self.core.apply(now, event)
    }

    fn decide(&mut self, now: Timestamp, budget: Budget) -> Vec<Decision> {
        let decisions = self.core.decide(now, budget);
        if let Some(digest) = &mut self.digest {
            for decision in &decisions {
                format!("{now:?} {decision:?}").hash(digest);
            }
        }
        decisions
    }

    fn is_pending(&self) -> bool {
        self.core.is_pending()
    }

    fn next_wake(&self, now: Timestamp) -> Option<Timestamp> {
        self.core.next_wake(now)
    }

    fn explain(&self, now: Timestamp, job: JobId) -> Option<Explanation> {
        self.core.explain(now, job)
    }

    fn expect(&self, now: Timestamp, job: JobId) -> Option<Timestamp> {
        self.core.expect(now, job)
    }

    fn worker_id(&self, worker: WorkerIndex) -> Option<&WorkerId> {
        self.core.worker_id(worker)
    }

    fn worker_index(&self, worker: &WorkerId) -> Option<WorkerIndex> {
        self.core.worker_index(worker)
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |name: &str| words.iter().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let has = |name: &str| words.iter().any(|word| word == name);
    let number = |name: &str, default: f64| word(name).map_or(default, |text| text.parse().expect("a number"));
    let cluster = Cluster::named(word("cluster").unwrap_or("8x8")).expect("a cluster");
    let trace = trace(word("trace"), has("philly"), &number, &cluster);
    let queues = equal_queues(&trace, &cluster);
    let walltimes = match word("walltimes") {
        Some("exact") => Walltimes::Exact,
        Some("none") => Walltimes::None,
        _ => Walltimes::AsInTrace,
    };
    let settings = Settings {
        seed: number("seed", 1.0) as u64,
        estimate_sigma: Some(number("sigma", 0.0)),
        oracles_err: has("erring"),
        walltimes,
        predictions: number("predictions", 0.0) as usize,
        ..Settings::default()
    };
    let model = Standard::default();
    for name in word("policies").unwrap_or("fair-share").split(',') {
        let mut policy = policy(name);
        adjust(&mut policy, &number);
        let mut core = Counted { core: Core::new(policy), digest: has("digest").then(DefaultHasher::new) };
        let inputs = Inputs { cluster: &cluster, trace: &trace, queues: &queues, settings: &settings, model: &model };
        let begin = cpu_ns();
        let outcome = simulate(&inputs, &mut core, &mut cpu_ns).expect("a simulation");
        let r = outcome.report(name, &trace);
        let days = |seconds: f64| seconds / 86_400.0;
        println!(
            "{name:<12} done {}/{} | completion mean {:.3} d | wait mean {:.3} max {:.2} d | use {:.2} busy {:.2} useful {:.2} % | stops {} lost {:.0} h | \
             promised {} late {} broken {} error {:.0} % expected {} error {:.0} % | p50 {:.0} p99 {:.0} p99.9 {:.0} max {:.0} us | cycles {} cpu {:.1} s",
            r.jobs_done,
            r.jobs,
            days(r.completion_mean_s),
            days(r.wait_mean_s),
            days(r.wait_max_s),
            r.allocated_percent,
            r.allocated_busy_percent,
            r.useful_percent,
            r.preemptions,
            r.lost_gpu_h,
            r.promised,
            r.promised_late,
            r.promised_broken,
            r.promised_error_percent,
            r.expected,
            r.expected_error_percent,
            r.cycle_p50_us,
            r.cycle_p99_us,
            r.cycle_p999_us,
            r.cycle_max_us,
            r.cycles,
            (cpu_ns() - begin) as f64 / 1e9,
        );
        let sizes = r.wait_by_size.iter().filter(|size| size.jobs > 0);
        let sizes: Vec<String> = sizes
            .map(|size| {
                let most = if size.gpus.1 == u32::MAX { 0 } else { size.gpus.1 };
                format!("{}..{most}: {:.2}/{:.2}", size.gpus.0, days(size.wait_mean_s), days(size.wait_max_s))
            })
            .collect();
        println!("             wait mean/max in days by GPUs: {}", sizes.join("  "));
        core.digest.iter().for_each(|digest| println!("             decisions {:016x}", digest.finish()));
    }
}

/// Sets the parts of a policy that the command line names.
fn adjust(policy: &mut Policy, number: &dyn Fn(&str, f64) -> f64) {
    if let Some(rules) = &mut policy.preempt {
        rules.order_permille = number("order", f64::from(rules.order_permille)) as u32;
        rules.per_day_max = number("stops", f64::from(rules.per_day_max)) as u32;
        rules.run_min = Millis(number("run_min_s", rules.run_min.0 as f64 / 1e3) as u64 * 1_000);
    }
    if let Passing::Reserved(rules) = &mut policy.passing {
        rules.count_max = number("promises", f64::from(rules.count_max)) as u32;
        rules.wait_min = Millis(number("wait_min_s", rules.wait_min.0 as f64 / 1e3) as u64 * 1_000);
        rules.part_permille_max = number("reserved", f64::from(rules.part_permille_max)) as u32;
    }
    policy.age_factor = number("age_factor", f64::from(policy.age_factor)) as u32;
}

/// Beside the named ones: the default policy without one of its parts, to see what that part costs and brings.
fn policy(name: &str) -> Policy {
    let default = Policy::default();
    match name {
        "no-promises" => Policy { name: name.to_owned(), passing: Passing::Anybody, ..default },
        "no-stops" => Policy { name: name.to_owned(), preempt: None, ..default },
        name => Policy::named(name).expect("a policy"),
    }
}

fn trace(path: Option<&str>, is_philly: bool, number: &dyn Fn(&str, f64) -> f64, cluster: &Cluster) -> Trace {
    if let Some(path) = path {
        let text = std::fs::read_to_string(path).expect("a file");
        let format = Format::detect(&text).expect("a format");
        return read(&text, format).expect("a trace");
    }
    let synthetic = Synthetic {
        mix: if is_philly { Mix::Philly } else { Mix::Gangs },
        jobs: number("jobs", 3_000.0) as usize,
        load: number("load", 0.9),
        devices: cluster.devices(),
        queues: number("queues", 10.0) as u32,
        seed: number("seed", 1.0) as u64,
    };
    synthetic.trace()
}
