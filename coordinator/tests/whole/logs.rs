//! Logs and metrics over whole coordinators: live, over restarts of the job, complete although one coordinator lacks bytes.

use crate::support::{Member, Worker, cluster, push, submit, within};
use proto::v1;
use tonic::Streaming;
use types::JobId;

/// Every stream of a test's job has the same bytes at each coordinator that has them.
const TEXT: &[u8] = b"first line\nsecond line\n";
const LENGTH: u64 = TEXT.len() as u64;

fn request(job: JobId, follow: bool) -> v1::LogsRequest {
    v1::LogsRequest { job_id: job.0, streams: vec!["stdout".into()], follow, ..Default::default() }
}

async fn open(member: &Member, request: v1::LogsRequest) -> Streaming<v1::LogChunk> {
    within(member.jobs().logs(request)).await.unwrap().into_inner()
}

/// The bytes of one stream, up to its orderly end, without a gap.
async fn rest(mut chunks: Streaming<v1::LogChunk>) -> Vec<(u32, Vec<u8>)> {
    let mut attempts: Vec<(u32, u64, Vec<u8>)> = Vec::new();
    while let Some(chunk) = within(chunks.message()).await.unwrap() {
        if attempts.last().is_none_or(|(attempt, ..)| *attempt != chunk.attempt) {
            attempts.push((chunk.attempt, chunk.offset, Vec::new()));
        }
        let (_, begin, bytes) = attempts.last_mut().unwrap();
        assert_eq!(chunk.offset, *begin + bytes.len() as u64, "a gap");
        bytes.extend_from_slice(&chunk.data);
    }
    attempts.into_iter().map(|(attempt, _, bytes)| (attempt, bytes)).collect()
}

