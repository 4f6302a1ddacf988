//! Brings a folder back by its content hash: every path checked, every file checked against its hash, never through a link.

use crate::call::{Backoff, request};
use crate::error::{Error, Failure, judge};
use crate::pool::Client;
use crate::upload::Place;
use crate::v1;
use proto::v1::blobs_client::BlobsClient;
use sha2::{Digest, Sha256};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use types::{ContentHash, FileKind, Limits, Tree, TreeEntry};

/// What a download wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Downloaded {
    /// Files.
    pub files: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A tree of the most entries that are allowed, with long paths, stays below this.
const TREE_BLOB_BYTES_MAX: u64 = 128 << 20;
/// A coordinator that sends no chunk for so long has stalled.
const STALL: Duration = Duration::from_secs(30);
/// Tries of one blob, over all coordinators.
const TRIES: u32 = 10;

/// Where a blob's bytes go while their hash is taken.
enum Sink {
    Memory(Vec<u8>),
    File(PathBuf, tokio::fs::File),
}

impl Client {
    /// One blob in memory; refused when it is larger than `bytes_max`.
    pub async fn blob(&self, place: &Place, hash: ContentHash, bytes_max: u64) -> Result<Vec<u8>, Error> {
        match self.fetch(place, hash, bytes_max, None).await? {
            Sink::Memory(bytes) => Ok(bytes),
            Sink::File(path, _) => Err(Error::file(path, io::Error::other("not asked for"))),
        }
    }

    /// The folder behind a tree hash: its files, paths checked.
    pub async fn tree(&self, place: &Place, hash: ContentHash) -> Result<Tree, Error> {
        let bytes = self.blob(place, hash, TREE_BLOB_BYTES_MAX).await?;
        let bad = |reason: String| Error::Tree { hash, reason };
        let tree: Tree = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        let tree = tree.checked().map_err(|error| bad(error.to_string()))?;
        if tree.entries().len() > Limits::TREE_ENTRIES_MAX {
            return Err(bad(format!(
                "{} files; at most {} are allowed",
                tree.entries().len(),
                Limits::TREE_ENTRIES_MAX
            )));
        }
        Ok(tree)
    }

    /// Writes the folder behind a tree hash into `folder`, which is made if need be. Files of the same name are replaced,
    /// each whole; other files stay.
    pub async fn download(
        &self,
        place: &Place,
        tree: ContentHash,
        folder: &Path,
        progress: &(dyn Fn(Downloaded) + Send + Sync),
    ) -> Result<Downloaded, Error> {
        let tree = self.tree(place, tree).await?;
        tokio::fs::create_dir_all(folder).await.map_err(|error| Error::file(folder, error))?;
        let mut done = Downloaded::default();
        for entry in tree.entries() {
            self.download_entry(place, entry, folder).await?;
            done.files += 1;
            done.bytes += entry.bytes;
            progress(done);
        }
        Ok(done)
    }

    async fn download_entry(&self, place: &Place, entry: &TreeEntry, folder: &Path) -> Result<(), Error> {
        let target = folder.join(&entry.path);
        make_parents(folder, &entry.path)?;
        // Beside the target and renamed: a broken download leaves the old file, and a link there is replaced, not followed.
        let beside = target.with_file_name(format!(".muster-{}.part", entry.hash.short()));
        let written = self.fetch(place, entry.hash, entry.bytes, Some(beside.clone())).await;
        let placed = match written {
            Ok(_) => put_in_place(&beside, &target, entry.kind),
            Err(error) => Err(error),
        };
        if placed.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        placed
    }

