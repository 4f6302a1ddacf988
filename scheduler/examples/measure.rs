//! Measures the core: `cargo run --release -p scheduler --example measure [-- WORKERS GANGS EVENTS]`.
//!
//! Times are CPU time of this thread: a shared machine stalls. Each event ends a running gang and submits another, and one
//! cycle follows, as in a busy cluster. Prints one line for each size of cluster.

#![allow(clippy::expect_used, clippy::wildcard_imports)]

use scheduler::Core;
use scheduler::model::*;
use scheduler::policy::Policy;
use std::collections::{BTreeMap, BTreeSet};
use types::{JobId, Millis, Timestamp, WorkerId};

/// CPU time of this thread in nanoseconds.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Peak resident memory in MiB.
fn peak_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// A small generator: the same numbers everywhere.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }
}

struct Bench {
    core: Core,
    now: u64,
    chance: Chance,
    /// By when they end: after 30 to 100 % of their limits.
    ends: BTreeSet<(u64, JobId)>,
    end_of: BTreeMap<JobId, u64>,
    limits: BTreeMap<JobId, u64>,
    next_job: u64,
    starts: u64,
}

const QUEUES: u64 = 16;

impl Bench {
    fn new(policy: &str, workers: u64) -> Self {
        let core = Core::new(Policy::named(policy).expect("a policy"));
        let mut bench = Self {
            core,
            now: 1_000,
            chance: Chance(7),
            ends: BTreeSet::new(),
            end_of: BTreeMap::new(),
            limits: BTreeMap::new(),
            next_job: 1,
            starts: 0,
        };
        for at in 0..workers {
            let rack = at / 16;
            let place = Place { block: format!("b{}", rack / 16), rack: format!("r{rack}"), ..Place::default() };
            bench.tell(Event::WorkerJoined(WorkerSpec {
                id: WorkerId::new(format!("w{at}")).expect("a name"),
                class: "H100".to_owned(),
                devices: 0xff,
                islands: vec![0x0f, 0xf0],
                cpus: 128,
                memory_bytes: 1 << 40,
                labels: BTreeMap::new(),
                taints: Default::default(),
                place,
                state: WorkerState::Open,
            }));
        }
        for queue in 0..QUEUES {
            let quota = Quota { guaranteed: workers * 8 / QUEUES / 2, ..Quota::default() };
            let quotas = BTreeMap::from([("H100".to_owned(), quota)]);
            bench.tell(Event::QueueSet(QueueSpec { name: format!("q{queue}"), weight: 1, quotas }));
        }
        bench
    }

    fn tell(&mut self, event: Event) {
        self.core.apply(Timestamp(self.now), &event).expect("a fact");
    }

    /// Sizes as in Philly (most need one device), the rest up to 64 workers.
    fn submit(&mut self) {
        let (size, time) = (self.chance.next() % 1_000, self.chance.next() % 100);
        let (members, devices) = match size {
            0..700 => (1, 1),
            700..780 => (1, 2),
            780..860 => (1, 4),
            860..960 => (1, 8),
            960..985 => (2, 8),
            985..995 => (4, 8),
            995..999 => (8, 8),
            _ => (64, 8),
        };
        let limit = Some(Millis(60_000 * (1 + time * time / 4)));
        let job = JobId(self.next_job);
        self.limits.insert(job, limit.map_or(0, |limit| limit.0));
        self.next_job += 1;
        let shape = Shape { members: Range::exactly(members), devices, cpus: devices * 8, ..Shape::default() };
        let (queue, user, is_soft) =
            (self.chance.next() % QUEUES, self.chance.next() % 100, self.chance.next().is_multiple_of(2));
        self.tell(Event::Submitted(GangRequest {
            job,
            queue: format!("q{queue}"),
            user: format!("u{user}"),
            submitted: Timestamp(self.now),
            not_before: Timestamp(0),
            shape,
            priority: 0,
            preemptible: is_soft,
            run: RunTime { estimate: limit, limit, actual: limit },
            checkpoint: Some(Checkpoint { interval: Millis(1_800_000), save: Millis(10_000), restore: Millis(60_000) }),
            avoid: Vec::new(),
        }));
    }

