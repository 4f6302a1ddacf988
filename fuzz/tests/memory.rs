//! No reader asks for memory by what bytes claim: lengths far beyond what there is, wherever one may stand in a sound input.

#![allow(clippy::unwrap_used, unsafe_code)]

use fuzz::{TARGETS, Target, corpus};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's; it knows how much the whole process has, and what the most was.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's own answers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(held, Ordering::Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Lengths as the formats write them: postcard's and protobuf's, then those of four and of eight bytes in either order. The smaller
/// ones are more than [`BYTES_MAX`] and could be had, the others could not.
const CLAIMS: [&[u8]; 6] = [
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0x0f],
    &[0x0f, 0xff, 0xff, 0xff],
    &[0, 0, 0, 0, 0, 1, 0, 0],
    &[0, 0, 1, 0, 0, 0, 0, 0],
];
/// What a reader may hold at once for an input of a few KiB: a journal's two halves are the most.
const BYTES_MAX: usize = 16 << 20;
/// Inputs of each target, and of those that touch files or make a whole journal.
const MADE: usize = 3_000;
const MADE_ON_DISK: usize = 300;
const ON_DISK: [&str; 3] = ["stream", "spool", "journal"];

/// Every claim in every place, in place of one byte and of as many as it has; no more than `count` of them, from all over.
fn claims(sound: &[Vec<u8>], count: usize) -> impl Iterator<Item = Vec<u8>> {
    let places: Vec<(usize, usize)> =
        sound.iter().enumerate().flat_map(|(which, bytes)| (0..bytes.len()).map(move |at| (which, at))).collect();
    let all = places.len() * CLAIMS.len() * 2;
    (0..all).step_by(all.div_ceil(count).max(1)).map(move |number| {
        // The place changes first: however long the steps are, they meet each claim.
        let (kind, (which, at)) = (number / places.len(), places[number % places.len()]);
        let claim = CLAIMS[kind / 2];
        let end = if kind % 2 == 0 { at + 1 } else { (at + claim.len()).min(sound[which].len()) };
        [&sound[which][..at], claim, &sound[which][end..]].concat()
    })
}

fn most_of(target: Target, bytes: &[u8]) -> usize {
    let before = HELD.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    (target.run)(bytes);
    MOST.load(Ordering::Relaxed).saturating_sub(before)
}

/// What is believed ends the process here or takes more than is allowed.
#[test]
fn no_reader_asks_for_what_bytes_claim() {
    for target in TARGETS {
        let mut sound = (target.seeds)();
        sound.extend(corpus(target.name).into_iter().map(|(_, bytes)| bytes));
        let count = if ON_DISK.contains(&target.name) { MADE_ON_DISK } else { MADE };
        let mut most = 0;
        for bytes in sound.iter().cloned().chain(claims(&sound, count)) {
            let held = most_of(target, &bytes);
            assert!(held <= BYTES_MAX, "{} asks for {held} bytes for {bytes:02x?}", target.name);
            most = most.max(held);
        }
        println!("{}: {most} bytes at most", target.name);
    }
}
