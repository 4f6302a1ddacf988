//! Arithmetic of each element type, as loops over whole slices. NaN wins in `Min` and `Max` whatever its rank; of equal
//! values the first stays.

use half::{bf16, f16, slice::HalfFloatSliceExt};

use crate::buffer::{Element, Op};

/// Types that are folded in themselves. The left operand is always that of the lower ranks.
pub(super) trait Number: Element {
    /// `to = left ∘ right`.
    fn both(op: Op, to: &mut [Self], left: &[Self], right: &[Self]);
    /// `left = left ∘ right`.
    fn before(op: Op, left: &mut [Self], right: &[Self]);
    /// `right = left ∘ right`.
    fn after(op: Op, right: &mut [Self], left: &[Self]);
    fn divide(sum: &mut [Self], divisor: u32);
}

/// Types that are folded in `f32`.
pub(super) trait Narrow: Element {
    fn widen(from: &[Self], to: &mut [f32]);
    /// `sum = sum ∘ next`; `spare` is as long as any tile.
    fn add(op: Op, sum: &mut [f32], next: &[Self], spare: &mut [f32]);
    /// To nearest, ties to even.
    fn round(from: &[f32], to: &mut [Self]);
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn zip_both<T: Copy>(to: &mut [T], left: &[T], right: &[T], function: impl Fn(T, T) -> T) {
    for ((to, left), right) in to.iter_mut().zip(left).zip(right) {
        *to = function(*left, *right);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn zip<T: Copy, U: Copy>(into: &mut [T], other: &[U], function: impl Fn(T, U) -> T) {
    for (into, other) in into.iter_mut().zip(other) {
        *into = function(*into, *other);
    }
}

macro_rules! number {
    ($type:ty, $sum:expr, $least:expr, $greatest:expr, $divide:expr) => {
        impl Number for $type {
            #[inline]
            fn both(op: Op, to: &mut [Self], left: &[Self], right: &[Self]) {
                match op {
                    Op::Sum | Op::Avg => zip_both(to, left, right, $sum),
                    Op::Min => zip_both(to, left, right, $least),
                    Op::Max => zip_both(to, left, right, $greatest),
                }
            }
            #[inline]
            fn before(op: Op, left: &mut [Self], right: &[Self]) {
                match op {
                    Op::Sum | Op::Avg => zip(left, right, $sum),
                    Op::Min => zip(left, right, $least),
                    Op::Max => zip(left, right, $greatest),
                }
            }
            #[inline]
            fn after(op: Op, right: &mut [Self], left: &[Self]) {
                match op {
                    Op::Sum | Op::Avg => zip(right, left, |right, left| $sum(left, right)),
                    Op::Min => zip(right, left, |right, left| $least(left, right)),
                    Op::Max => zip(right, left, |right, left| $greatest(left, right)),
                }
            }
            #[inline]
            fn divide(sum: &mut [Self], divisor: u32) {
                let divide = $divide;
                for value in sum {
                    *value = divide(*value, divisor);
                }
            }
        }
    };
}

// `b != b` is the NaN test that the compiler turns into one vector comparison.
#[inline(always)]
#[allow(clippy::inline_always, clippy::eq_op)]
fn least<T: Copy + PartialOrd>(a: T, b: T) -> T {
    if b < a || b != b { b } else { a }
}

#[inline(always)]
#[allow(clippy::inline_always, clippy::eq_op)]
fn greatest<T: Copy + PartialOrd>(a: T, b: T) -> T {
    if b > a || b != b { b } else { a }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn plus<T: std::ops::Add<Output = T>>(a: T, b: T) -> T {
    a + b
}

number!(f32, plus::<f32>, least::<f32>, greatest::<f32>, |value: f32, divisor: u32| value / divisor as f32);
number!(f64, plus::<f64>, least::<f64>, greatest::<f64>, |value: f64, divisor: u32| value / f64::from(divisor));
number!(i32, i32::wrapping_add, least::<i32>, greatest::<i32>, |value: i32, divisor: u32| value / divisor as i32);
number!(i64, i64::wrapping_add, least::<i64>, greatest::<i64>, |value: i64, divisor: u32| value / i64::from(divisor));

impl Narrow for f16 {
    #[inline]
    fn widen(from: &[f16], to: &mut [f32]) {
        from.convert_to_f32_slice(to);
    }
    #[inline]
    fn add(op: Op, sum: &mut [f32], next: &[f16], spare: &mut [f32]) {
        let spare = &mut spare[..next.len()];
        next.convert_to_f32_slice(spare);
        f32::before(op, sum, spare);
    }
    #[inline]
    fn round(from: &[f32], to: &mut [f16]) {
        to.convert_from_f32_slice(from);
    }
}

#[inline(always)]
#[allow(clippy::inline_always)]
fn wide(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

impl Narrow for bf16 {
    #[inline]
    fn widen(from: &[bf16], to: &mut [f32]) {
        zip(to, from, |_, value| wide(value));
    }
    #[inline]
    fn add(op: Op, sum: &mut [f32], next: &[bf16], _: &mut [f32]) {
        match op {
            Op::Sum | Op::Avg => zip(sum, next, |sum, value| sum + wide(value)),
            Op::Min => zip(sum, next, |sum, value| least(sum, wide(value))),
            Op::Max => zip(sum, next, |sum, value| greatest(sum, wide(value))),
        }
    }
    /// Without a branch, so that it becomes vectors: `half`'s own does not.
    #[inline]
    fn round(from: &[f32], to: &mut [bf16]) {
        zip(to, from, |_, value| {
            let bits = value.to_bits();
            let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
            let quiet = (bits >> 16) | 0x40;
            bf16::from_bits(if value.is_nan() { quiet } else { nearest } as u16)
        });
    }
}
