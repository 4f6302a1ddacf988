//! `muster.v1.Queues`: the tree that jobs wait in.

use super::{Context, caller};
use cluster_state::{Command, Job, SetQueue, State};
use proto::v1;
use proto::v1::queues_server::Queues;
use std::collections::BTreeMap;
use std::sync::Arc;
use tonic::{Request, Response, Status};
use types::{Caller, Queue, QueueQuota};

const QUEUES: &str = "muster.v1.Queues";

/// Queues.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl Queues for Service {
    async fn list(&self, request: Request<v1::ListQueuesRequest>) -> Result<Response<v1::ListQueuesResponse>, Status> {
        let result = list(&self.0, request.into_inner()).await;
        self.0.observe(QUEUES, "List", result)
    }

    async fn create(&self, request: Request<v1::Queue>) -> Result<Response<v1::QueueStatus>, Status> {
        let caller = caller(&request)?;
        let result = set(&self.0, caller, request.into_inner(), SetQueue::Create).await;
        self.0.observe(QUEUES, "Create", result)
    }

    async fn update(&self, request: Request<v1::Queue>) -> Result<Response<v1::QueueStatus>, Status> {
        let caller = caller(&request)?;
        let result = set(&self.0, caller, request.into_inner(), SetQueue::Update).await;
        self.0.observe(QUEUES, "Update", result)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteQueueRequest>,
    ) -> Result<Response<v1::DeleteQueueResponse>, Status> {
        let caller = caller(&request)?;
        let deleted = self.0.write_as(caller, Command::DeleteQueue { name: request.into_inner().name }).await;
        self.0.observe(QUEUES, "Delete", deleted.map(|_| v1::DeleteQueueResponse {}))
    }
}

async fn list(context: &Context, request: v1::ListQueuesRequest) -> Result<v1::ListQueuesResponse, Status> {
    let state = context.read(request.stale).await?;
    let name = request.name;
    if !name.is_empty() && state.queue(&name).is_none() {
        return Err(Status::not_found(format!("there is no queue {name:?}")));
    }
    let mut queues = in_the_background(state).await?;
    queues.retain(|status| name.is_empty() || status.queue.as_ref().is_some_and(|queue| queue.name == name));
    Ok(v1::ListQueuesResponse { queues })
}

async fn set(
    context: &Context,
    caller: Arc<Caller>,
    wire: v1::Queue,
    how: SetQueue,
) -> Result<v1::QueueStatus, Status> {
    let queue = queue(wire);
    let faults = queue.faults();
    if !faults.is_empty() {
        return Err(Status::invalid_argument(faults.join("\n")));
    }
    let name = queue.name.clone();
    let (_, state) = context.write_as(caller, Command::SetQueue { queue, how }).await?;
    let all = in_the_background(state).await?;
    let found = all.into_iter().find(|status| status.queue.as_ref().is_some_and(|queue| queue.name == name));
    found.ok_or_else(|| Status::not_found(format!("queue {name:?} was deleted meanwhile")))
}

/// All jobs that have not ended are looked at: off the threads that serve others.
async fn in_the_background(state: State) -> Result<Vec<v1::QueueStatus>, Status> {
    let counted = tokio::task::spawn_blocking(move || statuses(&state)).await;
    counted.map_err(|error| Status::internal(error.to_string()))
}

fn queue(wire: v1::Queue) -> Queue {
    let quota =
        |quota: v1::QueueQuota| QueueQuota { guaranteed: quota.guaranteed, ceiling: quota.ceiling, lend: quota.lend };
    let quotas = wire.quotas.into_iter().map(|(class, bounds)| (class, quota(bounds))).collect();
    Queue { name: wire.name, weight: wire.weight.max(1), quotas }
}

fn wire(queue: &Queue) -> v1::Queue {
    let quota =
        |quota: &QueueQuota| v1::QueueQuota { guaranteed: quota.guaranteed, ceiling: quota.ceiling, lend: quota.lend };
    let quotas = queue.quotas.iter().map(|(class, bounds)| (class.clone(), quota(bounds))).collect();
    v1::Queue { name: queue.name.clone(), weight: queue.weight, quotas }
}

#[derive(Default)]
struct Use {
    waiting: u64,
    running: u64,
    used: BTreeMap<String, u64>,
}

/// Every queue with what its jobs, and those of the queues below it, hold and wait for. Looks at all jobs that have not ended.
pub(crate) fn statuses(state: &State) -> Vec<v1::QueueStatus> {
    let mut uses: BTreeMap<&str, Use> = BTreeMap::new();
    for job in state.waiting() {
        uses.entry(&job.spec.queue).or_default().waiting += 1;
    }
    for job in state.live() {
        let (class, amount) = held(state, job);
        let counted = uses.entry(&job.spec.queue).or_default();
        counted.running += 1;
        *counted.used.entry(class).or_default() += amount;
    }
    let status = |queue: &Queue| {
        let below = format!("{}/", queue.name);
        let mut sum = Use::default();
        for (_, part) in uses.iter().filter(|(name, _)| **name == queue.name || name.starts_with(&below)) {
            sum.waiting += part.waiting;
            sum.running += part.running;
            for (class, amount) in &part.used {
                *sum.used.entry(class.clone()).or_default() += amount;
            }
        }
        v1::QueueStatus {
            queue: Some(wire(queue)),
            leaf: state.is_leaf(&queue.name),
            jobs_waiting: sum.waiting,
            jobs_running: sum.running,
            used: sum.used,
        }
    };
    state.queues().map(|queue| status(queue)).collect()
}

/// What a running job takes of its queue's quota.
fn held(state: &State, job: &Job) -> (String, u64) {
    let gang = &job.spec.gang;
    let ranks = u64::from(job.live_attempt().map_or(0, |attempt| attempt.placement.world_size()));
    if gang.per_rank.gpus == 0 {
        return (String::new(), ranks * u64::from(gang.per_rank.cpus));
    }
    let worker = job.live_attempt().and_then(|attempt| attempt.placement.members.first());
    let worker = worker.and_then(|member| state.worker(&member.worker));
    let device = worker.and_then(|worker| worker.registration.inventory.devices.first());
    (device.map(|device| device.name.clone()).unwrap_or_default(), ranks * u64::from(gang.per_rank.gpus))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::Tables;
    use cluster_state::Outcome;

    #[test]
    fn what_runs_and_waits_is_counted_up_the_tree() {
        let mut tables = Tables::default();
        for name in ["research", "research/vision"] {
            let made = tables.apply(&Command::SetQueue { queue: Queue::named(name), how: SetQueue::Create });
            assert_eq!(made, Outcome::Done);
        }
        tables.worker("a", 8, &[true, true]);
        let below = |spec: &mut types::JobSpec| {
            spec.queue = "research/vision".into();
            spec.gang.per_rank.gpus = 1;
        };
        for _ in 0..3 {
            tables.submit(below);
        }
        tables.submit(|_| ());
        assert_eq!(tables.plan().len(), 3);
        let all = statuses(&tables.state);
        let counts: Vec<_> = all.iter().map(|s| (s.leaf, s.jobs_waiting, s.jobs_running, s.used.clone())).collect();
        let gpus: BTreeMap<String, u64> = [("gpu".to_owned(), 2)].into();
        let cpus: BTreeMap<String, u64> = [(String::new(), 1)].into();
        assert_eq!(counts, [(true, 0, 1, cpus), (false, 1, 2, gpus.clone()), (true, 1, 2, gpus)]);
    }
}
