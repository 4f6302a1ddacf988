//! Watch: the newest state of each changed job, in the order of the log; a slow reader skips states, never a job.

use super::jobs::find;
use super::{Context, wire};
use cluster_state::State;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::v1;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use types::{JobId, LogIndex};

/// Events on their way to one reader; past this the reader holds up only its own watch.
const WAITING_MAX: usize = 256;

type Events = BoxStream<'static, Result<v1::JobEvent, Status>>;

pub(super) async fn watch(context: &Context, request: v1::WatchJobsRequest) -> Result<Events, Status> {
    // The caller has seen `after_index`: an older copy must not tell it the past again.
    let state = context.read(false).await?;
    let one = (request.job_id > 0).then_some(JobId(request.job_id));
    if let Some(id) = one {
        find(&state, id.0)?;
    }
    let (events, stream) = tokio::sync::mpsc::channel(WAITING_MAX);
    let mut applied = context.node.applied();
    let (node, shutdown) = (context.node.clone(), context.shutdown.clone());
    tokio::spawn(async move {
        let mut after = LogIndex(request.after_index);
        loop {
            applied.mark_unchanged();
            let state = node.state();
            let (batch, over) = changes(&state, one, after);
            after = state.applied().max(after);
            for event in batch {
                if events.send(Ok(event)).await.is_err() {
                    return;
                }
            }
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
    Ok(ReceiverStream::new(stream).boxed())
}

/// Events after `after`, and whether the one watched job has ended.
fn changes(state: &State, one: Option<JobId>, after: LogIndex) -> (Vec<v1::JobEvent>, bool) {
    let Some(id) = one else {
        let events = state.changed_after(after).map(|(index, job)| event(index, wire::summary(job))).collect();
        return (events, false);
    };
    let Some(job) = state.job(id) else { return (Vec::new(), true) };
    let news = (job.changed > after).then(|| event(job.changed, wire::summary(job)));
    (news.into_iter().collect(), job.phase.is_final())
}

fn event(index: LogIndex, job: v1::JobSummary) -> v1::JobEvent {
    v1::JobEvent { index: index.0, job: Some(job) }
}
