//! Traces: jobs with their submission, size and run time, read from the formats that public traces come in. Pure: text in,
//! jobs or every fault with its line out.

mod columns;
pub(crate) mod csv;
mod faults;
mod json;
mod muri;
mod own;
mod philly;
mod swf;

pub use columns::{COLUMNS, RUN_MAX_SECONDS};
pub use faults::{Fault, Faults};

use types::Millis;

/// One job of a trace. Times are spans since the trace's begin, in ticks of a millisecond unless the reader says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceJob {
    /// As the trace names it; empty when it does not.
    pub name: String,
    /// When it was submitted.
    pub submit: Millis,
    /// How long it runs on its devices, undisturbed.
    pub run: Millis,
    /// What its user says that it runs at most.
    pub walltime: Option<Millis>,
    /// All devices that it holds; 0 for a job of CPU slots only.
    pub devices: u32,
    /// Devices of each of its members; nothing = as few machines as it fits into.
    pub devices_per_member: Option<u32>,
    /// Fewest devices with which it can run, when it is elastic; the same as `devices` otherwise.
    pub devices_min: u32,
    /// CPU slots of each device's share (of the job, when it has no device).
    pub cpus: u32,
    /// Index into [`Trace::queues`].
    pub queue: u32,
    /// Index into [`Trace::users`].
    pub user: u32,
    /// Higher goes first.
    pub priority: i32,
}

/// Jobs in the order of their submission, those of one instant in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace {
    /// The jobs.
    pub jobs: Vec<TraceJob>,
    /// Names of the queues that they name.
    pub queues: Vec<String>,
    /// Names of the users that they name.
    pub users: Vec<String>,
    /// Lines that describe no job that ran: cancelled before the start, or without devices and processors.
    pub left_out: usize,
    /// Unit of its times: 1,000 for milliseconds.
    pub ticks_per_second: u64,
}

impl Trace {
    /// Sorts by submission; the first job's submission becomes the begin of time.
    pub(crate) fn finish(mut self) -> Self {
        self.jobs.sort_by_key(|job| job.submit);
        let begin = self.jobs.first().map_or(0, |job| job.submit.0);
        for job in &mut self.jobs {
            job.submit = Millis(job.submit.0 - begin);
        }
        self
    }

    /// The same jobs, submitted `factor` times as fast.
    pub fn compressed(mut self, factor: f64) -> Self {
        for job in &mut self.jobs {
            job.submit = Millis((job.submit.0 as f64 / factor).round() as u64);
        }
        self
    }

    /// All devices times run time, in device-milliseconds.
    pub fn work(&self) -> u128 {
        self.jobs.iter().map(|job| u128::from(job.run.0) * u128::from(job.devices)).sum()
    }
}

/// The formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Our own columns: see [`COLUMNS`].
    Csv,
    /// The same as JSON: an array of objects, or one object a line.
    Json,
    /// Microsoft's Philly trace as Pollux' authors cleaned it: `timestamp,duration,num_gpus,gpu_time,cluster`.
    Philly,
    /// The Standard Workload Format of the Parallel Workloads Archive, version 2.2.
    Swf,
    /// The artifact of Muri: `num_gpu,submit_time,iterations,iteration_time,model_name`.
    Muri,
    /// Batsim's table of jobs.
    Batsim,
}

impl Format {
    /// Every format with its name.
    pub const ALL: [(Format, &str); 6] = [
        (Format::Csv, "csv"),
        (Format::Json, "json"),
        (Format::Philly, "philly"),
        (Format::Swf, "swf"),
        (Format::Muri, "muri"),
        (Format::Batsim, "batsim"),
    ];

    /// Tells the format from the first line that is no comment; nothing when it looks like none.
    pub fn detect(text: &str) -> Option<Format> {
        let is_content = |line: &&str| !line.is_empty() && !line.starts_with('#');
        let first = text.lines().map(str::trim).find(is_content)?.trim_start_matches('\u{feff}');
        let has = |column: &str| first.split(',').any(|name| name.trim() == column);
        if first.starts_with(['[', '{']) {
            Some(Format::Json)
        } else if first.starts_with(';') || (first.split_ascii_whitespace().count() == swf::FIELDS) {
            Some(Format::Swf)
        } else if has("num_gpus") && has("duration") {
            Some(Format::Philly)
        } else if has("iterations") && has("iteration_time") {
            Some(Format::Muri)
        } else if has("requested_number_of_resources") {
            Some(Format::Batsim)
        } else {
            has("submit_s").then_some(Format::Csv)
        }
    }
}

/// Reads a trace whose ticks are milliseconds.
pub fn read(text: &str, format: Format) -> Result<Trace, Faults> {
    read_in_ticks(text, format, 1_000)
}

/// Reads a trace with another unit of time: the scheduler counts ticks, and does not care how long one is.
pub fn read_in_ticks(text: &str, format: Format, ticks_per_second: u64) -> Result<Trace, Faults> {
    let trace = match format {
        Format::Csv => own::read(text, ticks_per_second),
        Format::Json => json::read(text, ticks_per_second),
        Format::Philly => philly::read(text, ticks_per_second),
        Format::Swf => swf::read(text, ticks_per_second),
        Format::Muri => muri::read(text, ticks_per_second),
        Format::Batsim => own::read_batsim(text, ticks_per_second),
    }?;
    if trace.jobs.is_empty() {
        let mut faults = Faults::default();
        faults.at(0, "there is no job in it");
        return faults.or(trace);
    }
    Ok(Trace { ticks_per_second, ..trace }.finish())
}

#[cfg(test)]
mod tests;
