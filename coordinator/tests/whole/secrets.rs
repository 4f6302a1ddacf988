//! Who gets a job's secrets: the worker that runs it, while it does, and nobody else; the trail has each try.

use crate::support::{Member, Worker, cluster, within};
use proto::v1;
use proto::v1::access_client::AccessClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::secrets_client::SecretsClient;
use tonic::{Code, Status};
use types::JobId;

const VALUE: &[u8] = b"hunter2-hunter2";

async fn take(member: &Member, worker: &str, job: JobId, token: u64) -> Result<v1::TakeSecretsResponse, Status> {
    let mut secrets = SecretsClient::new(member.as_worker(worker));
    let wanted = v1::TakeSecretsRequest { job_id: job.0, token };
    within(secrets.take(wanted)).await.map(tonic::Response::into_inner)
}

async fn submit(member: &Member) -> JobId {
    let secrets = [("KEY".to_owned(), "hf".to_owned())].into();
    let spec = v1::JobSpec { command: "true".into(), secrets, ..Default::default() };
    let request = v1::SubmitRequest { request_id: vec![3; 16].into(), spec: Some(spec), wait_for_workers: true };
    JobId(JobsClient::new(member.channel()).submit(request).await.unwrap().into_inner().job_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_to_the_worker_that_runs_its_job_and_to_nobody_else() {
    let members = cluster(3).await;
    let mut secrets = SecretsClient::new(members[0].channel());
    let wanted = v1::SetSecretRequest { name: "hf".into(), value: VALUE.to_vec().into(), note: None };
    secrets.set(wanted).await.unwrap();
    let mut worker = Worker::open(&members).await;
    let job = submit(&members[1]).await;
    let wish = worker.run(job, 1).await;
    let token = wish.token.0;
    // Each coordinator can open it, also those that joined later.
    for member in &members {
        let got = take(member, "w", job, token).await.unwrap();
        assert_eq!(got.variables["KEY"], VALUE);
    }
    for (name, job, token) in [("known", job, token), ("w", job, token + 1), ("w", JobId(job.0 + 1), token)] {
        let refused = take(&members[2], name, job, token).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{name} {job} {token}");
    }
    worker.end(&wish, 0, 0).await;
    within(async {
        while take(&members[0], "w", job, token).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let trail = async || {
        let mut records = AccessClient::new(members[0].channel());
        let records = records.audit(v1::AuditRequest::default()).await.unwrap().into_inner();
        let records: Vec<_> = futures::StreamExt::collect(records).await;
        let records: Vec<v1::AuditRecord> = records.into_iter().map(Result::unwrap).collect();
        records.into_iter().filter(|record| record.action == "secrets/use").collect::<Vec<_>>()
    };
    let all = within(async {
        loop {
            let all = trail().await;
            if all.iter().any(|record| record.who == "worker/known") {
                return all;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let result_of = |who: &str| all.iter().find(|record| record.who == who).unwrap().result.clone();
    assert_eq!(result_of("worker/w"), "ok");
    assert!(result_of("worker/known").starts_with("denied: no live member"), "{}", result_of("worker/known"));
    // One that is removed while its job runs is not given again.
    let removed = v1::RemoveSecretRequest { name: "hf".into() };
    secrets.remove(removed.clone()).await.unwrap();
    assert_eq!(secrets.remove(removed).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_gets_files_for_its_own_jobs_only() {
    use proto::v1::blobs_client::BlobsClient;
    let members = cluster(3).await;
    let bytes = b"weights of the job";
    let hash = bytes::Bytes::from(<sha2::Sha256 as sha2::Digest>::digest(bytes).to_vec());
    let chunk = v1::BlobChunk {
        hash: hash.clone(),
        bytes_total: bytes.len() as u64,
        data: bytes.to_vec().into(),
        ..Default::default()
    };
    within(BlobsClient::new(members[0].channel()).put(futures::stream::iter([chunk]))).await.unwrap();
    let mut worker = Worker::open(&members).await;
    let spec = v1::JobSpec { command: "true".into(), ..Default::default() };
    let request = v1::SubmitRequest { request_id: vec![4; 16].into(), spec: Some(spec), wait_for_workers: true };
    let job = JobsClient::new(members[0].channel()).submit(request).await.unwrap().into_inner().job_id;
    let wish = worker.run(JobId(job), 1).await;
    let get = async |member: &Member, name: &str, job_id: u64| {
        let wanted = v1::GetBlobRequest { hash: hash.clone(), job_id, workspace: "default".into(), local: false };
        within(BlobsClient::new(member.as_worker(name)).get(wanted)).await.map(drop).map_err(|status| status.code())
    };
    for member in &members {
        assert_eq!(get(member, "w", job).await, Ok(()));
        for (name, job) in [("known", job), ("w", job + 1), ("w", 0)] {
            assert_eq!(get(member, name, job).await, Err(Code::NotFound), "{name} {job}");
        }
    }
    worker.end(&wish, 0, 0).await;
}
