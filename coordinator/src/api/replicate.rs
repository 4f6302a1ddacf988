//! Brings blobs to a majority of the coordinators, and fetches from the others what this one lacks.

use super::blobs::blobs_of;
use super::{Context, archive};
use crate::raft;
use futures::{FutureExt, StreamExt, TryStreamExt};
use identity::Dialer;
use proto::v1;
use proto::v1::blobs_client::BlobsClient;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use stores::blobs::BlobStore;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};
use types::{ContentHash, Limits, Workspace};

/// For one coordinator to answer about, or to take, a batch of blobs.
const PEER_TIMEOUT: Duration = Duration::from_mins(2);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Hashes known to be on a majority; past this the set begins anew, which costs one question each.
const CONFIRMED_MAX: usize = 100_000;
/// After so long they are asked about again: what nothing names is removed when nobody has asked for it for long.
const CONFIRMED_FOR_MAX: Duration = Duration::from_mins(10);

/// Connections to the other coordinators, and which blobs are known to be safe.
#[derive(Clone)]
pub(crate) struct Peers {
    dialer: Dialer,
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
    confirmed: Arc<Mutex<Confirmed>>,
    confirmed_for: Duration,
}

/// Since when, and which.
struct Confirmed {
    since: Instant,
    blobs: BTreeSet<(Workspace, ContentHash)>,
}

impl Peers {
    /// Blobs without a name are kept for `grace` by each coordinator.
    pub(crate) fn new(dialer: Dialer, grace: Duration) -> Self {
        let confirmed = Confirmed { since: Instant::now(), blobs: BTreeSet::new() };
        let confirmed_for = (grace / 4).min(CONFIRMED_FOR_MAX);
        Self { dialer, channels: Arc::default(), confirmed: Arc::new(Mutex::new(confirmed)), confirmed_for }
    }

    /// A lazy connection that is kept.
    pub(super) fn channel(&self, address: &str) -> Result<Channel, Status> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::internal(format!("address {address:?}: {error}")))?;
        let channel = self.dialer.lazy(&endpoint.connect_timeout(CONNECT_TIMEOUT));
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn confirmed(&self, place: &Workspace, hashes: &[ContentHash]) -> bool {
        let confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |hash: &ContentHash| confirmed.blobs.contains(&(place.clone(), *hash));
        confirmed.since.elapsed() < self.confirmed_for && hashes.iter().all(is_known)
    }

    fn confirm(&self, place: &Workspace, hashes: &[ContentHash]) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = confirmed.blobs.len() + hashes.len() > CONFIRMED_MAX;
        if is_full || confirmed.since.elapsed() >= self.confirmed_for {
            *confirmed = Confirmed { since: Instant::now(), blobs: BTreeSet::new() };
        }
        confirmed.blobs.extend(hashes.iter().map(|hash| (place.clone(), *hash)));
    }
}

/// The other coordinators' addresses.
pub(super) fn others(context: &Context) -> Vec<String> {
    others_than_here(&context.node.status().borrow())
}

fn others_than_here(status: &raft::Status) -> Vec<String> {
    let others = status.members.iter().filter(|member| member.id != status.id);
    others.map(|member| member.addresses.grpc.clone()).collect()
}

/// As `others`, for what needs a majority: a coordinator that the group has not taken in (yet), or has removed, cannot tell what
/// one is.
fn others_of_group(context: &Context) -> Result<Vec<String>, Status> {
    let status = context.node.status().borrow().clone();
    if status.members.iter().any(|member| member.id == status.id) {
        return Ok(others_than_here(&status));
    }
    Err(Status::unavailable("this coordinator is not a member of the cluster: ask another, or add it"))
}

/// Returns when these blobs, which are on this disk, are on a majority; the rest of the coordinators get them meanwhile.
pub(super) async fn to_majority(context: &Context, place: &Workspace, hashes: Vec<ContentHash>) -> Result<(), Status> {
    if hashes.is_empty() || context.peers.confirmed(place, &hashes) {
        return Ok(());
    }
    let others = others_of_group(context)?;
    let needed = others.len().div_ceil(2); // with this one a majority
    let hashes = Arc::new(hashes);
    let mut pushes = futures::stream::FuturesUnordered::new();
    for address in others {
        let (context, place, hashes) = (context.clone(), place.clone(), hashes.clone());
        // A task of its own: it goes on for the minority after the answer was given.
        pushes.push(tokio::spawn(async move {
            let pushed = tokio::time::timeout(PEER_TIMEOUT, push(&context, &address, &place, &hashes)).await;
            let pushed = pushed.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
            pushed.map_err(|status| format!("{address}: {}", status.message()))
        }));
    }
    let (mut safe, mut faults) = (0, Vec::new());
    while safe < needed {
        match pushes.next().await {
            Some(Ok(Ok(()))) => safe += 1,
            Some(Ok(Err(fault))) => faults.push(fault),
            Some(Err(fault)) => faults.push(fault.to_string()),
            None => {
                let why = faults.join("; ");
                return Err(Status::unavailable(format!("the bytes are not on a majority of coordinators: {why}")));
            }
        }
    }
    context.peers.confirm(place, &hashes);
    Ok(())
}

