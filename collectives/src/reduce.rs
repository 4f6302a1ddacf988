//! Folds the elements of several ranks into one, always in rank order, so that the result depends on nothing else
//! (COLL-2).
//!
//! 16-bit floats are widened to `f32`, folded there and rounded once at the end.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::buffer::{DType, Element, Op, elements, elements_mut};

/// Elements folded at a time: the accumulators stay in the first-level cache.
const TILE: usize = 1024;

/// One fold: the ranks' contributions lie in `scratch`, `stride` bytes apart in rank order, except that of place
/// `position`, which is in the destination itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold {
    pub(crate) dtype: DType,
    pub(crate) op: Op,
    /// Contributions, the destination's included.
    pub(crate) contributions: usize,
    pub(crate) position: usize,
    /// Bytes from one contribution to the next in the scratch.
    pub(crate) stride: usize,
    /// What an average is divided by; `None` leaves the sum.
    pub(crate) divisor: Option<u32>,
}

impl Fold {
    /// Folds into `destination`. False where memory is misaligned or too short, which callers prevent by construction.
    #[must_use]
    pub(crate) fn run(&self, destination: &mut [u8], scratch: &[u8]) -> bool {
        match self.dtype {
            DType::F32 => self.typed::<f32>(destination, scratch),
            DType::F64 => self.typed::<f64>(destination, scratch),
            DType::F16 => self.typed::<f16>(destination, scratch),
            DType::BF16 => self.typed::<bf16>(destination, scratch),
            DType::I32 => self.typed::<i32>(destination, scratch),
            DType::I64 => self.typed::<i64>(destination, scratch),
        }
    }

