//! Gradients as products of two thin matrices: what crosses a slow link is `rank * (rows + columns)` values of a parameter instead
//! of `rows * columns` (PowerSGD: T. Vogels, S. P. Karimireddy, M. Jaggi, 2019, algorithms 1 and 2).
//!
//! ```text
//! M  = gradient + error of the step before            on each rank
//! P  = sum over the ranks of M Q                       one sum for all parameters; then made orthonormal
//! Q' = sum over the ranks of M^T P                     another; it begins the next step
//! the gradient is P Q'^T, the error M - P (M^T P)^T    the latter on each rank by itself
//! ```
//!
//! In a step before a checkpoint everything is sent whole, the errors with it: then there are none, and the factors begin anew. So a
//! checkpoint need not hold what differs from rank to rank, and any number of ranks goes on from it.
//!
//! What follows the sums is loops of plain arithmetic, so all ranks get the same bits also on different processors.

use std::ops::Range;

use collectives::{BufMut, CommBuf, Communicator, Op};

use crate::error::Error;
use crate::layers::math::{Matrix, for_any_processor, product};
use crate::model::Placed;
use crate::random::{self, Purpose};

/// Factors of all parameters that are worth it, and what is not sent yet.
pub(crate) struct PowerSgd {
    rank: usize,
    seed: u64,
    factored: Vec<Factored>,
    /// Places of all other values.
    plain: Vec<Range<usize>>,
    /// Of all values, as gradients lie.
    error: Vec<f32>,
    /// The second factors, row by row: `rank` rows of as many values as the parameter has columns.
    right: Vec<f32>,
    /// The first factors, `rank` rows of as many values as the parameter has rows; then the plain values, then what goes along.
    first: CommBuf,
    /// This rank's second factors, then their sums.
    second: CommBuf,
}

/// One parameter as a matrix.
struct Factored {
    place: Range<usize>,
    rows: usize,
    columns: usize,
    /// Of its factors among all.
    left: Range<usize>,
    right: Range<usize>,
}

/// One bucket's gradients, and the place of their first value among all.
pub(crate) type Run<'a> = (usize, &'a mut [f32]);

impl PowerSgd {
    /// For these among `length` values, with room for `along` more in the first sum.
    pub(crate) fn new(
        rank: usize,
        seed: u64,
        parameters: &[Placed],
        length: usize,
        along: usize,
        communicator: &dyn Communicator,
    ) -> Result<Self, Error> {
        let (mut factored, mut plain) = (Vec::new(), Vec::new());
        let (mut left, mut right) = (0, 0);
        for Placed { shape, place, .. } in parameters {
            let rows = shape.first().copied().unwrap_or(1);
            let columns = place.len() / rows.max(1);
            if rank * (rows + columns) >= place.len() {
                plain.push(place.clone());
                continue;
            }
            let (from, to) = (left + rank * rows, right + rank * columns);
            factored.push(Factored { place: place.clone(), rows, columns, left: left..from, right: right..to });
            (left, right) = (from, to);
        }
        let beside: usize = plain.iter().map(ExactSizeIterator::len).sum();
        let first = communicator.alloc(4 * (left + beside + along))?;
        let second = communicator.alloc(4 * right)?;
        let right = vec![0.0; right];
        Ok(PowerSgd { rank, seed, factored, plain, error: vec![0.0; length], right, first, second })
    }

