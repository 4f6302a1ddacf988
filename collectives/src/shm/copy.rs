//! Copies into memory that other processors read: through the cache, or past it.
//!
//! Where two processors are far apart, overwriting lines that the other one has read costs ten times as much as reading
//! them; stores that pass by the cache do not pay that. Where they are near it is the other way round, so the way is
//! chosen by a measurement (`group`).

/// Which way stores go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Store {
    Cached,
    Streaming,
}

/// Copies `from` to `to`.
///
/// # Safety
/// `to` is valid for writes of that many bytes, which nobody else reads or writes meanwhile.
pub(super) unsafe fn copy(store: Store, from: &[u8], to: *mut u8) {
    #[cfg(target_arch = "x86_64")]
    if store == Store::Streaming && from.len() >= STREAMING_BYTES_MIN && std::arch::is_x86_feature_detected!("avx") {
        // SAFETY: passed on; the processor has the feature.
        unsafe { streaming(from, to) };
        return;
    }
    let _ = store;
    // SAFETY: passed on.
    unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
}

/// Below this the fence costs more than it saves.
const STREAMING_BYTES_MIN: usize = 1024;

/// # Safety
/// As [`copy`].
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx")]
// The stores begin at a multiple of the line, and the loads are of the kind that may begin anywhere.
#[allow(clippy::cast_ptr_alignment)]
unsafe fn streaming(from: &[u8], to: *mut u8) {
    use std::arch::x86_64::{__m256i, _mm_sfence, _mm256_loadu_si256, _mm256_stream_si256};
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
            _mm256_stream_si256(to.add(at).cast::<__m256i>(), low);
            _mm256_stream_si256(to.add(at + 32).cast::<__m256i>(), high);
            at += LINE;
        }
        std::ptr::copy_nonoverlapping(source.add(at), to.add(at), from.len() - at);
        // Such stores are not ordered with the flag that follows them.
        _mm_sfence();
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
}
