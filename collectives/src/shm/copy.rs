//! Copies into memory that other processors read: through the cache, or past it.
//!
//! Where two processors are far apart, overwriting lines that the other one has read costs ten times as much as reading
//! them; stores that pass by the cache do not pay that. Where they are near it is the other way round. On a virtual machine
//! that changes within seconds, so a rank goes by what its own copies take, and tries the other way now and then.

use std::time::Instant;

/// Which way stores go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Cached,
    Streaming,
}

/// Copies shorter than this are not timed: the clock would be a part of it.
const TIMED_BYTES_MIN: usize = 16 << 10;
/// Timed copies between two that go the other way.
const TRY_EVERY: u32 = 64;

/// What this rank's copies took lately, and the way that follows from it.
#[derive(Debug)]
pub(super) struct Stores {
    way: Store,
    /// Picoseconds a byte: this way, and the other.
    pace: u64,
    other_pace: u64,
    copies: u32,
}

impl Default for Stores {
    fn default() -> Self {
        Stores::beginning(Store::Streaming)
    }
}

impl Stores {
    pub(super) fn beginning(way: Store) -> Self {
        // The other way is tried before long.
        Stores { way, pace: u64::MAX, other_pace: u64::MAX, copies: TRY_EVERY / 2 }
    }

    pub(super) fn way(&self) -> Store {
        self.way
    }

    /// As [`copy`], the way that is faster at present.
    ///
    /// # Safety
    /// As [`copy`].
    pub(super) unsafe fn copy(&mut self, from: &[u8], to: *mut u8) {
        if from.len() < TIMED_BYTES_MIN {
            // SAFETY: passed on.
            unsafe { copy(self.way, from, to) };
            return;
        }
        self.copies += 1;
        let tries = self.copies >= TRY_EVERY;
        let since = Instant::now();
        // SAFETY: passed on.
        unsafe { copy(if tries { self.way.other() } else { self.way }, from, to) };
        self.took((since.elapsed().as_nanos() as u64).saturating_mul(1_000) / from.len() as u64, tries);
    }

    /// A copy that was interrupted says nothing: faster ones count at once, slower ones raise the pace by a quarter at most.
    fn took(&mut self, pace: u64, tries: bool) {
        if tries {
            (self.other_pace, self.copies) = (pace, 0);
        } else if pace < self.pace {
            self.pace = pace;
        } else {
            self.pace += (pace - self.pace).min(self.pace / 4 + 1);
        }
        if self.other_pace < self.pace {
            self.way = self.way.other();
            (self.pace, self.other_pace) = (self.other_pace, self.pace);
        }
    }
}

impl Store {
    fn other(self) -> Self {
        match self {
            Store::Cached => Store::Streaming,
            Store::Streaming => Store::Cached,
        }
    }
}

/// Copies `from` to `to`.
///
/// # Safety
/// `to` is valid for writes of that many bytes, which nobody else reads or writes meanwhile.
pub(super) unsafe fn copy(store: Store, from: &[u8], to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    if from.len() >= LOOP_BYTES_MIN && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: passed on; the processor has the feature.
        unsafe {
            match store {
                Store::Cached => lines::<false>(from, to),
                Store::Streaming => lines::<true>(from, to),
            }
        };
        return;
    }
    let _ = store;
    // SAFETY: passed on.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
}

/// Copies what another rank wrote to a buffer of this rank's, which is as long.
pub(super) fn take(from: &[u8], to: &mut [u8]) {
    assert_eq!(from.len(), to.len(), "lengths differ");
    // SAFETY: as long as the source, and borrowed exclusively.
    unsafe { copy(Store::Cached, from, to.as_mut_ptr()) };
}

/// Below this the fence of the one way, and the loop's start of the other, cost more than they save.
const LOOP_BYTES_MIN: usize = 1024;

/// Line by line, past the cache where `STREAMING`.
///
/// Not the C library's copy: from 4 KiB on that is one string instruction, which AMD's Zen 3 carries out at a tenth of its pace
/// where the target lies up to 31 bytes behind the source within its page. Large buffers of `malloc` begin 16 bytes into a
/// page, and what is shared begins at one, so that is the rule here and no exception
/// (<https://sourceware.org/bugzilla/show_bug.cgi?id=30994>).
///
/// # Safety
/// As [`copy`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
// The stores begin at a multiple of the line, and the loads are of the kind that may begin anywhere.
#[allow(clippy::cast_ptr_alignment)]
unsafe fn lines<const STREAMING: bool>(from: &[u8], to: *mut u8) {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_store_si256, _mm256_stream_si256};
    const LINE: usize = 64;
    let head = to.align_offset(LINE).min(from.len());
    let middle = (from.len() - head) / LINE * LINE;
    // SAFETY: head, middle and tail make up the whole; the middle begins at a line and is whole lines. Unaligned loads
    // stay within `from`.
    unsafe {
        let (source, mut at) = (from.as_ptr(), head);
        std::ptr::copy_nonoverlapping(source, to, head);
        while at < head + middle {
            let low = _mm256_loadu_si256(source.add(at).cast::<__m256i>());
            let high = _mm256_loadu_si256(source.add(at + 32).cast::<__m256i>());
            let (to_low, to_high) = (to.add(at).cast::<__m256i>(), to.add(at + 32).cast::<__m256i>());
            if STREAMING {
                _mm256_stream_si256(to_low, low);
                _mm256_stream_si256(to_high, high);
            } else {
                _mm256_store_si256(to_low, low);
                _mm256_store_si256(to_high, high);
            }
            at += LINE;
        }
        std::ptr::copy_nonoverlapping(source.add(at), to.add(at), from.len() - at);
        if STREAMING {
            // Such stores are not ordered with the flag that follows them.
            _mm_sfence();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_copy_the_same_at_every_alignment() {
        let from: Vec<u8> = (0..5000u32).map(|at| (at % 251) as u8).collect();
        for store in [Store::Cached, Store::Streaming] {
            for (start, length) in [(0, 0), (0, 5000), (1, 4000), (63, 1024), (64, 1025), (7, 1023)] {
                let mut to = vec![0u8; 6000];
                // SAFETY: the vector is longer than start and length together.
                unsafe { copy(store, &from[..length], to.as_mut_ptr().add(start)) };
                assert!(to[start..start + length] == from[..length], "{store:?} {start} {length}");
                assert!(to[start + length..].iter().all(|byte| *byte == 0));
            }
        }
    }

    #[test]
    fn the_faster_way_is_taken_and_taken_back() {
        let mut stores = Stores::beginning(Store::Streaming);
        (0..8).for_each(|_| stores.took(100, false));
        stores.took(300, true);
        assert_eq!(stores.way(), Store::Streaming);
        stores.took(40, true);
        assert_eq!(stores.way(), Store::Cached);
        // One copy that was interrupted changes nothing; the processors' distance does.
        stores.took(1_000_000, false);
        assert_eq!(stores.way(), Store::Cached);
        stores.took(40, false);
        (0..4).for_each(|_| stores.took(400, false));
        assert_eq!(stores.way(), Store::Streaming);
    }

    #[test]
    fn the_other_way_is_tried_now_and_then() {
        let (from, mut to) = (vec![7u8; TIMED_BYTES_MIN], vec![0u8; TIMED_BYTES_MIN]);
        let mut stores = Stores::default();
        for _ in 0..TRY_EVERY {
            to.fill(0);
            // SAFETY: as long as the source.
            unsafe { stores.copy(&from, to.as_mut_ptr()) };
            assert!(to == from);
        }
        assert!(stores.other_pace < u64::MAX, "never tried");
    }
}
