//! Which ranks of a running gang are slower than the rest: by what each says of its steps (`step_time`, `wait_share`), so no
//! byte is sent for it.
//!
//! A step takes as long on every rank, for all wait for the last one. What tells a straggler is what is left of a step without
//! its waiting: it computes longer than the others, and they wait for it. Ranks are compared over the same steps, so their
//! clocks do not matter.
//!
//! ```text
//! reports of all ranks, by step    5  10  15  20  25  30  35  40  45  50  55  60
//! windows, cut from the newest on  |---- fourth ---|- third -|-- second --|- newest -|
//! ```
//!
//! Promises: nobody is named for a single slow window (four in a row, the newest one among them), nor for a part of a step
//! that the others hardly feel.

use super::stalls::Worker;
use proto::v1;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use types::{Millis, Timestamp};

/// Shortest window: on busy processors a rank is slow by chance for a second, not for this long and four times.
const WINDOW_S: f64 = 5.0;
/// Slow windows in a row after which a rank is named.
const WINDOWS_MIN: usize = 4;
/// How much longer than the median of the others a straggler computes.
const SLOWER_MIN: f64 = 1.2;
/// The least share of a step that the difference is.
const SHARE_MIN: f64 = 0.1;

/// What a rank said of its steps since its report before: means, in seconds and as a share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pace {
    pub(super) step_time: f64,
    pub(super) wait_share: f64,
}

impl Pace {
    fn busy(&self) -> f64 {
        self.step_time * (1.0 - self.wait_share)
    }
}

/// The reports in a stream's end, by step.
pub(super) fn paces(tail: &[u8]) -> BTreeMap<u64, Pace> {
    #[derive(Deserialize)]
    struct Line<'a> {
        name: &'a str,
        value: f64,
        step: f64,
    }
    let mut halves: BTreeMap<u64, (Option<f64>, Option<f64>)> = BTreeMap::new();
    // Most lines are neither, and a look is much cheaper than to read them.
    let is_either = |line: &&[u8]| [&b"step_time"[..], b"wait_share"].iter().any(|name| contains(line, name));
    for line in tail.split(|byte| *byte == b'\n').filter(is_either) {
        let Ok(Line { name, value, step }) = serde_json::from_slice(line) else { continue };
        let step = step as u64; // whole in the programs that count
        match name {
            "step_time" if value > 0.0 => halves.entry(step).or_default().0 = Some(value),
            "wait_share" if (0.0..=1.0).contains(&value) => halves.entry(step).or_default().1 = Some(value),
            _ => {}
        }
    }
    let whole = |(step, (time, share)): (u64, (Option<f64>, Option<f64>))| {
        Some((step, Pace { step_time: time?, wait_share: share? }))
    };
    halves.into_iter().filter_map(whole).collect()
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}

/// Some steps in a row: of each rank the seconds that it computed and that it waited.
#[derive(Debug)]
struct Window {
    steps: f64,
    ranks: BTreeMap<u32, Spent>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    busy: f64,
    waited: f64,
}

impl Window {
    /// How long it lasted, as its ranks say in the mean.
    fn seconds(&self) -> f64 {
        let all: f64 = self.ranks.values().map(|spent| spent.busy + spent.waited).sum();
        all / self.ranks.len().max(1) as f64
    }

    fn median_of_others(&self, rank: u32) -> f64 {
        let mut others: Vec<f64> =
            self.ranks.iter().filter(|(other, _)| **other != rank).map(|(_, spent)| spent.busy).collect();
        others.sort_by(f64::total_cmp);
        let upper = others.len() / 2;
        match others.len() {
            0 => 0.0,
            odd if odd % 2 == 1 => others[upper],
            _ => f64::midpoint(others[upper - 1], others[upper]),
        }
    }

    fn is_slow(&self, rank: u32) -> bool {
        let (busy, median) = (self.ranks[&rank].busy, self.median_of_others(rank));
        busy > median * SLOWER_MIN && busy - median > self.seconds() * SHARE_MIN
    }
}

