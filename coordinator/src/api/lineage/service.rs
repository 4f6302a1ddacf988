//! `muster.v1.Lineage`.

use super::super::{Context, caller};
use super::{check, graph, records, walk};
use futures::stream::BoxStream;
use proto::v1;
use proto::v1::lineage_server::Lineage;
use tonic::{Request, Response, Status};

const LINEAGE: &str = "muster.v1.Lineage";

/// Lineage.
pub(crate) struct Service(pub(crate) Context);

#[tonic::async_trait]
impl Lineage for Service {
    async fn get(&self, request: Request<v1::LineageRequest>) -> Result<Response<v1::LineageGraph>, Status> {
        let (caller, request) = (caller(&request)?, request.into_inner());
        let result = match self.0.read(false).await {
            Ok(state) if request.node.is_empty() => {
                self.0.job(&state, &caller, request.job_id).map(|job| graph(&state, job))
            }
            Ok(state) => walk::of(&self.0, state, caller, request).await,
            Err(status) => Err(status),
        };
        self.0.observe(LINEAGE, "Get", result)
    }

    type RecordsStream = BoxStream<'static, Result<v1::LineageRecord, Status>>;

    async fn records(
        &self,
        request: Request<v1::LineageRecordsRequest>,
    ) -> Result<Response<Self::RecordsStream>, Status> {
        let caller = caller(&request)?;
        let result = records::records(&self.0, caller, request.into_inner()).await;
        self.0.observe(LINEAGE, "Records", result)
    }

    type CheckStream = BoxStream<'static, Result<v1::LineageCheck, Status>>;

    async fn check(&self, request: Request<v1::LineageCheckRequest>) -> Result<Response<Self::CheckStream>, Status> {
        let caller = caller(&request)?;
        let result = check::check(&self.0, &caller, request.into_inner()).await;
        self.0.observe(LINEAGE, "Check", result)
    }
}
