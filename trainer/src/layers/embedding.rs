//! Tokens as vectors.

use super::math;
use super::{Backward, Initial, Layer, Parameter};

/// A vector for each token, plus one for its position. The input is one token number a position, as a whole `f32` (exact
/// to 2^24). Parameters: `token` `[tokens, width]`, `position` `[positions, width]`.
#[derive(Clone, Debug)]
pub struct Embedding {
    tokens: usize,
    positions: usize,
    width: usize,
}

impl Embedding {
    /// For `tokens` different tokens at `positions` places.
    pub fn new(tokens: usize, positions: usize, width: usize) -> Self {
        Embedding { tokens, positions, width }
    }

    /// A number beyond the last token, which no loader gives, counts as the last.
    fn token(&self, value: f32) -> usize {
        (value as usize).min(self.tokens - 1)
    }
}

impl Layer for Embedding {
    fn sizes(&self) -> (usize, usize) {
        (self.positions, self.positions * self.width)
    }

    fn parameters(&self) -> Vec<Parameter> {
        // Uniform with the deviation 0.02 that is usual for such models.
        let initial = Initial::Uniform(0.02 * 3_f64.sqrt());
        vec![
            Parameter::new("token", &[self.tokens, self.width], initial),
            Parameter::new("position", &[self.positions, self.width], initial),
        ]
    }

    fn forward(&mut self, _count: usize, parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let width = self.width;
        let (of_token, of_position) = parameters.split_at(self.tokens * width);
        let positions = of_position.chunks_exact(width).cycle();
        for ((value, row), position) in input.iter().zip(output.chunks_exact_mut(width)).zip(positions) {
            let token = self.token(*value);
            row.copy_from_slice(&of_token[token * width..][..width]);
            math::add(position, row);
        }
    }

    fn backward(&mut self, pass: Backward<'_>) {
        let width = self.width;
        let (of_token, of_position) = pass.gradients.split_at_mut(self.tokens * width);
        for (at, (value, row)) in pass.input.iter().zip(pass.d_output.chunks_exact(width)).enumerate() {
            let token = self.token(*value);
            math::add(row, &mut of_token[token * width..][..width]);
            math::add(row, &mut of_position[at % self.positions * width..][..width]);
        }
    }
}
