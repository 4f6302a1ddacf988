//! The operations over mapped memory: what each rank copies in, folds and copies out between two waits.
//!
//! | bytes | way | waits | copies |
//! |---|---|---|---|
//! | 48 | in the line of the flag; everybody folds all | 1 | - |
//! | few | slots, two in turn; everybody folds all | 1 | 1 |
//! | more | staged: the part of each owner is copied in, the owner folds, all copy its sums out; chunk by chunk | 1 + chunks | 2 |
//! | buffers of `alloc` | each owner folds its part of all buffers where they lie, and writes it to all | 2 | - |
//!
//! Why a place may be overwritten: every operation begins with a wait for all. Of the two slots and chunks used in
//! turn, the one that is written now was read before the wait that this rank has passed since.

use std::ops::Range;

use super::RANKS_MAX;
use super::copy::{Store, Stores, copy, take};
use super::group::{Group, Turn};
use super::segment::{ARENA, CHUNK_BYTES};
use crate::error::Error;
use crate::plan::Method;
use crate::reduce::Fold;
use crate::tcp::{Stop, UNALIGNED};

/// Bytes that fit beside the flag.
pub(crate) const LINE_BYTES: usize = 48;
/// Ranks whose lines are gathered without memory of their own.
pub(crate) const LINE_RANKS_MAX: usize = 16;
/// Folded and handed out at a time: within the first-level cache.
const TILE_BYTES: usize = 16 << 10;

/// Counters that all ranks move alike.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) steps: u64,
    /// Chunks staged.
    staged: u64,
    /// This rank's alone: which way it stores changes no result.
    pub(super) stores: Stores,
}

/// One operation on one rank.
pub(super) struct Exchange<'a> {
    pub(super) group: &'a Group,
    pub(super) turn: Turn<'a>,
    pub(super) counters: &'a mut Counters,
}

/// By rank: where its buffer lies in its segment, if it lies in its arena.
pub(super) type Offsets = [Option<usize>; RANKS_MAX as usize];

/// How a vector is cut: each rank owns one slice, and piece k of every slice makes up chunk k.
#[derive(Clone, Copy, Debug)]
struct Cut {
    whole: usize,
    each: usize,
    piece: usize,
}

impl Cut {
    /// Slices begin at multiples of a cache line, so the last may be shorter.
    fn even(whole: usize, world: usize) -> Self {
        Cut::exact(whole, whole.div_ceil(world).next_multiple_of(64), world)
    }

    fn exact(whole: usize, each: usize, world: usize) -> Self {
        // The staged chunks of all ranks together should stay in the cache that they share.
        let chunk = if world > 2 { CHUNK_BYTES / 2 } else { CHUNK_BYTES };
        Cut { whole, each, piece: (chunk / world) & !63 }
    }

    fn chunks(&self) -> usize {
        self.each.min(self.whole).div_ceil(self.piece).max(1)
    }

    /// Bytes of the piece of `owner` in chunk `number`.
    fn piece(&self, owner: usize, number: usize) -> Range<usize> {
        let end = self.whole.min((owner + 1) * self.each);
        let start = end.min(owner * self.each + number * self.piece);
        start..end.min(start + self.piece)
    }

    fn slice(&self, owner: usize) -> Range<usize> {
        self.whole.min(owner * self.each)..self.whole.min((owner + 1) * self.each)
    }
}

/// Memory of another rank, to be read.
///
/// # Safety
/// `at` is valid for reads, and its rank does not write there before this rank has taken the next step.
pub(super) unsafe fn read<'a>(at: *mut u8, bytes: usize) -> &'a [u8] {
    // SAFETY: passed on.
    unsafe { std::slice::from_raw_parts(at, bytes) }
}

