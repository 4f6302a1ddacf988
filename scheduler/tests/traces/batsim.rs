//! Batsim (evalys' `medium_late`, 32 machines, 801 jobs): the core's `easy` gives every start of the reference schedule,
//! `conservative` its mean waiting time. Both place on the lowest machines first, as the reference does.

use super::support::{is_near, text};
use scheduler::Core;
use scheduler::Preference;
use scheduler::policy::Policy;
use scheduler::simulator::trace::{Format, Trace, read_in_ticks};
use scheduler::simulator::{Cluster, Inputs, Outcome, Settings, Standard, equal_queues, simulate};

/// Times have six digits there.
const SECOND: u64 = 1_000_000;

fn run(trace: &Trace, policy: &str) -> Outcome {
    let cluster = Cluster::named("32x1/32").unwrap();
    let queues = equal_queues(trace, &cluster);
    let settings = Settings { estimate_sigma: None, tells_checkpoints: false, ..Settings::default() };
    let model = Standard::default();
    let inputs = Inputs { cluster: &cluster, trace, queues: &queues, settings: &settings, model: &model };
    let policy = Policy { preference: Preference::LowestId, ..Policy::named(policy).unwrap() };
    simulate(&inputs, &mut Core::new(policy), &mut || 0).unwrap()
}

/// The trace, and the start of each of its jobs in the reference, in its order.
fn reference(policy: &str) -> Option<(Trace, Vec<u64>)> {
    let table = text(&format!("batsim-easy/{policy}_out_jobs.csv"))?;
    let trace = read_in_ticks(&table, Format::Batsim, SECOND).unwrap();
    let column = table.lines().next().unwrap().split(',').position(|name| name == "starting_time").unwrap();
    let start = |name: &str| {
        let line = table.lines().skip(1).find(|line| line.split(',').next() == Some(name)).unwrap();
        let seconds: f64 = line.split(',').nth(column).unwrap().parse().unwrap();
        (seconds * SECOND as f64).round() as u64
    };
    let starts = trace.jobs.iter().map(|job| start(&job.name)).collect();
    Some((trace, starts))
}

fn compare(policy: &str) -> Option<(usize, usize, f64, f64)> {
    let (trace, starts) = reference(policy)?;
    let outcome = run(&trace, policy);
    let is_same = |(job, start): &(&scheduler::simulator::JobOutcome, &u64)| {
        job.start.is_some_and(|ours| ours.abs_diff(**start) <= SECOND / 1_000)
    };
    let same = outcome.jobs.iter().zip(&starts).filter(is_same).count();
    let waits = trace.jobs.iter().zip(&starts).map(|(job, start)| (start - job.submit.0) as f64 / SECOND as f64);
    let published = waits.sum::<f64>() / starts.len() as f64;
    let ours = outcome.report(policy, &trace).wait_mean_s;
    println!(
        "batsim {policy}: {same} of {} starts as published, mean wait {ours:.6} s, published {published:.6} s",
        starts.len()
    );
    Some((same, starts.len(), ours, published))
}

#[test]
fn easy_starts_each_job_when_the_reference_does() {
    if let Some((same, all, ours, published)) = compare("easy") {
        assert_eq!(same, all);
        assert!(is_near(published, 9.516_326, 1e-6) && is_near(ours, published, 1e-6));
    }
}

#[test]
fn conservative_lets_jobs_wait_as_long_as_the_reference() {
    if let Some((_, _, ours, published)) = compare("conservative") {
        assert!(is_near(ours, published, 0.005), "{ours} is not {published}");
    }
}
