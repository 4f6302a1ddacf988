//! Folds the elements of several ranks into one, always in rank order, so that the result depends on nothing else
//! (COLL-2).
//!
//! Whole numbers and 32- and 64-bit floats are folded in place, two operands a pass and without a copy: the loops are
//! plain, and the compiler makes vectors of them. 16-bit floats are widened to `f32`, folded there and rounded once.

mod arithmetic;

use std::ops::Range;

use half::{bf16, f16};

use crate::buffer::{DType, Element, Op, elements, elements_mut};
use arithmetic::{Narrow, Number};

/// Elements folded at a time: what lies between two passes stays in the first-level cache.
const TILE: usize = 1024;

/// One fold: the destination holds the contribution of place `position` at first, and the fold at last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fold {
    pub(crate) dtype: DType,
    pub(crate) op: Op,
    /// Contributions, the destination's included.
    pub(crate) contributions: usize,
    pub(crate) position: usize,
    /// What an average is divided by; `None` leaves the sum.
    pub(crate) divisor: Option<u32>,
}

/// The contribution of every place but the destination's, each as long as the destination.
type Others<'f, 'a> = &'f dyn Fn(usize) -> &'a [u8];

impl Fold {
    /// Folds into `destination`. False where memory is misaligned or too short, which callers prevent by construction.
    #[must_use]
    pub(crate) fn run<'a>(&self, destination: &mut [u8], others: &dyn Fn(usize) -> &'a [u8]) -> bool {
        match self.dtype {
            DType::F32 => self.numbers::<f32>(destination, others),
            DType::F64 => self.numbers::<f64>(destination, others),
            DType::F16 => self.narrow::<f16>(destination, others),
            DType::BF16 => self.narrow::<bf16>(destination, others),
            DType::I32 => self.numbers::<i32>(destination, others),
            DType::I64 => self.numbers::<i64>(destination, others),
        }
    }

    /// As [`Fold::run`], with the others in `scratch`, `stride` bytes apart in rank order.
    #[must_use]
    pub(crate) fn run_strided(&self, destination: &mut [u8], scratch: &[u8], stride: usize) -> bool {
        let (length, others) = (destination.len(), self.contributions - 1);
        if others > 0 && scratch.len() < (others - 1) * stride + length {
            return false;
        }
        let lane = |place: usize| place - usize::from(place > self.position);
        self.run(destination, &|place| &scratch[lane(place) * stride..][..length])
    }

    fn numbers<T: Number>(&self, destination: &mut [u8], others: Others<'_, '_>) -> bool {
        let Some(destination) = elements_mut::<T>(destination) else { return false };
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the processor was just asked for the feature that this copy of the loop is compiled with.
            return unsafe { numbers_avx2(self, destination, others) }.is_some();
        }
        numbers(self, destination, others).is_some()
    }

    fn narrow<T: Narrow>(&self, destination: &mut [u8], others: Others<'_, '_>) -> bool {
        let Some(destination) = elements_mut::<T>(destination) else { return false };
        #[cfg(target_arch = "x86_64")]
        if std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: as above.
            return unsafe { narrow_avx2(self, destination, others) }.is_some();
        }
        narrow(self, destination, others).is_some()
    }
}

/// Rounds to nearest, ties to even.
pub(crate) fn round(from: &[f32], to: &mut [bf16]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        unsafe { round_avx2(from, to) };
        return;
    }
    <bf16 as Narrow>::round(from, to);
}

