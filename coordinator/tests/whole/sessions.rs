//! Workers' sessions over whole coordinators: who admits a worker, which stream ends when, and what may pass over it.

use crate::support::{Greeted, Worker, cluster, greet, leader, submit, within};
use proto::internal::to_worker::Message;
use proto::v1;
use proto::v1::blobs_client::BlobsClient;
use sha2::Digest;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_session_of_a_worker_ends_the_stream_of_the_older_one() {
    let members = cluster(1).await;
    let mut older = Worker::open(&members).await;
    let mut newer = Worker::open(&members).await;
    // The older side still holds its own half open, and still sends.
    while older.hear().await.is_some() {}
    while !matches!(newer.hear().await.unwrap(), Message::Ack(_)) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_majority_admits_nobody_and_wishes_nothing() {
    let mut members = cluster(3).await;
    let mut worker = Worker::open(&members).await;
    let at = leader(&members).await;
    // Known before, so that it needs no entry of the log; a majority is there.
    let known = greet(&members[at], "known", &[]).await.unwrap();
    assert!(matches!(known.answer, Message::Welcome(_)), "{:?}", known.answer);
    worker.report(&[]).await;
    // Those of the beginning, then those that answer the report.
    for revision in [1, 2] {
        while !matches!(worker.hear().await.unwrap(), Message::Wishes(wishes) if wishes.revision == revision) {}
    }
    let cut_off = members.remove(at);
    members.clear();
    within(async {
        loop {
            match greet(&cut_off, "known", &[]).await {
                Some(Greeted { answer: Message::Redirect(_), .. }) => return,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await;
    worker.report(&[]).await;
    let (_, heard) = tokio::join!(cut_off.stop(), async {
        let mut heard = Vec::new();
        while let Some(message) = worker.hear().await {
            heard.push(message);
        }
        heard
    });
    assert!(!heard.iter().any(|message| matches!(message, Message::Wishes(_))), "{heard:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_of_many_megabytes_is_recorded() {
    let members = cluster(1).await;
    let job = submit(&members[0], 8, 0).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    worker.end_with(&wish, 0, 0, &[("loss".into(), "9".repeat(1 << 20))]).await;
    let request = v1::WatchJobsRequest { job_id: job.0, after_index: 0 };
    let mut watch = within(members[0].jobs().watch(request)).await.unwrap().into_inner();
    while within(watch.message()).await.unwrap().is_some() {}
    let request = v1::GetJobRequest { job_id: job.0, stale: false };
    let job = within(members[0].jobs().get(request)).await.unwrap().into_inner();
    assert_eq!(job.summary.unwrap().phase, "Completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_of_no_cluster_sends_workers_on_and_stores_nothing() {
    let members = cluster(1).await;
    let stranger = members[0].waiting(7).await;
    for cluster in [&[][..], &[9; 16]] {
        let greeted = greet(&stranger, "w", cluster).await.unwrap();
        assert!(matches!(&greeted.answer, Message::Redirect(to) if to.leader.is_empty()), "{:?}", greeted.answer);
    }
    let mut blobs = BlobsClient::new(stranger.channel());
    let hash = sha2::Sha256::digest(b"bytes").to_vec();
    let chunk = v1::BlobChunk {
        hash: hash.clone().into(),
        bytes_total: 5,
        offset: 0,
        data: b"bytes".to_vec().into(),
        ..Default::default()
    };
    let put = within(blobs.put(futures::stream::iter([chunk]))).await;
    assert_eq!(put.unwrap_err().code(), tonic::Code::Unavailable);
    let absent = v1::GetBlobRequest { hash: vec![1; 32].into(), ..Default::default() };
    assert_eq!(within(blobs.get(absent)).await.unwrap_err().code(), tonic::Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_of_another_cluster_is_refused() {
    let members = cluster(1).await;
    let greeted = greet(&members[0], "w", &[9; 16]).await.unwrap();
    assert!(matches!(&greeted.answer, Message::Refused(why) if why.reason.contains("another cluster")));
}
