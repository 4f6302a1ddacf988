//! The sealed records of jobs that have ended, read off one copy of the tables.

use super::super::Context;
use super::super::jobs::find;
use cluster_state::{LineageRecord, State};
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use tonic::Status;

/// Records made at once: of a gang of thousands of ranks one is megabytes.
const BATCH: u64 = 32;

type Records = BoxStream<'static, Result<v1::LineageRecord, Status>>;

/// One job's, or all past a number.
pub(super) async fn records(context: &Context, request: v1::LineageRecordsRequest) -> Result<Records, Status> {
    let state = context.read(false).await?;
    let (first, last) = if request.job_id == 0 {
        (request.after.saturating_add(1), state.lineage_head().0)
    } else {
        let number = find(&state, request.job_id)?.sealed().ok_or_else(|| {
            let text = format!("job {} has not ended: its lineage is sealed when it does", request.job_id);
            Status::failed_precondition(text)
        })?;
        (number, number)
    };
    let batches = futures::stream::unfold((state, first), move |(state, first)| async move {
        if first > last {
            return None;
        }
        let end = last.min(first.saturating_add(BATCH - 1));
        // Off the threads that serve others: the texts are long.
        let copy = state.clone();
        let made = tokio::task::spawn_blocking(move || batch(&copy, first, end)).await;
        let made = made.unwrap_or_else(|error| vec![Err(Status::internal(error.to_string()))]);
        Some((made, (state, end.saturating_add(1))))
    });
    Ok(batches.flat_map(futures::stream::iter).boxed())
}

fn batch(state: &State, first: u64, end: u64) -> Vec<Result<v1::LineageRecord, Status>> {
    let found = (first..=end).filter_map(|number| state.lineage_record(number));
    found.map(|record| Ok(wire(record))).collect()
}

fn wire(record: LineageRecord) -> v1::LineageRecord {
    let LineageRecord { number, job, previous, hash, text } = record;
    v1::LineageRecord { number, job_id: job.0, previous: previous.to_vec().into(), hash: hash.to_vec().into(), text }
}
