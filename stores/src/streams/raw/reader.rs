//! Reads a growing stream's file from any offset: bytes that are not those that were written are told, never given.

use super::{BLOCK_BYTES, BLOCK_DATA_MAX, Frame, HEADER_BYTES, next_at, read_block};
use crate::streams::compacted::Fault;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An open file. What is read from it must be flushed: only that stands still.
#[derive(Debug)]
pub(in crate::streams) struct Reader {
    file: File,
}

impl Reader {
    pub(in crate::streams) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)? })
    }

    /// `count` bytes from `offset` on, fewer where damage follows them; damage at `offset` itself is a fault.
    pub(in crate::streams) fn read(&self, offset: u64, count: usize) -> Result<Vec<u8>, Fault> {
        let end = offset.saturating_add(count as u64);
        let mut bytes = Vec::with_capacity(count);
        let mut block = Vec::new();
        let mut number = self.block_of(offset)?;
        while offset + (bytes.len() as u64) < end {
            read_block(&self.file, number, &mut block)?;
            let before = bytes.len();
            let is_sound = take(&block, number * BLOCK_BYTES, offset, end, &mut bytes);
            if !is_sound || before == bytes.len() {
                return match bytes.len() {
                    0 => Err(Fault::Damaged(format!("block {number} has not the bytes from {offset} on"))),
                    _ => Ok(bytes),
                };
            }
            number += 1;
        }
        Ok(bytes)
    }

    /// The block that has the byte: the last one that begins at or before it. One whose first header is damaged counts to the
    /// one before, from where a reader comes to it.
    fn block_of(&self, offset: u64) -> Result<u64, Fault> {
        // No block has more than that of the stream, so none before this one has the byte.
        let mut low = offset / BLOCK_DATA_MAX;
        let mut high = self.file.metadata()?.len().div_ceil(BLOCK_BYTES).max(low + 1);
        // Where appends are large each block is full, and this is the last question.
        let mut asked = low + 1;
        while high - low > 1 {
            match self.first_sound(asked, high)? {
                Some((number, begin)) if begin <= offset => low = number,
                _ => high = asked,
            }
            asked = low + (high - low) / 2;
        }
        Ok(low)
    }

    /// The first block in the range that says where in the stream it begins, and where that is.
    fn first_sound(&self, from: u64, to: u64) -> Result<Option<(u64, u64)>, Fault> {
        let mut header = [0; HEADER_BYTES];
        for number in from..to {
            match self.file.read_exact_at(&mut header, number * BLOCK_BYTES) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                result => result?,
            }
            if let Some(frame) = Frame::decode(&header, number * BLOCK_BYTES) {
                return Ok(Some((number, frame.offset)));
            }
        }
        Ok(None)
    }
}

/// Adds what the block has of the stream from `offset` (plus what `bytes` has already) up to `end`. False when it comes upon damage
/// before the end of the block.
fn take(block: &[u8], block_at: u64, offset: u64, end: u64, bytes: &mut Vec<u8>) -> bool {
    let mut at = block_at;
    loop {
        let wanted = offset + bytes.len() as u64;
        if wanted >= end || next_at(at) >= block_at + BLOCK_BYTES {
            return true;
        }
        let header = block.get((at - block_at) as usize..).unwrap_or_default();
        let Some(frame) = Frame::decode(header, at).filter(|frame| frame.length > 0) else { return false };
        at = frame.end_at();
        if frame.end() <= wanted {
            continue;
        }
        let Some(data) = frame.data(block).filter(|_| frame.offset <= wanted) else { return false };
        let until = frame.length as usize - frame.end().saturating_sub(end) as usize;
        bytes.extend_from_slice(&data[(wanted - frame.offset) as usize..until]);
    }
}
