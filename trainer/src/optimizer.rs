//! How summed gradients move parameters: SGD with momentum and AdamW, in plain `f32` loops whose order never changes.
//!
//! Written here rather than taken from the tensor engine because a checkpoint must hold the whole state of the
//! optimizer.

use crate::config;

/// State of the optimizer over all parameters.
#[derive(Clone, Debug)]
pub(crate) struct Optimizer {
    rule: config::Optimizer,
    /// Updates made so far.
    pub(crate) updates: u64,
    /// What is remembered of each parameter, by name of the memory.
    pub(crate) slots: Vec<Slot>,
}

/// One memory over all parameters.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    /// `momentum`, `mean` or `square`.
    pub(crate) name: &'static str,
    /// Values of each parameter.
    pub(crate) values: Vec<Vec<f32>>,
}

impl Optimizer {
    /// Fresh, for parameters of these lengths.
    pub(crate) fn new(rule: config::Optimizer, lengths: &[usize]) -> Self {
        let names: &[&'static str] = match rule {
            config::Optimizer::Sgd { .. } => &["momentum"],
            config::Optimizer::AdamW { .. } => &["mean", "square"],
        };
        let zeros = || lengths.iter().map(|length| vec![0.0; *length]).collect();
        let slots = names.iter().map(|name| Slot { name, values: zeros() }).collect();
        Optimizer { rule, updates: 0, slots }
    }

    /// One update. All ranks pass the same gradients and rate, so all end with the same parameters.
    pub(crate) fn update(&mut self, parameters: &mut [Vec<f32>], gradients: &[Vec<f32>], rate: f32) {
        self.updates += 1;
        match (self.rule, self.slots.as_mut_slice()) {
            (config::Optimizer::Sgd { momentum, weight_decay, .. }, [memory]) => {
                let (momentum, decay) = (momentum as f32, weight_decay as f32);
                for ((parameter, gradient), memory) in parameters.iter_mut().zip(gradients).zip(&mut memory.values) {
                    for ((p, g), m) in parameter.iter_mut().zip(gradient).zip(memory) {
                        *m = momentum * *m + (g + decay * *p);
                        *p -= rate * *m;
                    }
                }
            }
            (config::Optimizer::AdamW { beta1, beta2, epsilon, weight_decay, .. }, [mean, square]) => {
                let rule = Adam::new(beta1, beta2, epsilon, weight_decay, self.updates, rate);
                let memories = mean.values.iter_mut().zip(&mut square.values);
                for ((parameter, gradient), (mean, square)) in parameters.iter_mut().zip(gradients).zip(memories) {
                    rule.update(parameter, gradient, mean, square);
                }
            }
            _ => debug_assert!(false, "an optimizer has the slots of its rule"),
        }
    }
}

/// The constants of one AdamW update (Loshchilov and Hutter, 2019, algorithm 2).
struct Adam {
    beta1: f32,
    beta2: f32,
    epsilon: f32,
    /// What is left of a parameter after decay.
    keep: f32,
    rate: f32,
    mean_correction: f32,
    square_correction: f32,
}

impl Adam {
    fn new(beta1: f64, beta2: f64, epsilon: f64, weight_decay: f64, updates: u64, rate: f32) -> Self {
        let power = i32::try_from(updates).unwrap_or(i32::MAX);
        Adam {
            beta1: beta1 as f32,
            beta2: beta2 as f32,
            epsilon: epsilon as f32,
            keep: (1.0 - f64::from(rate) * weight_decay) as f32,
            rate,
            mean_correction: (1.0 / (1.0 - beta1.powi(power))) as f32,
            square_correction: (1.0 / (1.0 - beta2.powi(power))) as f32,
        }
    }

    fn update(&self, parameter: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32]) {
        for (((p, g), m), s) in parameter.iter_mut().zip(gradient).zip(mean).zip(square) {
            *m = self.beta1 * *m + (1.0 - self.beta1) * g;
            *s = self.beta2 * *s + (1.0 - self.beta2) * g * g;
            let step = (*m * self.mean_correction) / ((*s * self.square_correction).sqrt() + self.epsilon);
            *p = *p * self.keep - self.rate * step;
        }
    }
}

/// Shortens the gradients to `bound` if they are longer; returns the length that they had (Euclidean, over all values).
pub(crate) fn clip(gradients: &mut [Vec<f32>], bound: f64) -> f64 {
    let square: f64 = gradients.iter().flatten().map(|value| f64::from(*value) * f64::from(*value)).sum();
    let length = square.sqrt();
    if length > bound {
        let factor = (bound / length) as f32;
        gradients.iter_mut().flatten().for_each(|value| *value *= factor);
    }
    length
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

    #[test]
    fn sgd_equals_values_worked_out_by_hand() {
        let rule = config::Optimizer::Sgd { learning_rate: 0.1, momentum: 0.5, weight_decay: 0.2 };
        let mut optimizer = Optimizer::new(rule, &[2]);
        let mut parameters = vec![vec![1.0, -2.0]];
        // m = 0.5*0 + (g + 0.2*p) = [0.5+0.2, 1.0-0.4]; p -= 0.1*m
        optimizer.update(&mut parameters, &[vec![0.5, 1.0]], 0.1);
        assert_near(&optimizer.slots[0].values[0], &[0.7, 0.6]);
        assert_near(&parameters[0], &[0.93, -2.06]);
        // m = 0.5*[0.7, 0.6] + ([0, -1] + 0.2*[0.93, -2.06]) = [0.536, -1.112]
        optimizer.update(&mut parameters, &[vec![0.0, -1.0]], 0.1);
        assert_near(&optimizer.slots[0].values[0], &[0.536, -1.112]);
        assert_near(&parameters[0], &[0.8764, -1.9488]);
    }

    #[test]
    fn adamw_equals_values_worked_out_by_hand() {
        let rule =
            config::Optimizer::AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.99, epsilon: 1e-8, weight_decay: 0.1 };
        let mut optimizer = Optimizer::new(rule, &[2]);
        let mut parameters = vec![vec![1.0, -2.0]];
        // First update: corrected mean = g, corrected square = g^2, so the step is the sign; decay keeps 0.99.
        optimizer.update(&mut parameters, &[vec![0.5, -4.0]], 0.1);
        assert_near(&optimizer.slots[0].values[0], &[0.05, -0.4]);
        assert_near(&optimizer.slots[1].values[0], &[0.0025, 0.16]);
        assert_near(&parameters[0], &[0.99 - 0.1, -1.98 + 0.1]);
        // Second: mean = [0.9*0.05 + 0.1, -0.36 + 0.2] / 0.19, square = [0.99*0.0025 + 0.01, 0.1584 + 0.04] / 0.0199
        optimizer.update(&mut parameters, &[vec![1.0, 2.0]], 0.1);
        let step = |mean: f64, square: f64| (mean / 0.19) / (square / 0.0199).sqrt();
        let expected = [0.89 * 0.99 - 0.1 * step(0.145, 0.012_475), -1.88 * 0.99 - 0.1 * step(-0.16, 0.1984)];
        assert_near(&parameters[0], &expected);
    }

    #[test]
    fn clipping_keeps_the_direction_and_bounds_the_length() {
        let mut gradients = vec![vec![3.0], vec![0.0, 4.0]];
        assert!((clip(&mut gradients, 10.0) - 5.0).abs() < 1e-12);
        assert_eq!(gradients, [vec![3.0], vec![0.0, 4.0]]);
        assert!((clip(&mut gradients, 1.0) - 5.0).abs() < 1e-12);
        assert_near(&gradients.concat(), &[0.6, 0.0, 0.8]);
    }
}
