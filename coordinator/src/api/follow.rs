//! Reads and follows a job's streams for one reader: attempt after attempt, each stream in order and without a gap (`LOG-1`).
//!
//! ```text
//!  a stream grew ──┐
//!  the job changed ┼─> look at the disk ─> bounded queue ─> the reader
//!  long silence ───┘        └ less than was recorded: gather from the others first
//! ```
//!
//! Each reader has a task of its own, so a slow one holds up nobody else. It reads this coordinator's disk only; what is
//! missing there is copied there first (`gather`). An ended attempt is read to the lengths that its end recorded, and where
//! none were recorded (its worker was lost) to what a majority of coordinators holds.

mod look;

use super::finals::Finals;
use super::tail::Tail;
use super::window::Window;
use super::{Context, gather, keep};
use bytes::Bytes;
use cluster_state::{Attempt, Job};
use look::{Cursor, Look};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use stores::streams::{StreamError, StreamName};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::{AttemptNumber, JobId, RankIndex, StreamKind, Timestamp};

/// Pieces on their way to one reader.
const PIECES_MAX: usize = 4;
/// Between two looks at a job that grows: long enough to gather small writes, far below what a person notices.
const LOOK_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at the tables, which change with every entry of every job.
const STATE_PAUSE: Duration = Duration::from_millis(50);
/// Without news of a live attempt for so long, the others are asked whether they have more.
const SILENCE: Duration = Duration::from_secs(2);
/// The last bytes of an ended attempt may still be on their way here; so long after the last that came, they are not.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// Which bytes a reader wants.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    pub(super) job: JobId,
    /// None = all, in order.
    pub(super) attempt: Option<AttemptNumber>,
    /// Empty = all.
    pub(super) ranks: BTreeSet<RankIndex>,
    pub(super) kinds: BTreeSet<StreamKind>,
    /// Goes on until the job has ended.
    pub(super) follow: bool,
    /// Of what is there when it begins, the end only.
    pub(super) tail: Option<Tail>,
    /// Only what was written then.
    pub(super) window: Option<Window>,
    /// Where to go on.
    pub(super) from: BTreeMap<StreamName, u64>,
}

impl Selection {
    pub(super) fn all_of(job: JobId, attempt: AttemptNumber) -> Self {
        Self {
            job,
            attempt: Some(attempt),
            ranks: BTreeSet::new(),
            kinds: StreamKind::ALL.into(),
            follow: false,
            tail: None,
            window: None,
            from: BTreeMap::new(),
        }
    }

    pub(super) fn wants(&self, name: &StreamName) -> bool {
        self.attempt.is_none_or(|attempt| attempt == name.attempt)
            && (self.ranks.is_empty() || self.ranks.contains(&name.rank))
            && self.kinds.contains(&name.kind)
    }
}

/// Some bytes of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) name: StreamName,
    /// Of the first byte.
    pub(super) offset: u64,
    pub(super) data: Bytes,
}

type Pieces = ReceiverStream<Result<Piece, Status>>;

/// What lies on this disk now, for another coordinator.
pub(super) fn on_disk(context: &Context, selection: Selection) -> Pieces {
    let (sink, pieces) = mpsc::channel(PIECES_MAX);
    let mut reader = Reader::new(context.clone(), selection, sink, keep::Asker::Daemon);
    tokio::spawn(async move {
        let mut cursor = Cursor::new(reader.tail);
        let end = reader.drain(&mut cursor).await.map(drop);
        reader.finish(end).await;
    });
    ReceiverStream::new(pieces)
}

/// Everything that was asked for, live if asked for.
pub(super) fn follow(context: &Context, selection: Selection) -> Pieces {
    let (sink, pieces) = mpsc::channel(PIECES_MAX);
    let mut reader = Reader::new(context.clone(), selection, sink, keep::Asker::Reader);
    tokio::spawn(async move {
        let end = reader.attempts().await;
        reader.finish(end).await;
    });
    ReceiverStream::new(pieces)
}

