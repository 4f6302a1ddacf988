//! The comparison: a measure a line and a policy a column for people, the same numbers as JSON for programs.

use super::inputs::Header;
use crate::output::{Cell, Column, Output, Table};
use scheduler::simulator::Report;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// Stable names; times in seconds, device time in GPU-hours.
pub fn json(header: &Header, reports: &[&Report]) -> Value {
    json!({
        "trace": header.trace,
        "jobs": header.jobs.0,
        "left_out": header.jobs.1,
        "cluster": header.cluster,
        "machines": header.machines.0,
        "gpus": header.machines.1,
        "load": header.load,
        "seed": header.seed,
        "policies": reports,
    })
}

/// One measure: its title, and its value of a policy.
type Line = (&'static str, fn(&Report) -> String);

const LINES: [Line; 40] = [
    ("jobs done", |r| format!("{} of {}", r.jobs_done, r.jobs)),
    ("completion mean", |r| time(r.completion_mean_s)),
    ("completion p50", |r| time(r.completion_p50_s)),
    ("completion p95", |r| time(r.completion_p95_s)),
    ("completion p99", |r| time(r.completion_p99_s)),
    ("completion max", |r| time(r.completion_max_s)),
    ("wait mean", |r| time(r.wait_mean_s)),
    ("wait p50", |r| time(r.wait_p50_s)),
    ("wait p99", |r| time(r.wait_p99_s)),
    ("wait max", |r| time(r.wait_max_s)),
    ("slowdown mean", |r| format!("{:.2}", r.slowdown_mean)),
    ("slowdown p99", |r| format!("{:.1}", r.slowdown_p99)),
    ("makespan", |r| time(r.makespan_s)),
    ("GPUs allocated", |r| percent(r.allocated_percent)),
    ("GPUs allocated while jobs waited", |r| percent(r.allocated_busy_percent)),
    ("GPUs useful", |r| percent(r.useful_percent)),
    ("fragmentation", |r| percent(r.fragmentation_percent)),
    ("idle on whole machines", |r| percent(r.idle_whole_percent)),
    ("finish-time ratio worst", |r| format!("{:.2}", r.finish_time_ratio_worst)),
    ("finish-time ratio > 1", |r| percent(r.finish_time_unfair_percent)),
    ("Jain's index of queues", |r| format!("{:.3}", r.jain)),
    ("preemptions", |r| r.preemptions.to_string()),
    ("resizes", |r| r.resizes.to_string()),
    ("attempts failed", |r| r.failed_attempts.to_string()),
    ("lost work GPU-h", |r| format!("{:.1}", r.lost_gpu_h)),
    ("start cost GPU-h", |r| format!("{:.1}", r.start_cost_gpu_h)),
    ("borrowed GPU-h", |r| format!("{:.1}", r.borrowed_gpu_h)),
    ("quota violations", |r| r.quota_violations.to_string()),
    ("promises made", |r| r.promised.to_string()),
    ("promises late", |r| r.promised_late.to_string()),
    ("promises broken", |r| r.promised_broken.to_string()),
    ("promise error p50", |r| percent(r.promised_error_percent)),
    ("starts predicted", |r| r.expected.to_string()),
    ("prediction error p50", |r| percent(r.expected_error_percent)),
    ("decision p50", |r| micros(r.cycle_p50_us)),
    ("decision p99", |r| micros(r.cycle_p99_us)),
    ("decision p99.9", |r| micros(r.cycle_p999_us)),
    ("decision max", |r| micros(r.cycle_max_us)),
    ("decision rounds", |r| r.cycles.to_string()),
    ("starts per CPU s", |r| format!("{:.0}", r.starts_per_cpu_s)),
];

/// For people.
pub fn text(header: &Header, reports: &[&Report], output: &Output) -> String {
    let mut text = String::new();
    let Header { trace, jobs, cluster, machines, load, seed } = header;
    let left_out = if jobs.1 > 0 { format!(" ({} left out)", jobs.1) } else { String::new() };
    let _ =
        writeln!(text, "{trace}: {} jobs{left_out} on {cluster}: {} machines, {} GPUs", jobs.0, machines.0, machines.1);
    let _ = writeln!(text, "load {load:.2} until the last submission, seed {seed}\n");
    // Titles of columns are fixed text in tables; the policies' names stand in the first row instead.
    let mut columns = vec![Column::whole("POLICY")];
    columns.extend(reports.iter().map(|_| Column::number("")));
    let mut table = Table::new(columns);
    let mut names = vec![Cell::default()];
    names.extend(reports.iter().map(|report| Cell::styled(report.policy.clone(), crate::output::style::HEAD)));
    table.row(names);
    for (title, value) in LINES {
        let mut row: Vec<Cell> = vec![title.into()];
        row.extend(reports.iter().map(|report| value(report).into()));
        table.row(row);
    }
    for (at, size) in reports.first().map(|report| report.wait_by_size.iter().enumerate()).into_iter().flatten() {
        if size.jobs == 0 {
            continue;
        }
        let of = match size.gpus {
            (0, most) => format!("up to {most} GPU"),
            (fewest, u32::MAX) => format!("{fewest} GPUs and more"),
            (fewest, most) if fewest == most => format!("{fewest} GPUs"),
            (fewest, most) => format!("{fewest} to {most} GPUs"),
        };
        let mut row: Vec<Cell> = vec![format!("wait mean / max, {of}").into()];
        let both = |report: &&Report| {
            let size = report.wait_by_size.get(at)?;
            Some(format!("{} / {}", time(size.wait_mean_s), time(size.wait_max_s)))
        };
        row.extend(reports.iter().map(|report| both(report).unwrap_or_default().into()));
        table.row(row);
    }
    text.push_str(&table.render(output, ""));
    text
}

fn percent(value: f64) -> String {
    format!("{value:.1} %")
}

fn micros(value: f64) -> String {
    if value < 1_000.0 { format!("{value:.0} µs") } else { format!("{:.1} ms", value / 1_000.0) }
}

/// Seconds in the unit that reads best.
fn time(seconds: f64) -> String {
    match seconds {
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7_200.0 => format!("{:.1} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} d", s / 86_400.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_the_unit_that_reads_best() {
        let cases = [(0.0, "0.0 s"), (119.0, "119.0 s"), (600.0, "10.0 min"), (7_200.0, "2.0 h"), (259_200.0, "3.0 d")];
        for (seconds, text) in cases {
            assert_eq!(time(seconds), text);
        }
    }
}