async fn push(context: &Context, address: &str, place: &Workspace, hashes: &[ContentHash]) -> Result<(), Status> {
    let mut client = BlobsClient::new(context.peers.channel(address)?);
    let wire = hashes.iter().map(|hash| hash.0.to_vec().into()).collect();
    let question = v1::MissingRequest { hashes: wire, local: true, workspace: place.to_string(), job_id: 0 };
    let missing = client.missing(question).await?.into_inner().hashes;
    if missing.is_empty() {
        return Ok(());
    }
    let (chunks, stream) = tokio::sync::mpsc::channel(16);
    let store = blobs_of(context, place).await?;
    let place = place.clone();
    let reader = tokio::task::spawn_blocking(move || {
        for hash in missing.iter().filter_map(|hash| ContentHash::from_slice(hash)) {
            send_blob(&store, hash, &mut |mut chunk| {
                (chunk.local, chunk.workspace) = (true, place.to_string());
                chunks.blocking_send(chunk).is_ok()
            })?;
        }
        Ok::<_, Status>(())
    });
    client.put(tokio_stream::wrappers::ReceiverStream::new(stream)).await?;
    reader.await.map_err(|error| Status::internal(error.to_string()))?
}

/// Hands out one blob of this disk in chunks, until `send` says stop.
pub(super) fn send_blob(
    store: &BlobStore,
    hash: ContentHash,
    send: &mut dyn FnMut(v1::BlobChunk) -> bool,
) -> Result<(), Status> {
    let reader = store.reader(&hash).map_err(|error| Status::unavailable(error.to_string()))?;
    let mut reader = reader.ok_or_else(|| Status::not_found(format!("there is no blob {hash}")))?;
    let bytes_total = reader.bytes_total();
    let mut offset = 0;
    loop {
        let data = reader.read_at(offset, Limits::CHUNK_BYTES_MAX);
        let data = data.map_err(|error| Status::data_loss(error.to_string()))?;
        let read = data.len() as u64;
        let hash = hash.0.to_vec().into();
        let chunk = v1::BlobChunk { hash, bytes_total, offset, data, ..Default::default() };
        offset += read;
        if !send(chunk) || offset >= bytes_total || read == 0 {
            return Ok(());
        }
    }
}

/// Fetches a blob that this disk lacks from whoever has it: another coordinator, or the object store. False when nobody does.
pub(super) async fn fetch(context: &Context, place: &Workspace, hash: ContentHash) -> Result<bool, Status> {
    let from_others = from_others(context, place, hash).await;
    if matches!(from_others, Ok(true)) {
        return from_others;
    }
    match archive::fetch(context, place, hash).await {
        Ok(false) => from_others,
        fetched => fetched,
    }
}

/// As `fetch`, from other coordinators alone.
pub(super) async fn from_others(context: &Context, place: &Workspace, hash: ContentHash) -> Result<bool, Status> {
    let mut unreachable = Vec::new();
    for address in others_of_group(context)? {
        let fetched = tokio::time::timeout(PEER_TIMEOUT, fetch_from(context, &address, place, hash)).await;
        match fetched {
            Ok(Ok(())) => return Ok(true),
            Ok(Err(status)) if status.code() == tonic::Code::NotFound => {}
            Ok(Err(status)) => unreachable.push(format!("{address}: {}", status.message())),
            Err(_) => unreachable.push(format!("{address}: no answer in time")),
        }
    }
    if unreachable.is_empty() {
        return Ok(false);
    }
    Err(Status::unavailable(format!("blob {hash} is not here, and {}", unreachable.join("; "))))
}

async fn fetch_from(context: &Context, address: &str, place: &Workspace, hash: ContentHash) -> Result<(), Status> {
    let mut client = BlobsClient::new(context.peers.channel(address)?);
    let request =
        v1::GetBlobRequest { hash: hash.0.to_vec().into(), local: true, workspace: place.to_string(), job_id: 0 };
    let chunks = client.get(request).await?.into_inner().into_stream().boxed();
    let store = blobs_of(context, place).await?;
    super::blobs::store_all(store, chunks).map(|stored| stored.map(drop)).await
}
