//! Layer normalization (Ba, Kiros, Hinton, 2016): each position's values brought to mean 0 and variance 1.

use super::math::{for_any_processor, sum_of};
use super::{Backward, Initial, Layer, Parameter, sized};

/// Keeps the divisor above 0.
const EPSILON: f32 = 1e-5;

/// Normalizes each position over its `width` values, then stretches and shifts. Parameters: `weight` and `bias`, both
/// `[width]`.
#[derive(Clone, Debug)]
pub struct Norm {
    positions: usize,
    width: usize,
    /// Mean and reciprocal deviation of each row.
    moments: Vec<f32>,
}

impl Norm {
    /// For samples of `positions` times `width` values.
    pub fn new(positions: usize, width: usize) -> Self {
        Norm { positions, width, moments: Vec::new() }
    }
}

impl Layer for Norm {
    fn sizes(&self) -> (usize, usize) {
        (self.positions * self.width, self.positions * self.width)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![
            Parameter::new("weight", &[self.width], Initial::Constant(1.0)),
            Parameter::new("bias", &[self.width], Initial::Constant(0.0)),
        ]
    }

    fn forward(&mut self, count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]) {
        normalize(parameters, input, output, sized(&mut self.moments, 2 * count * self.positions));
    }

    fn backward(&mut self, pass: Backward<'_>) {
        normalize_backward(&self.moments, pass);
    }
}

for_any_processor! {
    fn normalize(parameters: &[f32], input: &[f32], output: &mut [f32], moments: &mut [f32]) {
        let width = parameters.len() / 2;
        let (weight, bias) = parameters.split_at(width);
        let rows = input.chunks_exact(width).zip(output.chunks_exact_mut(width));
        for ((x, y), moments) in rows.zip(moments.chunks_exact_mut(2)) {
            let mean = sum_of(x, x, |x, _| x) / width as f32;
            let variance = sum_of(x, x, |x, _| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            moments.copy_from_slice(&[mean, scale]);
            for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(weight).zip(bias) {
                *y = (x - mean) * scale * weight + bias;
            }
        }
    }
}

for_any_processor! {
    fn normalize_backward(moments: &[f32], pass: Backward<'_>) {
        let width = pass.parameters.len() / 2;
        let weight = &pass.parameters[..width];
        let (d_weight, d_bias) = pass.gradients.split_at_mut(width);
        let rows = pass.input.chunks_exact(width).zip(pass.d_output.chunks_exact(width));
        // The normalized values and their derivatives of one row.
        let (mut normal, mut d_normal) = (vec![0.0; width], vec![0.0; width]);
        for (at, ((x, dy), moments)) in rows.zip(moments.chunks_exact(2)).enumerate() {
            let (mean, scale) = (moments[0], moments[1]);
            for column in 0..width {
                normal[column] = (x[column] - mean) * scale;
                d_normal[column] = dy[column] * weight[column];
                d_weight[column] += dy[column] * normal[column];
                d_bias[column] += dy[column];
            }
            let Some(dx) = pass.d_input.get_mut(at * width..(at + 1) * width) else { continue };
            let plain = sum_of(&d_normal, &d_normal, |d, _| d) / width as f32;
            let along = sum_of(&d_normal, &normal, |d, n| d * n) / width as f32;
            for ((dx, d), n) in dx.iter_mut().zip(&d_normal).zip(&normal) {
                *dx = scale * (d - plain - n * along);
            }
        }
    }
}
