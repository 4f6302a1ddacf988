//! Measures the core: `cargo run --release -p scheduler --features measure --example measure [-- --workers N --gangs N --events N --json FILE]`.
//!
//! Times are CPU time of this thread: a shared machine stalls. Each event ends a running gang and submits another, and one
//! cycle follows, as in a busy cluster. One row for each size of cluster and policy. The benchmark `cycle` measures the same by
//! criterion, which says whether a change made it slower; the far percentiles, which are what is promised, need this.

mod busy;

use busy::{Busy, cpu_ns};
use scheduler::model::Scheduler;
use scheduler::policy::Policy;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use types::Timestamp;

/// Peak resident memory in MiB.
fn peak_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// What is measured.
struct Options {
    sizes: Vec<u64>,
    gangs: u64,
    events: u64,
    json: Option<PathBuf>,
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { sizes: vec![100, 1_000, 10_000], gangs: 100_000, events: 20_000, json: None };
        let mut words = std::env::args().skip(1);
        while let (Some(name), Some(value)) = (words.next(), words.next()) {
            let number = value.parse().unwrap_or(0);
            match name.as_str() {
                "--workers" => options.sizes = vec![number],
                "--gangs" => options.gangs = number,
                "--events" => options.events = number,
                "--json" => options.json = Some(value.into()),
                _ => eprintln!("{name} is not known"),
            }
        }
        options
    }
}

/// The default policy, and the same where nobody is stopped for order's sake, as on a live cluster.
fn policies() -> Vec<(&'static str, Policy)> {
    let mut calm = Policy::default();
    if let Some(rules) = &mut calm.preempt {
        rules.order_permille = 0;
    }
    vec![("live", calm), ("with stops", Policy::default())]
}

