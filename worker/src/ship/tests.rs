//! The shipper against coordinators that listen on real sockets and keep streams in memory.
#![allow(clippy::unwrap_used)]

use super::*;
use proto::v1::telemetry_server::{Telemetry, TelemetryServer};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use stores::spool::{SpoolBudget, SpoolWriter};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

const KEY: RankKey = RankKey { job: JobId(1), attempt: AttemptNumber(1), rank: RankIndex(0) };
const PATIENCE: Duration = Duration::from_secs(20);

type Streams = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

#[derive(Clone, Default)]
struct Coordinator {
    streams: Streams,
    /// Whom it asks for what it lacks, itself among them.
    all: Arc<Mutex<Vec<Streams>>>,
    changed: Arc<tokio::sync::Notify>,
    /// Appends that are answered but not taken, as on a full disk.
    lose: Arc<std::sync::atomic::AtomicU32>,
    refuse: bool,
}

impl Coordinator {
    /// Coordinators that get from each other what the worker no longer has.
    fn peers<const N: usize>() -> [Coordinator; N] {
        let all = Arc::new(Mutex::new(Vec::new()));
        std::array::from_fn(|_| {
            let streams = Streams::default();
            all.lock().unwrap().push(streams.clone());
            Coordinator { streams, all: all.clone(), ..Coordinator::default() }
        })
    }

    /// The longest copy of a stream that anybody holds.
    fn longest(&self, stream: &str) -> Vec<u8> {
        let all = self.all.lock().unwrap();
        let copies = all.iter().filter_map(|streams| streams.lock().unwrap().get(stream).cloned());
        copies.max_by_key(Vec::len).unwrap_or_default()
    }

    async fn listen(self) -> (String, tokio::task::JoinHandle<()>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        (address, self.serve(listener))
    }

    fn serve(self, listener: tokio::net::TcpListener) -> tokio::task::JoinHandle<()> {
        let server = tonic::transport::Server::builder().add_service(TelemetryServer::new(self));
        let incoming = identity::accept(
            listener,
            crate::testing::coordinator(),
            identity::Protocol::Grpc,
            &identity::Places::of_descriptors(20_000),
        )
        .unwrap();
        tokio::spawn(async move { server.serve_with_incoming(incoming).await.unwrap() })
    }

    fn take(&self, append: StreamAppend) -> StreamAck {
        let name = append.name.unwrap();
        if self.refuse {
            return StreamAck { name: Some(name), length: 0, refused: true, reason: "an older token".into() };
        }
        let offset = append.offset as usize;
        let held = self.streams.lock().unwrap().get(&name.stream).map_or(0, Vec::len);
        let copy = (offset > held).then(|| self.longest(&name.stream));
        let mut streams = self.streams.lock().unwrap();
        let stream = streams.entry(name.stream.clone()).or_default();
        if let Some(copy) = copy.filter(|copy| copy.len() > held) {
            *stream = copy;
        }
        let lost =
            self.lose.fetch_update(std::sync::atomic::Ordering::SeqCst, std::sync::atomic::Ordering::SeqCst, |left| {
                left.checked_sub(1)
            });
        if lost.is_err() && offset <= stream.len() && offset + append.data.len() > stream.len() {
            let fresh = append.data.slice(stream.len() - offset..);
            stream.extend_from_slice(&fresh);
        }
        self.changed.notify_waiters();
        StreamAck { name: Some(name), length: stream.len() as u64, refused: false, reason: String::new() }
    }

    async fn has(&self, stream: &str, bytes: &[u8]) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if self.streams.lock().unwrap().get(stream).is_some_and(|held| held == bytes) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap();
    }
}

#[tonic::async_trait]
impl Telemetry for Coordinator {
    type PushStream = ReceiverStream<Result<StreamAck, Status>>;

