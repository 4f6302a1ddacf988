//! Group commit: appends of many callers are written together, flushed once, and answered when they are on disk.
//!
//! ```text
//! callers -> bounded queue -> thread: take what waits -> append each -> one flush -> answer each
//! ```
//!
//! When the queue is full `append_durable` waits, which holds back the caller's sender; `try_append` says `Busy`.

use super::{AppendOutcome, StreamError, StreamName, StreamStore};
use bytes::Bytes;
use std::io;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use types::Token;

/// Bounds of a flusher.
#[derive(Clone, Copy, Debug)]
pub struct FlusherOptions {
    /// Appends that may wait; at 256 KiB each 64 MiB.
    pub queue_max: usize,
    /// Appends in one flush.
    pub batch_max: usize,
    /// Bytes after which a batch is flushed, so that nobody waits long behind a large one.
    pub batch_bytes_max: usize,
}

impl Default for FlusherOptions {
    fn default() -> Self {
        Self { queue_max: 256, batch_max: 1_024, batch_bytes_max: 8 << 20 }
    }
}

struct Request {
    name: StreamName,
    token: Token,
    offset: u64,
    data: Bytes,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<AppendOutcome, StreamError>>;

/// Hands appends to the flushing thread. Clones share it; it ends, everything queued answered, when the last is dropped.
#[derive(Clone, Debug)]
pub struct Flusher {
    queue: mpsc::Sender<Request>,
}

impl Flusher {
    /// Starts the thread. Join the handle after the last `Flusher` is dropped to know that the store is let go of.
    pub fn start(store: StreamStore, options: FlusherOptions) -> io::Result<(Self, JoinHandle<()>)> {
        let (queue, waiting) = mpsc::channel(options.queue_max.max(1));
        let thread = std::thread::Builder::new()
            .name("stream-flusher".into())
            .spawn(move || serve(&store, waiting, &options))?;
        Ok((Self { queue }, thread))
    }

    /// Appends and returns when it is on disk; `length` is the flushed length then. Appends of one caller are written in
    /// the order in which they were queued. The disk has no deadline: give the call one.
    pub async fn append_durable(
        &self,
        name: StreamName,
        token: Token,
        offset: u64,
        data: Bytes,
    ) -> Result<AppendOutcome, StreamError> {
        let answer = self.queue_append(name, token, offset, data).await?;
        answer.await.unwrap_or(Err(StreamError::Closed))
    }

    /// Queues an append, waiting for room in the queue only, so that one caller can have many under way in order. The
    /// receiver gets the outcome when it is on disk.
    pub async fn queue_append(
        &self,
        name: StreamName,
        token: Token,
        offset: u64,
        data: Bytes,
    ) -> Result<oneshot::Receiver<Result<AppendOutcome, StreamError>>, StreamError> {
        let (answer, receiver) = oneshot::channel();
        let request = Request { name, token, offset, data, answer };
        self.queue.send(request).await.map_err(|_| StreamError::Closed)?;
        Ok(receiver)
    }

    /// Queues an append without waiting; `Busy` when the queue is full.
    pub fn try_append(
        &self,
        name: StreamName,
        token: Token,
        offset: u64,
        data: Bytes,
    ) -> Result<oneshot::Receiver<Result<AppendOutcome, StreamError>>, StreamError> {
        let (answer, receiver) = oneshot::channel();
        self.queue.try_send(Request { name, token, offset, data, answer }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => StreamError::Busy,
            mpsc::error::TrySendError::Closed(_) => StreamError::Closed,
        })?;
        Ok(receiver)
    }
}

fn serve(store: &StreamStore, mut waiting: mpsc::Receiver<Request>, options: &FlusherOptions) {
    while let Some(first) = waiting.blocking_recv() {
        let mut bytes = first.data.len();
        let mut batch = vec![first];
        while batch.len() < options.batch_max
            && bytes < options.batch_bytes_max
            && let Ok(next) = waiting.try_recv()
        {
            bytes += next.data.len();
            batch.push(next);
        }
        commit(store, batch);
    }
}

