//! Reduce-scatter and all-gather of large buffers, everybody with everybody, chunk by chunk in one pass.
//!
//! Each rank owns one slice. It sends every other rank its part of that rank's slice, sums its own as soon as a chunk
//! has come from all, and sends the sums on while later chunks arrive. Bytes sent per rank: 2 S (n-1)/n; latency
//! steps: 2. The owner sums in rank order, so the result does not depend on timing or chunk size (COLL-1, COLL-2).
//!
//! No deadlock: first parts are sent whatever is received, and sums depend on first parts only. In place is safe: sums
//! of a chunk can come from its owner only after this rank's part of it has been sent.

use std::ops::Range;

use super::transfer::{Transfer, quantum};
use super::wide::Wide;
use crate::reduce::Fold;

/// Chunks that one rank may be ahead of the slowest.
const DEPTH: usize = 2;
/// Received chunks together stay within the second-level cache.
const SCRATCH_BYTES_MAX: usize = 512 << 10;
const CHUNK_BYTES_MAX: usize = 128 << 10;
const CHUNK_BYTES_MIN: usize = 8 << 10;

/// Where the parts are read and the sums written.
#[derive(Debug)]
pub(super) enum Storage<'a> {
    /// All-reduce: the caller's buffer is both.
    Whole(&'a mut [u8]),
    /// Reduce-scatter: `own` holds a copy of this rank's part of its own slice at the start.
    Split { source: &'a [u8], own: &'a mut [u8] },
}

/// Bytes done with one peer.
#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    parts_sent: usize,
    parts_received: usize,
    sums_sent: usize,
    sums_received: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pairwise<'a> {
    storage: Storage<'a>,
    /// Byte ranges of the slices, by owner.
    slices: Vec<Range<usize>>,
    rank: usize,
    fold: Fold,
    scratch: &'a mut [u8],
    /// Where the storage holds what goes over the wire, and the caller's values are wider.
    wide: Option<Wide<'a>>,
    chunk: usize,
    progress: Vec<Progress>,
    /// Bytes of the own slice that are final.
    reduced: usize,
    /// False once a fold refused, which a correct set-up excludes; the engine then never reports success.
    sound: bool,
}

/// Bytes of scratch that `world` ranks need, and of one chunk.
pub(super) fn scratch_bytes(world: usize) -> (usize, usize) {
    let lanes = world - 1;
    let chunk = (SCRATCH_BYTES_MAX / (lanes * DEPTH)).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
    // Whole cache lines, so that every lane is aligned for every element type.
    let chunk = chunk & !63;
    (chunk * lanes * DEPTH, chunk)
}

/// Cuts `count` elements into `world` slices that differ by one element at most; byte ranges.
pub(super) fn slices(count: usize, size: usize, world: usize) -> Vec<Range<usize>> {
    let (each, longer) = (count / world, count % world);
    let start = |rank: usize| (rank * each + rank.min(longer)) * size;
    (0..world).map(|rank| start(rank)..start(rank + 1)).collect()
}

impl<'a> Pairwise<'a> {
    /// `scratch` has at least [`scratch_bytes`].
    pub(super) fn new(
        storage: Storage<'a>,
        slices: Vec<Range<usize>>,
        rank: usize,
        fold: Fold,
        scratch: &'a mut [u8],
    ) -> Self {
        let world = slices.len();
        let (_, chunk) = scratch_bytes(world);
        Pairwise {
            storage,
            slices,
            rank,
            fold,
            scratch,
            wide: None,
            chunk,
            progress: vec![Progress::default(); world],
            reduced: 0,
            sound: true,
        }
    }

    /// All-reduce of `values` as 16-bit floats: the storage holds as many, to be filled.
    pub(super) fn narrowing(mut self, values: &'a mut [f32]) -> Self {
        self.wide = Some(Wide::new(values, self.slices.len()));
        for rank in 0..self.slices.len() {
            if rank != self.rank {
                self.round_ahead(rank);
            }
        }
        self
    }

    fn round_ahead(&mut self, rank: usize) {
        if let (Some(wide), Storage::Whole(wire)) = (&mut self.wide, &mut self.storage) {
            self.sound &= wide.round_ahead(rank, &self.slices[rank], self.progress[rank].parts_sent, wire);
        }
    }

    fn own(&self) -> Range<usize> {
        self.slices[self.rank].clone()
    }

    fn gathers(&self) -> bool {
        matches!(self.storage, Storage::Whole(_))
    }

    fn lane(&self, rank: usize) -> usize {
        rank - usize::from(rank > self.rank)
    }

