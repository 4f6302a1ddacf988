//! All-reduce of large buffers over two neighbours only: partial sums run down the chain 0, 1, .. n-1, sums run on
//! round it.
//!
//! A textbook ring starts every segment's sum at another rank; this one starts all at rank 0, so that the sum is the
//! serial one in rank order (COLL-2). Bytes sent per rank: 2 S, against 2 S (n-1)/n; latency steps: 2(n-1).
//! Rank r receives from r-1 first the partial sums, adds its own and passes them on; rank n-1 has the sums and sends
//! them to 0, 1, .. n-2. In place is safe: a sum comes back only after its partial sum went out.

use std::ops::Range;

use super::transfer::{Transfer, quantum};
use crate::reduce::Fold;

/// Partial sums are added in pieces of this size: within the second-level cache, and soon passed on.
pub(super) const CHUNK_BYTES: usize = 64 << 10;

/// Where a rank stands in the chain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// From 0.
    pub(crate) place: usize,
    pub(crate) length: usize,
    /// The ranks before and after it; the first is after the last.
    pub(crate) previous: usize,
    pub(crate) next: usize,
}

/// What one place of the chain adds.
pub(crate) struct Part<'a, 'b> {
    /// Sums in the end. The first place has its own sum here; others the contribution of the fold's position.
    pub(crate) buffer: &'a mut [u8],
    /// Contributions of the ranks that share this place, by the fold's position less one, which counts the partial sum.
    pub(crate) beside: &'b dyn Fn(usize, Range<usize>) -> &'b [u8],
}

/// See the module.
pub(super) struct Ring<'a, 'b> {
    part: Part<'a, 'b>,
    scratch: &'a mut [u8],
    fold: Fold,
    link: Link,
    /// Bytes of partial sums received, and those of them already added to the own buffer.
    partial_received: usize,
    added: usize,
    /// Bytes of partial sums and of sums passed on.
    partial_sent: usize,
    sums_sent: usize,
    sums_received: usize,
    sound: bool,
}

/// For a place that one rank has alone.
pub(super) const ALONE: &dyn Fn(usize, Range<usize>) -> &'static [u8] = &|_, _| &[];

impl<'a, 'b> Ring<'a, 'b> {
    /// `fold` counts the partial sum as its first contribution; `scratch` has [`CHUNK_BYTES`].
    pub(super) fn new(part: Part<'a, 'b>, scratch: &'a mut [u8], fold: Fold, link: Link) -> Self {
        let last = link.place == link.length - 1;
        let divisor = if last { fold.divisor } else { None };
        let added = if link.place == 0 { part.buffer.len() } else { 0 };
        Ring {
            fold: Fold { divisor, ..fold },
            partial_received: added,
            added,
            part,
            scratch,
            link,
            partial_sent: 0,
            sums_sent: 0,
            sums_received: 0,
            sound: true,
        }
    }

    fn last(&self) -> bool {
        self.link.place == self.link.length - 1
    }

    /// The place before the last is where the round ends.
    fn passes_sums(&self) -> bool {
        self.link.place + 2 != self.link.length
    }

    fn add(&mut self) {
        let end = self.part.buffer.len().min(self.added + CHUNK_BYTES);
        if self.partial_received == end {
            let range = self.added..end;
            let (own, partial) = (&mut self.part.buffer[range.clone()], &self.scratch[..range.len()]);
            let beside = self.part.beside;
            let others = |place: usize| if place == 0 { partial } else { beside(place - 1, range.clone()) };
            self.sound &= self.fold.run(own, &others);
            self.added = end;
        }
    }
}

impl Transfer for Ring<'_, '_> {
    fn partner(&self, rank: usize) -> bool {
        rank == self.link.next || rank == self.link.previous
    }

    fn outgoing(&self, rank: usize) -> &[u8] {
        if rank != self.link.next {
            return &[];
        }
        let whole = self.part.buffer.len();
        if !self.last() && self.partial_sent < whole {
            return &self.part.buffer[quantum(self.partial_sent, self.added)];
        }
        if !self.passes_sums() {
            return &[];
        }
        let known = if self.last() { self.added } else { self.sums_received };
        &self.part.buffer[quantum(self.sums_sent, known)]
    }

    fn sent(&mut self, _: usize, bytes: usize) {
        if !self.last() && self.partial_sent < self.part.buffer.len() {
            self.partial_sent += bytes;
        } else {
            self.sums_sent += bytes;
        }
    }

    fn incoming(&mut self, rank: usize) -> &mut [u8] {
        if rank != self.link.previous {
            return &mut [];
        }
        let whole = self.part.buffer.len();
        if self.partial_received < whole {
            let end = CHUNK_BYTES.min(whole - self.added);
            return &mut self.scratch[self.partial_received - self.added..end];
        }
        if self.last() {
            return &mut [];
        }
        &mut self.part.buffer[quantum(self.sums_received, whole)]
    }

    fn received(&mut self, _: usize, bytes: usize) {
        if self.partial_received < self.part.buffer.len() {
            self.partial_received += bytes;
            self.add();
        } else {
            self.sums_received += bytes;
        }
    }

    fn expects(&self, rank: usize) -> bool {
        let whole = self.part.buffer.len();
        !self.sound
            || (rank == self.link.previous
                && (self.partial_received < whole || (!self.last() && self.sums_received < whole)))
    }

    fn owes(&self, rank: usize) -> bool {
        let whole = self.part.buffer.len();
        rank == self.link.next
            && ((!self.last() && self.partial_sent < whole) || (self.passes_sums() && self.sums_sent < whole))
    }
}
