//! The Standard Workload Format, version 2.2 (Chapin et al., JSSPP'99; <https://www.cs.huji.ac.il/labs/parallel/workload/swf.html>):
//! 18 numbers a line, -1 for unknown, comments behind `;`. A processor is a device.

use super::columns::{DEVICES_MAX, Names, RUN_MAX_SECONDS};
use super::faults::Faults;
use super::{Trace, TraceJob};
use types::Millis;

/// Numbers in a line.
pub(crate) const FIELDS: usize = 18;

/// Reads it; jobs that never ran (no run time or no processors) are left out and counted.
pub(crate) fn read(text: &str, ticks_per_second: u64) -> Result<Trace, Faults> {
    let (mut faults, mut trace) = (Faults::default(), Trace::default());
    let (mut queues, mut users) = (Names::default(), Names::default());
    for (index, line) in text.lines().enumerate() {
        let content = line.split(';').next().unwrap_or_default().trim();
        if content.is_empty() {
            continue;
        }
        let Some(fields) = numbers(content, index + 1, &mut faults) else { continue };
        let [id, submit, _, run, used, _, _, asked, walltime, _, _, user, _, _, queue, ..] = fields;
        let devices = if asked > 0 { asked } else { used };
        if run < 0 || devices <= 0 {
            trace.left_out += 1;
            continue;
        }
        let span = |seconds: i64| Millis(seconds.max(0) as u64 * ticks_per_second);
        trace.jobs.push(TraceJob {
            name: id.to_string(),
            submit: span(submit),
            run: span(run),
            walltime: (walltime > 0).then(|| span(walltime)),
            devices: devices as u32,
            devices_min: devices as u32,
            cpus: 1,
            queue: queues.number(&named("queue", queue)),
            user: users.number(&named("user", user)),
            ..TraceJob::default()
        });
    }
    (trace.queues, trace.users) = (queues.into_names(), users.into_names());
    faults.or(trace)
}

fn named(kind: &str, number: i64) -> String {
    if number < 0 { String::new() } else { format!("{kind}-{number}") }
}

/// The numbers of a line, whole ones: average CPU time alone may have a fraction, and nobody needs it.
fn numbers(content: &str, line: usize, faults: &mut Faults) -> Option<[i64; FIELDS]> {
    let mut numbers = [0_i64; FIELDS];
    let fields: Vec<&str> = content.split_ascii_whitespace().collect();
    if fields.len() != FIELDS {
        faults.at(line, format!("{} fields, where SWF has {FIELDS}", fields.len()));
        return None;
    }
    let mut is_sound = true;
    for (at, (number, field)) in numbers.iter_mut().zip(&fields).enumerate() {
        let whole = field.split_once('.').map_or(*field, |(whole, _)| whole);
        let most = if at == 4 || at == 7 { DEVICES_MAX } else { RUN_MAX_SECONDS };
        match whole.parse::<i64>() {
            Ok(value) if value >= -1 && (!matches!(at, 1 | 3 | 4 | 7 | 8) || value <= most as i64) => *number = value,
            _ => {
                faults.at(line, format!("field {} is {field:?}, not a number from -1 to {most}", at + 1));
                is_sound = false;
            }
        }
    }
    is_sound.then_some(numbers)
}
