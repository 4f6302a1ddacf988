//! What a file of a growing stream holds when nobody remembers: how long the stream is, and what at its end was never flushed.

use super::{BLOCK_BYTES, Frame, HEADER_BYTES, next_at, read_block, seal};
use std::fs::File;
use std::io;

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::streams) struct Recovered {
    /// Bytes of the stream.
    pub(in crate::streams) length: u64,
    /// Where its last frame ends in the file.
    pub(in crate::streams) stored: u64,
    /// Bytes of the file that were cut off.
    pub(in crate::streams) cut: u64,
}

/// Finds the stream's end, cuts off what is behind it, and seals it. All of the file must be on disk, and nobody may write to it.
pub(in crate::streams) fn recover(file: &File) -> io::Result<Recovered> {
    let size = file.metadata()?.len();
    let mut block = Vec::new();
    let Some((last, flushed)) = last_word(file, size, &mut block)? else {
        return cut(file, size, Recovered { length: 0, stored: 0, cut: 0 }, false);
    };
    let first = first_block(file, last, flushed, &mut block)?;
    let mut found = Recovered { length: flushed, stored: 0, cut: 0 };
    let mut is_sealed = false;
    'blocks: for number in first..=last {
        read_block(file, number, &mut block)?;
        for frame in headers(&block, number * BLOCK_BYTES) {
            let is_flushed = frame.end() <= flushed;
            if !is_flushed && (frame.offset != found.length || frame.data(&block).is_none()) {
                // It is torn. Where the one before it is damaged, its place is all that tells where that ended.
                found.stored = if frame.offset == found.length { frame.at } else { found.stored };
                break 'blocks;
            }
            found.length = found.length.max(frame.end());
            found.stored = frame.end_at();
            is_sealed = frame.length == 0;
        }
    }
    if !is_reached(file, found.stored, &mut block)? {
        // Nobody who comes from the block's beginning finds what is put there.
        found.stored = found.stored.next_multiple_of(BLOCK_BYTES);
        is_sealed = false;
    }
    cut(file, size, found, is_sealed)
}

/// Does the place follow its block's frames without a gap? Where a header is damaged it does not.
fn is_reached(file: &File, place: u64, block: &mut Vec<u8>) -> io::Result<bool> {
    let block_at = place / BLOCK_BYTES * BLOCK_BYTES;
    let mut at = block_at;
    read_block(file, block_at / BLOCK_BYTES, block)?;
    while at < place {
        let header = block.get((at - block_at) as usize..).unwrap_or_default();
        match Frame::decode(header, at).filter(|frame| frame.length > 0) {
            Some(frame) => at = frame.end_at(),
            None => return Ok(false),
        }
    }
    Ok(at == place)
}

fn cut(file: &File, size: u64, mut found: Recovered, is_sealed: bool) -> io::Result<Recovered> {
    let sealed = next_at(found.stored) + HEADER_BYTES as u64;
    let end = if is_sealed { sealed } else { found.stored };
    found.cut = size.saturating_sub(end);
    if found.cut > 0 {
        file.set_len(end)?;
        file.sync_data()?;
    }
    if !is_sealed && found.length > 0 {
        seal(file, found.stored, found.length);
    }
    Ok(found)
}

/// The last block that has a sound header, and up to where that says that the stream was flushed.
fn last_word(file: &File, size: u64, block: &mut Vec<u8>) -> io::Result<Option<(u64, u64)>> {
    for number in (0..size.div_ceil(BLOCK_BYTES)).rev() {
        read_block(file, number, block)?;
        if let Some(flushed) = headers(block, number * BLOCK_BYTES).iter().map(|frame| frame.flushed).max() {
            return Ok(Some((number, flushed)));
        }
    }
    Ok(None)
}

/// The block in which the flushed part ends, or one before it.
fn first_block(file: &File, last: u64, flushed: u64, block: &mut Vec<u8>) -> io::Result<u64> {
    for number in (0..=last).rev() {
        read_block(file, number, block)?;
        if headers(block, number * BLOCK_BYTES).first().is_some_and(|frame| frame.offset <= flushed) {
            return Ok(number);
        }
    }
    Ok(0)
}

/// The sound headers of a block, each further in the stream than the one before. Behind a damaged one the next is looked for byte
/// by byte: it tells how much was flushed. A rank could print what looks like one; it would be found only behind damage, and would at
/// worst have bytes called damaged that were not flushed.
fn headers(block: &[u8], block_at: u64) -> Vec<Frame> {
    let mut found: Vec<Frame> = Vec::new();
    let mut at = 0;
    while at + HEADER_BYTES <= block.len() {
        let end = found.last().map_or(0, Frame::end);
        match Frame::decode(&block[at..], block_at + at as u64).filter(|frame| frame.offset >= end) {
            Some(frame) => {
                at += HEADER_BYTES + frame.length as usize;
                found.push(frame);
            }
            None => at += 1,
        }
    }
    found
}
