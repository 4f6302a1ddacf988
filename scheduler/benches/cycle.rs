//! `cargo bench -p scheduler`: the core by criterion, in CPU time of this thread, to see whether a change made it slower.
//!
//! 100,000 gangs are submitted to 100, 1,000 and 10,000 workers of 8 devices. `examples/measure` has the far percentiles.

#[path = "../examples/measure/busy.rs"]
mod busy;

use busy::{Busy, cpu_ns};
use criterion::measurement::{Measurement, ValueFormatter, WallTime};
use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use scheduler::model::Scheduler;
use scheduler::policy::Policy;
use std::time::Duration;
use types::Timestamp;

/// CPU time of this thread: neighbours on the machine cost wall time.
struct CpuTime;

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = Duration;

    fn start(&self) -> u64 {
        cpu_ns()
    }

    fn end(&self, begin: u64) -> Duration {
        Duration::from_nanos(cpu_ns() - begin)
    }

    fn add(&self, left: &Duration, right: &Duration) -> Duration {
        *left + *right
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

/// A cluster of so many workers that is full, with what is left of 100,000 gangs in line.
fn full(workers: u64) -> Busy {
    let mut busy = Busy::new(Policy::default(), workers);
    for _ in 0..(workers * 1_000).min(100_000) {
        busy.submit();
    }
    busy.cycle();
    busy
}

fn measure(criterion: &mut Criterion<CpuTime>, sizes: &[u64]) {
    for workers in sizes {
        let mut busy = full(*workers);
        let mut group = criterion.benchmark_group("scheduler");
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("cycle", workers), |bencher| {
            bencher.iter_custom(|rounds| {
                let costs = (0..rounds).map(|_| {
                    busy.go_on();
                    busy.cycle()
                });
                Duration::from_nanos(costs.sum())
            });
        });
        let waiting = busy.waiting(0);
        group.bench_function(BenchmarkId::new("explain", workers), |bencher| {
            bencher.iter(|| busy.core.explain(Timestamp(busy.now), waiting));
        });
        group.bench_function(BenchmarkId::new("rebuild", workers), |bencher| {
            bencher.iter_custom(|rounds| {
                let costs = (0..rounds).map(|_| {
                    busy.core.forget_indexes();
                    busy.go_on();
                    busy.cycle()
                });
                Duration::from_nanos(costs.sum())
            });
        });
        group.bench_function(BenchmarkId::new("first pass of a new leader", workers), |bencher| {
            bencher.iter_custom(|rounds| Duration::from_nanos((0..rounds).map(|_| busy.take_over().cycle_ns).sum()));
        });
        group.finish();
    }
}

/// What it takes to fill an empty cluster.
fn fill(criterion: &mut Criterion<CpuTime>, workers: u64) {
    let mut empty = Busy::new(Policy::default(), workers);
    for _ in 0..workers * 20 {
        empty.submit();
    }
    let mut filled = empty.clone();
    filled.cycle();
    let mut group = criterion.benchmark_group("scheduler");
    group.sample_size(10).sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(filled.starts));
    group.bench_function(BenchmarkId::new("starts", workers), |bencher| {
        bencher.iter_custom(|rounds| Duration::from_nanos((0..rounds).map(|_| empty.clone().cycle()).sum()));
    });
    group.finish();
}

fn main() {
    // Without it somebody builds and runs all targets to see that they do: a small cluster will do.
    let is_measured = std::env::args().any(|word| word == "--bench");
    let config = Criterion::default().with_measurement(CpuTime).warm_up_time(Duration::from_millis(500));
    let mut criterion = config.configure_from_args();
    measure(&mut criterion, if is_measured { &[100, 1_000, 10_000] } else { &[10] });
    fill(&mut criterion, if is_measured { 1_000 } else { 10 });
    criterion.final_summary();
}
