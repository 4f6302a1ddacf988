//! Microsoft's Philly trace (Jeon et al., ATC'19) as Pollux' authors cleaned it: one line a job, a virtual cluster a queue.

use super::columns::{DEVICES_MAX, Names};
use super::csv::Csv;
use super::faults::Faults;
use super::{Trace, TraceJob};
use types::Millis;

/// Reads `timestamp,duration,num_gpus,..,cluster`; the timestamp is `year-month-day hour:minute:second`.
pub(crate) fn read(text: &str, ticks_per_second: u64) -> Result<Trace, Faults> {
    let (mut faults, csv) = (Faults::default(), Csv::new(text));
    csv.require(&["timestamp", "duration", "num_gpus", "cluster"], &mut faults);
    if !faults.0.is_empty() {
        return faults.or(Trace::default());
    }
    let mut queues = Names::default();
    let mut inner = Faults::default();
    let mut jobs = Vec::new();
    for row in csv.rows(&mut faults) {
        let stamp = row.text("timestamp");
        let submit = seconds(stamp).unwrap_or_else(|| {
            inner.at(row.line, format!("`timestamp` is {stamp:?}, not as 2017-10-09 07:01:55"));
            0
        });
        let devices = row.number("num_gpus", 1..=DEVICES_MAX, &mut inner) as u32;
        jobs.push(TraceJob {
            submit: Millis(submit.saturating_mul(ticks_per_second)),
            run: Millis(row.span("duration", ticks_per_second, &mut inner)),
            devices,
            devices_min: devices,
            cpus: 1,
            queue: queues.number(row.text("cluster")),
            ..TraceJob::default()
        });
    }
    faults.0.append(&mut inner.0);
    faults.0.sort_by_key(|fault| fault.line);
    faults.or(Trace { jobs, queues: queues.into_names(), users: vec![String::new()], ..Trace::default() })
}

/// Seconds since 1970 of a date and time, without zones or leap seconds.
fn seconds(stamp: &str) -> Option<u64> {
    let (date, time) = stamp.split_once([' ', 'T'])?;
    let [year, month, day] = three(date, '-')?;
    let [hour, minute, second] = three(time.trim_end_matches('Z'), ':')?;
    let is_sound =
        (1970..=2200).contains(&year) && (1..=12).contains(&month) && hour < 24 && minute < 60 && second <= 60;
    if !is_sound || day == 0 || day > days_in(year, month) {
        return None;
    }
    Some(days_since_1970(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn three(text: &str, separator: char) -> Option<[u64; 3]> {
    let mut parts = text.split(separator).map(|part| part.parse::<u64>().ok());
    let three = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(three)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 => 28 + u64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let years: u64 = (1970..year).map(|year| 365 + u64::from(is_leap(year))).sum();
    let months: u64 = (1..month).map(|month| days_in(year, month)).sum();
    years + months + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_counted_from_1970() {
        assert_eq!(seconds("1970-01-01 00:00:00"), Some(0));
        assert_eq!(seconds("2017-10-09 07:01:55"), Some(1_507_532_515));
        assert_eq!(seconds("2020-02-29T23:59:59Z"), Some(1_583_020_799));
        for bad in ["", "2017-10-09", "2017-13-01 00:00:00", "2019-02-29 00:00:00", "2017-1-1 24:00:00", "a-b-c d:e:f"]
        {
            assert_eq!(seconds(bad), None, "{bad}");
        }
    }
}
