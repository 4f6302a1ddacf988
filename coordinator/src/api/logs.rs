//! `Jobs.Logs`: bytes of ranks' streams with their places, from this coordinator's disk; what it lacks comes from the others.

use super::follow::{self, Selection};
use super::tail::Tail;
use super::telemetry::stream_kind;
use super::window::Window;
use super::{Context, search};
use cluster_state::Job;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use std::collections::{BTreeMap, BTreeSet};
use stores::streams::StreamName;
use tonic::Status;
use types::{AttemptNumber, Caller, JobId, Principal, RankIndex, StreamKind};

type Chunks = BoxStream<'static, Result<v1::LogChunk, Status>>;

pub(super) async fn logs(context: &Context, caller: &Caller, request: v1::LogsRequest) -> Result<Chunks, Status> {
    let selection = selection(&request)?;
    let pattern = search::pattern(&request.pattern, request.ignore_case)?;
    if request.local {
        if request.follow || pattern.is_some() {
            return Err(Status::invalid_argument("local excludes follow and a pattern"));
        }
        if !matches!(caller.principal, Principal::Coordinator(_)) {
            context.job(&context.read(true).await?, caller, request.job_id)?;
        }
        // No word of the tables to a coordinator: it may be ahead of this copy, and knows what it wants.
        return Ok(follow::on_disk(context, selection).map(|piece| piece.map(chunk)).boxed());
    }
    let state = context.read(false).await?;
    check(context.job(&state, caller, request.job_id)?, &selection)?;
    let pieces = follow::follow(context, selection).boxed();
    let pieces = match pattern {
        Some(pattern) => search::search(&context.searches, pattern, pieces),
        None => pieces,
    };
    Ok(pieces.map(|piece| piece.map(chunk)).boxed())
}

fn chunk(piece: follow::Piece) -> v1::LogChunk {
    v1::LogChunk {
        attempt: piece.name.attempt.0,
        rank: piece.name.rank.0,
        stream: piece.name.kind.name().to_owned(),
        offset: piece.offset,
        data: piece.data,
    }
}

fn selection(request: &v1::LogsRequest) -> Result<Selection, Status> {
    let kind = |name: &String| {
        stream_kind(name).ok_or_else(|| {
            Status::invalid_argument(format!("there is no stream {name:?}: use stdout, stderr, metrics or times"))
        })
    };
    let mut kinds = request.streams.iter().map(kind).collect::<Result<BTreeSet<_>, _>>()?;
    if kinds.is_empty() {
        kinds = [StreamKind::Stdout, StreamKind::Stderr].into();
    }
    let mut from = BTreeMap::new();
    for position in &request.from {
        let name = StreamName {
            job: JobId(request.job_id),
            attempt: AttemptNumber(position.attempt),
            rank: RankIndex(position.rank),
            kind: kind(&position.stream)?,
        };
        from.insert(name, position.offset);
    }
    let window = Window::of(request.since_ms, request.until_ms)?;
    if request.follow && window.is_some_and(|window| window.has_end()) {
        return Err(Status::invalid_argument("who follows a job reads to its end: until excludes follow"));
    }
    if window.is_some() {
        // Beside the streams that are wanted: by it places are found.
        kinds.insert(StreamKind::Times);
    }
    Ok(Selection {
        job: JobId(request.job_id),
        attempt: (request.attempt > 0).then_some(AttemptNumber(request.attempt)),
        ranks: request.ranks.iter().copied().map(RankIndex).collect(),
        kinds,
        follow: request.follow,
        tail: Tail::of(request.tail_bytes, request.tail_lines)?,
        window,
        from,
    })
}

/// A rank that cannot exist would be waited for in vain.
pub(super) fn check(job: &Job, selection: &Selection) -> Result<(), Status> {
    let world = job.spec.gang.world_size();
    match selection.ranks.iter().find(|rank| rank.0 >= world) {
        Some(rank) => {
            Err(Status::invalid_argument(format!("job {} has no rank {rank}: its world size is {world}", job.id)))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_by_time_needs_the_times_and_follows_to_no_end() {
        let since = v1::LogsRequest { job_id: 1, since_ms: 5, follow: true, ..Default::default() };
        assert!(selection(&since).unwrap().kinds.contains(&StreamKind::Times));
        let until = v1::LogsRequest { until_ms: 9, ..since };
        assert_eq!(selection(&until).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn stdout_and_stderr_are_the_default_and_an_unknown_stream_is_a_fault() {
        let chosen = selection(&v1::LogsRequest { job_id: 1, ..Default::default() }).unwrap();
        assert_eq!(chosen.kinds, [StreamKind::Stdout, StreamKind::Stderr].into());
        assert_eq!((chosen.attempt, chosen.tail), (None, None));
        let wrong = v1::LogsRequest { job_id: 1, streams: vec!["stdin".into()], ..Default::default() };
        assert_eq!(selection(&wrong).unwrap_err().code(), tonic::Code::InvalidArgument);
    }
}
