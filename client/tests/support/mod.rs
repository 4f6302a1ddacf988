//! A coordinator of a few lines on a real socket, which fails where its script says.

use client::v1;
use identity::{Authority, Material, Node, NodeRequest, Secret, SecretKind, Subject};
use proto::v1::blobs_server::{Blobs, BlobsServer};
use proto::v1::jobs_server::{Jobs, JobsServer};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

/// What goes wrong, and what there is to read.
#[derive(Clone, Default)]
pub struct Script {
    pub unavailable_first: usize,
    pub wrong_version: bool,
    pub log: Vec<u8>,
    /// The stream fails once this offset is reached.
    pub log_break_at: Option<usize>,
    /// The stream starts this much before what was asked for.
    pub log_rewind: usize,
    /// The stream starts this much after what was asked for.
    pub log_skip: usize,
    pub watch: Vec<(u64, &'static str)>,
    pub damage_blobs: bool,
}

#[derive(Default)]
struct Seen {
    requests: Vec<Vec<u8>>,
    versions: Vec<String>,
    blobs: BTreeMap<Vec<u8>, Vec<u8>>,
}

#[derive(Clone)]
pub struct Scripted {
    pub address: String,
    script: Arc<Script>,
    seen: Arc<Mutex<Seen>>,
}

/// An address where nobody listens.
pub fn dead_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

const CLUSTER: types::ClusterId = types::ClusterId([7; 16]);

fn authority() -> &'static Authority {
    static AUTHORITY: OnceLock<Authority> = OnceLock::new();
    AUTHORITY.get_or_init(|| Authority::create(CLUSTER, identity::now()).unwrap())
}

/// A token of the cluster that the scripted coordinators belong to.
pub fn token() -> Secret {
    Secret::generate(SecretKind::Access, identity::fingerprint(authority().certificate())).unwrap()
}

fn coordinator() -> Node {
    let request = NodeRequest {
        subject: &Subject::Coordinator { cluster: CLUSTER, id: types::CoordinatorId(1) },
        hosts: &[],
        trusted: &[authority().certificate().clone()],
        vouched: None,
        now: identity::now(),
        life: identity::CERTIFICATE_LIFE,
    };
    Node::new(Material::issue(authority(), &request).unwrap())
}

impl Scripted {
    pub async fn start(script: Script) -> Scripted {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let one = Scripted { address, script: Arc::new(script), seen: Arc::default() };
        let server = tonic::transport::Server::builder()
            .add_service(JobsServer::new(one.clone()))
            .add_service(BlobsServer::new(one.clone()))
            .serve_with_incoming(
                identity::accept(
                    listener,
                    coordinator(),
                    identity::Protocol::Grpc,
                    &identity::Places::of_descriptors(20_000),
                )
                .unwrap(),
            );
        tokio::spawn(server);
        one
    }

    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.seen.lock().unwrap().requests.clone()
    }

    pub fn versions(&self) -> Vec<String> {
        self.seen.lock().unwrap().versions.clone()
    }
}

type Out<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn out<T: Send + 'static>(items: Vec<Result<T, Status>>) -> Response<Out<T>> {
    Response::new(Box::pin(tokio_stream::iter(items)))
}