    async fn push(&self, request: Request<Streaming<StreamAppend>>) -> Result<Response<Self::PushStream>, Status> {
        let (acks, answers) = mpsc::channel(8);
        let (coordinator, mut incoming) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            while let Ok(Some(append)) = incoming.message().await {
                if acks.send(Ok(coordinator.take(append))).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

struct Worker {
    folder: tempfile::TempDir,
    spool: SpoolWriter,
    shipper: Handle,
    _coordinators: channel::Sender<Vec<String>>,
}

async fn worker(addresses: Vec<String>) -> Worker {
    let folder = tempfile::tempdir().unwrap();
    let budget = SpoolBudget { disk_free_min: 0, ..SpoolBudget::default() };
    let spool = SpoolWriter::open(folder.path(), budget).unwrap();
    let (sender, coordinators) = channel::channel(addresses);
    let (watcher, watching) = watch::start();
    tokio::spawn(watching);
    let (shipper, _end) = start(coordinators, watcher, crate::testing::dialer()).unwrap();
    shipper.add(KEY, Token(7), folder.path().to_owned()).await;
    Worker { folder, spool, shipper, _coordinators: sender }
}

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8).collect()
}

#[tokio::test]
async fn every_coordinator_gets_every_byte_and_a_majority_releases_them() {
    let three = Coordinator::peers::<3>();
    let mut addresses = Vec::new();
    for coordinator in &three {
        addresses.push(coordinator.clone().listen().await.0);
    }
    let mut worker = worker(addresses).await;
    let bytes = pattern(5 << 20);
    for part in bytes.chunks(100_000) {
        assert_eq!(worker.spool.append(StreamKind::Stdout, part).unwrap().bytes, part.len());
    }
    worker.spool.append(StreamKind::Stderr, b"oh").unwrap();
    for coordinator in &three {
        coordinator.has("stdout", &bytes).await;
        coordinator.has("stderr", b"oh").await;
    }
    tokio::time::timeout(PATIENCE, worker.shipper.finish(KEY)).await.unwrap();
    let reader = SpoolReader::open(worker.folder.path()).unwrap();
    assert_eq!(reader.acknowledged(StreamKind::Stdout), 5 << 20);
    assert!(reader.released(StreamKind::Stdout) > 4 << 20);
}

#[tokio::test]
async fn a_majority_is_enough_and_the_third_is_met_where_it_stands() {
    let (first, second, late) = (Coordinator::default(), Coordinator::default(), Coordinator::default());
    let held = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = held.local_addr().unwrap();
    drop(held);
    let addresses = vec![first.clone().listen().await.0, second.clone().listen().await.0, away.to_string()];
    let mut worker = worker(addresses).await;
    worker.spool.append(StreamKind::Stdout, b"hello ").unwrap();
    first.has("stdout", b"hello ").await;
    second.has("stdout", b"hello ").await;
    late.clone().serve(tokio::net::TcpListener::bind(away).await.unwrap());
    worker.spool.append(StreamKind::Stdout, b"world").unwrap();
    late.has("stdout", b"hello world").await;
    tokio::time::timeout(PATIENCE, worker.shipper.finish(KEY)).await.unwrap();
}

/// A majority has all and every byte is released here before the third has any: it is asked how far it is, and asks its peers.
#[tokio::test]
async fn what_was_released_before_a_coordinator_had_it_comes_from_its_peers() {
    let three = Coordinator::peers::<3>();
    let late = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addresses = vec![
        three[0].clone().listen().await.0,
        three[1].clone().listen().await.0,
        // It accepts and does not answer yet.
        late.local_addr().unwrap().to_string(),
    ];
    let mut worker = worker(addresses).await;
    let bytes = pattern(5 << 20);
    worker.spool.append(StreamKind::Stdout, &bytes).unwrap();
    three[0].has("stdout", &bytes).await;
    three[1].has("stdout", &bytes).await;
    let released = async {
        while SpoolReader::open(worker.folder.path()).unwrap().released(StreamKind::Stdout) < 5 << 20 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, released).await.unwrap();
    three[2].clone().serve(late);
    three[2].has("stdout", &bytes).await;
}

#[tokio::test]
async fn what_a_coordinator_did_not_take_is_sent_again() {
    let coordinator = Coordinator::default();
    coordinator.lose.store(3, std::sync::atomic::Ordering::SeqCst);
    let mut worker = worker(vec![coordinator.clone().listen().await.0]).await;
    let bytes = pattern(2 << 20);
    worker.spool.append(StreamKind::Metrics, &bytes).unwrap();
    coordinator.has("metrics", &bytes).await;
    tokio::time::timeout(PATIENCE, worker.shipper.finish(KEY)).await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_refused_does_not_wait_for_ever() {
    let refusing = Coordinator { refuse: true, ..Coordinator::default() };
    let mut worker = worker(vec![refusing.listen().await.0]).await;
    worker.spool.append(StreamKind::Stdout, b"late").unwrap();
    tokio::time::timeout(PATIENCE, worker.shipper.finish(KEY)).await.unwrap();
}
