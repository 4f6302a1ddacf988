//! How parameters are packed into buckets, and buckets into parts.

use std::ops::Range;

use crate::optimizer::BLOCK;

/// How parameters are packed.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(super) buckets: Vec<Bucket>,
    /// Of each unit, among all values.
    pub(super) places: Vec<Range<usize>>,
    pub(super) world: usize,
}

#[derive(Clone, Debug)]
pub(super) struct Bucket {
    /// In the order in which they come; those without parameters are in none.
    pub(super) units: Vec<usize>,
    /// Among all values, padding included.
    pub(super) place: Range<usize>,
}

/// Sizes at which buckets are closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    /// The first, which should leave early.
    pub(crate) first_bytes: usize,
    /// All others.
    pub(crate) bytes: usize,
    /// Makes equal parts for so many ranks; 1 where the optimizer is not sharded.
    pub(crate) parts: usize,
}

impl Layout {
    /// A bucket is closed by the unit with which it reaches its size; a unit is never split.
    pub(crate) fn new(unit_lengths: &[usize], cut: Cut) -> Self {
        let mut places = vec![0..0; unit_lengths.len()];
        let mut buckets: Vec<Bucket> = Vec::new();
        let mut open = Bucket { units: Vec::new(), place: 0..0 };
        for (unit, length) in unit_lengths.iter().enumerate().rev().filter(|(_, length)| **length > 0) {
            places[unit] = open.place.end..open.place.end + length;
            open.place.end += length;
            open.units.push(unit);
            let limit = if buckets.is_empty() { cut.first_bytes.min(cut.bytes) } else { cut.bytes };
            if 4 * open.place.len() >= limit {
                open = close(&mut buckets, open, cut.parts);
            }
        }
        if !open.units.is_empty() {
            close(&mut buckets, open, cut.parts);
        }
        Layout { buckets, places, world: cut.parts }
    }

    /// Number of buckets.
    pub(crate) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Number of all values, padding included.
    pub(crate) fn length(&self) -> usize {
        self.buckets.last().map_or(0, |bucket| bucket.place.end)
    }

    /// Where a unit's parameters lie.
    pub(crate) fn place(&self, unit: usize) -> Range<usize> {
        self.places[unit].clone()
    }

    /// Whether each rank keeps the optimizer's memory of its own parts only.
    pub(crate) fn is_sharded(&self) -> bool {
        self.world > 1
    }

    /// A rank's part of each bucket, of `ranks` equal ones as far as they can be.
    pub(crate) fn parts(&self, rank: usize, ranks: usize) -> Vec<Range<usize>> {
        let part = |bucket: &Bucket| {
            let cut = |at: usize| bucket.place.start + bucket.place.len() * at / ranks.max(1);
            cut(rank)..cut(rank + 1)
        };
        self.buckets.iter().map(part).collect()
    }

    /// What a rank updates, by bucket.
    pub(crate) fn owned(&self, rank: usize) -> Vec<Range<usize>> {
        if self.is_sharded() { self.parts(rank, self.world) } else { self.parts(0, 1) }
    }
}

fn close(buckets: &mut Vec<Bucket>, mut bucket: Bucket, parts: usize) -> Bucket {
    if parts > 1 {
        // Whole blocks in every part, so that the gradient's length is summed in the same order as without parts.
        let length = bucket.place.len().next_multiple_of(parts * BLOCK);
        bucket.place.end = bucket.place.start + length;
    }
    let end = bucket.place.end;
    buckets.push(bucket);
    Bucket { units: Vec::new(), place: end..end }
}
