//! One rank's memory that all ranks of its host map: flags, slots, staging, and an arena for buffers that are summed in
//! place.
//!
//! A memfd without a name: nothing can be left behind, whoever dies. Its size is sealed, so no rank can make another
//! one's access fault.
//!
//! ```text
//! 0        Head: two entry lines, step counter, sleep word, nonce
//! 4 KiB    two slots
//! STAGE    two staged chunks
//! RESULT   this rank's sums of two chunks
//! ARENA    buffers of `alloc`
//! ```

use std::ffi::c_void;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Most bytes of a buffer that goes through a slot.
pub(crate) const SLOT_BYTES: usize = 32 << 10;
/// Bytes of the vector that are staged at a time.
pub(super) const CHUNK_BYTES: usize = 512 << 10;
/// Room between the ends of what is laid side by side in a chunk.
const SLACK_BYTES: usize = 64 << 10;

const SLOTS: usize = 4096;
const STAGE: usize = 128 << 10;
const STAGE_BYTES: usize = CHUNK_BYTES + SLACK_BYTES;
const RESULT: usize = STAGE + 2 * STAGE_BYTES;
const RESULT_BYTES: usize = CHUNK_BYTES / 2 + SLACK_BYTES;
/// Where buffers begin.
pub(super) const ARENA: usize = 2 << 20;
const _: () = assert!(SLOTS + 2 * SLOT_BYTES <= STAGE && RESULT + 2 * RESULT_BYTES <= ARENA);
const HUGE_PAGE: usize = 2 << 20;

/// What a rank says when it enters an operation: one cache line, so that a small payload needs no second one.
#[repr(C, align(128))]
pub(super) struct Line {
    /// Number of the operation; written last.
    pub(super) flag: AtomicU64,
    /// What was called.
    pub(super) call: AtomicU64,
    pub(super) payload: [AtomicU64; 6],
}

/// Alone in its two cache lines: processors fetch them in pairs.
#[repr(C, align(128))]
pub(super) struct Alone<T>(pub(super) T);

/// The first page. Atomics only, so a reference to it is sound whatever other processes write.
#[repr(C)]
pub(super) struct Head {
    /// By parity of the operation's number: a rank cannot be two operations ahead of another.
    pub(super) lines: [Line; 2],
    /// Steps within operations that this rank has completed, over the communicator's life.
    pub(super) step: Alone<AtomicU64>,
    /// One more than the rank this rank sleeps for, or 0.
    pub(super) sleeping: Alone<AtomicU32>,
    nonce: Alone<[AtomicU64; 2]>,
}

/// A segment in this process's address space.
#[derive(Debug)]
pub(super) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is plain memory that lives as long as this value; who may touch what when is the protocol's
// matter, in `group` and `exchange`.
unsafe impl Send for Mapping {}
// SAFETY: as above; the only safe access through a shared reference is to atomics.
unsafe impl Sync for Mapping {}

/// This rank's own segment.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) file: OwnedFd,
    pub(super) mapping: Mapping,
}

impl Segment {
    /// Makes one with `arena` bytes of arena, of which none is memory before it is used.
    pub(super) fn create(arena: usize, nonce: [u64; 2]) -> std::io::Result<Self> {
        let length = (ARENA + arena).next_multiple_of(HUGE_PAGE);
        let file = rustix::fs::memfd_create("collectives", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, length as u64)?;
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        let mapping = Mapping::new(&file, length)?;
        mapping.populate(0, ARENA)?;
        let head = mapping.head();
        head.nonce.0[0].store(nonce[0], Ordering::Relaxed);
        head.nonce.0[1].store(nonce[1], Ordering::Release);
        Ok(Segment { file, mapping })
    }

