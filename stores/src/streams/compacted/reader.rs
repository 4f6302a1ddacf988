//! Reads a compacted file from any offset, and whole to prove it right.

use super::{BLOCK_BYTES, FOOTER_BYTES, Fault, Footer, INDEX_ENTRY_BYTES, hash_so_far, number};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use zstd::bulk::Decompressor;

/// An open file.
#[derive(Debug)]
pub(in crate::streams) struct Reader {
    file: File,
    footer: Footer,
    blocks: Vec<Block>,
}

/// Where a block lies in the file.
#[derive(Clone, Copy, Debug)]
struct Block {
    at: u64,
    bytes: usize,
    crc: u32,
}

impl Reader {
    /// The footer alone, which has the stream's length, and the bytes of the file.
    pub(in crate::streams) fn footer(path: &Path) -> Result<(Footer, u64), Fault> {
        let (footer, index_bytes) = footer_of(&File::open(path)?)?;
        Ok((footer, footer.index_at + (index_bytes + FOOTER_BYTES) as u64))
    }

    /// The file with its index.
    pub(in crate::streams) fn open(path: &Path) -> Result<Self, Fault> {
        let file = File::open(path)?;
        let (footer, index_bytes) = footer_of(&file)?;
        let mut index = vec![0; index_bytes];
        file.read_exact_at(&mut index, footer.index_at)?;
        if crc32fast::hash(&index) != footer.index_crc {
            return Err(Fault::Damaged("its index is wrong".to_owned()));
        }
        let mut at = 0;
        let mut blocks = Vec::with_capacity(index.len() / INDEX_ENTRY_BYTES);
        for entry in index.chunks_exact(INDEX_ENTRY_BYTES) {
            let block = Block { at, bytes: number(&entry[..4]) as usize, crc: number(&entry[4..]) as u32 };
            at += block.bytes as u64;
            blocks.push(block);
        }
        if at != footer.index_at {
            return Err(Fault::Damaged("its blocks are not as long as its index says".to_owned()));
        }
        Ok(Self { file, footer, blocks })
    }

    /// `count` bytes from `offset` on; fewer only where the stream ends.
    pub(in crate::streams) fn read(&self, offset: u64, count: usize) -> Result<Vec<u8>, Fault> {
        let end = self.footer.length.min(offset.saturating_add(count as u64));
        let mut bytes = Vec::with_capacity(usize::try_from(end.saturating_sub(offset)).unwrap_or(0));
        let mut decompressor = Decompressor::new()?;
        let mut at = offset;
        while at < end {
            let number = at / BLOCK_BYTES as u64;
            let block = self.block(&mut decompressor, number)?;
            let begin = (at - number * BLOCK_BYTES as u64) as usize;
            let wanted = ((end - at) as usize).min(block.len() - begin);
            bytes.extend_from_slice(&block[begin..begin + wanted]);
            at += wanted as u64;
        }
        Ok(bytes)
    }

    /// Hands the whole stream on, block by block, and fails unless it has the hash that its footer names.
    pub(in crate::streams) fn whole<E: From<Fault>>(
        &self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut decompressor = Decompressor::new().map_err(Fault::Io)?;
        let mut hasher = Sha256::new();
        for number in 0..self.footer.blocks() {
            let block = self.block(&mut decompressor, number)?;
            hasher.update(&block);
            take(&block)?;
        }
        if hash_so_far(hasher) != self.footer.hash {
            return Err(Fault::Damaged("its bytes have another hash than its footer says".to_owned()).into());
        }
        Ok(())
    }

    fn block(&self, decompressor: &mut Decompressor<'_>, number: u64) -> Result<Vec<u8>, Fault> {
        let damaged = |what: &str| Fault::Damaged(format!("block {number} {what}"));
        let known = usize::try_from(number).ok().and_then(|number| self.blocks.get(number));
        let block = known.ok_or_else(|| damaged("is missing"))?;
        let mut compressed = vec![0; block.bytes];
        self.file.read_exact_at(&mut compressed, block.at)?;
        if crc32fast::hash(&compressed) != block.crc {
            return Err(damaged("has a wrong checksum"));
        }
        let bytes = decompressor.decompress(&compressed, BLOCK_BYTES).map_err(|_| damaged("does not decompress"))?;
        let expected = (self.footer.length - number * BLOCK_BYTES as u64).min(BLOCK_BYTES as u64);
        if bytes.len() as u64 != expected {
            return Err(damaged("has another length than it should"));
        }
        Ok(bytes)
    }
}

/// The footer, and the bytes of the index before it.
fn footer_of(file: &File) -> Result<(Footer, usize), Fault> {
    let bytes = file.metadata()?.len();
    let Some(footer_at) = bytes.checked_sub(FOOTER_BYTES as u64) else {
        return Err(Fault::Damaged("it is too short".to_owned()));
    };
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at)?;
    let footer = Footer::decode(&footer)?;
    let index_bytes = footer.blocks().checked_mul(INDEX_ENTRY_BYTES as u64);
    match index_bytes.filter(|bytes| footer.index_at.checked_add(*bytes) == Some(footer_at)) {
        Some(bytes) => Ok((footer, bytes as usize)),
        None => Err(Fault::Damaged("its index is not where its footer says".to_owned())),
    }
}
