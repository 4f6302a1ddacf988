//! How long a rank has said nothing on any of its streams, and what is due because of it. No clock of its own: boot times
//! come in.
//!
//! A rank that hangs is silent; one that is silent need not hang. So a look at its threads costs it nothing, and only what
//! its job has set ends it.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A look is repeated after as long as the one before it, and then after this part of the whole silence: the last one is
/// never much older than the silence, and a day of it costs some dozens of looks.
const PART: u32 = 8;

/// After how much silence something is done, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SilenceLimits {
    /// The rank's threads are looked at; 0 = never.
    pub(crate) look_ms: u64,
    /// The rank is ended; 0 = never.
    pub(crate) end_ms: u64,
}

/// What a silence asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Look,
    End,
}

pub(super) struct Silence {
    look: Option<Duration>,
    end: Option<Duration>,
    since: Duration,
    next_look: Option<Duration>,
}

impl Silence {
    pub(super) fn new(limits: SilenceLimits, now: Duration) -> Self {
        let limit = |ms| (ms > 0).then(|| Duration::from_millis(ms));
        let mut silence = Self { look: limit(limits.look_ms), end: limit(limits.end_ms), since: now, next_look: None };
        silence.heard(now);
        silence
    }

    /// Some bytes came.
    pub(super) fn heard(&mut self, now: Duration) {
        self.since = now;
        self.next_look = self.look.map(|look| now + look);
    }

    /// For how long nothing came.
    pub(super) fn lasts(&self, now: Duration) -> Duration {
        now.saturating_sub(self.since)
    }

    /// So long that the rank may hang.
    pub(super) fn is_long(&self, now: Duration) -> bool {
        self.look.is_some_and(|look| self.lasts(now) >= look)
    }

    /// When something is due, if the rank says nothing until then.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let end = self.end.map(|end| self.since + end);
        self.next_look.into_iter().chain(end).min()
    }

    /// What is due now, once.
    pub(super) fn take(&mut self, now: Duration) -> Option<Due> {
        if self.end.is_some_and(|end| self.lasts(now) >= end) {
            (self.end, self.next_look) = (None, None);
            return Some(Due::End);
        }
        if self.next_look.is_none_or(|next| now < next) {
            return None;
        }
        self.next_look = self.look.map(|look| now + look.max(self.lasts(now) / PART));
        Some(Due::Look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// What is due in each of so many seconds of silence from 100 s on.
    fn due(look_ms: u64, end_ms: u64, seconds: u64) -> Vec<(u64, Due)> {
        let mut silence = Silence::new(SilenceLimits { look_ms, end_ms }, s(100));
        (0..=seconds).filter_map(|second| Some((second, silence.take(s(100 + second))?))).collect()
    }

    #[test]
    fn looks_become_rarer_as_the_silence_lasts() {
        let at: Vec<u64> = due(30_000, 0, 86_400).into_iter().map(|(second, _)| second).collect();
        assert_eq!(at[..9], [30, 60, 90, 120, 150, 180, 210, 240, 270]);
        assert!(at.len() < 64, "{}", at.len());
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= 30.max(pair[0] / 8 + 1)), "{at:?}");
    }

    #[test]
    fn the_end_comes_once_and_no_look_after_it() {
        assert_eq!(due(10_000, 25_000, 100), [(10, Due::Look), (20, Due::Look), (25, Due::End)]);
        assert_eq!(due(0, 25_000, 100), [(25, Due::End)]);
        assert_eq!(due(0, 0, 100), []);
        assert_eq!(Silence::new(SilenceLimits::default(), s(1)).deadline(), None);
    }

    #[test]
    fn a_byte_begins_it_anew() {
        let mut silence = Silence::new(SilenceLimits { look_ms: 10_000, end_ms: 25_000 }, s(100));
        assert_eq!((silence.deadline(), silence.is_long(s(109))), (Some(s(110)), false));
        assert_eq!((silence.take(s(110)), silence.is_long(s(110))), (Some(Due::Look), true));
        silence.heard(s(112));
        assert_eq!((silence.deadline(), silence.take(s(121))), (Some(s(122)), None));
        assert_eq!(silence.lasts(s(121)), s(9));
        assert_eq!(silence.take(s(137)), Some(Due::End));
    }
}