/// Copies what this disk lacks of an attempt from the others, in the background, unless that was done just now.
pub(super) fn catch_up(context: &Context, name: StreamName) {
    let state = context.node.state();
    let Some(attempt) = state.job(name.job).and_then(|job| attempt_of(job, name.attempt)).cloned() else { return };
    if !context.gathers.due((name.job, name.attempt), SILENCE) {
        return;
    }
    let context = context.clone();
    tokio::spawn(async move {
        let all = Selection::all_of(name.job, name.attempt);
        if let Err(status) = gather::gather(&context, &all, &attempt, &Finals::default()).await {
            tracing::debug!(job_id = %name.job, attempt = %name.attempt, why = status.message(), "did not catch up");
        }
    });
}

/// Why a reader's task ends early.
enum Stop {
    /// Nobody reads any more.
    Gone,
    Failed(Status),
}

impl From<StreamError> for Stop {
    fn from(error: StreamError) -> Self {
        Stop::Failed(Status::unavailable(error.to_string()))
    }
}

struct Reader {
    context: Context,
    selection: Arc<Selection>,
    sink: mpsc::Sender<Result<Piece, Status>>,
    asker: keep::Asker,
    /// Rises when a stream of the job grew here.
    growth: watch::Receiver<u64>,
    applied: watch::Receiver<crate::raft::Applied>,
    /// Not before this are the tables looked at again.
    state_after: Instant,
    look_after: Instant,
    /// For streams that are there when the reader begins.
    tail: Option<Tail>,
}

impl Reader {
    fn new(
        context: Context,
        selection: Selection,
        sink: mpsc::Sender<Result<Piece, Status>>,
        asker: keep::Asker,
    ) -> Self {
        Self {
            growth: context.streams.subscribe(selection.job),
            applied: context.node.applied(),
            context,
            tail: selection.tail,
            selection: Arc::new(selection),
            sink,
            asker,
            state_after: Instant::now(),
            look_after: Instant::now(),
        }
    }

    async fn finish(&self, end: Result<(), Stop>) {
        if let Err(Stop::Failed(status)) = end {
            let _ = self.sink.send(Err(status)).await;
        }
    }

    async fn attempts(&mut self) -> Result<(), Stop> {
        let mut number = self.selection.attempt.unwrap_or(AttemptNumber(1));
        loop {
            let job = self.job()?;
            if let Some(attempt) = attempt_of(&job, number) {
                if self.selection.window.is_none_or(|window| window.meets(attempt)) {
                    self.attempt(number).await?;
                }
                if self.selection.attempt.is_some() {
                    return Ok(());
                }
                number = AttemptNumber(number.0 + 1);
            } else if !self.selection.follow || job.phase.is_final() {
                return Ok(());
            } else {
                // The next attempt is not there yet; what is written from now on is wanted whole.
                self.tail = None;
                self.wait(Instant::now() + SILENCE).await?;
            }
        }
    }

    async fn attempt(&mut self, number: AttemptNumber) -> Result<(), Stop> {
        let mut cursor = Cursor { attempt: Some(number), ..Cursor::new(self.tail) };
        let mut news = Instant::now();
        loop {
            let job = self.job()?;
            let Some(attempt) = attempt_of(&job, number) else { return Ok(()) };
            if !attempt.phase.is_live() {
                self.complete(attempt).await?;
                self.drain(&mut cursor).await?;
                return self.job().map(drop);
            }
            if !self.selection.follow {
                // Who lacks bytes here still answers with what it has: the attempt goes on, nobody knows its end.
                let _ = gather::gather(&self.context, &self.selection, attempt, &Finals::default()).await;
                return self.drain(&mut cursor).await.map(drop);
            }
            if self.drain(&mut cursor).await? {
                news = Instant::now();
            }
            self.tail = None;
            cursor.tail = None;
            self.wait(news + SILENCE).await?;
            if news.elapsed() >= SILENCE {
                news = Instant::now();
                if self.context.gathers.due((job.id, number), SILENCE) {
                    let _ = gather::gather(&self.context, &self.selection, attempt, &Finals::default()).await;
                }
            }
        }
    }

    fn job(&self) -> Result<Arc<Job>, Stop> {
        let state = self.context.node.state();
        let gone = || Stop::Failed(Status::not_found(format!("there is no job {}", self.selection.job)));
        let job = state.job(self.selection.job).ok_or_else(gone)?;
        match job.forgotten {
            // Also to who was reading meanwhile: what is missing then must not look like the end.
            Some(at) => Err(Stop::Failed(forgotten(job.id, at))),
            None => Ok(job.clone()),
        }
    }

