//! How summed gradients move parameters: SGD with momentum, Adam and AdamW, in plain `f32` loops whose order never changes.
//!
//! Every value is updated by itself, so an optimizer that holds the memory of some of the values only (ZeRO stage 1:
//! Rajbhandari et al., 2020) moves them by the same bits as one that holds all.

use std::ops::Range;

use crate::config;

/// Squares are summed in blocks of this size, so that the gradient's length does not depend on who holds which blocks.
pub(crate) const BLOCK: usize = 1024;

/// State of the optimizer over the values that this rank updates.
#[derive(Clone, Debug)]
pub(crate) struct Optimizer {
    rule: config::Optimizer,
    /// Updates made so far.
    pub(crate) updates: u64,
    /// What is remembered of each value.
    pub(crate) slots: Vec<Slot>,
    /// Which of all values it holds, in order.
    owned: Vec<Range<usize>>,
}

/// One memory.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// `momentum`, `mean`, `square`, or one that was added.
    pub(crate) name: &'static str,
    /// Of all owned ranges, one after another.
    pub(crate) values: Vec<f32>,
}

impl Optimizer {
    /// Fresh, for these of all values.
    pub(crate) fn new(rule: config::Optimizer, owned: Vec<Range<usize>>) -> Self {
        let names: &[&'static str] = match rule {
            config::Optimizer::Sgd { .. } => &["momentum"],
            config::Optimizer::Adam { .. } | config::Optimizer::AdamW { .. } => &["mean", "square"],
        };
        let length = owned.iter().map(ExactSizeIterator::len).sum();
        let slots = names.iter().map(|name| Slot { name, values: vec![0.0; length] }).collect();
        Optimizer { rule, updates: 0, slots, owned }
    }

    /// A fresh one of the same rule, for these of all values.
    pub(crate) fn for_all(&self, owned: &[Range<usize>]) -> Self {
        Self::new(self.rule, owned.to_vec())
    }

    /// With a memory more, of which [`Optimizer::update`] knows nothing.
    pub(crate) fn and(mut self, name: &'static str) -> Self {
        let length = self.owned.iter().map(ExactSizeIterator::len).sum();
        self.slots.push(Slot { name, values: vec![0.0; length] });
        self
    }

    /// Which of all values it holds.
    pub(crate) fn owned(&self) -> &[Range<usize>] {
        &self.owned
    }

    /// One update of the owned ones among all values. `gradients` has those of each owned range, which count `factor` times.
    /// All ranks pass the same, so all end with the same values.
    pub(crate) fn update<'a>(
        &mut self,
        values: &mut [f32],
        gradients: impl Iterator<Item = &'a [f32]>,
        factor: f32,
        rate: f32,
    ) {
        self.updates += 1;
        let rule = Rule::new(self.rule, self.updates, rate, factor);
        let mut start = 0;
        for (range, gradient) in self.owned.iter().zip(gradients) {
            let place = start..start + range.len();
            start = place.end;
            let values = &mut values[range.clone()];
            let sgd = matches!(self.rule, config::Optimizer::Sgd { .. });
            match self.slots.as_mut_slice() {
                [momentum, ..] if sgd => rule.with_momentum(values, gradient, &mut momentum.values[place]),
                [mean, square, ..] => {
                    rule.with_moments(values, gradient, &mut mean.values[place.clone()], &mut square.values[place]);
                }
                _ => debug_assert!(false, "an optimizer has the slots of its rule"),
            }
        }
    }
}

/// The constants of one update.
#[derive(Clone, Copy)]
struct Rule {
    factor: f32,
    rate: f32,
    /// Added to the gradient, times the value.
    decay: f32,
    /// What is left of a value before the update.
    keep: f32,
    /// Share of the first memory that stays.
    first: f32,
    second: f32,
    epsilon: f32,
    mean_correction: f32,
    square_correction: f32,
}

