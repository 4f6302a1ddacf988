//! Typed views of caller memory: what an operation reads and writes, with the element type known at run time.

use std::fmt;

use half::{bf16, f16};

/// Type of the elements of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary64.
    F64,
    /// IEEE binary16; summed in `f32`.
    F16,
    /// The upper half of a binary32; summed in `f32`.
    BF16,
    /// Two's complement, wrapping.
    I32,
    /// Two's complement, wrapping.
    I64,
}

impl DType {
    /// All types, in code order.
    pub const ALL: [DType; 6] = [DType::F32, DType::F64, DType::F16, DType::BF16, DType::I32, DType::I64];

    /// Bytes per element.
    pub const fn size(self) -> usize {
        match self {
            DType::F64 | DType::I64 => 8,
            DType::F32 | DType::I32 => 4,
            DType::F16 | DType::BF16 => 2,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I64 => "i64",
        })
    }
}

/// How elements of several ranks become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Sum in rank order; integers wrap.
    Sum,
    /// Sum in rank order, then divided by the number of ranks (integers: towards zero).
    Avg,
    /// Least; a NaN of any rank wins, of two zeros the lower rank's.
    Min,
    /// Greatest; a NaN of any rank wins, of two zeros the lower rank's.
    Max,
}

impl Op {
    /// All operations, in code order.
    pub const ALL: [Op; 4] = [Op::Sum, Op::Avg, Op::Min, Op::Max];
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Op::Sum => "sum",
            Op::Avg => "avg",
            Op::Min => "min",
            Op::Max => "max",
        })
    }
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for f64 {}
    impl Sealed for half::f16 {}
    impl Sealed for half::bf16 {}
    impl Sealed for i32 {}
    impl Sealed for i64 {}
}

/// Element types that can cross the wire: no padding, and every bit pattern is a value.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {
    /// The code of this type.
    const DTYPE: DType;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for f16 {
    const DTYPE: DType = DType::F16;
}
impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}
impl Element for i64 {
    const DTYPE: DType = DType::I64;
}

/// Read-only view of a caller's elements.
#[derive(Clone, Copy, Debug)]
pub struct Buf<'a> {
    bytes: &'a [u8],
    dtype: DType,
}

impl<'a> Buf<'a> {
    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// True where there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements' memory.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

/// View of a caller's elements that an operation overwrites; after an error their values are unspecified.
#[derive(Debug)]
pub struct BufMut<'a> {
    bytes: &'a mut [u8],
    dtype: DType,
}

impl<'a> BufMut<'a> {
    /// Type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// True where there is no element.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements' memory.
    pub fn into_bytes(self) -> &'a mut [u8] {
        self.bytes
    }
}

impl<'a, T: Element> From<&'a [T]> for Buf<'a> {
    fn from(elements: &'a [T]) -> Self {
        // SAFETY: `Element` is sealed to types without padding; the view covers exactly the slice's memory and
        // lifetime.
        let bytes = unsafe { std::slice::from_raw_parts(elements.as_ptr().cast(), std::mem::size_of_val(elements)) };
        Buf { bytes, dtype: T::DTYPE }
    }
}

impl<'a, T: Element> From<&'a Vec<T>> for Buf<'a> {
    fn from(elements: &'a Vec<T>) -> Self {
        Buf::from(elements.as_slice())
    }
}

impl<'a, T: Element> From<&'a mut [T]> for BufMut<'a> {
    fn from(elements: &'a mut [T]) -> Self {
        let size = std::mem::size_of_val(elements);
        // SAFETY: as above, and every bit pattern is a value of a sealed `Element`, so any bytes may be stored.
        let bytes = unsafe { std::slice::from_raw_parts_mut(elements.as_mut_ptr().cast(), size) };
        BufMut { bytes, dtype: T::DTYPE }
    }
}

impl<'a, T: Element> From<&'a mut Vec<T>> for BufMut<'a> {
    fn from(elements: &'a mut Vec<T>) -> Self {
        BufMut::from(elements.as_mut_slice())
    }
}

impl<'a> From<BufMut<'a>> for Buf<'a> {
    fn from(view: BufMut<'a>) -> Self {
        Buf { bytes: view.bytes, dtype: view.dtype }
    }
}

/// Sees bytes as elements; `None` where they are misaligned or not a whole number of elements.
pub(crate) fn elements<T: Element>(bytes: &[u8]) -> Option<&[T]> {
    // SAFETY: every bit pattern is a value of a sealed `Element`.
    let (before, middle, after) = unsafe { bytes.align_to::<T>() };
    (before.is_empty() && after.is_empty()).then_some(middle)
}

/// As [`elements`], to be written.
pub(crate) fn elements_mut<T: Element>(bytes: &mut [u8]) -> Option<&mut [T]> {
    // SAFETY: every bit pattern is a value of a sealed `Element`, and none has padding.
    let (before, middle, after) = unsafe { bytes.align_to_mut::<T>() };
    (before.is_empty() && after.is_empty()).then_some(middle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_know_type_and_length() {
        let mut values = [bf16::ONE; 3];
        let view = Buf::from(&values[..]);
        assert_eq!((view.dtype(), view.len(), view.as_bytes().len()), (DType::BF16, 3, 6));
        let view = BufMut::from(&mut values[..]);
        assert_eq!((view.dtype(), view.len(), view.is_empty()), (DType::BF16, 3, false));
    }
}
