//! The learning rate of a step: a pure function of the step's number.

use crate::config::{Schedule, ScheduleKind};

/// What the rate depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rates {
    pub(crate) schedule: Schedule,
    /// The optimizer's full rate.
    pub(crate) full: f64,
    /// Steps of the whole training.
    pub(crate) steps_total: u64,
    /// Steps of one epoch.
    pub(crate) steps_per_epoch: u64,
}

impl Rates {
    /// The rate of step `step`, from 0.
    pub(crate) fn at(&self, step: u64) -> f64 {
        let warmup = self.schedule.warmup_steps;
        if step < warmup {
            return self.full * (step + 1) as f64 / warmup as f64;
        }
        match self.schedule.kind {
            ScheduleKind::Constant => self.full,
            ScheduleKind::Linear { minimum } => self.full * (minimum + (1.0 - minimum) * (1.0 - self.gone(step))),
            ScheduleKind::Cosine { minimum } => {
                let height = 0.5 * (1.0 + (std::f64::consts::PI * self.gone(step)).cos());
                self.full * (minimum + (1.0 - minimum) * height)
            }
            ScheduleKind::Step { every_epochs, factor } => {
                let stairs = step / self.steps_per_epoch.max(1) / every_epochs;
                self.full * factor.powi(i32::try_from(stairs).unwrap_or(i32::MAX))
            }
        }
    }

    /// Share of the way from the end of the warm-up to the end of the training.
    fn gone(&self, step: u64) -> f64 {
        let warmup = self.schedule.warmup_steps;
        let span = self.steps_total.saturating_sub(warmup).max(1);
        (step.saturating_sub(warmup) as f64 / span as f64).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(kind: ScheduleKind, warmup_steps: u64) -> Rates {
        Rates { schedule: Schedule { kind, warmup_steps }, full: 0.8, steps_total: 104, steps_per_epoch: 10 }
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-12
    }

    #[test]
    fn the_warm_up_is_even_and_ends_at_the_full_rate() {
        let rates = rates(ScheduleKind::Constant, 4);
        for (step, rate) in [(0, 0.2), (1, 0.4), (2, 0.6), (3, 0.8), (4, 0.8), (1_000, 0.8)] {
            assert!(near(rates.at(step), rate), "{step}");
        }
    }

    #[test]
    fn the_cosine_falls_from_full_to_minimum() {
        let rates = rates(ScheduleKind::Cosine { minimum: 0.25 }, 4);
        for (step, rate) in [(4, 0.8), (54, 0.5), (104, 0.2), (200, 0.2)] {
            assert!(near(rates.at(step), rate), "{step}: {}", rates.at(step));
        }
        assert!((4..104).all(|step| rates.at(step) > rates.at(step + 1)));
    }

    #[test]
    fn the_line_is_straight() {
        let rates = rates(ScheduleKind::Linear { minimum: 0.5 }, 4);
        for (step, rate) in [(4, 0.8), (29, 0.7), (54, 0.6), (104, 0.4), (200, 0.4)] {
            assert!(near(rates.at(step), rate), "{step}: {}", rates.at(step));
        }
    }

    #[test]
    fn stairs_fall_at_epochs() {
        let rates = rates(ScheduleKind::Step { every_epochs: 2, factor: 0.5 }, 0);
        for (step, rate) in [(0, 0.8), (19, 0.8), (20, 0.4), (39, 0.4), (40, 0.2)] {
            assert!(near(rates.at(step), rate), "{step}");
        }
    }

    #[test]
    fn a_warm_up_longer_than_the_training_is_no_fault() {
        let rates = rates(ScheduleKind::Cosine { minimum: 0.0 }, 500);
        assert!(rates.at(103) > 0.0 && rates.at(499) <= 0.8 && rates.at(500).is_finite());
    }
}