impl Rule {
    fn new(rule: config::Optimizer, updates: u64, rate: f32, factor: f32) -> Self {
        let power = i32::try_from(updates).unwrap_or(i32::MAX);
        let correction = |beta: f64| (1.0 / (1.0 - beta.powi(power))) as f32;
        let plain = Rule {
            factor,
            rate,
            decay: 0.0,
            keep: 1.0,
            first: 0.0,
            second: 0.0,
            epsilon: 0.0,
            mean_correction: 1.0,
            square_correction: 1.0,
        };
        match rule {
            config::Optimizer::Sgd { momentum, weight_decay, .. } => {
                Rule { first: momentum as f32, decay: weight_decay as f32, ..plain }
            }
            config::Optimizer::Adam { beta1, beta2, epsilon, weight_decay, .. }
            | config::Optimizer::AdamW { beta1, beta2, epsilon, weight_decay, .. } => {
                let decoupled = matches!(rule, config::Optimizer::AdamW { .. });
                Rule {
                    decay: if decoupled { 0.0 } else { weight_decay as f32 },
                    keep: if decoupled { (1.0 - f64::from(rate) * weight_decay) as f32 } else { 1.0 },
                    first: beta1 as f32,
                    second: beta2 as f32,
                    epsilon: epsilon as f32,
                    mean_correction: correction(beta1),
                    square_correction: correction(beta2),
                    ..plain
                }
            }
        }
    }

    /// SGD with momentum, as PyTorch has it: the rate is outside the memory.
    fn with_momentum(self, values: &mut [f32], gradient: &[f32], momentum: &mut [f32]) {
        for ((p, g), m) in values.iter_mut().zip(gradient).zip(momentum) {
            *m = self.first * *m + (self.factor * g + self.decay * *p);
            *p -= self.rate * *m;
        }
    }

    /// Adam (Kingma and Ba, 2015) or AdamW (Loshchilov and Hutter, 2019, algorithm 2).
    fn with_moments(self, values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        adam(self, values, gradient, mean, square);
    }
}

crate::layers::math::for_any_processor! {
    fn adam(rule: Rule, values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        for (((p, g), m), s) in values.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g = rule.factor * g + rule.decay * *p;
            *m = rule.first * *m + (1.0 - rule.first) * g;
            *s = rule.second * *s + (1.0 - rule.second) * g * g;
            let step = (*m * rule.mean_correction) / ((*s * rule.square_correction).sqrt() + rule.epsilon);
            *p = *p * rule.keep - rule.rate * step;
        }
    }
}

/// What gradients of this length are to be multiplied with, so that none is longer than `bound`.
pub(crate) fn clip(length: f64, bound: f64) -> f32 {
    if length > bound { (bound / length) as f32 } else { 1.0 }
}