/// Over the steps that every rank reported, newest first. What is left at the old end is too short to judge by.
fn windows(ranks: &BTreeMap<u32, BTreeMap<u64, Pace>>) -> Vec<Window> {
    let mut steps: BTreeSet<u64> = ranks.values().next().into_iter().flat_map(|paces| paces.keys().copied()).collect();
    steps.retain(|step| ranks.values().all(|paces| paces.contains_key(step)));
    let steps: Vec<u64> = steps.into_iter().collect();
    let mut windows = Vec::new();
    let mut window = Window { steps: 0.0, ranks: BTreeMap::new() };
    for pair in steps.windows(2).rev() {
        let count = (pair[1] - pair[0]) as f64;
        window.steps += count;
        for (rank, paces) in ranks {
            let (pace, spent) = (paces[&pair[1]], window.ranks.entry(*rank).or_default());
            spent.busy += count * pace.busy();
            spent.waited += count * (pace.step_time - pace.busy());
        }
        if window.seconds() >= WINDOW_S {
            windows.push(std::mem::replace(&mut window, Window { steps: 0.0, ranks: BTreeMap::new() }));
        }
    }
    windows
}

/// Those that are slow now and have been for several windows, the slowest first. Nobody while a rank's reports are missing.
pub(super) fn find(
    ranks: &BTreeMap<u32, BTreeMap<u64, Pace>>,
    now: Timestamp,
    worker: Worker<'_>,
) -> Vec<v1::Straggler> {
    if ranks.len() < 2 {
        return Vec::new();
    }
    let windows = windows(ranks);
    let mut found: Vec<v1::Straggler> = ranks
        .keys()
        .filter_map(|rank| {
            let slow = windows.iter().take_while(|window| window.is_slow(*rank)).count();
            (slow >= WINDOWS_MIN).then(|| straggler(*rank, &windows[..slow], now, worker))
        })
        .collect();
    found.sort_by(|a, b| b.compute_ms.total_cmp(&a.compute_ms));
    found
}

fn straggler(rank: u32, slow: &[Window], now: Timestamp, worker: Worker<'_>) -> v1::Straggler {
    let steps: f64 = slow.iter().map(|window| window.steps).sum();
    let seconds: f64 = slow.iter().map(Window::seconds).sum();
    let per_step = |of: &dyn Fn(&Window) -> f64| slow.iter().map(of).sum::<f64>() * 1_000.0 / steps;
    let waited = |other: &u32| slow.iter().map(|window| window.ranks[other].waited).sum::<f64>();
    let others = slow[0].ranks.keys().filter(|other| **other != rank);
    v1::Straggler {
        rank,
        worker: worker(rank),
        compute_ms: per_step(&|window| window.ranks[&rank].busy),
        others_compute_ms: per_step(&|window| window.median_of_others(rank)),
        all_wait_share: others.map(waited).fold(f64::INFINITY, f64::min) / seconds,
        since_ms: now.0.saturating_sub((seconds * 1_000.0) as u64),
    }
}

