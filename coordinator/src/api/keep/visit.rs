//! One job: its ended attempts' streams are made whole here, then compacted.

use super::super::finals::Finals;
use super::super::follow::Selection;
use super::super::{Context, gather, off_thread};
use cluster_state::{Attempt, Job};
use std::time::Duration;
use stores::streams::{Compaction, StreamError, StreamName, Usage};
use types::Millis;

/// Until a job is looked at again whose streams are not whole here.
pub(super) const AGAIN: Millis = Millis(30_000);
/// The last bytes of an attempt are still on their way for so long after its end; then the others are asked.
const ON_THE_WAY: Millis = Millis(60_000);
/// Between two questions to the others about one attempt.
const ASK_AGAIN: Duration = Duration::from_mins(5);
/// So long after its end an attempt whose end is not on record (its worker was lost) is taken to say no more.
const SAID_ALL: Millis = Millis(3_600_000);
/// Shorter streams stay as they are: their file takes one block of the disk in either form.
const COMPACT_BYTES_MIN: u64 = 4_096;

/// Returns after how long the job is to be looked at again, if it is.
pub(super) async fn visit(context: &Context, job: &Job) -> Result<Option<Millis>, StreamError> {
    if job.forgotten.is_some() {
        return forget(context, job).await;
    }
    let mut again: Option<Millis> = None;
    for attempt in job.attempts.iter().filter(|attempt| !attempt.phase.is_live()) {
        if let Some(after) = settle(context, job, attempt).await? {
            again = Some(again.map_or(after, |known| known.min(after)));
        }
    }
    if job.live_attempt().is_some() {
        // It grows: what it holds is counted now and then.
        again = Some(again.map_or(AGAIN, |known| known.min(AGAIN)));
    }
    let (store, id) = (context.streams.clone(), job.id);
    let usage = off_thread(move || store.usage_of(id)).await?;
    context.observed.held(id, usage);
    Ok(again)
}

/// By this time no bytes of it are taken any more: the tables say so to all that bring some.
async fn forget(context: &Context, job: &Job) -> Result<Option<Millis>, StreamError> {
    let (store, id) = (context.streams.clone(), job.id);
    if off_thread(move || store.delete_job(id)).await? {
        tracing::debug!(job_id = %id, "what its ranks wrote was removed");
    }
    context.observed.held(id, Usage::default());
    Ok(None)
}

/// What this disk has and lacks of an ended attempt.
struct Here {
    /// Bytes that are on record and not here.
    missing: u64,
    /// Raw streams that are worth compacting, and whether their end is known to be here.
    raw: Vec<(StreamName, bool)>,
}

async fn settle(context: &Context, job: &Job, attempt: &Attempt) -> Result<Option<Millis>, StreamError> {
    let all = Selection::all_of(job.id, attempt.number);
    let finals = Finals::of(attempt, &all);
    let now = daemon::clock::now();
    let ended = attempt.ended.unwrap_or(now);
    let has_said_all = now >= ended.plus(SAID_ALL);
    let mut here = look(context, job, attempt, &finals).await?;
    let waits_for_unknown = has_said_all && here.raw.iter().any(|(_, is_whole)| !is_whole);
    if (here.missing > 0 && now >= ended.plus(ON_THE_WAY) || waits_for_unknown)
        && context.gathers.due((job.id, attempt.number), ASK_AGAIN)
    {
        if let Err(status) = gather::gather(context, &all, attempt, &finals).await {
            tracing::debug!(job_id = %job.id, attempt = %attempt.number, why = status.message(), "still not whole here");
            return Ok(Some(AGAIN));
        }
        here = look(context, job, attempt, &finals).await?;
    }
    for (name, is_whole) in here.raw {
        if is_whole || has_said_all {
            compact(context, name).await?;
        }
    }
    Ok(if has_said_all {
        // Nobody has the rest, or it comes and says so by another change.
        None
    } else if here.missing > 0 {
        Some(AGAIN)
    } else if finals.unknown() {
        Some(Millis(ended.plus(SAID_ALL).0.saturating_sub(now.0).max(1)))
    } else {
        None
    })
}

async fn look(context: &Context, job: &Job, attempt: &Attempt, finals: &Finals) -> Result<Here, StreamError> {
    let (store, job, number, finals) = (context.streams.clone(), job.id, attempt.number, finals.clone());
    off_thread(move || {
        let missing = finals.missing(&store, job, number)?;
        let mut raw = Vec::new();
        for (name, length) in store.streams_of(job)? {
            if name.attempt == number && length >= COMPACT_BYTES_MIN && store.is_raw(&name)? {
                raw.push((name, finals.length(&name).is_some_and(|end| length >= end)));
            }
        }
        Ok(Here { missing, raw })
    })
    .await
}

async fn compact(context: &Context, name: StreamName) -> Result<(), StreamError> {
    let begun = tokio::time::Instant::now();
    let store = context.streams.clone();
    match off_thread(move || store.compact(&name)).await {
        Ok(Compaction::Made { before, after }) => {
            context.observed.compacted(before, after);
            tracing::debug!(stream = %name, before, after, "compacted");
        }
        Ok(Compaction::Nothing) | Err(StreamError::Busy) => {}
        // Mended it is compacted; if it cannot be now, whoever reads the streams again comes upon it.
        Err(StreamError::Damaged { .. }) => {
            let _ = super::mend(context, name, super::Asker::Daemon).await;
        }
        Err(error) => return Err(error),
    }
    tokio::time::sleep(begun.elapsed()).await;
    Ok(())
}