crate::layers::math::for_any_processor! {
    /// Sum of squares of each block of `values`, in `f64`; the last block may be shorter.
    pub(crate) fn squares(values: &[f32], sums: &mut [f64]) {
        for (block, sum) in values.chunks(BLOCK).zip(sums) {
            let mut parts = [0.0_f64; 8];
            let (wide, rest) = block.as_chunks::<8>();
            for values in wide {
                for (part, value) in parts.iter_mut().zip(values) {
                    *part += f64::from(*value) * f64::from(*value);
                }
            }
            for (part, value) in parts.iter_mut().zip(rest) {
                *part += f64::from(*value) * f64::from(*value);
            }
            *sum = parts.iter().sum();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: &[f32], expected: &[f64]) {
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{found} is not {expected}");
        }
    }

    fn update(optimizer: &mut Optimizer, values: &mut [f32], gradients: &[f32], rate: f32) {
        optimizer.update(values, [gradients].into_iter(), 1.0, rate);
    }

    #[test]
    fn sgd_equals_values_worked_out_by_hand() {
        let rule = config::Optimizer::Sgd { learning_rate: 0.1, momentum: 0.5, weight_decay: 0.2 };
        let mut optimizer = Optimizer::new(rule, [0..2].to_vec());
        let mut values = [1.0, -2.0];
        // m = 0.5*0 + (g + 0.2*p) = [0.5+0.2, 1.0-0.4]; p -= 0.1*m
        update(&mut optimizer, &mut values, &[0.5, 1.0], 0.1);
        assert_near(&optimizer.slots[0].values, &[0.7, 0.6]);
        assert_near(&values, &[0.93, -2.06]);
        // m = 0.5*[0.7, 0.6] + ([0, -1] + 0.2*[0.93, -2.06]) = [0.536, -1.112]
        update(&mut optimizer, &mut values, &[0.0, -1.0], 0.1);
        assert_near(&optimizer.slots[0].values, &[0.536, -1.112]);
        assert_near(&values, &[0.8764, -1.9488]);
    }

    #[test]
    fn adamw_equals_values_worked_out_by_hand() {
        let rule =
            config::Optimizer::AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut optimizer = Optimizer::new(rule, [0..2].to_vec());
        let mut values = [1.0, -2.0];
        // First update: corrected mean = g, corrected square = g^2, so the step is the sign; decay keeps 0.99.
        update(&mut optimizer, &mut values, &[0.5, -4.0], 0.1);
        assert_near(&optimizer.slots[0].values, &[0.05, -0.4]);
        assert_near(&optimizer.slots[1].values, &[0.0025, 0.16]);
        assert_near(&values, &[0.99 - 0.1, -1.98 + 0.1]);
        // Second: mean = [0.9*0.05 + 0.1, -0.36 + 0.2] / 0.19, square = [0.99*0.0025 + 0.01, 0.1584 + 0.04] / 0.0199
        update(&mut optimizer, &mut values, &[1.0, 2.0], 0.1);
        let step = |mean: f64, square: f64| (mean / 0.19) / (square / 0.0199).sqrt();
        let expected = [0.89 * 0.99 - 0.1 * step(0.145, 0.012_475), -1.88 * 0.99 - 0.1 * step(-0.16, 0.1984)];
        assert_near(&values, &expected);
    }

    #[test]
    fn adams_decay_goes_through_the_gradient() {
        let rule =
            config::Optimizer::Adam { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.5 };
        let mut optimizer = Optimizer::new(rule, [0..2].to_vec());
        let mut values = [1.0, -2.0];
        // g = [0.5 + 0.5, 0.5 - 1.0]
        update(&mut optimizer, &mut values, &[0.5, 0.5], 0.1);
        assert_near(&optimizer.slots[0].values, &[0.1, -0.05]);
        assert_near(&values, &[0.9, -1.9]);
    }

    #[test]
    fn a_shard_moves_its_values_as_the_whole_does() {
        let rule =
            config::Optimizer::AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let gradients: Vec<f32> = (0..50).map(|at| (at as f32 * 0.37).sin()).collect();
        let mut whole = Optimizer::new(rule, [0..50].to_vec());
        let mut shard = Optimizer::new(rule, vec![3..10, 31..44]);
        let (mut all, mut some) = (vec![0.5; 50], vec![0.5; 50]);
        for _ in 0..3 {
            whole.update(&mut all, [gradients.as_slice()].into_iter(), 0.7, 0.1);
            shard.update(&mut some, [&gradients[3..10], &gradients[31..44]].into_iter(), 0.7, 0.1);
        }
        assert_eq!((&all[3..10], &all[31..44]), (&some[3..10], &some[31..44]));
        assert_eq!(shard.slots[0].values[7..], whole.slots[0].values[31..44]);
        assert!(some[10..31].iter().all(|value| *value == 0.5));
    }

    #[test]
    fn clipping_bounds_the_length() {
        let gradients = [3.0, 0.0, 4.0];
        let mut sums = [0.0];
        squares(&gradients, &mut sums);
        assert_eq!(sums, [25.0]);
        assert_eq!(clip(sums[0].sqrt(), 10.0), 1.0);
        assert!((clip(sums[0].sqrt(), 1.0) - 0.2).abs() < 1e-7);
    }

    #[test]
    fn squares_of_blocks_do_not_depend_on_what_follows() {
        let values: Vec<f32> = (0..2 * BLOCK + 11).map(|at| (at as f32 * 0.7).cos()).collect();
        let (mut all, mut second) = ([0.0; 3], [0.0]);
        squares(&values, &mut all);
        squares(&values[BLOCK..2 * BLOCK], &mut second);
        assert_eq!(all[1], second[0]);
        let padded: Vec<f32> = values[2 * BLOCK..].iter().copied().chain([0.0; 40]).collect();
        squares(&padded, &mut second);
        assert_eq!(all[2], second[0]);
    }
}