/// For people.
pub(super) fn line(straggler: &v1::Straggler, now: Timestamp) -> String {
    let v1::Straggler { rank, worker, compute_ms, others_compute_ms, all_wait_share, since_ms } = straggler;
    let mut line =
        format!("rank {rank} on worker {worker} is slower than the rest: it computes {compute_ms:.1} ms a step");
    let _ = write!(line, ", the others {others_compute_ms:.1} ms in the median");
    if *all_wait_share >= 0.01 {
        let _ = write!(line, "; all of them wait for {:.0} % of the time", all_wait_share * 100.0);
    }
    let _ = write!(line, "; seen for {}", Millis(now.0.saturating_sub(*since_ms)));
    line
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    /// A gang whose steps last as long as its slowest rank computes; `busy(rank, report)` in seconds, a report each 10 steps.
    fn gang(world: u32, reports: u64, busy: impl Fn(u32, u64) -> f64) -> BTreeMap<u32, BTreeMap<u64, Pace>> {
        let step_time = |report| (0..world).map(|rank| busy(rank, report)).fold(0.0, f64::max) + 0.01;
        let pace = |rank, report| Pace {
            step_time: step_time(report),
            wait_share: 1.0 - busy(rank, report) / step_time(report),
        };
        (0..world).map(|rank| (rank, (1..=reports).map(|report| (report * 10, pace(rank, report))).collect())).collect()
    }

    fn found(ranks: &BTreeMap<u32, BTreeMap<u64, Pace>>) -> Vec<v1::Straggler> {
        find(ranks, NOW, &|rank| format!("w{}", rank + 1))
    }

    #[test]
    fn a_rank_that_computes_longer_is_named_with_what_it_costs() {
        // Steps of 0.2 s, a window each 3 reports.
        let all = found(&gang(4, 31, |rank, _| if rank == 2 { 0.19 } else { 0.04 }));
        assert_eq!(all.len(), 1);
        let expected = "rank 2 on worker w3 is slower than the rest: it computes 190.0 ms a step, the others 40.0 ms in the median; \
                        all of them wait for 80 % of the time; seen for 1 min 0 s";
        assert_eq!(line(&all[0], NOW), expected);
    }

    #[test]
    fn of_two_ranks_the_slower_is_compared_with_the_other() {
        let all = found(&gang(2, 31, |rank, _| if rank == 0 { 0.19 } else { 0.1 }));
        assert_eq!(all.iter().map(|straggler| straggler.rank).collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn several_may_be_slow_at_once() {
        let all = found(&gang(6, 31, |rank, _| [0.1, 0.1, 0.16, 0.1, 0.2, 0.1][rank as usize]));
        assert_eq!(all.iter().map(|straggler| straggler.rank).collect::<Vec<_>>(), [4, 2]);
    }

    #[test]
    fn a_rank_that_recovers_is_not_named_any_more() {
        let slow_until = |last| gang(4, 31, move |rank, report| if rank == 2 && report <= last { 0.19 } else { 0.1 });
        assert_eq!(found(&slow_until(31)).len(), 1);
        // One window later.
        assert!(found(&slow_until(26)).is_empty());
    }

    #[test]
    fn one_slow_window_or_a_small_difference_is_no_straggler() {
        let slow_since = |first| gang(4, 31, move |rank, report| if rank == 2 && report >= first { 0.19 } else { 0.1 });
        assert!(found(&slow_since(23)).is_empty());
        assert_eq!(found(&slow_since(1)).len(), 1);
        assert!(found(&gang(4, 31, |rank, _| if rank == 2 { 0.11 } else { 0.1 })).is_empty());
        // Twice as long, but of a step that is something else.
        let mut mostly_waiting = gang(4, 31, |rank, _| if rank == 2 { 0.01 } else { 0.005 });
        for pace in mostly_waiting.values_mut().flat_map(|paces| paces.values_mut()) {
            *pace = Pace { step_time: 0.2, wait_share: 1.0 - pace.busy() / 0.2 };
        }
        assert!(found(&mostly_waiting).is_empty());
    }

    #[test]
    fn without_reports_of_all_ranks_nobody_is_named() {
        let mut ranks = gang(4, 31, |rank, _| if rank == 2 { 0.19 } else { 0.1 });
        ranks.insert(3, BTreeMap::new());
        assert!(found(&ranks).is_empty());
        assert!(found(&BTreeMap::new()).is_empty());
    }

    #[test]
    fn reports_are_read_out_of_a_stream_that_holds_more() {
        let tail = concat!(
            "me\",\"value\":1,\"step\":5}\n",
            r#"{"name":"step_time","value":0.2,"step":10,"time":1.5}"#,
            "\n",
            r#"{"name":"loss","value":0.1,"step":10,"time":1.5}"#,
            "\n",
            r#"{"kind":"stall","collective":"barrier","sequence":412}"#,
            "\n",
            r#"{"name":"wait_share","value":0.5,"step":10.0,"time":1.5}"#,
            "\n",
            r#"{"name":"step_time","value":0.2,"step":20,"time":1.5}"#,
            "\n",
            r#"{"name":"wait_share","value":1.5,"step":20,"time":1.5}"#,
        );
        assert_eq!(paces(tail.as_bytes()), [(10, Pace { step_time: 0.2, wait_share: 0.5 })].into());
    }

    proptest! {
        /// Each report of each rank up to 15 % off, each by itself: no two cores are that noisy over a whole window.
        #[test]
        fn a_noisy_gang_names_nobody(noise in proptest::collection::vec(0.85..1.15_f64, 4 * 40)) {
            let ranks = gang(4, 40, |rank, report| 0.2 * noise[rank as usize * 40 + report as usize - 1]);
            prop_assert!(found(&ranks).is_empty());
        }
    }
}
