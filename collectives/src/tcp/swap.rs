//! All-reduce of large buffers between two ranks: each sends its whole buffer to the other, and both fold, chunk by chunk.
//!
//! As many bytes as a reduce-scatter and an all-gather (S each way), in one latency step, and nobody waits for sums. Both fold in
//! rank order, so both get the same bits (COLL-1, COLL-2).
//!
//! In place is safe: a chunk is folded only after this rank's own has been sent. No deadlock: a rank stops receiving only where it
//! has received more than it has sent, which cannot be so on both sides.

use super::transfer::{Transfer, quantum};
use crate::reduce::Fold;

/// Received chunks that may wait for their own to be sent.
const DEPTH: usize = 2;
/// Both chunks together stay within the second-level cache.
const CHUNK_BYTES: usize = 128 << 10;
/// Bytes of scratch.
pub(super) const SCRATCH_BYTES: usize = DEPTH * CHUNK_BYTES;

/// See the module.
#[derive(Debug)]
pub(super) struct Swap<'a> {
    buffer: &'a mut [u8],
    scratch: &'a mut [u8],
    fold: Fold,
    sent: usize,
    received: usize,
    folded: usize,
    /// False once a fold refused, which a correct set-up excludes; the engine then never reports success.
    sound: bool,
}

impl<'a> Swap<'a> {
    /// `scratch` has [`SCRATCH_BYTES`].
    pub(super) fn new(buffer: &'a mut [u8], scratch: &'a mut [u8], fold: Fold) -> Self {
        Swap { buffer, scratch, fold, sent: 0, received: 0, folded: 0, sound: true }
    }

    /// Folds every chunk that has come and gone.
    fn advance(&mut self) {
        while self.folded < self.buffer.len() {
            let end = self.buffer.len().min(self.folded + CHUNK_BYTES);
            if self.sent.min(self.received) < end {
                return;
            }
            let own = &mut self.buffer[self.folded..end];
            let place = (self.folded / CHUNK_BYTES) % DEPTH * CHUNK_BYTES;
            self.sound &= self.fold.run_strided(own, &self.scratch[place..], CHUNK_BYTES);
            self.folded = end;
        }
    }
}

impl Transfer for Swap<'_> {
    fn partner(&self, _: usize) -> bool {
        true
    }

    fn outgoing(&self, _: usize) -> &[u8] {
        &self.buffer[quantum(self.sent, self.buffer.len())]
    }

    fn sent(&mut self, _: usize, bytes: usize) {
        self.sent += bytes;
        self.advance();
    }

    fn incoming(&mut self, _: usize) -> &mut [u8] {
        let number = self.received / CHUNK_BYTES;
        if number >= self.folded / CHUNK_BYTES + DEPTH {
            return &mut [];
        }
        let (within, base) = (self.received % CHUNK_BYTES, number % DEPTH * CHUNK_BYTES);
        let end = CHUNK_BYTES.min(self.buffer.len() - number * CHUNK_BYTES);
        &mut self.scratch[base + within..base + end]
    }

    fn received(&mut self, _: usize, bytes: usize) {
        self.received += bytes;
        self.advance();
    }

    fn expects(&self, _: usize) -> bool {
        !self.sound || self.received < self.buffer.len()
    }

    fn owes(&self, _: usize) -> bool {
        self.sent < self.buffer.len()
    }
}
