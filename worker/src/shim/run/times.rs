//! When a rank's streams had how many bytes, for readers who ask by time: an entry where it fell silent and one where it spoke again,
//! and one every few seconds while it speaks. So what comes in bursts is told apart to the moment, and what comes without pause to
//! within [`EVERY`]. A rank that ends within that time has no such stream, and costs nothing.

use super::Shim;
use daemon::clock::boot_time;
use std::time::Duration;
use stores::spool::SpoolWriter;
use types::{StreamKind, StreamTime, Timestamp};

/// Between two entries while a rank speaks, and of silence after which one is made: 32 bytes each, so half a megabyte a day of a
/// rank that prints without pause.
const EVERY: Duration = Duration::from_secs(5);

pub(super) struct Times {
    /// From this boot time on, what comes is preceded by an entry.
    due: Duration,
    /// When something came last, if no entry says so: by the boot clock and by the wall's.
    came: Option<(Duration, Timestamp)>,
    last: Timestamp,
}

impl Times {
    /// Of a rank that starts now.
    pub(super) fn new(now: Duration) -> Self {
        Self { due: now + EVERY, came: None, last: Timestamp(0) }
    }

    /// When silence is to be noted, if nothing comes until then.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.came.map(|(at, _)| at + EVERY)
    }

    /// A silence that is to be noted now: since when.
    fn silent_since(&mut self, now: Duration) -> Option<Timestamp> {
        let (_, since) = self.came.take_if(|(at, _)| *at + EVERY <= now)?;
        self.due = now;
        Some(since)
    }

    /// Something came at `now`: whether an entry is to say that what was there before came before.
    fn came(&mut self, now: Duration, time: Timestamp) -> bool {
        self.came = Some((now, time));
        let is_due = now >= self.due;
        if is_due {
            self.due = now + EVERY;
        }
        is_due
    }

    /// A clock that was set back must not bring entries out of order.
    fn in_order(&mut self, time: Timestamp) -> Timestamp {
        self.last = self.last.max(time);
        self.last
    }
}

impl Shim<'_> {
    /// Takes all that came, and notes the time where it is to be noted.
    pub(super) fn take_what_came(&mut self) {
        let now = boot_time();
        let before = lengths(&self.spool);
        if let Some(since) = self.times.silent_since(now) {
            self.note(since, before);
        }
        self.pump();
        self.mind_events();
        self.mind_otlp();
        if before != lengths(&self.spool) {
            let time = daemon::clock::now();
            if self.times.came(now, time) {
                self.note(time, before);
            }
        }
    }

    /// Without room there is an entry less: the next one says as much of what came before it.
    fn note(&mut self, time: Timestamp, lengths: [u64; 3]) {
        let entry = StreamTime { time: self.times.in_order(time), lengths };
        if self.spool.room(StreamKind::Times).is_ok_and(|room| room >= StreamTime::BYTES as u64)
            && let Err(error) = self.spool.append(StreamKind::Times, &entry.encode())
        {
            crate::shim::say(format_args!("the time of what its rank wrote cannot be noted: {error}"));
        }
    }
}

fn lengths(spool: &SpoolWriter) -> [u64; 3] {
    StreamKind::OF_RANK.map(|kind| spool.length(kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// The entries of a rank that starts at 100 s and says something at these milliseconds after that: when each was made, and of when.
    fn entries(said: &[u64], until: u64) -> Vec<(u64, u64)> {
        let (start, mut times, mut all) = (ms(100_000), Times::new(ms(100_000)), Vec::new());
        for at in (0..=until).step_by(100) {
            let now = start + ms(at);
            if let Some(since) = times.silent_since(now) {
                all.push((at, times.in_order(since).0));
            }
            if said.contains(&at) && times.came(now, Timestamp(at)) {
                all.push((at, times.in_order(Timestamp(at)).0));
            }
        }
        all
    }

    #[test]
    fn bursts_have_an_entry_at_each_end() {
        assert_eq!(entries(&[100, 300, 20_000, 20_200], 40_000), [(5_300, 300), (20_000, 20_000), (25_200, 20_200)]);
        assert_eq!(entries(&[9_000], 20_000), [(9_000, 9_000), (14_000, 9_000)]);
    }

    #[test]
    fn without_pause_there_is_one_every_few_seconds_and_of_a_short_life_none() {
        let always: Vec<u64> = (0..=20_000).step_by(100).collect();
        assert_eq!(entries(&always, 20_000), [5_000, 10_000, 15_000, 20_000].map(|at| (at, at)));
        assert_eq!(entries(&[0, 100, 4_900], 4_900), []);
        assert_eq!(entries(&[], 60_000), []);
    }

    #[test]
    fn a_clock_that_is_set_back_brings_no_entry_out_of_order() {
        let mut times = Times::new(ms(0));
        assert_eq!([5, 3, 9].map(|time| times.in_order(Timestamp(time)).0), [5, 5, 9]);
    }
}