/// Exact.
pub(crate) fn widen(from: &[bf16], to: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: as above.
        unsafe { widen_avx2(from, to) };
        return;
    }
    <bf16 as Narrow>::widen(from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn round_avx2(from: &[f32], to: &mut [bf16]) {
    <bf16 as Narrow>::round(from, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn widen_avx2(from: &[bf16], to: &mut [f32]) {
    <bf16 as Narrow>::widen(from, to);
}

/// A part of the contribution of `place`; `None` where it is too short or misaligned.
fn part<'a, T: Element>(others: Others<'_, 'a>, place: usize, range: &Range<usize>) -> Option<&'a [T]> {
    let bytes = range.start * size_of::<T>()..range.end * size_of::<T>();
    elements(others(place).get(bytes)?)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn numbers_avx2<T: Number>(how: &Fold, destination: &mut [T], others: Others<'_, '_>) -> Option<()> {
    numbers(how, destination, others)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn narrow_avx2<T: Narrow>(how: &Fold, destination: &mut [T], others: Others<'_, '_>) -> Option<()> {
    narrow(how, destination, others)
}

// Inlined into each caller, so that it is compiled once per instruction set.
#[inline(always)]
#[allow(clippy::inline_always)]
fn numbers<T: Number>(how: &Fold, destination: &mut [T], others: Others<'_, '_>) -> Option<()> {
    let (op, position) = (how.op, how.position);
    let mut lower = [T::default(); TILE];
    for start in (0..destination.len()).step_by(TILE) {
        let range = start..destination.len().min(start + TILE);
        let own = &mut destination[range.clone()];
        match position {
            0 => {}
            1 => T::after(op, own, part(others, 0, &range)?),
            _ => {
                let lower = &mut lower[..own.len()];
                T::both(op, lower, part(others, 0, &range)?, part(others, 1, &range)?);
                for place in 2..position {
                    T::before(op, lower, part(others, place, &range)?);
                }
                T::after(op, own, lower);
            }
        }
        for place in position + 1..how.contributions {
            T::before(op, own, part(others, place, &range)?);
        }
        if let (Op::Avg, Some(divisor)) = (op, how.divisor) {
            T::divide(own, divisor);
        }
    }
    Some(())
}

// As above.
#[inline(always)]
#[allow(clippy::inline_always)]
fn narrow<T: Narrow>(how: &Fold, destination: &mut [T], others: Others<'_, '_>) -> Option<()> {
    let (mut sum, mut next) = ([0f32; TILE], [0f32; TILE]);
    for start in (0..destination.len()).step_by(TILE) {
        let range = start..destination.len().min(start + TILE);
        let own = &mut destination[range.clone()];
        let sum = &mut sum[..own.len()];
        for place in 0..how.contributions {
            let source = if place == how.position { &*own } else { part(others, place, &range)? };
            if place == 0 {
                T::widen(source, sum);
            } else {
                T::add(how.op, sum, source, &mut next);
            }
        }
        if let (Op::Avg, Some(divisor)) = (how.op, how.divisor) {
            f32::divide(sum, divisor);
        }
        T::round(sum, own);
    }
    Some(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::buffer::{Buf, BufMut};
    use proptest::prelude::*;

    fn fold<T: Element>(op: Op, position: usize, own: &mut [T], others: &[T], divisor: Option<u32>) {
        let contributions = 1 + others.len() / own.len();
        let (how, stride) = (Fold { dtype: T::DTYPE, op, contributions, position, divisor }, size_of_val(own));
        assert!(how.run_strided(BufMut::from(own).into_bytes(), Buf::from(others).as_bytes(), stride));
    }

    #[test]
    fn rank_order_decides_the_rounding() {
        // (1e8 + 1) - 1e8 loses the 1; 1e8 - 1e8 + 1 keeps it: the order must be that of the ranks.
        let mut own = [1f32];
        fold(Op::Sum, 1, &mut own, &[1e8, -1e8], None);
        assert_eq!(own, [0.0]);
        let mut own = [1f32];
        fold(Op::Sum, 2, &mut own, &[1e8, -1e8], None);
        assert_eq!(own, [1.0]);
    }

    #[test]
    fn nan_of_any_rank_wins_in_min_and_max() {
        for (op, position) in [(Op::Min, 0), (Op::Min, 1), (Op::Max, 0), (Op::Max, 1)] {
            let mut own = [f32::NAN, 1.0];
            fold(op, position, &mut own, &[1.0, f32::NAN], Some(2));
            assert!(own.iter().all(|value| value.is_nan()), "{op} at {position}: {own:?}");
        }
    }

    #[test]
    fn of_two_zeros_the_lower_ranks_stays() {
        for op in [Op::Min, Op::Max] {
            let mut own = [0f32];
            fold(op, 1, &mut own, &[-0.0], None);
            assert!(own[0].is_sign_negative(), "{op}");
        }
    }

    #[test]
    fn sixteen_bit_floats_round_once() {
        // 256 + 1 rounds to 256 in bf16, so rounding at every step would lose all 64 ones.
        let mut own = [bf16::from_f32(256.0)];
        fold(Op::Sum, 0, &mut own, &[bf16::ONE; 64], None);
        assert_eq!(own[0].to_f32(), 320.0);
    }

    #[test]
    fn a_contribution_that_is_too_short_is_refused() {
        let how = Fold { dtype: DType::F32, op: Op::Sum, contributions: 2, position: 0, divisor: None };
        assert!(!how.run(&mut [0; 8], &|_| &[0; 4]));
    }

    proptest! {
        #[test]
        fn bf16_rounds_as_the_half_crate_does(bits: u32) {
            let mut own = [bf16::ZERO];
            Narrow::round(&[f32::from_bits(bits)], &mut own);
            prop_assert_eq!(own[0].to_bits(), bf16::from_f32(f32::from_bits(bits)).to_bits());
        }

        #[test]
        fn every_place_and_length_folds_as_the_serial_loop(
            position in 0..5usize, length in 1..2_500usize, op in 0..3usize, seed: u32,
        ) {
            let op = [Op::Sum, Op::Min, Op::Max][op];
            let value = |place: usize, at: usize| {
                let mixed = (seed ^ (place * 7919 + at) as u32).wrapping_mul(0x9e37_79b9);
                f64::from(mixed as i32) * 2f64.powi((mixed % 40) as i32 - 20)
            };
            let mut own: Vec<f64> = (0..length).map(|at| value(position, at)).collect();
            let others: Vec<f64> = (0..5).filter(|place| *place != position)
                .flat_map(|place| (0..length).map(move |at| value(place, at))).collect();
            fold(op, position, &mut own, &others, None);
            for (at, found) in own.iter().enumerate() {
                let serial = (1..5).fold(value(0, at), |left, place| match op {
                    Op::Min => left.min(value(place, at)),
                    Op::Max => left.max(value(place, at)),
                    _ => left + value(place, at),
                });
                prop_assert_eq!(found.to_bits(), serial.to_bits());
            }
        }
    }
}
