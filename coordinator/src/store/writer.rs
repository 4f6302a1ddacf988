//! The one thread that writes: takes every waiting job, writes them all, flushes once, then answers all (group commit).
//!
//! ```text
//!  append ─┐
//!  vote   ─┤ bounded queue ──> write each, in order ──> one sync ──> mark ──> answers
//!  purge  ─┘                                                            └──> a slice of old records removed
//! ```
//!
//! After one failure nothing more is written: a flush that failed may have dropped its pages, and a second one would lie.

use super::cache::SharedCache;
use super::disk::{DiskError, Fact, LogDisk, Record};
use super::error::StoreError;
use super::header::{Mark, MarkFile};
use crate::raft::types::{LogId, TypeConfig, Vote};
use daemon::files::FolderLock;
use openraft::storage::IOFlushed;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use serde::Serialize;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait; a full queue holds its callers back.
const QUEUE_MAX: usize = 1_024;
/// Jobs that share one flush.
const GROUP_MAX: usize = 512;
/// Purged records removed between two flushes, so that a purge of thousands holds up no append.
const REMOVE_SLICE: usize = 128;

/// Answers once the job is on disk.
pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// One thing to write, and who is told once it is flushed.
pub(crate) struct Job {
    pub(crate) work: Work,
    pub(crate) answer: Answer,
}

/// One thing to write.
pub(crate) enum Work {
    /// Adds entries.
    Append {
        /// In ascending order.
        records: Vec<Record>,
        /// The last of them.
        last: Option<LogId>,
    },
    /// Keeps the vote.
    Vote(Vote),
    /// Removes the entries after this one.
    Truncate(Option<LogId>),
    /// Forgets the entries up to this one; their bytes go later, in slices.
    Purge(LogId),
}

/// Who is told. Never dropped without a word: Raft would wait for ever.
pub(crate) enum Answer {
    /// openraft.
    Flushed(IOFlushed<TypeConfig>),
    /// One who waits.
    Done(Done),
}

impl Answer {
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Flushed(flushed) => flushed.io_completed(result),
            Self::Done(done) => drop(done.send(result)),
        }
    }
}

/// Queues jobs for the writer thread. The thread ends when every handle is gone.
#[derive(Clone, Debug)]
pub(crate) struct WriterHandle {
    jobs: mpsc::Sender<Job>,
    /// Seconds from the first write of a group until it is flushed.
    pub(crate) flushes: Histogram,
}

impl WriterHandle {
    /// Queues a job; waits while the queue is full.
    pub(crate) async fn send(&self, job: Job) -> io::Result<()> {
        self.jobs.send(job).await.map_err(|_| stopped())
    }

    /// Queues a job and waits until it is on disk.
    pub(crate) async fn complete(&self, work: Work) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        self.send(Job { work, answer: Answer::Done(done) }).await?;
        answer.await.map_err(|_| stopped())?
    }
}

fn stopped() -> io::Error {
    StoreError::Stopped("its writer thread has ended".to_owned()).into_io()
}

/// From 0.1 ms, a disk with a cache of its own, to 3 s, one that is about to fail.
fn flush_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_1, 2.0, 16))
}

/// How long the next write, or the next flush, takes.
pub type Pace = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Jobs that are written and not yet flushed.
struct Group {
    answers: Vec<Answer>,
    written: Result<Mark, String>,
}

/// sled panics on some kinds of damage.
fn guarded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, String> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(StoreError::Stopped("the storage engine gave up while writing".to_owned())))
        .map_err(|error| error.with_causes())
}

/// What the writer thread owns.
pub(crate) struct Writer {
    pub(crate) disk: Arc<dyn LogDisk>,
    pub(crate) mark: MarkFile,
    pub(crate) cache: Arc<SharedCache>,
    /// The folder of the log, named in errors.
    pub(crate) folder: PathBuf,
    /// First entry that may still be on disk, for removals.
    pub(crate) first: u64,
    /// The last purged entry whose record may still be there.
    pub(crate) purged: Option<u64>,
    /// The last that was noted as committed.
    pub(crate) committed: Option<LogId>,
    /// Keeps other processes out until the files are closed.
    pub(crate) _lock: FolderLock,
}

