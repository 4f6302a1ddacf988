//! Our own columns as JSON: an array of objects, or one object a line.

use super::columns::{DEVICES_MAX, Names, PRIORITY_MAX};
use super::csv;
use super::faults::Faults;
use super::{Trace, TraceJob};
use serde::Deserialize;
use serde_json::value::RawValue;
use types::Millis;

/// Times stay text until they are ticks: a float would lose digits.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Job<'a> {
    #[serde(borrow)]
    submit_s: &'a RawValue,
    #[serde(borrow)]
    run_s: &'a RawValue,
    gpus: u32,
    #[serde(default)]
    name: String,
    #[serde(default)]
    queue: String,
    #[serde(default)]
    user: String,
    #[serde(default, borrow)]
    walltime_s: Option<&'a RawValue>,
    gpus_per_machine: Option<u32>,
    gpus_min: Option<u32>,
    cpus: Option<u32>,
    #[serde(default)]
    priority: i32,
}

/// Reads it.
pub(crate) fn read(text: &str, ticks_per_second: u64) -> Result<Trace, Faults> {
    let (mut faults, mut trace) = (Faults::default(), Trace::default());
    let (mut queues, mut users) = (Names::default(), Names::default());
    let Some(objects) = objects(text, &mut faults) else { return faults.or(trace) };
    let mut lines = Lines { text, at: 0, line: 1 };
    for object in objects {
        let line = lines.of(object);
        match serde_json::from_str::<Job<'_>>(object) {
            Ok(read) => {
                let mut job = job(&read, line, ticks_per_second, &mut faults);
                job.queue = queues.number(&read.queue);
                job.user = users.number(&read.user);
                trace.jobs.push(job);
            }
            Err(error) => faults.at(line + error.line().saturating_sub(1), cause(&error)),
        }
    }
    (trace.queues, trace.users) = (queues.into_names(), users.into_names());
    faults.or(trace)
}

/// The text of each object; nothing, with a fault, when the text as a whole is no JSON.
fn objects<'a>(text: &'a str, faults: &mut Faults) -> Option<Vec<&'a str>> {
    let all: Result<Vec<&RawValue>, _> = if text.trim_start().starts_with('[') {
        serde_json::from_str(text)
    } else {
        serde_json::Deserializer::from_str(text).into_iter().collect()
    };
    match all {
        Ok(all) => Some(all.into_iter().map(RawValue::get).collect()),
        Err(error) => {
            faults.at(error.line(), cause(&error));
            None
        }
    }
}

/// What serde says, without the place, which stands before it.
fn cause(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(cause, _)| cause.to_owned())
}

/// Lines of parts of a text that come in order.
struct Lines<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Lines<'_> {
    /// The line in which `part`, a piece of the text, begins.
    fn of(&mut self, part: &str) -> usize {
        let start = (part.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let between = self.text.as_bytes().get(self.at..start).unwrap_or_default();
        self.line += between.split(|byte| *byte == b'\n').count() - 1;
        self.at = start.max(self.at);
        self.line
    }
}

fn job(read: &Job<'_>, line: usize, ticks_per_second: u64, faults: &mut Faults) -> TraceJob {
    let mut span = |name: &str, value: &RawValue| {
        let text = value.get();
        let ticks = csv::ticks(text, ticks_per_second);
        if ticks.is_none() {
            faults.at(line, format!("`{name}` is {text}, not a number of seconds from 0 to {}", csv::SECONDS_MAX));
        }
        Millis(ticks.unwrap_or(0))
    };
    let (submit, run) = (span("submit_s", read.submit_s), span("run_s", read.run_s));
    let walltime = read.walltime_s.filter(|value| value.get() != "null").map(|value| span("walltime_s", value));
    let cpus = read.cpus.unwrap_or(1);
    let mut refuse = |is_wrong: bool, text: String| {
        if is_wrong {
            faults.at(line, text);
        }
    };
    let most = DEVICES_MAX as u32;
    refuse(read.gpus > most || cpus > most, format!("`gpus` and `cpus` are at most {DEVICES_MAX}"));
    refuse(read.gpus == 0 && cpus == 0, "`gpus` and `cpus` are both 0: it would run on nothing".into());
    let is_even = read.gpus_per_machine.is_none_or(|count| count > 0 && read.gpus.is_multiple_of(count));
    refuse(!is_even, "`gpus` is not a multiple of `gpus_per_machine`".into());
    let is_min = read.gpus_min.is_none_or(|count| count > 0 && count <= read.gpus);
    refuse(!is_min, format!("`gpus_min` is not from 1 to `gpus`, which is {}", read.gpus));
    let is_priority = i64::from(read.priority).abs() <= PRIORITY_MAX;
    refuse(!is_priority, format!("`priority` is {}, beyond {PRIORITY_MAX}", read.priority));
    TraceJob {
        name: read.name.clone(),
        submit,
        run,
        walltime,
        devices: read.gpus,
        devices_per_member: read.gpus_per_machine,
        devices_min: read.gpus_min.unwrap_or(read.gpus),
        cpus,
        priority: read.priority,
        ..TraceJob::default()
    }
}
