//! Clients and workers of other versions: what fits is served, what does not is refused in words.

use crate::support::shared;
use bytes::Bytes;
use client::v1;
use cluster_tests::{Cluster, PATIENCE};
use identity::Dialer;
use proto::internal::{FromWorker, Hello, from_worker, to_worker, worker_session_client::WorkerSessionClient};
use proto::v1::{cluster_client::ClusterClient, jobs_client::JobsClient};
use tonic::transport::Endpoint;
use tonic::{Code, Request};

#[tokio::test]
async fn a_worker_of_another_protocol_is_refused_in_words() {
    shared(async |cluster| {
        let leader = cluster.leader().await?;
        let hello = Hello { protocol: 999, ..Hello::default() };
        let endpoint = Endpoint::from_shared(format!("http://{}", cluster.addresses_of(leader)?.0))?;
        let message = FromWorker { message: Some(from_worker::Message::Hello(hello)) };
        let mut session = WorkerSessionClient::new(Dialer::node(cluster.worker_node("newer").await?).lazy(&endpoint));
        let mut answers = session.open(tokio_stream::iter([message])).await?.into_inner();
        let answer = tokio::time::timeout(PATIENCE, answers.message()).await??;
        let Some(to_worker::Message::Refused(refused)) = answer.and_then(|answer| answer.message) else {
            anyhow::bail!("not refused");
        };
        assert!(refused.reason.contains("protocol 999") && refused.reason.contains("version"), "{}", refused.reason);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_cannot_be_served_is_told_so() {
    shared(async |cluster| {
        let status = async |version: &'static str| {
            let mut request = Request::new(v1::ClusterStatusRequest::default());
            request.metadata_mut().insert("muster-client-version", version.parse()?);
            anyhow::Ok(ClusterClient::new(cluster.channel(1)?).status(request).await)
        };
        assert!(status(client::VERSION).await?.is_ok());
        let refused = status("999.0.0").await?.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
        assert!(refused.message().contains("version"), "{refused}");
        Ok(())
    })
    .await;
}

/// A message with a field that this version does not know, as a newer client would send it.
#[derive(Clone, prost::Message)]
struct NewerGet {
    #[prost(uint64, tag = "1")]
    job_id: u64,
    #[prost(string, tag = "999")]
    unknown: String,
}

async fn raw_call(
    cluster: &Cluster,
    path: &'static str,
    message: NewerGet,
) -> anyhow::Result<Result<v1::Job, tonic::Status>> {
    let mut grpc = tonic::client::Grpc::new(cluster.channel(2)?);
    grpc.ready().await?;
    let codec = tonic_prost::ProstCodec::<NewerGet, v1::Job>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    Ok(grpc.unary(Request::new(message), path, codec).await.map(tonic::Response::into_inner))
}

#[tokio::test]
async fn unknown_fields_are_passed_over_and_unknown_methods_refused() {
    shared(async |cluster| {
        let job = cluster.client().submit(&cluster_tests::spec("true")).await?;
        let message = NewerGet { job_id: job.0, unknown: "of the future".into() };
        let answer = raw_call(cluster, "/muster.v1.Jobs/Get", message.clone()).await?;
        assert_eq!(answer?.summary.unwrap_or_default().id, job.0);
        for path in ["/muster.v1.Jobs/Teleport", "/muster.v9.Jobs/Get"] {
            assert_eq!(raw_call(cluster, path, message.clone()).await?.unwrap_err().code(), Code::Unimplemented);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn requests_at_fault_are_answered_with_every_fault() {
    shared(async |cluster| {
        let mut jobs = JobsClient::new(cluster.channel(3)?);
        let submit = |request_id: &'static [u8], spec: Option<v1::JobSpec>| v1::SubmitRequest {
            request_id: Bytes::from_static(request_id),
            spec,
            wait_for_workers: false,
        };
        let short = jobs.submit(submit(b"short", Some(v1::JobSpec::default()))).await.unwrap_err();
        assert_eq!(short.code(), Code::InvalidArgument, "{short}");
        let empty = jobs.submit(submit(&[7; 16], None)).await.unwrap_err();
        assert_eq!(empty.code(), Code::InvalidArgument, "{empty}");
        let gang = v1::Gang { instances: 5_000, cpus_per_rank: 100_000, ..v1::Gang::default() };
        let bad = jobs.submit(submit(&[7; 16], Some(v1::JobSpec { gang: Some(gang), ..v1::JobSpec::default() }))).await;
        let bad = bad.unwrap_err();
        assert_eq!(bad.code(), Code::InvalidArgument);
        assert!(bad.message().contains("command") && bad.message().lines().count() >= 2, "{}", bad.message());
        let page = jobs.list(v1::ListJobsRequest { page_size: 1_000_000, ..Default::default() }).await.unwrap_err();
        assert_eq!(page.code(), Code::InvalidArgument);
        let phase =
            jobs.list(v1::ListJobsRequest { phases: vec!["Sleeping".into()], ..Default::default() }).await.unwrap_err();
        assert!(phase.message().contains("Sleeping"), "{phase}");
        Ok(())
    })
    .await;
}
