//! Folders by content: scanned into a tree blob and its files' blobs, and made again from them elsewhere.
//!
//! A tree holds plain files and their executable bit. Empty folders, owners, times and other permissions are not kept.
//! Symbolic links are never followed, in either direction: a rank that leaves a link to `/etc/shadow` among its outputs
//! uploads nothing of it, and a tree cannot be made to write outside its destination.

mod materialise;
mod scan;
#[cfg(test)]
mod tests;

pub use materialise::{CopyMode, MaterialiseError, Materialised, materialise, materialise_with};
pub use scan::{Links, Scan, ScanError, ScanOptions, ScanStats, Skipped, hash_folder, store_folder};

use crate::blobs::{BlobError, BlobStore};
use bytes::Bytes;
use types::{ContentHash, Limits, Tree, TreeError};

/// Bytes of one encoded tree: 100,000 files with long paths and their hashes fit well.
pub const TREE_BLOB_BYTES_MAX: u64 = 128 << 20;

/// Why a tree blob was refused.
#[derive(Debug, thiserror::Error)]
pub enum TreeBlobError {
    /// The store could not give it.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Not the JSON of a tree.
    #[error("the blob is not a tree")]
    Json(#[source] serde_json::Error),
    /// A tree with a path, an order or a duplicate that is not allowed.
    #[error("the tree is not allowed")]
    Tree(#[from] TreeError),
    /// More files than allowed.
    #[error("the tree has {entries} files, more than {max}")]
    TooManyEntries {
        /// How many it has.
        entries: usize,
        /// How many it may have.
        max: usize,
    },
    /// More bytes than allowed.
    #[error("the tree's files have more than {max} bytes")]
    TooManyBytes {
        /// How many they may have.
        max: u64,
    },
}

/// The tree's blob and its hash, which names the folder.
pub fn encode(tree: &Tree) -> Result<(ContentHash, Bytes), TreeBlobError> {
    check_limits(tree)?;
    let bytes = serde_json::to_vec(tree).map_err(TreeBlobError::Json)?;
    if bytes.len() as u64 > TREE_BLOB_BYTES_MAX {
        return Err(BlobError::TooLarge { bytes: bytes.len() as u64, max: TREE_BLOB_BYTES_MAX }.into());
    }
    Ok((crate::blobs::hash_of(&bytes), bytes.into()))
}

/// Reads a tree blob from outside; every path, count and size is checked.
pub fn decode(bytes: &[u8]) -> Result<Tree, TreeBlobError> {
    if bytes.len() as u64 > TREE_BLOB_BYTES_MAX {
        return Err(BlobError::TooLarge { bytes: bytes.len() as u64, max: TREE_BLOB_BYTES_MAX }.into());
    }
    let tree: Tree = serde_json::from_slice(bytes).map_err(TreeBlobError::Json)?;
    check_limits(&tree)?;
    Ok(tree.checked()?)
}

/// The stored tree of that hash. Nothing when it is not stored.
pub fn load(store: &BlobStore, hash: &ContentHash) -> Result<Option<Tree>, TreeBlobError> {
    store.get_bytes(hash, TREE_BLOB_BYTES_MAX)?.map(|bytes| decode(&bytes)).transpose()
}

/// Stores the tree's blob (not its files).
pub fn store_tree(store: &BlobStore, tree: &Tree) -> Result<ContentHash, TreeBlobError> {
    let (_, bytes) = encode(tree)?;
    Ok(store.put_bytes(&bytes)?)
}

fn check_limits(tree: &Tree) -> Result<(), TreeBlobError> {
    let entries = tree.entries().len();
    if entries > Limits::TREE_ENTRIES_MAX {
        return Err(TreeBlobError::TooManyEntries { entries, max: Limits::TREE_ENTRIES_MAX });
    }
    // Not `bytes_total`: a tree from outside may name sizes whose sum does not fit.
    let sum = tree.entries().iter().try_fold(0_u64, |sum, entry| sum.checked_add(entry.bytes));
    match sum {
        Some(sum) if sum <= Limits::TREE_BYTES_MAX => Ok(()),
        _ => Err(TreeBlobError::TooManyBytes { max: Limits::TREE_BYTES_MAX }),
    }
}