    /// Bytes that a step sums instead of all gradients.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(self.first.elements::<f32>()) + size_of_val(self.second.elements::<f32>())
    }

    /// What was not sent before, of the values of a bucket: gradients are added to it.
    pub(crate) fn error(&self, place: Range<usize>) -> &[f32] {
        &self.error[place]
    }

    /// Everything is sent: nothing is left over, and the factors of step `next` begin anew.
    pub(crate) fn sent_whole(&mut self, next: u64) {
        self.error.fill(0.0);
        let mut rng = random::stream(self.seed, Purpose::Factors(next));
        self.right.iter_mut().for_each(|value| *value = (2.0 * random::unit(&mut rng) - 1.0) as f32);
    }

    /// Replaces this rank's gradients, errors included, by those of all ranks; `along` is summed too.
    pub(crate) fn sum(
        &mut self,
        communicator: &dyn Communicator,
        runs: &mut [Run<'_>],
        along: &mut [f32],
    ) -> Result<(), Error> {
        self.fill_first(runs, along);
        communicator.all_reduce(self.first.as_buf_mut::<f32>(), Op::Sum)?;
        let first = self.first.elements_mut::<f32>();
        for Factored { rows, left, .. } in &self.factored {
            orthonormalise(&mut first[left.clone()], *rows);
        }
        self.fill_second(runs);
        let second = self.second.elements_mut::<f32>();
        if !second.is_empty() {
            communicator.all_reduce(BufMut::from(&mut *second), Op::Sum)?;
        }
        let first = self.first.elements::<f32>();
        for Factored { place, rows, columns, left, right } in &self.factored {
            let summed = &second[right.clone()];
            for (from, to) in summed.chunks(*columns).zip(self.right[right.clone()].chunks_mut(*columns)) {
                // Without a gradient there is no direction to begin with: the old one stays.
                if from.iter().any(|value| *value != 0.0) {
                    to.copy_from_slice(from);
                }
            }
            expand(&first[left.clone()], summed, *rows, *columns, values(runs, place));
        }
        let mut at = self.factored.last().map_or(0, |last| last.left.end);
        for place in &self.plain {
            values(runs, place).copy_from_slice(&first[at..][..place.len()]);
            at += place.len();
        }
        along.copy_from_slice(&first[at..][..along.len()]);
        Ok(())
    }

    fn fill_first(&mut self, runs: &mut [Run<'_>], along: &[f32]) {
        let first = self.first.elements_mut::<f32>();
        for Factored { place, rows, columns, left, right } in &self.factored {
            let factor = Matrix::new(&self.right[right.clone()], self.rank, *columns);
            let gradient = Matrix::new(values(runs, place), *rows, *columns);
            product(factor, gradient.transposed(), 1.0, 0.0, &mut first[left.clone()], *rows);
        }
        let mut at = self.factored.last().map_or(0, |last| last.left.end);
        for place in &self.plain {
            first[at..][..place.len()].copy_from_slice(values(runs, place));
            at += place.len();
        }
        first[at..].copy_from_slice(along);
    }

    /// This rank's second factors, and what they leave over.
    fn fill_second(&mut self, runs: &mut [Run<'_>]) {
        let (first, second) = (self.first.elements::<f32>(), self.second.elements_mut::<f32>());
        for Factored { place, rows, columns, left, right } in &self.factored {
            let (basis, own) = (Matrix::new(&first[left.clone()], self.rank, *rows), &mut second[right.clone()]);
            let gradient = values(runs, place);
            product(basis, Matrix::new(gradient, *rows, *columns), 1.0, 0.0, own, *columns);
            let error = &mut self.error[place.clone()];
            error.copy_from_slice(gradient);
            product(basis.transposed(), Matrix::new(own, self.rank, *columns), -1.0, 1.0, error, *columns);
        }
    }
}

/// The values of one place; a unit, and so a parameter, lies in one bucket.
fn values<'a>(runs: &'a mut [Run<'_>], place: &Range<usize>) -> &'a mut [f32] {
    let found = runs.iter_mut().find(|(start, values)| (*start..*start + values.len()).contains(&place.start));
    let found = found.and_then(|(start, values)| values.get_mut(place.start - *start..place.end - *start));
    found.unwrap_or_default()
}

/// Gram and Schmidt, in the form that stays accurate: each row less its parts along those before it, then of length 1. What is
/// nothing but rounding becomes 0.
fn orthonormalise(factor: &mut [f32], length: usize) {
    for at in 0..factor.len() / length.max(1) {
        let (before, rest) = factor.split_at_mut(at * length);
        let row = &mut rest[..length];
        let whole = dot(row, row);
        for other in before.chunks(length) {
            let along = dot(row, other) as f32;
            row.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
        let left = dot(row, row);
        let scale = if left > 1e-10 * whole { (1.0 / left.sqrt()) as f32 } else { 0.0 };
        for value in row {
            *value *= scale;
        }
    }
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

for_any_processor! {
    /// `target = left^T right`, from factors row by row.
    fn expand(left: &[f32], right: &[f32], rows: usize, columns: usize, target: &mut [f32]) {
        for (row, values) in target.chunks_mut(columns.max(1)).enumerate() {
            values.fill(0.0);
            for (left, right) in left.chunks(rows.max(1)).zip(right.chunks(columns.max(1))) {
                let factor = left[row];
                for (value, right) in values.iter_mut().zip(right) {
                    *value += factor * right;
                }
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tests::group;

    const SHAPE: [usize; 2] = [12, 9];

    fn parameters() -> Vec<Placed> {
        let placed = |name: &str, shape: &[usize], start: usize| {
            let place = start..start + shape.iter().product::<usize>();
            Placed { name: name.to_owned(), shape: shape.to_vec(), place }
        };
        vec![placed("weight", &SHAPE, 0), placed("bias", &[5], 108)]
    }

    /// Of rank 2, different on each of the gang's ranks.
    fn gradient(rank: usize, round: usize) -> Vec<f32> {
        let wave = |at: usize, pace: f32| ((at + 3 * rank + 7 * round) as f32 * pace).sin();
        let weight =
            |at: usize| wave(at / 9, 0.7) * ((at % 9) as f32 * 0.3).cos() + wave(at / 9, 1.9) * (at % 9) as f32;
        (0..108).map(weight).chain((0..5).map(|at| wave(at, 0.5))).collect()
    }

    /// What three ranks have after each of some rounds, and the sum of what they have left over. All that was given has come or is
    /// left.
    fn run(rank: usize, rounds: usize) -> Vec<(Vec<f32>, Vec<f32>)> {
        let one = |communicator: std::sync::Arc<dyn Communicator>| {
            std::thread::spawn(move || {
                let mut power = PowerSgd::new(rank, 5, &parameters(), 113, 1, &*communicator).unwrap();
                power.sent_whole(1);
                let mut all = Vec::new();
                for round in 0..rounds {
                    let mut values = gradient(communicator.rank() as usize, round);
                    values.iter_mut().zip(power.error(0..113)).for_each(|(value, error)| *value += error);
                    let (weight, bias) = values.split_at_mut(108);
                    let mut along = [1.0];
                    power.sum(&*communicator, &mut [(0, weight), (108, bias)], &mut along).unwrap();
                    assert_eq!(along, [3.0]);
                    all.push((values, power.error(0..113).to_vec()));
                }
                all
            })
        };
        let threads: Vec<_> = group(3).into_iter().map(one).collect();
        let ranks: Vec<Vec<(Vec<f32>, Vec<f32>)>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        for rank in &ranks {
            let same = rank.iter().zip(&ranks[0]).all(|(rank, first)| rank.0 == first.0);
            assert!(same, "the same bits on all ranks");
        }
        let mut given = vec![0.0; 113];
        let mut came = vec![0.0; 113];
        for (round, (values, _)) in ranks[0].iter().enumerate() {
            for rank in 0..3 {
                given.iter_mut().zip(gradient(rank, round)).for_each(|(sum, value)| *sum += value);
            }
            came.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
        }
        let left = |round: usize, at: usize| ranks.iter().map(|rank| rank[round].1[at]).sum::<f32>();
        for (at, (given, came)) in given.iter().zip(&came).enumerate() {
            let came = came + left(rounds - 1, at);
            assert!((given - came).abs() < 2e-3, "nothing is lost: {given} {came}");
        }
        let errors = |round: usize| (0..113).map(|at| left(round, at)).collect();
        (0..rounds).map(|round| (ranks[0][round].0.clone(), errors(round))).collect()
    }

    #[test]
    fn sums_of_low_rank_come_whole() {
        // All of the same two right factors: so are their sums, though not what each rank has left.
        for (values, error) in run(2, 3).into_iter().skip(1) {
            assert!(values.iter().all(|value| value.is_finite()));
            // Rounding only, though of values that are multiplied twice.
            assert!(dot(&error, &error) < 1e-5 * dot(&values, &values), "{error:?}");
        }
    }

    #[test]
    fn what_one_step_cannot_send_a_later_one_does() {
        // `run` compares all that came with all that was given.
        let errors = run(1, 12).pop().unwrap().1;
        assert!(errors[..108].iter().any(|error| error.abs() > 0.01), "rank 1 cannot hold it all");
        assert!(errors[108..].iter().all(|error| *error == 0.0), "what is small goes whole");
    }

    #[test]
    fn rows_become_orthonormal_and_nothing_stays_nothing() {
        let mut rows = vec![3.0, 0.0, 4.0, 6.0, 0.0, 8.0, 1.0, 1.0, 0.0];
        orthonormalise(&mut rows, 3);
        assert!((dot(&rows[..3], &rows[..3]) - 1.0).abs() < 1e-6);
        assert_eq!(rows[3..6], [0.0; 3], "a copy of the first has no direction of its own");
        assert!(dot(&rows[..3], &rows[6..]).abs() < 1e-6);
        let mut none = vec![0.0; 6];
        orthonormalise(&mut none, 3);
        assert_eq!(none, [0.0; 6]);
    }
}
