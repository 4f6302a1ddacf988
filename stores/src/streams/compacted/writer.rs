//! Writes a compacted file from the stream's bytes, in order.

use super::{BLOCK_BYTES, Footer, hash_so_far};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Write};
use zstd::bulk::Compressor;

/// Compression: the usual level, a hundred times faster than the network that brings the bytes.
const LEVEL: i32 = 3;

/// A file that is being written.
pub(in crate::streams) struct Writer {
    file: File,
    compressor: Compressor<'static>,
    /// Of the stream; less than a block.
    block: Vec<u8>,
    compressed: Vec<u8>,
    index: Vec<u8>,
    hasher: Sha256,
    length: u64,
    stored: u64,
}

impl Writer {
    /// Of an empty file.
    pub(in crate::streams) fn new(file: File) -> io::Result<Self> {
        Ok(Self {
            file,
            compressor: Compressor::new(LEVEL)?,
            block: Vec::with_capacity(BLOCK_BYTES),
            compressed: Vec::with_capacity(zstd::zstd_safe::compress_bound(BLOCK_BYTES)),
            index: Vec::new(),
            hasher: Sha256::new(),
            length: 0,
            stored: 0,
        })
    }

    /// The stream's next bytes.
    pub(in crate::streams) fn write(&mut self, mut data: &[u8]) -> io::Result<()> {
        self.hasher.update(data);
        self.length += data.len() as u64;
        while !data.is_empty() {
            let (now, rest) = data.split_at(data.len().min(BLOCK_BYTES - self.block.len()));
            self.block.extend_from_slice(now);
            data = rest;
            if self.block.len() == BLOCK_BYTES {
                self.end_block()?;
            }
        }
        Ok(())
    }

    /// Writes the rest, the index and the footer; gives the file back, not flushed yet.
    pub(in crate::streams) fn finish(mut self) -> io::Result<(File, Footer, u64)> {
        if !self.block.is_empty() {
            self.end_block()?;
        }
        let footer = Footer {
            length: self.length,
            hash: hash_so_far(self.hasher),
            index_at: self.stored,
            index_crc: crc32fast::hash(&self.index),
        };
        self.index.extend(footer.encode());
        self.file.write_all(&self.index)?;
        Ok((self.file, footer, self.stored + self.index.len() as u64))
    }

    fn end_block(&mut self) -> io::Result<()> {
        self.compressed.clear();
        self.compressor.compress_to_buffer(&self.block, &mut self.compressed)?;
        self.file.write_all(&self.compressed)?;
        self.index.extend((self.compressed.len() as u32).to_le_bytes());
        self.index.extend(crc32fast::hash(&self.compressed).to_le_bytes());
        self.stored += self.compressed.len() as u64;
        self.block.clear();
        Ok(())
    }
}
