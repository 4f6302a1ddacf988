//! Our own CSV, and Batsim's table of jobs, which differs in names only.

use super::columns::{COLUMNS, DEVICES_MAX, Names, PRIORITY_MAX};
use super::csv::{Csv, Row};
use super::faults::Faults;
use super::{Trace, TraceJob};
use types::Millis;

/// Reads our own columns. An unknown column is a fault: a misspelled one would be silently without effect.
pub(crate) fn read(text: &str, ticks_per_second: u64) -> Result<Trace, Faults> {
    let (mut faults, csv) = (Faults::default(), Csv::new(text));
    csv.require(&["submit_s", "run_s", "gpus"], &mut faults);
    for column in csv.columns().iter().filter(|column| COLUMNS.iter().all(|(name, _)| name != column)) {
        faults.at(1, format!("there is no column `{column}`"));
    }
    if !faults.0.is_empty() {
        return faults.or(Trace::default());
    }
    let (mut queues, mut users) = (Names::default(), Names::default());
    let mut trace = Trace::default();
    let rows = csv.rows(&mut faults);
    let mut jobs = Vec::with_capacity(rows.len());
    let mut inner = Faults::default();
    for row in rows {
        let mut job = job(&row, ticks_per_second, &mut inner);
        job.queue = queues.number(row.text("queue"));
        job.user = users.number(row.text("user"));
        jobs.push(job);
    }
    faults.0.append(&mut inner.0);
    faults.0.sort_by_key(|fault| fault.line);
    (trace.jobs, trace.queues, trace.users) = (jobs, queues.into_names(), users.into_names());
    faults.or(trace)
}

fn job(row: &Row<'_>, ticks_per_second: u64, faults: &mut Faults) -> TraceJob {
    let devices = row.number("gpus", 0..=DEVICES_MAX, faults) as u32;
    let per_member = row.number_if("gpus_per_machine", 1..=DEVICES_MAX, faults).map(|count| count as u32);
    if let Some(per_member) = per_member.filter(|count| *count > 0 && !devices.is_multiple_of(*count)) {
        faults
            .at(row.line, format!("`gpus` is {devices}, not a multiple of `gpus_per_machine`, which is {per_member}"));
    }
    let minimum = row.number_if("gpus_min", 1..=DEVICES_MAX, faults).map(|count| count as u32);
    if let Some(minimum) = minimum.filter(|minimum| *minimum > devices) {
        faults.at(row.line, format!("`gpus_min` is {minimum}, more than `gpus`, which is {devices}"));
    }
    let cpus = row.number_if("cpus", 0..=DEVICES_MAX, faults).unwrap_or(1) as u32;
    if devices == 0 && cpus == 0 {
        faults.at(row.line, "`gpus` and `cpus` are both 0: it would run on nothing");
    }
    TraceJob {
        name: row.text("name").to_owned(),
        submit: Millis(row.span("submit_s", ticks_per_second, faults)),
        run: Millis(row.span("run_s", ticks_per_second, faults)),
        walltime: row.span_if("walltime_s", ticks_per_second, faults).map(Millis),
        devices,
        devices_per_member: per_member,
        devices_min: minimum.unwrap_or(devices),
        cpus,
        priority: priority(row, faults),
        ..TraceJob::default()
    }
}

fn priority(row: &Row<'_>, faults: &mut Faults) -> i32 {
    let text = row.text("priority");
    let value = if text.is_empty() { Ok(0) } else { text.parse::<i64>() };
    if let Some(value) = value.ok().filter(|value| value.abs() <= PRIORITY_MAX) {
        return value as i32;
    }
    faults.at(row.line, format!("`priority` is {text:?}, not a whole number from -{PRIORITY_MAX} to {PRIORITY_MAX}"));
    0
}

/// Reads Batsim's `*_jobs.csv`: each requested resource is a machine with one device.
pub(crate) fn read_batsim(text: &str, ticks_per_second: u64) -> Result<Trace, Faults> {
    let (mut faults, csv) = (Faults::default(), Csv::new(text));
    let (submit, size) = ("submission_time", "requested_number_of_resources");
    csv.require(&["job_id", submit, size, "requested_time", "execution_time"], &mut faults);
    if !faults.0.is_empty() {
        return faults.or(Trace::default());
    }
    let mut jobs = Vec::new();
    let mut inner = Faults::default();
    for row in csv.rows(&mut faults) {
        let devices = row.number(size, 1..=DEVICES_MAX, &mut inner) as u32;
        jobs.push(TraceJob {
            name: row.text("job_id").to_owned(),
            submit: Millis(row.span(submit, ticks_per_second, &mut inner)),
            run: Millis(row.span("execution_time", ticks_per_second, &mut inner)),
            walltime: Some(Millis(row.span("requested_time", ticks_per_second, &mut inner))),
            devices,
            devices_min: devices,
            devices_per_member: Some(1),
            cpus: 1,
            ..TraceJob::default()
        });
    }
    faults.0.append(&mut inner.0);
    faults.0.sort_by_key(|fault| fault.line);
    faults.or(Trace { jobs, queues: vec![String::new()], users: vec![String::new()], ..Trace::default() })
}