#[tonic::async_trait]
impl Jobs for Scripted {
    type WatchStream = Out<v1::JobEvent>;
    type LogsStream = Out<v1::LogChunk>;
    type MetricsStream = Out<v1::MetricBatch>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let mut seen = self.seen.lock().unwrap();
        let version = request.metadata().get("muster-client-version").unwrap().to_str().unwrap().to_owned();
        seen.versions.push(version);
        seen.requests.push(request.into_inner().request_id.to_vec());
        if self.script.wrong_version {
            return Err(Status::failed_precondition("client version is not taken here"));
        }
        if seen.requests.len() <= self.script.unavailable_first {
            return Err(Status::unavailable("no leader"));
        }
        Ok(Response::new(v1::SubmitResponse { job_id: 1 }))
    }

    async fn get(&self, _: Request<v1::GetJobRequest>) -> Result<Response<v1::Job>, Status> {
        // Running where the stream is scripted to break, so that its end does not pass for the job's.
        let phase = if self.script.log_break_at.is_some() { "Running" } else { "Completed" };
        let summary = v1::JobSummary { id: 1, phase: phase.into(), ..Default::default() };
        Ok(Response::new(v1::Job { summary: Some(summary), ..Default::default() }))
    }

    async fn list(&self, _: Request<v1::ListJobsRequest>) -> Result<Response<v1::ListJobsResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn cancel(&self, _: Request<v1::CancelJobRequest>) -> Result<Response<v1::JobSummary>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn watch(&self, request: Request<v1::WatchJobsRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let mut events = Vec::new();
        for (index, phase) in self.script.watch.iter().filter(|(index, _)| *index >= request.after_index) {
            let job = v1::JobSummary { id: request.job_id, phase: (*phase).into(), ..Default::default() };
            events.push(Ok(v1::JobEvent { index: *index, job: Some(job) }));
        }
        events.push(Err(Status::unavailable("going down")));
        Ok(out(events))
    }

    async fn logs(&self, request: Request<v1::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let asked = request.into_inner().from.first().map_or(0, |position| position.offset as usize);
        let mut offset = asked.saturating_sub(self.script.log_rewind) + self.script.log_skip;
        let end = self.script.log_break_at.unwrap_or(self.script.log.len());
        let mut chunks = Vec::new();
        while offset < end {
            let to = (offset + 10_007).min(end);
            let data = self.script.log[offset..to].to_vec().into();
            let stream = "stdout".to_owned();
            chunks.push(Ok(v1::LogChunk { attempt: 1, rank: 0, stream, offset: offset as u64, data }));
            offset = to;
        }
        if self.script.log_break_at.is_some() {
            chunks.push(Err(Status::unavailable("going down")));
        }
        Ok(out(chunks))
    }

    async fn metrics(&self, _: Request<v1::MetricsRequest>) -> Result<Response<Self::MetricsStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn keep(&self, _: Request<v1::KeepJobRequest>) -> Result<Response<v1::JobSummary>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn set_priority(&self, _: Request<v1::SetPriorityRequest>) -> Result<Response<v1::JobSummary>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn foresee(&self, _: Request<v1::ForeseeRequest>) -> Result<Response<v1::Forecast>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn explain(&self, _: Request<v1::ExplainRequest>) -> Result<Response<v1::Explanation>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl Blobs for Scripted {
    type GetStream = Out<v1::BlobChunk>;

    async fn missing(&self, request: Request<v1::MissingRequest>) -> Result<Response<v1::MissingResponse>, Status> {
        let seen = self.seen.lock().unwrap();
        let hashes = request.into_inner().hashes;
        let lacking = hashes.into_iter().filter(|hash| !seen.blobs.contains_key(&hash[..])).collect();
        Ok(Response::new(v1::MissingResponse { hashes: lacking }))
    }

    async fn put(&self, request: Request<Streaming<v1::BlobChunk>>) -> Result<Response<v1::PutResponse>, Status> {
        let mut stream = request.into_inner();
        let mut blobs: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        while let Some(chunk) = stream.message().await? {
            let blob = blobs.entry(chunk.hash.to_vec()).or_default();
            assert_eq!(chunk.offset, blob.len() as u64);
            blob.extend_from_slice(&chunk.data);
        }
        for (hash, blob) in &blobs {
            if Sha256::digest(blob)[..] != hash[..] {
                return Err(Status::invalid_argument("wrong hash"));
            }
        }
        let stored = u32::try_from(blobs.len()).unwrap();
        self.seen.lock().unwrap().blobs.append(&mut blobs);
        Ok(Response::new(v1::PutResponse { stored, bytes: 0 }))
    }

    async fn get(&self, request: Request<v1::GetBlobRequest>) -> Result<Response<Self::GetStream>, Status> {
        let hash = request.into_inner().hash;
        let Some(mut blob) = self.seen.lock().unwrap().blobs.get(&hash[..]).cloned() else {
            return Err(Status::not_found("no such blob"));
        };
        if self.script.damage_blobs {
            blob[0] ^= 1;
        }
        let chunks = blob.chunks(100_000).enumerate().map(|(i, data)| {
            Ok(v1::BlobChunk {
                hash: hash.clone(),
                bytes_total: blob.len() as u64,
                offset: i as u64 * 100_000,
                data: data.to_vec().into(),
                ..Default::default()
            })
        });
        Ok(out(chunks.collect()))
    }
}