/// Names and figures of one row.
type Row = Vec<(&'static str, f64)>;

fn measure(policy: Policy, workers: u64, options: &Options) -> Row {
    let mut busy = Busy::new(policy, workers);
    let begin = cpu_ns();
    for _ in 0..options.gangs {
        busy.submit();
    }
    let submitting = cpu_ns() - begin;
    let cold = busy.cycle();
    let first = busy.starts;
    let (mut costs, mut applying) = (Vec::new(), 0);
    for _ in 0..options.events {
        let begin = cpu_ns();
        busy.go_on();
        applying += cpu_ns() - begin;
        costs.push(busy.cycle());
    }
    let starts = busy.starts - first;
    busy.core.forget_indexes();
    busy.submit();
    let rebuild = busy.cycle();
    let waiting = busy.core.waiting();
    let (explain, explain_max) = explain(&busy);
    let total = costs.iter().sum::<u64>() + applying;
    costs.sort_unstable();
    let us = |part: f64| {
        costs.get((costs.len().saturating_sub(1) as f64 * part) as usize).map_or(0.0, |ns| *ns as f64 / 1e3)
    };
    let ms = |ns: u64| ns as f64 / 1e6;
    vec![
        ("workers", workers as f64),
        ("waiting", waiting as f64),
        ("p50 us", us(0.5)),
        ("p99 us", us(0.99)),
        ("p99.9 us", us(0.999)),
        ("worst us", us(1.0)),
        ("first pass ms", ms(cold)),
        ("its starts", first as f64),
        ("starts/CPU-s, first pass", first as f64 * 1e9 / cold.max(1) as f64),
        ("cycles with facts/CPU-s", options.events as f64 * 1e9 / total.max(1) as f64),
        ("starts in them", starts as f64),
        ("rebuild ms", ms(rebuild)),
        ("explain us, mean", explain),
        ("explain us, worst", explain_max),
        ("submit us", submitting as f64 / 1e3 / options.gangs.max(1) as f64),
        ("peak MiB", peak_mib() as f64),
    ]
}

/// What a new leader does first, on a cluster that is full.
fn take_over(workers: u64, options: &Options) -> Row {
    let mut busy = Busy::new(policies().remove(0).1, workers);
    for _ in 0..options.gangs {
        busy.submit();
    }
    busy.cycle();
    let taken = busy.take_over();
    let ms = |ns: u64| ns as f64 / 1e6;
    vec![
        ("workers", workers as f64),
        ("running", busy.starts as f64),
        ("waiting", busy.core.waiting() as f64),
        ("facts", taken.facts as f64),
        ("facts taken in ms", ms(taken.telling_ns)),
        ("first pass ms", ms(taken.cycle_ns)),
        ("its starts", taken.starts as f64),
    ]
}

/// What it takes to tell when those who wait are expected to start: a copy, and a second of looking ahead.
fn look_ahead(workers: u64, options: &Options) -> std::io::Result<Row> {
    let mut busy = Busy::new(policies().remove(0).1, workers);
    for _ in 0..options.gangs {
        busy.submit();
    }
    busy.cycle();
    let begin = cpu_ns();
    let copy = busy.core.clone();
    let copied = cpu_ns();
    let goes_on = || cpu_ns() - copied < 1_000_000_000;
    let future = copy.look_ahead(Timestamp(busy.now), goes_on).map_err(std::io::Error::other)?;
    let (starts, cut) = (future.starts.len(), future.is_cut);
    let ms = |ns: u64| ns as f64 / 1e6;
    Ok(vec![
        ("workers", workers as f64),
        ("running", busy.starts as f64),
        ("waiting", busy.core.waiting() as f64),
        ("copy ms", ms(copied - begin)),
        ("look ms", ms(cpu_ns() - copied)),
        ("starts seen", starts as f64),
        ("cut short", f64::from(u8::from(cut))),
    ])
}

/// What it takes to explain a gang, of a hundred that wait: the mean and the worst, in microseconds.
fn explain(busy: &Busy) -> (f64, f64) {
    let mut costs = Vec::new();
    for back in 0..1_000 {
        let begin = cpu_ns();
        let explained = busy.core.explain(Timestamp(busy.now), busy.waiting(back));
        let cost = cpu_ns() - begin;
        if explained.is_some() {
            costs.push(cost as f64 / 1e3);
        }
        if costs.len() == 100 {
            break;
        }
    }
    let worst = costs.iter().copied().fold(0.0, f64::max);
    (costs.iter().sum::<f64>() / costs.len().max(1) as f64, worst)
}

fn main() -> std::io::Result<()> {
    let options = Options::parse();
    let (mut rows, mut leaders) = (Vec::new(), Vec::new());
    for workers in &options.sizes {
        for (name, policy) in policies() {
            let row = measure(policy, *workers, &options);
            rows.push(told(name, row));
        }
    }
    // Last, so that the memory of a second core does not count as that of the first.
    for workers in &options.sizes {
        leaders.push(told("new leader", take_over(*workers, &options)));
    }
    let looks = options.sizes.iter().map(|workers| Ok(told("look ahead", look_ahead(*workers, &options)?)));
    let looks = looks.collect::<std::io::Result<Vec<Value>>>()?;
    let Some(path) = &options.json else { return Ok(()) };
    let title = format!("CPU time of a cycle, {} gangs submitted, {} events", options.gangs, options.events);
    let note = "peak MiB is of the whole process so far";
    let tables = json!([
        { "title": title, "rows": rows },
        { "title": "CPU time of a new leader's first cycle", "rows": leaders },
        { "title": "CPU time of a look ahead of at most a second", "rows": looks }
    ]);
    let report = json!({ "benchmark": "Scheduler", "tables": tables, "notes": [note] });
    std::fs::write(path, format!("{report:#}\n"))
}

/// Prints a row, and gives it as JSON.
fn told(name: &str, row: Row) -> Value {
    let cells = row.iter().map(|(name, figure)| format!("{name} {figure:.1}"));
    println!("{name}: {}", cells.collect::<Vec<_>>().join(" | "));
    let named = row.iter().map(|(name, figure)| ((*name).to_owned(), json!(figure)));
    let policy = std::iter::once(("policy".to_owned(), json!(name)));
    Value::Object(policy.chain(named).collect::<Map<_, _>>())
}
