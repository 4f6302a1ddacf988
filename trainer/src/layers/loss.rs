//! How wrong a batch of answers is: cross entropy, after the softmax of each row.

use super::math::{exponential, for_any_processor, sum_of};

/// Sums over the rows of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Loss {
    /// Of minus the logarithm of the right class's probability.
    pub(crate) sum: f64,
    /// Rows whose most probable class is the right one; of equal ones the first counts.
    pub(crate) right: usize,
}

/// Compares rows of `logits` with the labels; `d_logits`, unless empty, is overwritten with the derivatives of the sum times
/// `scale`.
pub(crate) fn cross_entropy(logits: &[f32], labels: &[u32], scale: f32, d_logits: &mut [f32]) -> Loss {
    let classes = logits.len() / labels.len().max(1);
    let mut loss = Loss::default();
    let mut powers = vec![0.0; classes];
    for (row, label) in labels.iter().enumerate() {
        let logits = &logits[row * classes..(row + 1) * classes];
        let (mut best, mut greatest) = (0, f32::NEG_INFINITY);
        for (class, logit) in logits.iter().enumerate() {
            if *logit > greatest {
                (best, greatest) = (class, *logit);
            }
        }
        let label = *label as usize;
        loss.right += usize::from(best == label);
        let mut sum = 0.0;
        exponentials(logits, greatest, &mut powers, &mut sum);
        loss.sum += f64::from(sum).ln() - f64::from(logits[label] - greatest);
        if let Some(d_logits) = d_logits.get_mut(row * classes..(row + 1) * classes) {
            let share = scale / sum;
            for (d, power) in d_logits.iter_mut().zip(&powers) {
                *d = power * share;
            }
            d_logits[label] -= scale;
        }
    }
    loss
}

for_any_processor! {
    fn exponentials(logits: &[f32], greatest: f32, powers: &mut [f32], sum: &mut f32) {
        for (power, logit) in powers.iter_mut().zip(logits) {
            *power = exponential(*logit - greatest);
        }
        *sum = sum_of(powers, powers, |power, _| power);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_rows_worked_out_by_hand() {
        let mut d = [0.0; 6];
        let loss = cross_entropy(&[1.0, 1.0, 1.0, 0.0, 100.0, 0.0], &[2, 1], 0.5, &mut d);
        assert!((loss.sum - 3_f64.ln()).abs() < 1e-6, "{loss:?}");
        assert_eq!(loss.right, 1);
        let third = 0.5 / 3.0;
        for (found, expected) in d.iter().zip([third, third, third - 0.5, 0.0, 0.0, 0.0]) {
            assert!((found - expected).abs() < 1e-6, "{d:?}");
        }
    }

    #[test]
    fn what_is_no_number_stays_none() {
        assert!(cross_entropy(&[f32::NAN, 0.0], &[0], 1.0, &mut []).sum.is_nan());
        assert!(cross_entropy(&[f32::INFINITY, 0.0], &[0], 1.0, &mut []).sum.is_nan());
    }
}