    /// One cycle: what it cost, in nanoseconds of CPU time.
    fn cycle(&mut self) -> u64 {
        let begin = cpu_ns();
        let decisions = self.core.decide(Timestamp(self.now), Budget::UNLIMITED);
        let cost = cpu_ns() - begin;
        for decision in decisions {
            match decision {
                Decision::Start { job, .. } => {
                    let run = self.limits.get(&job).copied().unwrap_or(0) * (30 + self.chance.next() % 71) / 100;
                    self.ends.insert((self.now + run, job));
                    self.end_of.insert(job, self.now + run);
                    self.starts += 1;
                }
                Decision::Preempt { job, .. } => {
                    if let Some(end) = self.end_of.remove(&job) {
                        self.ends.remove(&(end, job));
                    }
                    let not_before = Timestamp(self.now + 1);
                    self.tell(Event::Stopped { job, by: EndedBy::Order, not_before, remaining: None });
                }
                _ => {}
            }
        }
        cost
    }
}

fn measure(policy: &str, workers: u64, gangs: u64, events: u64) {
    let mut bench = Bench::new(policy, workers);
    let begin = cpu_ns();
    for _ in 0..gangs {
        bench.submit();
    }
    let submitting = cpu_ns() - begin;
    let cold = bench.cycle();
    let first = bench.starts;
    let mut costs = Vec::new();
    let mut applying = 0;
    let begin_starts = bench.starts;
    for _ in 0..events {
        let ended = bench.ends.pop_first();
        bench.now = bench.now.max(ended.map_or(0, |(at, _)| at));
        let begin = cpu_ns();
        if let Some((_, job)) = ended {
            bench.end_of.remove(&job);
            bench.tell(Event::Ended { job, by: EndedBy::Success });
        }
        bench.submit();
        applying += cpu_ns() - begin;
        costs.push(bench.cycle());
    }
    bench.core.forget_indexes();
    bench.submit();
    let rebuild = bench.cycle();
    let waiting = bench.core.waiting();
    let begin = cpu_ns();
    let probe = JobId(bench.next_job - 1);
    let is_waiting = bench.core.explain(Timestamp(bench.now), probe).is_some();
    let explain = cpu_ns() - begin;
    let total: u64 = costs.iter().sum::<u64>() + applying;
    costs.sort_unstable();
    let us = |part: f64| costs[((costs.len() - 1) as f64 * part) as usize] as f64 / 1e3;
    println!(
        "{policy:<12} workers {workers:>6} waiting {waiting:>6} | cycle us p50 {:.1} p99 {:.1} p99.9 {:.1} max {:.1} | cold ms {:.1} ({first} starts) \
         rebuild ms {:.2} | submit us {:.2} | starts/CPU-s cold {:.0} busy {:.0} | explain us {:.0} ({is_waiting}) | peak MiB {}",
        us(0.5),
        us(0.99),
        us(0.999),
        us(1.0),
        cold as f64 / 1e6,
        rebuild as f64 / 1e6,
        submitting as f64 / 1e3 / gangs as f64,
        first as f64 * 1e9 / cold as f64,
        (bench.starts - begin_starts) as f64 * 1e9 / total as f64,
        explain as f64 / 1e3,
        peak_mib(),
    );
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, default: u64| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default);
    let policy = arguments.get(3).map_or("fair-share", String::as_str);
    let sizes = if arguments.is_empty() { vec![100, 1_000, 10_000] } else { vec![number(0, 10_000)] };
    for workers in sizes {
        measure(policy, workers, number(1, 100_000), number(2, 20_000));
    }
}
