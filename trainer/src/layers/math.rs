//! The arithmetic below all layers: matrix products, and exponentials that are the same everywhere.
//!
//! Products are the `matrixmultiply` crate's, whose order of summation is fixed by the sizes alone. The loops over elements
//! are compiled twice, for AVX2 and for any processor, with the same results: nothing is fused or reordered.

// Functions of one value must become a part of the loop around them: that one is compiled for wider registers.
#![allow(clippy::inline_always)]

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Row by row, without gaps.
    pub(crate) fn new(values: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// Row by row, each `stride` values after the one before.
    pub(crate) fn strided(values: &'a [f32], rows: usize, columns: usize, stride: usize) -> Self {
        Matrix { values, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Rows become columns.
    pub(crate) fn transposed(self) -> Self {
        Matrix {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn is_within(&self) -> bool {
        within(self.values.len(), self.rows, self.columns, self.row_stride, self.column_stride)
    }
}

fn within(length: usize, rows: usize, columns: usize, row_stride: usize, column_stride: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row_stride + (columns - 1) * column_stride < length
}

/// `target = scale * a * b + keep * target`, with `target` row by row, each `stride` after the one before.
pub(crate) fn product(a: Matrix<'_>, b: Matrix<'_>, scale: f32, keep: f32, target: &mut [f32], stride: usize) {
    let (m, k, n) = (a.rows, a.columns, b.columns);
    let fits = k == b.rows && a.is_within() && b.is_within() && within(target.len(), m, n, stride, 1);
    // Sizes come from layers that were checked as the model was built, never from data.
    debug_assert!(fits, "product of {m} x {k} and {} x {n} into {} values", b.rows, target.len());
    if !fits {
        return;
    }
    let (a_row, a_column) = (a.row_stride as isize, a.column_stride as isize);
    let (b_row, b_column) = (b.row_stride as isize, b.column_stride as isize);
    let (a, b, c) = (a.values.as_ptr(), b.values.as_ptr(), target.as_mut_ptr());
    // SAFETY: every element that these sizes and strides reach lies within its slice, as was just checked, and the
    // target is borrowed exclusively, so it overlaps neither source.
    unsafe {
        matrixmultiply::sgemm(m, k, n, scale, a, a_row, a_column, b, b_row, b_column, keep, c, stride as isize, 1);
    }
}

/// Declares a function over slices twice: for processors with AVX2, and for all. The body has no fused or reordered
/// arithmetic, so both give the same bits.
macro_rules! for_any_processor {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($argument: $type),*) {
            #[allow(clippy::inline_always)]
            #[inline(always)]
            fn plain($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn wide($($argument: $type),*) {
                    plain($($argument),*);
                }
                if std::arch::is_x86_feature_detected!("avx2") {
                    // SAFETY: the processor has what the function is compiled for.
                    unsafe { wide($($argument),*) };
                    return;
                }
            }
            plain($($argument),*);
        }
    };
}
pub(crate) use for_any_processor;

/// e to the power of `x`, to within two units of the last place; 0 below -87 and e^88 above 88. After Cephes (S. Moshier,
/// `expf`): reduction by ln 2 in two parts, then a polynomial. The loop over it becomes vector instructions.
#[inline(always)]
pub(crate) fn exponential(x: f32) -> f32 {
    let x = x.clamp(-87.0, 88.0);
    // Rounds to the nearest whole number: adding and taking away 1.5 * 2^23 leaves no fraction.
    let whole = (x * std::f32::consts::LOG2_E + 12_582_912.0) - 12_582_912.0;
    let rest = (x - whole * 0.693_359_4) - whole * -2.121_944_4e-4;
    let mut sum = 1.987_569_1e-4;
    for term in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5e-1] {
        sum = sum * rest + term;
    }
    let fraction = sum * rest * rest + rest + 1.0;
    fraction * f32::from_bits(((whole as i32 + 127) << 23) as u32)
}

/// Hyperbolic tangent by [`exponential`].
#[inline(always)]
pub(crate) fn hyperbolic_tangent(x: f32) -> f32 {
    1.0 - 2.0 / (exponential(2.0 * x.clamp(-20.0, 20.0)) + 1.0)
}

for_any_processor! {
    /// Adds each row of `rows` to `sums`.
    pub(crate) fn add_rows(rows: &[f32], sums: &mut [f32]) {
        for row in rows.chunks_exact(sums.len().max(1)) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

for_any_processor! {
    /// Adds `values` to `sums`.
    pub(crate) fn add(values: &[f32], sums: &mut [f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
}

/// Number of partial sums in [`sum_of`]: as many as fill a vector register.
const LANES: usize = 8;

/// Sum over `f(a, b)` of two slices, in eight partial sums that are added in a fixed order.
#[inline(always)]
pub(crate) fn sum_of(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (wide_a, rest_a) = a.as_chunks::<LANES>();
    let (wide_b, rest_b) = b.as_chunks::<LANES>();
    for (a, b) in wide_a.iter().zip(wide_b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f(*a, *b);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(rest_a).zip(rest_b) {
        *sum += f(*a, *b);
    }
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_near_the_true_ones() {
        for step in -8_700..8_800 {
            let x = step as f32 / 100.0;
            let (found, wanted) = (f64::from(exponential(x)), f64::from(x).exp());
            assert!((found - wanted).abs() <= 3e-7 * wanted, "e^{x}: {found} {wanted}");
            let (found, wanted) = (f64::from(hyperbolic_tangent(x)), f64::from(x).tanh());
            assert!((found - wanted).abs() <= 3e-7, "tanh {x}: {found} {wanted}");
        }
        assert!(exponential(-1e9) < 1e-37 && exponential(f32::NEG_INFINITY) < 1e-37);
        assert!(exponential(f32::NAN).is_nan());
    }

    #[test]
    fn products_take_strides_and_transposed_matrices() {
        // [1 2 3; 4 5 6] in rows of 4, times the transposed of [1 0 2; 0 1 1].
        let (a, b) = ([1.0, 2.0, 3.0, 99.0, 4.0, 5.0, 6.0], [1.0, 0.0, 2.0, 0.0, 1.0, 1.0]);
        let mut target = [10.0, 10.0, 7.0, 10.0, 10.0];
        let (a, b) = (Matrix::strided(&a, 2, 3, 4), Matrix::new(&b, 2, 3).transposed());
        product(a, b, 2.0, 0.5, &mut target, 3);
        assert_eq!(target, [19.0, 15.0, 7.0, 37.0, 27.0]);
    }

    #[test]
    fn partial_sums_cover_everything() {
        let values: Vec<f32> = (1..=21).map(|at| at as f32).collect();
        assert_eq!(sum_of(&values, &values, |a, _| a), 231.0);
    }
}