impl Writer {
    /// Starts the thread. The receiver is told when it has ended and the files are closed.
    pub(crate) fn start(self) -> io::Result<(WriterHandle, oneshot::Receiver<()>)> {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (ended, end) = oneshot::channel();
        let flushes = flush_histogram();
        let observed = flushes.clone();
        std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || {
            self.run(queue, &observed);
            let _ = ended.send(());
        })?;
        Ok((WriterHandle { jobs, flushes }, end))
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>, flushes: &Histogram) {
        let mut failure: Option<String> = None;
        loop {
            let removing = self.purged.is_some() && failure.is_none();
            let first = if removing { queue.try_recv().ok() } else { queue.blocking_recv() };
            let mut jobs: Vec<Job> = first.into_iter().collect();
            while jobs.len() < GROUP_MAX
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            if jobs.is_empty() && (!removing || queue.is_closed()) {
                break;
            }
            let (begun, must_flush) = (Instant::now(), !jobs.is_empty() && failure.is_none());
            if let Err(error) = self.group(jobs, failure.as_deref()) {
                tracing::error!(%error, "the raft store has stopped");
                failure.get_or_insert(error);
            } else if must_flush {
                flushes.observe(begun.elapsed().as_secs_f64());
            }
        }
        // A last flush on an orderly end, so that the next start finds the hints too.
        if failure.is_none()
            && let Err(error) = self.note_committed().and_then(|()| self.disk.sync())
        {
            tracing::error!(%error, "the last flush of the raft store failed");
        }
    }

    /// As a task that takes `pace()` for each write and each flush: for a simulation.
    pub(crate) fn start_paced(self, pace: Pace) -> (WriterHandle, oneshot::Receiver<()>) {
        let (jobs, queue) = mpsc::channel(QUEUE_MAX);
        let (ended, end) = oneshot::channel();
        tokio::spawn(async move {
            self.run_paced(queue, pace).await;
            let _ = ended.send(());
        });
        (WriterHandle { jobs, flushes: flush_histogram() }, end)
    }

    /// As `run`, but that purged records go with the next write and not when nothing else is to be done.
    async fn run_paced(mut self, mut queue: mpsc::Receiver<Job>, pace: Pace) {
        let mut failure: Option<String> = None;
        while let Some(first) = queue.recv().await {
            let mut jobs = vec![first];
            while jobs.len() < GROUP_MAX
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
            tokio::time::sleep(pace()).await;
            let group = self.begin(jobs, failure.as_deref());
            tokio::time::sleep(pace()).await;
            if let Err(error) = self.end(group) {
                failure.get_or_insert(error);
            }
        }
    }

    /// Writes a group; answers every job in it, whatever happens.
    fn group(&mut self, jobs: Vec<Job>, failure: Option<&str>) -> Result<(), String> {
        let group = self.begin(jobs, failure);
        self.end(group)
    }

    /// Writes without a flush.
    fn begin(&mut self, jobs: Vec<Job>, failure: Option<&str>) -> Group {
        let (works, answers): (Vec<Work>, Vec<Answer>) = jobs.into_iter().map(|job| (job.work, job.answer)).unzip();
        let written = match failure {
            Some(failure) => Err(failure.to_owned()),
            None => guarded(|| self.write(works)),
        };
        Group { answers, written }
    }

    /// Flushes, and answers.
    fn end(&mut self, group: Group) -> Result<(), String> {
        let Group { answers, written } = group;
        let must_flush = !answers.is_empty();
        let flushed = written.and_then(|mark| guarded(|| self.flush(must_flush.then_some(mark))));
        for answer in answers {
            let text = flushed.as_ref().err();
            answer.send(text.map_or(Ok(()), |text| Err(StoreError::Stopped(text.clone()).into_io())));
        }
        flushed
    }

    fn write(&mut self, works: Vec<Work>) -> Result<Mark, StoreError> {
        let mut mark = self.mark.mark();
        for work in works {
            self.write_one(work, &mut mark)?;
        }
        Ok(mark)
    }

    /// What was written up to this mark, if anything was.
    fn flush(&mut self, mark: Option<Mark>) -> Result<(), StoreError> {
        if let Some(mark) = mark {
            self.note_committed().and_then(|()| self.disk.sync()).map_err(|error| self.wrap(error))?;
            if let Some(last) = mark.last {
                self.cache.written_up_to(last.index);
            }
            self.mark.advance(mark)?;
        }
        self.remove_some()
    }

    fn write_one(&mut self, work: Work, mark: &mut Mark) -> Result<(), StoreError> {
        let written = match work {
            Work::Append { records, last } => {
                let written = self.disk.append(&records);
                if let (Ok(()), Some(last)) = (&written, last) {
                    mark.last = Some(last);
                }
                written
            }
            Work::Vote(vote) => {
                mark.vote = Some(vote);
                self.put(Fact::Vote, &vote)
            }
            Work::Truncate(last) => {
                self.mark.retreat(last)?;
                // A truncation after the end of the log changes nothing.
                if mark.last.map(|marked| marked.index) > last.map(|last| last.index) {
                    mark.last = last;
                }
                self.disk.truncate_after(last.map(|last| last.index))
            }
            Work::Purge(upto) => {
                self.purged = Some(upto.index);
                self.put(Fact::Purged, &upto)
            }
        };
        written.map_err(|error| self.wrap(error))
    }

    /// What is committed is a hint for the next start: it goes with whatever is flushed next.
    fn note_committed(&mut self) -> Result<(), DiskError> {
        let committed = self.cache.lock().committed;
        if committed == self.committed {
            return Ok(());
        }
        self.committed = committed;
        self.put(Fact::Committed, &committed)
    }

    fn put(&self, fact: Fact, value: &impl Serialize) -> Result<(), DiskError> {
        let encode = |error| DiskError::Io { what: "encode a fact for", source: io::Error::other(error) };
        self.disk.put(fact, &postcard::to_stdvec(value).map_err(encode)?)
    }

    /// Only after the flush that made the purged id durable: a log must never begin after it.
    fn remove_some(&mut self) -> Result<(), StoreError> {
        let Some(purged) = self.purged else { return Ok(()) };
        let more = self.disk.remove(self.first..=purged, REMOVE_SLICE).map_err(|error| self.wrap(error))?;
        if !more {
            self.first = purged + 1;
            self.purged = None;
        }
        Ok(())
    }

    fn wrap(&self, error: DiskError) -> StoreError {
        wrap(&self.folder, error)
    }
}

/// Names the log's file and, for damage, the folder to move aside, which is the one that the log's folder lies in.
pub(crate) fn wrap(log: &Path, error: DiskError) -> StoreError {
    match error {
        DiskError::Corrupt { key, what } => damaged(log, format!("{key}: {what}")),
        DiskError::Io { what, source } => StoreError::Io { what, path: log.join("db"), source },
    }
}

/// Damage in the log of this folder.
pub(crate) fn damaged(log: &Path, what: impl Into<String>) -> StoreError {
    StoreError::corrupt(log.parent().unwrap_or(log), log.join("db"), what)
}
