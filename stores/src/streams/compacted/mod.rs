//! The file of a stream that has ended: its bytes in compressed blocks, each with a checksum, and an index to read from any offset.
//!
//! ```text
//! block 0 | block 1 | ... | index: a length and a CRC-32 for each block | footer: 72 bytes
//! ```
//!
//! A block is one zstd frame of [`BLOCK_BYTES`] of the stream, the last one of what is left; its CRC-32 is of the compressed
//! bytes. The footer has the stream's length, the SHA-256 of all its bytes, and checksums of the index and of itself. The file is
//! written once, from front to back, and never changed: what reads back wrong is damage, and is told instead of served.

mod reader;
mod writer;

pub(super) use reader::Reader;
pub(super) use writer::Writer;

use sha2::{Digest, Sha256};
use std::io;

/// Bytes of the stream in one block: what a reader takes at once, so that no read decompresses for nothing.
pub(super) const BLOCK_BYTES: usize = 256 << 10;
/// Format of the file, in its footer.
const FORMAT: u32 = 1;
const MAGIC: [u8; 8] = *b"MUSTSTRM";
const FOOTER_BYTES: usize = 72;
const INDEX_ENTRY_BYTES: usize = 8;

/// Why a compacted file could not be read.
#[derive(Debug)]
pub(super) enum Fault {
    /// The file system said so.
    Io(io::Error),
    /// The bytes are not those that were written.
    Damaged(String),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // The file ends before what it says that it holds.
            io::ErrorKind::UnexpectedEof => Fault::Damaged("it is too short".to_owned()),
            _ => Fault::Io(error),
        }
    }
}

/// What a file says of itself at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Footer {
    /// Bytes of the stream.
    pub(super) length: u64,
    /// SHA-256 of them.
    pub(super) hash: [u8; 32],
    /// Where the index begins.
    index_at: u64,
    index_crc: u32,
}

impl Footer {
    /// How many blocks the stream has.
    fn blocks(&self) -> u64 {
        self.length.div_ceil(BLOCK_BYTES as u64)
    }

    fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT.to_le_bytes());
        bytes.extend((BLOCK_BYTES as u32).to_le_bytes());
        bytes.extend(self.length.to_le_bytes());
        bytes.extend(self.index_at.to_le_bytes());
        bytes.extend(self.index_crc.to_le_bytes());
        bytes.extend(self.hash);
        let crc = crc32fast::hash(&bytes);
        bytes.extend(crc.to_le_bytes());
        let mut footer = [0; FOOTER_BYTES];
        footer.copy_from_slice(&bytes);
        footer
    }

    fn decode(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, Fault> {
        let (body, crc) = bytes.split_at(FOOTER_BYTES - 4);
        if number(crc) != u64::from(crc32fast::hash(body)) || body[..8] != MAGIC {
            return Err(Fault::Damaged("its footer is wrong".to_owned()));
        }
        let (format, block) = (number(&body[8..12]), number(&body[12..16]));
        if (format, block) != (FORMAT.into(), BLOCK_BYTES as u64) {
            return Err(Fault::Damaged(format!("its format is {format} with blocks of {block} bytes")));
        }
        let mut hash = [0; 32];
        hash.copy_from_slice(&body[36..68]);
        Ok(Self {
            length: number(&body[16..24]),
            index_at: number(&body[24..32]),
            index_crc: number(&body[32..36]) as u32,
            hash,
        })
    }
}

/// Little-endian, of at most 8 bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

fn hash_so_far(hasher: Sha256) -> [u8; 32] {
    hasher.finalize().into()
}

#[cfg(test)]
mod tests;
