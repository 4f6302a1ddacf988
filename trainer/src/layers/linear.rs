//! Products with a matrix, at each position of a sample alike.

use super::math::{self, Matrix};
use super::{Backward, Initial, Layer, Parameter};

/// `output = input * transposed weight + bias` for each of a sample's positions. Parameters: `weight` `[outputs, inputs]`,
/// `bias` `[outputs]`.
#[derive(Clone, Debug)]
pub struct Linear {
    positions: usize,
    inputs: usize,
    outputs: usize,
    bound: f64,
}

impl Linear {
    /// One position; first weights after He et al. (2015), uniform, for the rectified units that follow; the bias is 0.
    pub fn new(inputs: usize, outputs: usize) -> Self {
        Linear { positions: 1, inputs, outputs, bound: (6.0 / inputs.max(1) as f64).sqrt() }
    }

    /// The same matrix at each of so many positions.
    #[must_use]
    pub fn at_positions(self, positions: usize) -> Self {
        Linear { positions, ..self }
    }

    /// First weights evenly between minus and plus `bound`.
    #[must_use]
    pub fn beginning_within(self, bound: f64) -> Self {
        Linear { bound, ..self }
    }
}

impl Layer for Linear {
    fn sizes(&self) -> (usize, usize) {
        (self.positions * self.inputs, self.positions * self.outputs)
    }

    fn parameters(&self) -> Vec<Parameter> {
        vec![
            Parameter::new("weight", &[self.outputs, self.inputs], Initial::Uniform(self.bound)),
            Parameter::new("bias", &[self.outputs], Initial::Constant(0.0)),
        ]
    }

    fn forward(&mut self, count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let (weight, bias) = parameters.split_at(self.outputs * self.inputs);
        forward(count * self.positions, weight, bias, input, output);
    }

    fn backward(&mut self, pass: Backward<'_>) {
        let rows = pass.count * self.positions;
        let (weight, _) = pass.parameters.split_at(self.outputs * self.inputs);
        let (d_weight, d_bias) = pass.gradients.split_at_mut(self.outputs * self.inputs);
        into_parameters(rows, pass.input, pass.d_output, d_weight, d_bias);
        if !pass.d_input.is_empty() {
            let d_output = Matrix::new(pass.d_output, rows, self.outputs);
            let weight = Matrix::new(weight, self.outputs, self.inputs);
            math::product(d_output, weight, 1.0, 0.0, pass.d_input, self.inputs);
        }
    }
}

/// Each row of `input` times the transposed weight, plus bias.
pub(super) fn forward(rows: usize, weight: &[f32], bias: &[f32], input: &[f32], output: &mut [f32]) {
    let outputs = bias.len();
    for row in output.chunks_exact_mut(outputs) {
        row.copy_from_slice(bias);
    }
    let inputs = weight.len() / outputs;
    let weight = Matrix::new(weight, outputs, inputs).transposed();
    math::product(Matrix::new(input, rows, inputs), weight, 1.0, 1.0, output, outputs);
}

/// Adds the derivatives by weight and bias.
pub(super) fn into_parameters(rows: usize, input: &[f32], d_output: &[f32], d_weight: &mut [f32], d_bias: &mut [f32]) {
    let outputs = d_bias.len();
    let inputs = d_weight.len() / outputs;
    let transposed = Matrix::new(d_output, rows, outputs).transposed();
    math::product(transposed, Matrix::new(input, rows, inputs), 1.0, 1.0, d_weight, inputs);
    math::add_rows(d_output, d_bias);
}
