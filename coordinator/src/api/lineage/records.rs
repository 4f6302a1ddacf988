//! The sealed records of jobs that have ended, read off one copy of the tables.

use super::super::Context;
use cluster_state::{LineageRecord, State};
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use std::sync::Arc;
use tonic::Status;
use types::Caller;

/// Records made at once: of a gang of thousands of ranks one is megabytes.
const BATCH: u64 = 32;

type Records = BoxStream<'static, Result<v1::LineageRecord, Status>>;

/// One job's, or all past a number. Of jobs that the caller may not see there are the hashes alone, so that the others still follow
/// each other.
pub(super) async fn records(
    context: &Context,
    caller: Arc<Caller>,
    request: v1::LineageRecordsRequest,
) -> Result<Records, Status> {
    let state = context.read(false).await?;
    let (first, last) = if request.job_id == 0 {
        (request.after.saturating_add(1), state.lineage_head().0)
    } else {
        let number = context.job(&state, &caller, request.job_id)?.sealed().ok_or_else(|| {
            let text = format!("job {} has not ended: its lineage is sealed when it does", request.job_id);
            Status::failed_precondition(text)
        })?;
        (number, number)
    };
    let batches = futures::stream::unfold((state, caller, first), move |(state, caller, first)| async move {
        if first > last {
            return None;
        }
        let end = last.min(first.saturating_add(BATCH - 1));
        // Off the threads that serve others: the texts are long.
        let (copy, reader) = (state.clone(), caller.clone());
        let made = tokio::task::spawn_blocking(move || batch(&copy, &reader, first, end)).await;
        let made = made.unwrap_or_else(|error| vec![Err(Status::internal(error.to_string()))]);
        Some((made, (state, caller, end.saturating_add(1))))
    });
    Ok(batches.flat_map(futures::stream::iter).boxed())
}

fn batch(state: &State, caller: &Caller, first: u64, end: u64) -> Vec<Result<v1::LineageRecord, Status>> {
    let found = (first..=end).filter_map(|number| state.lineage_record(number));
    let may_see = |record: &LineageRecord| {
        state.job(record.job).is_none_or(|job| state.may_see(&caller.principal, job.spec.workspace()))
    };
    found.map(|record| Ok(wire(may_see(&record), record))).collect()
}

fn wire(may_see: bool, record: LineageRecord) -> v1::LineageRecord {
    let LineageRecord { number, job, previous, hash, text } = record;
    let (job_id, text) = if may_see { (job.0, text) } else { (0, String::new()) };
    v1::LineageRecord {
        number,
        job_id,
        previous: previous.to_vec().into(),
        hash: hash.to_vec().into(),
        text,
        withheld: !may_see,
    }
}