fn commit(store: &StreamStore, batch: Vec<Request>) {
    let mut appended = Vec::with_capacity(batch.len());
    for Request { name, token, offset, data, answer } in batch {
        let outcome = store.append(&name, token, offset, &data);
        // The bytes go back to their owner before the flush, which may take long.
        drop(data);
        appended.push((name, outcome, answer));
    }
    let failure = store.flush().err().map(|error| match error {
        StreamError::SyncFailed(text) => text,
        other => other.to_string(),
    });
    for (name, outcome, answer) in appended {
        let result = match (&failure, outcome) {
            (_, Err(error)) => Err(error),
            (Some(text), Ok(_)) => Err(StreamError::SyncFailed(text.clone())),
            (None, Ok(outcome)) => store.length(&name).map(|length| AppendOutcome { length, ..outcome }),
        };
        // A caller that went away does not want to know.
        let _ = answer.send(result);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::{LIMITS, name, read_all, source};
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::atomic::Ordering;
    use std::time::Duration;
    use types::JobId;

    async fn within<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_writers_share_flushes_and_each_stream_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = StreamStore::open(folder.path(), LIMITS).unwrap();
        let (flusher, thread) =
            Flusher::start(store.clone(), FlusherOptions { queue_max: 4, ..Default::default() }).unwrap();
        let writers: Vec<_> = (0..16_u32)
            .map(|rank| {
                let flusher = flusher.clone();
                tokio::spawn(async move {
                    let name = name(1, rank);
                    let mut length = 0;
                    while length < 20_000 {
                        let data = Bytes::from(source(&name, length, 1_000));
                        let outcome = flusher.append_durable(name, Token(1), length, data).await.unwrap();
                        assert_eq!(outcome, AppendOutcome { length: length + 1_000, taken: 1_000 });
                        length = outcome.length;
                    }
                })
            })
            .collect();
        for writer in writers {
            within(writer).await.unwrap();
        }
        let refused = within(flusher.append_durable(name(1, 0), Token(0), 0, Bytes::from_static(b"x"))).await;
        assert!(matches!(refused, Err(StreamError::OlderToken { .. })));
        drop(flusher);
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        let lengths: BTreeMap<_, _> = store.streams_of(JobId(1)).unwrap().into_iter().collect();
        assert_eq!(lengths.len(), 16);
        for (name, length) in lengths {
            assert_eq!(length, 20_000);
            assert!(read_all(&store, &name, 4_000) == source(&name, 0, 20_000));
        }
    }

    #[tokio::test]
    async fn queued_appends_are_answered_after_the_last_handle_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let store = StreamStore::open(folder.path(), LIMITS).unwrap();
        let (flusher, thread) = Flusher::start(store.clone(), FlusherOptions::default()).unwrap();
        let mut answers = Vec::new();
        for i in 0..50 {
            answers
                .push(within(flusher.queue_append(name(1, 0), Token(1), i, Bytes::from_static(b"x"))).await.unwrap());
        }
        drop(flusher);
        for answer in answers {
            assert_eq!(within(answer).await.unwrap().unwrap().taken, 1);
        }
        tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
        assert_eq!(store.length(&name(1, 0)).unwrap(), 50);
    }

    #[tokio::test]
    async fn a_full_queue_says_busy_and_a_failed_flush_reaches_every_caller() {
        let folder = tempfile::tempdir().unwrap();
        let store = StreamStore::open(folder.path(), LIMITS).unwrap();
        let (flusher, _thread) =
            Flusher::start(store.clone(), FlusherOptions { queue_max: 1, ..Default::default() }).unwrap();
        store.disk().fail_next_sync.store(true, Ordering::SeqCst);
        let mut busy = false;
        let mut answers = Vec::new();
        for i in 0..10_000 {
            match flusher.try_append(name(1, 0), Token(1), i, Bytes::from_static(b"x")) {
                Err(StreamError::Busy) => {
                    busy = true;
                    break;
                }
                answer => answers.push(answer.unwrap()),
            }
        }
        assert!(busy);
        for answer in answers {
            assert!(within(answer).await.unwrap().unwrap_err().is_fatal());
        }
    }
}
