//! All-reduce of large buffers over two neighbours only: partial sums run down the chain 0, 1, .. n-1, sums run on
//! round it.
//!
//! A textbook ring starts every segment's sum at another rank; this one starts all at rank 0, so that the sum is the
//! serial one in rank order (COLL-2). Bytes sent per rank: 2 S, against 2 S (n-1)/n; latency steps: 2(n-1).
//! Rank r receives from r-1 first the partial sums, adds its own and passes them on; rank n-1 has the sums and sends
//! them to 0, 1, .. n-2. In place is safe: a sum comes back only after its partial sum went out.

use super::transfer::{Transfer, quantum};
use crate::reduce::Fold;

/// Partial sums are added in pieces of this size: within the second-level cache, and soon passed on.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Ring<'a> {
    buffer: &'a mut [u8],
    scratch: &'a mut [u8],
    fold: Fold,
    rank: usize,
    world: usize,
    /// Bytes of partial sums received, and those of them already added to the own buffer.
    partial_received: usize,
    added: usize,
    /// Bytes of partial sums and of sums passed on.
    partial_sent: usize,
    sums_sent: usize,
    sums_received: usize,
    sound: bool,
}

impl<'a> Ring<'a> {
    /// `fold` says type and operation; `scratch` has [`CHUNK_BYTES`].
    pub(super) fn new(buffer: &'a mut [u8], scratch: &'a mut [u8], fold: Fold, rank: usize, world: usize) -> Self {
        let last = rank == world - 1;
        let divisor = if last { fold.divisor } else { None };
        let added = if rank == 0 { buffer.len() } else { 0 };
        Ring {
            // The partial sum of all ranks before is place 0, the own value place 1.
            fold: Fold { contributions: 2, position: 1, divisor, ..fold },
            partial_received: added,
            added,
            buffer,
            scratch,
            rank,
            world,
            partial_sent: 0,
            sums_sent: 0,
            sums_received: 0,
            sound: true,
        }
    }

    fn next(&self) -> usize {
        (self.rank + 1) % self.world
    }

    fn previous(&self) -> usize {
        (self.rank + self.world - 1) % self.world
    }

    fn last(&self) -> bool {
        self.rank == self.world - 1
    }

    /// The rank before the last is where the round ends.
    fn passes_sums(&self) -> bool {
        self.rank != self.world - 2
    }

    fn add(&mut self) {
        let end = self.buffer.len().min(self.added + CHUNK_BYTES);
        if self.partial_received == end {
            let length = end - self.added;
            let (own, partial) = (&mut self.buffer[self.added..end], &self.scratch[..length]);
            self.sound &= self.fold.run_strided(own, partial, CHUNK_BYTES);
            self.added = end;
        }
    }
}

impl Transfer for Ring<'_> {
    fn partner(&self, rank: usize) -> bool {
        rank == self.next() || rank == self.previous()
    }

    fn outgoing(&self, rank: usize) -> &[u8] {
        if rank != self.next() {
            return &[];
        }
        let whole = self.buffer.len();
        if !self.last() && self.partial_sent < whole {
            return &self.buffer[quantum(self.partial_sent, self.added)];
        }
        if !self.passes_sums() {
            return &[];
        }
        let known = if self.last() { self.added } else { self.sums_received };
        &self.buffer[quantum(self.sums_sent, known)]
    }

    fn sent(&mut self, _: usize, bytes: usize) {
        if !self.last() && self.partial_sent < self.buffer.len() {
            self.partial_sent += bytes;
        } else {
            self.sums_sent += bytes;
        }
    }

    fn incoming(&mut self, rank: usize) -> &mut [u8] {
        if rank != self.previous() {
            return &mut [];
        }
        let whole = self.buffer.len();
        if self.partial_received < whole {
            let end = CHUNK_BYTES.min(whole - self.added);
            return &mut self.scratch[self.partial_received - self.added..end];
        }
        if self.last() {
            return &mut [];
        }
        &mut self.buffer[quantum(self.sums_received, whole)]
    }

    fn received(&mut self, _: usize, bytes: usize) {
        if self.partial_received < self.buffer.len() {
            self.partial_received += bytes;
            self.add();
        } else {
            self.sums_received += bytes;
        }
    }

    fn expects(&self, rank: usize) -> bool {
        let whole = self.buffer.len();
        !self.sound
            || (rank == self.previous()
                && (self.partial_received < whole || (!self.last() && self.sums_received < whole)))
    }

    fn owes(&self, rank: usize) -> bool {
        let whole = self.buffer.len();
        rank == self.next()
            && ((!self.last() && self.partial_sent < whole) || (self.passes_sums() && self.sums_sent < whole))
    }
}
