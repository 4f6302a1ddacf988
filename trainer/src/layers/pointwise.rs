//! Functions of each value by itself.

use super::math::{for_any_processor, hyperbolic_tangent};
use super::{Backward, Layer};

/// Nothing below 0, the value itself above.
#[derive(Clone, Debug)]
pub struct Relu {
    size: usize,
}

impl Relu {
    /// For samples of `size` values.
    pub fn new(size: usize) -> Self {
        Relu { size }
    }
}

impl Layer for Relu {
    fn sizes(&self) -> (usize, usize) {
        (self.size, self.size)
    }

    fn forward(&mut self, _count: usize, _parameters: &[f32], input: &[f32], output: &mut [f32]) {
        rectify(input, output);
    }

    fn backward(&mut self, pass: Backward<'_>) {
        rectify_backward(pass.output, pass.d_output, pass.d_input);
    }
}

for_any_processor! {
    fn rectify(input: &[f32], output: &mut [f32]) {
        for (y, x) in output.iter_mut().zip(input) {
            // A NaN stays one, so that a broken training is seen.
            *y = if *x <= 0.0 { 0.0 } else { *x };
        }
    }
}

for_any_processor! {
    fn rectify_backward(output: &[f32], d_output: &[f32], d_input: &mut [f32]) {
        for ((dx, dy), y) in d_input.iter_mut().zip(d_output).zip(output) {
            *dx = if *y == 0.0 { 0.0 } else { *dy };
        }
    }
}

/// Gaussian error linear unit in its tangent form (Hendrycks and Gimpel, 2016): x times about the share of a normal
/// distribution below x.
#[derive(Clone, Debug)]
pub struct Gelu {
    size: usize,
}

impl Gelu {
    /// For samples of `size` values.
    pub fn new(size: usize) -> Self {
        Gelu { size }
    }
}

/// The root of 2/pi.
const ROOT: f32 = 0.797_884_6;
const CUBE: f32 = 0.044_715;

impl Layer for Gelu {
    fn sizes(&self) -> (usize, usize) {
        (self.size, self.size)
    }

    fn forward(&mut self, _count: usize, _parameters: &[f32], input: &[f32], output: &mut [f32]) {
        gelu(input, output);
    }

    fn backward(&mut self, pass: Backward<'_>) {
        gelu_backward(pass.input, pass.d_output, pass.d_input);
    }
}

for_any_processor! {
    fn gelu(input: &[f32], output: &mut [f32]) {
        for (y, x) in output.iter_mut().zip(input) {
            let bent = hyperbolic_tangent(ROOT * (x + CUBE * x * x * x));
            *y = 0.5 * x * (1.0 + bent);
        }
    }
}

for_any_processor! {
    fn gelu_backward(input: &[f32], d_output: &[f32], d_input: &mut [f32]) {
        for ((dx, dy), x) in d_input.iter_mut().zip(d_output).zip(input) {
            let bent = hyperbolic_tangent(ROOT * (x + CUBE * x * x * x));
            let slope = ROOT * (1.0 + 3.0 * CUBE * x * x) * (1.0 - bent * bent);
            *dx = dy * (0.5 * (1.0 + bent) + 0.5 * x * slope);
        }
    }
}
