//! The file of a stream that grows: its bytes in frames, each with checksums, in blocks that can be found without an index.
//!
//! ```text
//! block 0              | block 1              | ...          BLOCK_BYTES each, the last one as long as it is
//! frame frame .. frame | frame frame .. frame | frame seal
//!
//! frame: CRC-32 of the bytes u32 · their length u32 · where they begin in the stream u64
//!        · how much of the stream was flushed when this was written u64 · CRC-32 of these 24 bytes u32 · the bytes
//! ```
//!
//! All numbers are little-endian. An append is one frame, or one for each block that it reaches into; a frame never goes past
//! its block, and where less is left than a frame of one byte, nothing stands. So each block begins with a frame that says where it
//! is in the stream: a reader finds the block of an offset by halving, and damage to one block leaves the others readable.
//!
//! What was not flushed when the power went can be shorter, torn or zeros. The last sound header says how much was flushed
//! before it: what is wrong below that is damage and is told (`STREAM-1`), what is wrong above it was never acknowledged and is cut
//! off (`STREAM-2`). A seal is a frame without bytes behind the last one, written after a flush and not flushed itself; the next frame
//! takes its place. Without it the last flush of a stream that is silent since could not be told from a torn one.

mod reader;
mod recovery;
#[cfg(test)]
mod tests;

pub(super) use reader::Reader;
pub(super) use recovery::recover;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A reader takes a block at once, and damage costs one.
pub(super) const BLOCK_BYTES: u64 = 64 << 10;
const HEADER_BYTES: usize = 28;
/// Bytes of the stream in a block that one frame fills.
const BLOCK_DATA_MAX: u64 = BLOCK_BYTES - HEADER_BYTES as u64;

/// A frame without its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Frame {
    /// Where its header begins in the file.
    at: u64,
    /// Where its bytes begin in the stream.
    offset: u64,
    length: u32,
    /// So much of the stream was flushed when it was written.
    flushed: u64,
    crc: u32,
}

impl Frame {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(&self.crc.to_le_bytes());
        header[4..8].copy_from_slice(&self.length.to_le_bytes());
        header[8..16].copy_from_slice(&self.offset.to_le_bytes());
        header[16..24].copy_from_slice(&self.flushed.to_le_bytes());
        let crc = crc32fast::hash(&header[..24]);
        header[24..].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// The frame whose header these bytes begin with, if they are one that may stand there.
    fn decode(bytes: &[u8], at: u64) -> Option<Self> {
        let header: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let crc = number(&header[24..]) as u32;
        // Zeros are by far the most frequent thing that is not a header.
        if crc == 0 || crc32fast::hash(&header[..24]) != crc {
            return None;
        }
        let (crc, length) = (number(&header[..4]) as u32, number(&header[4..8]) as u32);
        let frame = Self { at, offset: number(&header[8..16]), length, flushed: number(&header[16..24]), crc };
        let fits = at % BLOCK_BYTES + HEADER_BYTES as u64 + u64::from(length) <= BLOCK_BYTES;
        let is_possible = frame.flushed <= frame.offset && frame.offset.checked_add(length.into()).is_some();
        (fits && is_possible).then_some(frame)
    }

    /// Where its bytes end in the stream.
    fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }

    /// Where the next frame may begin in the file: a seal is overwritten.
    fn end_at(&self) -> u64 {
        if self.length == 0 { self.at } else { self.at + HEADER_BYTES as u64 + u64::from(self.length) }
    }

    /// Its bytes in its block, if they are those that were written.
    fn data<'a>(&self, block: &'a [u8]) -> Option<&'a [u8]> {
        let begin = (self.at % BLOCK_BYTES) as usize + HEADER_BYTES;
        let data = block.get(begin..begin + self.length as usize)?;
        (crc32fast::hash(data) == self.crc).then_some(data)
    }
}

/// The next bytes of a stream as they stand in its file.
#[derive(Debug)]
pub(super) struct Frames {
    /// Where they begin in the file.
    pub(super) at: u64,
    pub(super) bytes: Vec<u8>,
    frames: Vec<Frame>,
}

impl Frames {
    /// `data` is what follows the stream's first `offset` bytes, and `at` where the file's last frame ends.
    pub(super) fn new(at: u64, offset: u64, flushed: u64, mut data: &[u8]) -> Self {
        let begin = next_at(at);
        let mut made = Self { at: begin, bytes: Vec::with_capacity(data.len() + 4 * HEADER_BYTES), frames: Vec::new() };
        let (mut at, mut offset) = (begin, offset);
        while !data.is_empty() {
            let room = (BLOCK_BYTES - at % BLOCK_BYTES) as usize - HEADER_BYTES;
            let (now, rest) = data.split_at(data.len().min(room));
            let frame = Frame { at, offset, length: now.len() as u32, flushed, crc: crc32fast::hash(now) };
            made.bytes.extend(frame.encode());
            made.bytes.extend_from_slice(now);
            made.frames.push(frame);
            // A frame that is not the last one ends with its block.
            (at, offset, data) = (frame.end_at(), frame.end(), rest);
        }
        made
    }

    /// What of the stream is in the file, and where that ends, when the first `count` of the bytes were written; nothing before the
    /// first frame is whole.
    pub(super) fn taken(&self, count: usize) -> Option<(usize, u64)> {
        let written = self.at + count as u64;
        let last = self.frames.iter().rfind(|frame| frame.end_at() <= written)?;
        Some(((last.end() - self.frames[0].offset) as usize, last.end_at()))
    }
}

/// Writes behind the last frame, which ends at `at`, that all of the stream is flushed. Nothing depends on it but how surely
/// damage is told, so a failure is passed over.
pub(super) fn seal(file: &File, at: u64, length: u64) {
    let frame = Frame { at: next_at(at), offset: length, length: 0, flushed: length, crc: 0 };
    if let Err(error) = file.write_all_at(&frame.encode(), frame.at) {
        tracing::debug!(%error, "a stream was not sealed");
    }
}

/// Where the frame behind one that ends at `at` begins: in the next block when no byte of it would fit.
fn next_at(at: u64) -> u64 {
    let room = BLOCK_BYTES - at % BLOCK_BYTES;
    if room > HEADER_BYTES as u64 { at } else { at + room }
}

/// Reads the block into `block`; less than a whole one where the file ends.
fn read_block(file: &File, number: u64, block: &mut Vec<u8>) -> io::Result<()> {
    block.resize(BLOCK_BYTES as usize, 0);
    let mut filled = 0;
    while filled < block.len() {
        match file.read_at(&mut block[filled..], number * BLOCK_BYTES + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    block.truncate(filled);
    Ok(())
}

/// Little-endian, of at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}