    /// Fetches one blob from whichever coordinator has it whole.
    async fn fetch(
        &self,
        place: &Place,
        hash: ContentHash,
        bytes_max: u64,
        file: Option<PathBuf>,
    ) -> Result<Sink, Error> {
        let mut backoff = Backoff::new();
        let mut last = None;
        for _ in 0..TRIES {
            let index = self.preferred();
            let sink = new_sink(file.as_deref()).await?;
            match self.fetch_once(index, place, hash, bytes_max, sink).await {
                Ok(sink) => return Ok(sink),
                Err(Failure::Final(error @ (Error::NotFound(_) | Error::Damaged { .. }))) => last = Some(error),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again { reason, .. }) => {
                    let tried = vec![crate::Tried { address: self.address(index).to_owned(), reason }];
                    last = Some(Error::NoCoordinator { tried });
                }
            }
            self.move_on(index);
            backoff.wait().await;
        }
        Err(last.unwrap_or(Error::NoCoordinator { tried: Vec::new() }))
    }

    async fn fetch_once(
        &self,
        index: usize,
        place: &Place,
        hash: ContentHash,
        bytes_max: u64,
        mut sink: Sink,
    ) -> Result<Sink, Failure> {
        let address = self.address(index).to_owned();
        let again = |reason: String| Failure::Again { reason, reached: false };
        let damaged = |reason: String| Failure::Final(Error::Damaged { hash, address: address.clone(), reason });
        let stalled = || again(format!("sent nothing for {} s", STALL.as_secs()));
        let channel = self.channel(index).map_err(again)?;
        let (workspace, job_id) = place.wire();
        let wire = v1::GetBlobRequest { hash: hash.0.to_vec().into(), local: false, workspace, job_id };
        let opened = tokio::time::timeout(STALL, BlobsClient::new(channel).get(request(wire))).await;
        let mut stream = opened.map_err(|_| stalled())?.map_err(|status| judge(&address, &status))?.into_inner();
        let (mut digest, mut offset) = (Sha256::new(), 0_u64);
        loop {
            let message = tokio::time::timeout(STALL, stream.message()).await.map_err(|_| stalled())?;
            let Some(chunk) = message.map_err(|status| judge(&address, &status))? else { break };
            if chunk.offset != offset {
                return Err(damaged(format!("byte {} came where {offset} was due", chunk.offset)));
            }
            offset += chunk.data.len() as u64;
            if offset > bytes_max {
                return Err(damaged(format!("more than {bytes_max} bytes")));
            }
            digest.update(&chunk.data);
            sink.write(&chunk.data).await.map_err(Failure::Final)?;
        }
        if digest.finalize()[..] != hash.0[..] {
            return Err(damaged(format!("its {offset} bytes have another hash")));
        }
        sink.flush().await.map_err(Failure::Final)?;
        Ok(sink)
    }
}

async fn new_sink(file: Option<&Path>) -> Result<Sink, Error> {
    let Some(path) = file else { return Ok(Sink::Memory(Vec::new())) };
    let _ = tokio::fs::remove_file(path).await;
    // `create_new` fails on a link that someone put there in between.
    let opened = tokio::fs::OpenOptions::new().write(true).create_new(true).open(path).await;
    Ok(Sink::File(path.to_owned(), opened.map_err(|error| Error::file(path, error))?))
}

impl Sink {
    async fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        match self {
            Sink::Memory(bytes) => {
                bytes.extend_from_slice(data);
                Ok(())
            }
            Sink::File(path, file) => file.write_all(data).await.map_err(|error| Error::file(path.clone(), error)),
        }
    }

    async fn flush(&mut self) -> Result<(), Error> {
        match self {
            Sink::Memory(_) => Ok(()),
            Sink::File(path, file) => file.flush().await.map_err(|error| Error::file(path.clone(), error)),
        }
    }
}

/// Makes the folders above `path`, and refuses a link among them: it could lead out of `folder`.
fn make_parents(folder: &Path, path: &str) -> Result<(), Error> {
    let mut current = folder.to_owned();
    let Some((parents, _)) = path.rsplit_once('/') else { return Ok(()) };
    for part in parents.split('/') {
        current.push(part);
        match std::fs::symlink_metadata(&current) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err(Error::file(&current, io::Error::other("is in the way: not a folder"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::create_dir(&current).map_err(|error| Error::file(&current, error))?;
            }
            Err(error) => return Err(Error::file(&current, error)),
        }
    }
    Ok(())
}

fn put_in_place(beside: &Path, target: &Path, kind: FileKind) -> Result<(), Error> {
    let mode = if kind == FileKind::Executable { 0o755 } else { 0o644 };
    std::fs::set_permissions(beside, std::fs::Permissions::from_mode(mode))
        .and_then(|()| std::fs::rename(beside, target))
        .map_err(|error| Error::file(target, error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_way_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("link")).unwrap();
        assert!(make_parents(folder.path(), "link/file").is_err());
        assert!(make_parents(folder.path(), "a/b/file").is_ok());
        assert!(folder.path().join("a/b").is_dir());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