async fn read(member: &Member, request: v1::LogsRequest) -> Vec<(u32, Vec<u8>)> {
    rest(open(member, request).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_sees_bytes_as_they_come_and_the_next_attempt_and_ends_with_the_job() {
    let members = cluster(1).await;
    let job = submit(&members[0], 1, 1).await;
    let mut live = open(&members[0], request(job, true)).await;
    let mut worker = Worker::open(&members).await;
    let first = worker.run(job, 1).await;
    push(&members[0], &first, 0, "stdout", 0, &TEXT[..5]).await;
    let chunk = within(live.message()).await.unwrap().unwrap();
    assert_eq!((chunk.attempt, chunk.offset, &chunk.data[..]), (1, 0, &TEXT[..5]));
    // A reader who comes back goes on where it was.
    let place = v1::LogPosition { attempt: 1, rank: 0, stream: "stdout".into(), offset: 3 };
    let resumed = read(&members[0], v1::LogsRequest { from: vec![place], ..request(job, false) }).await;
    assert_eq!(resumed, [(1, TEXT[3..5].to_vec())]);
    worker.end(&first, 1, 5).await;
    let second = worker.run(job, 2).await;
    push(&members[0], &second, 0, "stdout", 0, TEXT).await;
    worker.end(&second, 0, LENGTH).await;
    assert_eq!(rest(live).await, [(2, TEXT.to_vec())]);
    let tail = v1::LogsRequest { tail_bytes: 2, ..request(job, true) };
    assert_eq!(read(&members[0], tail).await, [(1, TEXT[3..5].to_vec()), (2, b"e\n".to_vec())]);
    let one = v1::LogsRequest { attempt: 2, ..request(job, true) };
    assert_eq!(read(&members[0], one).await, [(2, TEXT.to_vec())]);
    let wrong = v1::LogsRequest { ranks: vec![1], ..request(job, true) };
    let refused = members[0].jobs().logs(wrong).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_bytes_are_waited_for_when_the_end_is_known_before_them() {
    let members = cluster(1).await;
    let job = submit(&members[0], 1, 0).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    worker.end(&wish, 0, LENGTH).await;
    let mut watch = within(members[0].jobs().watch(v1::WatchJobsRequest { job_id: job.0, after_index: 0 }))
        .await
        .unwrap()
        .into_inner();
    while within(watch.message()).await.unwrap().is_some() {}
    let live = open(&members[0], request(job, true)).await;
    push(&members[0], &wish, 0, "stdout", 0, TEXT).await;
    assert_eq!(rest(live).await, [(1, TEXT.to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_lacks_bytes_gets_them_from_the_others() {
    let members = cluster(3).await;
    let job = submit(&members[2], 1, 0).await;
    let live = open(&members[2], request(job, true)).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    for member in &members[..2] {
        push(member, &wish, 0, "stdout", 0, TEXT).await;
    }
    worker.end(&wish, 0, LENGTH).await;
    assert_eq!(rest(live).await, [(1, TEXT.to_vec())]);
    // From now on it has them itself.
    let local = v1::LogsRequest { local: true, ..request(job, false) };
    assert_eq!(read(&members[2], local).await, [(1, TEXT.to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_leaves_a_gap_makes_a_coordinator_catch_up_while_the_rank_runs() {
    let members = cluster(3).await;
    let job = submit(&members[0], 1, 0).await;
    let mut live = open(&members[2], request(job, true)).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    for member in &members[..2] {
        push(member, &wish, 0, "stdout", 0, TEXT).await;
    }
    assert_eq!(push(&members[2], &wish, 0, "stdout", LENGTH, b"more").await.length, 0);
    let chunk = within(live.message()).await.unwrap().unwrap();
    assert_eq!((chunk.offset, &chunk.data[..]), (0, TEXT));
    assert_eq!(push(&members[2], &wish, 0, "stdout", LENGTH, b"more").await.length, LENGTH + 4);
    let chunk = within(live.message()).await.unwrap().unwrap();
    assert_eq!((chunk.offset, &chunk.data[..]), (LENGTH, &b"more"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_a_stream_that_grows_is_never_served_and_is_mended_from_the_others() {
    let members = cluster(3).await;
    let job = submit(&members[0], 1, 0).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    for member in &members {
        assert_eq!(push(member, &wish, 0, "stdout", 0, TEXT).await.length, LENGTH);
    }
    let file = members[2].folder.path().join(format!("streams/0/{job}/1-0.stdout.{}", wish.token));
    let mut bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(TEXT.len()).position(|part| part == TEXT).unwrap();
    bytes[at] ^= 0x20;
    std::fs::write(&file, &bytes).unwrap();
    assert_eq!(read(&members[2], request(job, false)).await, [(1, TEXT.to_vec())]);
    assert!(!file.exists(), "the damaged file is gone");
    // The rank goes on.
    assert_eq!(push(&members[2], &wish, 0, "stdout", LENGTH, b"more").await.length, LENGTH + 4);
    assert_eq!(read(&members[2], request(job, false)).await, [(1, [TEXT, b"more"].concat())]);
    // With all copies damaged nobody invents one.
    for member in &members {
        std::fs::write(member.folder.path().join(file.strip_prefix(members[2].folder.path()).unwrap()), &bytes)
            .unwrap();
    }
    let mut chunks = open(&members[0], request(job, false)).await;
    let refused = within(chunks.message()).await.unwrap_err();
    assert!(refused.code() == tonic::Code::Unavailable && refused.message().contains("damaged"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_a_stream_ends_at_what_a_majority_holds() {
    let members = cluster(3).await;
    let job = submit(&members[0], 1, 0).await;
    let live = open(&members[2], request(job, true)).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    for member in &members[..2] {
        push(member, &wish, 0, "stdout", 0, TEXT).await;
    }
    worker.lose();
    let canceled = v1::CancelJobRequest { job_id: job.0, ..Default::default() };
    within(members[0].jobs().cancel(canceled)).await.unwrap();
    assert_eq!(rest(live).await, [(1, TEXT.to_vec())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let members = cluster(1).await;
    let job = submit(&members[0], 2, 0).await;
    let stuck = open(&members[0], request(job, true)).await;
    let live = open(&members[0], v1::LogsRequest { ranks: vec![1], ..request(job, true) }).await;
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    let block = vec![b'x'; 200_000];
    let mut length = 0;
    // More than the windows of a connection hold.
    for _ in 0..60 {
        for rank in [0, 1] {
            push(&members[0], &wish, rank, "stdout", length, &block).await;
        }
        length += block.len() as u64;
    }
    worker.end(&wish, 0, length).await;
    let read = rest(live).await;
    assert_eq!((read.len(), read[0].1.len() as u64), (1, length));
    drop(stuck);
}

#[tokio::test(flavor = "multi_thread")]
async fn metric_points_are_followed_by_name_and_rank() {
    let members = cluster(1).await;
    let job = submit(&members[0], 2, 0).await;
    let request = |follow| v1::MetricsRequest { job_id: job.0, names: vec!["loss".into()], follow, ranks: vec![] };
    let mut live = within(members[0].jobs().metrics(request(true))).await.unwrap().into_inner();
    let mut worker = Worker::open(&members).await;
    let wish = worker.run(job, 1).await;
    let lines =
        b"{\"name\":\"loss\",\"value\":2,\"step\":1}\nnonsense\n{\"name\":\"rate\",\"value\":1}\n{\"name\":\"lo";
    let end = b"ss\",\"value\":1,\"step\":2}\n";
    for rank in [0, 1] {
        push(&members[0], &wish, rank, "metrics", 0, lines).await;
    }
    let mut points = within(live.message()).await.unwrap().unwrap().points;
    for rank in [0, 1] {
        push(&members[0], &wish, rank, "metrics", lines.len() as u64, end).await;
    }
    worker.end(&wish, 0, (lines.len() + end.len()) as u64).await;
    while let Some(batch) = within(live.message()).await.unwrap() {
        points.extend(batch.points);
    }
    for rank in [0, 1] {
        let of_rank = points.iter().filter(|point| point.rank == rank);
        let seen: Vec<_> = of_rank.map(|point| (point.name.as_str(), point.step, point.value)).collect();
        assert_eq!(seen, [("loss", 1, 2.0), ("loss", 2, 1.0)]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_stop_ends_streams_and_removes_what_it_announced() {
    let mut members = cluster(1).await;
    let job = submit(&members[0], 1, 0).await;
    let mut live = open(&members[0], request(job, true)).await;
    let member = members.remove(0);
    let file = member.folder.path().join("addresses");
    assert!(file.exists());
    let (ended, stopped) = tokio::join!(within(live.message()), member.stop());
    assert_eq!(ended.unwrap_err().code(), tonic::Code::Unavailable);
    let (_folder, stopped) = stopped;
    stopped.unwrap();
    assert!(!file.exists());
}
