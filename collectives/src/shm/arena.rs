//! Buffers in memory that all ranks of the host see, so that sums are made in place: ranges of this rank's segment.

use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::FallocateFlags;

use super::segment::{ARENA, Segment};
use crate::error::Error;

/// Ranges are whole pages; from this size on whole huge ones.
const HUGE_PAGE: usize = 2 << 20;
const PAGE: usize = 4096;

/// What of a segment's arena is in use.
#[derive(Debug)]
pub(crate) struct Arena {
    segment: Arc<Segment>,
    /// End by start, as offsets in the segment.
    used: Mutex<BTreeMap<usize, usize>>,
}

/// A range of an arena, given back on drop.
#[derive(Debug)]
pub(crate) struct Range {
    arena: Arc<Arena>,
    start: usize,
    end: usize,
}

impl Arena {
    pub(super) fn new(segment: Arc<Segment>) -> Self {
        Arena { segment, used: Mutex::new(BTreeMap::new()) }
    }

    fn used(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A range of zeros.
    pub(super) fn take(self: &Arc<Self>, bytes: usize) -> Result<Range, Error> {
        let align = if bytes >= HUGE_PAGE { HUGE_PAGE } else { PAGE };
        let unavailable = |reason: String| Error::Unavailable { backend: "shared memory", reason };
        let length = bytes.max(1).checked_next_multiple_of(align).unwrap_or(usize::MAX);
        let range = {
            let mut used = self.used();
            let start = first_gap(&used, self.segment.mapping.length(), length, align)
                .ok_or_else(|| unavailable(format!("{bytes} bytes do not fit into the arena")))?;
            used.insert(start, start + length);
            Range { arena: Arc::clone(self), start, end: start + length }
        };
        let populated = self.segment.mapping.populate(range.start, length);
        populated.map_err(|error| unavailable(format!("{bytes} bytes: {error}")))?;
        Ok(range)
    }

    /// Offset in the segment of memory that lies within a buffer of this arena.
    pub(super) fn offset(&self, bytes: &[u8]) -> Option<usize> {
        let base = self.segment.mapping.at(0, 0).addr();
        let start = bytes.as_ptr().addr().checked_sub(base)?;
        (start >= ARENA && start + bytes.len() <= self.segment.mapping.length()).then_some(start)
    }

    /// Takes the buffer that `offset` lies in out of the others' sight: they may still be writing to it.
    pub(super) fn detach(&self, offset: usize) {
        if let Some((start, end)) = self.used().range(..=offset).next_back()
            && offset < *end
        {
            self.segment.mapping.detach(*start, end - start);
        }
    }
}

fn first_gap(used: &BTreeMap<usize, usize>, limit: usize, length: usize, align: usize) -> Option<usize> {
    let mut start = ARENA;
    for (next, end) in used {
        if start.checked_add(length)? <= *next {
            return Some(start);
        }
        start = end.next_multiple_of(align);
    }
    (start.checked_add(length)? <= limit).then_some(start)
}

impl Range {
    /// Where it begins in the segment.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    pub(crate) fn pointer(&self) -> NonNull<u8> {
        NonNull::new(self.arena.segment.mapping.at(self.start, self.end - self.start)).unwrap_or(NonNull::dangling())
    }
}

impl Drop for Range {
    fn drop(&mut self) {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let bytes = (self.end - self.start) as u64;
        // Gives the memory back, and makes the range zeros again. Where that fails the range stays taken.
        if rustix::fs::fallocate(&self.arena.segment.file, hole, self.start as u64, bytes).is_ok() {
            self.arena.used().remove(&self.start);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn arena(bytes: usize) -> Arc<Arena> {
        Arc::new(Arena::new(Arc::new(Segment::create(bytes, [0; 2]).unwrap())))
    }

    #[test]
    fn ranges_do_not_overlap_and_are_used_again() {
        let arena = arena(8 << 20);
        let (small, large) = (arena.take(5).unwrap(), arena.take(3 << 20).unwrap());
        assert!(small.end <= large.start && large.start.is_multiple_of(HUGE_PAGE));
        assert!(matches!(arena.take(8 << 20), Err(Error::Unavailable { .. })));
        let start = large.start;
        drop(large);
        assert_eq!(arena.take(4 << 20).unwrap().start, start);
        assert_eq!(arena.take(1).unwrap().start, small.end);
    }

    #[test]
    fn what_is_given_back_is_zeros_again() {
        let arena = arena(4 << 20);
        let range = arena.take(4096).unwrap();
        // SAFETY: the range is this test's alone.
        unsafe { range.pointer().write(7) };
        drop(range);
        // SAFETY: as above.
        assert_eq!(unsafe { arena.take(4096).unwrap().pointer().read() }, 0);
    }
}
