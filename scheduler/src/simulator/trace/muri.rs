//! Traces of the artifact of Muri (Zhao et al., SIGCOMM'22): four virtual clusters of Philly with models assigned.

use super::columns::DEVICES_MAX;
use super::csv::{Csv, SECONDS_MAX};
use super::faults::Faults;
use super::{Trace, TraceJob};
use types::Millis;

/// Ticks that a job of that artifact runs: iterations × milliseconds of one × 1.015. (`duration` is not it.) Microseconds
/// are exact.
fn run_ticks(iterations: u64, iteration_ms: u64, ticks_per_second: u64) -> u64 {
    let microseconds = u128::from(iterations) * u128::from(iteration_ms) * 1_015;
    let ticks = (microseconds * u128::from(ticks_per_second) + 500_000) / 1_000_000;
    u64::try_from(ticks).unwrap_or(u64::MAX)
}

/// Reads it; the model's name becomes the job's name.
pub(crate) fn read(text: &str, ticks_per_second: u64) -> Result<Trace, Faults> {
    let (mut faults, csv) = (Faults::default(), Csv::new(text));
    csv.require(&["num_gpu", "submit_time", "iterations", "iteration_time", "model_name"], &mut faults);
    if !faults.0.is_empty() {
        return faults.or(Trace::default());
    }
    let mut inner = Faults::default();
    let mut jobs = Vec::new();
    let longest = SECONDS_MAX * 1_000;
    for row in csv.rows(&mut faults) {
        let devices = row.number("num_gpu", 1..=DEVICES_MAX, &mut inner) as u32;
        let submit = row.number("submit_time", 0..=longest, &mut inner);
        let iterations = row.number("iterations", 0..=longest, &mut inner);
        let iteration = row.number("iteration_time", 0..=longest, &mut inner);
        let run = run_ticks(iterations, iteration, ticks_per_second);
        if run > SECONDS_MAX * ticks_per_second {
            inner.at(row.line, format!("it runs {iterations} × {iteration} ms, longer than {SECONDS_MAX} s"));
        }
        // Longest times in microseconds still fit by far.
        let scale = |ms: u64| Millis(ms.min(longest).saturating_mul(ticks_per_second) / 1_000);
        jobs.push(TraceJob {
            name: row.text("model_name").to_owned(),
            submit: scale(submit),
            run: Millis(run),
            devices,
            devices_min: devices,
            cpus: 1,
            ..TraceJob::default()
        });
    }
    faults.0.append(&mut inner.0);
    faults.0.sort_by_key(|fault| fault.line);
    faults.or(Trace { jobs, queues: vec![String::new()], users: vec![String::new()], ..Trace::default() })
}
