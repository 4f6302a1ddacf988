//! Which rank a gang waits for, by what its ranks last said on their metrics streams: a rank that hangs says nothing, those
//! that wait for it do.

use super::stacks::Stack;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use types::{Millis, Timestamp};

/// Ranks named one by one.
const NAMED_MAX: usize = 8;

/// Where a rank runs.
pub(super) type Worker<'a> = &'a dyn Fn(u32) -> String;

/// A stall's line: what a rank waits in, and for whom. Nobody is behind once it went on.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Stall {
    collective: String,
    sequence: u64,
    dtype: Option<String>,
    #[serde(default)]
    elements: u64,
    behind: Vec<Behind>,
    /// Seconds since the epoch.
    since: f64,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct Behind {
    rank: u32,
    sequence: u64,
}

/// The last one in a stream's end, unless its rank went on since.
pub(super) fn last(tail: &[u8]) -> Option<Stall> {
    #[derive(Deserialize)]
    struct Line {
        kind: String,
        #[serde(flatten)]
        stall: Stall,
    }
    let lines = tail.split(|byte| *byte == b'\n').rev();
    let mut stalls = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
    let last = stalls.find(|line| line.kind == "stall")?.stall;
    (!last.behind.is_empty()).then_some(last)
}

/// A line for each rank that others wait for, with where it was seen meanwhile. One that waits itself is not to blame: it is
/// behind because of another.
pub(super) fn explain(
    stalls: &BTreeMap<u32, Stall>,
    stacks: &BTreeMap<u32, Stack>,
    now: Timestamp,
    worker: Worker<'_>,
) -> Vec<String> {
    let mut waited_for: BTreeMap<u32, Vec<(u32, &Stall)>> = BTreeMap::new();
    for (waiter, stall) in stalls {
        for behind in &stall.behind {
            waited_for.entry(behind.rank).or_default().push((*waiter, stall));
        }
    }
    if waited_for.keys().any(|rank| !stalls.contains_key(rank)) {
        waited_for.retain(|rank, _| !stalls.contains_key(rank));
    }
    let more = waited_for.len().saturating_sub(NAMED_MAX);
    let mut lines: Vec<String> = waited_for
        .iter()
        .take(NAMED_MAX)
        .filter_map(|(rank, waiters)| {
            let (_, stall) = waiters.iter().min_by(|a, b| a.1.since.total_cmp(&b.1.since))?;
            let waited = Millis(now.0.saturating_sub((stall.since * 1000.0) as u64));
            let mut line = format!("rank {rank} on worker {} is behind: ", worker(*rank));
            let _ = match waiters.as_slice() {
                [(only, _)] => write!(line, "rank {only} waits"),
                many => write!(line, "{} others wait", many.len()),
            };
            let _ = write!(line, " in {} #{}", stall.collective, stall.sequence);
            if let Some(dtype) = &stall.dtype {
                let _ = write!(line, " ({dtype}, {})", grouped(stall.elements));
            }
            let _ = write!(line, " since {waited}");
            let last = stall.behind.iter().find(|behind| behind.rank == *rank).map_or(0, |behind| behind.sequence);
            let _ = match last {
                0 => write!(line, "; it was in no operation yet"),
                last if last == stall.sequence => write!(line, "; it came, but does not go on"),
                last => write!(line, "; it was last in #{last}"),
            };
            // One that was made before may show a rank that was well.
            if let Some(stack) = stacks.get(rank).filter(|stack| stack.time >= stall.since) {
                let _ = write!(line, "; {}", stack.text());
            }
            Some(line)
        })
        .collect();
    if more > 0 {
        lines.push(format!("{more} more ranks are behind"));
    }
    lines
}

/// With commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(131_400);

    fn stall(behind: &[(u32, u64)], since: f64) -> Stall {
        Stall {
            collective: "all_reduce".into(),
            sequence: 412,
            dtype: Some("f32".into()),
            elements: 1 << 20,
            behind: behind.iter().map(|(rank, sequence)| Behind { rank: *rank, sequence: *sequence }).collect(),
            since,
        }
    }

    fn lines(stalls: &[(u32, Stall)]) -> Vec<String> {
        explain(&stalls.iter().cloned().collect(), &BTreeMap::new(), NOW, &|rank| format!("w{}", rank + 1))
    }

    #[test]
    fn the_rank_that_says_nothing_is_behind() {
        let all = [(0, stall(&[(2, 411)], 100.0)), (1, stall(&[(2, 411)], 100.4)), (3, stall(&[(2, 411)], 101.0))];
        let expected = "rank 2 on worker w3 is behind: 3 others wait in all_reduce #412 (f32, 1,048,576) since 31.4 s; \
                        it was last in #411";
        assert_eq!(lines(&all), [expected]);
        assert!(lines(&all[..1])[0].contains("behind: rank 0 waits in"));
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn its_threads_are_shown_as_they_were_since() {
        let stack = |time| {
            let line = format!(r#"{{"kind":"stack","text":"process 7 sh","silent":40,"time":{time}}}"#);
            BTreeMap::from([(2, super::super::stacks::last(line.as_bytes()).unwrap())])
        };
        let stalls = [(0, stall(&[(2, 411)], 100.0))].into();
        let told = |time| explain(&stalls, &stack(time), NOW, &|rank| format!("w{rank}")).remove(0);
        assert!(told(120.0).ends_with("in #411; its threads when it had said nothing for 40.0 s:\nprocess 7 sh"));
        assert!(told(99.0).ends_with("it was last in #411"));
    }

    #[test]
    fn who_waits_itself_is_not_to_blame() {
        // Along a chain each waits for the one before it.
        let chain = [(0, stall(&[(3, 412)], 100.0)), (3, stall(&[(2, 411)], 100.0))];
        assert!(lines(&chain).iter().all(|line| line.starts_with("rank 2 ")), "{:?}", lines(&chain));
        // All wait in a circle: then all are named.
        let circle = [(0, stall(&[(1, 412)], 100.0)), (1, stall(&[(0, 412)], 100.0))];
        assert_eq!(lines(&circle).len(), 2);
        assert!(lines(&circle)[0].ends_with("it came, but does not go on"));
    }

    #[test]
    fn the_last_line_decides_whether_a_rank_waits() {
        let waits = r#"{"kind":"stall","collective":"all_reduce","sequence":412,"dtype":"f32","elements":1048576,"behind":[{"rank":2,"sequence":411}],"since":100.0}"#;
        let goes_on = r#"{"kind":"stall","collective":"barrier","sequence":412,"dtype":null,"elements":0,"behind":[],"since":100.0}"#;
        let point = r#"{"name":"loss","value":0.5}"#;
        let tail = |parts: &[&str]| parts.join("\n").into_bytes();
        assert_eq!(last(&tail(&[point, "cut\"}", waits, ""])), Some(stall(&[(2, 411)], 100.0)));
        assert_eq!(last(&tail(&[waits, goes_on, point, ""])), None);
        assert_eq!(last(&tail(&[goes_on, waits, point])), Some(stall(&[(2, 411)], 100.0)));
        assert_eq!(last(b""), None);
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
