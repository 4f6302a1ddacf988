//! 32-bit floats that cross the wire in 16 bits: rounded just before they go and widened as they come, so that neither keeps the
//! wire waiting.

use std::ops::Range;

use half::bf16;

use crate::buffer::elements_mut;
use crate::reduce;

/// Bytes of a slice that are rounded ahead of what has been sent of it.
const AHEAD_BYTES: usize = 256 << 10;

/// The caller's buffer beside that of the wire, and how far each slice is. Places are bytes of the wire.
#[derive(Debug)]
pub(super) struct Wide<'a> {
    values: &'a mut [f32],
    /// By owner.
    rounded: Vec<usize>,
    widened: Vec<usize>,
}

impl<'a> Wide<'a> {
    pub(super) fn new(values: &'a mut [f32], world: usize) -> Self {
        Wide { values, rounded: vec![0; world], widened: vec![0; world] }
    }

    /// Bytes of the slice of `owner` that can be sent.
    pub(super) fn rounded(&self, owner: usize) -> usize {
        self.rounded[owner]
    }

    /// Rounds what is wanted of a slice, of which `sent` bytes have gone. False where memory is misaligned.
    #[must_use]
    pub(super) fn round_ahead(&mut self, owner: usize, slice: &Range<usize>, sent: usize, wire: &mut [u8]) -> bool {
        let end = slice.len().min((sent + AHEAD_BYTES) & !1);
        let start = self.rounded[owner];
        if start >= end {
            return true;
        }
        self.rounded[owner] = end;
        self.round(slice.start + start..slice.start + end, wire)
    }

    /// Rounds these bytes of the wire.
    #[must_use]
    pub(super) fn round(&mut self, bytes: Range<usize>, wire: &mut [u8]) -> bool {
        let Some(narrow) = elements_mut::<bf16>(&mut wire[bytes.clone()]) else { return false };
        reduce::round(&self.values[bytes.start / 2..bytes.end / 2], narrow);
        true
    }

    /// Widens what has come of the sums of `owner`: the first `received` bytes.
    #[must_use]
    pub(super) fn widen_more(&mut self, owner: usize, slice: &Range<usize>, received: usize, wire: &mut [u8]) -> bool {
        let (start, end) = (self.widened[owner], received & !1);
        self.widened[owner] = end;
        self.widen(slice.start + start..slice.start + end, wire)
    }

    /// Widens these bytes of the wire.
    #[must_use]
    pub(super) fn widen(&mut self, bytes: Range<usize>, wire: &mut [u8]) -> bool {
        let Some(narrow) = elements_mut::<bf16>(&mut wire[bytes.clone()]) else { return false };
        reduce::widen(narrow, &mut self.values[bytes.start / 2..bytes.end / 2]);
        true
    }
}
