//! Coordinators and workers: look at them, and change what they may do.

use crate::call::{Patience, timed};
use crate::error::Error;
use crate::pool::{Channel, Client};
use crate::v1;
use proto::v1::cluster_client::ClusterClient;
use std::time::Duration;
use tonic::{Request, Response, Status};
use types::CoordinatorId;

/// A new member first copies the whole state: that may take a while.
const MEMBERSHIP: Patience = Patience {
    one_try: Duration::from_mins(1),
    in_all: Duration::from_mins(2),
    unreachable: Duration::from_secs(2),
    hedge_after: None,
};

impl Client {
    /// The state of the cluster; with `stale`, as the coordinator that answers knows it, leader or not.
    pub async fn status(&self, stale: bool) -> Result<v1::ClusterStatus, Error> {
        self.ask(|channel, span| {
            let request = timed(v1::ClusterStatusRequest { stale }, span);
            async move { ClusterClient::new(channel).status(request).await }
        })
        .await
    }

    /// The coordinators.
    pub async fn members(&self) -> Result<Vec<v1::ClusterMember>, Error> {
        let answer = self
            .ask(|channel, span| {
                let request = timed(v1::MembersRequest {}, span);
                async move { ClusterClient::new(channel).members(request).await }
            })
            .await?;
        Ok(answer.members)
    }

    /// Adds a coordinator that was started with `--join`.
    pub async fn add_member(&self, member: v1::AddMemberRequest) -> Result<Vec<v1::ClusterMember>, Error> {
        let answer = self
            .call_for(MEMBERSHIP, |channel, span| {
                let request = timed(member.clone(), span);
                async move { ClusterClient::new(channel).add_member(request).await }
            })
            .await?;
        Ok(answer.members)
    }

    /// Removes a coordinator, running or not.
    pub async fn remove_member(&self, id: CoordinatorId) -> Result<Vec<v1::ClusterMember>, Error> {
        let answer = self
            .call_for(MEMBERSHIP, |channel, span| {
                let request = timed(v1::RemoveMemberRequest { id: id.0 }, span);
                async move { ClusterClient::new(channel).remove_member(request).await }
            })
            .await?;
        Ok(answer.members)
    }

    /// Hands leadership to `to`, or to any voter that is up to date; answers with the new leader.
    pub async fn transfer_leadership(&self, to: Option<CoordinatorId>) -> Result<CoordinatorId, Error> {
        let to = to.map_or(0, |id| id.0);
        let answer = self
            .call(|channel, span| {
                let request = timed(v1::TransferLeadershipRequest { to }, span);
                async move { ClusterClient::new(channel).transfer_leadership(request).await }
            })
            .await?;
        Ok(CoordinatorId(answer.leader))
    }

    /// All workers the cluster knows.
    pub async fn workers(&self) -> Result<Vec<v1::Worker>, Error> {
        let answer = self
            .ask(|channel, span| {
                let request = timed(v1::WorkersRequest { stale: false, local: false }, span);
                async move { ClusterClient::new(channel).workers(request).await }
            })
            .await?;
        Ok(answer.workers)
    }

    /// No new gangs on this worker; what runs goes on.
    pub async fn cordon(&self, worker: &str) -> Result<v1::Worker, Error> {
        self.worker_call(worker, |channel, request| async move { ClusterClient::new(channel).cordon(request).await })
            .await
    }

    /// New gangs may come again.
    pub async fn uncordon(&self, worker: &str) -> Result<v1::Worker, Error> {
        self.worker_call(worker, |channel, request| async move { ClusterClient::new(channel).uncordon(request).await })
            .await
    }

    /// Lets only gangs come that will be gone by `deadline_ms` (milliseconds since 1970; 0 = now), and then stops what still runs
    /// there with its grace so that it starts elsewhere.
    pub async fn drain(&self, worker: &str, deadline_ms: u64) -> Result<v1::Worker, Error> {
        self.call(|channel, span| {
            let request = timed(v1::DrainRequest { worker: worker.to_owned(), deadline_ms }, span);
            async move { ClusterClient::new(channel).drain(request).await }
        })
        .await
    }

    /// Plans a time in which this worker will be away; an end that is not after the beginning takes back the window that
    /// begins then.
    pub async fn plan_window(&self, worker: &str, window: v1::MaintenanceWindow) -> Result<v1::Worker, Error> {
        self.call(|channel, span| {
            let wire = v1::PlanWindowRequest { worker: worker.to_owned(), window: Some(window) };
            let request = timed(wire, span);
            async move { ClusterClient::new(channel).plan_window(request).await }
        })
        .await
    }

    /// Adds taints to this worker and takes others back.
    pub async fn taint(&self, request: v1::TaintRequest) -> Result<v1::Worker, Error> {
        self.call(|channel, span| {
            let request = timed(request.clone(), span);
            async move { ClusterClient::new(channel).taint(request).await }
        })
        .await
    }

    async fn worker_call<F, Fut>(&self, worker: &str, send: F) -> Result<v1::Worker, Error>
    where
        F: Fn(Channel, Request<v1::WorkerRequest>) -> Fut,
        Fut: Future<Output = Result<Response<v1::Worker>, Status>>,
    {
        self.call(|channel, span| send(channel, timed(v1::WorkerRequest { worker: worker.to_owned() }, span))).await
    }
}
