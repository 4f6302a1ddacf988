//! What is known of how long a gang will run, and what it keeps of it, in few bytes: there are 100,000 of them.

use crate::model::{Checkpoint, RunTime};
use types::Millis;

/// A span that may not be known. `Option<Millis>` takes twice as much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(u64);

impl Span {
    const UNKNOWN: u64 = u64::MAX;

    pub fn get(self) -> Option<Millis> {
        (self.0 != Self::UNKNOWN).then_some(Millis(self.0))
    }
}

impl From<Option<Millis>> for Span {
    /// The longest span there is counts as one millisecond less.
    fn from(span: Option<Millis>) -> Self {
        Self(span.map_or(Self::UNKNOWN, |span| span.0.min(Self::UNKNOWN - 1)))
    }
}

/// `RunTime`, small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub estimate: Span,
    pub limit: Span,
    /// The truth, for oracles.
    pub actual: Span,
}

impl From<RunTime> for Run {
    fn from(run: RunTime) -> Self {
        Self { estimate: run.estimate.into(), limit: run.limit.into(), actual: run.actual.into() }
    }
}

/// `Option<Checkpoint>`, small. To save or to restore takes at most 49 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Saves {
    /// Not known: it saves nothing.
    interval: Span,
    save: u32,
    restore: u32,
}

impl Saves {
    pub fn get(self) -> Option<Checkpoint> {
        let interval = self.interval.get()?;
        Some(Checkpoint { interval, save: Millis(self.save.into()), restore: Millis(self.restore.into()) })
    }
}

impl From<Option<Checkpoint>> for Saves {
    fn from(checkpoint: Option<Checkpoint>) -> Self {
        let small = |span: Option<Millis>| span.map_or(0, |span| u32::try_from(span.0).unwrap_or(u32::MAX));
        Self {
            interval: checkpoint.map(|checkpoint| checkpoint.interval).into(),
            save: small(checkpoint.map(|checkpoint| checkpoint.save)),
            restore: small(checkpoint.map(|checkpoint| checkpoint.restore)),
        }
    }
}

/// How long a gang will run, as far as that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Guess {
    pub whole: Span,
    pub limit: Span,
    pub remaining: Span,
    pub done: Millis,
}

impl Guess {
    /// What it will need about when it has run for so long in this attempt.
    pub fn after(&self, ran: Millis, default: Millis) -> Millis {
        let known = self.remaining.get().map(|left| Millis(left.0.saturating_sub(ran.0).max(left.0 / 2)));
        let whole = self.whole.get().unwrap_or(default);
        let left = known.unwrap_or_else(|| rest_of(whole, Millis(self.done.0.saturating_add(ran.0))));
        self.limit.get().map_or(left, |limit| left.min(limit))
    }
}

/// What is left of a job that was guessed to run for `whole` and has run for `done`.
///
/// A guess that is off by a factor of two one way or the other (a logarithm with deviation 0.7) leaves about the same work
/// however much is done: never less than half the guess, and of a job that ran far beyond it a quarter of what it ran. These
/// are the least of the Gittins index over that distribution, rounded (Aalto, Ayesta, Righter, QUESTA'09).
pub(crate) fn rest_of(whole: Millis, done: Millis) -> Millis {
    Millis(whole.0.saturating_sub(done.0).max(whole.0 / 2).max(done.0 / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_small_comes_back_as_it_was() {
        for span in [None, Some(Millis(0)), Some(Millis(u64::MAX - 1))] {
            assert_eq!(Span::from(span).get(), span);
        }
        let checkpoint = Checkpoint { interval: Millis(0), save: Millis(10_000), restore: Millis(60_000) };
        for checkpoint in [None, Some(checkpoint), Some(Checkpoint { interval: Millis(1 << 40), ..checkpoint })] {
            assert_eq!(Saves::from(checkpoint).get(), checkpoint);
        }
    }
}