impl Exchange<'_> {
    pub(super) fn enter(&self, payload: &[u64; 6]) -> Result<(), Error> {
        self.group.enter(&self.turn, payload)
    }

    /// Ends the group where a fold was refused: the others have entered, and would wait for this rank.
    pub(super) fn sound(&self, folded: bool) -> Result<(), Error> {
        if folded { Ok(()) } else { Err(self.turn.stop(Stop::Broken { reason: UNALIGNED })) }
    }

    pub(super) fn step(&mut self) -> Result<(), Error> {
        self.group.step(&self.turn, &mut self.counters.steps)
    }

    /// `offset` is that of the buffer in the arena, if it lies there.
    pub(super) fn all_reduce(
        &mut self,
        method: Method,
        bytes: &mut [u8],
        fold: &Fold,
        offset: Option<usize>,
    ) -> Result<(), Error> {
        match method {
            Method::Line => self.in_line(bytes, fold),
            Method::Slots => self.in_slots(bytes, fold),
            _ => self.in_chunks(bytes, fold, offset),
        }
    }

    fn in_line(&mut self, bytes: &mut [u8], fold: &Fold) -> Result<(), Error> {
        let mut payload = [0u64; 6];
        for (word, bytes) in payload.iter_mut().zip(bytes.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_le_bytes(whole);
        }
        self.enter(&payload)?;
        let mut lines = Aligned([[0; LINE_BYTES]; LINE_RANKS_MAX]);
        for (rank, line) in lines.0.iter_mut().enumerate().take(self.group.world()) {
            let from = &self.group.line(rank, self.turn.mine.sequence).payload;
            for (to, word) in line.chunks_exact_mut(8).zip(from) {
                to.copy_from_slice(&word.load(std::sync::atomic::Ordering::Relaxed).to_le_bytes());
            }
        }
        let length = bytes.len();
        self.sound(fold.run(bytes, &|rank| &lines.0[rank][..length]))
    }

    fn in_slots(&mut self, bytes: &mut [u8], fold: &Fold) -> Result<(), Error> {
        let (number, length) = (self.turn.mine.sequence, bytes.len());
        // SAFETY: the own slot; it was last read in the operation before the last, which all have left.
        unsafe { copy(self.counters.stores.way(), bytes, self.group.map(self.group.rank).slot(number, length)) };
        self.enter(&[0; 6])?;
        // SAFETY: the slot of a rank that has entered; it is written again only after this rank has entered the next.
        self.sound(fold.run(bytes, &|rank| unsafe { read(self.group.map(rank).slot(number, length), length) }))
    }

    fn in_chunks(&mut self, bytes: &mut [u8], fold: &Fold, offset: Option<usize>) -> Result<(), Error> {
        let (world, rank) = (self.group.world(), self.group.rank);
        let cut = Cut::even(bytes.len(), world);
        if offset.is_none() {
            self.stage(bytes, &cut, 0);
        }
        self.enter(&[offset.map_or(0, |offset| offset as u64), 0, 0, 0, 0, 0])?;
        let offsets = self.offsets(0, bytes.len(), fold.dtype.size())?;
        if offsets[..world].iter().all(Option::is_some) {
            return self.in_place(bytes, fold, &cut, &offsets);
        }
        for number in 0..cut.chunks() {
            let place = self.counters.staged + number as u64;
            let range = cut.piece(rank, number);
            self.fold_piece(&mut bytes[range.clone()], fold, (&cut, number, place), &offsets)?;
            if number + 1 < cut.chunks() && offset.is_none() {
                self.stage(bytes, &cut, number + 1);
            }
            self.step()?;
            for owner in (0..world).filter(|owner| *owner != rank) {
                let to = &mut bytes[cut.piece(owner, number)];
                // SAFETY: sums that their owner wrote before the step just taken, and writes again two steps later.
                take(unsafe { read(self.group.map(owner).result(place, to.len()), to.len()) }, to);
            }
        }
        self.counters.staged += cut.chunks() as u64;
        Ok(())
    }

    /// Where the buffers of all ranks lie, as they said on entering in this word. Read once, and blamed on its rank where it makes no
    /// sense: a place outside of its arena, or one where no such elements can lie.
    pub(super) fn offsets(&self, word: usize, bytes: usize, size: usize) -> Result<Offsets, Error> {
        let mut offsets = [None; RANKS_MAX as usize];
        for (rank, to) in offsets.iter_mut().enumerate().take(self.group.world()) {
            let line = self.group.line(rank, self.turn.mine.sequence);
            let offset = line.payload[word].load(std::sync::atomic::Ordering::Relaxed) as usize;
            if offset == 0 {
                continue;
            }
            let end = offset.checked_add(bytes);
            let within = end.is_some_and(|end| end <= self.group.map(rank).length());
            if offset < ARENA || !within || !offset.is_multiple_of(size) {
                return Err(self.turn.stop(Stop::Garbage { rank: self.group.first + rank }));
            }
            *to = Some(offset);
        }
        Ok(offsets)
    }

    /// Copies the parts that others own of one chunk to where they read them.
    fn stage(&mut self, bytes: &[u8], cut: &Cut, number: usize) {
        let (rank, own) = (self.group.rank, self.group.map(self.group.rank));
        let place = self.counters.staged + number as u64;
        for owner in (0..self.group.world()).filter(|owner| *owner != rank) {
            let from = &bytes[cut.piece(owner, number)];
            // SAFETY: the own segment; the chunk staged here before was read before the step last taken.
            unsafe { self.counters.stores.copy(from, own.stage(place, owner * cut.piece, from.len())) };
        }
    }

    /// Folds the own piece of a chunk, tile by tile, into the caller's buffer and where others copy it from.
    fn fold_piece(
        &self,
        own: &mut [u8],
        fold: &Fold,
        (cut, number, place): (&Cut, usize, u64),
        offsets: &Offsets,
    ) -> Result<(), Error> {
        let (group, rank) = (self.group, self.group.rank);
        let result = group.map(rank).result(place, own.len());
        let start = cut.piece(rank, number).start;
        for at in (0..own.len()).step_by(TILE_BYTES) {
            let end = own.len().min(at + TILE_BYTES);
            let source = |other: usize| match offsets[other] {
                Some(offset) => group.map(other).at(offset + start + at, end - at),
                None => group.map(other).stage(place, rank * cut.piece + at, end - at),
            };
            // SAFETY: staged, or left alone by its rank, before the wait just passed, until the next step.
            self.sound(fold.run(&mut own[at..end], &|other| unsafe { read(source(other), end - at) }))?;
            // SAFETY: the own segment; what was there was read before the step last taken.
            unsafe { copy(self.counters.stores.way(), &own[at..end], result.wrapping_add(at)) };
        }
        Ok(())
    }

    /// All buffers lie in arenas.
    fn in_place(&mut self, bytes: &mut [u8], fold: &Fold, cut: &Cut, offsets: &Offsets) -> Result<(), Error> {
        let (group, rank) = (self.group, self.group.rank);
        let slice = cut.slice(rank);
        let place = |other: usize, range: &Range<usize>| {
            group.map(other).at(offsets[other].unwrap_or(ARENA) + range.start, range.len())
        };
        for at in slice.clone().step_by(TILE_BYTES) {
            let range = at..slice.end.min(at + TILE_BYTES);
            let own = &mut bytes[range.clone()];
            // SAFETY: all have entered and none has left: this part of every buffer is this rank's alone.
            self.sound(fold.run(own, &|other| unsafe { read(place(other, &range), range.len()) }))?;
            for other in (0..group.world()).filter(|other| *other != rank) {
                // SAFETY: as above.
                unsafe { copy(Store::Cached, own, place(other, &range)) };
            }
        }
        self.step()
    }

    /// `own` is a copy of this rank's part of `source`.
    pub(super) fn reduce_scatter(&mut self, source: &[u8], own: &mut [u8], fold: &Fold) -> Result<(), Error> {
        let (group, rank) = (self.group, self.group.rank);
        let cut = Cut::exact(source.len(), own.len(), group.world());
        self.stage(source, &cut, 0);
        self.enter(&[0; 6])?;
        for number in 0..cut.chunks() {
            let place = self.counters.staged + number as u64;
            if number + 1 < cut.chunks() {
                self.stage(source, &cut, number + 1);
            }
            let range = cut.piece(rank, number);
            let own = &mut own[range.start - rank * cut.each..range.end - rank * cut.each];
            let length = own.len();
            let staged = |other: usize| group.map(other).stage(place, rank * cut.piece, length);
            // SAFETY: staged before the wait just passed, and written again two steps later.
            self.sound(fold.run(own, &|other| unsafe { read(staged(other), length) }))?;
            if number + 1 < cut.chunks() {
                self.step()?;
            }
        }
        self.counters.staged += cut.chunks() as u64;
        Ok(())
    }

    /// Hands `source` of each rank that has one to all others, as `length` bytes each; `take` gets them part by part.
    pub(super) fn spread(
        &mut self,
        source: Option<&[u8]>,
        length: usize,
        mut take: impl FnMut(usize, Range<usize>, &[u8]),
    ) -> Result<(), Error> {
        let chunks = length.div_ceil(CHUNK_BYTES).max(1);
        let part = |number: usize| number * CHUNK_BYTES..length.min((number + 1) * CHUNK_BYTES);
        let stage = |exchange: &mut Self, number: usize| {
            let (group, place) = (exchange.group, exchange.counters.staged + number as u64);
            if let Some(from) = source.map(|source| &source[part(number)]) {
                // SAFETY: the own segment; the chunk staged here before was read before the step last taken.
                unsafe { exchange.counters.stores.copy(from, group.map(group.rank).stage(place, 0, from.len())) };
            }
        };
        stage(self, 0);
        self.enter(&[0; 6])?;
        for number in 0..chunks {
            let place = self.counters.staged + number as u64;
            if number + 1 < chunks {
                stage(self, number + 1);
            }
            let range = part(number);
            for other in (0..self.group.world()).filter(|other| *other != self.group.rank) {
                let at = self.group.map(other).stage(place, 0, range.len());
                // SAFETY: staged before the wait just passed, and written again two steps later.
                take(other, range.clone(), unsafe { read(at, range.len()) });
            }
            if number + 1 < chunks {
                self.step()?;
            }
        }
        self.counters.staged += chunks as u64;
        Ok(())
    }
}

/// Aligned for every element type.
#[repr(align(64))]
struct Aligned([[u8; LINE_BYTES]; LINE_RANKS_MAX]);