    /// Returns when something may have changed, or at `until`.
    async fn wait(&mut self, until: Instant) -> Result<(), Stop> {
        let state_after = self.state_after;
        let (growth, applied) = (&mut self.growth, &mut self.applied);
        tokio::select! {
            grew = growth.changed() => {
                if grew.is_err() {
                    // By retention, which the tables say; or else by something that nobody knows of.
                    self.job()?;
                    return Err(Stop::Failed(Status::not_found("the job's streams were removed")));
                }
            }
            () = async {
                tokio::time::sleep_until(state_after).await;
                let _ = applied.changed().await;
            } => self.state_after = Instant::now() + STATE_PAUSE,
            () = tokio::time::sleep_until(until) => {}
            () = self.sink.closed() => return Err(Stop::Gone),
            () = self.context.shutdown.requested() => {
                return Err(Stop::Failed(Status::unavailable("this coordinator is stopping")));
            }
        }
        Ok(())
    }

    /// Sends all that is on this disk; true when that was something.
    async fn drain(&mut self, cursor: &mut Cursor) -> Result<bool, Stop> {
        let mut sent = false;
        loop {
            tokio::time::sleep_until(self.look_after).await;
            self.growth.mark_unchanged();
            let looked = self.look(cursor).await?;
            *cursor = looked.cursor;
            sent |= !looked.pieces.is_empty();
            for piece in looked.pieces {
                if self.sink.send(Ok(piece)).await.is_err() {
                    return Err(Stop::Gone);
                }
            }
            if !looked.more {
                self.look_after = Instant::now() + LOOK_PAUSE;
                return Ok(sent);
            }
        }
    }

    /// One look at the disk; a stream that is damaged here is mended first, which is done once.
    async fn look(&self, cursor: &Cursor) -> Result<Look, Stop> {
        let once = || {
            let (store, selection, taken) = (self.context.streams.clone(), self.selection.clone(), cursor.clone());
            super::off_thread(move || look::look(&store, &selection, taken))
        };
        match once().await {
            Err(StreamError::Damaged { name, .. }) => {
                keep::mend(&self.context, name, self.asker).await.map_err(Stop::Failed)?;
                Ok(once().await?)
            }
            looked => Ok(looked?),
        }
    }

    /// Returns when this disk has all of an ended attempt that there is to have.
    async fn complete(&mut self, attempt: &Attempt) -> Result<(), Stop> {
        let finals = Finals::of(attempt, &self.selection);
        let mut missing = self.missing(attempt, &finals).await?;
        let mut unknown = finals.unknown();
        let mut deadline = Instant::now() + LAST_BYTES;
        while missing > 0 || unknown {
            self.growth.mark_unchanged();
            let gathered = gather::gather(&self.context, &self.selection, attempt, &finals).await;
            let left = self.missing(attempt, &finals).await?;
            gathered.map_err(Stop::Failed)?;
            unknown = false;
            if left < missing {
                deadline = Instant::now() + LAST_BYTES;
            }
            missing = left;
            if missing > 0 && Instant::now() >= deadline {
                // On no majority, so it was never acknowledged; the worker that had it is most likely lost.
                tracing::warn!(job_id = %self.selection.job, attempt = %attempt.number, missing, "streams end early");
                return Ok(());
            }
            if missing > 0 {
                self.wait(Instant::now() + LAST_BYTES / 10).await?;
            }
        }
        Ok(())
    }

    /// Bytes that were recorded and are not here.
    async fn missing(&self, attempt: &Attempt, finals: &Finals) -> Result<u64, Stop> {
        let (store, job, number, finals) =
            (self.context.streams.clone(), self.selection.job, attempt.number, finals.clone());
        let counted = tokio::task::spawn_blocking(move || finals.missing(&store, job, number)).await;
        Ok(counted.map_err(|error| Stop::Failed(Status::internal(error.to_string())))??)
    }
}

fn forgotten(job: JobId, at: Timestamp) -> Status {
    Status::not_found(format!(
        "what the ranks of job {job} wrote was forgotten by retention on {}",
        daemon::clock::text(at)
    ))
}

fn attempt_of(job: &Job, number: AttemptNumber) -> Option<&Arc<Attempt>> {
    job.attempts.get((number.0 as usize).checked_sub(1)?)
}
