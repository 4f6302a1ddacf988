//! Files of jobs in an object store outside: S3, Azure Blob Storage, Google Cloud Storage, or a folder that all coordinators share.
//!
//! ```text
//!  PREFIX/blobs/WORKSPACE/ab/cdef...     a blob by its content hash, as it lies on a coordinator's disk
//! ```
//!
//! Names say what is in an object, so that storing one twice changes nothing, and whatever comes back is checked against its name.
//! Who stores and who fetches is in [`crate::api::archive`].

mod http;
mod place;

pub(crate) use place::check;

use crate::config::Config;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::{Path, PathPart};
use object_store::{MultipartUpload, ObjectStore, ObjectStoreExt as _, PutPayload};
use std::sync::Arc;
use std::time::Duration;
use stores::blobs::{BlobReader, BlobStore};
use types::{ContentHash, Workspace};

/// Larger blobs are sent in parts of at least this size.
const PART_BYTES: u64 = 8 << 20;
/// Parts of one object, at most: S3 takes 10,000.
const PARTS_MAX: u64 = 9_000;
/// For the store to answer one request, its repetitions included.
const ANSWER_MAX: Duration = Duration::from_mins(2);

/// The store. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Archive {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
}

/// What an object holds, as it comes.
pub(crate) struct Fetched {
    /// Bytes in all.
    pub(crate) bytes_total: u64,
    /// In order.
    pub(crate) pieces: BoxStream<'static, Result<Bytes, String>>,
}

impl Archive {
    /// The store that the configuration names, if any. Nothing is asked of it yet.
    pub(crate) async fn open(config: &Config) -> Result<Option<Self>, String> {
        let Some(url) = &config.object_store else { return Ok(None) };
        let (store, prefix) = place::open(url, config.object_store_options.as_deref()).await?;
        Ok(Some(Self { store, prefix }))
    }

    fn blob(&self, place: &Workspace, hash: &ContentHash) -> Path {
        let text = hash.to_string();
        let (shelf, rest) = text.split_at(2);
        let parts = ["blobs", place.as_str(), shelf, rest];
        self.prefix.parts().chain(parts.into_iter().map(PathPart::from)).collect()
    }

    /// How long a stored blob is; none when it is not there.
    pub(crate) async fn bytes_of(&self, place: &Workspace, hash: &ContentHash) -> Result<Option<u64>, String> {
        match timely(self.store.head(&self.blob(place, hash))).await? {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(words(&error)),
        }
    }

    /// Stores a blob of this disk and answers with its bytes; one that is damaged here is an error, and leaves nothing there.
    pub(crate) async fn put(&self, place: &Workspace, blobs: BlobStore, hash: ContentHash) -> Result<u64, String> {
        let opened = blocking(move || blobs.reader(&hash)).await?.map_err(|error| error.to_string())?;
        let reader = opened.ok_or_else(|| format!("blob {} was removed meanwhile", hash.short()))?.verified();
        let (path, bytes_total) = (self.blob(place, &hash), reader.bytes_total());
        let part = PART_BYTES.max(bytes_total / PARTS_MAX + 1);
        if bytes_total <= part {
            let (_, bytes) = read(reader, 0, part).await?;
            timely(self.store.put(&path, bytes.into())).await?.map_err(|error| words(&error))?;
            return Ok(bytes_total);
        }
        let upload = timely(self.store.put_multipart(&path)).await?;
        let mut upload = upload.map_err(|error| words(&error))?;
        let sent = send_parts(&mut *upload, reader, part).await;
        if sent.is_err() {
            // What it leaves there is no object; stores remove it by a rule of their own.
            let _ = timely(upload.abort()).await;
        }
        sent.map(|()| bytes_total)
    }

    /// Begins to fetch a blob; none when it is not there. Its bytes may be wrong: the name says what they must be.
    pub(crate) async fn get(&self, place: &Workspace, hash: &ContentHash) -> Result<Option<Fetched>, String> {
        let found = match timely(self.store.get(&self.blob(place, hash))).await? {
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            found => found.map_err(|error| words(&error))?,
        };
        let bytes_total = found.meta.size;
        Ok(Some(Fetched { bytes_total, pieces: found.into_stream().map_err(|error| words(&error)).boxed() }))
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, mut reader: BlobReader, part: u64) -> Result<(), String> {
    let mut offset = 0;
    while offset < reader.bytes_total() {
        let (back, bytes) = read(reader, offset, part).await?;
        reader = back;
        offset += bytes.len() as u64;
        timely(upload.put_part(PutPayload::from(bytes))).await?.map_err(|error| words(&error))?;
    }
    timely(upload.complete()).await?.map(drop).map_err(|error| words(&error))
}

async fn read(mut reader: BlobReader, offset: u64, max: u64) -> Result<(BlobReader, Bytes), String> {
    let max = usize::try_from(max).unwrap_or(usize::MAX);
    let read = blocking(move || reader.read_at(offset, max).map(|bytes| (reader, bytes)));
    read.await?.map_err(|error| error.to_string())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.map_err(|error| error.to_string())
}

async fn timely<T>(asked: impl Future<Output = T>) -> Result<T, String> {
    let answer = tokio::time::timeout(ANSWER_MAX, asked).await;
    answer.map_err(|_| format!("the object store did not answer within {ANSWER_MAX:?}"))
}

/// What an error says, and what is below it says if it does not say that itself.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut below = error.source();
    while let Some(error) = below {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        below = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