    pub(super) fn descriptor(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

impl Mapping {
    /// Maps another rank's segment. The nonce proves that it is that one, whatever the numbers point at.
    pub(super) fn of_peer(process: u32, descriptor: i32, length: usize, nonce: [u64; 2]) -> std::io::Result<Self> {
        let path = format!("/proc/{process}/fd/{descriptor}");
        let file = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
        let other = || std::io::Error::other("the descriptor is not the segment that was announced");
        if rustix::fs::fstat(&file)?.st_size != length as i64 || length < ARENA {
            return Err(other());
        }
        if !rustix::fs::fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(other());
        }
        let mapping = Mapping::new(&file, length)?;
        let found = [&mapping.head().nonce.0[0], &mapping.head().nonce.0[1]].map(|half| half.load(Ordering::Acquire));
        if found == nonce { Ok(mapping) } else { Err(other()) }
    }

    /// At an address that huge pages can begin at.
    fn new(file: &OwnedFd, length: usize) -> std::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new range of addresses at a place of the kernel's choice.
        let reserved = unsafe {
            let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
            rustix::mm::mmap_anonymous(std::ptr::null_mut(), length + HUGE_PAGE, ProtFlags::empty(), flags)?
        };
        let before = reserved.align_offset(HUGE_PAGE);
        let start = reserved.wrapping_byte_add(before);
        // SAFETY: replaces a part of the range just reserved, and gives back the rest on both sides; nothing refers to
        // any of it yet.
        let mapped = unsafe {
            let mapped = rustix::mm::mmap(start, length, access, MapFlags::SHARED | MapFlags::FIXED, file, 0);
            if before > 0 {
                let _ = rustix::mm::munmap(reserved, before);
            }
            if before < HUGE_PAGE {
                let _ = rustix::mm::munmap(start.wrapping_byte_add(length), HUGE_PAGE - before);
            }
            if mapped.is_err() {
                let _ = rustix::mm::munmap(start, length);
            }
            mapped?
        };
        let base = NonNull::new(mapped.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let mapping = Mapping { base, length };
        for advice in [Advice::LinuxHugepage, Advice::LinuxDontDump] {
            // SAFETY: advice that changes no contents. Refused where the kernel lacks it: slower then, not wrong.
            let _ = unsafe { rustix::mm::madvise(mapped, length, advice) };
        }
        Ok(mapping)
    }

    /// Makes the pages real, so that a lack of memory is an error here and not a signal later.
    pub(super) fn populate(&self, offset: usize, bytes: usize) -> std::io::Result<()> {
        // SAFETY: reads and writes no contents; the range is within the mapping.
        let done = unsafe { rustix::mm::madvise(self.at(offset, bytes).cast(), bytes, Advice::LinuxPopulateWrite) };
        match done {
            // Before Linux 5.14: pages come as they are touched.
            Err(rustix::io::Errno::INVAL) => Ok(()),
            other => Ok(other?),
        }
    }

    pub(super) fn head(&self) -> &Head {
        // SAFETY: the mapping begins with a page for it, aligned to far more, and every bit pattern is a value of it.
        unsafe { self.base.cast::<Head>().as_ref() }
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// The address of `bytes` bytes at `offset`. Panics outside of the mapping rather than write to other memory: only a
    /// fault of this crate can ask for that, as what peers say was compared with the length before (`exchange`).
    pub(super) fn at(&self, offset: usize, bytes: usize) -> *mut u8 {
        assert!(offset <= self.length && bytes <= self.length - offset, "outside of the segment");
        self.base.as_ptr().wrapping_add(offset)
    }

    /// One of the two slots.
    pub(super) fn slot(&self, number: u64, bytes: usize) -> *mut u8 {
        debug_assert!(bytes <= SLOT_BYTES);
        self.at(SLOTS + (number & 1) as usize * SLOT_BYTES, bytes)
    }

    /// A place within one of the two staged chunks.
    pub(super) fn stage(&self, number: u64, within: usize, bytes: usize) -> *mut u8 {
        debug_assert!(within + bytes <= STAGE_BYTES);
        self.at(STAGE + (number & 1) as usize * STAGE_BYTES + within, bytes)
    }

    /// One of the two places for this rank's sums of a chunk.
    pub(super) fn result(&self, number: u64, bytes: usize) -> *mut u8 {
        debug_assert!(bytes <= RESULT_BYTES);
        self.at(RESULT + (number & 1) as usize * RESULT_BYTES, bytes)
    }

    /// Puts private memory in the place of a part of the arena: what other ranks still write there is not seen here.
    pub(super) fn detach(&self, offset: usize, bytes: usize) {
        let start: *mut c_void = self.at(offset, bytes).cast();
        let flags = MapFlags::PRIVATE | MapFlags::FIXED;
        // SAFETY: the range belongs to this mapping; its contents are floats and whole numbers, for which zeros will do.
        let _ = unsafe { rustix::mm::mmap_anonymous(start, bytes, ProtFlags::READ | ProtFlags::WRITE, flags) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new` and nothing borrowed from this value outlives it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
