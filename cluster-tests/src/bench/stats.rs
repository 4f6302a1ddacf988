//! Medians and the like of measured times.

use std::time::Duration;

/// Times that were measured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    sorted: Vec<Duration>,
}

impl Times {
    /// Of these, in any order.
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sorted: times }
    }

    /// The least time that is not passed by so many per mille of all; nearest rank.
    pub(crate) fn per_mille(&self, share: usize) -> Duration {
        let rank = (self.sorted.len() * share).div_ceil(1_000).max(1);
        self.sorted.get(rank - 1).copied().unwrap_or_default()
    }

    /// Half of them are not longer.
    pub(crate) fn median(&self) -> Duration {
        self.per_mille(500)
    }

    /// The least.
    pub(crate) fn min(&self) -> Duration {
        self.sorted.first().copied().unwrap_or_default()
    }

    /// The greatest.
    pub(crate) fn max(&self) -> Duration {
        self.sorted.last().copied().unwrap_or_default()
    }
}

/// Milliseconds with as many digits as mean something.
pub(crate) fn ms(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1_000.0;
    if ms < 10.0 { format!("{ms:.2}") } else { format!("{ms:.0}") }
}

/// The middle one of some rates.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

/// A whole number with thousands apart.
pub(crate) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_nearest_ranks() {
        let times = Times::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(times.median(), Duration::from_millis(50));
        assert_eq!(times.per_mille(990), Duration::from_millis(99));
        assert_eq!((times.min(), times.max()), (Duration::from_millis(1), Duration::from_millis(100)));
        assert_eq!(Times::default().median(), Duration::ZERO);
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!((thousands(1_234_567.0), thousands(999.4)), ("1,234,567".to_owned(), "999".to_owned()));
        assert_eq!((ms(Duration::from_micros(1_234)), ms(Duration::from_millis(56))), ("1.23".into(), "56".into()));
    }
}