    fn typed<T: Accumulate>(&self, destination: &mut [u8], scratch: &[u8]) -> bool {
        let whole = scratch.len() - scratch.len() % size_of::<T>();
        let (Some(destination), Some(scratch)) = (elements_mut::<T>(destination), elements::<T>(&scratch[..whole]))
        else {
            return false;
        };
        let stride = self.stride / size_of::<T>();
        let others = self.contributions - 1;
        if others > 0 && scratch.len() < (others - 1) * stride + destination.len() {
            return false;
        }
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked for the feature that this copy of the loop is compiled with.
            unsafe { fold_avx2(self, stride, destination, scratch) };
            return true;
        }
        fold(self, stride, destination, scratch);
        true
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn fold_avx2<T: Accumulate>(how: &Fold, stride: usize, destination: &mut [T], scratch: &[T]) {
    fold(how, stride, destination, scratch);
}

// Inlined into each caller, so that it is compiled once per instruction set.
#[inline(always)]
#[allow(clippy::inline_always)]
fn fold<T: Accumulate>(how: &Fold, stride: usize, destination: &mut [T], scratch: &[T]) {
    let mut sum = [T::Wide::default(); TILE];
    let mut next = [T::Wide::default(); TILE];
    for start in (0..destination.len()).step_by(TILE) {
        let length = TILE.min(destination.len() - start);
        for rank in 0..how.contributions {
            let source = if rank == how.position {
                &destination[start..start + length]
            } else {
                let lane = rank - usize::from(rank > how.position);
                &scratch[lane * stride + start..][..length]
            };
            if rank == 0 {
                T::widen(source, &mut sum[..length]);
            } else {
                T::widen(source, &mut next[..length]);
                T::combine(how.op, &mut sum[..length], &next[..length]);
            }
        }
        if let (Op::Avg, Some(divisor)) = (how.op, how.divisor) {
            T::divide(&mut sum[..length], divisor);
        }
        T::narrow(&sum[..length], &mut destination[start..start + length]);
    }
}

/// Arithmetic of an element type. NaN wins in `Min` and `Max` whatever its rank; of equal values the first stays.
pub(crate) trait Accumulate: Element {
    /// What is summed in.
    type Wide: Copy + Default;
    fn widen(from: &[Self], to: &mut [Self::Wide]);
    fn narrow(from: &[Self::Wide], to: &mut [Self]);
    fn combine(op: Op, sum: &mut [Self::Wide], next: &[Self::Wide]);
    fn divide(sum: &mut [Self::Wide], divisor: u32);
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn zip<T: Copy>(sum: &mut [T], next: &[T], function: impl Fn(T, T) -> T) {
    for (left, right) in sum.iter_mut().zip(next) {
        *left = function(*left, *right);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn zip_one<T: Copy>(sum: &mut [T], function: impl Fn(T) -> T) {
    for value in sum {
        *value = function(*value);
    }
}

#[inline(always)]
#[allow(clippy::inline_always, clippy::eq_op)]
fn combine_floats<T: Copy + PartialOrd + std::ops::Add<Output = T>>(op: Op, sum: &mut [T], next: &[T]) {
    // `b != b` is the NaN test that the compiler turns into one vector comparison.
    match op {
        Op::Sum | Op::Avg => zip(sum, next, |a, b| a + b),
        Op::Min => zip(sum, next, |a, b| if b < a || b != b { b } else { a }),
        Op::Max => zip(sum, next, |a, b| if b > a || b != b { b } else { a }),
    }
}

impl Accumulate for f32 {
    type Wide = f32;
    #[inline]
    fn widen(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn narrow(from: &[f32], to: &mut [f32]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn combine(op: Op, sum: &mut [f32], next: &[f32]) {
        combine_floats(op, sum, next);
    }
    #[inline]
    fn divide(sum: &mut [f32], divisor: u32) {
        let divisor = divisor as f32;
        zip_one(sum, |value| value / divisor);
    }
}

impl Accumulate for f64 {
    type Wide = f64;
    #[inline]
    fn widen(from: &[f64], to: &mut [f64]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn narrow(from: &[f64], to: &mut [f64]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn combine(op: Op, sum: &mut [f64], next: &[f64]) {
        combine_floats(op, sum, next);
    }
    #[inline]
    fn divide(sum: &mut [f64], divisor: u32) {
        let divisor = f64::from(divisor);
        zip_one(sum, |value| value / divisor);
    }
}

impl Accumulate for f16 {
    type Wide = f32;
    #[inline]
    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    #[inline]
    fn narrow(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
    #[inline]
    fn combine(op: Op, sum: &mut [f32], next: &[f32]) {
        combine_floats(op, sum, next);
    }
    #[inline]
    fn divide(sum: &mut [f32], divisor: u32) {
        f32::divide(sum, divisor);
    }
}

impl Accumulate for bf16 {
    type Wide = f32;
    #[inline]
    fn widen(from: &[bf16], to: &mut [f32]) {
        for (value, wide) in from.iter().zip(to) {
            *wide = f32::from_bits(u32::from(value.to_bits()) << 16);
        }
    }
    #[inline]
    fn narrow(from: &[f32], to: &mut [bf16]) {
        for (wide, value) in from.iter().zip(to) {
            *value = bf16::from_f32(*wide);
        }
    }
    #[inline]
    fn combine(op: Op, sum: &mut [f32], next: &[f32]) {
        combine_floats(op, sum, next);
    }
    #[inline]
    fn divide(sum: &mut [f32], divisor: u32) {
        f32::divide(sum, divisor);
    }
}

impl Accumulate for i32 {
    type Wide = i32;
    #[inline]
    fn widen(from: &[i32], to: &mut [i32]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn narrow(from: &[i32], to: &mut [i32]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn combine(op: Op, sum: &mut [i32], next: &[i32]) {
        match op {
            Op::Sum | Op::Avg => zip(sum, next, i32::wrapping_add),
            Op::Min => zip(sum, next, i32::min),
            Op::Max => zip(sum, next, i32::max),
        }
    }
    #[inline]
    fn divide(sum: &mut [i32], divisor: u32) {
        zip_one(sum, |value| value / divisor as i32);
    }
}

impl Accumulate for i64 {
    type Wide = i64;
    #[inline]
    fn widen(from: &[i64], to: &mut [i64]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn narrow(from: &[i64], to: &mut [i64]) {
        to.copy_from_slice(from);
    }
    #[inline]
    fn combine(op: Op, sum: &mut [i64], next: &[i64]) {
        match op {
            Op::Sum | Op::Avg => zip(sum, next, i64::wrapping_add),
            Op::Min => zip(sum, next, i64::min),
            Op::Max => zip(sum, next, i64::max),
        }
    }
    #[inline]
    fn divide(sum: &mut [i64], divisor: u32) {
        zip_one(sum, |value| value / i64::from(divisor));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::buffer::{Buf, BufMut};

    fn fold_f32(op: Op, position: usize, own: &mut [f32], others: &[f32]) {
        let how = Fold {
            dtype: DType::F32,
            op,
            contributions: 1 + others.len() / own.len(),
            position,
            stride: own.len() * 4,
            divisor: Some(2),
        };
        assert!(how.run(BufMut::from(own).into_bytes(), Buf::from(others).as_bytes()));
    }

    #[test]
    fn rank_order_decides_the_rounding() {
        // (1e8 + 1) - 1e8 loses the 1; 1e8 - 1e8 + 1 keeps it: the order must be that of the ranks.
        let mut own = [1.0];
        fold_f32(Op::Sum, 1, &mut own, &[1e8, -1e8]);
        assert_eq!(own, [0.0]);
        let mut own = [1.0];
        fold_f32(Op::Sum, 2, &mut own, &[1e8, -1e8]);
        assert_eq!(own, [1.0]);
    }

    #[test]
    fn nan_of_any_rank_wins_in_min_and_max() {
        for (op, position) in [(Op::Min, 0), (Op::Min, 1), (Op::Max, 0), (Op::Max, 1)] {
            let mut own = [f32::NAN, 1.0];
            fold_f32(op, position, &mut own, &[1.0, f32::NAN]);
            assert!(own.iter().all(|value| value.is_nan()), "{op} at {position}: {own:?}");
        }
    }

    #[test]
    fn sixteen_bit_floats_round_once() {
        // 256 + 1 rounds to 256 in bf16, so rounding at every step would lose all 64 ones.
        let mut own = [bf16::from_f32(256.0)];
        let others = [bf16::ONE; 64];
        let how = Fold { dtype: DType::BF16, op: Op::Sum, contributions: 65, position: 0, stride: 2, divisor: None };
        assert!(how.run(BufMut::from(&mut own[..]).into_bytes(), Buf::from(&others[..]).as_bytes()));
        assert_eq!(own[0].to_f32(), 320.0);
    }
}
