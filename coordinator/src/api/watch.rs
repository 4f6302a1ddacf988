//! Watch: the newest state of each changed job, in the order of the log; a slow reader skips states, never a job.

use super::wire::Reader;
use super::{Context, wire};
use crate::raft::Node;
use cluster_state::{Job, State};
use daemon::Shutdown;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::{Caller, JobId, LogIndex, Principal};

/// Events on their way to one reader; past this the reader holds up only its own watch.
const WAITING_MAX: usize = 256;

/// Jobs looked at at once: a hundred thousand jobs must not keep a thread from the others.
const PAGE: usize = 256;

/// Of jobs.
pub(crate) type Events = BoxStream<'static, Result<v1::JobEvent, Status>>;

pub(super) async fn watch(context: &Context, caller: &Caller, request: v1::WatchJobsRequest) -> Result<Events, Status> {
    // The caller has seen `after_index`: an older copy must not tell it the past again.
    let state = context.read(false).await?;
    let one = (request.job_id > 0).then_some(JobId(request.job_id));
    if let Some(id) = one {
        context.job(&state, caller, id.0)?;
    }
    let seen_by = caller.principal.clone();
    Ok(follow(context.node.clone(), seen_by, one, LogIndex(request.after_index), context.shutdown.clone()))
}

/// What changed after `after` and will change, of one job until it has ended or of all that the reader may see, for as long as
/// somebody reads.
pub(crate) fn follow(
    node: Node,
    reader: Principal,
    one: Option<JobId>,
    mut after: LogIndex,
    shutdown: Shutdown,
) -> Events {
    let (events, stream) = tokio::sync::mpsc::channel(WAITING_MAX);
    let mut applied = node.applied();
    tokio::spawn(async move {
        loop {
            applied.mark_unchanged();
            let state = node.state();
            let over = loop {
                let (batch, reached) = changes(&state, &reader, one, after);
                after = reached;
                for event in batch {
                    if events.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if after >= state.applied() {
                    break one.is_some_and(|id| state.job(id).is_none_or(|job| job.phase.is_final()));
                }
                tokio::task::yield_now().await;
            };
            if over {
                return;
            }
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                () = events.closed() => return,
                () = shutdown.requested() => {
                    let _ = events.send(Err(Status::unavailable("this coordinator is stopping"))).await;
                    return;
                }
            }
        }
    });
    ReceiverStream::new(stream).boxed()
}

/// The next events after `after`, and the index up to which they are all.
fn changes(state: &State, reader: &Principal, one: Option<JobId>, after: LogIndex) -> (Vec<v1::JobEvent>, LogIndex) {
    let all = state.applied().max(after);
    let told = |job: &Job| wire::summary(job, Reader { state, principal: reader });
    if let Some(id) = one {
        let news = state.visible_job(reader, id).filter(|job| job.changed > after);
        return (news.map(|job| event(job.changed, told(job))).into_iter().collect(), all);
    }
    let (mut events, mut last, mut looked) = (Vec::new(), after, 0);
    for (index, job) in state.changed_after(after) {
        // One entry may have changed many jobs: its events stay together.
        if looked >= PAGE && index > last {
            return (events, last);
        }
        looked += 1;
        last = index;
        if !state.may_see(reader, job.spec.workspace()) {
            continue;
        }
        events.push(event(index, told(job)));
    }
    (events, all)
}

fn event(index: LogIndex, job: v1::JobSummary) -> v1::JobEvent {
    v1::JobEvent { index: index.0, job: Some(job) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::raft::tests::submit;
    use types::Timestamp;

    fn anybody() -> Principal {
        Principal::Coordinator(types::CoordinatorId(1))
    }

    #[test]
    fn pages_hold_every_job_once_and_split_no_entry() {
        let mut state = State::new();
        for number in 0..1_000_u64 {
            // Entries of 300 jobs: more than a page.
            state.apply(LogIndex(1 + number / 300), Timestamp(1), &submit(number));
        }
        let (mut after, mut seen, mut pages) = (LogIndex(0), Vec::new(), 0);
        while after < state.applied() {
            let (events, reached) = changes(&state, &anybody(), None, after);
            assert!(events.iter().all(|event| LogIndex(event.index) > after && LogIndex(event.index) <= reached));
            seen.extend(events.into_iter().map(|event| event.job.unwrap().id));
            after = reached;
            pages += 1;
        }
        assert_eq!(seen, (1..=1_000).collect::<Vec<_>>());
        assert_eq!(pages, 4);
    }

    #[test]
    fn one_job_is_told_when_it_changed() {
        let mut state = State::new();
        state.apply(LogIndex(1), Timestamp(1), &submit(1));
        state.apply(LogIndex(2), Timestamp(1), &submit(2));
        let (events, reached) = changes(&state, &anybody(), Some(JobId(1)), LogIndex(0));
        assert_eq!((events.len(), reached), (1, LogIndex(2)));
        assert!(changes(&state, &anybody(), Some(JobId(1)), LogIndex(1)).0.is_empty());
    }
}
