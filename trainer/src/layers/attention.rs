//! Causal self-attention (Vaswani et al., 2017): each position looks at itself and those before it.

use super::math::{self, Matrix, for_any_processor, sum_of};
use super::{Backward, Layer, sized};

/// From queries, keys and values of each position (three times `width` values) to their mixture (`width`), in `heads`
/// parts side by side. It has no parameters: the matrices before and after it are [`super::Linear`] layers.
#[derive(Clone, Debug)]
pub struct CausalAttention {
    positions: usize,
    width: usize,
    heads: usize,
    /// For each sample and head, how much each position (row) looks at each (column).
    looks: Vec<f32>,
    d_looks: Vec<f32>,
}

impl CausalAttention {
    /// `heads` must divide `width`.
    pub fn new(positions: usize, width: usize, heads: usize) -> Self {
        CausalAttention { positions, width, heads, looks: Vec::new(), d_looks: Vec::new() }
    }

    /// Values of one head.
    fn depth(&self) -> usize {
        self.width / self.heads
    }

    fn scale(&self) -> f32 {
        1.0 / (self.depth() as f32).sqrt()
    }

    /// One head's part of one sample's queries (0), keys (1) or values (2).
    fn part<'a>(&self, sample: &'a [f32], which: usize, head: usize) -> Matrix<'a> {
        let start = which * self.width + head * self.depth();
        Matrix::strided(&sample[start..], self.positions, self.depth(), 3 * self.width)
    }
}

impl Layer for CausalAttention {
    fn sizes(&self) -> (usize, usize) {
        (3 * self.positions * self.width, self.positions * self.width)
    }

    fn forward(&mut self, count: usize, _parameters: &[f32], input: &[f32], output: &mut [f32]) {
        let (positions, width, square) = (self.positions, self.width, self.positions * self.positions);
        let mut looks = std::mem::take(&mut self.looks);
        let mut each = sized(&mut looks, count * self.heads * square).chunks_exact_mut(square);
        let samples = input.chunks_exact(3 * positions * width).zip(output.chunks_exact_mut(positions * width));
        for (sample, mixed) in samples {
            for (head, looks) in (0..self.heads).zip(&mut each) {
                let (queries, keys) = (self.part(sample, 0, head), self.part(sample, 1, head));
                math::product(queries, keys.transposed(), self.scale(), 0.0, looks, positions);
                causal_softmax(positions, looks);
                let values = self.part(sample, 2, head);
                let target = &mut mixed[head * self.depth()..];
                math::product(Matrix::new(looks, positions, positions), values, 1.0, 0.0, target, width);
            }
        }
        self.looks = looks;
    }

    fn backward(&mut self, pass: Backward<'_>) {
        let (positions, width, depth) = (self.positions, self.width, self.depth());
        let square = positions * positions;
        let mut d_looks = std::mem::take(&mut self.d_looks);
        let d_looks_now = sized(&mut d_looks, square);
        let samples = pass.input.chunks_exact(3 * positions * width);
        let derivatives = pass.d_output.chunks_exact(positions * width);
        let targets = pass.d_input.chunks_exact_mut(3 * positions * width);
        let mut each = self.looks.chunks_exact(square);
        for ((sample, d_mixed), d_sample) in samples.zip(derivatives).zip(targets) {
            for (head, looks) in (0..self.heads).zip(&mut each) {
                let d_mixed = Matrix::strided(&d_mixed[head * depth..], positions, depth, width);
                let looks_as_matrix = Matrix::new(looks, positions, positions);
                let mut write = |which: usize, a: Matrix<'_>, b: Matrix<'_>, scale: f32| {
                    math::product(a, b, scale, 0.0, &mut d_sample[which * width + head * depth..], 3 * width);
                };
                write(2, looks_as_matrix.transposed(), d_mixed, 1.0);
                let values = self.part(sample, 2, head).transposed();
                math::product(d_mixed, values, 1.0, 0.0, d_looks_now, positions);
                causal_softmax_backward(positions, looks, d_looks_now);
                let d_looks = Matrix::new(d_looks_now, positions, positions);
                write(0, d_looks, self.part(sample, 1, head), self.scale());
                write(1, d_looks.transposed(), self.part(sample, 0, head), self.scale());
            }
        }
        self.d_looks = d_looks;
    }
}

for_any_processor! {
    /// Makes each row's first values, up to the diagonal, positive with sum 1; those after it 0.
    fn causal_softmax(positions: usize, looks: &mut [f32]) {
        for (at, row) in looks.chunks_exact_mut(positions).enumerate() {
            let (seen, hidden) = row.split_at_mut(at + 1);
            hidden.fill(0.0);
            let greatest = seen.iter().fold(f32::NEG_INFINITY, |greatest, value| greatest.max(*value));
            for value in seen.iter_mut() {
                *value = math::exponential(*value - greatest);
            }
            let share = 1.0 / sum_of(seen, seen, |value, _| value);
            for value in seen.iter_mut() {
                *value *= share;
            }
        }
    }
}

for_any_processor! {
    /// From derivatives by the softmax's results to those by its arguments, in place.
    fn causal_softmax_backward(positions: usize, looks: &[f32], d_looks: &mut [f32]) {
        let rows = looks.chunks_exact(positions).zip(d_looks.chunks_exact_mut(positions));
        for (at, (looks, d_looks)) in rows.enumerate() {
            let (seen, hidden) = d_looks.split_at_mut(at + 1);
            hidden.fill(0.0);
            let mean = sum_of(looks.get(..=at).unwrap_or_default(), seen, |look, d| look * d);
            for (d, look) in seen.iter_mut().zip(looks) {
                *d = look * (*d - mean);
            }
        }
    }
}