    /// Sums every chunk that has come from all.
    fn advance(&mut self) {
        let own = self.own();
        while self.reduced < own.len() {
            let end = own.len().min(self.reduced + self.chunk);
            let peers = self.progress.iter().enumerate().filter(|(rank, _)| *rank != self.rank);
            if peers.map(|(_, peer)| peer.parts_received).min().is_some_and(|least| least < end) {
                return;
            }
            let slot = (self.reduced / self.chunk) % DEPTH * self.chunk * (self.slices.len() - 1);
            let bytes = own.start + self.reduced..own.start + end;
            if let (Some(wide), Storage::Whole(wire)) = (&mut self.wide, &mut self.storage) {
                self.sound &= wide.round(bytes.clone(), wire);
            }
            let destination = match &mut self.storage {
                Storage::Whole(buffer) => &mut buffer[bytes.clone()],
                Storage::Split { own, .. } => &mut own[self.reduced..end],
            };
            self.sound &= self.fold.run_strided(destination, &self.scratch[slot..], self.chunk);
            if let (Some(wide), Storage::Whole(wire)) = (&mut self.wide, &mut self.storage) {
                self.sound &= wide.widen(bytes, wire);
            }
            self.reduced = end;
        }
    }
}

impl Transfer for Pairwise<'_> {
    fn partner(&self, rank: usize) -> bool {
        rank != self.rank
    }

    fn outgoing(&self, rank: usize) -> &[u8] {
        let source = match &self.storage {
            Storage::Whole(buffer) => &**buffer,
            Storage::Split { source, .. } => source,
        };
        let (slice, progress) = (&self.slices[rank], &self.progress[rank]);
        if progress.parts_sent < slice.len() {
            let ready = self.wide.as_ref().map_or(slice.len(), |wide| wide.rounded(rank));
            return &source[quantum(slice.start + progress.parts_sent, slice.start + ready)];
        }
        if !self.gathers() {
            return &[];
        }
        let own = self.own();
        &source[quantum(own.start + progress.sums_sent, own.start + self.reduced)]
    }

    fn sent(&mut self, rank: usize, bytes: usize) {
        let parts = self.slices[rank].len();
        let progress = &mut self.progress[rank];
        if progress.parts_sent < parts {
            progress.parts_sent += bytes;
            self.round_ahead(rank);
        } else {
            progress.sums_sent += bytes;
        }
    }

    fn incoming(&mut self, rank: usize) -> &mut [u8] {
        let (own, lane, progress) = (self.own(), self.lane(rank), self.progress[rank]);
        if progress.parts_received < own.len() {
            let number = progress.parts_received / self.chunk;
            if number >= self.reduced / self.chunk + DEPTH {
                return &mut [];
            }
            let within = progress.parts_received % self.chunk;
            let end = self.chunk.min(own.len() - number * self.chunk);
            let base = (number % DEPTH * (self.slices.len() - 1) + lane) * self.chunk;
            return &mut self.scratch[base + within..base + end];
        }
        let slice = self.slices[rank].clone();
        match &mut self.storage {
            Storage::Whole(buffer) => &mut buffer[quantum(slice.start + progress.sums_received, slice.end)],
            Storage::Split { .. } => &mut [],
        }
    }

    fn received(&mut self, rank: usize, bytes: usize) {
        let parts = self.own().len();
        let progress = &mut self.progress[rank];
        if progress.parts_received < parts {
            progress.parts_received += bytes;
            self.advance();
        } else {
            progress.sums_received += bytes;
            let received = progress.sums_received;
            if let (Some(wide), Storage::Whole(wire)) = (&mut self.wide, &mut self.storage) {
                self.sound &= wide.widen_more(rank, &self.slices[rank], received, wire);
            }
        }
    }

    fn expects(&self, rank: usize) -> bool {
        let progress = &self.progress[rank];
        !self.sound
            || progress.parts_received < self.own().len()
            || (self.gathers() && progress.sums_received < self.slices[rank].len())
    }

    fn owes(&self, rank: usize) -> bool {
        let progress = &self.progress[rank];
        progress.parts_sent < self.slices[rank].len() || (self.gathers() && progress.sums_sent < self.own().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn slices_cover_everything_in_order(count in 0..5_000usize, world in 1..20usize) {
            let slices = slices(count, 4, world);
            let mut at = 0;
            for slice in &slices {
                prop_assert_eq!(slice.start, at);
                at = slice.end;
            }
            prop_assert_eq!(at, count * 4);
        }
    }

    #[test]
    fn scratch_stays_in_the_second_level_cache() {
        for world in 2..=16 {
            let (all, chunk) = scratch_bytes(world);
            assert!(all <= SCRATCH_BYTES_MAX && chunk.is_multiple_of(64), "world {world}: {all} of {chunk}");
        }
    }
}
